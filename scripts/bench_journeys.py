"""Measure journeys: `python -m scripts.bench_journeys [--json] [--users N] [--rounds N] [--without growth]`.

On the embedded server, started here, with the worker in this process as `journeys dev` has it. Every shape passes the
same number of users, in turn: A B C D A B C D ... Times are medians, and so are the ratios, taken round by round, so
that a machine whose speed drifts does not favour anybody. What grows with the audience is measured last, each size in
processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.life import stats_of
from activities.starting import search_attributes
from activities.stores import Stores
from scripts.bench_growth import PASSING, growth, server_seconds
from scripts.bench_shapes import Empty, NineActivities, OrdinaryActivities, bench_step
from scripts.output import people, print_table
from workers.connecting import connect
from workers.embedded import run_embedded_server
from workers.engine import Engine
from workers.opening import open_stores
from workers.plugin import JourneysPlugin, activities_of
from workers.serving import run_workers, serving
from workers.settings import Settings
from workflows.contracts import USERS_QUEUE, UserJourneyInput

STARTS_AT_ONCE = 50
"""As many as enrolment has under way."""
BENCH_QUEUE = "bench"
EXTRA = 27
"""Elements that the longer journey has more than the win-back journey."""

COUNT_SECONDS = 0.05
"""How often the ledger is asked how many are admitted: each question takes a millisecond of the thread that starts."""

LOOK_SECONDS = 0.25
"""How often it is looked whether all have ended."""

MOST_UNBEGUN = 1_500
"""Runs that may be started and not begun before enrolment waits for the workers."""

ENROLLED = """\
journey: {name}
entries:
  start: {{kind: audience-entry, audience: {{everyone: true}}, next: done}}
elements:
  done: {{kind: exit}}
"""

HELD = """\
journey: {name}
entries:
  start: {{kind: audience-entry, audience: {{everyone: true}}, next: hold}}
elements:
  hold: {{kind: time-delay, date: {date}, time: "{time}", timezone: UTC, next: done}}
  done: {{kind: exit}}
"""

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


def require_all_pushed(bench: Bench, name: str) -> None:
    """End the program unless everybody was pushed."""
    pushed = stats_of(bench.stores, name).elements["promo"].users
    if pushed != {"accepted": len(bench.users)}:
        raise SystemExit(f"not everybody was pushed: {pushed}")


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


async def enrolment(home: Path, users: int, rounds: int) -> dict[str, float]:
    """Take starts a second by enrolment, against a bare loop of the same starts; nobody serves the runs meanwhile.

    Returns:
        Medians: `enrolled` and `bare` in runs a second, and their `ratio`, taken round by round; and `barest` with
        `ratio_to_barest`, of a loop whose runs have neither search attributes nor a summary.
    """
    settings = Settings(home=home)
    speeds: dict[str, list[float]] = {"enrolled": [], "bare": [], "barest": []}
    with open_stores(settings) as stores:
        async with run_embedded_server(settings):
            client = await connect(settings, JourneysPlugin(stores, sandbox=False))
            names = [f"user-{number:07}" for number in range(users)]
            stores.tables.upsert("users", pl.DataFrame({"user_id": names}).with_columns(plan=pl.lit("paid")), "user_id")
            bench = Bench(settings, client, stores, names)
            # Without the plugin, which would bring the workflows that are not to be served.
            plain = await Client.connect(
                client.service_client.config.target_host, data_converter=pydantic_data_converter
            )
            only = Worker(plain, task_queue=USERS_QUEUE, activities=activities_of(stores)[USERS_QUEUE])
            async with run_workers(client, settings, "journeys"), only:
                for number in range(rounds):
                    text = ENROLLED.format(name=f"enrol-{number}")
                    save_documents(stores, read_text(text, "bench.yaml"), datetime.now(UTC))
                    await Engine(settings, stores).start(f"enrol-{number}", client=client)
                    evaluated = time.perf_counter()
                    while stores.ledger.waiting_to_begin(f"enrol-{number}") < users:
                        await asyncio.sleep(COUNT_SECONDS)
                    speeds["enrolled"].append(users / (time.perf_counter() - evaluated))
                    given = await bench.open(f"enrol-{number}")
                    for loop in ("bare", "barest"):
                        named = given.model_copy(update={"journey": f"{loop}-{number}"})
                        began = time.perf_counter()
                        await start_all(bench, "UserJourney", named, "nobody", as_enrolled=loop == "bare")
                        speeds[loop].append(users / (time.perf_counter() - began))
    return {loop: statistics.median(found) for loop, found in speeds.items()} | {
        name: statistics.median(one / other for one, other in zip(speeds["enrolled"], speeds[loop], strict=True))
        for name, loop in (("ratio", "bare"), ("ratio_to_barest", "barest"))
    }


async def waiting(bench: Bench, name: str, seconds: float) -> dict[str, float]:
    """Hold all users until one second, and take what a waiting user costs and how fast they wake together.

    Returns:
        `kilobytes` of this process for each waiting user, `woken` users a second, and milliseconds of processor `cpu`
        for each.
    """
    due = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    text = HELD.format(name=name, date=due.date().isoformat(), time=due.strftime("%H:%M:%S"))
    save_documents(bench.stores, read_text(text, "bench.yaml"), datetime.now(UTC))
    before = resident_bytes()
    engine = Engine(bench.settings, bench.stores)
    report = await engine.start(name, client=bench.client)
    query = f"JourneyId = '{name}' AND JourneyElement = 'hold'"
    while (await bench.client.count_workflows(query)).count < len(bench.users):
        if datetime.now(UTC) > due:
            return {}  # the machine is too slow: some woke before all waited
        await asyncio.sleep(0.2)
    held = resident_bytes() - before
    await asyncio.sleep((due - datetime.now(UTC)).total_seconds())
    began, cpu = time.perf_counter(), time.process_time()
    await engine.result(report, client=bench.client)
    took = time.perf_counter() - began
    return {
        "kilobytes": held / 1024 / len(bench.users),
        "woken": len(bench.users) / took,
        "cpu": (time.process_time() - cpu) * 1000 / len(bench.users),
    }


def resident_bytes() -> int:
    """Give the memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def run(users: int, rounds: int, wait_users: int) -> dict[str, Any]:
    """Measure all but what grows, and give the figures as JSON data."""
    figures: dict[str, Any] = {"users": users, "rounds": rounds, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder) / "shapes", users) as bench:
            figures["settings"] = {
                name: getattr(bench.settings, name) for name in ("pollers", "cached_workflows", "concurrent_activities")
            }
            for number in range(rounds):
                await one_round(bench, number)
                people(stderr=True).print(f"round {number + 1} of {rounds}: {told(bench, number)}", markup=False)
            figures["seconds"] = {shape: statistics.median(found) for shape, found in bench.seconds.items()}
            figures["users_per_second"] = {shape: users / found for shape, found in figures["seconds"].items()}
            figures["worker_cpu_ms"] = {
                shape: statistics.median(found) * 1000 / users for shape, found in bench.cpu.items()
            }
            figures["server_cpu_ms"] = {
                shape: statistics.median(found) * 1000 / users for shape, found in bench.server_cpu.items()
            }
            figures["ratios"] = {
                f"{shape} to {other}": statistics.median(
                    theirs / mine for mine, theirs in zip(bench.seconds[shape], bench.seconds[other], strict=True)
                )
                for shape, other in (("ours", "empty"), ("ours", "ordinary"), ("ours", "nine"))
            }
            figures["cost"] = await cost(bench, "ours-0")
            figures["cost_of_30_elements"] = await cost(bench, "long")
        figures["enrolment"] = await enrolment(Path(folder) / "enrolment", min(users, MOST_UNBEGUN), rounds)
        async with opened(Path(folder) / "waiting", wait_users) as bench:
            figures["waiting"] = {"users": wait_users} | await waiting(bench, "held", 10 + wait_users / 25)
    return figures


