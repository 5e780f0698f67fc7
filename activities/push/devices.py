"""Who can be reached: users' rows and devices, looked up for many runs by one scan.

A push must not scan a table per user either. Look-ups that arrive while a scan runs wait and share the next one, so
each answer is as new as its question and the cost of a scan is divided among all who ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from activities.tables.delta import Tables
from workflows.contracts import Versions

BATCH_LIMIT = 2_000
"""Most users that share one scan."""

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
    return with_provider(devices, default_provider).filter(opted_in & (token | (pl.col("provider") == OUTBOX)))


@dataclass(frozen=True)
class Profile:
    """One user as a push sees him.

    Attributes:
        user: Attributes that have a value, as templates see them.
        devices: Reachable devices, by device id; attributes that have a value.
    """

    user: Mapping[str, Any]
    devices: list[Mapping[str, Any]]


class Profiles:
    """Batched look-ups of users and their reachable devices.

    Args:
        tables: The audience tables.
        default_provider: The provider of devices that name none.
    """

    def __init__(self, tables: Tables, default_provider: str) -> None:
        self._tables = tables
        self.default_provider = default_provider
        self._waiting: dict[str, asyncio.Future[Profile]] = {}
        self._running: asyncio.Task[None] | None = None

    async def look_up(self, user_id: str) -> Profile:
        """Give one user's row and reachable devices, as of now.

        Raises:
            StoreUnavailable: The tables cannot be reached. Temporal retries.
        """
        future = self._waiting.get(user_id)
        if future is None:
            future = self._waiting[user_id] = asyncio.get_running_loop().create_future()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._serve())
        return await asyncio.shield(future)

    async def _serve(self) -> None:
        """Answer what is waiting, batch after batch."""
        while self._waiting:
            batch = dict(list(self._waiting.items())[:BATCH_LIMIT])
            for user_id in batch:
                del self._waiting[user_id]
            try:
                found = await asyncio.to_thread(self.read, list(batch))
            except BaseException as error:
                for future in batch.values():
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # whoever asked may have been cancelled meanwhile
                if not isinstance(error, Exception):
                    raise
                continue
            for user_id, future in batch.items():
                if not future.done():
                    future.set_result(found[user_id])

    def read(self, user_ids: list[str], versions: Versions | None = None) -> dict[str, Profile]:
        """Read some users and their reachable devices by one scan of each table. Blocking.

        Args:
            user_ids: The users.
            versions: The table versions to read; null for the newest.

        Returns:
            A profile for each; empty for a user whom the tables do not know.

        Raises:
            StoreUnavailable: The tables cannot be reached.
        """
        wanted = pl.col("user_id").is_in(user_ids)
        at = versions or {}
        users = self._tables.collect(self._tables.scan("users", at.get("users")).filter(wanted))
        owned_devices = self._tables.scan("devices", at.get("devices")).filter(wanted)
        devices = self._tables.collect(reachable(owned_devices, self.default_provider).sort("device_id"))
        rows = {row["user_id"]: present_values(row) for row in users.iter_rows(named=True)}
        owned: dict[str, list[Mapping[str, Any]]] = {}
        for row in devices.iter_rows(named=True):
            owned.setdefault(row["user_id"], []).append(present_values(row))
        return {user: Profile(rows.get(user, {}), owned.get(user, [])) for user in user_ids}


def present_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row's values as templates see them; a missing value is absent.

    Args:
        row: One row of an audience table, by column.

    Returns:
        Numbers, booleans and lists as they are; dates and instants as ISO 8601; prices as `19.99 EUR`; versions as
        text.
    """
    return {name: _readable(value) for name, value in row.items() if value is not None}


def _readable(value: Any) -> Any:
    match value:
        case {"amount": amount, "currency": currency}:
            return f"{amount.normalize():f} {currency}"
        case {"text": text, "order": _}:
            return text
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case _:
            return value
