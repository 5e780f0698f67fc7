"""The schedules of a journey's entries, kept by the server: made, changed, paused, taken away; and what they start."""

from __future__ import annotations

import asyncio
from datetime import UTC
from zoneinfo import ZoneInfo

from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleState,
    ScheduleUpdate,
    WorkflowExecutionStatus,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from activities.faults import as_failures
from activities.records.catalogue import SavedJourney
from activities.scheduling import counted_from, makes_up, recurrence_of, schedule_spec
from activities.stores import Stores
from workflows import triggers
from workflows.calendar import DAY, SECOND
from workflows.contracts import JOURNEY_ID, JOURNEYS_QUEUE, EnrolmentRequest, ScheduleRequest, journey_workflow_id
from workflows.documents import AudienceEntry
from workflows.enrolment import Due, Occurrence, ScheduledEntry, schedule_id
from workflows.recurrence import due_day

CATCHING_UP = "Catching up with what was due since the journey was started"
"""Note of a schedule that is not set whole: whoever finds it goes on."""
PAUSED = "The journey is paused"


class ScheduleActivities:
    """Keeps schedules, and answers what they start.

    Args:
        stores: Catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="set-schedules")
    @as_failures
    async def set_schedules(self, request: ScheduleRequest) -> None:
        """Have the schedules of a journey's entries be as they should. Asked again, nothing more is done.

        A schedule whose rule stays the same keeps counting from where it began. One that is new when its journey
        starts catches up with the occurrences of its first day that have passed; one that a revision brings or changes
        begins with the next.

        Args:
            request: The entries that are to have a schedule, and whether they are paused.

        Raises:
            ApplicationError: The catalogue or the server cannot be reached. Temporal retries.
        """
        stores, client = self._stores, activity.client()
        saved = await asyncio.to_thread(stores.catalogue.journey, request.digest)
        versions = await asyncio.to_thread(stores.catalogue.versions, "journey", request.journey)
        # Every schedule is of an entry that some version has: the server's list would be a moment old.
        known = {
            name
            for one in versions
            for name, entry in getattr(one.document, "entries", {}).items()
            if isinstance(entry, AudienceEntry) and entry.schedule is not None
        }
        for name in sorted(known - set(request.entries)):
            await _remove(client.get_schedule_handle(schedule_id(request.journey, name)))
        for name in request.entries:
            await self._set(client, request, saved, name)

    async def _set(self, client: Client, request: ScheduleRequest, saved: SavedJourney, name: str) -> None:
        """Make one schedule, or have the one that is there be as it should."""
        handle = client.get_schedule_handle(schedule_id(request.journey, name))
        there = await _described(handle)
        before = await _given(client, there)
        if before is not None and before.launch != request.launch:
            await _remove(handle)
            there, before = None, None
        given = self._entry(request, saved, name, before)
        schedule = _schedule(given, saved, paused=request.paused)
        if not request.opening:
            # Not the instant of the revision itself, at which an interval begins; the server reads whole seconds.
            schedule.spec.start_at = given.start + 2 * SECOND
        catches_up = request.opening and (there is None or there.schedule.state.note == CATCHING_UP)
        if catches_up:
            schedule.state.note = CATCHING_UP
        if there is None:
            attributes = TypedSearchAttributes([SearchAttributePair(JOURNEY_ID, request.journey)])
            handle = await client.create_schedule(handle.id, schedule, search_attributes=attributes)
        else:
            await handle.update(lambda _: ScheduleUpdate(schedule))
        if catches_up:
            # From its creation on, the server starts what is due by itself. The range excludes its beginning.
            created = (await handle.describe()).info.created_at
            if created > given.start and makes_up(given.schedule):
                span = ScheduleBackfill(given.start - SECOND, created, overlap=ScheduleOverlapPolicy.BUFFER_ALL)
                await handle.backfill(span)
            schedule.state.note = PAUSED if request.paused else None
            await handle.update(lambda _: ScheduleUpdate(schedule))

    def _entry(
        self, request: ScheduleRequest, saved: SavedJourney, name: str, before: ScheduledEntry | None
    ) -> ScheduledEntry:
        """Say what a schedule starts its runs with."""
        entry = saved.document.entries[name]
        if not isinstance(entry, AudienceEntry) or entry.schedule is None:
            raise TypeError(f"the entry {name!r} of {request.journey!r} has no schedule")
        schedule = entry.schedule
        start, zone = counted_from(schedule, request.started_at, saved.document.timezone or self._stores.segments.zone)
        if before is not None and (before.schedule, before.zone) == (schedule, zone):
            start = before.start
        return ScheduledEntry(
            journey=request.journey,
            launch=request.launch,
            entry=name,
            schedule=schedule,
            start=start,
            zone=zone,
            exact=schedule_spec(recurrence_of(schedule), start, zone).exact,
        )

    @activity.defn(name="begin-enrolment")
    @as_failures
    async def begin_enrolment(self, occurrence: Occurrence) -> Due:
        """Ask whether the journey runs and an occurrence of its schedule is due, and name the admission.

        Whoever triggers a schedule by hand has its audience enter at once, whatever the time. A run that the server
        starts at a time of the rule's on a day that is none, since its calendar says less than the rule, does nothing.

        Args:
            occurrence: The entry, the time that the run is for, and the present.

        Returns:
            The admission, whose name is that of the occurrence, so that its repeat admits nobody twice; or why nobody
            enters.

        Raises:
            ApplicationError: The ledger cannot be reached. Temporal retries.
        """
        given, stores = occurrence.given, self._stores
        life = await asyncio.to_thread(stores.ledger.life, given.journey)
        if life is None or life.launch != given.launch or life.state not in ("running", "paused"):
            return Due(skipped="finished")
        if not await _lives(activity.client(), given.journey):
            return Due(skipped="finished")
        if life.state == "paused":
            return Due(skipped="paused")
        entry = stores.catalogue.journey(life.digest).document.entries.get(given.entry)
        if not isinstance(entry, AudienceEntry) or entry.schedule is None:
            return Due(skipped="no-entry")
        rule, day = recurrence_of(given.schedule), None
        if rule.interval is None:
            day = due_day(rule, given.start, given.zone, occurrence.scheduled)
            shown = occurrence.scheduled.astimezone(ZoneInfo(given.zone)).time()
            if day is None and not given.exact and shown == rule.at:
                return Due(skipped="not-due")
        return Due(
            enrolment=EnrolmentRequest(
                enrolment=f"{given.launch}/{given.entry}/{occurrence.scheduled.astimezone(UTC).isoformat()}",
                journey=given.journey,
                version=life.version,
                digest=life.digest,
                entry=given.entry,
                now=occurrence.now,
                schedule=given.schedule,
                day=day,
            )
        )


def _schedule(given: ScheduledEntry, saved: SavedJourney, *, paused: bool) -> Schedule:
    """Say a schedule as the server takes it."""
    rule = recurrence_of(given.schedule)
    name = saved.document.title or given.journey
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "Enrolment",
            given,
            id=schedule_id(given.journey, given.entry),
            task_queue=JOURNEYS_QUEUE,
            typed_search_attributes=TypedSearchAttributes([SearchAttributePair(JOURNEY_ID, given.journey)]),
            static_summary=f"{name}: the audience of {given.entry} enters",
            static_details=f"Evaluates the audience of **{given.entry}** of the journey **{given.journey}** anew and "
            f"lets it enter: {in_words(given.schedule)}.",
        ),
        spec=schedule_spec(rule, given.start, given.zone).spec,
        policy=SchedulePolicy(
            # An enrolment that takes longer than its period is followed by one more, and doubles nobody.
            overlap=ScheduleOverlapPolicy.BUFFER_ONE,
            # After an outage of the server, what it missed is made up for while the next is not due.
            catchup_window=min(rule.interval or DAY, DAY),
        ),
        state=ScheduleState(paused=paused, note=PAUSED if paused else None),
    )


def in_words(schedule: triggers.Schedule) -> str:
    """Say when a schedule lets users in."""
    days = f"every {schedule.every}" if schedule.every else f"on {', '.join(schedule.dates or ())}"
    weekdays = f" on {', '.join(schedule.weekdays)}" if schedule.weekdays else ""
    if schedule.time is None:
        return days
    clock = "each user's own clock" if schedule.timezone == "user" else f"the clock of {schedule.timezone}"
    return f"{days}{weekdays} at {schedule.time} on {clock}"


async def _lives(client: Client, journey: str) -> bool:
    """Tell whether a journey's workflow is open: whoever terminates it in Temporal's UI stops its schedules too."""
    try:
        found = await client.get_workflow_handle(journey_workflow_id(journey)).describe()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        return False
    return found.status == WorkflowExecutionStatus.RUNNING


async def _described(handle: ScheduleHandle) -> ScheduleDescription | None:
    """Describe a schedule; None when there is none."""
    try:
        return await handle.describe()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
    return None


async def _given(client: Client, there: ScheduleDescription | None) -> ScheduledEntry | None:
    """Read what a schedule starts its runs with."""
    if there is None or not isinstance(there.schedule.action, ScheduleActionStartWorkflow):
        return None
    (given,) = await client.data_converter.decode(there.schedule.action.args, [ScheduledEntry])
    return ScheduledEntry.model_validate(given)


async def _remove(handle: ScheduleHandle) -> None:
    """Remove a schedule that may be there."""
    try:
        await handle.delete()
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
