"""`Events`: the one workflow to which any Temporal client, in any language, gives events."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from workflows.contracts import USERS_QUEUE, EventGiven, Lean, Wire, summary_of
from workflows.turnover import Turnover

EVENTS_ID = "events"
"""Id of the workflow: there is one, started by the first event."""

ATTEMPT = timedelta(seconds=30)
"""Longest one attempt to take an event may take."""
PATIENCE = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


class EventTaken(Wire):
    """What an event did."""

    event_id: str
    """Names it: given with it, or made of what it says."""
    started: int = 0
    """Runs that it started; 0 for an event that was taken before."""
    delivered: int = 0
    """Runs that waited for it; 0 for an event that was taken before."""
    warnings: list[str] = []
    """What of it could not be kept."""


class EventsInput(Lean):
    """Starts the workflow: nothing has to be said."""


@activity.defn(name="take-event")
async def take_event(given: EventGiven) -> EventTaken:
    """Store an event, start runs, wake those who wait for it, count goals."""
    raise NotImplementedError


@workflow.defn(name="Events")
class Events:
    """Takes events as updates, for ever."""

    def __init__(self) -> None:
        """Start with nothing under way."""
        self._turnover = Turnover()

    @workflow.run
    async def run(self, given: EventsInput | None = None) -> None:
        """Wait for events, and continue as new before the history grows large.

        Args:
            given: Nothing.
        """
        await workflow.wait_condition(workflow.info().is_continue_as_new_suggested)
        await self._turnover.gap()
        workflow.continue_as_new(given)

    @workflow.update
    async def event(self, given: EventGiven) -> EventTaken:
        """Take an event.

        Args:
            given: The event. With an id of its own, it can be given again without doing anything twice.

        Returns:
            What it did. It is stored, and what it sets off is set off.
        """
        # The instant is told here, so that a retry means the same event.
        given = given.model_copy(update={"at": given.at or workflow.now()})
        return await workflow.execute_activity(
            take_event,
            given,
            task_queue=USERS_QUEUE,
            start_to_close_timeout=ATTEMPT,
            retry_policy=PATIENCE,
            summary=summary_of(f"{given.event}: {given.user_id}"),
        )

    @event.validator
    def _can_take(self, given: EventGiven) -> None:
        self._turnover.refuse()
