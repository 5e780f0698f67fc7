"""How fast an audience is enrolled, and how fast those leave who wait, for `scripts.bench_journeys`."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from scripts.bench_passing import Bench, start_all
from workers.connecting import connect
from workers.embedded import run_embedded_server
from workers.engine import Engine
from workers.opening import open_stores
from workers.plugin import JourneysPlugin, activities_of
from workers.serving import run_workers
from workers.settings import Settings
from workflows.contracts import USERS_QUEUE

COUNT_SECONDS = 0.05
"""How often the ledger is asked how many are admitted: each question takes a millisecond of the thread that starts."""

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
