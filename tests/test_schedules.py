"""Entries with a schedule: the server starts each occurrence, and users enter on their own clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleOverlapPolicy,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.life import stats_of
from activities.records.reports import list_pushes
from activities.records.rows import instant, passages
from activities.schedules import CATCHING_UP, PAUSED, ScheduleActivities
from activities.scheduling import evaluated_as_of
from tests.house import House
from workers.operating import Operator
from workflows.calendar import FIRST_ZONE, at_local, local_time
from workflows.contracts import Enrolled, FinishRequest, ResumeRequest, ReviseRequest, ScheduleRequest, Stats
from workflows.enrolment import Due, Occurrence, ScheduledEntry, schedule_id
from workflows.triggers import Schedule

DAY = timedelta(days=1)
pytestmark = pytest.mark.whole_server

PARIS, TOKYO, NEW_YORK, KIRITIMATI = "Europe/Paris", "Asia/Tokyo", "America/New_York", "Pacific/Kiritimati"

RECIPE = """\
journey: NAME
reentry: never
entries:
  start: {kind: audience-entry, audience: {segment: paying}, schedule: {every: 15m}, next: promo}
elements:
  promo: {kind: push, message: {title: Hello, body: b}, next: done}
  done: {kind: exit}
"""
"""Takes in whoever joins the segment later, once."""

CLOCKS = """\
journey: NAME
timezone: Europe/Paris
entries:
  start:
    kind: audience-entry
    audience: {attribute: plan, is: paid}
    schedule: {dates: ["DAY"], time: "TIME", timezone: user, if_passed: PASSED}
    next: promo
elements:
  promo: {kind: push, message: {title: Hello, body: b}, next: done}
  done: {kind: exit}
"""


@pytest.fixture
def namespace() -> str:
    """The namespace that is always there."""
    return "default"


@asynccontextmanager
async def running(house: House, journey: str) -> AsyncIterator[tuple[Client, Operator]]:
    """Have a journey running, and leave nothing of it behind in the namespace."""
    async with house.serving() as client:
        try:
            await house.engine.start(journey, client=client)
            yield client, Operator(client, journey)
        finally:
            with suppress(RPCError):
                await client.get_schedule_handle(schedule_id(journey, "start")).delete()
            async for run in client.list_workflows("ExecutionStatus = 'Running'"):
                if run.id.startswith(f"journey/{journey}"):
                    with suppress(RPCError):
                        await client.get_workflow_handle(run.id).terminate()


def schedule_of(client: Client, journey: str, entry: str = "start") -> ScheduleHandle:
    return client.get_schedule_handle(schedule_id(journey, entry))


async def told(check: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.05)


async def described(client: Client, journey: str) -> ScheduleDescription:
    """Describe the schedule, as soon as it is there: a server that was just started takes seconds to begin with any."""
    async with asyncio.timeout(60):
        while True:
            with suppress(RPCError):
                found = await schedule_of(client, journey).describe()
                if found.schedule.state.note != CATCHING_UP:
                    return found
            await asyncio.sleep(0.2)


async def given_of(client: Client, journey: str) -> ScheduledEntry:
    action: Any = (await described(client, journey)).schedule.action
    (given,) = await client.data_converter.decode(action.args, [ScheduledEntry])
    return ScheduledEntry.model_validate(given)


async def occurrences(client: Client, journey: str, number: int) -> list[Enrolled]:
    """Wait until so many runs of the schedule have ended, and give what each did, in order."""
    async with asyncio.timeout(60):
        while True:
            info = (await described(client, journey)).info
            # One that the server starts twice is the same occurrence: its second run admits nobody again.
            actions = {one.scheduled_at: one for one in info.recent_actions}
            if len(actions) >= number:
                break
            await asyncio.sleep(0.2)
        found = []
        for _, one in sorted(actions.items()):
            assert isinstance(one.action, ScheduleActionExecutionStartWorkflow)
            handle = client.get_workflow_handle(one.action.workflow_id, result_type=Enrolled)
            found.append(await handle.result())
    return found


async def trigger(client: Client, journey: str) -> None:
    """Have the audience enter by hand, in another second than before: the server tells a run its time in whole ones."""
    await asyncio.sleep(1)
    await schedule_of(client, journey).trigger()


def numbers(house: House, journey: str) -> Stats:
    """Count, and hold the count to the laws."""
    stats = stats_of(house.stores, journey)
    assert stats.audience == stats.entered + sum(stats.refused.values())
    assert stats.entered + stats.moved_in == stats.inside + sum(stats.exited.values()) + stats.moved_out
    return stats


def coming(house: House, journey: str) -> dict[str, str | None]:
    """Tell when each admitted user comes in; null for at once."""
    query = select(passages.c.user_id, passages.c.enters_at).where(passages.c.journey == journey)
    rows = house.stores.ledger.database.read(lambda connection: connection.execute(query).all())
    return {row.user_id: row.enters_at for row in rows}


async def test_whoever_joins_later_enters_once(house: House) -> None:
    """`every: 15m` with `reentry: never` begins at once, takes in whoever joins the segment later, and nobody twice."""
    house.save(RECIPE.replace("NAME", "joiners"))
    async with running(house, "joiners") as (client, _):
        assert [one.entered for one in await occurrences(client, "joiners", 1)] == [4]
        await told(lambda: numbers(house, "joiners").exited == {"end": 4})
        house.load("users", "user_id,plan\nu3,paid\nu7,pro\n")
        await trigger(client, "joiners")
        assert (await occurrences(client, "joiners", 2))[-1] == Enrolled(audience=2, entered=2, refused=0)
        await told(lambda: numbers(house, "joiners").exited == {"end": 6})
        stats = numbers(house, "joiners")
        assert (stats.audience, stats.refused) == (6, {})
        assert not list(house.stores.snapshots.iterdir())
        found = await described(client, "joiners")
        begun = found.info.recent_actions[0].scheduled_at
        assert [later - begun for later in found.info.next_action_times[:2]] == [15 * DAY / 1440, 30 * DAY / 1440]
        assert found.schedule.policy.overlap == ScheduleOverlapPolicy.BUFFER_ONE
        first = client.get_workflow_handle(f"journey/joiners/entry/start-{begun:%Y-%m-%dT%H:%M:%SZ}")
        assert await (await first.describe()).static_summary() == "joiners: the audience of start enters"


async def test_a_pause_pauses_the_schedule(house: House) -> None:
    """Paused, a journey's schedule starts nothing, and one triggered by hand admits nobody; resumed, it goes on."""
    house.save(RECIPE.replace("NAME", "pausing"))
    async with running(house, "pausing") as (client, operator):
        await occurrences(client, "pausing", 1)
        start = (await given_of(client, "pausing")).start
        await operator.pause()
        state = (await described(client, "pausing")).schedule.state
        assert (state.paused, state.note) == (True, PAUSED)
        house.load("users", "user_id,plan\nu7,pro\n")
        await trigger(client, "pausing")
        assert (await occurrences(client, "pausing", 2))[-1].skipped == "paused"
        await operator.resume(ResumeRequest())
        state = (await described(client, "pausing")).schedule.state
        assert (state.paused, state.note) == (False, None)
        assert (await given_of(client, "pausing")).start == start
        await trigger(client, "pausing")
        assert (await occurrences(client, "pausing", 3))[-1].entered == 1


