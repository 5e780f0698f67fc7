"""Enrolment: whatever is killed in between, everybody of the audience enters once, and nobody is missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
from sqlalchemy import select
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.enrolment import PAGE
from activities.life import stats_of
from activities.records import gate
from activities.records.rows import enrolments, passages, pushes, refusals
from tests.house import House, listed
from tests.worker_that_dies import (
    StartWatcher,
    activities_only,
    other_process,
    production_workers,
    until,
)
from workers.operating import Operator
from workflows.contracts import (
    JOURNEYS_QUEUE,
    PUSH_QUEUE,
    USERS_QUEUE,
    FinishRequest,
    ReviseRequest,
    Stats,
    UserJourneyInput,
    user_workflow_id,
)

CROWD = 1_100
PUSHED = 200

CROWD_DOCUMENTS = f"""\
journey: crowd
entries:
  start: {{kind: audience-entry, audience: {{attribute: club, is: crowd}}, next: early}}
elements:
  early:
    kind: condition-split
    match: {{attribute: number, less_than: {PUSHED}}}
    branches: {{users_in_segment: promo, all_other_users: done}}
  promo: {{kind: push, message: {{title: Hello, body: there}}, next: done}}
  done: {{kind: exit}}
"""

AGAIN = """\
journey: again
reentry: after_exit
entries:
  start: {kind: audience-entry, audience: {attribute: age, at_least: 0}, next: payers}
elements:
  payers:
    kind: condition-split
    match: {attribute: plan, is: paid}
    branches: {users_in_segment: done, all_other_users: done}
  done: {kind: exit}
"""


def load_crowd(house: House, size: int) -> None:
    """Import a crowd, of whom every user with an even number has a device, and save its journey."""
    house.load("users", "user_id,club,number\n" + "".join(f"c{n},crowd,{n}\n" for n in range(size)))
    house.load(
        "devices",
        "device_id,user_id,platform,token,opt_in\n" + "".join(f"dc{n},c{n},ios,t{n},true\n" for n in range(0, size, 2)),
    )
    house.save(CROWD_DOCUMENTS)


def rows(house: House, table: Any) -> list[Any]:
    return list(house.stores.ledger.database.read(lambda connection: connection.execute(select(table)).all()))


async def runs_of(client: Client, journey: str, count: int) -> list[temporalio.client.WorkflowExecution]:
    """List the runs of a journey that have ended: at least so many, and none goes on."""
    query = f"WorkflowType = 'UserJourney' AND WorkflowId STARTS_WITH '{user_workflow_id(journey, '')}'"
    return await listed(client, query, count)


async def passage_of(client: Client, run: temporalio.client.WorkflowExecution) -> str:
    """Read the passage that a run was started with."""
    return str((await input_of(client, run)).passage)


async def version_of(client: Client, run: temporalio.client.WorkflowExecution) -> int:
    """Read the version that a run was started in."""
    return int((await input_of(client, run)).version)


async def input_of(client: Client, run: temporalio.client.WorkflowExecution) -> UserJourneyInput:
    """Read what a run was started with."""
    handle = client.get_workflow_handle(run.id, run_id=run.run_id)
    async for event in handle.fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        (given,) = await client.data_converter.decode(payloads, [UserJourneyInput])
        assert isinstance(given, UserJourneyInput)
        return given
    raise AssertionError("a run without a history")


def require_sums(stats: Stats) -> None:
    """Hold the numbers to the laws of the design."""
    assert stats.audience == stats.entered + sum(stats.refused.values())
    assert stats.entered == stats.inside + sum(stats.exited.values())
    for element in stats.elements.values():
        assert element.arrived == element.inside + sum(element.branches.values()) + sum(element.left.values())


async def test_enrolment_killed_half_way(house: House) -> None:
    """A worker killed with -9 in the middle of a page: another goes on, nobody twice, nobody missed, sums hold."""
    load_crowd(house, CROWD)
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with other_process(
            house, "--queues", USERS_QUEUE, PUSH_QUEUE, "--after-starts", str(PAGE + PAGE // 2)
        ) as first:
            report = await house.engine.start("crowd", client=client)
            await first.killed()
        (enrolment,) = rows(house, enrolments)
        assert (report.audience, enrolment.cursor) == (CROWD, PAGE)
        assert len(rows(house, passages)) == 2 * PAGE
        async with production_workers(house, (USERS_QUEUE, PUSH_QUEUE)):
            stats = await house.engine.result(report, client=client)
        runs = await runs_of(client, "crowd", CROWD)
    everybody = {f"c{n}" for n in range(CROWD)}
    assert [enrolment.cursor for enrolment in rows(house, enrolments)] == [CROWD]
    assert Counter(row.user_id for row in rows(house, passages)) == Counter(everybody)
    assert Counter(run.id for run in runs) == Counter(user_workflow_id("crowd", user) for user in everybody)
    assert {run.status for run in runs} == {WorkflowExecutionStatus.COMPLETED}
    require_sums(stats)
    assert (stats.audience, stats.entered, stats.inside, stats.exited) == (CROWD, CROWD, 0, {"end": CROWD})
    assert stats.elements["early"].branches == {"users_in_segment": PUSHED, "all_other_users": CROWD - PUSHED}
    assert stats.elements["promo"].users == {"accepted": PUSHED // 2, "skipped: no-reachable-device": PUSHED // 2}
    assert Counter(row.device_id for row in rows(house, pushes)) == Counter(f"dc{n}" for n in range(0, PUSHED, 2))


class _WaitsForTheRuns(StartWatcher):
    """Holds each start until everybody inside has left, and counts the starts that met an id in use."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.asked = 0

    async def start(self, proceed: Any, input: Any) -> Any:
        self.asked += 1
        await until(lambda: self._house.stores.ledger.inside("crowd") == 0)
        return await proceed(input)


