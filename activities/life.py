"""A journey's life: opened, watched until it is empty, closed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

from temporalio import activity
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from activities.documents.saving import save_definition
from activities.faults import as_failures
from activities.noticing import Notices
from activities.records.catalogue import Saved
from activities.records.rows import instant
from activities.records.statistics import count as count_stats
from activities.records.statistics import everybody_inside
from activities.starting import Starter, Way
from activities.stores import Stores
from activities.waking import PAGE, wake_held
from workflows.contracts import (
    JourneyRequest,
    Leave,
    OpenedJourney,
    OpenRequest,
    State,
    Stats,
    journey_workflow_id,
    user_of_workflow,
    user_workflow_id,
)
from workflows.documents import AudienceEntry, JourneyDocument
from workflows.errors import RefusedError, StillInside

POLL_SECONDS, POLL_GROWTH, LONGEST_POLL_SECONDS = 0.1, 1.3, 1.0
"""How soon it is asked again whether anybody is inside: first, each time later by this factor, and at most."""
LOOK_SECONDS = 3.0
"""How long one attempt watches before it leaves the asking to the server's retries."""

ALL_ENDINGS = timedelta(hours=1)
"""How often all runs that did not end well are looked at; between that only those that have ended since."""
ENDINGS_OVERLAP = timedelta(minutes=5)
"""How much of the time before the last look is looked at again: clocks differ, and the server's visibility and the
record of a start come late."""

LEFT_BEHIND = timedelta(seconds=60)
"""How long ago somebody was admitted whose run was not started, for whoever admitted him to be taken for dead."""

ABNORMAL = {
    WorkflowExecutionStatus.TERMINATED: "terminated",
    WorkflowExecutionStatus.FAILED: "failed",
    WorkflowExecutionStatus.CANCELED: "cancelled",
    WorkflowExecutionStatus.TIMED_OUT: "timed-out",
}
"""How a run can end without leaving by an exit, and the reason its passage is closed with."""


class LifeActivities:
    """Opens and closes journeys.

    Args:
        stores: Tables, catalogue and ledger.
        notices: Wakes runs for which the tables have changed.
    """

    def __init__(self, stores: Stores, notices: Notices) -> None:
        self._stores, self._notices = stores, notices
        self._endings = Endings(stores)

    @activity.defn(name="open-journey")
    @as_failures
    async def open_journey(self, request: OpenRequest) -> OpenedJourney:
        """Check and save what is to run, and write down that it runs.

        Args:
            request: A saved journey's name, or a definition.

        Returns:
            The version that runs, and the entries whose audience enters now.

        Raises:
            ApplicationError: The definition is wrong or the name unknown, which Temporal does not retry; or a store
                cannot be reached, which it does.
        """
        stores, given = self._stores, request.input
        if given.definition is not None:
            saved = await asyncio.to_thread(save_definition, stores, given.definition, request.now)
        elif given.journey:
            saved = await asyncio.to_thread(stores.catalogue.find, "journey", given.journey, given.version)
        else:
            raise RefusedError("a Journey is started with {journey: NAME} or with {definition: {...}}")
        expected = journey_workflow_id(saved.name)
        if request.workflow_id != expected:
            raise RefusedError(
                f"the journey {saved.name!r} was started with the workflow id {request.workflow_id!r}: start it with "
                f"{expected!r}, so that it cannot run twice at once",
                code="wrong-workflow-id",
            )
        life = await asyncio.to_thread(stores.ledger.life, saved.name)
        if life is not None and life.state == "archived":
            raise RefusedError(
                f"the journey {saved.name!r} is archived: take it out, with: journeys archive {saved.name} --undo",
                code="archived",
            )
        # A start before this one that was terminated in a pause has left those behind whom it held: they go on now.
        epoch = await stores.gate.resume(saved.name, "now", request.now) if life is not None else None
        await stores.ledger.open_journey(saved.name, saved.version, saved.digest, request.launch, request.now)
        if epoch is not None:
            await wake_held(activity.client(), stores, saved.name, epoch)
        document = saved.document
        if not isinstance(document, JourneyDocument):
            raise RefusedError(f"{saved.name!r} is no journey")
        return opened_journey(saved, document)

    @activity.defn(name="wait-until-empty")
    @as_failures
    async def wait_until_empty(self, request: JourneyRequest) -> Stats:
        """Return the numbers when nobody is inside; meanwhile, wake those for whom the tables have changed.

        Args:
            request: Which version of which journey.

        Returns:
            The numbers, with nobody inside.

        Raises:
            ApplicationError: Somebody is still inside, or a store cannot be reached: Temporal asks again later, which
                costs no history event.
        """
        await self._look_after(request.journey)
        await self._notices.look(activity.client(), request.journey)
        ledger, until, pause = self._stores.ledger, time.monotonic() + LOOK_SECONDS, POLL_SECONDS
        if request.admits:
            raise StillInside(f"{request.journey!r} admits users: this watch goes on until it does not")
        while await asyncio.to_thread(ledger.is_anybody_inside, request.journey):
            if time.monotonic() >= until or activity.is_worker_shutdown():  # a worker that stops waits for nobody
                inside = await asyncio.to_thread(ledger.inside, request.journey)
                raise StillInside(f"{inside} users are inside {request.journey!r}")
            await asyncio.sleep(pause)
            pause = min(pause * POLL_GROWTH, LONGEST_POLL_SECONDS)
        return await self._count(request)

    async def _look_after(self, journey: str) -> None:
        """See to those who would stay inside for ever: whose run is over, and whose run was never started."""
        await self._endings.reconcile(activity.client(), journey)
        await start_left_behind(activity.client(), self._stores, journey)

    @activity.defn(name="close-journey")
    @as_failures
    async def close_journey(self, request: JourneyRequest) -> Stats:
        """Write down that a journey is finished.

        Args:
            request: Which version of which journey.

        Returns:
            The final numbers, with nobody inside.

        Raises:
            ApplicationError: Somebody has come in since it was found empty, or a store cannot be reached: Temporal asks
                again later.
        """
        inside = await self._stores.ledger.finish_journey(request.journey, request.launch, request.now, when_empty=True)
        if inside:
            await self._look_after(request.journey)
            raise StillInside(f"{inside} users have come into {request.journey!r} in the last moment")
        return await self._count(request)

    @activity.defn(name="count")
    @as_failures
    async def count(self, request: JourneyRequest) -> Stats:
        """Count where everybody is.

        Args:
            request: Which version of which journey.

        Returns:
            The numbers.

        Raises:
            ApplicationError: A store cannot be reached. Temporal retries.
        """
        return await self._count(request)

    async def _count(self, request: JourneyRequest) -> Stats:
        return await asyncio.to_thread(stats_of, self._stores, request.journey, request.version)


