"""Goals: events that count as conversions, each once for a passage, and the push that they are attributed to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from activities.events.occurrences import PUSH_OPENED, Occurrence
from activities.records.catalogue import documents
from activities.records.ledger import Ledger
from activities.records.outcomes import ACCEPTED
from activities.records.rows import conversions, instant, passages, pushes, taken
from workflows.contracts import Leave
from workflows.documents import Goal
from workflows.scalars import duration

AT_ONCE = 500
"""Most users that one query names."""


@dataclass(frozen=True)
class Passage:
    """A user's passage, which may convert.

    Attributes:
        passage: Its id.
        journey: The journey.
        version: The version that it is in, or was in last.
        digest: That version's content.
        user_id: The user.
        key: The key of keyed runs.
        entered_at: When the user came in, UTC.
        entry: The values of the event by which the user entered.
        entry_event: That event; empty for none.
        reason: Why the user left; empty while he is inside.
    """

    passage: str
    journey: str
    version: int
    digest: str
    user_id: str
    key: str
    entered_at: datetime
    entry: Mapping[str, Any]
    entry_event: str
    reason: str


class Goals:
    """Conversions in SQL.

    Args:
        ledger: Where they are kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def passages(self, users: Iterable[str], journeys: Iterable[str]) -> list[Passage]:
        """List the passages of some users through some journeys, over all versions. Blocking."""
        named, among = sorted(set(users)), sorted(set(journeys))
        query = select(passages, documents.c.digest).join(
            documents,
            (documents.c.kind == "journey")
            & (documents.c.name == passages.c.journey)
            & (documents.c.version == passages.c.version),
        )

        def work(connection: Connection) -> list[Passage]:
            return [
                _passage(row)
                for begin in range(0, len(named), AT_ONCE)
                for row in connection.execute(
                    query.where(passages.c.journey.in_(among), passages.c.user_id.in_(named[begin : begin + AT_ONCE]))
                )
            ]

        return self._ledger.database.read(work) if among else []

    async def convert(self, passage: Passage, name: str, goal: Goal, event: Occurrence, now: datetime) -> bool:
        """Write down that a passage reached a goal, and close it where that ends the journey.

        Args:
            passage: The passage.
            name: The goal's name.
            goal: The goal.
            event: The event that counts.
            now: The instant, UTC.

        Returns:
            Whether the passage's run has to be told that it is over.

        Raises:
            StoreUnavailable: The ledger cannot be written. Asking again changes nothing that is written down.
        """

        def work(connection: Connection) -> None:
            element, opened = _attributed(connection, passage, event)
            row = {
                "passage": passage.passage,
                "goal": name,
                "journey": passage.journey,
                "version": passage.version,
                "user_id": passage.user_id,
                "event_id": event.event_id,
                "at": instant(event.at),
                "element": element,
                "opened": opened,
            }
            connection.execute(self._ledger.database.insert(conversions).values(row).on_conflict_do_nothing())

        await self._ledger.database.write(work, keys=[passage.user_id])
        reason = goal_reason(name)
        if not goal.end_journey or passage.reason not in ("", reason):
            return False
        await self._ledger.close({passage.passage: Leave(exit="", reason=reason)}, now)
        return True


def goal_reason(name: str) -> str:
    """Word why a passage ended that reached a goal."""
    return f"goal: {name}"


def counts(goal: Goal, passage: Passage, event: Occurrence) -> bool:
    """Tell whether an event is one that a goal means, in its time; the goal's condition is another question."""
    return (
        goal.trigger.event == event.event
        and passage.entered_at <= event.at <= passage.entered_at + duration(goal.within)
        and passage.entry_event != event.event_id
    )


def _passage(row: Any) -> Passage:
    return Passage(
        passage=row.passage,
        journey=row.journey,
        version=row.version,
        digest=row.digest,
        user_id=row.user_id,
        key=row.key,
        entered_at=datetime.fromisoformat(row.enters_at or row.entered_at),
        entry=json.loads(row.properties) if row.properties else {},
        entry_event=row.event_id or "",
        reason=row.reason or "",
    )


def _attributed(connection: Connection, passage: Passage, event: Occurrence) -> tuple[str | None, int | None]:
    """Find the push before a conversion: the last one that the user opened, else the last one sent."""
    sent = connection.execute(
        select(pushes.c.element, pushes.c.push_id)
        .where(pushes.c.passage == passage.passage, pushes.c.outcome == ACCEPTED, pushes.c.at <= instant(event.at))
        .order_by(pushes.c.at.desc(), pushes.c.step.desc())
    ).all()
    if not sent:
        return None, None
    elements = {row.push_id: row.element for row in sent}
    opens = connection.execute(
        select(taken.c.properties)
        .where(
            taken.c.user_id == passage.user_id,
            taken.c.event == PUSH_OPENED,
            taken.c.at >= instant(passage.entered_at),
            taken.c.at <= instant(event.at),
        )
        .order_by(taken.c.at.desc())
    )
    for row in opens:
        push_id = json.loads(row.properties).get("push_id")
        if push_id in elements:
            return elements[push_id], 1
    return sent[0].element, 0
