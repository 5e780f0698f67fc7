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

from activities.push.claims import Claims
from activities.segments.predicates import device_predicate
from activities.tables.delta import Tables
from activities.tables.kept import KeptRows
from activities.tables.schema import kind_of
from activities.tables.stored import DEAD_ADDRESS, DEAD_SINCE
from workflows.conditions import Condition
from workflows.contracts import Versions
from workflows.scalars import is_zone

BATCH_LIMIT = 2_000
"""Most users that share one scan."""

MEANT = "\x1fmeant"
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


@dataclass(frozen=True)
class Profile:
    """One user as a push sees him.

    Attributes:
        user: Attributes that have a value, as templates see them.
        devices: Reachable devices for which the push's condition is true, by device id; attributes that have a value.
        reachable: How many devices are reachable, whatever the condition.
    """

    user: Mapping[str, Any]
    devices: list[Mapping[str, Any]]
    reachable: int = 0


@dataclass(frozen=True)
class _Question:
    """What is asked of a user: only equal questions share a scan."""

    user_id: str
    devices: Condition | None
    zone: str


class Profiles:
    """Batched look-ups of users and their reachable devices.

    Args:
        tables: The audience tables.
        default_provider: The provider of devices that name none.
        claims: Knows the addresses that providers called dead.
        kept_bytes: Largest table whose rows are kept in memory while they are asked for.
    """

    def __init__(self, tables: Tables, default_provider: str, claims: Claims, kept_bytes: int = 0) -> None:
        self._users = KeptRows(tables, "users", kept_bytes, required=True)
        self._devices = KeptRows(tables, "devices", kept_bytes, lambda found: reachable(found, default_provider))
        self._claims = claims
        self.default_provider = default_provider
        self._waiting: dict[_Question, asyncio.Future[Profile]] = {}
        self._now = datetime.min.replace(tzinfo=UTC)
        self._running: asyncio.Task[None] | None = None

    async def look_up(self, user_id: str, devices: Condition | None, zone: str, now: datetime) -> Profile:
        """Give one user's row and reachable devices, as the tables are now.

        Args:
            user_id: The user.
            devices: Only devices for which this is true; None for all.
            zone: The zone of the condition's calendar days.
            now: The instant of the push, UTC.

        Returns:
            The profile; empty for a user whom the tables do not know.

        Raises:
            StoreUnavailable: The tables cannot be reached. Temporal retries.
        """
        self._now = max(self._now, now)
        question = _Question(user_id, devices, zone)
        future = self._waiting.get(question)
        if future is None:
            future = self._waiting[question] = asyncio.get_running_loop().create_future()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._serve())
        return await asyncio.shield(future)

    async def zone(self, user_id: str, default: str, now: datetime) -> str:
        """Give a user's own time zone.

        Args:
            user_id: The user.
            default: The zone of users without one of their own.
            now: The instant, UTC.

        Returns:
            The user's attribute `timezone`; else that of the reachable device last seen; else the default. A zone that
            does not exist counts as none.

        Raises:
            StoreUnavailable: The tables cannot be reached. Temporal retries.
        """
        return zone_of(await self.look_up(user_id, None, default, now), default)

    async def _serve(self) -> None:
        """Answer what is waiting, batch after batch; each batch asks the same of its users."""
        while self._waiting:
            first = next(iter(self._waiting))
            same = [one for one in self._waiting if (one.devices, one.zone) == (first.devices, first.zone)]
            batch = {question.user_id: self._waiting.pop(question) for question in same[:BATCH_LIMIT]}
            try:
                found = await asyncio.to_thread(self.read, list(batch), first.devices, first.zone, self._now)
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

    def read(
        self,
        user_ids: list[str],
        devices: Condition | None,
        zone: str,
        now: datetime,
        versions: Versions | None = None,
    ) -> dict[str, Profile]:
        """Read some users and their reachable devices, by one scan of each table at most. Blocking.

        Args:
            user_ids: The users.
            devices: Only devices for which this is true; None for all.
            zone: The zone of the condition's calendar days.
            now: The instant of the push, UTC.
            versions: The table versions to read; null for the newest.

        Returns:
            A profile for each; empty for a user whom the tables do not know.

        Raises:
            StoreUnavailable: The tables cannot be reached.
        """
        at = versions or {}
        users = self._users.of(user_ids, at.get("users"))
        rows = self._devices.of(user_ids, at.get("devices"))
        meant = pl.lit(True)
        if devices is not None:
            kinds = {name: kind_of(dtype) for name, dtype in rows.schema.items()}
            meant = device_predicate(devices, kinds, as_of=now, zone=zone)
        rows = rows.with_columns(meant.alias(MEANT))
        dead = self._claims.dead(rows.get_column("device_id").to_list()) if rows.height else {}
        owned: dict[str, list[tuple[bool, Mapping[str, Any]]]] = {}
        for row in rows.iter_rows(named=True):
            is_meant = bool(row.pop(MEANT))
            if not _is_dead(row, dead):
                owned.setdefault(row["user_id"], []).append((is_meant, present_values(row)))
        known = {row["user_id"]: present_values(row) for row in users.iter_rows(named=True)}
        return {
            user: Profile(
                known.get(user, {}),
                [device for is_meant, device in owned.get(user, ()) if is_meant],
                len(owned.get(user, ())),
            )
            for user in user_ids
        }

    def reachable(self, devices: pl.LazyFrame) -> pl.LazyFrame:
        """Keep the reachable devices of a whole table, those with dead addresses left out.

        Args:
            devices: One row per device.

        Returns:
            Those devices, `provider: String` never null.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        alive = reachable(devices, self.default_provider)
        dead = self._claims.all_dead()
        if not dead:
            return alive
        marked = mark_dead(alive, self.default_provider, dead)
        return alive.join(marked.select("device_id"), on="device_id", how="anti")


def zone_of(profile: Profile, default: str) -> str:
    """Give the time zone of a user: his own, else that of the device last seen, else the default."""
    devices = sorted(profile.devices, key=lambda device: str(device.get("last_seen", "")), reverse=True)
    for row in (profile.user, *devices):
        if (zone := row.get("timezone")) and is_zone(str(zone)):
            return str(zone)
    return default


def _is_dead(row: Mapping[str, Any], dead: Mapping[tuple[str, str], tuple[str, str]]) -> bool:
    """Tell whether a device's address was called dead, and the device was not seen since."""
    found = dead.get((row["device_id"], row["provider"]))
    if found is None or found[0] != row.get("token"):
        return False
    seen: datetime | None = row.get("last_seen")
    return seen is None or seen <= datetime.fromisoformat(found[1])


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
