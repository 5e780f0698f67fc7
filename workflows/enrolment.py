"""`Enrolment`: one occurrence of an entry's schedule. The audience is evaluated anew, and its users enter."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import activity, workflow
from temporalio.common import RetryPolicy, SearchAttributeKey

from workflows.contracts import (
    USERS_QUEUE,
    Audience,
    Enrolled,
    EnrolmentRequest,
    Given,
    Wire,
    enrol,
    evaluate_audience,
    journey_workflow_id,
)
from workflows.triggers import Schedule

QUICK = timedelta(minutes=1)
"""Longest one attempt may take of what reads or writes a few records."""
EVALUATION = timedelta(hours=1)
"""Longest one evaluation of an audience may take."""
LONGEST = timedelta(days=7)
"""Longest that what pages through users may take; its heartbeats tell sooner when the worker is gone."""
HEARTBEAT = timedelta(seconds=20)
"""A worker silent for longer than this is taken for dead, and the work goes to another."""
PATIENCE = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))

SCHEDULED_FOR = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""The time at which a schedule was to start a run, as the server tells it; the present for one triggered by hand."""

SKIPPED = {
    "paused": "The journey is paused: nobody enters",
    "finished": "The journey is finished, or was started anew: nobody enters",
    "no-entry": "The version that runs has no such entry any more",
    "not-due": "Nothing is due at this time: the server's calendar has more times than the journey's",
}
"""Why an occurrence does nothing, for a person."""


class ScheduledEntry(Given):
    """What the schedule of an entry starts its runs with."""

    journey: str
    launch: str
    """The start of the journey that it belongs to."""
    entry: str
    schedule: Schedule
    start: datetime
    """Periods count from here, UTC."""
    zone: str
    """The zone of its days and times: where the first users come to them."""
    exact: bool
    """Whether the server starts a run at each occurrence and at no other time."""


class Occurrence(Wire):
    """One run of an entry's schedule."""

    given: ScheduledEntry
    scheduled: datetime
    """The time that it is for, UTC."""
    now: datetime


class Due(Wire):
    """What an occurrence is to do."""

    enrolment: EnrolmentRequest | None = None
    """The admission of the entry's audience; null for nothing."""
    skipped: str = ""
    """Why nothing, one of `SKIPPED`."""


@activity.defn(name="begin-enrolment")
async def begin_enrolment(occurrence: Occurrence) -> Due:
    """Ask whether the journey runs and the occurrence is due, and name the admission."""
    raise NotImplementedError


def schedule_id(journey: str, entry: str) -> str:
    """Give the id of the Schedule of an entry; the workflows it starts have the time behind it.

    Args:
        journey: The journey's name.
        entry: The entry's id.

    Returns:
        `journey/{journey}/entry/{entry}`.
    """
    return f"{journey_workflow_id(journey)}/entry/{entry}"


async def evaluate(request: EnrolmentRequest) -> Audience:
    """Have an audience evaluated. For workflows.

    Args:
        request: Which admission of which entry's audience.

    Returns:
        How many users it has.
    """
    return await workflow.execute_activity(
        evaluate_audience,
        request,
        task_queue=USERS_QUEUE,
        start_to_close_timeout=EVALUATION,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=PATIENCE,
        summary=f"Evaluate the audience of {request.entry}",
    )


async def admit(request: EnrolmentRequest) -> Enrolled:
    """Have an evaluated audience admitted page by page, and runs started. For workflows.

    Args:
        request: Which admission of which entry's audience.

    Returns:
        How many entered and how many were refused.
    """
    return await workflow.execute_activity(
        enrol,
        request,
        task_queue=USERS_QUEUE,
        start_to_close_timeout=LONGEST,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=PATIENCE,
        summary=f"Enrol the users of {request.entry}",
    )


@workflow.defn(name="Enrolment")
class Enrolment:
    """One occurrence of an entry's schedule."""

    @workflow.run
    async def run(self, given: ScheduledEntry) -> Enrolled:
        """Evaluate the audience, and admit it.

        Args:
            given: The entry, and how its times are counted.

        Returns:
            How many entered and how many were refused; nobody where the journey does not run.
        """
        due = await workflow.execute_activity(
            begin_enrolment,
            Occurrence(
                given=given,
                scheduled=workflow.info().typed_search_attributes.get(SCHEDULED_FOR) or workflow.now(),
                now=workflow.now(),
            ),
            start_to_close_timeout=QUICK,
            retry_policy=PATIENCE,
            summary="Ask whether the journey runs",
        )
        if due.enrolment is None:
            workflow.set_current_details(SKIPPED.get(due.skipped, due.skipped))
            return Enrolled(audience=0, entered=0, refused=0, skipped=due.skipped)
        workflow.set_current_details("Evaluating the audience")
        audience = await evaluate(due.enrolment)
        workflow.set_current_details(f"Enrolling {audience.users} users")
        enrolled = await admit(due.enrolment)
        workflow.set_current_details(
            f"Of {enrolled.audience} users **{enrolled.entered}** entered, {enrolled.refused} were refused"
        )
        return enrolled
