"""Enrolment: an audience evaluated once, kept, and started page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import polars as pl
from temporalio import activity
from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.faults import as_failures
from activities.records.admissions import Admission, Arrival
from activities.records.catalogue import SavedJourney
from activities.stores import Stores
from workflows.contracts import (
    JOURNEY_ID,
    JOURNEY_USER_ID,
    JOURNEY_VERSION,
    USERS_QUEUE,
    Audience,
    Enrolled,
    EnrolmentRequest,
    UserJourneyInput,
    user_workflow_id,
)
from workflows.errors import NotFoundError, StoreUnavailable, WorkerStopping

PAGE = 500
"""Users admitted in one transaction."""
STARTS_AT_ONCE = 50
"""Starts under way at one moment: more gain nothing on one server."""
BACKLOG_LIMIT = 2_000
"""Most runs started but not begun: the server and the workers see a stream, not a flood."""
BACKLOG_SECONDS = 0.2
ID_IN_USE_SECONDS = 30.0
"""How long a start waits for a workflow id whose earlier run is closing."""


class EnrolmentActivities:
    """Evaluates audiences and starts their runs.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="evaluate-audience")
    @as_failures
    async def evaluate_audience(self, request: EnrolmentRequest) -> Audience:
        """Evaluate an entry's audience, and keep who is in it under the enrolment's id.

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
        await asyncio.to_thread(stores.tables.require, "users")
        found = await asyncio.to_thread(
            stores.segments.evaluate,
            saved.document.entries[request.entry].audience,
            request.now,
            zone=saved.document.timezone,
        )
        await asyncio.to_thread(self._keep, request.enrolment, found.users)
        audience = Audience(
            enrolment=request.enrolment, users=found.users.height, as_of=found.as_of, tables=found.tables
        )
        return await stores.ledger.open_enrolment(
            request.enrolment, request.journey, request.version, request.entry, audience
        )

    @activity.defn(name="enrol")
    @as_failures
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
        )
        starter = _Starter(stores, saved, request)
        beating = asyncio.create_task(_beat())
        try:
            for page in self._pages(request.enrolment, cursor, audience.users):
                await starter.wait_for_room()
                if activity.is_worker_shutdown():
                    raise WorkerStopping(f"this worker stops: another one goes on behind user {cursor} of the audience")
                admissions = await stores.ledger.admit(arrival, page)
                entering = [admission for admission in admissions if not admission.refused]
                await starter.start([admission for admission in entering if not admission.started])
                cursor += len(page)
                await stores.ledger.page_done(request.enrolment, [admission.passage for admission in entering], cursor)
        finally:
            beating.cancel()
        entered, refused = await asyncio.to_thread(stores.ledger.enrolled, request.enrolment)
        return Enrolled(audience=audience.users, entered=entered, refused=refused)

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

    def _pages(self, enrolment: str, cursor: int, end: int) -> Iterator[list[str]]:
        """Read a snapshot from the cursor on, a page at a time, so that memory stays flat."""
        path = self._snapshot(enrolment)
        if not path.exists():
            raise StoreUnavailable(
                f"the audience of {enrolment!r} is missing: {str(path)!r}. Workers that enrol share one JOURNEYS_HOME"
            )
        lazy = pl.scan_parquet(path)
        for begin in range(cursor, end, PAGE):
            yield lazy.slice(begin, PAGE).collect().get_column("user_id").to_list()


async def _beat() -> None:
    """Tell the server that the worker lives, while a page takes its time."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(3)


class _Starter:
    """Starts the runs of one enrolment, some at a time."""

    def __init__(self, stores: Stores, saved: SavedJourney, request: EnrolmentRequest) -> None:
        self._ledger = stores.ledger
        self._saved = saved
        self._request = request
        self._client: Client = activity.client()
        self._slots = asyncio.Semaphore(STARTS_AT_ONCE)

    async def wait_for_room(self) -> None:
        """Wait while too many runs were started and have not begun, unless the worker stops."""
        journey = self._request.journey
        while await asyncio.to_thread(self._ledger.waiting_to_begin, journey) > BACKLOG_LIMIT - PAGE:
            if activity.is_worker_shutdown():
                return
            await asyncio.sleep(BACKLOG_SECONDS)

    async def start(self, admissions: list[Admission]) -> None:
        """Start a run for each admission; returns when every one runs."""
        results = await asyncio.gather(*map(self._start_one, admissions), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _start_one(self, admission: Admission) -> None:
        request, document = self._request, self._saved.document
        workflow_id = user_workflow_id(request.journey, admission.user_id)
        waited = 0.0
        # A run that a dead worker started may have ended meanwhile, and then its id is free for a second one.
        if admission.known and await self._runs(workflow_id, admission.passage):
            return
        while True:
            try:
                async with self._slots:
                    await self._client.start_workflow(
                        "UserJourney",
                        UserJourneyInput(
                            journey=request.journey,
                            user_id=admission.user_id,
                            entry=request.entry,
                            passage=admission.passage,
                            version=request.version,
                            digest=request.digest,
                            routes=self._saved.routes,
                        ),
                        id=workflow_id,
                        task_queue=USERS_QUEUE,
                        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                        search_attributes=search_attributes(request.journey, request.version, admission.user_id),
                        static_summary=f"{document.title or document.journey}: {admission.user_id}",
                    )
                return
            except WorkflowAlreadyStartedError:
                # Either this passage's run, started by a worker that died before it could write so, or an earlier
                # run of the user that has left the journey and is about to close.
                if await self._runs(workflow_id, admission.passage):
                    return
                if waited >= ID_IN_USE_SECONDS:
                    raise StoreUnavailable(
                        f"the workflow id {workflow_id!r} is held by another run that does not end: "
                        "see it in Temporal's UI, and terminate it if it is stuck"
                    ) from None
                waited += BACKLOG_SECONDS
                await asyncio.sleep(BACKLOG_SECONDS)

    async def _runs(self, workflow_id: str, passage: str) -> bool:
        """Tell whether the newest run of a workflow id, open or ended, is a passage's."""
        handle = self._client.get_workflow_handle(workflow_id)
        try:
            async with self._slots:
                async for event in handle.fetch_history_events(page_size=1):
                    payloads = event.workflow_execution_started_event_attributes.input.payloads
                    (given,) = await self._client.data_converter.decode(payloads, [UserJourneyInput])
                    return bool(given.passage == passage)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
        return False


def search_attributes(journey: str, version: int, user_id: str) -> TypedSearchAttributes:
    """Give a run's search attributes: set at its start, they cost no event."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(JOURNEY_ID, journey),
            SearchAttributePair(JOURNEY_VERSION, str(version)),
            SearchAttributePair(JOURNEY_USER_ID, user_id),
        ]
    )