async def test_killed_between_starting_a_page_and_marking_it(house: House) -> None:
    """Runs that a dead worker started and could not mark are recognised: no user gets a second run, open or ended."""
    size = 40
    load_crowd(house, size)
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with other_process(
            house, "--queues", USERS_QUEUE, "--activities-only", "--after-starts", str(size)
        ) as first:
            report = await house.engine.start("crowd", client=client)
            await first.killed()
        assert {(row.started, row.begun_at) for row in rows(house, passages)} == {(0, None)}
        watcher = _WaitsForTheRuns(house)
        async with activities_only(house, USERS_QUEUE, [watcher]):
            await until(lambda: watcher.asked or rows(house, enrolments)[0].cursor == size)
            # Were a start under way now, the run of the same passage would end before it arrives.
            async with production_workers(house, (USERS_QUEUE, PUSH_QUEUE)):
                stats = await house.engine.result(report, client=client)
        runs = await runs_of(client, "crowd", size)
        known = {row.passage for row in rows(house, passages)}
        assert {await passage_of(client, run) for run in runs} == known
    assert len(runs) == len(known) == size
    assert (stats.entered, stats.exited) == (size, {"end": size})


class _MeetsAnIdInUse(StartWatcher):
    """Counts the starts that found their workflow id in use."""

    met = 0

    async def start(self, proceed: Any, input: Any) -> Any:
        try:
            return await proceed(input)
        except WorkflowAlreadyStartedError:
            self.met += 1
            raise


@pytest.mark.parametrize("turn", ["revise", "finish"])
async def test_who_was_admitted_and_not_started_is_inside_whatever_comes(house: House, turn: str) -> None:
    """A worker dies between admitting and starting, then the journey is revised or finished: all pass their version."""
    size = 40
    load_crowd(house, size)
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with other_process(house, "--queues", USERS_QUEUE, PUSH_QUEUE, "--after-starts", "3") as first:
            report = await house.engine.start("crowd", client=client)
            await first.killed()
        admitted = rows(house, passages)
        assert (len(admitted), {row.version for row in admitted}) == (size, {1})
        assert sum(row.started for row in admitted) <= 3
        operator = Operator(client, "crowd")
        if turn == "revise":
            house.save(CROWD_DOCUMENTS.replace("Hello", "Later"))
            await operator.revise(ReviseRequest(inside="keep"))
        else:
            await operator.finish(FinishRequest(inside="keep"))
        async with production_workers(house, (USERS_QUEUE, PUSH_QUEUE)):
            await house.engine.result(report, client=client)
        versions = {(await version_of(client, run)) for run in await runs_of(client, "crowd", size)}
    stats = stats_of(house.stores, "crowd", 1)
    require_sums(stats)
    assert (stats.entered, stats.exited, versions) == (size, {"end": size}, {1})
    assert Counter((row.started, row.version) for row in rows(house, passages)) == {(1, 1): size}
    assert {row.title for row in rows(house, pushes)} == {"Hello"}


