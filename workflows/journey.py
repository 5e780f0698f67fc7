"""`Journey`: one journey's life, from its start until nobody is inside."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from workflows.contracts import (
    USERS_QUEUE,
    EnrolmentRequest,
    JourneyInput,
    JourneyRequest,
    JourneyStatus,
    OpenedJourney,
    OpenRequest,
    Stats,
    close_journey,
    count,
    enrol,
    evaluate_audience,
    open_journey,
    wait_until_empty,
)

QUICK = timedelta(minutes=1)
"""Longest one attempt may take of what reads or writes a few records."""
EVALUATION = timedelta(hours=1)
"""Longest one evaluation of an audience may take."""
ENROLMENT = timedelta(days=7)
"""Longest one enrolment may run; its heartbeats tell sooner when the worker is gone."""
HEARTBEAT = timedelta(seconds=20)
"""A worker silent for longer than this is taken for dead, and the work goes to another."""
PATIENCE = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))
POLLING = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=1.5, maximum_interval=timedelta(seconds=30)
)
"""How often the number of users inside is asked for; the server's retries cost no history."""

NO_INPUT = JourneyInput()
"""Stands for the input that a client forgot: the run is refused with what to give, in place of failing its task."""


@workflow.defn(name="Journey")
class Journey:
    """One journey's life. It ends when no entry can admit any more and nobody is inside."""

    def __init__(self) -> None:
        """Start with nothing opened."""
        self._opened: OpenedJourney | None = None
        self._launch = ""
        self._stats: Stats | None = None
        self._audience: int | None = None
        self._doing = "being opened"

    @workflow.run
    async def run(self, given: JourneyInput = NO_INPUT) -> Stats:
        """Run a journey.

        Args:
            given: A saved journey's name, or a whole definition.

        Returns:
            The final numbers.
        """
        self._launch = str(workflow.uuid4())
        opened = self._opened = await workflow.execute_activity(
            open_journey,
            OpenRequest(input=given, workflow_id=workflow.info().workflow_id, launch=self._launch, now=workflow.now()),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Check, save, set running",
        )
        await self._enrol([self._enrolment(opened, entry) for entry in opened.audience_entries])
        self._tell("waiting for those inside to leave")
        self._stats = await workflow.execute_activity(
            wait_until_empty,
            self._request(),
            start_to_close_timeout=QUICK,
            retry_policy=POLLING,
            summary="Wait until nobody is inside",
        )
        self._stats = await workflow.execute_activity(
            close_journey,
            self._request(),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Write down that it is finished",
        )
        self._tell("finished")
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._stats

    def _enrolment(self, opened: OpenedJourney, entry: str) -> EnrolmentRequest:
        """Name this start's admission of one entry's audience."""
        return EnrolmentRequest(
            enrolment=f"{self._launch}/{entry}",
            journey=opened.journey,
            version=opened.version,
            digest=opened.digest,
            entry=entry,
            now=workflow.now(),
        )

    async def _enrol(self, requests: list[EnrolmentRequest]) -> None:
        """Evaluate every audience once, then admit them page by page."""
        users = 0
        for request in requests:
            self._tell(f"evaluating the audience of {request.entry!r}")
            audience = await workflow.execute_activity(
                evaluate_audience,
                request,
                task_queue=USERS_QUEUE,
                start_to_close_timeout=EVALUATION,
                retry_policy=PATIENCE,
                summary=f"Evaluate the audience of {request.entry}",
            )
            users += audience.users
        self._audience = users
        for request in requests:
            self._tell(f"enrolling the audience of {request.entry!r}")
            await workflow.execute_activity(
                enrol,
                request,
                task_queue=USERS_QUEUE,
                start_to_close_timeout=ENROLMENT,
                heartbeat_timeout=HEARTBEAT,
                retry_policy=PATIENCE,
                summary=f"Enrol the users of {request.entry}",
            )

    def _request(self) -> JourneyRequest:
        """Name this journey in its version, now."""
        if self._opened is None:
            raise ApplicationError("the journey is still being opened: ask again in a moment", type="RefusedError")
        return JourneyRequest(
            journey=self._opened.journey, version=self._opened.version, launch=self._launch, now=workflow.now()
        )

    def _tell(self, doing: str) -> None:
        """Say what the journey is busy with, to the query and to Temporal's UI."""
        self._doing = doing
        title = (self._opened.title or self._opened.journey) if self._opened else "Journey"
        workflow.set_current_details(f"**{title}**: {doing}")

    @workflow.query
    def status(self) -> JourneyStatus:
        """Tell where the journey's life is."""
        finished = self._doing == "finished"
        return JourneyStatus(
            journey=self._opened.journey if self._opened else "",
            version=self._opened.version if self._opened else 0,
            state="finished" if finished else "running" if self._opened else "draft",
            doing=self._doing,
            audience=self._audience,
        )

    @workflow.query
    def stats(self) -> Stats | None:
        """Tell the last numbers that were counted, with their `as_of`; null before the first count."""
        return self._stats

    @workflow.update
    async def refresh(self) -> Stats:
        """Count where everybody is, now."""
        self._stats = await workflow.execute_activity(
            count,
            self._request(),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Count where everybody is",
        )
        return self._stats

    @refresh.validator
    def _can_refresh(self) -> None:
        """Refuse while there is nothing to count."""
        self._request()
