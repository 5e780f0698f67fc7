"""Waits: who waits for which events, what came of them, and which branch that decides. Part of the ledger.

A wait and an event may come at the same moment. So a wait is written down before it looks at the events that were
taken, and an event is written down before it looks at the waits: one of the two finds the other. The table of events
holds an event before any wait is told of it, so that whatever the run asks next sees the event too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from activities.events.occurrences import Occurrence
from activities.records.ledger import Ledger
from activities.records.rows import hits, instant, passages, steps, taken, waits
from workflows.conditions import Condition, EventTest, SegmentRef, walk
from workflows.contracts import Visit
from workflows.documents import WaitForTrigger
from workflows.triggers import Trigger, triggers_of

AT_ONCE = 500
"""Most users that one query names."""


@dataclass(frozen=True)
class Hit:
    """Something that a wait waited for.

    Attributes:
        branch: The branch that waits for it.
        place: Which of the branch's triggers, from 0.
        event_id: The event; empty where a segment was entered or left.
        at: When, as the ledger writes instants.
        properties: The event's values.
    """

    branch: str
    place: int
    event_id: str
    at: str
    properties: Mapping[str, Any]


@dataclass(frozen=True)
class Wait:
    """One user's wait at one element.

    Attributes:
        passage: Whose.
        step: Which visit.
        journey: The journey.
        digest: The version in which it began.
        element: The element.
        user_id: The user.
        key: The key of keyed runs.
        since: Events taken from then on count, UTC.
        deadline: When it is over, UTC.
        entry: The values of the event by which the user entered.
        entry_event: That event; empty for none.
    """

    passage: str
    step: int
    journey: str
    digest: str
    element: str
    user_id: str
    key: str
    since: datetime
    deadline: datetime
    entry: Mapping[str, Any]
    entry_event: str


_WAIT = select(waits, passages.c.properties, passages.c.event_id).join(passages, passages.c.passage == waits.c.passage)


def _wait(row: Any) -> Wait:
    return Wait(
        passage=row.passage,
        step=row.step,
        journey=row.journey,
        digest=row.digest,
        element=row.element,
        user_id=row.user_id,
        key=row.key,
        since=datetime.fromisoformat(row.begun_at),
        deadline=datetime.fromisoformat(row.deadline),
        entry=json.loads(row.properties) if row.properties else {},
        entry_event=row.event_id or "",
    )


class Waits:
    """Waits in SQL.

    Args:
        ledger: Where they are kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._database = ledger.database

    async def begin(self, visit: Visit, since: datetime, deadline: datetime) -> None:
        """Write down that a visit waits, unless it is written down.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """
        row = {
            "passage": visit.passage,
            "step": visit.step,
            "journey": visit.journey,
            "version": visit.version,
            "digest": visit.digest,
            "element": visit.element,
            "user_id": visit.user_id,
            "key": visit.key,
            "begun_at": instant(since),
            "deadline": instant(deadline),
            "open": 1,
        }
        statement = self._database.insert(waits).values(row).on_conflict_do_nothing()
        await self._database.write(lambda connection: connection.execute(statement), keys=[visit.user_id])

    def since(self, visit: Visit, passed_at_once: Iterable[str]) -> datetime | None:
        """Tell from when on events count for a visit, so that between two elements nothing is missed. Blocking.

        Args:
            visit: The visit.
            passed_at_once: Elements that hold nobody and tell nobody anything.

        Returns:
            When the last element before it began to send, or stopped waiting, UTC; when the user was admitted where
            there is none; None for a passage that the ledger does not know.
        """
        last = (
            select(steps.c.at)
            .where(steps.c.passage == visit.passage, steps.c.step < visit.step)
            .where(steps.c.element.not_in(sorted(passed_at_once)))
            .order_by(steps.c.step.desc())
            .limit(1)
        )
        admitted = select(passages.c.entered_at).where(passages.c.passage == visit.passage)

        def work(connection: Connection) -> str | None:
            return connection.execute(last).scalar() or connection.execute(admitted).scalar()

        found = self._database.read(work)
        return datetime.fromisoformat(found) if found is not None else None

    def wait(self, visit: Visit) -> Wait | None:
        """Give the wait of a visit; None when it did not begin. Blocking."""
        query = _WAIT.where(waits.c.passage == visit.passage, waits.c.step == visit.step)
        row = self._database.read(lambda connection: connection.execute(query).first())
        return None if row is None else _wait(row)

    def open_waits(self, users: Iterable[str]) -> list[Wait]:
        """List the open waits of some users. Blocking."""
        named = sorted(set(users))

        def work(connection: Connection) -> list[Wait]:
            return [
                _wait(row)
                for begin in range(0, len(named), AT_ONCE)
                for row in connection.execute(
                    _WAIT.where(waits.c.user_id.in_(named[begin : begin + AT_ONCE]), waits.c.open == 1)
                )
            ]

        return self._database.read(work)

    def events_since(self, wait: Wait, names: Iterable[str]) -> list[Occurrence]:
        """List the events that count for a wait and are in the table already, the oldest first. Blocking.

        The one by which the user entered does not count, nor one that an earlier wait of the passage waited for.
        """
        used = select(hits.c.event_id).where(hits.c.passage == wait.passage, hits.c.step < wait.step)
        query = (
            select(taken)
            .where(
                taken.c.user_id == wait.user_id,
                taken.c.event.in_(sorted(set(names))),
                taken.c.taken_at >= instant(wait.since),
                taken.c.stored == 1,
                taken.c.event_id != wait.entry_event,
                taken.c.event_id.not_in(used),
            )
            .order_by(taken.c.taken_at)
        )
        return [as_occurrence(row) for row in self._database.read(lambda connection: connection.execute(query).all())]

    def hits(self, passage: str, step: int) -> list[Hit]:
        """List what came of a wait. Blocking."""
        return self._database.read(lambda connection: _hits(connection, passage, step))

    async def add(self, passage: str, step: int, found: Sequence[Hit]) -> list[Hit]:
        """Write down what came of a wait; of each trigger the first.

        Returns:
            All that came of it so far.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> list[Hit]:
            for hit in found:
                row = {
                    "passage": passage,
                    "step": step,
                    "branch": hit.branch,
                    "place": hit.place,
                    "event_id": hit.event_id,
                    "at": hit.at,
                    "properties": json.dumps(hit.properties),
                }
                connection.execute(self._database.insert(hits).values(row).on_conflict_do_nothing())
            return _hits(connection, passage, step)

        return await self._database.write(work)


def _hits(connection: Connection, passage: str, step: int) -> list[Hit]:
    rows = connection.execute(select(hits).where(hits.c.passage == passage, hits.c.step == step))
    return [Hit(row.branch, row.place, row.event_id, row.at, json.loads(row.properties)) for row in rows]


def close_wait(connection: Connection, visit: Visit) -> None:
    """Write down that a wait is over, within a transaction that is open."""
    statement = update(waits).where(waits.c.passage == visit.passage, waits.c.step == visit.step)
    connection.execute(statement.values(open=0))


def as_occurrence(row: Any) -> Occurrence:
    """Read a row of `taken`."""
    return Occurrence(
        event_id=row.event_id,
        user_id=row.user_id,
        event=row.event,
        at=datetime.fromisoformat(row.at),
        taken_at=datetime.fromisoformat(row.taken_at),
        properties=json.loads(row.properties),
    )


def awaited(element: WaitForTrigger) -> list[tuple[str, int, Trigger]]:
    """List what a wait waits for: branch, place in it, trigger."""
    return [
        (name, place, trigger)
        for name, branch in element.branches.own.items()
        for place, (_, trigger) in enumerate(triggers_of(branch))
    ]


def watched(element: WaitForTrigger) -> list[tuple[str, Condition, bool]]:
    """List the segments that a wait watches: branch, condition, and whether the user has to be in it."""
    found: list[tuple[str, Condition, bool]] = []
    for name, branch in element.branches.own.items():
        if branch.in_segment is not None:
            found.append((name, branch.in_segment, True))
        if branch.not_in_segment is not None:
            found.append((name, branch.not_in_segment, False))
    return found


def may_change_by_events(element: WaitForTrigger) -> bool:
    """Tell whether an event of the user may bring him into, or out of, a segment that a wait watches."""
    return any(
        isinstance(node, EventTest | SegmentRef) for _, condition, _ in watched(element) for _, node in walk(condition)
    )


def decided(element: WaitForTrigger, found: Iterable[Hit]) -> Hit | None:
    """Find what decided a wait.

    Args:
        element: What is waited for.
        found: What came.

    Returns:
        The hit that completed the branch which was complete first; None while none is.
    """
    known = list(found)
    deciding: list[Hit] = []
    for name, branch in element.branches.own.items():
        own = sorted((hit for hit in known if hit.branch == name), key=lambda hit: hit.at)
        if branch.all is None and own:
            deciding.append(own[0])
        elif branch.all is not None and len(own) == len(branch.all):
            deciding.append(own[-1])
    return min(deciding, key=lambda hit: hit.at, default=None)
