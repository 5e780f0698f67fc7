"""The ledger: who was admitted, what each element did for them, how they left. The first answer wins.

After a kill -9 an activity runs again, perhaps on newer data. So everything that decides or acts writes its outcome
under (`passage`, `step`) if absent and returns the row that is there. Nothing is keyed by a Temporal run id, an
attempt or an activity id, since a retry, a reset or a continued run has others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from activities.records.admissions import Admissions
from activities.records.rows import instant, journeys, passages, pushes, steps
from workflows.contracts import Leave, Outcome, Versions, Visit


@dataclass(frozen=True)
class Evidence:
    """What a decision was made from.

    Attributes:
        tables: The version of each table.
        as_of: The instant of the evaluation, UTC.
    """

    tables: Versions
    as_of: datetime


class Ledger(Admissions):
    """Outcomes, and the lives of journeys, beside the admissions: all that is written down of runs."""

    async def record(
        self,
        visit: Visit,
        answer: Outcome,
        *,
        outcome: str,
        evidence: Evidence | None = None,
        sent: list[dict[str, Any]] | None = None,
    ) -> Outcome:
        """Write down what an element did for a user, unless something is written down already.

        Args:
            visit: Whose visit to which element.
            answer: The branch, the reason, and how the user left where the branch leads to an exit.
            outcome: What was done, for statistics.
            evidence: What a decision was made from.
            sent: Rows of the table `pushes` to write with it.

        Returns:
            What is written down: the first answer.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> Outcome:
            return self.record_in(connection, visit, answer, outcome=outcome, evidence=evidence, sent=sent)

        return await self.database.write(work)

    def record_in(
        self,
        connection: Connection,
        visit: Visit,
        answer: Outcome,
        *,
        outcome: str,
        evidence: Evidence | None = None,
        sent: list[dict[str, Any]] | None = None,
    ) -> Outcome:
        """Do what `record` does, within a transaction that is open."""
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
        }

        written = connection.execute(self.database.insert(steps).values(row).on_conflict_do_nothing()).rowcount
        if not written:
            stored = self.outcome_in(connection, visit)
            if stored is None:
                raise LookupError(f"step {visit.step} of passage {visit.passage} vanished from the ledger")
            return stored
        if sent:
            connection.execute(pushes.insert(), sent)
        if answer.left is not None:
            self._close(connection, visit.passage, answer.left, at)
        return answer

    def outcome_in(self, connection: Connection, visit: Visit) -> Outcome | None:
        """Give what is written down for a visit, within a transaction that is open; None when nothing is."""
        row = connection.execute(
            select(steps.c.branch, steps.c.because, passages.c.exit, passages.c.reason, passages.c.closed_at)
            .join(passages, passages.c.passage == steps.c.passage)
            .where(steps.c.passage == visit.passage, steps.c.step == visit.step)
        ).first()
        if row is None:
            return None
        left = Leave(exit=row.exit or "", reason=row.reason) if row.closed_at is not None else None
        return Outcome(branch=row.branch, because=row.because, left=left)

    async def open_journey(self, journey: str, version: int, digest: str, launch: str, at: datetime) -> None:
        """Write down that a journey runs. Its workflow id lets one start of it run at a time, so this one is it."""
        values = {
            "version": version,
            "digest": digest,
            "state": "running",
            "launch": launch,
            "changed_at": instant(at),
        }
        statement = self.database.insert(journeys).values(journey=journey, **values)
        statement = statement.on_conflict_do_update(index_elements=["journey"], set_=values)
        await self.database.write(lambda connection: connection.execute(statement))

    async def finish_journey(self, journey: str, launch: str, at: datetime) -> None:
        """Write down that a start of a journey is over."""

        def work(connection: Connection) -> None:
            connection.execute(
                update(journeys)
                .where(journeys.c.journey == journey, journeys.c.launch == launch)
                .values(state="finished", changed_at=instant(at))
            )

        await self.database.write(work)

    def life(self, journey: str) -> Row[Any] | None:
        """Give a journey's row: version, digest, state, launch, changed_at; None when it never ran."""
        return self.database.read(
            lambda connection: connection.execute(select(journeys).where(journeys.c.journey == journey)).first()
        )

    def inside(self, journey: str, version: int = 0) -> int:
        """Count the users inside a journey; in all versions when the version is 0."""
        query = select(func.count()).where(passages.c.journey == journey, passages.c.closed_at.is_(None))
        if version:
            query = query.where(passages.c.version == version)
        return int(self.database.read(lambda connection: connection.execute(query).scalar_one()))