async def test_finishing_takes_the_schedule_away(house: House) -> None:
    """A finished journey has no schedule any more, and ends when nobody is inside."""
    house.save(RECIPE.replace("NAME", "finishing"))
    async with running(house, "finishing") as (client, operator):
        await occurrences(client, "finishing", 1)
        await operator.finish(FinishRequest())
        with pytest.raises(RPCError, match="not found"):
            await schedule_of(client, "finishing").describe()
        ended: Any = await asyncio.wait_for(client.get_workflow_handle("journey/finishing").result(), 20)
        assert (ended["state"], ended["exited"]) == ("finished", {"end": 4})


async def test_revising_replaces_the_schedule(house: House) -> None:
    """A revision keeps the count of a rule that stays, begins a changed one anew, and takes away one that is gone."""
    text = RECIPE.replace("NAME", "revising")
    house.save(text)
    async with running(house, "revising") as (client, operator):
        await occurrences(client, "revising", 1)
        first = await given_of(client, "revising")
        house.save(text.replace("Hello", "Again"))
        await operator.revise(ReviseRequest(inside="keep"))
        assert await given_of(client, "revising") == first
        house.save(text.replace("15m", "45m"))
        await operator.revise(ReviseRequest(inside="keep"))
        changed = await given_of(client, "revising")
        assert (changed.schedule.every, changed.start > first.start) == ("45m", True)
        (later,) = {after - changed.start for after in (await described(client, "revising")).info.next_action_times[:1]}
        assert timedelta(minutes=45) <= later <= timedelta(minutes=45, seconds=1)
        house.save(text.replace(" schedule: {every: 15m},", ""))
        await operator.revise(ReviseRequest(inside="keep"))
        with pytest.raises(RPCError, match="not found"):
            await schedule_of(client, "revising").describe()
        stats = stats_of(house.stores, "revising", 1)
        assert (stats.entered, len(list_pushes(house.stores.ledger.database, journey="revising").pushes)) == (4, 4)


