"""The gate: whether a journey runs or is paused, as each worker knows it, and who is held at it.

Every activity asks before it decides or acts. A worker reads the lives of all journeys by one query, at most every
second; a copy older than three seconds is not trusted. So a pause that was committed three seconds ago is known
everywhere, and users who meet no pause cost nothing. Holding and resuming meet in transactions on the journey's row:
whoever is held after a resumption has read it is not held at all.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select, update

from activities.records.database import Database
from activities.records.rows import held, instant, journeys, pauses, revisions
from workflows.contracts import Due, Inside, Visit
from workflows.errors import StoreUnavailable

COPY_SECONDS = 1.0
"""How old a worker's copy may be before it is read again."""
TRUST_SECONDS = 3.0
"""How long after a change every worker knows of it."""
WOKEN = timedelta(days=1)
"""How long after a pause a visit that was held may be asked for as if it never was: by a worker that died meanwhile."""


@dataclass(frozen=True)
class Revision:
    """What became of those inside when a later version took over.

    Attributes:
        epoch: Orders the journey's changes.
        version: The version that took over.
        digest: Its content.
        inside: What becomes of those in earlier versions.
        mapping: Old element to new one, where they differ.
    """

    epoch: int
    version: int
    digest: str
    inside: Inside
    mapping: dict[str, str]

    def says(self, version: int, inside: Inside, mapping: dict[str, str]) -> bool:
        """Tell whether this is what was asked for."""
        return (self.version, self.inside, self.mapping) == (version, inside, mapping)


@dataclass(frozen=True)
class Life:
    """Where a journey's life is.

    Attributes:
        journey: Its name.
        version: The version that admits users.
        digest: Its content.
        state: `running`, `paused`, `finished` or `archived`.
        launch: Names this start of it.
        epoch: Rises with every pause, resumption and revision.
        resumed_at: When its newest pause ended, UTC; None where none ever did.
        revisions: What was revised since this start of it, the oldest first.
    """

    journey: str
    version: int
    digest: str
    state: str
    launch: str
    epoch: int
    resumed_at: datetime | None
    revisions: tuple[Revision, ...] = ()

    def may_have_held(self, visit: Visit) -> bool:
        """Tell whether a visit may have been held by a pause that is over: so that the others need not ask.

        Who was held is woken, or waits for what was said to him; both tell so, unless an answer was lost.
        """
        if self.resumed_at is None:
            return False
        return visit.woken or visit.until is not None or datetime.now(UTC) - self.resumed_at < WOKEN

    def revision_for(self, version: int) -> Revision | None:
        """Give the revision that those inside a version follow: of the later ones the newest that does not keep them.

        A later revision that keeps everybody where he is does not take back what an earlier one began.
        """
        later = (one for one in reversed(self.revisions) if one.version > version and one.inside != "keep")
        return next(later, None)


@dataclass(frozen=True)
class Held:
    """How a resumption deals with a visit that was held.

    Attributes:
        due: What was picked; None while the pause lasts.
        until: With `shift`, when the visit is due now, UTC.
    """

    due: Due | None
    until: datetime


