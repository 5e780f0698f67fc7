"""Users who pass a journey, for `scripts.bench_journeys`: how they start and are waited for, and what one costs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from temporalio.client import Client
from temporalio.worker import Worker

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.starting import search_attributes
from activities.stores import Stores
from scripts.bench_shapes import Empty, NineActivities, OrdinaryActivities, bench_step
from workers.embedded import run_embedded_server
from workers.engine import Engine
from workers.serving import serving
from workers.settings import Settings
from workflows.contracts import UserJourneyInput

STARTS_AT_ONCE = 50
"""As many as enrolment has under way."""
BENCH_QUEUE = "bench"

TICKS = os.sysconf("SC_CLK_TCK")

LOOK_SECONDS = 0.25
"""How often it is looked whether all have ended."""

WIN_BACK = """\
journey: {name}
entries:
  start: {{kind: audience-entry, audience: {{attribute: plan, is: paid}}, next: loyal}}
elements:
  loyal:
    kind: condition-split
    match: {{attribute: age, at_least: 18}}
    branches: {{users_in_segment: promo, all_other_users: {other}}}
  promo: {{kind: push, message: {{title: "Merci {{{{ user.first_name }}}}", body: "-20 %"}}, next: done}}
{more}  done: {{kind: exit}}
"""


@dataclass
class Bench:
    """What is measured on: the client, the stores, and the figures found."""

    settings: Settings
    client: Client
    stores: Stores
    users: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    server_cpu: dict[str, list[float]] = field(default_factory=dict)

    def save(self, name: str, *, more: int = 0) -> None:
        """Save the win-back journey under a name, with more elements on the way of "All other users" where asked."""
        extra = "".join(
            f"  more-{number}: {{kind: push, message: {{title: T, body: B}}, "
            f"next: {f'more-{number + 1}' if number + 1 < more else 'done'}}}\n"
            for number in range(more)
        )
        text = WIN_BACK.format(name=name, more=extra, other="more-0" if more else "done")
        save_documents(self.stores, read_text(text, "bench.yaml"), datetime.now(UTC))

    async def open(self, name: str) -> UserJourneyInput:
        """Let runs of a saved journey be started by hand, and give what one is started with."""
        saved = self.stores.catalogue.find("journey", name)
        await self.stores.ledger.open_journey(name, saved.version, saved.digest, "bench", datetime.now(UTC))
        routes = self.stores.catalogue.journey(saved.digest).routes
        return UserJourneyInput(journey=name, user_id="", entry="start", version=1, digest=saved.digest, routes=routes)

    async def measure(self, shape: str, work: Callable[[], Awaitable[None]]) -> None:
        """Take the seconds that all users take, and the processor time of this process and of the server."""
        began, cpu, server = time.perf_counter(), time.process_time(), server_seconds()
        await work()
        self.server_cpu.setdefault(shape, []).append(server_seconds() - server)
        self.seconds.setdefault(shape, []).append(time.perf_counter() - began)
        self.cpu.setdefault(shape, []).append(time.process_time() - cpu)


async def start_all(
    bench: Bench, workflow: str, given: UserJourneyInput, queue: str, *, as_enrolled: bool = False
) -> None:
    """Start a run for each user, some at a time; if told, with search attributes and summary as enrolment does."""
    slots = asyncio.Semaphore(STARTS_AT_ONCE)

    async def one(user: str) -> None:
        async with slots:
            await bench.client.start_workflow(
                workflow,
                given.model_copy(update={"user_id": user}),
                id=bench.stores.ids.workflow_id(given.journey, user),
                task_queue=queue,
                search_attributes=search_attributes(given.journey, given.version, user) if as_enrolled else None,
                static_summary=f"{given.journey}: {user}" if as_enrolled else None,
            )

    await asyncio.gather(*(one(user) for user in bench.users))


async def pass_all(bench: Bench, workflow: str, given: UserJourneyInput, queue: str) -> None:
    """Start a run for each user, and wait until all of them have ended."""
    await start_all(bench, workflow, given, queue)
    await all_ended(bench, workflow, given.journey)


async def all_ended(bench: Bench, workflow: str, journey: str) -> None:
    """Wait until the runs of all users have ended. A look at the count costs the server less than a poll for each."""
    ids = bench.stores.ids.workflow_id(journey, "")
    query = f"WorkflowType = '{workflow}' AND WorkflowId STARTS_WITH '{ids}' AND ExecutionStatus = 'Completed'"
    while (await bench.client.count_workflows(query)).count < len(bench.users):
        await asyncio.sleep(LOOK_SECONDS)


async def ours(bench: Bench, name: str) -> None:
    """Start the journey, as `journeys start` does, and wait until everybody has left."""
    await Engine(bench.settings, bench.stores).start(name, client=bench.client)
    await all_ended(bench, "UserJourney", name)


def server_seconds() -> float:
    """Give the processor time that the programs started by this process have taken, in seconds: here, the server."""
    children = Path("/proc/self/task").glob("*/children")
    pids = [pid for one in children for pid in one.read_text().split()]
    times = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(int(user) + int(system) for user, system in times) / TICKS


async def cost(bench: Bench, name: str) -> dict[str, float]:
    """Count what one pushed user's run costs: history events, bytes, and actions as Temporal Cloud bills them."""
    handle = bench.client.get_workflow_handle(bench.stores.ids.workflow_id(name, bench.users[0]))
    info = (await handle.describe()).raw_description.workflow_execution_info
    history = await handle.fetch_history()
    kinds = [event.WhichOneof("attributes") for event in history.events]
    # Local activities of one workflow task are one action together.
    tasks, marked = 0, False
    for kind in kinds:
        if kind == "workflow_task_completed_event_attributes":
            marked = False
        elif kind == "marker_recorded_event_attributes" and not marked:
            tasks, marked = tasks + 1, True
    actions = 1 + kinds.count("activity_task_scheduled_event_attributes") + tasks
    return {"events": info.history_length, "bytes": info.history_size_bytes, "actions": actions}


@asynccontextmanager
async def opened(home: Path, users: int) -> AsyncIterator[Bench]:
    """Start a server and a worker in an empty home, with an audience of which everybody will be pushed."""
    settings = Settings(home=home)
    async with run_embedded_server(settings), serving(settings) as (client, stores):
        names = [f"user-{number:07}" for number in range(users)]
        frame = pl.DataFrame({"user_id": names}).with_columns(
            plan=pl.lit("paid"), age=pl.lit(30, dtype=pl.Int64), first_name=pl.lit("Anna")
        )
        stores.tables.upsert("users", frame, "user_id")
        devices = pl.DataFrame({"device_id": names, "user_id": names}).with_columns(
            platform=pl.lit("ios"), opt_in=pl.lit(True)
        )
        stores.tables.upsert("devices", devices, "device_id")
        bench = Bench(settings, client, stores, names)
        # On a queue of another name the client's plugin brings all of ours.
        async with Worker(
            client,
            task_queue=BENCH_QUEUE,
            workflows=[Empty, OrdinaryActivities, NineActivities],
            activities=[bench_step],
            max_cached_workflows=settings.cached_workflows,
            max_concurrent_workflow_tasks=settings.concurrent_activities,
            max_concurrent_activities=settings.concurrent_activities,
            graceful_shutdown_timeout=timedelta(seconds=5),
        ):
            yield bench