def opened_journey(saved: Saved, document: JourneyDocument) -> OpenedJourney:
    """Describe a version that is set running.

    Args:
        saved: The version.
        document: Its content.

    Returns:
        Which entries admit whom, and when.
    """
    audiences = {name: entry for name, entry in document.entries.items() if isinstance(entry, AudienceEntry)}
    scheduled = {name: entry.schedule for name, entry in audiences.items() if entry.schedule is not None}
    open_ended = len(audiences) < len(document.entries) or any(one.dates is None for one in scheduled.values())
    days = [day for one in scheduled.values() for day in one.dates or ()]
    last = None if open_ended or not days else datetime.combine(date.fromisoformat(max(days)), clock.max, UTC)
    return OpenedJourney(
        journey=saved.name,
        version=saved.version,
        digest=saved.digest,
        title=document.title,
        audience_entries=[name for name in audiences if name not in scheduled],
        scheduled_entries=list(scheduled),
        admits=open_ended or bool(scheduled),
        admits_until=last,
    )


def stats_of(stores: Stores, journey: str, version: int = 0) -> Stats:
    """Count where everybody is in one version. Blocking.

    Args:
        stores: Catalogue and ledger.
        journey: The journey.
        version: Its version; 0 for the one that ran last, or the newest saved one when none ran.

    Returns:
        The numbers, as of now.

    Raises:
        NotFoundError: There is no such journey or version.
        StoreUnavailable: A store cannot be reached.
    """
    life = stores.ledger.life(journey)
    saved = stores.catalogue.find("journey", journey, version or (life.version if life is not None else 0))
    state: State = "draft"
    if life is not None:
        state = life.state if life.version == saved.version else "finished" if life.version > saved.version else "draft"
    parsed = stores.catalogue.journey(saved.digest)
    return count_stats(stores.ledger.database, parsed, saved.version, state, datetime.now(UTC))