@pytest.mark.parametrize("passed", ["now", "next_day", "skip"])
async def test_everybody_enters_on_his_own_clock(house: House, passed: Literal["now", "next_day", "skip"]) -> None:
    """Users in Tokyo, Paris and New York enter at the time of their own; who is past it enters as was set."""
    now, name = datetime.now(UTC), f"clocks-{passed.replace('_', '-')}"
    # Two hours ago in Kiritimati, in three hours in Tokyo.
    there = (now + 12 * DAY / 24).replace(microsecond=0)
    day, at = there.date(), there.time()
    house.save(
        CLOCKS.replace("NAME", name)
        .replace("DAY", day.isoformat())
        .replace("TIME", at.isoformat())
        .replace("PASSED", passed)
    )
    house.load(
        "users",
        f"user_id,plan,timezone\nu1,paid,{PARIS}\nu2,paid,{TOKYO}\nu3,free,{TOKYO}\nu4,paid,{NEW_YORK}\n"
        f"u5,paid,{KIRITIMATI}\nu6,paid,\n",
    )
    own = {"u1": PARIS, "u2": TOKYO, "u4": NEW_YORK, "u6": PARIS}
    async with running(house, name) as (client, _):
        (enrolled,) = await occurrences(client, name, 1)
        skips = passed == "skip"
        assert enrolled == Enrolled(audience=5, entered=4 if skips else 5, refused=1 if skips else 0)
        expected: dict[str, str | None] = {user: instant(at_local(day, at, zone)) for user, zone in own.items()}
        if not skips:
            tomorrow = instant(at_local(day + DAY, at, KIRITIMATI))
            expected["u5"] = tomorrow if passed == "next_day" else None
        assert coming(house, name) == expected
        if passed == "now":
            await told(lambda: numbers(house, name).exited == {"end": 1})
        assert numbers(house, name).refused == ({"time-passed": 1} if skips else {})
        if skips:
            await house.pass_time(client, name, "u2", timedelta(hours=2, minutes=30))
            assert numbers(house, name).inside == 4
            await house.pass_time(client, name, "u2", timedelta(hours=1))
            await told(lambda: numbers(house, name).exited == {"end": 1})
            assert numbers(house, name).inside == 3


def examples(*names: str) -> str:
    texts = (Path(__file__).parent / "examples" / "journeys.yaml").read_text(encoding="utf-8").split("\n---\n")
    return "\n---\n".join(text for text in texts if any(f"journey: {name}" in text for name in names))


async def test_the_example_of_birthdays(house: House) -> None:
    """Those whose birthday it is enter that day at ten of their own clocks, in a year once."""
    today = datetime.now(ZoneInfo(PARIS)).date()
    house.load(
        "users",
        f"user_id,birth_date,timezone,language\nu1,{today.replace(year=1996)},{PARIS},fr\n"
        f"u2,{(today + 3 * DAY).replace(year=1992)},{PARIS},fr\nu4,{today.replace(year=1988)},{NEW_YORK},no\n",
    )
    house.save(examples("j07-birthday"))
    async with running(house, "j07-birthday") as (client, _):
        await occurrences(client, "j07-birthday", 1)
        await told(lambda: set(coming(house, "j07-birthday")) == {"u1", "u4"})
        for user, zone in (("u1", PARIS), ("u4", NEW_YORK)):
            at = at_local(today, local_time("10:00"), zone)
            assert coming(house, "j07-birthday")[user] in (instant(at), None)
        assert (await described(client, "j07-birthday")).info.next_action_times[0].astimezone(
            ZoneInfo(FIRST_ZONE)
        ).strftime("%H:%M") == "10:00"
        for user in ("u1", "u4"):
            with suppress(RPCError):  # over already
                await house.pass_time(client, "j07-birthday", user, DAY)
        await told(lambda: numbers(house, "j07-birthday").exited == {"end": 2})
        await trigger(client, "j07-birthday")
        await told(lambda: numbers(house, "j07-birthday").refused == {"too-often": 2})


async def test_the_example_of_a_weekly_digest(house: House) -> None:
    """Triggered by hand, its audience enters at once, and again the next time; by itself on Mondays at nine."""
    house.load("users", "user_id,digest_count\nu1,7\nu2,1\n")
    house.save("segment: digest\nmatch: {attribute: digest_count, at_least: 5}\n---\n" + examples("j10-weekly-digest"))
    async with running(house, "j10-weekly-digest") as (client, _):
        coming_up = (await described(client, "j10-weekly-digest")).info.next_action_times[:3]
        assert {f"{at.astimezone(ZoneInfo(PARIS)):%A %H:%M}" for at in coming_up} == {"Monday 09:00"}
        now = datetime.now(ZoneInfo(PARIS))
        # Started on a Monday after nine, it has entered already.
        before = 1 if now.weekday() == 0 and now.hour >= 9 else 0
        await occurrences(client, "j10-weekly-digest", before)
        for number in (1, 2):
            await trigger(client, "j10-weekly-digest")
            done = await occurrences(client, "j10-weekly-digest", before + number)
            assert done[-1] == Enrolled(audience=1, entered=1, refused=0)
            await told(lambda n=before + number: numbers(house, "j10-weekly-digest").exited == {"end": n})
        titles = {(push.user_id, push.title) for push in list_pushes(house.stores.ledger.database).pushes}
        assert titles == {("u1", "Your week")}


