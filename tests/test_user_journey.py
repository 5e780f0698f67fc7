"""One user's run: who may enter, what a closed passage answers, what a run can be asked, how a killed one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    Interceptor,
    ListWorkflowsInput,
    OutboundInterceptor,
    WorkflowExecutionAsyncIterator,
    WorkflowExecutionStatus,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities import life
from activities.life import Endings, LifeActivities, stats_of
from activities.noticing import Notices
from activities.records.admissions import Arrival
from activities.records.reports import explain, list_pushes
from activities.records.rows import taken
from tests.house import House, events_of, listed
from tests.worker_that_dies import until
from workers.connecting import create_search_attributes
from workflows.contracts import (
    JOURNEYS_QUEUE,
    PUSH_QUEUE,
    USERS_QUEUE,
    EventGiven,
    JourneyRequest,
    RemoveRequest,
    UserJourneyInput,
    UserJourneyResult,
    user_of_workflow,
    user_workflow_id,
)

DECIDING = (JOURNEYS_QUEUE, USERS_QUEUE)
"""Without the queue of pushes, whoever is to be pushed stays inside, and with him the journey stays running."""

RUNNING = WorkflowExecutionStatus.RUNNING

COMPLETED = "workflow_task_completed_event_attributes"

DOOR = """\
journey: door
reentry: {reentry}
entries:
  start: {{kind: audience-entry, audience: {{attribute: plan, is: held}}, next: stays}}
elements:
  stays:
    kind: condition-split
    match: {{attribute: plan, is: held}}
    branches: {{users_in_segment: hold, all_other_users: out}}
  hold: {{kind: push, message: {{title: Hold, body: on}}, next: out}}
  out: {{kind: exit}}
"""

HELD = "user_id,plan\nheld,held\n"


def load_door(house: House, reentry: str) -> None:
    house.load("users", HELD)
    house.load("devices", "device_id,user_id,platform,token,opt_in\ndh,held,ios,th,true\n")
    house.hold_pushes("held")
    house.save(DOOR.format(reentry=reentry))


async def enter(house: House, client: Client, user: str, journey: str = "door") -> UserJourneyResult:
    """Start a user's run as any client would, and wait for its end."""
    handle = await house.start_user(client, journey, user)
    return UserJourneyResult.model_validate(await asyncio.wait_for(handle.result(), 20))


def refusals_of(house: House, user: str, journey: str = "door") -> list[str]:
    return [refusal.reason for refusal in explain(house.stores.ledger.database, journey, user).refused]


async def finish(house: House, client: Client) -> Any:
    """Serve the pushes at last, and give the journey's final numbers."""
    async with house.serving((PUSH_QUEUE,)):
        return await asyncio.wait_for(client.get_workflow_handle("journey/door").result(), 30)


@asynccontextmanager
async def open_door(house: House, reentry: str = "never") -> AsyncIterator[Client]:
    """Have the journey running while the body runs, and see that it ends afterwards."""
    load_door(house, reentry)
    async with house.serving(DECIDING) as client:
        await house.engine.start("door", client=client)
        yield client
        stats = await finish(house, client)
        assert (stats["state"], stats["inside"]) == ("finished", 0)


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


async def test_a_direct_start_obeys_the_rule_never(house: House) -> None:
    """Under `never` a client's second start of a user completes with admitted false and `entered-before`, on record."""
    async with open_door(house) as client:
        because = "not in the segment built in place, users v1"
        left = UserJourneyResult(admitted=True, reason="end", exit="out", because=because)
        assert await enter(house, client, "u1") == left
        refused = await enter(house, client, "u1")
        assert refused == UserJourneyResult(admitted=False, reason="entered-before")
        assert refusals_of(house, "u1") == ["entered-before"]
        assert len(explain(house.stores.ledger.database, "door", "u1").runs) == 1
    stats = stats_of(house.stores, "door")
    assert (stats.entered, stats.refused, stats.audience) == (2, {"entered-before": 1}, 3)


async def test_a_direct_start_of_an_unknown_user(house: House) -> None:
    """A user whom the tables do not know is refused with `unknown-user`; imported meanwhile, the next start enters."""
    async with open_door(house) as client:
        assert (await enter(house, client, "newcomer")).reason == "unknown-user"
        assert refusals_of(house, "newcomer") == ["unknown-user"]
        house.load("users", "user_id,plan\nnewcomer,free\n")
        assert (await enter(house, client, "newcomer")).admitted


