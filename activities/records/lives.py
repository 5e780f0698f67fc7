"""Lives of journeys: which version of one runs, since which start, and who is inside. Part of the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from activities.records.passages import Passages
from activities.records.rows import instant, journeys, passages, revisions


class Lives(Passages):
    """Lives of journeys in SQL, beside the passages."""

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

        def work(connection: Connection) -> None:
            connection.execute(statement)
            # Whoever is inside from an earlier start finishes the version he is in.
            connection.execute(delete(revisions).where(revisions.c.journey == journey))

        await self.database.write(work)

    async def finish_journey(self, journey: str, launch: str, at: datetime, *, when_empty: bool = False) -> int:
        """Write down that a start of a journey is over: nobody enters any more.

        Args:
            journey: The journey.
            launch: Names the start.
            at: The instant, UTC.
            when_empty: Leave it running while somebody is inside.

        Returns:
            How many are inside.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> int:
            own = (journeys.c.journey == journey, journeys.c.launch == launch)
            query = select(func.count()).where(passages.c.journey == journey, passages.c.closed_at.is_(None))
            inside = int(connection.execute(query).scalar_one())
            if not (when_empty and inside):
                connection.execute(update(journeys).where(*own).values(state="finished", changed_at=instant(at)))
            return inside

        return await self.database.write(work)

    async def archive(
        self, journey: str, version: int, digest: str, at: datetime, *, undo: bool = False
    ) -> tuple[str, str]:
        """Put a journey away that does not run, or take it out again.

        Returns:
            The state that it was in, and the one that it is in now: the same when it runs, or is not put away.

        Raises:
            StoreUnavailable: The ledger cannot be written.
        """

        def work(connection: Connection) -> tuple[str, str]:
            row = connection.execute(select(journeys).where(journeys.c.journey == journey)).first()
            state = "draft" if row is None else str(row.state)
            if state in ("running", "paused") or (undo and state != "archived"):
                return state, state
            if undo and row is not None and not row.launch:
                connection.execute(delete(journeys).where(journeys.c.journey == journey))
                return state, "draft"  # it never ran
            wanted = "finished" if undo else "archived"
            values = {"state": wanted, "changed_at": instant(at)}
            made = self.database.insert(journeys).values(
                journey=journey, version=version, digest=digest, launch="", epoch=0, **values
            )
            connection.execute(made.on_conflict_do_update(index_elements=["journey"], set_=values))
            return state, wanted

        return await self.database.write(work)

    def life(self, journey: str) -> Row[Any] | None:
        """Give a journey's row: version, digest, state, launch, changed_at; None when it never ran."""
        return self.database.read(
            lambda connection: connection.execute(select(journeys).where(journeys.c.journey == journey)).first()
        )

    def is_anybody_inside(self, journey: str) -> bool:
        """Tell whether anybody is inside a journey, whose number may be great. Blocking."""
        query = select(passages.c.passage).where(passages.c.journey == journey, passages.c.closed_at.is_(None)).limit(1)
        return self.database.read(lambda connection: connection.execute(query).first()) is not None

    def inside(self, journey: str, version: int = 0) -> int:
        """Count the users inside a journey; in all versions when the version is 0."""
        query = select(func.count()).where(passages.c.journey == journey, passages.c.closed_at.is_(None))
        if version:
            query = query.where(passages.c.version == version)
        return int(self.database.read(lambda connection: connection.execute(query).scalar_one()))