async def test_the_last_date_ends_the_journey(house: House) -> None:
    """A journey whose dates are all past ends by itself, and its schedule with it."""
    house.save(
        CLOCKS.replace("NAME", "over").replace("DAY", "2020-01-01").replace("TIME", "09:00").replace("PASSED", "now")
    )
    async with running(house, "over") as (client, _):
        ended: Any = await asyncio.wait_for(client.get_workflow_handle("journey/over").result(), 20)
        assert (ended["state"], ended["audience"]) == ("finished", 0)
        with pytest.raises(RPCError, match="not found"):
            await schedule_of(client, "over").describe()


async def test_a_worker_that_died_while_setting_a_schedule(house: House) -> None:
    """A schedule that was not set whole is set again, and the occurrence that it makes up for admits nobody twice."""
    house.save(RECIPE.replace("NAME", "dying"))
    async with running(house, "dying") as (client, _):
        await occurrences(client, "dying", 1)
        saved = house.stores.catalogue.find("journey", "dying")
        given = await given_of(client, "dying")

        def forget(found: ScheduleUpdateInput) -> ScheduleUpdate:
            found.description.schedule.state.note = CATCHING_UP
            return ScheduleUpdate(found.description.schedule)

        await schedule_of(client, "dying").update(forget)
        request = ScheduleRequest(
            journey="dying",
            version=saved.version,
            digest=saved.digest,
            launch=given.launch,
            entries=["start"],
            opening=True,
            started_at=given.start + DAY,
        )
        environment = ActivityEnvironment(client=client)
        for _ in range(2):
            await environment.run(ScheduleActivities(house.stores).set_schedules, request)
        assert await given_of(client, "dying") == given
        done = await occurrences(client, "dying", 1)
        assert {one.entered for one in done} == {4}
        assert numbers(house, "dying").entered == 4


MONDAY = datetime(2030, 5, 6, tzinfo=UTC)


async def test_what_an_occurrence_is_asked_for(house: House) -> None:
    """What is due enters on its day, by hand at once; the server's surplus and what is of another start do nothing."""
    house.save(RECIPE.replace("NAME", "asked").replace("{every: 15m}", "{every: 2d, time: '10:00', timezone: UTC}"))
    async with running(house, "asked") as (client, operator):
        given = (await given_of(client, "asked")).model_copy(update={"start": MONDAY})
        assert (given.zone, given.exact) == ("UTC", True)
        environment = ActivityEnvironment(client=client)

        async def ask(scheduled: datetime, **other: Any) -> Due:
            asked = Occurrence(given=given.model_copy(update=other), scheduled=scheduled, now=scheduled)
            found: Due = await environment.run(ScheduleActivities(house.stores).begin_enrolment, asked)
            return found

        ten = MONDAY + timedelta(hours=10)
        due = (await ask(ten + 2 * DAY)).enrolment
        assert due is not None
        assert (due.day, due.enrolment) == (date(2030, 5, 8), f"{given.launch}/start/2030-05-08T10:00:00+00:00")
        assert (await ask(ten + DAY, exact=False)).skipped == "not-due"
        by_hand = (await ask(ten + DAY + timedelta(seconds=1), exact=False)).enrolment
        assert by_hand is not None
        assert by_hand.day is None
        assert (await ask(ten, launch="earlier")).skipped == "finished"
        assert (await ask(ten, entry="other")).skipped == "no-entry"
        await operator.pause()
        assert (await ask(ten)).skipped == "paused"
        await client.get_workflow_handle("journey/asked").terminate()
        assert (await ask(ten)).skipped == "finished"


@pytest.mark.parametrize(
    ("zone", "now", "expected"),
    [
        # The first zone has come to ten; in Paris that is still the evening before.
        ("user", "2030-05-05T20:00", "2030-05-06T08:00"),
        ("user", "2030-05-06T15:00", "2030-05-06T15:00"),
        ("user", "2030-05-06T23:00", "2030-05-06T08:00"),
        (TOKYO, "2030-05-06T01:00", "2030-05-06T01:00"),
        (TOKYO, "2030-05-06T05:00", "2030-05-06T05:00"),
    ],
)
def test_the_day_of_an_audience(zone: str, now: str, expected: str) -> None:
    """An audience is evaluated as of its day, whatever day it is where the journey is at home."""
    schedule = Schedule.model_validate({"every": "1d", "time": "10:00", "timezone": zone})
    found = evaluated_as_of(schedule, date(2030, 5, 6), PARIS, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)
