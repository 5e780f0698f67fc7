"""Rehearsals: one user passes a journey by the production workflow, time is skipped, and nothing is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.testing import TimeSkipper

from activities.documents.checking import check_documents
from activities.documents.reading import read_documents
from activities.documents.saving import save_checked
from activities.events.taking import Events
from activities.records.admissions import Arrival
from activities.records.catalogue import SavedJourney
from activities.records.reports import ExplainedRun, SentPush, explain, list_pushes
from activities.scratch import add_rows, copy_user
from activities.starting import Starter, Way
from workers.documents import is_file
from workers.engine import Engine
from workers.rehearsed import GivenEvent, GivenUser, Rehearsal, RehearsedPush, RehearsedStep
from workers.stage import Scene, Stage
from workflows.contracts import EventGiven
from workflows.documents import ApiEntry, AudienceEntry, Entry, JourneyDocument, Keyed, TriggerEntry, ways_out
from workflows.errors import JourneyError, NotFoundError, RefusedError
from workflows.scalars import duration

NOT_IN_AUDIENCE = "not-in-audience"
NOT_BY_THIS_EVENT = "trigger-not-true"
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 120.0
"""Longest a rehearsal may take."""
A_MOMENT = timedelta(milliseconds=100)
TIMERS = (EventType.EVENT_TYPE_TIMER_FIRED, EventType.EVENT_TYPE_TIMER_CANCELED)


class Stuck(JourneyError):
    """A rehearsal did not come to its end in time."""

    code = "stuck"


@dataclass(frozen=True)
class _Part:
    """The journey in the scene's stores."""

    saved: SavedJourney
    version: int
    entry: str

    @property
    def document(self) -> JourneyDocument:
        return self.saved.document

    @property
    def way_in(self) -> Entry:
        return self.document.entries[self.entry]


async def rehearse(
    stage: Stage,
    engine: Engine,
    journey: str,
    user: GivenUser,
    events: Sequence[GivenEvent] = (),
    *,
    entry: str = "",
    values: dict[str, Any] | None = None,
    anyway: bool = False,
) -> Rehearsal:
    """Have one user pass a journey, by the workflow and the activities of production, on stores of its own.

    Re-entry, frequency caps and pauses know of nothing that really happened: to them the user is new.

    Args:
        stage: The server.
        engine: The real stores, which are only read.
        journey: A saved journey as `NAME` or `NAME@3`, or a file that holds one.
        user: Who passes.
        events: What he does, in order.
        entry: The entry; empty for the one that the first event sets off, else the first.
        values: What an API entry is given.
        anyway: Whether a user who is not in the audience comes in all the same.

    Returns:
        The way that the user took.

    Raises:
        DefinitionError: The file has faults.
        NotFoundError: There is no such journey, entry or user.
        RefusedError: A value cannot be read.
        Stuck: The run did not come to its end in time.
    """
    providers = set() if user.devices is None else {str(row["provider"]) for row in user.devices if "provider" in row}
    if user.devices is None:
        providers = await asyncio.to_thread(_providers_of, engine, user.user)
    async with stage.scene(providers) as scene:
        version, document = await asyncio.to_thread(_prepare, engine, scene, journey, user)
        saved = scene.stores.catalogue.journey(version[1])
        part = _Part(saved, version[0], _entry_of(document, entry, events))
        now = datetime.now(UTC)
        await scene.stores.ledger.open_journey(document.journey, version[0], version[1], "rehearsal", now)
        reason, left_over = await _enter(scene, part, user.user, list(events), values or {}, anyway)
        if reason:
            return Rehearsal(
                journey=document.journey, user_id=user.user, entry=part.entry, admitted=False, reason=reason
            )
        await _Run(scene, part, user.user, left_over).to_its_end()
        return _told(scene, part, user.user)


def _providers_of(engine: Engine, user_id: str) -> set[str]:
    profile = engine.stores.profiles.read([user_id], None, "UTC", datetime.now(UTC))[user_id]
    return {str(device["provider"]) for device in profile.devices}


