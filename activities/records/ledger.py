"""The ledger: who was admitted, what each element did for them, how they left. The first answer wins.

After a kill -9 an activity runs again, perhaps on newer data. So everything that decides or acts writes its outcome
under (`passage`, `step`) if absent and returns the row that is there. Nothing is keyed by a Temporal run id, an
attempt or an activity id, since a retry, a reset or a continued run has others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from activities.records.admissions import Admissions
from activities.records.enrolments import Enrolments
from activities.records.lives import Lives
from activities.records.outcomes import abandon
from activities.records.rows import hits, instant, moves, passages, pushes, steps, waits
from workflows.contracts import Leave, Outcome, Versions, Visit
from workflows.errors import NotWarm

# Statements of every step are built once: building one takes longer than SQLite takes to carry it out.
OUTCOME = (
    select(
        steps.c.branch,
        steps.c.because,
        passages.c.exit,
        passages.c.reason,
        passages.c.closed_at,
        passages.c.version,
    )
    .select_from(passages)
    .outerjoin(steps, (steps.c.passage == passages.c.passage) & (steps.c.step == bindparam("at_step")))
    .where(passages.c.passage == bindparam("own"))
)
"""What is written down for a visit, beside its passage."""


@dataclass(frozen=True)
class Evidence:
    """What a decision was made from.

    Attributes:
        tables: The version of each table.
        as_of: The instant of the evaluation, UTC.
    """

    tables: Versions
    as_of: datetime


@dataclass(frozen=True)
class Values:
    """What a run knows beside the tables.

    Attributes:
        entry: The values of the event by which the user entered.
        waited: The values of the events that waits ended with, by element.
        last: The values of the last of these events.
        entered_at: When the user was admitted, UTC.
    """

    entry: Mapping[str, Any] = field(default_factory=dict)
    waited: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    entered_at: datetime | None = None


class Ledger(Admissions, Enrolments, Lives):
    """Outcomes, beside admissions, enrolments and the lives of journeys: all that is written down of runs."""

    @cached_property
    def _writing(self) -> Any:
        """Writes a step down unless it is."""
        return self.database.insert(steps).on_conflict_do_nothing()

    async def record(
        self,
        visit: Visit,
        answer: Outcome,
        *,
        outcome: str,
        evidence: Evidence | None = None,
        properties: str | None = None,
    ) -> Outcome:
        """Write down what an element did for a user, unless something is written down already.

        Args:
            visit: Whose visit to which element.
            answer: The branch, the reason, and how the user left where the branch leads to an exit.
            outcome: What was done, for statistics.
            evidence: What a decision was made from.
            properties: The values of the event that a wait ended with, as a JSON object.

        Returns:
            What is written down: the first answer; or how the user left, where the passage was closed meanwhile.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> Outcome:
            return self.record_in(connection, visit, answer, outcome=outcome, evidence=evidence, properties=properties)

        return await self.database.write(work, keys=[visit.user_id])

    def record_in(
        self,
        connection: Connection,
        visit: Visit,
        answer: Outcome,
        *,
        outcome: str,
        evidence: Evidence | None = None,
        properties: str | None = None,
    ) -> Outcome:
        """Do what `record` does, within a transaction that is open."""
        if (stored := self.outcome_in(connection, visit, deciding=True)) is not None:
            return stored
        at = instant(visit.now)
        row = {
            "passage": visit.passage,
            "step": visit.step,
            "journey": visit.journey,
            "version": visit.version,
            "element": visit.element,
            "branch": answer.branch,
            "outcome": outcome,
            "because": answer.because,
            "at": at,
            "as_of": instant(evidence.as_of) if evidence else None,
            "tables": json.dumps(evidence.tables) if evidence else None,
            "properties": properties,
        }
        written = connection.execute(self._writing, row).rowcount
        if not written and (stored := self.outcome_in(connection, visit)) is not None:
            return stored
        if answer.left is not None:
            self._close(connection, visit.passage, answer.left, at)
        return answer

    def outcome(self, visit: Visit) -> Outcome | None:
        """Give what is written down for a visit; None when nothing is. Blocking.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        return self.database.read(lambda connection: self.outcome_in(connection, visit))

    def outcome_in(self, connection: Connection, visit: Visit, *, deciding: bool = False) -> Outcome | None:
        """Give what is written down for a visit, within a transaction that is open.

        Args:
            connection: Of the transaction.
            visit: Whose visit to which element.
            deciding: Whether an answer is written down next, where there is none.

        Returns:
            The first answer; without a branch, how the user left before there was one; None when nothing is written.

        Raises:
            NotWarm: The passage was handed over to another version, of which the worker that decides has not heard.
        """
        row = connection.execute(OUTCOME, {"own": visit.passage, "at_step": visit.step}).first()
        if row is None or (row.branch is None and row.closed_at is None):
            if deciding and row is not None and row.version > visit.version:
                raise NotWarm(f"version {row.version} has taken over from version {visit.version}: asked again in it")
            return None
        left = Leave(exit=row.exit or "", reason=row.reason) if row.closed_at is not None else None
        return Outcome(branch=row.branch or "", because=row.because or "", left=left)

    async def leave(self, visit: Visit, reason: str, because: str = "") -> Outcome:
        """Close a passage at the element that a visit is about, unless it is closed or the element has answered.

        Args:
            visit: Whose visit to which element.
            reason: Why the user leaves.
            because: The same for a person, at more length.

        Returns:
            How the user left; or the element's answer, when that was written first.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> Outcome:
            if (stored := self.outcome_in(connection, visit)) is not None:
                return stored
            left = Leave(exit="", reason=reason)
            self._close(connection, visit.passage, left, instant(visit.now))
            return Outcome(because=because, left=left)

        return await self.database.write(work, keys=[visit.user_id])

    async def move(
        self,
        visit: Visit,
        version: int,
        element: str,
        leave: Leave | None,
        *,
        keeps: bool,
        abandons: bool = False,
    ) -> Outcome | None:
        """Hand a passage over to another version, at the element that a visit is about or the one in its place.

        Args:
            visit: Whose visit to which element.
            version: The version that the user goes on in.
            element: Where, in that version.
            leave: How the user leaves, where that is an exit.
            keeps: Whether the element is the same in both versions: what was waited for, and came, stays.
            abandons: Whether the visit is to a push, and no push takes its place: what it has not sent is not sent.

        Returns:
            What is written down for the visit already, or how the user left; None when he goes on in the other version.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> Outcome | None:
            if (stored := self.outcome_in(connection, visit)) is not None:
                return stored
            connection.execute(
                update(passages).where(passages.c.passage == visit.passage).values(version=version, sent_to=None)
            )
            to = {"to_version": version, "to_element": element, "at": instant(visit.now)}
            statement = self.database.insert(moves).values(
                passage=visit.passage,
                step=visit.step,
                journey=visit.journey,
                from_version=visit.version,
                from_element=visit.element,
                **to,
            )
            connection.execute(statement.on_conflict_do_update(index_elements=["passage", "step"], set_=to))
            for table in (waits, hits) if not keeps else ():
                connection.execute(delete(table).where(table.c.passage == visit.passage, table.c.step == visit.step))
            if abandons:
                abandon(connection, pushes.c.passage == visit.passage, pushes.c.step == visit.step)
            if leave is not None:
                self._close(connection, visit.passage, leave, instant(visit.now))
                return Outcome(left=leave)
            return None

        return await self.database.write(work, keys=[visit.user_id])

    async def send(self, passage: str, element: str) -> None:
        """Write down where an operator sends a user next. His run learns of it when a signal wakes it."""
        statement = update(passages).where(passages.c.passage == passage, passages.c.closed_at.is_(None))
        await self.database.write(lambda connection: connection.execute(statement.values(sent_to=element)))

    def sent_to(self, visit: Visit) -> tuple[int, str] | None:
        """Tell where an operator sends a user from a visit. Blocking.

        Returns:
            Version and element, the version 0 for the one that runs; None for nowhere. Asked again after the move was
            written down, the same.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        query = (
            select(passages.c.sent_to, moves.c.to_version, moves.c.to_element)
            .select_from(passages)
            .outerjoin(moves, (moves.c.passage == passages.c.passage) & (moves.c.step == visit.step))
            .where(passages.c.passage == visit.passage)
        )
        row = self.database.read(lambda connection: connection.execute(query).first())
        if row is None or (row.sent_to is None and row.to_element is None):
            return None
        if row.sent_to is not None:
            return 0, row.sent_to
        moved = (row.to_version, row.to_element)
        return None if moved == (visit.version, visit.element) else moved

    def place(self, visit: Visit) -> tuple[int, str]:
        """Give the version and the element at which a visit goes on by the record. Blocking.

        They are not the visit's own where a worker wrote down that the passage was handed over, and died before its run
        heard of it.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        query = (
            select(passages.c.version, moves.c.to_element)
            .join(moves, (moves.c.passage == passages.c.passage) & (moves.c.to_version == passages.c.version))
            .where(passages.c.passage == visit.passage, moves.c.step == visit.step)
        )
        row = self.database.read(lambda connection: connection.execute(query).first())
        return (row.version, row.to_element) if row is not None else (visit.version, visit.element)

    def values(self, passage: str) -> Values:
        """Give what a run knows beside the tables: the values of its entry event and of those it waited for. Blocking.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """

        def work(connection: Connection) -> Values:
            own = connection.execute(
                select(passages.c.properties, passages.c.entered_at).where(passages.c.passage == passage)
            ).first()
            rows = connection.execute(
                select(steps.c.element, steps.c.properties)
                .where(steps.c.passage == passage, steps.c.properties.is_not(None))
                .order_by(steps.c.step)
            ).all()
            waited = {row.element: json.loads(row.properties) for row in rows}
            return Values(
                entry=json.loads(own.properties) if own is not None and own.properties else {},
                waited=waited,
                last=json.loads(rows[-1].properties) if rows else {},
                entered_at=datetime.fromisoformat(own.entered_at) if own is not None else None,
            )

        return self.database.read(work)
