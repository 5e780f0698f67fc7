"""Profiles: one user's attributes and reachable devices, looked up for many runs by one scan."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, TypeAlias

import polars as pl

from activities.lookups import Lookups
from activities.push.claims import Claims
from activities.push.devices import OUTBOX, mark_dead, reachable, with_provider
from activities.segments.facts import ENTRY, Facts
from activities.segments.predicates import device_predicate
from activities.tables.delta import Tables
from activities.tables.kept import KeptRows
from activities.tables.schema import kind_of
from workflows.conditions import Condition, compares_with
from workflows.contracts import Versions
from workflows.errors import JourneyError
from workflows.operators import EntryRef
from workflows.scalars import is_zone

ALONE_SECONDS = 10.0
"""How long it is believed that all devices are the outbox's, or not: whoever relies on it finds out by himself."""
MEANT = "\x1fmeant"
"""A column of ours beside the table's: no import can name a column so."""


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
class _Topic:
    """What is asked of users: only equal questions share a scan."""

    devices: Condition | None
    zone: str


Dead: TypeAlias = Mapping[tuple[str, str], tuple[str, str]]
"""Dead addresses: device and provider to token and instant since."""
_About: TypeAlias = tuple[str, str]
"""A user, and the values of his entry event as JSON where the condition compares with them: else `{}`."""


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
        self._tables, self._claims = tables, claims
        self.default_provider = default_provider
        self._lookups = Lookups(self._answer)
        self._now = datetime.min.replace(tzinfo=UTC)
        self._alone: tuple[int, bool] | None = None
        self._alone_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    async def outbox_alone(self) -> bool:
        """Tell whether every device is the outbox's, as of a moment ago; False where the tables cannot be reached."""
        if time.monotonic() - self._alone_at >= ALONE_SECONDS and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_for_others())
        if self._alone is None and self._looking is not None:
            await asyncio.shield(self._looking)
        return self._alone is not None and self._alone[1]

    async def _look_for_others(self) -> None:
        self._alone = await asyncio.to_thread(self._alone_as_of, self._alone)
        self._alone_at = time.monotonic()

    def _alone_as_of(self, known: tuple[int, bool] | None) -> tuple[int, bool]:
        """Give the version of the devices, and whether all of them are the outbox's. Blocking."""
        try:
            version = self._tables.version("devices")
            if known is not None and known[0] == version:
                return known
            if version < 0:
                return version, True
            named = with_provider(self._tables.scan("devices", version), self.default_provider)
            other = self._tables.collect(named.filter(pl.col("provider") != OUTBOX).select("provider").head(1))
            return version, other.is_empty()
        except JourneyError:  # whoever needs the table says so
            return -2, False

    async def look_up(
        self,
        user_id: str,
        devices: Condition | None,
        zone: str,
        now: datetime,
        entry: Mapping[str, Any] | None = None,
    ) -> Profile:
        """Give one user's row and reachable devices, as the tables are now.

        Args:
            user_id: The user.
            devices: Only devices for which this is true; None for all.
            zone: The zone of the condition's calendar days.
            now: The instant of the push, UTC.
            entry: Values of the event by which the user entered, for `{entry: X}` in the condition.

        Returns:
            The profile; empty for a user whom the tables do not know.

        Raises:
            StoreUnavailable: The tables cannot be reached. Temporal retries.
        """
        self._now = max(self._now, now)
        given = json.dumps(entry, sort_keys=True) if entry and compares_with(devices, EntryRef) else "{}"
        return await self._lookups.ask(_Topic(devices, zone), (user_id, given))

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
        found = self._profiles([(user, "{}") for user in user_ids], _Topic(devices, zone), now, versions or {})
        return {user: profile for (user, _), profile in found.items()}

    def _answer(self, topic: _Topic, asking: Sequence[_About]) -> dict[_About, Profile]:
        return self._profiles(asking, topic, self._now, {})

    def _profiles(self, asking: Sequence[_About], topic: _Topic, now: datetime, at: Versions) -> dict[_About, Profile]:
        """Read users by one scan of each table at most, and tell apart the devices that each is asked about."""
        user_ids = list({user for user, _ in asking})
        users = self._users.of(user_ids, at.get("users"))
        rows = self._devices.of(user_ids, at.get("devices"))
        dead = self._claims.dead(rows.get_column("device_id").to_list()) if rows.height else {}
        known = {row["user_id"]: present_values(row) for row in users.iter_rows(named=True)}
        if not compares_with(topic.devices, EntryRef):
            owned = _owned(_meant(rows, topic, now), dead)
            return {(user, entry): _profile(known.get(user, {}), owned.get(user, ())) for user, entry in asking}
        kinds = self._tables.schema("events", at.get("events"))
        by_user = rows.partition_by("user_id", as_dict=True)
        found: dict[_About, Profile] = {}
        for user, entry in asking:
            facts = Facts({}, json.loads(entry), {}, {"events": kinds})
            owned = _owned(_meant(by_user.get((user,), rows.clear()), topic, now, facts), dead)
            found[user, entry] = _profile(known.get(user, {}), owned.get(user, ()))
        return found

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


def _meant(rows: pl.DataFrame, topic: _Topic, now: datetime, facts: Facts | None = None) -> pl.DataFrame:
    """Put beside each device whether it is meant, which may depend on what is known of its one user."""
    meant = pl.lit(True)
    known = rows if facts is None else rows.join(facts.row, how="cross")
    if topic.devices is not None:
        kinds = {name: kind_of(dtype) for name, dtype in rows.schema.items()}
        entry = None if facts is None else facts.terms(ENTRY)
        meant = device_predicate(topic.devices, kinds, as_of=now, zone=topic.zone, entry=entry)
    return known.with_columns(meant.alias(MEANT)).select(*rows.columns, MEANT)


def _owned(rows: pl.DataFrame, dead: Dead) -> dict[str, list[tuple[bool, Mapping[str, Any]]]]:
    """Give each user's devices whose address is not dead, and whether each is meant."""
    owned: dict[str, list[tuple[bool, Mapping[str, Any]]]] = {}
    for row in rows.iter_rows(named=True):
        is_meant = bool(row.pop(MEANT))
        if not _is_dead(row, dead):
            owned.setdefault(row["user_id"], []).append((is_meant, present_values(row)))
    return owned


def _profile(user: Mapping[str, Any], owned: Sequence[tuple[bool, Mapping[str, Any]]]) -> Profile:
    return Profile(user, [device for is_meant, device in owned if is_meant], len(owned))


def zone_of(profile: Profile, default: str) -> str:
    """Give the time zone of a user: his own, else that of the device last seen, else the default."""
    devices = sorted(profile.devices, key=lambda device: str(device.get("last_seen", "")), reverse=True)
    for row in (profile.user, *devices):
        if (zone := row.get("timezone")) and is_zone(str(zone)):
            return str(zone)
    return default


def _is_dead(row: Mapping[str, Any], dead: Dead) -> bool:
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
