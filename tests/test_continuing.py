"""Long lives continue as new: runs, journeys and the workflow of events go on where they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.testing import WorkflowEnvironment

from activities.life import stats_of
from activities.records.reports import list_pushes
from tests.door import DECIDING, until_at
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from workers.engine import JourneyFailed
from workers.operating import Operator
from workflows.contracts import (
    JOURNEYS_QUEUE,
    PUSH_QUEUE,
    EnterRequest,
    EventGiven,
    FinishRequest,
    JourneyStatus,
    RemoveRequest,
    ResumeRequest,
    UserGiven,
)
from workflows.events import EVENTS_ID, EventTaken

STREAMED = 60
"""Users who enter one after the other; the server suggests to continue as new from 30 events on."""

LONG = """\
journey: long
send_window: 3s
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: promo}
elements:
  promo: {kind: push, message: {title: Hello, body: b}, next: buyer}
  buyer:
    kind: condition-split
    match: {event: purchase, count: {at_least: 1}}
    branches: {users_in_segment: bought, all_other_users: out}
  bought: {kind: exit}
  out: {kind: exit}
"""


@pytest.fixture
async def short_house(tmp_path: Path, temporal_program: str) -> AsyncIterator[House]:
    """A house at a server that wants runs to continue as new from 30 events on."""
    few = ("--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=30")
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_program, dev_server_extra_args=few
    ) as environment:
        address = environment.client.service_client.config.target_host
        with open_house(tmp_path / "home", address, "default") as found:
            found.load("users", USERS)
            found.load("devices", DEVICES)
            found.load("events", "user_id,event,at\nu3,purchase,2026-01-01T00:00:00Z\n")
            found.save(SAMPLE_DOCUMENTS)
            found.save(LONG)
            yield found


async def test_a_run_that_continues_as_new_forgets_nothing_it_was_told(short_house: House) -> None:
    """What a signal said while a long run was busy holds after it continued: who is removed leaves, a split sees."""
    house = short_house
    house.hold_pushes()
    async with house.serving(DECIDING) as client:
        await house.engine.start("long", client=client)
        runs = {user: await until_at(client, user, "promo", "long") for user in ("u1", "u4", "u6")}
        for run in runs.values():
            for _ in range(12):  # about three events each
                await run.signal("resumed")
                await run.query("path")
        split = house.stores.catalogue.journey(house.stores.catalogue.find("journey", "long").digest)
        match = split.document.elements["buyer"].match
        await house.stores.memberships.membership(match, house.stores.segments.zone, datetime.now(UTC))
        house.load("events", "user_id,event,at\nu4,purchase,2026-01-01T00:00:00Z\n")
        await runs["u4"].signal("event")
        await runs["u1"].signal("remove", RemoveRequest(reason="asked to"))
        async with house.serving((PUSH_QUEUE,)):
            results = {user: await asyncio.wait_for(run.result(), 20) for user, run in runs.items()}
        way = [step["element"] for step in await runs["u4"].query("path")]
        begun = [(await run.fetch_history()).events[0] for run in runs.values()]
    assert {user: one.get("exit") or one["reason"] for user, one in results.items()} == {
        "u1": "asked to",
        "u4": "bought",
        "u6": "out",
    }
    assert way == ["promo", "buyer"]
    assert all(one.workflow_execution_started_event_attributes.continued_execution_run_id for one in begun)
    assert {push.user_id for push in list_pushes(house.stores.ledger.database, journey="long").pushes} == {"u4", "u6"}


OPEN = """\
journey: open
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: stay}
  named: {kind: api-entry, next: stay}
elements:
  stay: {kind: time-delay, duration: 30d, next: out}
  out: {kind: exit}
