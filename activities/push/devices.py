"""Who can be reached: which devices can receive a push, and by which provider."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from activities.tables.stored import DEAD_ADDRESS, DEAD_SINCE

SINCE = "\x1fsince"
MARKED = "\x1fmarked"
"""Columns of ours beside the table's: no import can name a column so."""

OUTBOX = "outbox"
"""The provider that needs no address: a push is a row in the ledger."""


def with_provider(devices: pl.LazyFrame, default: str) -> pl.LazyFrame:
    """Fill in each device's provider.

    Args:
        devices: One row per device.
        default: The provider of devices that name none.

    Returns:
        The devices, with `provider: String` never null.
    """
    present = devices.collect_schema().names()
    named = pl.col("provider") if "provider" in present else pl.lit(None, dtype=pl.String)
    return devices.with_columns(provider=named.fill_null(default))


def reachable(devices: pl.LazyFrame, default_provider: str) -> pl.LazyFrame:
    """Keep the devices that can receive a push: opted in, with an address that their provider can use.

    Args:
        devices: One row per device, `user_id` among the columns.
        default_provider: The provider of devices that name none.

    Returns:
        Those devices, `provider: String` never null.
    """
    present = devices.collect_schema().names()
    opted_in = pl.col("opt_in").fill_null(False) if "opt_in" in present else pl.lit(True)
    token = pl.col("token").is_not_null() if "token" in present else pl.lit(False)
    # What upkeep wrote down; what it has not yet written is in the ledger.
    called_dead = (address() == pl.col(DEAD_ADDRESS)) & ~seen_since(pl.col(DEAD_SINCE))
    alive = ~called_dead.fill_null(False) if DEAD_ADDRESS in present else pl.lit(True)
    return with_provider(devices, default_provider).filter(opted_in & (token | (pl.col("provider") == OUTBOX)) & alive)


def address() -> pl.Expr:
    """Give a device's address as `provider:token`; null without a token."""
    return pl.concat_str("provider", "token", separator=":")


def seen_since(instant: pl.Expr) -> pl.Expr:
    """Tell whether a device was seen after an instant: registered again after its address was called dead."""
    return (pl.col("last_seen") > instant).fill_null(False)


def mark_dead(devices: pl.LazyFrame, default_provider: str, dead: list[tuple[str, str, str, str]]) -> pl.LazyFrame:
    """Put beside the devices whose address was called dead since when, and leave the others out.

    Args:
        devices: One row per device.
        default_provider: The provider of devices that name none.
        dead: Device, provider, token, instant since, as the ledger has them.

    Returns:
        Those devices that were not seen since, with `MARKED: String`, the address, and `SINCE: Datetime` beside them.
    """
    marked = pl.LazyFrame(
        [(device, f"{provider}:{token}", datetime.fromisoformat(since)) for device, provider, token, since in dead],
        schema={"device_id": pl.String, MARKED: pl.String, SINCE: pl.Datetime("us", "UTC")},
        orient="row",
    )
    return (
        with_provider(devices, default_provider)
        .with_columns(address().alias(MARKED))
        .join(marked, on=["device_id", MARKED], how="inner")
        .filter(~seen_since(pl.col(SINCE)))
    )
