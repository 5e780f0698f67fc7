"""`UserJourney`: one user's passage through a journey, interpreting the routes of its version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar
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
    JOURNEY_ELEMENT,
    JOURNEY_VERSION,
    PUSH_QUEUE,
    USERS_QUEUE,
    EntryOutcome,
    EntryRequest,
    EventGiven,
    Move,
    Outcome,
    PathStep,
    Place,
    RemoveRequest,
    UserJourneyInput,
    UserJourneyResult,
    Visit,
    condition_split,
    entry,
    leave,
    push,
    reachability_check,
    split_test,
    summary_of,
    time_delay,
    update_user,
    wait_for_trigger,
    webhook,
)
from workflows.documents import BRANCH_LABELS
from workflows.events import take_event

LOCAL_ATTEMPT = timedelta(seconds=2)
"""Longest a local activity may take: it holds a workflow slot meanwhile."""
LOCAL_LIMIT = timedelta(seconds=4)
"""Longest from scheduling a local activity to its end, waiting for a slot included."""
DECISION_ATTEMPT = timedelta(minutes=2)
"""Longest one attempt of a decision may take when it is worked out by an ordinary activity."""
DECISION_HEARTBEAT = timedelta(seconds=20)
"""How soon it is seen that the worker of an ordinary decision is gone, or never got it from a busy server."""
ACTION_ATTEMPT = timedelta(minutes=1)
"""Longest one attempt of an action may take; providers have shorter deadlines."""
PATIENCE = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
"""Retries of ordinary activities: without end, since an outage must lose nobody."""
ONCE = RetryPolicy(maximum_attempts=1)

HANDED_OVER = "events handed over at the end"
"""Names a change that runs from before it do not follow: so that they replay as they went."""

NO_INPUT = UserJourneyInput(journey="", user_id="")
"""Stands for the input that a client forgot: the run is refused by its id, in place of failing its task."""

Asked = TypeVar("Asked", EntryRequest, Visit)
Answer = TypeVar("Answer", EntryOutcome, Outcome)


class _Work(NamedTuple):
    """How one kind of element does its work."""

    name: str
    """What people read in Temporal's UI."""
    activity: Callable[[Visit], Awaitable[Outcome]]
    queue: str = ""
    """The task queue of what changes something elsewhere; empty for a decision, which one local attempt answers."""


WORK = {
    "condition-split": _Work("Condition split", condition_split),
    "push": _Work("Push", push, PUSH_QUEUE),
    "time-delay": _Work("Time delay", time_delay),
    "wait-for-trigger": _Work("Wait for trigger", wait_for_trigger),
    "split-test": _Work("Split test", split_test),
    "reachability-check": _Work("Reachability check", reachability_check),
    "update-user": _Work("Update user", update_user, USERS_QUEUE),
    "webhook": _Work("Webhook", webhook, PUSH_QUEUE),
}
"""Each kind of element that does something. An exit does nothing: whatever leads to it closes the passage."""


