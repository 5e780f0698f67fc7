"""The plugin: one object brings workflows, activities, converter and sandbox, as the contracts promise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities import starting
from tests.house import House
from workers.plugin import WORKFLOWS, JourneysPlugin, activities_of
from workers.serving import QUEUES
from workflows import enrolment, events, life, passage, upkeep
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, UserJourneyInput, user_workflow_id
from workflows.journey import Journey
from workflows.user_journey import UserJourney


def name_of(work: Callable[..., Any]) -> str:
    return str(activity._Definition.must_from_callable(work).name)


def signatures() -> dict[str, Callable[..., Any]]:
    """Find every activity that `workflows/` declares, by name."""
    found = [
        value
        for module in (enrolment, events, life, passage, upkeep)
        for value in vars(module).values()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and activity._Definition.from_callable(value)
    ]
    assert len({name_of(one) for one in found}) == len(found)
    return {name_of(one): one for one in found}


def types_of(work: Callable[..., Any]) -> tuple[list[Any], Any]:
    """Give the types that an activity takes and gives, as Temporal reads them."""
    hints = get_type_hints(inspect.unwrap(work))
    result = hints.pop("return")
    return list(hints.values()), result


def test_every_signature_has_one_implementation(house: House) -> None:
    """Each activity that workflows may call is implemented once, by the same name and the same types."""
    implemented = list(dict.fromkeys(work for found in activities_of(house.stores).values() for work in found))
    names = [name_of(work) for work in implemented]
    assert sorted(names) == sorted(signatures())
    assert {"entry", "condition-split", "push"} <= set(names)
    for work in implemented:
        assert types_of(work) == types_of(signatures()[name_of(work)]), name_of(work)


def test_names_that_clients_use_are_permanent() -> None:
    """`Journey` and `UserJourney` keep their names, queues, updates, queries and the queue that each is alone on."""
    journey = workflow._Definition.must_from_class(Journey)
    user = workflow._Definition.must_from_class(UserJourney)
    assert (journey.name, user.name) == ("Journey", "UserJourney")
    assert {"refresh"} <= set(journey.updates)
    assert {"status", "stats"} <= set(journey.queries)
    assert {"path"} <= set(user.queries)
    assert (JOURNEYS_QUEUE, USERS_QUEUE, PUSH_QUEUE) == ("journeys", "users", "push")
    assert Journey in WORKFLOWS[JOURNEYS_QUEUE]
    assert WORKFLOWS[USERS_QUEUE] == [UserJourney]
    assert WORKFLOWS[PUSH_QUEUE] == []
    assert {queue for queues in QUEUES.values() for queue in queues} == set(WORKFLOWS)


@pytest.mark.parametrize("sandbox", [True, False])
async def test_what_a_worker_gets(house: House, sandbox: bool) -> None:
    """A worker gets what runs on its queue, one on another queue everything, and the sandbox where it is wanted."""
    plugin = JourneysPlugin(house.stores, sandbox=sandbox)
    client = await Client.connect(house.address, namespace=house.namespace, plugins=[plugin])
    assert client.data_converter.payload_converter_class is PydanticPayloadConverter
    for queue in (*WORKFLOWS, "a-queue-of-your-own"):
        config = Worker(client, task_queue=queue).config(active_config=True)
        queues = [queue] if queue in WORKFLOWS else list(WORKFLOWS)
        assert config["workflows"] == [one for name in queues for one in WORKFLOWS[name]]
        found = activities_of(house.stores)
        expected = list(dict.fromkeys(name_of(work) for name in queues for work in found[name]))
        assert [name_of(work) for work in config["activities"]] == expected
        runner = SandboxedWorkflowRunner if sandbox else UnsandboxedWorkflowRunner
        assert type(config["workflow_runner"]) is runner


async def test_one_worker_of_your_own_in_the_sandbox(house: House) -> None:
    """One worker serves everything on one queue of any name, in the sandbox: a user passes and leaves."""
    saved = house.stores.catalogue.find("journey", "hello")
    await house.stores.ledger.open_journey("hello", saved.version, saved.digest, "a-launch", datetime.now(UTC))
    client = await house.client(JourneysPlugin(house.stores, sandbox=True))
    async with Worker(client, task_queue="mine", max_cached_workflows=0, max_concurrent_workflow_tasks=1):
        answer = await client.execute_workflow(
            "UserJourney",
            UserJourneyInput(journey="hello", user_id="u4"),
            id=user_workflow_id("hello", "u4"),
            task_queue="mine",
        )
    because = "not in 'grown', users v0"
    assert answer == {"admitted": True, "reason": "end", "exit": "done", "because": because}


async def test_a_client_needs_no_stores(house: House) -> None:
    """A client's plugin brings the converter alone: it starts and asks, and a worker made with it has no activity."""
    client = await Client.connect(house.address, namespace=house.namespace, plugins=[JourneysPlugin()])
    (payload,) = await client.data_converter.encode([UserJourneyInput(journey="hello", user_id="ü")])
    assert payload.data.decode() == '{"journey":"hello","user_id":"ü"}'
    assert (payload.metadata["encoding"], "type" in payload.metadata) == (b"json/plain", False)
    assert Worker(client, task_queue=USERS_QUEUE).config(active_config=True)["activities"] == []


async def test_a_run_keeps_the_engine_it_began_with(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose input names no engine are of the first, also when there is a newer one, which enrolment names."""
    monkeypatch.setattr(starting, "ENGINE", 2)
    async with house.serving() as client:
        await house.engine.result(await house.engine.start("hello", client=client), client=client)
        run = client.get_workflow_handle(user_workflow_id("hello", "u4"))
        started = (await run.fetch_history()).events[0].workflow_execution_started_event_attributes
    (given,) = await client.data_converter.decode(started.input.payloads, [UserJourneyInput])
    assert given.engine == 2
    (old,) = await client.data_converter.decode(
        await client.data_converter.encode([{"journey": "hello", "user_id": "u4"}]), [UserJourneyInput]
    )
    assert old.engine == 1