def _prepare(engine: Engine, scene: Scene, journey: str, user: GivenUser) -> tuple[tuple[int, str], JourneyDocument]:
    """Put user and journey into the scene's stores; give the journey's version and digest, and what it says."""
    stores = scene.stores
    made_up = bool(user.attributes or user.devices)
    known = copy_user(engine.stores, stores, user.user, leave_out=() if user.devices is None else ("devices",))
    if not known and not made_up:
        raise NotFoundError(
            f"no user {user.user!r} is in the tables", hint="import him, or make him up: journeys test has `attributes`"
        )
    now = datetime.now(UTC)
    add_rows(stores, "users", [{"user_id": user.user, **user.attributes}])
    devices = [
        {"device_id": f"device-{place}", "user_id": user.user, "opt_in": "true", **row}
        for place, row in enumerate(user.devices or (), start=1)
    ]
    add_rows(stores, "devices", devices)
    add_rows(stores, "events", [_happened(user.user, row, place, now) for place, row in enumerate(user.history)])
    if not is_file(journey):
        found = engine.find(journey)
    else:
        checked = check_documents(engine.stores, read_documents(Path(journey)), now)
        checked.require()
        name = engine.only_journey(journey, checked)[1].journey
        save_checked(stores, checked, now)
        found = stores.catalogue.find("journey", name)
    return (found.version, found.digest), engine.document(found)


def _happened(user_id: str, row: dict[str, Any], place: int, now: datetime) -> dict[str, Any]:
    """Make a row of the table of events."""
    values = {name: value for name, value in row.items() if name not in ("event", "ago")}
    if "event" not in row:
        raise RefusedError(f"history: {row!r} names no event: write {{event: purchase, ago: 3d}}", code="no-event")
    at = now - duration(str(row.get("ago", "0s")))
    return {"event_id": f"history-{place}", "user_id": user_id, "event": row["event"], "at": at.isoformat(), **values}


def _entry_of(document: JourneyDocument, entry: str, events: Sequence[GivenEvent]) -> str:
    """Choose the entry: the one named, else the one that an event sets off, else the first."""
    if entry and entry not in document.entries:
        known = ", ".join(document.entries)
        raise NotFoundError(f"{document.journey!r} has no entry {entry!r}; it has: {known}")
    if entry:
        return entry
    names = [one.event for one in events]
    for name, found in document.entries.items():
        if isinstance(found, TriggerEntry) and found.trigger.event in names:
            return name
    return next(iter(document.entries))


async def _enter(
    scene: Scene, part: _Part, user_id: str, events: list[GivenEvent], values: dict[str, Any], anyway: bool
) -> tuple[str, list[GivenEvent]]:
    """Let the user in as production does.

    Returns:
        Why he does not come in, or an empty text; and the events that are still to come.
    """
    stores, entry = scene.stores, part.way_in
    if isinstance(entry, TriggerEntry):
        first = next((one for one in events if one.event == entry.trigger.event), None)
        if first is None:
            raise RefusedError(
                f"{part.entry!r} is entered by the event {entry.trigger.event!r}, which was not given",
                code="no-entry-event",
                hint=f"""write --event '{entry.trigger.event}={{"amount": 20}}'""",
            )
        rest = [one for one in events if one is not first]
        given = EventGiven(user_id=user_id, event=first.event, properties=first.properties)
        (taken,) = await Events(stores).take(scene.client, [given])
        if taken.started:
            return "", rest
        refused = explain(stores.ledger.database, part.document.journey, user_id).refused
        return refused[-1].reason if refused else NOT_BY_THIS_EVENT, rest
    now = datetime.now(UTC)
    if isinstance(entry, AudienceEntry) and not anyway:
        zone = part.document.timezone or stores.segments.zone
        found = await asyncio.to_thread(stores.segments.evaluate, entry.audience, now, zone=zone)
        if user_id not in found.users.get_column("user_id"):
            return NOT_IN_AUDIENCE, events
    key = ""
    if isinstance(part.document.reentry, Keyed):
        key = str(values.get(part.document.reentry.name, ""))
        if not key:
            return "no-key", events
    arrival = Arrival(
        enrolment="rehearsal",
        journey=part.document.journey,
        version=part.version,
        entry=part.entry,
        reentry=part.document.reentry,
        at=now,
        key=key,
        properties=values if isinstance(entry, ApiEntry) else None,
    )
    (admission,) = await stores.ledger.admit(arrival, [user_id])
    if not admission.refused:
        way = Way(part.saved, part.version, part.entry, key)
        await Starter(stores.ids, stores.catalogue).start(scene.client, way, admission, seen=now)
    return admission.refused, events


