"""Operating a running journey from outside: the updates of the workflow `Journey`, with failures as our errors."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from workers.launching import UNANSWERED, WORKER_SECONDS, JourneyFailed, NoWorker
from workflows.contracts import (
    EnterReport,
    EnterRequest,
    FinishRequest,
    LifeReport,
    MoveRequest,
    ResumeRequest,
    ReviseRequest,
    TakeOutRequest,
    journey_workflow_id,
)
from workflows.errors import Fault, RefusedError
from workflows.turnover import ASK_AGAIN

TURNOVER_SECONDS, TURNOVER_PAUSE_SECONDS = 60.0, 0.2
"""How long, and how often, an update is given again that came while the journey's workflow continues as new."""

Report = TypeVar("Report", LifeReport, EnterReport)


class Operator:
    """Takes the turns of one journey's life.

    Args:
        client: Reaches the server.
        journey: The journey's name.
    """

    def __init__(self, client: Client, journey: str) -> None:
        self._client = client
        self.journey = journey

    async def pause(self) -> LifeReport:
        """Freeze the journey: when this returns, nothing is sent and nobody enters.

        Raises:
            RefusedError: The journey does not run, or is paused already.
            NoWorker: No worker answers.
        """
        return await self._update("pause", None, LifeReport)

    async def resume(self, request: ResumeRequest) -> LifeReport:
        """Go on after a pause. Raises as `pause` does."""
        return await self._update("resume", request, LifeReport)

    async def finish(self, request: FinishRequest) -> LifeReport:
        """Let nobody enter any more. Raises as `pause` does."""
        return await self._update("finish", request, LifeReport)

    async def revise(self, request: ReviseRequest) -> LifeReport:
        """Have another version take over. Raises as `pause` does."""
        return await self._update("revise", request, LifeReport)

    async def enter(self, request: EnterRequest) -> EnterReport:
        """Let users enter by the API entry. Raises as `pause` does."""
        return await self._update("enter", request, EnterReport)

    async def remove(self, request: TakeOutRequest) -> LifeReport:
        """Take a user out. Raises as `pause` does."""
        return await self._update("remove", request, LifeReport)

    async def move(self, request: MoveRequest) -> LifeReport:
        """Have a user go on at another element. Raises as `pause` does."""
        return await self._update("move", request, LifeReport)

    async def _update(self, name: str, argument: Any, report: type[Report]) -> Report:
        handle = self._client.get_workflow_handle(journey_workflow_id(self.journey))
        patience = timedelta(seconds=WORKER_SECONDS)
        given = {} if argument is None else {"arg": argument}
        until = time.monotonic() + TURNOVER_SECONDS
        while True:
            try:
                update = await handle.start_update(
                    name,
                    **given,
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    result_type=report,
                    rpc_timeout=patience,
                )
                found: Report = await update.result()
                return found
            except WorkflowUpdateFailedError as error:
                if not _is_to_come_again(error) or time.monotonic() >= until:
                    raise _refusal(error) from None
            except (WorkflowUpdateRPCTimeoutOrCancelledError, RPCError) as error:
                if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                    raise RefusedError(
                        f"the journey {self.journey!r} does not run",
                        code="not-running",
                        hint=f"start it with: journeys start {self.journey}",
                    ) from None
                if isinstance(error, RPCError) and error.status not in UNANSWERED:
                    raise
                raise NoWorker(
                    f"no worker answers for the journey {self.journey!r} within {WORKER_SECONDS:g} s",
                    hint="run `journeys worker`, or `journeys dev`, with the same home and the same server",
                ) from error
            await asyncio.sleep(TURNOVER_PAUSE_SECONDS)


def _is_to_come_again(error: WorkflowUpdateFailedError) -> bool:
    """Tell whether an update was refused only since the workflow is about to continue as new."""
    return isinstance(error.cause, ApplicationError) and error.cause.type == ASK_AGAIN


def _refusal(error: WorkflowUpdateFailedError) -> Exception:
    """Give what a refused update said: our faults where it was one of our errors."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, ApplicationError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, ApplicationError):
        return JourneyFailed(
            [Fault(code="failed", message=f"the update did not end well: {cause or error}")], refused=False
        )
    details = cause.details[0] if cause.details and isinstance(cause.details[0], list) else []
    faults = [Fault.model_validate(one) for one in details]
    return JourneyFailed(faults or [Fault(code="refused", message=cause.message)], refused=True)
