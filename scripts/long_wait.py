"""The long wait: `python -m scripts.long_wait [--users N] [--days D] [--json]`.

Users are imported, enter a journey and are held by a time delay of thirty days. When all of them stand in it, the
worker and the Temporal server are killed -9 and started again. Then the days pass, by the server's own time skipping,
and it is proved that every user goes on and leaves, once, no earlier than he should; and that the wait cost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select
from temporalio.client import Client
from temporalio.testing import TimeSkipper

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.records.rows import passages, steps
from activities.tables.imports import import_table
from scripts.output import DONE, FAILED, INTERRUPTED, counted, people, print_failure, print_json, wants_json
from scripts.running import stop_as_by_ctrl_c
from scripts.storm import number_between, refuse_real_parts
from scripts.storm_faults import Faults, Site
from scripts.storm_proof import Findings
from workers.engine import Engine
from workers.settings import Settings
from workflows.contracts import Stats
from workflows.errors import JourneyError

JOURNEY = "long-wait"
USERS = 10_000
DAYS = 30
DOCUMENT = """\
journey: {name}
entries:
  start: {{kind: audience-entry, audience: {{everyone: true}}, next: hold}}
elements:
  hold: {{kind: time-delay, duration: {days}d, next: done}}
  done: {{kind: exit}}
"""
SKIPPING = ("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true")
RUNS = f"JourneyId = '{JOURNEY}' AND WorkflowType = 'UserJourney'"
WAITING = f"{RUNS} AND JourneyElement = 'hold' AND ExecutionStatus = 'Running'"

ASKED_AT_ONCE = 50
"""Questions to the server under way at one moment."""
SKIPPED_AT_ONCE = 200
"""Users whose days pass at one moment: each takes the server's skipping about a second."""
DOWN_SECONDS = 2.0
STUCK_SECONDS = 180.0
"""How long nothing may happen, for the wait to be taken for lost."""