class _Run:
    """Moves one run's clock on, from one thing that happens to the next."""

    def __init__(self, scene: Scene, part: _Part, user_id: str, events: list[GivenEvent]) -> None:
        self._scene = scene
        self._part = part
        self._user_id = user_id
        self._timed = sorted((one for one in events if one.after is not None), key=lambda one: duration(str(one.after)))
        self._waiting = [one for one in events if one.after is None]
        run = self._explained()
        self._entered_at = run.entered_at
        journey = part.document.journey
        workflow_id = scene.stores.ids.workflow_id(journey, user_id, run.key)
        self._handle: WorkflowHandle[Any, Any] = scene.client.get_workflow_handle(workflow_id)
        self._skipper = TimeSkipper(scene.client)

    def _explained(self) -> ExplainedRun:
        database = self._scene.stores.ledger.database
        return explain(database, self._part.document.journey, self._user_id).runs[-1]

    async def to_its_end(self) -> None:
        """Pass time and do what the user does, until the run has ended.

        Raises:
            Stuck: It does not end.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while await self._settled(until):
            if self._waiting and self._at() == "wait-for-trigger":
                await self._give(self._waiting.pop(0))
                continue
            due = await self._due()
            if due is None:
                raise Stuck(f"the run of the user {self._user_id!r} waits for nothing that comes by itself")
            now = await self._skipper.get_current_time(self._handle)
            event = self._entered_at + duration(str(self._timed[0].after)) if self._timed else None
            if event is not None and event <= due:
                if event > now:
                    await self._skipper.fast_forward(self._handle, event - now)
                await self._give(self._timed.pop(0))
            else:
                await self._skipper.fast_forward(self._handle, max(due - now, timedelta()) + A_MOMENT)

    async def _give(self, event: GivenEvent) -> None:
        """Have the user do something now."""
        now = await self._skipper.get_current_time(self._handle)
        given = EventGiven(user_id=self._user_id, event=event.event, properties=event.properties, at=now)
        seen = (await self._handle.describe()).history_length
        await self._handle.signal("event", given)
        while (await self._handle.describe()).history_length <= seen + 1:
            await asyncio.sleep(LOOK_SECONDS)

    async def _settled(self, until: float) -> bool:
        """Wait until the run has nothing to do but to wait; tell whether it goes on."""
        while time.monotonic() < until:
            found = await self._handle.describe()
            if found.status != WorkflowExecutionStatus.RUNNING:
                if found.status == WorkflowExecutionStatus.CONTINUED_AS_NEW:
                    continue
                return False
            raw = found.raw_description
            busy = raw.pending_activities or raw.HasField("pending_workflow_task")
            if not busy and await self._due() is not None:
                return True
            await asyncio.sleep(LOOK_SECONDS)
        said = [one.last_failure.message for one in raw.pending_activities if one.last_failure.message]
        raise Stuck(
            f"the run of the user {self._user_id!r} did not end within {PATIENCE_SECONDS:g} s; "
            f"it is at {self._element()!r}" + (f": {said[0]}" if said else "")
        )

    async def _due(self) -> datetime | None:
        """Give when the timer fires that the run waits for; None when there is none."""
        timers: dict[int, datetime] = {}
        async for event in self._handle.fetch_history_events():
            if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED:
                lasts = event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
                timers[event.event_id] = event.event_time.ToDatetime(UTC) + lasts
            elif event.event_type in TIMERS:
                ended = event.timer_fired_event_attributes or event.timer_canceled_event_attributes
                timers.pop(ended.started_event_id, None)
        return min(timers.values(), default=None)

    def _element(self) -> str:
        """Name the element at which the run is."""
        steps = self._explained().steps
        if not steps:
            return ways_out(self._part.way_in)["next"]
        return self._part.saved.routes[steps[-1].element].to[steps[-1].branch]

    def _at(self) -> str:
        return self._part.saved.routes[self._element()].kind


def _told(scene: Scene, part: _Part, user_id: str) -> Rehearsal:
    """Tell what the ledger knows of the run."""
    database, journey = scene.stores.ledger.database, part.document.journey
    run = explain(database, journey, user_id).runs[-1]
    sent: dict[str, list[SentPush]] = {}
    for one in reversed(list_pushes(database, journey=journey, limit=10_000).pushes):
        sent.setdefault(one.element, []).append(one)
    steps = []
    for step in run.steps:
        posted = scene.outside.posted.get(step.element)
        steps.append(
            RehearsedStep(
                element=step.element,
                kind=part.saved.routes[step.element].kind,
                at=step.at,
                branch=step.branch,
                because=step.because,
                outcome=step.outcome,
                pushes=[
                    RehearsedPush.model_validate(one.model_dump(include=set(RehearsedPush.model_fields)))
                    for one in sorted(sent.get(step.element, ()), key=lambda one: one.device_id)
                ],
                posted=None if posted is None else {"url": posted[0], "data": posted[1]},
            )
        )
    return Rehearsal(
        journey=journey,
        user_id=user_id,
        entry=part.entry,
        admitted=True,
        reason=run.reason or "",
        exit=run.exit,
        entered_at=run.entered_at,
        left_at=run.left_at,
        steps=steps,
    )
