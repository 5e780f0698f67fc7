"""Faults: whatever is killed or cannot be reached, the ledger's first answer holds, and nobody is lost."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowHandle

from activities.records.rows import passages, pushes, steps
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from tests.worker_that_dies import activities_only, other_process, production_workers, until
from workflows.contracts import (
    JOURNEYS_QUEUE,
    PUSH_QUEUE,
    USERS_QUEUE,
    Stats,
    UserJourneyInput,
    UserJourneyResult,
    user_workflow_id,
)

RUNS = 300

CROWD = """\
journey: crowd
entries:
  start: {kind: audience-entry, audience: {attribute: club, is: crowd}, next: early}
elements:
  early:
    kind: condition-split
    match: {attribute: number, less_than: 100}
    branches: {users_in_segment: done, all_other_users: late}
  done: {kind: exit}
  late: {kind: exit}
"""


@pytest.fixture
def exact(tmp_path: Path, address: str, namespace: str) -> Iterator[House]:
    """A house whose splits are exact at arrival, so that each asks the tables."""
    with open_house(tmp_path / "home", address, namespace, freshness_seconds=0) as found:
        found.load("users", USERS)
        found.load("devices", DEVICES)
        found.save(SAMPLE_DOCUMENTS)
        yield found


def rows(house: House, table: Any, *where: Any) -> list[Any]:
    query = select(table).where(*where)
    return list(house.stores.ledger.database.read(lambda connection: connection.execute(query).all()))


async def open_for_direct_starts(house: House, journey: str) -> None:
    saved = house.stores.catalogue.find("journey", journey)
    await house.stores.ledger.open_journey(journey, saved.version, saved.digest, "test", datetime.now(UTC))


async def start_run(client: Client, journey: str, user_id: str) -> WorkflowHandle[Any, UserJourneyResult]:
    """Start a run whose dead worker is missed after 2 s."""
    return await client.start_workflow(
        "UserJourney",
        UserJourneyInput(journey=journey, user_id=user_id),
        id=user_workflow_id(journey, user_id),
        task_queue=USERS_QUEUE,
        task_timeout=timedelta(seconds=2),
        result_type=UserJourneyResult,
    )


@contextmanager
def locked_ledger(house: House) -> Iterator[None]:
    """Hold the ledger's file as another program could."""
    other = sqlite3.connect(house.settings.home / "ledger.db", isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        other.rollback()
        other.close()


@contextmanager
def missing_tables(house: House) -> Iterator[None]:
    """Take the tables away, as an unmounted disk does."""
    there = Path(house.settings.tables_root)
    away = there.rename(there.with_name("away"))
    try:
        yield
    finally:
        away.rename(there)


@pytest.mark.parametrize(
    ("user_id", "branch", "age", "way"),
    [
        # Asked again, the split has its first answer; were it decided anew, u1 would get no push.
        ("u1", "users_in_segment", 17, [("loyal", "users_in_segment"), ("promo", "next")]),
        # The split closed the passage: entry says so, and the run has nothing left to ask.
        ("u4", "all_other_users", 18, []),
    ],
)
async def test_a_split_is_kept_when_its_worker_dies_before_saying_so(
    exact: House, user_id: str, branch: str, age: int, way: list[tuple[str, str]]
) -> None:
    """Killed -9 between ledger and history, asked again on changed tables: the first branch is taken, once."""
    await open_for_direct_starts(exact, "hello")
    client = await exact.client()
    async with other_process(exact, "--queues", USERS_QUEUE, "--after-activity", "condition-split") as first:
        handle = await start_run(client, "hello", user_id)
        await first.killed()
    (before,) = rows(exact, steps)
    assert before.branch == branch
    events = [event async for event in handle.fetch_history_events()]
    assert not any(event.HasField("marker_recorded_event_attributes") for event in events)
    assert _holds_now(exact, user_id) == (branch == "users_in_segment")
    exact.load("users", f"user_id,age\n{user_id},{age}\n")
    assert _holds_now(exact, user_id) != (branch == "users_in_segment"), "the tables would answer otherwise now"
    async with exact.serving():
        result = await asyncio.wait_for(handle.result(), 30)
        path = await handle.query("path")
    assert (result.exit, [(step["element"], step["branch"]) for step in path]) == ("done", way)
    assert [row for row in rows(exact, steps) if row.element == "loyal"] == [before]
    assert [row.device_id for row in rows(exact, pushes)] == (["d1", "d1b"] if user_id == "u1" else [])
    assert [(row.user_id, row.exit, row.reason) for row in rows(exact, passages)] == [(user_id, "done", "end")]


@pytest.mark.parametrize("queue", [USERS_QUEUE, PUSH_QUEUE])
async def test_a_push_is_kept_when_its_worker_dies_before_saying_so(house: House, queue: str) -> None:
    """Killed -9 after a push was written and before the server knew: each device has one push, with the first text."""
    await open_for_direct_starts(house, "hello")
    others = tuple({USERS_QUEUE, PUSH_QUEUE} - {queue})
    if queue == PUSH_QUEUE:  # with a device of another provider the push is an ordinary activity
        house.load("devices", "device_id,user_id,platform,provider,token,opt_in\nfar,u3,ios,apns,t3,true\n")
    async with production_workers(house, others) as client:
        async with other_process(house, "--queues", queue, "--after-activity", "push") as first:
            handle = await start_run(client, "hello", "u1")
            await first.killed()
        before = rows(house, pushes)
        assert sorted(row.device_id for row in before) == ["d1", "d1b"]
        assert {row.title for row in before} == {"Merci Anna"}
        house.load("users", "user_id,first_name\nu1,Zoé\n")
        house.load("devices", "device_id,user_id,platform,token,language,opt_in\nd1c,u1,ios,t1c,fr,true\n")
        async with production_workers(house, (queue,)):
            result = await asyncio.wait_for(handle.result(), 30)
            history = await handle.fetch_history()
    started = [
        event.activity_task_started_event_attributes
        for event in history.events
        if event.HasField("activity_task_started_event_attributes")
    ]
    assert [one.attempt for one in started] == ([2] if queue == PUSH_QUEUE else []), "the push was asked for again"
    assert result.exit == "done"
    assert rows(house, pushes) == before
    said = [(row.step, row.element, row.because) for row in rows(house, steps)]
    assert (len(said), said[1]) == (2, (2, "promo", "2 devices: 2 accepted"))


async def test_the_whole_way_again_after_the_passage_is_closed(house: House) -> None:
    """A run started again with a passage that is closed ends at once with the stored result, and does nothing twice."""
    await open_for_direct_starts(house, "hello")
    async with house.serving() as client:
        await (await start_run(client, "hello", "u1")).result()
        before = (rows(house, passages), rows(house, steps), rows(house, pushes))
        again = UserJourneyInput(journey="hello", user_id="u1", passage=before[0][0].passage)
        result = await client.execute_workflow(
            "UserJourney",
            again,
            id=user_workflow_id("hello", "u1"),
            task_queue=USERS_QUEUE,
            result_type=UserJourneyResult,
        )
    assert result == UserJourneyResult(admitted=True, reason="end", exit="done")
    assert (rows(house, passages), rows(house, steps), rows(house, pushes)) == before


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of expected tracebacks take longer to format than the outage lasts."""
    caplog.set_level(logging.CRITICAL, logger="temporalio")


@asynccontextmanager
async def crowd_started(house: House) -> AsyncIterator[tuple[Client, WorkflowHandle[Any, Stats]]]:
    """Have 300 runs started that no worker has begun, by a journey whose own worker goes on."""
    house.load("users", "user_id,club,number\n" + "".join(f"c{n},crowd,{n}\n" for n in range(RUNS)))
    house.save(CROWD)
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with activities_only(house, USERS_QUEUE):
            await house.engine.start("crowd", client=client)
            await until(lambda: sum(row.started for row in rows(house, passages)) == RUNS)
        yield client, client.get_workflow_handle("journey/crowd", result_type=Stats)


async def look_at_runs(client: Client, numbers: Iterable[int] = range(RUNS)) -> list[WorkflowExecutionDescription]:
    """Describe runs: their states, what each waits for, and how many events each has."""
    handles = [client.get_workflow_handle(user_workflow_id("crowd", f"c{n}")) for n in numbers]
    return list(await asyncio.gather(*(handle.describe() for handle in handles)))


def waits_for(run: WorkflowExecutionDescription, activity: str, message: str) -> bool:
    """Tell whether a run shows one failed activity that waits for its next try, with our message."""
    pending = list(run.raw_description.pending_activities)
    return [one.activity_type.name for one in pending] == [activity] and message in pending[0].last_failure.message


def events_in(run: WorkflowExecutionDescription) -> int:
    return int(run.raw_description.workflow_execution_info.history_length)


async def until_all_wait(client: Client, activity: str, message: str) -> None:
    """Return when each run shows that it waits, and why."""
    end = time.monotonic() + 150
    left = list(range(RUNS))
    while left:
        assert time.monotonic() < end, f"{len(left)} of {RUNS} do not wait"
        await asyncio.sleep(0.5)
        # Some at a time, and each once: the worker under test shares this process.
        some = left[:50]
        runs = await look_at_runs(client, some)
        waiting = {n for n, run in zip(some, runs, strict=True) if waits_for(run, activity, message)}
        left = [n for n in left if n not in waiting]


async def require_outage_survived(client: Client, journey: WorkflowHandle[Any, Stats]) -> None:
    """Hold the runs, and the operator's view, to what the design says of an outage."""
    runs = await look_at_runs(client)
    assert {run.status for run in runs} == {WorkflowExecutionStatus.RUNNING}, "nobody ends during an outage"
    assert max(map(events_in, runs)) < 10
    began = time.monotonic()
    status = await journey.query("status", rpc_timeout=timedelta(seconds=2))
    assert (status["state"], status["audience"]) == ("running", RUNS)
    assert time.monotonic() - began < 2
    assert (await journey.describe()).status == WorkflowExecutionStatus.RUNNING


def require_everybody_left(house: House, stats: Stats) -> None:
    assert (stats.entered, stats.inside, stats.exited) == (RUNS, 0, {"end": RUNS})
    assert stats.elements["early"].branches == {"users_in_segment": 100, "all_other_users": RUNS - 100}
    assert len(rows(house, steps)) == len({row.passage for row in rows(house, passages)}) == RUNS


@pytest.mark.usefixtures("quiet")
async def test_300_runs_through_an_outage_of_the_ledger(house: House) -> None:
    """While the ledger is held, 300 runs stand visible under 10 events, an operator is answered; then all complete."""
    async with crowd_started(house) as (client, journey):
        async with production_workers(house, (USERS_QUEUE,)):
            with locked_ledger(house):
                await until_all_wait(client, "entry", "the ledger 'sqlite:")
                await require_outage_survived(client, journey)
                assert {row.begun_at for row in rows(house, passages)} == {None}
            stats = await asyncio.wait_for(journey.result(), 240)
        runs = await look_at_runs(client)
    assert {run.status for run in runs} == {WorkflowExecutionStatus.COMPLETED}
    assert max(map(events_in, runs)) <= 20
    require_everybody_left(house, stats)


@pytest.mark.usefixtures("quiet")
async def test_300_runs_through_an_outage_of_the_tables(exact: House) -> None:
    """While the audience tables are away, 300 splits stand visible, nobody is answered wrongly; then all complete."""
    async with crowd_started(exact) as (client, journey), production_workers(exact, (USERS_QUEUE,)):
        with missing_tables(exact):
            await until_all_wait(client, "condition-split", "there is no table users at")
            await require_outage_survived(client, journey)
            assert rows(exact, steps) == []
        stats = await asyncio.wait_for(journey.result(), 240)
    require_everybody_left(exact, stats)


def _grown(house: House) -> tuple[Any, str, datetime]:
    saved = house.stores.catalogue.find("journey", "hello")
    return saved.document.elements["loyal"].match, "UTC", datetime.now(UTC)


def _holds_now(house: House, user_id: str) -> bool:
    condition, zone, now = _grown(house)
    return user_id in house.stores.segments.evaluate(condition, now, zone=zone).users.get_column("user_id")
