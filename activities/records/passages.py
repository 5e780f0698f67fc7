"""Passages: who is inside a journey, who was, and whose run was started. Part of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, update

from activities.records.database import Database
from activities.records.outcomes import abandon
from activities.records.rows import instant, passages, pushes, waits
from workflows.contracts import Leave


@dataclass(frozen=True)
class Admission:
    """A passage, or the reason why there is none.

    Attributes:
        passage: The passage's id.
        user_id: The user.
        version: The version that the passage is in.
        entry: The entry taken.
        started: Whether a run was started for it.
        refused: Why the user was not admitted; empty when admitted.
        left: How the passage ended, where it has.
        known: Whether the ledger held it already: a run of it may be there, where it is no refusal.
        enters_at: When the user comes in, UTC; None for at once.
        key: The key of a keyed run, as the ledger has it.
    """

    passage: str
    user_id: str
    version: int = 0
    entry: str = ""
    started: bool = False
    refused: str = ""
    left: Leave | None = None
    known: bool = False
    enters_at: datetime | None = None
    key: str = ""


# Statements of every passage are built once: building one takes longer than SQLite takes to carry it out.
BEGIN = (
    update(passages)
    .where(passages.c.passage == bindparam("own"))
    .values(started=1, begun_at=func.coalesce(passages.c.begun_at, bindparam("now")))
    .returning(passages)
)
CLOSE = (
    update(passages)
    .where(passages.c.passage == bindparam("own"), passages.c.closed_at.is_(None))
    .values(closed_at=bindparam("now"), exit=bindparam("by"), reason=bindparam("why"))
)
END_WAITS = update(waits).where(waits.c.passage == bindparam("own"), waits.c.open == 1).values(open=0)


class Passages:
    """Passages in SQL, from the admission to the end.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def admission(self, passage: str) -> Admission | None:
        """Give a passage that was admitted before; None when it was not."""
        query = select(passages).where(passages.c.passage == passage)
        row = self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else admission_of(row)

    async def begin(self, passage: str, at: datetime, leave: Leave | None) -> Admission | None:
        """Write down that a passage's run is under way.

        Args:
            passage: The passage.
            at: The instant, UTC.
            leave: Closes the passage at once, where its entry leads to an exit.

        Returns:
            The passage, or None when the ledger does not know it.
        """

        def work(connection: Connection) -> Admission | None:
            row = connection.execute(BEGIN, {"own": passage, "now": instant(at)}).first()
            if row is None:
                return None
            if leave is not None and row.closed_at is None:
                self._close(connection, passage, leave, instant(at))
                return Admission(passage, row.user_id, row.version, row.entry, True, left=leave)
            return admission_of(row)

        # One row is changed, whose user is not at hand. Nobody decides by it while it is open.
        return await self.database.write(work, keys=[passage])

    async def started(self, names: list[str]) -> None:
        """Write down that runs of passages were started."""
        statement = update(passages).where(passages.c.passage.in_(names)).values(started=1)
        await self.database.write(lambda connection: connection.execute(statement))

    async def close(self, leaving: dict[str, Leave], at: datetime) -> None:
        """Close passages that ended outside any element, such as those whose runs were terminated."""

        def work(connection: Connection) -> None:
            for passage, leave in leaving.items():
                self._close(connection, passage, leave, instant(at))

        await self.database.write(work)

    def _close(self, connection: Connection, passage: str, leave: Leave, at: str) -> None:
        said = {"own": passage, "now": at, "by": leave.exit or None, "why": leave.reason}
        connection.execute(CLOSE, said)
        connection.execute(END_WAITS, {"own": passage})
        if not leave.exit:  # who comes to an exit has finished his pushes
            abandon(connection, pushes.c.passage == passage)

    def left_behind(self, journey: str, before: datetime, limit: int = 500) -> list[tuple[Admission, str]]:
        """List passages that were admitted before an instant and whose runs were never started. Blocking.

        Whoever admitted them died before it could start them, and may not come back to them: the journey may have taken
        a turn since.

        Returns:
            Admission and key.
        """
        query = select(passages).where(
            passages.c.journey == journey,
            passages.c.closed_at.is_(None),
            passages.c.begun_at.is_(None),
            passages.c.started == 0,
            passages.c.entered_at <= instant(before),
        )
        rows = self.database.read(lambda connection: connection.execute(query.limit(limit)).all())
        return [(admission_of(row), row.key) for row in rows]

    def waiting_to_begin(self, journey: str) -> int:
        """Count the open passages whose runs were started and have not begun."""
        query = select(func.count()).where(
            passages.c.journey == journey,
            passages.c.closed_at.is_(None),
            passages.c.started == 1,
            passages.c.begun_at.is_(None),
        )
        waiting = int(self.database.read(lambda connection: connection.execute(query).scalar_one()))
        self.database.meters.backlog.set(waiting, {"journey": journey})
        return waiting

    def ended_since(self, journey: str, at: datetime, user_id: str | None = None) -> list[Admission]:
        """List passages that were closed at an instant or later, of one user or of everybody. Blocking.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        query = select(passages).where(passages.c.journey == journey, passages.c.closed_at >= instant(at))
        if user_id is not None:
            query = query.where(passages.c.user_id == user_id)
        return [admission_of(row) for row in self.database.read(lambda connection: connection.execute(query).all())]

    def earlier_passages(self, journey: str) -> dict[str, list[tuple[str, str | None]]]:
        """Give when each user entered a journey before and when that passage was closed, over all its versions."""
        query = select(passages.c.user_id, passages.c.entered_at, passages.c.closed_at).where(
            passages.c.journey == journey, passages.c.key == ""
        )
        found: dict[str, list[tuple[str, str | None]]] = {}
        for user, entered_at, closed_at in self.database.read(lambda connection: connection.execute(query).all()):
            found.setdefault(user, []).append((entered_at, closed_at))
        return found

    def entered_ever(self, journey: str) -> list[str]:
        """List the users who ever entered a journey, in any version, each once."""
        query = select(passages.c.user_id).where(passages.c.journey == journey).distinct()
        return list(self.database.read(lambda connection: connection.execute(query).scalars().all()))

    def open_passages(self, journey: str, users: list[str]) -> dict[tuple[str, str], str]:
        """Give the open passages of some users whose runs were started: (user, key) to passage."""
        query = select(passages.c.user_id, passages.c.key, passages.c.passage).where(
            passages.c.journey == journey,
            passages.c.user_id.in_(users),
            passages.c.closed_at.is_(None),
            passages.c.started == 1,
        )
        rows = self.database.read(lambda connection: connection.execute(query).all())
        return {(row.user_id, row.key): row.passage for row in rows}


def admission_of(row: Row[Any]) -> Admission:
    """Give what a row of the passages says."""
    left = Leave(exit=row.exit or "", reason=row.reason) if row.closed_at is not None else None
    return Admission(
        row.passage,
        row.user_id,
        row.version,
        row.entry,
        bool(row.started),
        left=left,
        known=True,
        enters_at=datetime.fromisoformat(row.enters_at) if row.enters_at else None,
        key=row.key,
    )