"""


async def give(client: Client, event: EventGiven) -> EventTaken:
    """Give an event as any client does: by the update of the workflow that takes events."""
    start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        "Events",
        id=EVENTS_ID,
        task_queue=JOURNEYS_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    taken: EventTaken = await client.execute_update_with_start_workflow(
        "event", event, start_workflow_operation=start, result_type=EventTaken
    )
    return taken


async def test_a_journey_that_continues_as_new_keeps_its_place(short_house: House) -> None:
    """A journey and the workflow of events that live long go on as new runs: paused, admitting, counting as before."""
    house, engine = short_house, short_house.engine
    house.save(OPEN)
    async with house.serving() as client:
        report = await engine.start("open", client=client)
        operator, handle = Operator(client, "open"), client.get_workflow_handle(report.workflow_id)
        first = (await handle.describe()).run_id
        await operator.pause()
        for _ in range(12):  # about five events each
            await handle.execute_update("refresh")
        paused = await handle.query("status", result_type=JourneyStatus)
        assert (paused.state, paused.audience) == ("paused", 4)
        assert (await handle.describe()).run_id != first
        assert (await handle.describe()).history_length < 60
        with pytest.raises(JourneyFailed, match="paused"):
            await operator.enter(EnterRequest(users=[UserGiven(user_id="u3")]))
        await operator.resume(ResumeRequest())
        entered = await operator.enter(EnterRequest(users=[UserGiven(user_id="u3"), UserGiven(user_id="u1")]))
        assert (len(entered.entered), list(entered.refused)) == (1, ["u1"])
        # Events: each taken once, by whichever run of their workflow.
        events = [await give(client, EventGiven(user_id="u5", event="look", event_id=f"e{n % 20}")) for n in range(25)]
        assert len({one.event_id for one in events}) == 20
        begun = (await client.get_workflow_handle(EVENTS_ID).fetch_history()).events[0]
        assert begun.workflow_execution_started_event_attributes.continued_execution_run_id
        await operator.finish(FinishRequest(inside="end"))
        stats = await asyncio.wait_for(engine.result(report, client=client), 60)
    assert (stats.entered, stats.refused, stats.exited) == (5, {"already-inside": 1}, {"finished": 5})
    tables = house.stores.tables
    assert tables.collect(tables.scan("events").filter(user_id="u5")).height == 20


STREAM = """\
journey: stream
reentry: after_exit
entries: {asked: {kind: api-entry, next: out}}
elements: {out: {kind: exit}}
"""


async def test_a_journey_continues_as_new_under_a_stream_of_updates(short_house: House) -> None:
    """Users enter without a pause between two updates: the journey continues as new in time, and each one enters."""
    house, entered = short_house, list[str]()
    house.save(STREAM)
    house.load("users", "user_id\n" + "".join(f"s{number}\n" for number in range(STREAMED)))
    numbers = iter(range(STREAMED))
    async with house.serving(DECIDING) as client:
        await house.engine.start("stream", client=client)
        operator = Operator(client, "stream")

        async def stream() -> None:
            for number in numbers:
                report = await operator.enter(EnterRequest(users=[UserGiven(user_id=f"s{number}")]))
                entered.extend(report.entered)

        await asyncio.gather(*(stream() for _ in range(9)))
        await operator.finish(FinishRequest(inside="end"))
        lengths = [run.history_length async for run in client.list_workflows("WorkflowId = 'journey/stream'")]
    assert len(lengths) > 1
    assert max(lengths) < 200
    assert len(entered) == STREAMED
    assert stats_of(house.stores, "stream").entered == STREAMED


async def test_a_journey_that_continues_as_new_keeps_its_last_count(short_house: House) -> None:
    """The query `stats` and the details in Temporal's UI tell the last count, however often the life continued."""
    async with short_house.serving(DECIDING) as client:
        await short_house.engine.start("long", client=client)
        life = client.get_workflow_handle("journey/long")
        described = await life.describe()
        assert await described.static_summary() == "long"
        assert 'JourneyId = "long"' in (await described.static_details() or "")
        begun = described.run_id
        for _ in range(20):  # some five events each
            counted = await life.execute_update("refresh")
            await asyncio.sleep(0.2)
            if (await life.describe()).run_id != begun:
                break
        assert await life.query("stats") == counted
        told = await life.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        assert "entered 4" in told.current_details
        history = await life.fetch_history()
    assert history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id == begun
    kinds = {event.event_type for event in history.events}
    assert EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED not in kinds
