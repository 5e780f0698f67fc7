"""Enrolment: an audience evaluated once, kept, and started page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import polars as pl
from temporalio import activity
from temporalio.client import Client

from activities.faults import as_failures
from activities.heartbeats import beating
from activities.noticing import Notices
from activities.push.profiles import zone_of
from activities.records.admissions import Arrival
from activities.records.gate import Life
from activities.records.passages import Admission
from activities.scheduling import evaluated_as_of
from activities.starting import Starter, Way
from activities.stores import Stores
from workflows.calendar import entry_moment, local_time
from workflows.contracts import Audience, Enrolled, EnrolmentRequest
from workflows.documents import AudienceEntry, JourneyDocument
from workflows.errors import NotFoundError, StoreUnavailable, WorkerStopping

PAGE = 500
"""Users admitted in one transaction."""
BACKLOG_LIMIT = 2_000
"""Most runs started but not begun: the server and the workers see a stream, not a flood."""
BACKLOG_SECONDS = 0.2
TIME_PASSED = "time-passed"
"""Why a user is refused whose time of the day had come before the audience was evaluated, with `if_passed: skip`."""
GATE_SECONDS = 0.5
"""How often a paused enrolment looks whether it may go on."""


@dataclass
class _Door:
    """By which version, and which of its rules, users enter now."""

    way: Way
    arrival: Arrival


class EnrolmentActivities:
    """Evaluates audiences and starts their runs.

    Args:
        stores: Tables, catalogue and ledger.
        notices: Wakes runs for which the tables have changed.
    """

    def __init__(self, stores: Stores, notices: Notices) -> None:
        self._stores, self._notices = stores, notices

    @activity.defn(name="evaluate-audience")
    @as_failures
    @beating
    async def evaluate_audience(self, request: EnrolmentRequest) -> Audience:
        """Evaluate an entry's audience, and keep who is in it under the enrolment's id.

        At an occurrence of a schedule under `reentry: never`, the audience is whoever has joined since: those who
        entered before are left out of it.

        Args:
            request: Which entry of which version, and the instant.

        Returns:
            How many users, and from which tables. Asked again, the first answer.

        Raises:
            ApplicationError: A store cannot be reached, which Temporal retries; or a reference leads nowhere, which it
                does not.
        """
        stores = self._stores
        known = await asyncio.to_thread(stores.ledger.enrolment, request.enrolment)
        if known is not None:
            return known[0]
        saved = stores.catalogue.journey(request.digest)
        entry = saved.document.entries[request.entry]
        if not isinstance(entry, AudienceEntry):
            raise NotFoundError(f"{request.entry!r} is no audience entry of {request.journey!r}")
        await asyncio.to_thread(stores.tables.require, "users")
        as_of, home = request.now, saved.document.timezone or stores.segments.zone
        if request.schedule is not None and request.day is not None:
            as_of = evaluated_as_of(request.schedule, request.day, home, request.now)
        found = await asyncio.to_thread(stores.segments.evaluate, entry.audience, as_of, zone=home)
        users = found.users
        if request.schedule is not None and saved.document.reentry == "never":
            # Else all who entered before would be refused, and written down so, at every occurrence anew.
            before = await asyncio.to_thread(stores.ledger.entered_ever, request.journey)
            users = users.join(pl.DataFrame({"user_id": before}, schema=users.schema), on="user_id", how="anti")
        await asyncio.to_thread(self._keep, request.enrolment, users)
        audience = Audience(enrolment=request.enrolment, users=users.height, as_of=found.as_of, tables=found.tables)
        return await stores.ledger.open_enrolment(
            request.enrolment, request.journey, request.version, request.entry, audience
        )

    @activity.defn(name="enrol")
    @as_failures
    @beating
    async def enrol(self, request: EnrolmentRequest) -> Enrolled:
        """Admit the snapshot's users page by page, start a run for each, and move the cursor.

        A worker that dies leaves the cursor before the page it was in: the next one admits that page again, which
        admits nobody twice, and starts the runs that are missing.

        Args:
            request: Which enrolment.

        Returns:
            How many entered and how many were refused.

        Raises:
            ApplicationError: A store or the server cannot be reached. Temporal retries.
        """
        stores = self._stores
        known = await asyncio.to_thread(stores.ledger.enrolment, request.enrolment)
        if known is None:
            raise NotFoundError(f"the enrolment {request.enrolment!r} is not in the ledger of this worker")
        audience, cursor = known
        saved = stores.catalogue.journey(request.digest)
        arrival = Arrival(
            enrolment=request.enrolment,
            journey=request.journey,
            version=request.version,
            entry=request.entry,
            reentry=saved.document.reentry,
            at=request.now,
            cap=saved.document.entry_cap,
            steady=True,
        )
        client, starter = activity.client(), Starter(stores.ids, stores.catalogue)
        door = _Door(Way(saved, request.version, request.entry), arrival)
        await stores.gate.renew()  # the copy may be of a start before this one
        # Whom a worker that died has admitted is inside, whatever has become of the journey since.
        unstarted = await asyncio.to_thread(stores.ledger.unstarted, request.enrolment)
        seen = datetime.now(UTC)  # the audience was evaluated before; one moment for all, so that they share answers
        await _start(starter, client, door.way, unstarted, seen)
        await stores.ledger.page_done(request.enrolment, [admission.passage for admission in unstarted], cursor)
        for page in self.pages(request.enrolment, cursor, audience.users):
            await self._notices.look(client, request.journey)  # the journey's own watch begins behind its audience
            admissions = await self._admitted(request, door, page)
            if not admissions:
                break
            entering = [admission for admission in admissions if not admission.refused]
            await _start(starter, client, door.way, [one for one in entering if not one.started], seen)
            cursor += len(page)
            await stores.ledger.page_done(request.enrolment, [admission.passage for admission in entering], cursor)
        if request.schedule is not None:
            # Each occurrence has one; nobody reads it again.
            await asyncio.to_thread(self._snapshot(request.enrolment).unlink, missing_ok=True)
        entered, refused = await asyncio.to_thread(stores.ledger.enrolled, request.enrolment)
        return Enrolled(audience=audience.users, entered=entered, refused=refused)

    async def _admitted(self, request: EnrolmentRequest, door: _Door, page: list[str]) -> list[Admission]:
        """Admit a page in the version that runs, when there is room and no pause.

        Returns:
            One admission for each user; none when nobody enters any more.
        """
        stores = self._stores
        while True:
            await self._wait_for_room(request.journey)
            life = await self._wait_while_paused(request.journey)
            if activity.is_worker_shutdown():
                raise WorkerStopping(f"this worker stops: another one goes on with the audience of {request.entry!r}")
            if life is None or life.state != "running":
                return []  # finished meanwhile: nobody enters any more
            if life.version != door.way.version:
                # Another version has taken over: whoever comes now enters it, where it has this entry.
                saved = stores.catalogue.journey(life.digest)
                document = saved.document
                if not isinstance(document.entries.get(request.entry), AudienceEntry):
                    return []
                door.way = Way(saved, life.version, request.entry)
                door.arrival = replace(
                    door.arrival, version=life.version, reentry=document.reentry, cap=document.entry_cap
                )
            later, never = await asyncio.to_thread(self._times, request, door.way.saved.document, page)
            arrival = replace(door.arrival, enters_at=later, refused=never)
            if admissions := await stores.ledger.admit(arrival, page):
                return admissions
            await stores.gate.renew()  # the journey has taken a turn that the copy does not know of

    async def _wait_for_room(self, journey: str) -> None:
        """Wait while too many runs were started and have not begun, unless the worker stops."""
        while await asyncio.to_thread(self._stores.ledger.waiting_to_begin, journey) > BACKLOG_LIMIT - PAGE:
            if activity.is_worker_shutdown():
                return
            await asyncio.sleep(BACKLOG_SECONDS)

    async def _wait_while_paused(self, journey: str) -> Life | None:
        """Wait while the journey is paused, unless the worker stops; give its life."""
        while (life := await self._stores.gate.life(journey)) is not None and life.state == "paused":
            if activity.is_worker_shutdown():
                break
            await asyncio.sleep(GATE_SECONDS)
        return life

    def _times(
        self, request: EnrolmentRequest, document: JourneyDocument, page: list[str]
    ) -> tuple[dict[str, datetime], dict[str, str]]:
        """Tell when users come in whose entry has a time of day, and refuse those for whom it has passed.

        Returns:
            The instants, UTC, of those who come in later; the reasons of those who do not.
        """
        schedule, day = request.schedule, request.day
        if schedule is None or day is None or schedule.time is None:
            return {}, {}
        home = document.timezone or self._stores.segments.zone
        if schedule.timezone == "user":
            profiles = self._stores.profiles.read(page, None, home, request.now)
            zones = {user: zone_of(profile, home) for user, profile in profiles.items()}
        else:
            zones = dict.fromkeys(page, schedule.timezone)
        at = local_time(schedule.time)
        # One answer for each zone: a page has few of them.
        moments = {
            zone: entry_moment(day, at, zone, request.now, schedule.if_passed) for zone in sorted(set(zones.values()))
        }
        found = {user: moments[zone] for user, zone in zones.items()}
        later = {user: moment for user, moment in found.items() if moment is not None and moment > request.now}
        return later, {user: TIME_PASSED for user, moment in found.items() if moment is None}

    def _snapshot(self, enrolment: str) -> Path:
        return self._stores.snapshots / f"{quote(enrolment, safe='')}.parquet"

    def _keep(self, enrolment: str, users: pl.DataFrame) -> None:
        """Write a snapshot whole or not at all."""
        path = self._snapshot(enrolment)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            users.write_parquet(unfinished)
            unfinished.replace(path)
        except OSError as error:
            raise StoreUnavailable(f"the audience cannot be written to {str(path)!r}: {error}") from error

    def pages(self, enrolment: str, cursor: int, end: int) -> Iterator[list[str]]:
        """Read a snapshot from the cursor on, a page at a time, so that memory stays flat."""
        if cursor >= end:
            return  # upkeep may have removed it by now
        path = self._snapshot(enrolment)
        if not path.exists():
            raise StoreUnavailable(
                f"the audience of {enrolment!r} is missing: {str(path)!r}. Workers that enrol share one JOURNEYS_HOME"
            )
        lazy = pl.scan_parquet(path)
        for begin in range(cursor, end, PAGE):
            yield lazy.slice(begin, PAGE).collect().get_column("user_id").to_list()


async def _start(starter: Starter, client: Client, way: Way, admissions: Iterable[Admission], seen: datetime) -> None:
    """Start the runs of some admissions; fail with the first that fails, when all have been tried."""
    starting = (starter.start(client, way, admission, seen=seen) for admission in admissions)
    for result in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