def places_of(stores: Stores, journey: str) -> dict[str, int]:
    """Count those inside a journey by element, each in the version he is in. Blocking.

    Raises:
        StoreUnavailable: A store cannot be reached.
    """
    inside = everybody_inside(stores.ledger.database, journey)
    found = {version: stores.catalogue.find("journey", journey, version) for version in {one.version for one in inside}}
    versions = {version: stores.catalogue.journey(saved.digest) for version, saved in found.items()}
    return dict(sorted(Counter(one.whereabouts.element_in(versions[one.version]) for one in inside).items()))


class Endings:
    """Closes passages whose runs did not end well. It remembers its looks, so that each is at what is new.

    Args:
        stores: The ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._looked: dict[str, tuple[datetime, datetime]] = {}

    async def reconcile(self, client: Client, journey: str) -> int:
        """Close the passages whose runs were terminated, failed, cancelled or timed out.

        Args:
            client: Reaches the server.
            journey: The journey.

        Returns:
            How many passages were closed, each with that reason.

        Raises:
            RPCError: The server cannot be reached. Asked again, it looks at the same runs.
            StoreUnavailable: The ledger cannot be used. The same holds.
        """
        now = datetime.now(UTC)
        everything, last = self._looked.get(journey, (None, None))
        endings = ", ".join(f"'{name}'" for name in ("Terminated", "Failed", "Canceled", "TimedOut"))
        prefix = user_workflow_id(journey, "")
        query = f"WorkflowId STARTS_WITH '{prefix}' AND ExecutionStatus IN ({endings})"
        if everything is None or last is None or now - everything > ALL_ENDINGS:
            everything = now
        else:
            query += f" AND CloseTime >= '{instant(last - ENDINGS_OVERLAP)}'"
        closed = 0
        page: dict[str, WorkflowExecution] = {}
        async for run in client.list_workflows(query, page_size=PAGE):
            page[run.id] = run
            if len(page) >= PAGE:
                closed += await _close(client, self._stores, journey, page)
                page = {}
        closed += await _close(client, self._stores, journey, page)
        self._looked[journey] = everything, now
        return closed


async def start_left_behind(client: Client, stores: Stores, journey: str) -> int:
    """Start the runs of those whom a process admitted that died before it could start them.

    Args:
        client: Reaches the server.
        stores: Catalogue and ledger.
        journey: The journey.

    Returns:
        How many were started, each in the version that admitted him.
    """
    before = datetime.now(UTC) - LEFT_BEHIND
    left = await asyncio.to_thread(stores.ledger.left_behind, journey, before)
    if not left:
        return 0
    starter = Starter(stores.ids, stores.catalogue)
    versions = {admission.version for admission, _ in left}
    found = {one: await asyncio.to_thread(stores.catalogue.find, "journey", journey, one) for one in versions}
    saved = {version: stores.catalogue.journey(one.digest) for version, one in found.items()}
    starting = (
        starter.start(
            client,
            Way(saved[admission.version], admission.version, admission.entry, key),
            admission,
            seen=datetime.now(UTC),
        )
        for admission, key in left
    )
    results = await asyncio.gather(*starting, return_exceptions=True)
    started = [one.passage for (one, _), failure in zip(left, results, strict=True) if failure is None]
    await stores.ledger.started(started)  # the others are tried at the next look
    return len(started)


async def _close(client: Client, stores: Stores, journey: str, page: dict[str, WorkflowExecution]) -> int:
    """Close the open passages among some workflow ids whose newest run is over."""
    if not page:
        return 0
    named = await asyncio.to_thread(stores.ids.users, [user_of_workflow(workflow_id)[0] for workflow_id in page])
    passages = await asyncio.to_thread(stores.ledger.open_passages, journey, list(named.values()))
    leaving: dict[str, Leave] = {}
    for (user, key), passage in passages.items():
        # A run that began before ids were hidden has the plain one.
        plain = user in named
        who = user_workflow_id(journey, user, key) if plain else stores.ids.workflow_id(journey, user, key)
        if who in page:
            # A passage is marked as started after its run was, so the newest run of the id is the passage's own, or a
            # later one that was refused. When it is over, so is the passage; one that was left well is closed already.
            newest = await client.get_workflow_handle(page[who].id).describe()
            for run in (newest, page[who]):
                if newest.close_time is not None and run.status in ABNORMAL:
                    leaving.setdefault(passage, Leave(exit="", reason=ABNORMAL[run.status]))
    if leaving:
        await stores.ledger.close(leaving, datetime.now(UTC))
    return len(leaving)
