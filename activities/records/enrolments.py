"""Enrolments: an audience that is admitted page by page, and how far that is. Part of the ledger.

Enrolment admits a page, starts its runs, marks them, and moves its cursor; asking again gives the same answers.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from activities.records.passages import Admission, Passages, admission_of
from activities.records.rows import enrolments, instant, passages, refusals
from workflows.contracts import Audience


class Enrolments(Passages):
    """Enrolments in SQL, beside the passages."""

    async def open_enrolment(
        self, enrolment: str, journey: str, version: int, entry: str, audience: Audience
    ) -> Audience:
        """Write down an evaluated audience, unless one is written down already.

        Returns:
            The audience that is written down.
        """

        def work(connection: Connection) -> Audience:
            connection.execute(
                self.database.insert(enrolments)
                .values(
                    enrolment=enrolment,
                    journey=journey,
                    version=version,
                    entry=entry,
                    audience=audience.users,
                    cursor=0,
                    as_of=instant(audience.as_of),
                    tables=json.dumps(audience.tables),
                )
                .on_conflict_do_nothing()
            )
            row = connection.execute(select(enrolments).where(enrolments.c.enrolment == enrolment)).one()
            return _audience(row)

        return await self.database.write(work)

    def enrolment(self, enrolment: str) -> tuple[Audience, int] | None:
        """Give an enrolment's audience and how many of its users were dealt with; None when it is not open."""
        row = self.database.read(
            lambda connection: connection.execute(select(enrolments).where(enrolments.c.enrolment == enrolment)).first()
        )
        return None if row is None else (_audience(row), row.cursor)

    async def page_done(self, enrolment: str, started: list[str], cursor: int) -> None:
        """Mark a page's runs as started and move the enrolment's cursor behind it."""

        def work(connection: Connection) -> None:
            if started:
                connection.execute(update(passages).where(passages.c.passage.in_(started)).values(started=1))
            connection.execute(update(enrolments).where(enrolments.c.enrolment == enrolment).values(cursor=cursor))

        await self.database.write(work)

    def unstarted(self, enrolment: str) -> list[Admission]:
        """List whom an enrolment has admitted and for whom no run was started, of those inside. Blocking.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        query = select(passages).where(
            passages.c.enrolment == enrolment, passages.c.started == 0, passages.c.closed_at.is_(None)
        )
        return [admission_of(row) for row in self.database.read(lambda connection: connection.execute(query).all())]

    def enrolled(self, enrolment: str) -> tuple[int, int]:
        """Count the users whom an enrolment admitted and refused."""

        def work(connection: Connection) -> tuple[int, int]:
            counted = [
                connection.execute(select(func.count()).where(table.c.enrolment == enrolment)).scalar_one()
                for table in (passages, refusals)
            ]
            return counted[0], counted[1]

        return self.database.read(work)


def _audience(row: Row[Any]) -> Audience:
    return Audience(
        enrolment=row.enrolment,
        users=row.audience,
        as_of=datetime.fromisoformat(row.as_of),
        tables=json.loads(row.tables),
    )