class Gate:
    """One process's copy of the lives of all journeys.

    Args:
        database: Where the ledger is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lives: dict[str, Life] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def lives(self) -> dict[str, Life]:
        """Give the lives of all journeys that were ever started, by name, no older than three seconds.

        Raises:
            StoreUnavailable: The ledger cannot be read, or not in time, and the copy is too old to be trusted. Temporal
                retries.
        """
        age = time.monotonic() - self._read_at
        if age >= COPY_SECONDS:
            # One query for all who ask; those who come while the copy is still trusted do not wait for it.
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
                self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
            if age >= TRUST_SECONDS - COPY_SECONDS:
                await asyncio.shield(self._reading)
                # It tells of the moment at which it was asked, however long the answer took.
                if (age := time.monotonic() - self._read_at) >= TRUST_SECONDS:
                    raise StoreUnavailable(
                        f"the ledger took {age:.1f} s to say which journeys are paused, which is not trusted from "
                        f"{TRUST_SECONDS:g} s on: see what keeps its database busy"
                    )
        return self._lives

    async def life(self, journey: str) -> Life | None:
        """Give one journey's life; None when it was never started."""
        found = (await self.lives()).get(journey)
        if found is None:
            # Started within this second, perhaps.
            await self.renew()
            found = self._lives.get(journey)
        return found

    async def renew(self) -> None:
        """Read the lives anew, whatever the copy's age: by a query that begins after this was asked, one for all."""
        if self._next is None:
            self._next = asyncio.create_task(self._read_next())
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._next)

    async def _read_next(self) -> None:
        if self._reading is not None and not self._reading.done():
            await asyncio.wait([self._reading])
        self._next = None
        self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        asked = time.monotonic()
        self._lives = await asyncio.to_thread(self._database.read, _lives)
        self._read_at = asked

    async def hold(self, visit: Visit) -> bool:
        """Write down that a visit is held by the pause of its journey.

        Args:
            visit: Whose visit to which element; its `now` is when it was due.

        Returns:
            False when the journey is not paused any more: the visit goes on.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> bool:
            # It stays so until the commit: who resumes names no keys, and so waits for all who do.
            row = connection.execute(select(journeys).where(journeys.c.journey == visit.journey)).one()
            if row.state != "paused":
                return False
            # A revision in the pause has raised the journey's epoch: who is held is held by the pause.
            epoch = connection.execute(_newest_pause(visit.journey)).scalar_one()
            values = {
                "journey": visit.journey,
                "user_id": visit.user_id,
                "key": visit.key,
                "element": visit.element,
                "epoch": epoch,
                "due_at": instant(visit.now),
                "signalled": 0,
            }
            statement = self._database.insert(held).values(passage=visit.passage, step=visit.step, **values)
            # Held by an earlier pause: now by this one. Asked again in the same pause, the first due time stays.
            statement = statement.on_conflict_do_update(
                index_elements=["passage", "step"], set_=values, where=held.c.epoch != epoch
            )
            connection.execute(statement)
            return True

        return await self._database.write(work, keys=[visit.user_id])

    def held(self, visit: Visit) -> Held | None:
        """Tell how a visit that was held goes on. Blocking.

        Returns:
            What was picked when the journey was resumed; None when the visit was never held.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        query = (
            select(held.c.due_at, pauses.c.began_at, pauses.c.ended_at, pauses.c.due)
            .join(pauses, (pauses.c.journey == held.c.journey) & (pauses.c.epoch == held.c.epoch))
            .where(held.c.passage == visit.passage, held.c.step == visit.step)
        )
        row = self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        due_at = datetime.fromisoformat(row.due_at)
        if row.ended_at is None:
            return Held(None, due_at)
        lasted: timedelta = datetime.fromisoformat(row.ended_at) - datetime.fromisoformat(row.began_at)
        return Held(row.due, due_at + lasted)

    async def pause(self, journey: str, at: datetime) -> int:
        """Commit a pause. From three seconds later on, every worker knows of it.

        Returns:
            The epoch that begins.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> int:
            query = select(journeys).where(journeys.c.journey == journey)
            row = connection.execute(query).one()
            if row.state == "paused":  # asked again
                return int(row.epoch)
            epoch = int(row.epoch) + 1
            connection.execute(
                update(journeys)
                .where(journeys.c.journey == journey)
                .values(state="paused", epoch=epoch, paused_at=instant(at), changed_at=instant(at))
            )
            connection.execute(pauses.insert().values(journey=journey, epoch=epoch, began_at=instant(at)))
            return epoch

        return await self._database.write(work)

    async def resume(self, journey: str, due: Due, at: datetime) -> int | None:
        """Commit a resumption: the newest pause is over, and the journey runs unless it is finished.

        Args:
            journey: The journey.
            due: What is done with what fell due meanwhile.
            at: The instant, UTC.

        Returns:
            The epoch of the newest pause: those held by it are to be signalled. None where there was none.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> int | None:
            query = select(journeys).where(journeys.c.journey == journey)
            row = connection.execute(query).one()
            epoch: int | None = connection.execute(_newest_pause(journey)).scalar_one_or_none()
            connection.execute(
                update(pauses)
                .where(pauses.c.journey == journey, pauses.c.epoch == epoch, pauses.c.ended_at.is_(None))
                .values(ended_at=instant(at), due=due)
            )
            if row.state == "paused":
                connection.execute(
                    update(journeys)
                    .where(journeys.c.journey == journey)
                    .values(state="running", epoch=int(row.epoch) + 1, changed_at=instant(at))
                )
            return epoch

        return await self._database.write(work)

    async def revise(
        self, journey: str, version: int, digest: str, inside: Inside, mapping: dict[str, str], at: datetime
    ) -> None:
        """Have another version take over: it admits from now on, and those inside follow as was picked.

        The version that runs already may be named again, where something else becomes of those in earlier ones.

        Raises:
            StoreUnavailable: The ledger cannot be written. Temporal retries.
        """

        def work(connection: Connection) -> None:
            query = select(journeys).where(journeys.c.journey == journey)
            row = connection.execute(query).one()
            own = select(revisions).where(revisions.c.journey == journey).order_by(revisions.c.epoch.desc()).limit(1)
            newest = connection.execute(own).first()
            asked_again = newest is not None and _revision(newest).says(version, inside, mapping)
            if row.version > version or asked_again:
                return
            epoch = int(row.epoch) + 1
            connection.execute(
                update(journeys)
                .where(journeys.c.journey == journey)
                .values(version=version, digest=digest, epoch=epoch, changed_at=instant(at))
            )
            connection.execute(
                revisions.insert().values(
                    journey=journey,
                    epoch=epoch,
                    version=version,
                    digest=digest,
                    inside=inside,
                    mapping=json.dumps(mapping),
                    at=instant(at),
                )
            )

        await self._database.write(work)

    def held_by(self, journey: str, epoch: int, limit: int = 500) -> list[tuple[str, int, str, str]]:
        """List visits that a pause held and nobody signalled yet: passage, step, user id and key. Blocking."""
        query = (
            select(held.c.passage, held.c.step, held.c.user_id, held.c.key)
            .where(held.c.journey == journey, held.c.epoch == epoch, held.c.signalled == 0)
            .limit(limit)
        )
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [(row.passage, row.step, row.user_id, row.key) for row in rows]

    async def signalled(self, visits: list[tuple[str, int]]) -> None:
        """Mark held visits as signalled."""

        def work(connection: Connection) -> None:
            for passage, step in visits:
                connection.execute(
                    update(held).where(held.c.passage == passage, held.c.step == step).values(signalled=1)
                )

        await self._database.write(work)


def _newest_pause(journey: str) -> Any:
    """Ask for the epoch with which a journey's newest pause began."""
    return select(pauses.c.epoch).where(pauses.c.journey == journey).order_by(pauses.c.epoch.desc()).limit(1)


def _lives(connection: Connection) -> dict[str, Life]:
    revised: dict[str, list[Revision]] = {}
    for row in connection.execute(select(revisions).order_by(revisions.c.epoch)):
        revised.setdefault(row.journey, []).append(_revision(row))
    ended = select(pauses.c.journey, func.max(pauses.c.ended_at).label("at")).group_by(pauses.c.journey)
    resumed = {row.journey: row.at for row in connection.execute(ended) if row.at is not None}
    return {
        row.journey: Life(
            journey=row.journey,
            version=row.version,
            digest=row.digest,
            state=row.state,
            launch=row.launch,
            epoch=row.epoch,
            resumed_at=datetime.fromisoformat(resumed[row.journey]) if row.journey in resumed else None,
            revisions=tuple(revised.get(row.journey, ())),
        )
        for row in connection.execute(select(journeys))
    }


def _revision(row: Any) -> Revision:
    return Revision(row.epoch, row.version, row.digest, row.inside, json.loads(row.mapping))