async def one_round(bench: Bench, number: int) -> None:
    """Pass all users once by each shape."""
    bench.save(f"ours-{number}")
    bench.save(f"ordinary-{number}")
    given = await bench.open(f"ordinary-{number}")
    empty, nine = (given.model_copy(update={"journey": f"{shape}-{number}"}) for shape in ("empty", "nine"))
    await bench.measure("empty", lambda: pass_all(bench, "Empty", empty, BENCH_QUEUE))
    await bench.measure("ours", lambda: ours(bench, f"ours-{number}"))
    require_all_pushed(bench, f"ours-{number}")
    await bench.measure("ordinary", lambda: pass_all(bench, "OrdinaryActivities", given, BENCH_QUEUE))
    await bench.measure("nine", lambda: pass_all(bench, "NineActivities", nine, BENCH_QUEUE))
    if number == 0:
        bench.save("long", more=EXTRA)
        await ours(bench, "long")


def told(bench: Bench, number: int) -> str:
    """Word one round's figures."""
    return ", ".join(f"{shape} {len(bench.users) / found[number]:.0f}/s" for shape, found in bench.seconds.items())


def machine() -> str:
    """Name the machine: processors and architecture."""
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"


def print_figures(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    print_table(
        ("shape", "seconds", "users/s", "worker CPU ms a user", "server CPU ms a user"),
        [
            (
                shape,
                f"{seconds:.2f}",
                f"{figures['users_per_second'][shape]:.1f}",
                f"{figures['worker_cpu_ms'][shape]:.1f}",
                f"{figures['server_cpu_ms'][shape]:.1f}",
            )
            for shape, seconds in figures["seconds"].items()
        ],
    )
    goals = {"ours to empty": 0.6, "ours to nine": 3.0}
    for name, ratio in figures["ratios"].items():
        goal = f" (goal {goals[name]:g})" if name in goals else ""
        people().print(f"{name}: {ratio:.2f}{goal}", markup=False)
    for name in ("cost", "cost_of_30_elements", "enrolment", "waiting"):
        said = ", ".join(f"{key} {value:.4g}" for key, value in figures[name].items())
        people().print(f"{name.replace('_', ' ')}: {said}", markup=False)
    for name in ("passing", "paging"):
        for size in figures.get("growth", {}).get(name, ()):
            said = ", ".join(f"{key} {value:.4g}" for key, value in size.items() if key != "users")
            people().print(f"{name} {size['users']:,} users: {said}", markup=False)
    if "growth" in figures:
        said = ", ".join(f"{key} {value:.2f}" for key, value in figures["growth"]["ratio"].items())
        people().print(f"{PASSING[-1]:,} users to {PASSING[0]:,}: {said} (goal 1.15)", markup=False)


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--users", type=int, default=1_000, help="users that each shape passes in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all shapes in turn")
    parser.add_argument("--waiting", type=int, default=5_000, help="users who wait, and wake in the same second")
    parser.add_argument("--without", choices=["growth"], help="leave out what grows: 15 minutes")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    figures = asyncio.run(run(given.users, given.rounds, given.waiting))
    if given.without != "growth":
        figures["growth"] = growth()
    if given.json:
        print(json.dumps(figures))
    else:
        print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