async def test_an_id_still_in_use_is_waited_for(house: House) -> None:
    """Under after_exit, a user whose earlier run has left and is still closing is started again, not refused."""
    house.save(AGAIN)
    saved, now = house.stores.catalogue.find("journey", "again"), datetime.now(UTC)
    await house.stores.ledger.open_journey("again", saved.version, saved.digest, "before", now)
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with other_process(house, "--queues", USERS_QUEUE, "--after-activity", "condition-split") as first:
            # The earlier run: its worker dies when the ledger says that the user left, and the server does not know.
            await client.start_workflow(
                "UserJourney",
                UserJourneyInput(journey="again", user_id="u1"),
                id=user_workflow_id("again", "u1"),
                task_queue=USERS_QUEUE,
                task_timeout=timedelta(seconds=2),
            )
            await first.killed()
        assert [(row.user_id, row.reason) for row in rows(house, passages)] == [("u1", "end")]
        watcher = _MeetsAnIdInUse()
        async with activities_only(house, USERS_QUEUE, [watcher]):
            report = await house.engine.start("again", client=client)
            await until(lambda: watcher.met >= 2)
            async with production_workers(house, (USERS_QUEUE,)):
                stats = await house.engine.result(report, client=client)
        runs = await runs_of(client, "again", 7)
    assert (stats.entered, stats.refused, stats.exited) == (7, {}, {"end": 7})
    assert Counter(run.id for run in runs)[user_workflow_id("again", "u1")] == 2
    assert {run.status for run in runs} == {WorkflowExecutionStatus.COMPLETED}


async def test_an_id_too_long_stops_only_its_user(house: House) -> None:
    """A user whose id makes no workflow id is refused as id-too-long, and everybody else enters."""
    house.load("users", f"user_id,club,number\n{'語' * 150},crowd,1\n{'語' * 100},crowd,2\nshort,crowd,3\n")
    house.save(CROWD_DOCUMENTS.replace("entries:", f"title: {'A journey with a long title. ' * 20}\nentries:", 1))
    async with house.serving() as client:
        report = await house.engine.start("crowd", client=client)
        stats = await asyncio.wait_for(house.engine.result(report, client=client), 30)
    assert (stats.audience, stats.entered, stats.refused) == (3, 2, {"id-too-long": 1})
    assert [(row.user_id, row.reason) for row in rows(house, refusals)] == [("語" * 150, "id-too-long")]
    assert {row.user_id for row in rows(house, passages)} == {"語" * 100, "short"}


def test_an_import_rejects_ids_too_long(house: House) -> None:
    """A user id over 200 characters is a rejected row with its reason, and the rows beside it are imported."""
    report = house.load("users", f"user_id,club\n{'x' * 200},crowd\n{'x' * 201},crowd\n")
    assert (report.inserted, report.rejected) == (1, 1)
    assert "user_id is longer than 200 characters" in Path(report.rejects_file).read_text(encoding="utf-8")


async def test_nobody_enters_once_finish_has_answered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finish in the middle of an enrolment: no page is admitted after it, whatever the worker knows yet."""
    monkeypatch.setattr(gate, "COPY_SECONDS", 60.0)
    monkeypatch.setattr(gate, "TRUST_SECONDS", 180.0)
    load_crowd(house, CROWD)
    async with production_workers(house, (JOURNEYS_QUEUE, USERS_QUEUE, PUSH_QUEUE)) as client:
        report = await house.engine.start("crowd", client=client)
        await until(lambda: rows(house, passages))
        await Operator(client, "crowd").finish(FinishRequest(inside="end"))
        entered = len(rows(house, passages))
        stats = await house.engine.result(report, client=client)
    assert 0 < entered < CROWD
    assert (stats.entered, stats.inside, stats.refused) == (entered, 0, {})
    require_sums(stats)
