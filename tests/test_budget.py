"""What one user costs on the server: history events, billable actions and bytes, counted on real histories."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory

from activities.push.provider import Provider
from tests.house import House
from tests.test_delivery import DEVICES, serving_apple
from tests.win_back import LOYAL, load_purchases, write_examples
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workflows.contracts import user_workflow_id

EVENTS_PUSHED = 13
ACTIONS = 3
BYTES = 3_072
"""Of a user who is pushed by a provider. The worker's name, written eight times, is a part of the 3.0 KB."""
EVENTS_OUTBOX = 8
EVENTS_OTHER = 7
EVENTS_REFUSED = 6

FREE = {
    *("workflow_execution_started", "workflow_execution_completed"),
    *("workflow_task_scheduled", "workflow_task_started", "workflow_task_completed"),
    *("marker_recorded", "activity_task_scheduled", "activity_task_started", "activity_task_completed"),
}
"""Events that `actions_in` has looked at."""


def kind_of(event: HistoryEvent) -> str:
    return str(event.WhichOneof("attributes")).removesuffix("_event_attributes")


def actions_in(history: WorkflowHistory) -> int:
    """Count as Temporal Cloud bills.

    One for the start, one for each attempt of an ordinary activity, and one for each workflow task that ran local
    activities, however many. Search attributes set at the start cost nothing.
    """
    unknown = {kind_of(event) for event in history.events} - FREE
    assert not unknown, f"look up what these cost: {unknown}"
    attempts, tasks = 1, set()
    for event in history.events:
        if kind_of(event) == "activity_task_started":
            attempts += event.activity_task_started_event_attributes.attempt
        elif kind_of(event) == "marker_recorded":
            assert event.marker_recorded_event_attributes.marker_name == "core_local_activity"
            tasks.add(event.marker_recorded_event_attributes.workflow_task_completed_event_id)
    return attempts + len(tasks)


async def bytes_of(client: Client, workflow_id: str) -> int:
    """Give a history's size as the server keeps and bills it."""
    described = await client.get_workflow_handle(workflow_id).describe()
    return int(described.raw_description.workflow_execution_info.history_size_bytes)


async def production_client(house: House, providers: Mapping[str, Provider] | None = None) -> Client:
    """Connect as a worker does in production, by a short name."""
    plugin = JourneysPlugin(house.stores, sandbox=False, providers=providers)
    return await Client.connect(house.address, namespace=house.namespace, plugins=[plugin], identity="worker-1")


@pytest.mark.parametrize("provider", ["outbox", "apns"])
async def test_the_budget_of_events_actions_and_bytes(house: House, tmp_path: Path, provider: str) -> None:
    """Win-back costs a pushed user 13 events, 3 actions, 3.0 KB; by the outbox 8, 2, 2.7 KB; others 7, 2, 2.2 KB."""
    load_purchases(house)
    house.engine.save(write_examples(tmp_path / "documents"))
    pushed = {"outbox": (EVENTS_OUTBOX, 2, 2_700), "apns": (EVENTS_PUSHED, ACTIONS, BYTES)}[provider]
    async with AsyncExitStack() as stack:
        providers: dict[str, Provider] = {}
        if provider == "apns":
            house.load("devices", DEVICES)
            providers[provider] = (await stack.enter_async_context(serving_apple(house, tmp_path))).provider
        client = await production_client(house, providers)
        await stack.enter_async_context(run_workers(client, house.settings))
        report = await house.engine.start("j02-win-back", client=client)
        stats = await house.engine.result(report, client=client)
        assert stats.elements["loyal"].branches == {"users_in_segment": 2, "all_other_users": 2}
        for user in ("u1", "u2", "u4", "u6"):
            workflow_id = user_workflow_id("j02-win-back", user)
            history = await client.get_workflow_handle(workflow_id).fetch_history()
            size = await bytes_of(client, workflow_id)
            events, actions, most = pushed if user in LOYAL else (EVENTS_OTHER, 2, 2_250)
            assert len(history.events) == events, [kind_of(event) for event in history.events]
            assert actions_in(history) == actions
            heaviest = sorted(((event.ByteSize(), kind_of(event)) for event in history.events), reverse=True)
            assert size <= most, heaviest


async def test_the_budget_of_a_direct_start(house: House) -> None:
    """A run that a client starts keeps within the same events and actions; a refused one costs 6 events, 2 actions."""
    house.load("users", "user_id,plan\nholder,held\n")
    house.save("""\
        journey: open
        entries:
          start: {kind: audience-entry, audience: {attribute: plan, is: held}, next: grown}
        elements:
          grown:
            kind: condition-split
            match: {any: [{attribute: plan, is: held}, {segment: grown}]}
            branches: {users_in_segment: hi, all_other_users: end}
          hi: {kind: push, message: {title: Hi, body: there}, next: end}
          end: {kind: exit}
        """)
    client = await production_client(house)
    # No worker of the push queue is needed for the outbox.
    async with run_workers(client, house.settings, "journeys"), run_workers(client, house.settings, "users"):
        await house.engine.start("open", client=client)
        handles = {user: await house.start_user(client, "open", user) for user in ("u1", "u4", "nobody")}
        assert [(await handles[user].result())["admitted"] for user in ("u4", "nobody")] == [True, False]
        assert (await handles["u1"].result())["exit"] == "end"
        budgets = {"u1": (EVENTS_OUTBOX, 2), "u4": (EVENTS_OTHER, 2), "nobody": (EVENTS_REFUSED, 2)}
        for user, (events, actions) in budgets.items():
            history = await handles[user].fetch_history()
            assert len(history.events) <= events, user
            assert actions_in(history) <= actions, user
