"""Recurrences as Temporal Schedules: the real server names the times that the calendar names."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice

import pytest
from temporalio import workflow
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleBackfill, ScheduleOverlapPolicy
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from workflows.calendar import FIRST_ZONE
from workflows.recurrence import Recurrence, is_due, occurrences

with workflow.unsafe.imports_passed_through():
    from activities.scheduling import schedule_spec
    from workers.plugin import LIGHT_MODULES

PARIS, HAVANA, LORD_HOWE, KATHMANDU = "Europe/Paris", "America/Havana", "Australia/Lord_Howe", "Asia/Kathmandu"
DAY = timedelta(days=1)
SCHEDULED = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""What the server tells each run that a schedule starts."""
START = datetime(2030, 5, 6, 7, 8, 9, 250, tzinfo=UTC)

CASES: list[tuple[str, Recurrence, datetime, str, bool]] = [
    ("minutes", Recurrence(every=timedelta(minutes=15)), START, PARIS, True),
    ("hours-on-sundays", Recurrence(every=timedelta(hours=7), weekdays=("sunday",)), START, KATHMANDU, True),
    ("daily", Recurrence(every=DAY, at=time(10)), datetime(2030, 3, 26, tzinfo=UTC), PARIS, True),
    ("daily-first-zone", Recurrence(every=DAY, at=time(10)), START, FIRST_ZONE, True),
    ("weekly", Recurrence(every=7 * DAY), START, KATHMANDU, True),
    ("weekdays", Recurrence(weekdays=("monday", "friday"), at=time(9, 30, 15)), START, PARIS, True),
    (
        "dates",
        Recurrence(dates=(date(2032, 2, 29), date(2031, 7, 14), date(2020, 1, 1)), at=time(9)),
        START,
        PARIS,
        True,
    ),
    ("three-days-utc", Recurrence(every=3 * DAY, at=time(10)), START, "UTC", True),
    ("three-days", Recurrence(every=3 * DAY, at=time(10)), datetime(2030, 3, 26, tzinfo=UTC), PARIS, False),
    ("two-weeks", Recurrence(every=14 * DAY, weekdays=("monday", "thursday"), at=time(10)), START, PARIS, False),
    ("in-a-gap", Recurrence(every=DAY, at=time(2, 30)), datetime(2030, 3, 28, tzinfo=UTC), PARIS, False),
    ("twice", Recurrence(every=DAY, at=time(2, 30)), datetime(2030, 10, 25, tzinfo=UTC), PARIS, False),
    ("half-hour-gap", Recurrence(every=DAY, at=time(2, 15)), datetime(2030, 10, 3, tzinfo=UTC), LORD_HOWE, False),
    ("half-hour-twice", Recurrence(every=DAY, at=time(1, 45)), datetime(2030, 4, 4, tzinfo=UTC), LORD_HOWE, False),
    # Where midnight is in a gap, the server's calendar alone leaves this Sunday out.
    ("sundays", Recurrence(weekdays=("sunday",), at=time(10)), datetime(2030, 3, 1, tzinfo=UTC), HAVANA, False),
    (
        "date-in-a-gap",
        Recurrence(dates=(date(2030, 3, 31),), at=time(2, 30)),
        datetime(2030, 1, 1, tzinfo=UTC),
        PARIS,
        False,
    ),
]


def schedule_of(rule: Recurrence, start: datetime, zone: str) -> Schedule:
    action = ScheduleActionStartWorkflow("Scheduled", id="scheduled", task_queue="scheduled")
    return Schedule(action=action, spec=schedule_spec(rule, start, zone).spec)


@pytest.fixture
def client(whole_server: WorkflowEnvironment) -> Client:
    """The namespace that is always there."""
    return whole_server.client


@pytest.mark.parametrize(("name", "rule", "start", "zone", "exact"), CASES, ids=[case[0] for case in CASES])
async def test_the_server_names_the_same_times(
    client: Client, name: str, rule: Recurrence, start: datetime, zone: str, exact: bool
) -> None:
    """The server's next times are the occurrences; where the spec is not exact, those that are due are."""
    assert schedule_spec(rule, start, zone).exact is exact
    handle = await client.create_schedule(name, schedule_of(rule, start, zone))
    told = (await handle.describe()).info.next_action_times
    assert len(told) == 10 or rule.dates
    due = [moment for moment in told if is_due(rule, start, zone, moment)]
    assert due == told or not exact
    assert due == list(islice(occurrences(rule, start, zone), len(due)))
    assert len(due) >= (1 if rule.dates else 3)


def test_a_date_that_calendars_do_not_know() -> None:
    """A date after the last year of the server's calendars is refused, since it would never come."""
    with pytest.raises(ValueError, match="2101-01-01 is too far: 2100 is the last year"):
        schedule_spec(Recurrence(dates=(date(2101, 1, 1),)), START, PARIS)


OTHER_DAYS = Recurrence(every=2 * DAY, at=time(2, 30))
BEGIN = datetime(2025, 10, 24, tzinfo=UTC)


@workflow.defn(name="Scheduled")
class Scheduled:
    """Tells the time it is scheduled for when that is due, and null when it is not."""

    @workflow.run
    async def run(self) -> str | None:
        """Ask the calendar."""
        moment = workflow.info().typed_search_attributes[SCHEDULED]
        return moment.isoformat() if is_due(OTHER_DAYS, BEGIN, PARIS, moment) else None


async def test_what_is_started_too_often_finds_out(client: Client) -> None:
    """A run in the sandbox reads the time it is scheduled for, and of those started only the due ones go on."""
    schedule = schedule_of(OTHER_DAYS, BEGIN, PARIS)
    schedule.spec.end_at = BEGIN + 5 * DAY
    handle = await client.create_schedule("some", schedule)
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*LIGHT_MODULES)
    runner = SandboxedWorkflowRunner(restrictions=restrictions)
    async with Worker(client, task_queue="scheduled", workflows=[Scheduled], workflow_runner=runner):
        await handle.backfill(ScheduleBackfill(BEGIN, schedule.spec.end_at, overlap=ScheduleOverlapPolicy.ALLOW_ALL))
        started: list[str] = []
        async with asyncio.timeout(20):
            while len(started) < 5:
                started = [run.action.workflow_id for run in (await handle.describe()).info.recent_actions]
                await asyncio.sleep(0.1)
        told = [await client.get_workflow_handle(one).result() for one in started]
    due = [moment.isoformat() for moment in islice(occurrences(OTHER_DAYS, BEGIN, PARIS), 3)]
    assert sorted(one for one in told if one) == due
    assert told.count(None) == 2
