"""Standings: whether one user is in a segment that depends on the clock, and until when that stays so.

A membership answers for all users at one instant. Where the answer depends on the clock, each user has instants of his
own at which it changes: it is worked out from his own rows. Users who ask while a scan runs share the next one, so that
a wait scans no table for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from activities.lookups import Lookups
from activities.segments.clock import Clock
from activities.segments.compiler import Built, Imported, is_timeless
from activities.segments.segments import References, Segments
from activities.segments.turning import OneUser
from workflows.conditions import Condition, FileRef, SegmentRef
from workflows.contracts import Versions


@dataclass(frozen=True)
class Standing:
    """How one user stands to a segment.

    Attributes:
        member: Whether he is in it.
        turns_at: When time alone changes that next, UTC; None for not before the instant that was asked about.
        tables: The version of each table that was read, and of each segment that a reference followed to its newest.
    """

    member: bool
    turns_at: datetime | None
    tables: Versions


@dataclass(frozen=True)
class _Topic:
    """What is asked of users: only equal questions share a scan."""

    condition: Condition
    zone: str


@dataclass(frozen=True)
class _Read:
    """What one scan found."""

    users: Mapping[str, OneUser]
    resolve: _Lists
    tables: Versions


class _Lists:
    """Answers references as of one scan; of imported lists it keeps who is asked about.

    Args:
        references: Answers them.
        segments: Reads the lists.
        wanted: Which users are asked about.
    """

    def __init__(self, references: References, segments: Segments, wanted: pl.Expr) -> None:
        self._references, self._segments, self._wanted = references, segments, wanted
        self._found: dict[str, Built | Imported] = {}

    def segment(self, ref: SegmentRef) -> Built | Imported:
        """Give what a reference to a segment stands for; raises NotFoundError."""
        found = self._found.get(ref.segment)
        if found is None:
            found = self._references.segment(ref)
            if isinstance(found, Imported):
                found = Imported(self._segments.tables.collect(found.members.filter(self._wanted)).lazy())
            self._found[ref.segment] = found
        return found

    def file(self, ref: FileRef) -> Imported:
        """Give the members of a file; raises NotFoundError."""
        return self._references.file(ref)


class Standings:
    """Batched answers about one user each.

    Args:
        segments: Knows tables and references.
    """

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._lookups = Lookups(self._read)

    def is_timeless(self, condition: Condition, zone: str) -> bool:
        """Tell whether time alone never changes who is in a segment. Blocking.

        Raises:
            DefinitionError: With all that it refers to the condition is too deep or too large, or in a circle.
            NotFoundError: A reference leads nowhere.
            StoreUnavailable: The catalogue cannot be read. Temporal retries.
        """
        references = self._segments.references(zone=zone)
        references.require_fit(condition)
        return is_timeless(condition, references)

    async def look_up(self, condition: Condition, zone: str, user_id: str, now: datetime, until: datetime) -> Standing:
        """Tell how a user stands to a segment, as the tables are now.

        Args:
            condition: The segment's condition.
            zone: The zone of its calendar days.
            user_id: The user.
            now: The instant of the decision, UTC.
            until: How far to look ahead, UTC.

        Returns:
            Whether he is in it, and when time alone changes that.

        Raises:
            NotFoundError: A reference leads nowhere.
            StoreUnavailable: The tables cannot be reached. Temporal retries.
        """
        read = await self._lookups.ask(_Topic(condition, zone), user_id)
        return await asyncio.to_thread(_standing, read, condition, Clock(now, zone), user_id, until)

    def _read(self, topic: _Topic, user_ids: Sequence[str]) -> dict[str, _Read]:
        """Read some users' own rows by one scan of each table. Blocking."""
        segments, tables = self._segments, self._segments.tables
        tables.require("users")
        versions = segments.versions()
        references = segments.references(versions, zone=topic.zone)
        references.digest(topic.condition)  # follows every reference, so that its version is known
        snapshot, wanted = segments.snapshot(versions), pl.col("user_id").is_in(list(user_ids))
        frames = [tables.collect(frame.filter(wanted)) for frame in (snapshot.users, snapshot.devices, snapshot.events)]
        apart = [
            (frame.clear(), {user: rows for (user,), rows in frame.partition_by("user_id", as_dict=True).items()})
            for frame in frames
        ]
        own = {user: OneUser(*(found.get(user, none) for none, found in apart)) for user in user_ids}
        read = _Read(own, _Lists(references, segments, wanted), {**versions, **references.pinned})
        return dict.fromkeys(user_ids, read)


def _standing(read: _Read, condition: Condition, clock: Clock, user_id: str, until: datetime) -> Standing:
    """Work out the answer about one user. Blocking."""
    own, resolve = read.users[user_id], read.resolve
    member = own.is_in(condition, clock, resolve)
    return Standing(member, own.next_turn(condition, clock, resolve, until), read.tables)
