"""Taking events: each is written down, stored in the table, and sets off what it sets off, once.

The ledger has each event first. What comes at once shares one commit of the table. Then runs are started, waits are
answered and goals are counted, each under a name that the event decides; at last the event is done. A process that is
killed at any point leaves it undone, and whoever takes an event next, or sweeps, does all of it again: what was done
already is found and left as it is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from sqlalchemy import Connection, select, update
from temporalio import activity
from temporalio.client import Client

from activities.events.effects import Effect, Effects
from activities.events.occurrences import PUSH_OPENED, Occurrence, as_rows, occurrence
from activities.events.waiting import as_occurrence
from activities.faults import as_failures
from activities.records.rows import instant, passages, pushes, taken
from activities.stores import Stores
from workflows.contracts import EventGiven, Visit
from workflows.errors import ImportRefused, RefusedError
from workflows.events import EventTaken

BATCH = 1_000
"""Most events that share one commit of the table."""
LEFT_SECONDS = 30.0
"""How long ago an event was taken that is not done, for its process to be taken for dead."""
SWEEP = 500
"""Most events that one sweep does."""
RETYPED = 3
"""How often rows are typed anew because somebody else gave a new column its kind first."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    """An event that somebody waits for."""

    event: Occurrence
    client: Client
    done: asyncio.Future[EventTaken]


class Events:
    """Takes events. One object serves a whole process, on one event loop.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._tables = stores.tables
        self._database = stores.ledger.database
        self._effects = Effects(stores)
        self._waiting: list[_Request] = []
        self._running: asyncio.Task[None] | None = None
        # Who waits for each event that this process is at work on: the same event, given again, joins them.
        self._under_way: dict[str, list[_Request]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._last = datetime.min.replace(tzinfo=UTC)
        self._swept_at = float("-inf")

    @activity.defn(name="take-event")
    @as_failures
    async def take_event(self, given: EventGiven) -> EventTaken:
        """Take one event, from within the workflow `Events`.

        Args:
            given: The event.

        Returns:
            What it did.

        Raises:
            ApplicationError: It cannot be taken as it is, which Temporal does not retry; or a store cannot be reached,
                which it does.
        """
        return (await self.take(activity.client(), [given]))[0]

    async def take_for_run(self, visit: Visit, given: EventGiven) -> None:
        """Take an event that a client sent to one run, from within an activity of that run.

        Raises:
            StoreUnavailable: As `take`. An event that cannot be taken as it is is logged, and the run goes on.
        """
        named = given.model_copy(update={"user_id": given.user_id or visit.user_id, "at": given.at or visit.now})
        try:
            await self.take(activity.client(), [named], now=visit.now)
        except RefusedError as error:
            log.warning("an event sent to a run of %s was left out: %s", visit.journey, error.message)

    async def take(
        self, client: Client, given: Sequence[EventGiven], *, now: datetime | None = None
    ) -> list[EventTaken]:
        """Take events: store them, start runs, wake those who wait for them, count goals.

        Args:
            client: Reaches the server.
            given: The events.
            now: The earliest instant at which they are taken, UTC, where another clock is ahead of this one.

        Returns:
            What each did, in order. An event that was taken before does nothing again.

        Raises:
            RefusedError: One cannot be taken as it is; none was taken.
            StoreUnavailable: A store cannot be reached. What is written down by then is done later, and taking an event
                again by the same id is safe.
            RPCError: The server cannot be reached. The same holds.
        """
        if any(one.event == PUSH_OPENED for one in given):
            given = await asyncio.to_thread(lambda: list(map(self._with_push, given)))
        loop = asyncio.get_running_loop()
        requests = [_Request(occurrence(one, self._instant(now)), client, loop.create_future()) for one in given]
        self._waiting += requests
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._serve())
        # A caller who gives up must not take the answer from the others of the batch.
        return list(await asyncio.gather(*(asyncio.shield(request.done) for request in requests)))

    async def sweep(self, client: Client, *, left_seconds: float = LEFT_SECONDS) -> int:
        """Do what a process left undone that died.

        Args:
            client: Reaches the server.
            left_seconds: How long ago an event has to be taken.

        Returns:
            How many events are done now that were not.

        Raises:
            StoreUnavailable: The ledger cannot be reached. Whatever else fails is tried again by the next sweep.
        """
        self._swept_at = time.monotonic()
        before = instant(datetime.now(UTC) - timedelta(seconds=left_seconds))
        query = select(taken).where(taken.c.done == 0, taken.c.taken_at <= before).order_by(taken.c.taken_at)
        rows = await asyncio.to_thread(
            self._database.read, lambda connection: connection.execute(query.limit(SWEEP)).all()
        )
        loop = asyncio.get_running_loop()
        left = [
            _Request(as_occurrence(row), client, loop.create_future())
            for row in rows
            if row.event_id not in self._under_way
        ]
        await self._batch(left)
        results = await asyncio.gather(*(request.done for request in left), return_exceptions=True)
        return sum(isinstance(result, EventTaken) for result in results)

    async def keep_sweeping(self, client: Client) -> None:
        """Sweep for as long as a worker serves; whatever fails is tried again."""
        while True:
            await self._sweep_quietly(client)
            await asyncio.sleep(LEFT_SECONDS)

    def _instant(self, now: datetime | None) -> datetime:
        """Give the instant at which an event is taken: each has its own, so that their order is kept."""
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        return max(self._last, now or self._last)

    def _with_push(self, given: EventGiven) -> EventGiven:
        """Say of an opened push whose it is, of which journey and element, where only its id is said. Blocking."""
        push_id = given.properties.get("push_id") if given.event == PUSH_OPENED else None
        if push_id is None:
            return given
        query = select(pushes.c.user_id, pushes.c.journey, pushes.c.element).where(pushes.c.push_id == str(push_id))
        row = self._database.read(lambda connection: connection.execute(query.limit(1)).first())
        if row is None and not given.user_id:
            raise RefusedError(f"no push has the id {push_id!r}: say whose it is", code="unknown-push")
        if row is None:
            return given
        properties = {"journey": row.journey, "element": row.element, **given.properties}
        return given.model_copy(update={"user_id": given.user_id or row.user_id, "properties": properties})

    async def _serve(self) -> None:
        """Take what is waiting, batch after batch."""
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            await self._batch(batch)
            if time.monotonic() - self._swept_at > LEFT_SECONDS:
                self._begin(self._sweep_quietly(batch[0].client))

    async def _sweep_quietly(self, client: Client) -> None:
        try:
            await self.sweep(client)
        except Exception as error:  # the next sweep tries again
            log.warning("events that were left undone wait: %s", error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _batch(self, requests: Iterable[_Request]) -> None:
        """Write a batch down and store it; what it sets off goes on while the next one is written."""
        batch: list[Occurrence] = []
        for request in requests:
            name = request.event.event_id
            if name not in self._under_way:
                batch.append(request.event)
            self._under_way.setdefault(name, []).append(request)
        if not batch:
            return
        try:
            rows = await self._written(batch)
            lost = await self._stored([row for row in rows.values() if not row.stored])
        except BaseException as error:
            self._fail([event.event_id for event in batch], error)
            if not isinstance(error, Exception):
                raise
            return
        for event in batch:
            if event.event_id not in rows:  # taken before, and done
                self._answer(event.event_id, EventTaken(event_id=event.event_id))
        if rows:
            self._begin(self._set_off(list(map(as_occurrence, rows.values())), lost))

    async def _written(self, events: Sequence[Occurrence]) -> dict[str, Any]:
        """Write events down, where they are not yet; give the rows of those that are not done."""
        values = [
            {
                "event_id": event.event_id,
                "user_id": event.user_id,
                "event": event.event,
                "at": instant(event.at),
                "taken_at": instant(event.taken_at),
                "properties": json.dumps(event.properties),
                "stored": 0,
                "done": 0,
            }
            for event in events
        ]
        names = [event.event_id for event in events]

        def work(connection: Connection) -> dict[str, Any]:
            connection.execute(self._database.insert(taken).on_conflict_do_nothing(), values)
            query = select(taken).where(taken.c.event_id.in_(names), taken.c.done == 0).order_by(taken.c.taken_at)
            return {row.event_id: row for row in connection.execute(query)}

        return await self._database.write(work, keys=[event.user_id for event in events])

    async def _stored(self, rows: Sequence[Any]) -> dict[str, list[str]]:
        """Put events into the table by one commit, and write down that they are there."""
        if not rows:
            return {}
        events = list(map(as_occurrence, rows))
        lost = await asyncio.to_thread(self._commit, events)
        statement = update(taken).where(taken.c.event_id.in_([event.event_id for event in events])).values(stored=1)
        await self._database.write(lambda connection: connection.execute(statement))
        return lost

    def _commit(self, events: Sequence[Occurrence]) -> dict[str, list[str]]:
        """Add events to the table, their users first: so no event is ever without its user."""
        users = pl.DataFrame({"user_id": sorted({event.user_id for event in events})}, schema={"user_id": pl.String})
        self._tables.append_new("users", users, "user_id")
        for attempt in range(1, RETYPED + 1):
            rows, lost = as_rows(events, self._tables.schema("events"))
            try:
                self._tables.append_new("events", rows, "event_id")
                break
            except ImportRefused:  # another process gave a new property its kind in this moment
                if attempt == RETYPED:
                    raise
        return lost

    async def _set_off(self, events: Sequence[Occurrence], lost: dict[str, list[str]]) -> None:
        """Do what a batch of stored events sets off, write down that it is done, and answer."""
        try:
            effects = await self._effects.find(events)
            doing = (self._effects.do(self._under_way[one.event.event_id][0].client, one) for one in effects)
            results = await asyncio.gather(*doing, return_exceptions=True)
            await self._mark_done([one for one, failure in zip(effects, results, strict=True) if failure is None])
        except BaseException as error:
            self._fail([event.event_id for event in events], error)
            if not isinstance(error, Exception):
                raise
            return
        for effect, failure in zip(effects, results, strict=True):
            name = effect.event.event_id
            if failure is not None:
                self._fail([name], failure)
                continue
            started, warnings = len(effect.started), lost.get(name, [])
            self._answer(
                name, EventTaken(event_id=name, started=started, delivered=effect.delivered, warnings=warnings)
            )

    async def _mark_done(self, effects: Sequence[Effect]) -> None:
        """Write down that events are done, and that their runs are started."""
        names = [one.event.event_id for one in effects]
        started = [passage for one in effects for passage in one.started]

        def work(connection: Connection) -> None:
            connection.execute(update(taken).where(taken.c.event_id.in_(names)).values(done=1))
            connection.execute(update(passages).where(passages.c.passage.in_(started)).values(started=1))

        await self._database.write(work)

    def _answer(self, event_id: str, answer: EventTaken) -> None:
        """Tell whoever waits for an event; of the same event given several times, the first did it."""
        for place, request in enumerate(self._under_way.pop(event_id, ())):
            if not request.done.done():
                request.done.set_result(answer if place == 0 else EventTaken(event_id=event_id))

    def _fail(self, event_ids: Iterable[str], error: BaseException) -> None:
        for event_id in event_ids:
            for request in self._under_way.pop(event_id, ()):
                if not request.done.done():
                    request.done.set_exception(error)
                    request.done.exception()  # whoever asked may have been cancelled meanwhile