@workflow.defn(name="UserJourney")
class UserJourney:
    """One run. Its history is a budget: 13 events for a user who is pushed, 8 for one who is not."""

    def __init__(self) -> None:
        """Start with an empty path."""
        self._path: list[PathStep] = []
        self._woken = False
        self._leaving = ""
        self._events: list[EventGiven] = []
        self._seen: datetime | None = None
        self._waits_at = ""

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
        self._seen = self._seen or given.seen
        passage = given.passage or str(uuid5(NAMESPACE_URL, f"{info.workflow_id}#{info.first_execution_run_id}"))
        if given.place is None:
            admission = await self._enter(given, passage)
            if not admission.admitted:
                workflow.set_current_details(f"Not admitted: {admission.reason}")
                return UserJourneyResult(admitted=False, reason=admission.reason)
            # Whoever asked to be admitted was looked for in the tables just now.
            self._seen = self._seen or workflow.now()
            given = given.model_copy(
                update={
                    "passage": passage,
                    "version": admission.version or given.version,
                    "digest": admission.digest or given.digest,
                    "routes": admission.routes if admission.routes is not None else given.routes,
                    "outbox": admission.outbox,
                }
            )
            left, element, step, until = admission.left, admission.element, 0, None
        else:
            left, element, step, until = None, given.place.element, given.place.step - 1, given.place.until
            self._woken, self._leaving = self._woken or given.place.woken, self._leaving or given.place.leave
            self._path = list(given.place.path)
        because = ""
        while left is None:
            step += 1
            if info.is_continue_as_new_suggested() and not self._events:
                self._go_on(given, element, step, None)
            visit = Visit(
                journey=given.journey,
                version=given.version,
                digest=given.digest,
                passage=passage,
                step=step,
                element=element,
                user_id=given.user_id,
                key=given.key,
                now=workflow.now(),
                until=until,
                seen=self._seen,
                woken=self._woken,
            )
            self._tell(f"Is at **{element}** ({given.routes[element].kind.replace('-', ' ')}).")
            outcome = await self._visit(given, visit)
            if outcome.move is not None:
                self._move(given, outcome.move, step)
            if outcome.branch:
                self._path.append(PathStep(element=element, branch=outcome.branch, because=outcome.because))
                element = given.routes[element].to[outcome.branch]
            if outcome.learned:
                self._seen = workflow.now()
            # What comes last has no summary after it that could tell; an ordinary activity's own event does.
            because = outcome.because if _is_local(given, visit) else ""
            left, until = outcome.left, None
        await self._hand_over(given)
        self._tell(f"Left by **{left.exit}**." if left.exit else f"Left early: **{left.reason}**.")
        return UserJourneyResult(admitted=True, reason=left.reason, exit=left.exit, because=because)

    async def _enter(self, given: UserJourneyInput, passage: str) -> EntryOutcome:
        """Ask to be admitted, and wait where the user comes in later."""
        while True:
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
            if admission.until is None or admission.left is not None or self._leaving:
                return admission
            self._woken = False
            place = given.entry or given.journey
            await self._rest(place, f"Entry: {place}", admission.until)

    async def _visit(self, given: UserJourneyInput, visit: Visit) -> Outcome:
        """Have one element do what it does, asking again whenever the time or a signal has come."""
        kind = given.routes[visit.element].kind
        while True:
            # Cleared before the question: a signal that comes while it is answered asks again.
            woken, self._woken = self._woken, bool(self._events[1:])
            # Who leaves is asked nothing more: what he did is handed over at the end.
            event = self._events.pop(0) if self._events and not self._leaving else None
            visit = visit.model_copy(update={"leave": self._leaving, "event": event, "woken": woken})
            outcome = await self._ask(given, kind, visit)
            # Whoever moves begins anew, so what was sent to this run is taken before.
            if outcome.branch or outcome.left is not None or (outcome.move is not None and not self._events):
                return outcome
            if outcome.move is not None:
                continue
            if workflow.info().is_continue_as_new_suggested() and not self._events:
                self._go_on(given, visit.element, visit.step, outcome.until or visit.until)
            name = f"{WORK[kind].name}: {visit.element}"
            await self._rest(visit.element, name, None if outcome.held else outcome.until, outcome.because)
            visit = visit.model_copy(
                update={"now": workflow.now(), "until": outcome.until or visit.until, "seen": self._seen}
            )

    async def _ask(self, given: UserJourneyInput, kind: str, visit: Visit) -> Outcome:
        """Ask an element, or the door where the user has to leave."""
        if visit.leave:
            return await self._decide(leave, visit, summary=f"Leave: {visit.leave}")
        work = WORK.get(kind)
        if work is None:
            raise ApplicationError(
                f"this worker does not know the element kind {kind!r} of {visit.element!r}: run a newer worker",
                type="UnknownElement",
                non_retryable=True,
            )
        # A summary is fixed before its work is done: what a decision gave is told by the summary that follows it.
        because = self._path[-1].because if self._path else ""
        summary = summary_of(", ".join(filter(None, (f"{work.name}: {visit.element}", because))))
        if _is_local(given, visit):
            return await self._decide(work.activity, visit, summary=summary, queue=work.queue)
        return await self._act(work.activity, visit, summary=summary, queue=work.queue)

    async def _rest(self, place: str, name: str, until: datetime | None, because: str = "") -> None:
        """Wait for an instant, UTC, or a signal; for a signal alone when the instant is null."""
        timeout = None if until is None else max(until - workflow.now(), timedelta())
        said = "until it is resumed" if until is None else f"until {until:%Y-%m-%d %H:%M:%S} UTC"
        why = f": {because}" if because else ""
        self._tell(f"{'Held' if until is None else 'Waits'} at **{place}** {said}{why}.")
        if self._waits_at != place:
            # One event, and only for those who wait: so that operators can search for them.
            self._waits_at = place
            workflow.upsert_search_attributes([JOURNEY_ELEMENT.value_set(place)])
        try:
            await workflow.wait_condition(lambda: self._woken, timeout=timeout, timeout_summary=f"{name}, {said}")
        except TimeoutError:
            return

    async def _decide(
        self, decision: Callable[[Asked], Awaitable[Answer]], asked: Asked, *, summary: str, queue: str = ""
    ) -> Answer:
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
        return await self._act(decision, asked, summary=summary, queue=queue)

    async def _act(
        self, action: Callable[[Asked], Awaitable[Answer]], asked: Asked, *, summary: str, queue: str
    ) -> Answer:
        """Ask by an ordinary activity, on a queue of its own or the run's, until it answers."""
        return await workflow.execute_activity(
            action,
            asked,
            task_queue=queue or None,
            start_to_close_timeout=ACTION_ATTEMPT if queue else DECISION_ATTEMPT,
            heartbeat_timeout=None if queue else DECISION_HEARTBEAT,
            retry_policy=PATIENCE,
            summary=summary,
        )

    async def _hand_over(self, given: UserJourneyInput) -> None:
        """Have the events taken that were sent to this run, and that no element of it was asked with."""
        # The marker costs two events, and only where there is something to hand over.
        while self._events and workflow.patched(HANDED_OVER):
            event = self._events.pop(0)
            named = {"user_id": event.user_id or given.user_id, "at": event.at or workflow.now()}
            with suppress(ActivityError):  # one that cannot be taken as it is: nobody is left to be told
                await workflow.execute_activity(
                    take_event,
                    event.model_copy(update=named),
                    task_queue=USERS_QUEUE,
                    start_to_close_timeout=DECISION_ATTEMPT,
                    retry_policy=PATIENCE,
                    summary=summary_of(f"{event.event}: {given.user_id}"),
                )

    def _tell(self, now: str) -> None:
        """Tell in Temporal's UI where the user is, and the way there."""
        workflow.set_current_details("\n".join([now, "", *map(_story, self._path)]).rstrip())

    def _go_on(self, given: UserJourneyInput, element: str, step: int, until: datetime | None) -> None:
        """Continue as a new run of the same passage, which knows its place, its way and what it was told."""
        place = Place(element=element, step=step, until=until, woken=self._woken, leave=self._leaving, path=self._path)
        workflow.continue_as_new(given.model_copy(update={"place": place, "seen": self._seen}))

    def _move(self, given: UserJourneyInput, move: Move, step: int) -> None:
        """Continue in another version."""
        workflow.upsert_search_attributes([JOURNEY_VERSION.value_set(str(move.version))])
        moved = given.model_copy(update={"version": move.version, "digest": move.digest, "routes": move.routes})
        self._go_on(moved, move.element, step, move.until)

    @workflow.signal
    def event(self, given: EventGiven | None = None) -> None:
        """Something happened that this run may wait for.

        Args:
            given: The event, from a client that sends it to this run alone; null when the ledger holds it already.
        """
        if given is not None and given.event:
            self._events.append(given)
        self._seen = workflow.now()
        self._woken = True

    @workflow.signal
    def resumed(self) -> None:
        """Ask again: the journey goes on after a pause, or has changed where this run waits."""
        self._woken = True

    @workflow.signal
    def remove(self, given: RemoveRequest | None = None) -> None:
        """Leave the journey at the next moment at which nothing is under way.

        Args:
            given: Why.
        """
        self._leaving = (given.reason if given is not None else "") or "removed"
        self._woken = True

    @workflow.query
    def path(self) -> list[PathStep]:
        """Tell the way so far: each element with the branch taken and why."""
        return self._path


def _is_local(given: UserJourneyInput, visit: Visit) -> bool:
    """Tell whether one local attempt does what a visit is for, where that is enough."""
    kind = given.routes[visit.element].kind
    # A push to the outbox is a row in the ledger, written with its outcome: no try of it can send it twice.
    return bool(visit.leave) or kind not in WORK or not WORK[kind].queue or (kind == "push" and given.outbox)


def _story(step: PathStep) -> str:
    """Word one step in Markdown, for Temporal's UI; the branch, where it says more than "next"."""
    branch = "" if step.branch == "next" else BRANCH_LABELS.get(step.branch, step.branch)
    because = f"({step.because})" if branch and step.because else step.because
    return f"- **{step.element}**: {' '.join(filter(None, (branch, because))) or 'done'}"