async def test_a_direct_start_when_the_journey_is_over(house: House) -> None:
    """After a journey has finished, a direct start is refused with `not-running`, and nothing is sent."""
    async with house.serving() as client:
        await house.engine.result(await house.engine.start("hello", client=client), client=client)
        pushed = list_pushes(house.stores.ledger.database).total
        for user in ("u3", "u1"):
            assert await enter(house, client, user, "hello") == UserJourneyResult(admitted=False, reason="not-running")
            assert refusals_of(house, user, "hello") == ["not-running"]
    assert list_pushes(house.stores.ledger.database).total == pushed


async def test_a_direct_start_of_a_journey_that_never_ran(house: House) -> None:
    """A direct start into a journey that nobody started fails, once, and says how to start it."""
    async with house.serving((USERS_QUEUE,)) as client:
        with pytest.raises(Exception, match="Workflow execution failed") as failed:
            await enter(house, client, "u1", "hello")
    assert "journeys start hello" in str(failed.value.__cause__.__cause__ or failed.value.__cause__)


async def test_a_second_run_beside_an_open_passage(house: House) -> None:
    """Who is inside is refused as `already-inside`, even when his first run was thrown out for the second one."""
    async with open_door(house, "after_exit") as client:
        await until_at(client, "held", "hold")
        second = await client.start_workflow(
            "UserJourney",
            UserJourneyInput(journey="door", user_id="held"),
            id=user_workflow_id("door", "held"),
            task_queue=USERS_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
        )
        assert await second.result() == {"admitted": False, "reason": "already-inside"}
        assert refusals_of(house, "held") == ["already-inside"]
    # The first run is gone for good, and its passage does not hold the journey for ever.
    stats = stats_of(house.stores, "door")
    assert (stats.exited, stats.refused) == ({"terminated": 1}, {"already-inside": 1})
    assert stats.elements["hold"].left == {"terminated": 1}


async def until_at(client: Client, user: str, element: str, journey: str = "door") -> WorkflowHandle[Any, Any]:
    """Wait until a user has arrived at an element; give his run."""
    handle = client.get_workflow_handle(user_workflow_id(journey, user))
    details = "not started"
    for _ in range(200):
        # A start returns when the audience is evaluated: the run itself may come a moment later.
        with suppress(RPCError):
            details = (await _metadata(handle)).current_details
        if details.startswith(f"Is at **{element}** "):
            return handle
        await asyncio.sleep(0.05)
    raise AssertionError(f"{user} never came to {element}: {details}")


async def _metadata(handle: WorkflowHandle[Any, Any]) -> WorkflowMetadata:
    found: WorkflowMetadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return found


async def test_after_exit(house: House) -> None:
    """Under `after_exit` a user enters again as often as he has left."""
    async with open_door(house, "after_exit") as client:
        for _ in range(3):
            assert (await enter(house, client, "u1")).admitted
    runs = explain(house.stores.ledger.database, "door", "u1").runs
    assert [(run.state, run.exit, len(run.steps)) for run in runs] == [("left", "out", 1)] * 3


async def test_at_most_per_period(house: House) -> None:
    """Under `{at_most: 2, per: 1d}` the third entry within a day is refused as `too-often`."""
    async with open_door(house, "{at_most: 2, per: 1d}") as client:
        results = [await enter(house, client, "u1") for _ in range(3)]
        assert [result.reason for result in results] == ["end", "end", "too-often"]
        assert (await enter(house, client, "u2")).admitted


async def test_at_most_after_the_period(house: House) -> None:
    """Under `{at_most: 1, per: 1s}` a user who waits a second enters again."""
    async with open_door(house, "{at_most: 1, per: 1s}") as client:
        assert (await enter(house, client, "u1")).admitted
        await asyncio.sleep(1.1)
        assert (await enter(house, client, "u1")).admitted


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
        assert (await _metadata(run)).current_details == f"Is at **hold** (push).\n\n{way}"
        await finish(house, client)
        sent = {"element": "hold", "branch": "next", "because": "1 device: 1 accepted"}
        assert await run.query("path") == [split, sent]
        story = f"Left by **out**.\n\n{way}\n- **hold**: 1 device: 1 accepted"
        assert (await _metadata(run)).current_details == story
        await enter(house, client, "held")
        assert (await _metadata(run)).current_details == "Not admitted: not-running"


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


