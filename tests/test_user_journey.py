"""One user's run: what a closed passage answers, what a run can be asked and is sent, and where its elements lead."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowHandle

from activities.records.reports import explain, list_pushes
from activities.records.rows import taken
from tests.door import DECIDING, enter, finish, metadata_of, open_door, refusals_of, until_at
from tests.house import House, events_of
from workflows.contracts import (
    PUSH_QUEUE,
    USERS_QUEUE,
    EventGiven,
    RemoveRequest,
    UserJourneyInput,
    user_of_workflow,
    user_workflow_id,
)

COMPLETED = "workflow_task_completed_event_attributes"


async def reset(client: Client, handle: WorkflowHandle[Any, Any]) -> WorkflowHandle[Any, Any]:
    """Reset a run to its first workflow task, as an operator does, and give the new run."""
    history = await handle.fetch_history()
    first = next(event.event_id for event in history.events if event.HasField(COMPLETED))
    run_id = history.events[0].workflow_execution_started_event_attributes.original_execution_run_id
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=run_id),
            reason="a test",
            workflow_task_finish_event_id=first,
            request_id=str(uuid4()),
        )
    )
    return client.get_workflow_handle(handle.id, run_id=answer.run_id)


async def test_a_closed_passage_answers_at_once(house: House) -> None:
    """A run of a passage that is closed completes with the stored result: no step and no push is done again."""
    async with house.serving() as client:
        await house.engine.result(await house.engine.start("hello", client=client), client=client)
        first = client.get_workflow_handle(user_workflow_id("hello", "u1"))
        started = (await first.fetch_history()).events[0].workflow_execution_started_event_attributes
        (given,) = await client.data_converter.decode(started.input.payloads, [UserJourneyInput])
        before = explain(house.stores.ledger.database, "hello", "u1")
        assert given.passage
        again = await client.start_workflow("UserJourney", given, id=first.id, task_queue=USERS_QUEUE)
        assert await again.result() == await first.result() == {"admitted": True, "reason": "end", "exit": "done"}
        assert len(await events_of(client, first.id)) == 6
    assert explain(house.stores.ledger.database, "hello", "u1") == before
    assert list_pushes(house.stores.ledger.database, user_id="u1").total == 2


async def test_a_reset_run_keeps_its_passage(house: House) -> None:
    """A run that an operator resets finds its own passage, entered directly or enrolled, and does nothing twice."""
    async with house.serving() as client:
        # Enrolled: pushed to one device, reset when over.
        await house.engine.result(await house.engine.start("hello", client=client), client=client)
        again = await reset(client, client.get_workflow_handle(user_workflow_id("hello", "u6")))
        assert await again.result() == {"admitted": True, "reason": "end", "exit": "done"}
        assert len(explain(house.stores.ledger.database, "hello", "u6").runs) == 1
        assert list_pushes(house.stores.ledger.database, user_id="u6").total == 1
    async with open_door(house) as client:
        # Direct: the passage is named by the chain of runs, which a reset keeps.
        await enter(house, client, "u1")
        again = await reset(client, client.get_workflow_handle(user_workflow_id("door", "u1")))
        assert await again.result() == {"admitted": True, "reason": "end", "exit": "out"}
    assert len(explain(house.stores.ledger.database, "door", "u1").runs) == 1
    assert refusals_of(house, "u1") == []


async def test_branches_of_a_push(house: House) -> None:
    """`accepted` takes those of whom a device was accepted; `not_accepted` the rest, each with the reason."""
    house.save("""\
        journey: reach
        entries:
          start: {kind: audience-entry, audience: {segment: paying}, next: promo}
        elements:
          promo: {kind: push, message: {title: Hi, body: there}, branches: {accepted: yes-way, not_accepted: no-way}}
          yes-way: {kind: exit}
          no-way: {kind: exit}
        """)
    async with house.serving() as client:
        stats = await house.engine.result(await house.engine.start("reach", client=client), client=client)
        exits = {
            user: (await client.get_workflow_handle(user_workflow_id("reach", user)).result())["exit"]
            for user in ("u1", "u2", "u4", "u6")
        }
    assert exits == {"u1": "yes-way", "u2": "no-way", "u4": "yes-way", "u6": "yes-way"}
    assert stats.elements["promo"].branches == {"accepted": 3, "not_accepted": 1}
    (run,) = explain(house.stores.ledger.database, "reach", "u2").runs
    assert [(step.branch, step.because) for step in run.steps] == [
        ("not_accepted", "no device is opted in with an address")
    ]


async def test_an_entry_that_leads_to_an_exit(house: House) -> None:
    """An entry straight to an exit admits, counts and lets go: 6 events a user, no step."""
    house.save("""\
        journey: through
        entries:
          start: {kind: audience-entry, audience: {everyone: true}, next: out}
        elements:
          out: {kind: exit}
        """)
    async with house.serving((*DECIDING,)) as client:
        stats = await house.engine.result(await house.engine.start("through", client=client), client=client)
        assert len(await events_of(client, user_workflow_id("through", "u3"))) == 6
    assert (stats.audience, stats.entered, stats.inside, stats.exited) == (6, 6, 0, {"end": 6})
    assert stats.elements["out"].model_dump(include={"arrived", "inside", "left"}) == {
        "arrived": 6,
        "inside": 0,
        "left": {"end": 6},
    }


async def test_what_an_operator_can_ask_a_run(house: House) -> None:
    """`path` tells the way so far and why; the current details say where a run stands, and then the whole story."""
    async with open_door(house) as client:
        run = await until_at(client, "held", "hold")
        split = {"element": "stays", "branch": "users_in_segment", "because": "in the segment built in place, users v1"}
        assert await run.query("path") == [split]
        way = "- **stays**: Users in a segment (in the segment built in place, users v1)"
        assert (await metadata_of(run)).current_details == f"Is at **hold** (push).\n\n{way}"
        await finish(house, client)
        sent = {"element": "hold", "branch": "next", "because": "1 device: 1 accepted"}
        assert await run.query("path") == [split, sent]
        story = f"Left by **out**.\n\n{way}\n- **hold**: 1 device: 1 accepted"
        assert (await metadata_of(run)).current_details == story
        await enter(house, client, "held")
        assert (await metadata_of(run)).current_details == "Not admitted: not-running"


async def test_the_list_of_events_tells_what_a_split_gave(house: House) -> None:
    """The summary after a split tells its result and the version it was read from; after the last one the result."""
    async with open_door(house) as client:
        held = await until_at(client, "held", "hold")
        await finish(house, client)
        events = (await held.fetch_history()).events
        told = [event.user_metadata.summary for event in events if event.user_metadata.HasField("summary")]
        assert await client.data_converter.decode(told) == [
            *("door: held", "Entry: start", "Condition split: stays"),
            "Push: hold, in the segment built in place, users v1",
        ]
        assert "because" not in await held.result()


STRANGE = ["a/b", "with space", "100%", "a%2Fb", "語 ü", "x#y?z&w", "'quoted'", "../up", "key/key/k", "🎈"]


async def test_strange_user_ids(house: House) -> None:
    """Ids with slashes, spaces, percent signs, quotes, of any script: they enter, pass, and are terminated alike."""
    house.load("users", "user_id,plan\n" + "".join(f"{user},strange\n" for user in STRANGE))
    devices = "".join(f"d-{user},{user},ios,true\n" for user in STRANGE)
    house.load("devices", "device_id,user_id,platform,opt_in\n" + devices)
    house.hold_pushes()
    house.save("""\
        journey: strange
        reentry: after_exit
        entries:
          start: {kind: audience-entry, audience: {attribute: plan, is: strange}, next: hi}
        elements:
          hi: {kind: push, message: {title: "{{ user.user_id }}", body: hi}, next: out}
          out: {kind: exit}
        """)
    async with house.serving(DECIDING) as client:
        report = await house.engine.start("strange", client=client)
        await until_at(client, "a/b", "hi", "strange")
        for victim in ("'quoted'", "a%2Fb"):
            await client.get_workflow_handle(user_workflow_id("strange", victim)).terminate()
        async with house.serving((PUSH_QUEUE,)):
            stats = await asyncio.wait_for(house.engine.result(report, client=client), 30)
    assert stats.exited == {"end": len(STRANGE) - 2, "terminated": 2}
    sent = list_pushes(house.stores.ledger.database, journey="strange")
    assert {push.title for push in sent.pushes} == set(STRANGE) - {"'quoted'", "a%2Fb"}
    for user in STRANGE:
        assert user_of_workflow(user_workflow_id("strange", user)) == (user, "")
        assert user_of_workflow(user_workflow_id("strange", user, "k/1")) == (user, "k/1")


@pytest.mark.parametrize("removed", [False, True])
async def test_an_event_sent_to_a_run_that_leaves_is_kept(house: House, removed: bool) -> None:
    """Events that a client sends to a run while its last element is busy, or as it is taken out, are taken all."""
    async with open_door(house) as client:
        run = await until_at(client, "held", "hold")
        for name in ("first", "second"):
            await run.signal("event", EventGiven(event="called", event_id=name))
        if removed:
            await run.signal("remove", RemoveRequest())
        async with house.serving((PUSH_QUEUE,)):
            result = await asyncio.wait_for(run.result(), 20)
    assert result["reason"] == "end"
    query = select(taken.c.event_id, taken.c.user_id, taken.c.done).order_by(taken.c.taken_at)
    rows = house.stores.ledger.database.read(lambda connection: connection.execute(query).all())
    assert [tuple(row) for row in rows] == [("first", "held", 1), ("second", "held", 1)]
