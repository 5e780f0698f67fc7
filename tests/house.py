"""A house for a test: real stores, a namespace of the real server, and workers that replay at every task."""

from __future__ import annotations

import asyncio
import itertools
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowHistory,
)
from temporalio.service import RPCError
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.stores import Stores
from activities.tables.imports import import_table
from workers.connecting import create_search_attributes
from workers.engine import Engine
from workers.opening import open_stores
from workers.plugin import JourneysPlugin
from workers.settings import Settings
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, UserJourneyInput, user_workflow_id

SHARED = Path(__file__).resolve().parents[2] / "shared"
"""The examples, which stand beside the project."""

USERS = """\
user_id,first_name,plan,age,country
u1,Anna,paid,30,FR
u2,,pro,41,FR
u3,Chloé,free,22,BE
u4,Dmitri,paid,17,
u5,Élodie,,65,NO
u6,Fatima,pro,33,SE
"""

DEVICES = """\
device_id,user_id,platform,token,language,opt_in
d1,u1,ios,t1,fr,true
d1b,u1,android,t1b,en,true
d2,u2,ios,t2,fr-CA,false
d4,u4,web,t4,no,true
d6,u6,android,t6,,true
"""

VIP = "client\nu1\nu2\nu6\nnobody\n"

SAMPLE_DOCUMENTS = """\
segment: paying
match: {attribute: plan, in: [paid, pro]}
---
segment: grown
match: {attribute: age, at_least: 18}
---
journey: hello
title: Thank them
entries:
  start: {kind: audience-entry, audience: {segment: paying}, next: loyal}
elements:
  loyal:
    kind: condition-split
    match: {segment: grown}
    branches: {users_in_segment: promo, all_other_users: done}
  promo:
    kind: push
    message: {title: "Merci {{ user.first_name | default: 'à vous' }}", body: "-20 %"}
    next: done
  done: {kind: exit}
"""

_numbers = itertools.count()


@dataclass
class House:
    """Everything of one test: stores, engine, and the server's address."""

    settings: Settings
    stores: Stores
    address: str
    namespace: str

    @property
    def engine(self) -> Engine:
        return Engine(self.settings, self.stores)

    def save(self, text: str, folder: Path | None = None) -> None:
        """Save the documents of a YAML text."""
        save_documents(self.stores, read_text(textwrap.dedent(text), "test.yaml", folder=folder), datetime.now(UTC))

    def load(self, table: Any, text: str) -> Any:
        """Import CSV text into a table."""
        path = self.settings.home / f"{table}-{next(_numbers)}.csv"
        path.write_text(text, encoding="utf-8")
        return import_table(self.stores.tables, table, path, rejects_dir=self.settings.rejects, now=datetime.now(UTC))

    def hold_pushes(self, user_id: str = "u3") -> None:
        """Have every push wait for a worker of the push queue: some device is of another provider than the outbox."""
        self.load("devices", f"device_id,user_id,platform,provider,token,opt_in\nfar,{user_id},ios,apns,far,false\n")

    async def client(self, plugin: JourneysPlugin | None = None) -> Client:
        """Connect to this test's namespace."""
        return await Client.connect(
            self.address, namespace=self.namespace, plugins=[plugin or JourneysPlugin(self.stores, sandbox=True)]
        )

    @asynccontextmanager
    async def serving(
        self,
        queues: tuple[str, ...] = (JOURNEYS_QUEUE, USERS_QUEUE, PUSH_QUEUE),
        *,
        plugin: JourneysPlugin | None = None,
        **options: Any,
    ) -> AsyncIterator[Client]:
        """Run workers that replay every run at every task, in the sandbox."""
        client = await self.client(plugin)
        await create_search_attributes(client)
        async with AsyncExitStack() as stack:
            for queue in queues:
                worker = Worker(
                    client,
                    task_queue=queue,
                    # Replays each run at each task. One task at a time, since a run that another one drives out of
                    # the empty cache loses the local activities it is waiting for, and its task times out.
                    max_cached_workflows=0,
                    max_concurrent_workflow_tasks=1,
                    graceful_shutdown_timeout=timedelta(seconds=5),
                    **options,
                )
                await stack.enter_async_context(worker)
            yield client

    async def pass_time(self, client: Client, journey: str, user_id: str, time: timedelta, key: str = "") -> None:
        """Let time pass for one user's run, and return when it has."""
        handle = client.get_workflow_handle(user_workflow_id(journey, user_id, key))
        await TimeSkipper(client).fast_forward(handle, time)

    async def start_user(self, client: Client, journey: str, user_id: str) -> Any:
        """Start one user's run as any client would."""
        return await client.start_workflow(
            "UserJourney",
            UserJourneyInput(journey=journey, user_id=user_id),
            id=user_workflow_id(journey, user_id),
            task_queue=USERS_QUEUE,
        )


@contextmanager
def open_house(home: Path, address: str, namespace: str, **given: Any) -> Iterator[House]:
    """Open the stores of a home for a test."""
    settings = Settings(home=home, **given)
    home.mkdir(parents=True, exist_ok=True)
    with open_stores(settings) as stores:
        yield House(settings, stores, address, namespace)


async def events_of(client: Client, workflow_id: str) -> list[str]:
    """List the event types of a workflow's history."""
    history: WorkflowHistory = await client.get_workflow_handle(workflow_id).fetch_history()
    return [event.WhichOneof("attributes").removesuffix("_event_attributes") for event in history.events]


async def listed(client: Client, query: str, count: int, *, closed: bool = True) -> list[WorkflowExecution]:
    """List the runs of a query, once the server's list has caught up: it lags behind what the runs do."""
    for _ in range(600):
        runs = [run async for run in client.list_workflows(query)]
        if len(runs) >= count and not (closed and any(run.status is WorkflowExecutionStatus.RUNNING for run in runs)):
            return runs
        await asyncio.sleep(0.05)
    raise AssertionError(f"{len(runs)} of {count} runs: {[(run.id, run.status) for run in runs]}")


async def at_rest(client: Client, handle: WorkflowHandle[Any, Any]) -> None:
    """Return when a run waits for its time, or has ended: the activity that began the wait has answered."""
    for _ in range(600):
        try:
            events = (await handle.fetch_history()).events
        except RPCError:  # not started yet
            await asyncio.sleep(0.05)
            continue
        started = sum(event.HasField("timer_started_event_attributes") for event in events)
        over = sum(
            event.HasField("timer_fired_event_attributes") or event.HasField("timer_canceled_event_attributes")
            for event in events
        )
        if started > over or (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{handle.id} neither waits nor ends")