class LongWait:
    """One journey in which everybody waits.

    Args:
        home: An empty folder, where all of it is kept.
        users: How many.
        days: How long.
    """

    def __init__(self, home: Path, users: int, days: int) -> None:
        self.settings = Settings(home=home)
        self._users, self._days = users, days
        self._site = Site(self.settings, workers=1, options=SKIPPING)
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._found = Findings()
        self._began = self._phase_began = time.monotonic()

    async def prove(self) -> Findings:
        """Have everybody wait, kill what runs it, let the days pass, and prove what came of it."""
        with Engine.open(self.settings) as engine:
            await asyncio.to_thread(self._prepare, engine)
            async with self._site.running() as client:
                report = await engine.start(JOURNEY, client=client)
                if not await self._all_of(lambda: self._count(client, WAITING)):
                    return self._lost("not everybody came to the delay")
                self._tell("all of them wait")
                before = await self._lengths(client)
                self._tell("what they cost is counted")
                await self._kill(client)
                if await self._lengths(client) != before:
                    return self._lost("after the kill the runs are not those that waited, or have grown")
                self._found.numbers["events_of_a_waiting_run"] = dict(Counter(length for _, length in before.values()))
                self._tell("they wait as before")
                await self._pass_days(client, sorted(before))
                self._tell(f"{self._days} days have passed")
                if not await self._all_of(lambda: self._count(client, f"{RUNS} AND ExecutionStatus = 'Completed'")):
                    return self._lost("not everybody has left")
                stats = await asyncio.wait_for(engine.result(report, client=client), STUCK_SECONDS)
                self._tell("all of them have left")
                await self._runs_ended(client)
                await asyncio.to_thread(self._records_hold, engine, stats)
                self._found.numbers["starts"] = {
                    one.name: one.starts for one in (self._site.server, *self._site.workers)
                }
        self._found.numbers["seconds"] = round(time.monotonic() - self._began, 1)
        return self._found

    def _tell(self, what: str) -> None:
        """Say what has come about, and how long it took."""
        now = time.monotonic()
        people().print(f"{now - self._began:7.1f} s  {what} ({now - self._phase_began:.1f} s)", markup=False)
        self._phase_began = now

    def _lost(self, what: str) -> Findings:
        self._found.require([what])
        return self._found

    def _prepare(self, engine: Engine) -> None:
        """Import the users, and save the journey."""
        path = self.settings.home / "users.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["user_id", "plan"])
            rows.writerows([f"u{number:06d}", "paid"] for number in range(self._users))
        now, tables = datetime.now(UTC), engine.stores.tables
        import_table(tables, "users", path, now=now, rejects_dir=self.settings.rejects)
        text = DOCUMENT.format(name=JOURNEY, days=self._days)
        save_documents(engine.stores, read_text(text, "long-wait.yaml"), now)
        self._tell(f"{counted(self._users, 'user')} imported; all is kept in {self.settings.home}")

    async def _kill(self, client: Client) -> None:
        """Kill worker and server together, and return when the server answers again."""
        faults = Faults(self._site)
        await asyncio.gather(faults.kill_server(DOWN_SECONDS, 0), faults.kill_workers(DOWN_SECONDS, 0))
        await self._site.until_server_answers(client)
        self._tell("worker and server are killed, and run again")

    async def _count(self, client: Client, query: str) -> int:
        return (await client.count_workflows(query)).count

    async def _all_of(self, count: Callable[[], Awaitable[int]]) -> bool:
        """Wait until a number is that of all users; give up when it stays the same for long."""
        since, last = time.monotonic(), -1
        while (now := await count()) < self._users:
            if now != last:
                since, last = time.monotonic(), now
            elif time.monotonic() > since + STUCK_SECONDS:
                self._found.require([f"it is {now} of {self._users} for {STUCK_SECONDS:.0f} s"])
                return False
            await asyncio.sleep(0.5)
        return True

    async def _lengths(self, client: Client) -> dict[str, tuple[str, int]]:
        """Give each waiting user's run and how many events its history has, by workflow id."""

        async def one(workflow_id: str) -> tuple[str, tuple[str, int]]:
            async with self._slots:
                described = await client.get_workflow_handle(workflow_id).describe()
            return workflow_id, (described.run_id, described.history_length)

        ids = [run.id async for run in client.list_workflows(WAITING, page_size=1_000)]
        return dict(await asyncio.gather(*map(one, ids)))

    async def _pass_days(self, client: Client, ids: list[str]) -> None:
        """Let the days pass on the clock of every run, some runs at a time."""
        skipper, days = TimeSkipper(client), timedelta(days=self._days)
        todo = iter(ids)

        async def pass_next() -> None:
            for workflow_id in todo:
                await skipper.fast_forward(client.get_workflow_handle(workflow_id), days)

        await asyncio.gather(*(pass_next() for _ in range(SKIPPED_AT_ONCE)))

    async def _runs_ended(self, client: Client) -> None:
        """Every user had one run, from which nothing is left."""
        found, lengths = Counter[str](), Counter[int]()
        async for run in client.list_workflows(RUNS, page_size=1_000):
            found[run.id] += 1
            lengths[run.history_length] += 1
        self._found.require(f"{name} ran {times} times" for name, times in found.items() if times != 1)
        if len(found) != self._users:
            self._found.require([f"{len(found)} of {self._users} users had a run"])
        self._found.numbers["events_of_an_ended_run"] = dict(lengths)

    def _records_hold(self, engine: Engine, stats: Stats) -> None:
        """The ledger tells of each user once, and that he left by the exit, when his time had come."""
        database = engine.stores.ledger.database
        rows: list[Any] = list(database.read(lambda connection: connection.execute(select(passages)).all()))
        walked: list[Any] = list(database.read(lambda connection: connection.execute(select(steps)).all()))
        times = Counter(row.user_id for row in rows)
        wanted = {f"u{number:06d}" for number in range(self._users)}
        self._found.require(f"{user} never entered" for user in sorted(wanted - set(times)))
        self._found.require(f"{user} entered {number} times" for user, number in times.items() if number > 1)
        gone = {row.passage: row for row in walked}
        if len(gone) != len(walked):
            self._found.require([f"{len(walked) - len(gone)} users passed the delay twice"])
        lasted = [self._lasted(row, gone.get(row.passage)) for row in rows]
        self._found.require(f"{row.user_id} left by {row.exit!r}: {row.reason}" for row in rows if row.reason != "end")
        self._found.require(f"{row.user_id} waited {days} days" for row, days in lasted if days < self._days)
        inside, ended = stats.inside, stats.exited
        if (stats.audience, stats.entered, inside, ended) != (self._users, self._users, 0, {"end": self._users}):
            self._found.require([f"the numbers do not add up: {stats.model_dump_json()}"])
        self._found.numbers |= {"entered": stats.entered, "left": ended, "days": min(days for _, days in lasted)}

    def _lasted(self, passage: Any, step: Any) -> tuple[Any, float]:
        """Give how many days a user was held; none where the ledger does not tell of it."""
        if step is None:
            return passage, 0.0
        held = datetime.fromisoformat(step.at) - datetime.fromisoformat(passage.entered_at)
        return passage, held / timedelta(days=1)


def main() -> int:
    """Parse the arguments, wait, and give the exit status: 0 nobody is lost, 1 somebody is, 2 refused."""
    parser = argparse.ArgumentParser(prog="scripts.long_wait", description="Prove that long waits lose nobody.")
    parser.add_argument("--users", type=number_between(1, 1_000_000), default=USERS, help=f"users (default: {USERS})")
    parser.add_argument("--days", type=number_between(1, 365), default=DAYS, help=f"days (default: {DAYS})")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    given = parser.parse_args()
    stop_as_by_ctrl_c()
    try:
        refuse_real_parts()
        home = Path(tempfile.mkdtemp(prefix="journeys-long-wait-"))
        found = asyncio.run(LongWait(home, given.users, given.days).prove())
    except JourneyError as error:
        return print_failure(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    if wants_json():
        print_json({"ok": not found.losses, "users": given.users, "found": found.numbers, "losses": found.losses})
    else:
        for name, value in found.numbers.items():
            people().print(f"  {name:28} {value}", markup=False)
        for loss in found.losses:
            people().print(f"LOST  {loss}", markup=False)
    if found.losses:
        people().print(f"the parts are kept in {home}", markup=False)
        return FAILED
    shutil.rmtree(home)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
