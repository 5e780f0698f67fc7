"""Memberships: one evaluation of a segment that answers for many users.

A split must not scan a table per user. The segment is evaluated once, kept as sorted ids in two flat buffers, and each
split is a binary search. All who ask while an evaluation is needed wait for the same one.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, TypeVar, overload

import polars as pl
from temporalio import activity

from activities.segments.segments import Evaluation, Segments, condition_key
from workflows.conditions import Condition
from workflows.contracts import Versions
from workflows.errors import NotWarm

SKEW = timedelta(seconds=60)
"""How far ahead of a decision's clock an evaluation may lie: clocks of two workers differ a little."""

WARM_SECONDS = 1.5
"""How long a local activity waits for a membership that is being worked out: within its attempt of 2 s."""

Found = TypeVar("Found")


SLICE = 100_000
"""Ids copied at one time while a membership is built."""


class Ids(Sequence[bytes]):
    """Sorted ids in two flat buffers: the ids' bytes end to end, and where each ends.

    Args:
        ids: A String series, sorted, each id once.
    """

    def __init__(self, ids: pl.Series) -> None:
        pieces = (ids.slice(begin, SLICE) for begin in range(0, len(ids), SLICE))
        self._bytes = b"".join(_joined(piece).encode() for piece in pieces)
        # Four bytes for each place where they suffice: an id of 36 characters takes 40 bytes in all.
        self._ends = array("I" if len(self._bytes) < 1 << 32 else "Q", [0])
        self._ends.extend(ids.str.len_bytes().cast(pl.UInt64).cum_sum().to_list())

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._bytes[self._ends[index] : self._ends[index + 1]]

    def holds(self, user_id: str) -> bool:
        """Tell whether a user is among them."""
        sought = user_id.encode()
        place = bisect_left(self, sought)
        return place < len(self) and self[place] == sought

    @cached_property
    def fingerprint(self) -> bytes:
        """Tells these users from others: equal where the same ones are among them."""
        return hashlib.blake2b(self._bytes + b"\0" + self._ends.tobytes(), digest_size=16).digest()

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return len(self._bytes) + self._ends.itemsize * len(self._ends)


def _joined(ids: pl.Series) -> str:
    joined: str | None = ids.str.join("").item()
    return joined or ""


@dataclass(frozen=True)
class Membership:
    """Who is in a segment, ready for look-ups.

    Attributes:
        ids: The users.
        tables: The version of each table that was read.
        as_of: The instant of the evaluation, UTC.
        valid_at: The last instant at which the answer was known to be the newest, UTC.
        digest: Names the condition with all that it referred to.
        timeless: Whether the answer stays true while the tables stay the same.
        segments: The version of each segment that a reference followed to its newest, named `segment/NAME`.
    """

    ids: Ids
    tables: Versions
    as_of: datetime
    valid_at: datetime
    digest: str
    timeless: bool
    segments: Versions


class Memberships:
    """Memberships of many conditions, bounded in bytes; the least recently used leaves first.

    Args:
        segments: Evaluates.
        freshness: How old an answer may be for what others changed; zero for exact at arrival.
        limit_bytes: Most memory to hold.
    """

    def __init__(self, segments: Segments, freshness: timedelta, limit_bytes: int) -> None:
        self._segments = segments
        self.freshness = freshness
        self._limit = limit_bytes
        self._kept: OrderedDict[str, Membership] = OrderedDict()
        self._rounds: dict[str, asyncio.Task[Membership]] = {}
        self._waiting: dict[str, list[datetime]] = {}

    async def membership(
        self, condition: Condition, zone: str, now: datetime, *, seen: datetime | None = None
    ) -> Membership:
        """Give a membership that is fresh enough, evaluating it if none is.

        Args:
            condition: The segment's condition.
            zone: The zone of its calendar days.
            now: The instant of the decision, UTC.
            seen: The last event or update that the asking run has seen itself; never answered from before it.

        Returns:
            The membership.

        Raises:
            NotFoundError: A reference leads nowhere.
            StoreUnavailable: Tables or catalogue cannot be reached. Temporal retries.
        """
        key = condition_key(condition, zone)
        # An event may come from a clock that is ahead: the decision is about its instant then.
        now = max(now, seen) if seen else now
        oldest = max(now - self.freshness, seen) if seen else now - self.freshness
        latest = now + max(self.freshness, SKEW)
        waiting = self._waiting.setdefault(key, [])
        waiting.append(now)
        answer = "hit"
        try:
            while True:
                kept = self._kept.get(key)
                if kept is not None and oldest <= kept.valid_at <= latest:
                    self._segments.meters.memberships.add(1, {"answer": answer})
                    self._kept.move_to_end(key)
                    return kept
                answer = "miss"
                running = self._rounds.get(key)
                # A round that is over has not been cleared away yet: waiting for it would never yield.
                if running is None or running.done():
                    # For the latest who waits, so that a round answers all of them but those whose clock is far ahead.
                    at = max(moment for moment in waiting if moment <= latest)
                    running = self._rounds[key] = asyncio.create_task(self._renew(key, condition, zone, at))
                    running.add_done_callback(self._over(key))
                await asyncio.shield(running)
        finally:
            waiting.remove(now)
            if not waiting:
                self._waiting.pop(key, None)

    def _over(self, key: str) -> Callable[[asyncio.Task[Membership]], None]:
        def done(task: asyncio.Task[Membership]) -> None:
            if self._rounds.get(key) is task:
                del self._rounds[key]
            if not task.cancelled():
                task.exception()  # Those who waited have it; nobody may be waiting any more.

        return done

    async def _renew(self, key: str, condition: Condition, zone: str, now: datetime) -> Membership:
        """Confirm what is kept where nothing that matters changed; evaluate otherwise."""
        kept = self._kept.get(key)
        confirmed = kept if kept is not None and kept.timeless and kept.valid_at <= now else None
        found = await asyncio.to_thread(self._confirm_or_evaluate, confirmed, condition, zone, now)
        self._kept[key] = found
        self._kept.move_to_end(key)
        held = sum(membership.ids.size_bytes for membership in self._kept.values())
        while held > self._limit and len(self._kept) > 1:
            held -= self._kept.popitem(last=False)[1].ids.size_bytes
        self._segments.meters.membership_bytes.set(held)
        return found

    def _confirm_or_evaluate(
        self, kept: Membership | None, condition: Condition, zone: str, now: datetime
    ) -> Membership:
        self._segments.tables.require("users")
        versions = self._segments.versions()
        references = self._segments.references(versions, zone=zone)
        if kept is not None and kept.tables == versions and kept.digest == references.digest(condition):
            return replace(kept, valid_at=now)
        found: Evaluation = self._segments.evaluate(condition, now, zone=zone, versions=versions, references=references)
        ids = Ids(found.users.get_column("user_id"))
        return Membership(ids, found.tables, now, now, found.digest, found.timeless, found.segments)


async def at_hand(asked: Coroutine[Any, Any, Found]) -> Found:
    """Wait for an answer as long as this kind of activity may.

    Args:
        asked: Works the answer out, shared with all who ask for it.

    Returns:
        The answer.

    Raises:
        NotWarm: A local activity waited long enough; the ordinary one takes over, and the work goes on meanwhile.
    """
    if not activity.info().is_local:
        return await asked
    try:
        return await asyncio.wait_for(asked, WARM_SECONDS)
    except TimeoutError:
        raise NotWarm("the segment is still being evaluated: the ordinary activity waits for it") from None
