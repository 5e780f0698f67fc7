"""`UserJourney`: one user's passage through a journey, interpreting the routes of its version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import NAMESPACE_URL, uuid5

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

from workflows.contracts import (
    PUSH_QUEUE,
    EntryOutcome,
    EntryRequest,
    Outcome,
    PathStep,
    UserJourneyInput,
    UserJourneyResult,
    Visit,
    condition_split,
    entry,
    push,
)
from workflows.documents import BRANCH_LABELS
from workflows.graph import Route

LOCAL_ATTEMPT = timedelta(seconds=2)
"""Longest a local activity may take: it holds a workflow slot meanwhile."""
LOCAL_LIMIT = timedelta(seconds=4)
"""Longest from scheduling a local activity to its end, waiting for a slot included."""
DECISION_ATTEMPT = timedelta(minutes=2)
"""Longest one attempt of a decision may take when it is worked out by an ordinary activity."""
PUSH_ATTEMPT = timedelta(minutes=1)
"""Longest one attempt of a push may take; providers have shorter deadlines."""
PATIENCE = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
"""Retries of ordinary activities: without end, since an outage must lose nobody."""
ONCE = RetryPolicy(maximum_attempts=1)

NO_INPUT = UserJourneyInput(journey="", user_id="")
"""Stands for the input that a client forgot: the run is refused by its id, in place of failing its task."""

Asked = TypeVar("Asked", EntryRequest, Visit)
Answer = TypeVar("Answer", EntryOutcome, Outcome)


@workflow.defn(name="UserJourney")
class UserJourney:
    """One run. Its history is a budget: 13 events for a user who is pushed, 8 for one who is not."""

    def __init__(self) -> None:
        """Start with an empty path."""
        self._path: list[PathStep] = []

    @workflow.run
    async def run(self, given: UserJourneyInput = NO_INPUT) -> UserJourneyResult:
        """Pass one user through the journey.

        Args:
            given: Who, where, and with which routes.

        Returns:
            How the run ended. A refused user is a result, not a failure.
        """
        # A run that a client started has no passage yet: its chain of runs names one, which a retry and a reset keep.
        info = workflow.info()
        passage = given.passage or str(uuid5(NAMESPACE_URL, f"{info.workflow_id}#{info.first_execution_run_id}"))
        admission = await self._decide(
            entry,
            EntryRequest(
                journey=given.journey,
                user_id=given.user_id,
                key=given.key,
                entry=given.entry,
                passage=passage,
                admitted=bool(given.passage),
                digest=given.digest,
                needs_routes=not given.routes,
                now=workflow.now(),
            ),
            summary=f"Entry: {given.entry or given.journey}",
        )
        if not admission.admitted:
            workflow.set_current_details(f"Not admitted: {admission.reason}")
            return UserJourneyResult(admitted=False, reason=admission.reason)
        routes = admission.routes if admission.routes is not None else given.routes
        left, element, step = admission.left, admission.element, 0
        while left is None:
            step += 1
            visit = Visit(
                journey=given.journey,
                version=admission.version or given.version,
                digest=admission.digest or given.digest,
                passage=passage,
                step=step,
                element=element,
                user_id=given.user_id,
                now=workflow.now(),
            )
            workflow.set_current_details(f"At {element} ({routes[element].kind})")
            outcome = await self._visit(routes[element], visit)
            self._path.append(PathStep(element=element, branch=outcome.branch, because=outcome.because))
            left, element = outcome.left, routes[element].to[outcome.branch]
        workflow.set_current_details(_story(self._path, left.exit or left.reason))
        return UserJourneyResult(admitted=True, reason=left.reason, exit=left.exit)

    async def _visit(self, route: Route, visit: Visit) -> Outcome:
        """Have one element do what it does."""
        match route.kind:
            case "condition-split":
                return await self._decide(condition_split, visit, summary=f"Condition split: {visit.element}")
            case "push":
                return await workflow.execute_activity(
                    push,
                    visit,
                    task_queue=PUSH_QUEUE,
                    start_to_close_timeout=PUSH_ATTEMPT,
                    retry_policy=PATIENCE,
                    summary=f"Push: {visit.element}",
                )
            case other:
                raise ApplicationError(
                    f"this worker does not know the element kind {other!r} of {visit.element!r}: run a newer worker",
                    type="UnknownElement",
                    non_retryable=True,
                )

    async def _decide(self, decision: Callable[[Asked], Awaitable[Answer]], asked: Asked, *, summary: str) -> Answer:
        """Decide by one local attempt, and by the ordinary activity when that is not enough.

        Retrying locally through an outage would hold every workflow slot of the worker, and no operator could see
        what is wrong; the server's retries hold nothing and show the reason.
        """
        try:
            return await workflow.execute_local_activity(
                decision,
                asked,
                start_to_close_timeout=LOCAL_ATTEMPT,
                schedule_to_close_timeout=LOCAL_LIMIT,
                retry_policy=ONCE,
                summary=summary,
            )
        except FailureError as failure:
            # A local activity's failure arrives bare or wrapped, so both are looked at.
            cause = failure.cause if isinstance(failure, ActivityError) else failure
            if is_cancelled_exception(failure) or (isinstance(cause, ApplicationError) and cause.non_retryable):
                raise
        return await workflow.execute_activity(
            decision,
            asked,
            start_to_close_timeout=DECISION_ATTEMPT,
            retry_policy=PATIENCE,
            summary=summary,
        )

    @workflow.query
    def path(self) -> list[PathStep]:
        """Tell the way so far: each element with the branch taken and why."""
        return self._path


def _story(path: list[PathStep], end: str) -> str:
    """Word a finished path in Markdown, for Temporal's UI."""
    lines = [
        f"- **{step.element}**: {BRANCH_LABELS.get(step.branch, step.branch)}. {step.because}".rstrip() for step in path
    ]
    return "\n".join([*lines, f"- left at **{end}**"])