async def test_a_terminated_run_is_reconciled(house: House) -> None:
    """A run that an operator terminates closes its passage as `terminated`, where it stood, and the journey ends."""
    async with open_door(house) as client:
        run = await until_at(client, "held", "hold")
        inside = stats_of(house.stores, "door")
        assert (inside.inside, inside.elements["hold"].inside) == (1, 1)
        await run.terminate("an operator")
    stats = stats_of(house.stores, "door")
    assert (stats.inside, stats.exited, stats.state) == (0, {"terminated": 1}, "finished")
    assert stats.elements["hold"].left == {"terminated": 1}
    (passed,) = explain(house.stores.ledger.database, "door", "held").runs
    assert (passed.state, passed.reason, passed.exit) == ("left", "terminated", None)


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


async def test_who_was_admitted_and_never_started_is_not_left_behind(house: House) -> None:
    """A user whose run nobody started, since whoever admitted him died, is started by the journey that watches."""
    async with open_door(house) as client:
        await until_at(client, "held", "hold")
        before = datetime.now(UTC) - timedelta(minutes=2)
        (admission,) = await house.stores.ledger.admit(Arrival("dead", "door", 1, "start", "never", before), ["u1"])
        await until(lambda: bool((found := house.stores.ledger.admission(admission.passage)) and found.left), 20)
        assert (await client.get_workflow_handle(user_workflow_id("door", "u1")).result())["exit"] == "out"


async def test_a_journey_that_closes_starts_whoever_was_left_behind(house: House) -> None:
    """Somebody admitted in the last moment, whose start was lost, keeps no journey open for ever: he is started."""
    load_door(house, "never")
    client = await house.client()
    await create_search_attributes(client)
    saved, now = house.stores.catalogue.find("journey", "door"), datetime.now(UTC)
    await house.stores.ledger.open_journey("door", saved.version, saved.digest, "one", now)
    where = Arrival("dead", "door", 1, "start", "never", now - timedelta(minutes=2))
    (admission,) = await house.stores.ledger.admit(where, ["u1"])
    closing = JourneyRequest(journey="door", version=1, launch="one", now=now)
    close = LifeActivities(house.stores, Notices(house.stores)).close_journey
    with pytest.raises(ApplicationError, match="1 users have come into 'door'"):
        await ActivityEnvironment(client=client).run(close, closing)
    found = house.stores.ledger.admission(admission.passage)
    assert found is not None
    assert found.started
    assert (await client.get_workflow_handle(user_workflow_id("door", "u1")).describe()).status is RUNNING


class Listing(Interceptor):
    """Remembers how many runs each list gave."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        given = self.given

        class Counting(OutboundInterceptor):
            def list_workflows(self, input: ListWorkflowsInput) -> WorkflowExecutionAsyncIterator:
                found = super().list_workflows(input)
                fetch = found.fetch_next_page

                async def counted(**options: Any) -> None:
                    await fetch(**options)
                    given.append(len(found.current_page or ()))

                found.fetch_next_page = counted  # type: ignore[method-assign]
                return found

        return Counting(next)


async def test_a_look_at_runs_that_ended_is_at_what_is_new(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look for runs that did not end well lists those that ended since the last one, and closes their passages."""
    monkeypatch.setattr(life, "ENDINGS_OVERLAP", timedelta(0))
    listing, ledger = Listing(), house.stores.ledger
    client = await Client.connect(house.address, namespace=house.namespace, interceptors=[listing])
    other = await house.client()
    endings = Endings(house.stores)
    for number, user in enumerate(("u1", "u2", "u3")):
        (admission,) = await ledger.admit(Arrival("e", "door", 1, "start", "never", datetime.now(UTC)), [user])
        given, name = {"journey": "door", "user_id": user}, user_workflow_id("door", user)
        run = await client.start_workflow("UserJourney", given, id=name, task_queue="nobody")
        await ledger.started([admission.passage])
        await run.terminate()
        await listed(other, f"WorkflowId = '{name}'", 1)  # what lists runs learns of the end a little later
        assert await endings.reconcile(client, "door") == 1
        assert (ledger.inside("door"), listing.given[-1]) == (0, 1), number
