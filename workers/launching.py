"""Launching a journey's workflow, and waiting for what it says: its audience, or why it failed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.records.catalogue import Saved
from workers.connecting import create_search_attributes
from workflows.contracts import (
    JOURNEY_ID,
    JOURNEY_VERSION,
    JOURNEYS_QUEUE,
    JourneyInput,
    JourneyStatus,
    Stats,
    journey_workflow_id,
    summary_of,
)
from workflows.documents import JourneyDocument
from workflows.errors import Fault, JourneyError

WORKER_SECONDS = 5.0
"""How long a start waits for a worker to answer before it says that none does."""
ATTRIBUTE_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries while the server's parts learn of new search attributes."""
UNANSWERED = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.CANCELLED)
"""What the server answers to a query that no worker takes."""


class NoWorker(JourneyError):
    """No worker answers: what was started waits."""

    code = "no-worker"


class JourneyFailed(JourneyError):
    """The journey's workflow failed.

    Args:
        faults: What it said.
        refused: Whether trying again can never help.
    """

    code = "journey-failed"

    def __init__(self, faults: list[Fault], *, refused: bool) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self._faults = faults
        self.refused = refused

    @property
    def faults(self) -> list[Fault]:
        """What the workflow said."""
        return list(self._faults)


async def launch(client: Client, found: Saved, document: JourneyDocument) -> WorkflowHandle[object, Stats]:
    """Launch; where no worker ever served, the namespace lacks our search attributes, and gets them first."""
    for pause in ATTRIBUTE_PAUSES:
        try:
            return await _launch(client, found, document)
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT or "search attribute" not in error.message:
                raise
            await create_search_attributes(client)
            await asyncio.sleep(pause)
    return await _launch(client, found, document)


async def _launch(client: Client, found: Saved, document: JourneyDocument) -> WorkflowHandle[object, Stats]:
    handle: WorkflowHandle[object, Stats] = await client.start_workflow(
        "Journey",
        JourneyInput(journey=found.name, version=found.version),
        id=journey_workflow_id(found.name),
        task_queue=JOURNEYS_QUEUE,
        result_type=Stats,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(JOURNEY_ID, found.name),
                SearchAttributePair(JOURNEY_VERSION, str(found.version)),
            ]
        ),
        static_summary=summary_of(document.title or document.journey),
        static_details=f"The life of **{found.name}**, started with version {found.version}. The query `status` "
        f"tells where it is, `stats` the last count; the update `refresh` counts anew. The runs of its users: "
        f'`JourneyId = "{found.name}" AND WorkflowType = "UserJourney"`.',
    )
    return handle


async def status_of(handle: WorkflowHandle[object, Stats]) -> JourneyStatus:
    """Ask a journey for its status; a worker has to answer."""
    try:
        patience = timedelta(seconds=WORKER_SECONDS)
        found: JourneyStatus = await handle.query("status", result_type=JourneyStatus, rpc_timeout=patience)
        return found
    except WorkflowQueryFailedError as error:
        raise JourneyError(f"the journey {handle.id!r} does not answer: {error}") from error
    except RPCError as error:
        if error.status in UNANSWERED:
            raise NoWorker(
                f"no worker answers for {handle.id!r} within {WORKER_SECONDS:g} s; it is started, and goes on as soon "
                "as one serves",
                hint="run `journeys worker`, or `journeys dev`, with the same home and the same server",
            ) from error
        raise


async def audience_of(handle: WorkflowHandle[object, Stats]) -> int | None:
    """Wait until a journey's audience is evaluated, or the journey fails."""
    over = asyncio.create_task(handle.result())
    pause = 0.02
    try:
        while not over.done():
            status = await status_of(handle)
            if status.audience is not None:
                return status.audience
            await asyncio.wait([over], timeout=pause)
            pause = min(pause * 2, 1.0)
        over.result()
        return (await status_of(handle)).audience
    except WorkflowFailureError as error:
        raise failure_of(error) from error
    finally:
        over.cancel()


def failure_of(error: WorkflowFailureError) -> JourneyFailed:
    """Give what a failed workflow said: our faults where it was one of our errors."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, ApplicationError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ApplicationError):
        details = cause.details[0] if cause.details and isinstance(cause.details[0], list) else []
        faults = [Fault.model_validate(one) for one in details]
        return JourneyFailed(faults or [Fault(code=cause.type or "failed", message=cause.message)], refused=True)
    fault = Fault(code="failed", message=f"the journey did not end well: {cause or error}")
    return JourneyFailed([fault], refused=False)
