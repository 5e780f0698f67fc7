"""Records histories of real runs on the embedded server, for the replay test.

Run it as `python -m scripts.record_histories`; it takes about a minute.
Record anew after a change of the engine's number only: histories of an older engine stay, since runs of it may be under
way wherever the product is deployed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from temporalio.client import Client, ScheduleActionExecutionStartWorkflow

from activities.documents.reading import read_text
from activities.documents.saving import save_documents
from activities.life import stats_of
from activities.records.reports import explain
from activities.tables.imports import ImportedTable, import_table
from scripts.sample import write_documents, write_sample
from workers.embedded import run_embedded_server
from workers.engine import Engine
from workers.operating import Operator
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workers.settings import Settings
from workers.stage import DryOutside
from workflows.contracts import (
    ENGINE,
    USERS_QUEUE,
    EnterRequest,
    FinishRequest,
    MoveRequest,
    ResumeRequest,
    ReviseRequest,
    TakeOutRequest,
    UserGiven,
    UserJourneyInput,
    journey_workflow_id,
    user_workflow_id,
)
from workflows.documents import ALL_OTHER_USERS, USERS_IN_SEGMENT
from workflows.enrolment import schedule_id

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "histories"
SAMPLE_USERS = 60
TABLES: tuple[ImportedTable, ...] = ("users", "devices", "events")
PATIENCE_SECONDS = 120.0

TOUR = """\
journey: tour
title: "Every kind of element"
entries:
  named: {kind: api-entry, next: reach}
elements:
  reach: {kind: reachability-check, branches: {reachable: test, not_reachable: done}}
  test: {kind: split-test, branches: {plain: {share: 50, next: mark}, other: {share: 50, next: mark}}}
  mark: {kind: update-user, set: {plan: gold}, next: value}
  value:
    kind: condition-split
    by: {attribute: plan}
    branches: {gold: {is: gold, next: post}, all_other_users: done}
  post: {kind: webhook, url: "https://hooks.example.com/tour", next: delay}
  delay: {kind: time-delay, duration: 1s, next: wait}
  wait:
    kind: wait-for-trigger
    up_to: 10s
    branches: {came: {trigger: {event: session}, next: promo}, not_triggered: promo}
  promo: {kind: push, purpose: transactional, message: {title: Hello, body: there}, next: done}
  done: {kind: exit}
"""
OTHER_PROVIDER = "device_id,user_id,platform,provider,token,opt_in\nother,u000000,web,webhook,t,false\n"
SCHEDULED = """\
journey: scheduled
entries:
  start: {kind: audience-entry, audience: {attribute: plan, is: pro}, schedule: {every: 15m}, next: done}
elements:
  done: {kind: exit}
"""


async def record(folder: Path) -> list[Path]:
    """Run journeys and write one history of each kind.

    Args:
        folder: Where to; made if missing.

    Returns:
        The files, one of each kind of run.

    Raises:
        NoServer: The embedded server did not start.
        TimeoutError: A run did not come where it had to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(home=Path(place))
        with Engine.open(settings) as engine:
            for table, path in zip(TABLES, write_sample(settings.home, SAMPLE_USERS), strict=False):
                import_table(engine.stores.tables, table, path, rejects_dir=settings.rejects, now=datetime.now(UTC))
            engine.save(write_documents(settings.home, vip_in_place=True))
            for text in (TOUR, SCHEDULED):
                _save(engine, text)
            async with run_embedded_server(settings) as server:
                async with _recording(settings, engine, server.address, folder) as recorder:
                    await recorder.hello()
                    written = recorder.written
                # With a device of another provider pushes are ordinary activities; new workers know of it at once.
                devices = settings.home / "other.csv"
                devices.write_text(OTHER_PROVIDER, encoding="utf-8")
                import_table(
                    engine.stores.tables, "devices", devices, rejects_dir=settings.rejects, now=datetime.now(UTC)
                )
                with Engine.open(settings) as second:
                    async with _recording(settings, second, server.address, folder) as recorder:
                        await recorder.tour()
                        await recorder.scheduled()
                        return written + recorder.written


@asynccontextmanager
async def _recording(settings: Settings, engine: Engine, address: str, folder: Path) -> AsyncIterator[Recorder]:
    """Have workers run for as long as something is recorded."""
    # A name of its own keeps the machine's out of the files; webhooks go nowhere, and are accepted.
    plugin = JourneysPlugin(engine.stores, outside=DryOutside())
    client = await Client.connect(address, plugins=[plugin], identity="recorder")
    async with run_workers(client, settings):
        yield Recorder(engine, client, folder)


def _save(engine: Engine, text: str) -> None:
    save_documents(engine.stores, read_text(text, "recorded.yaml"), datetime.now(UTC))


class Recorder:
    """Has journeys pass, and writes their histories.

    Args:
        engine: The stores.
        client: Reaches the server, on which workers run.
        folder: Where to write.
    """

    def __init__(self, engine: Engine, client: Client, folder: Path) -> None:
        self._engine, self._client, self._folder = engine, client, folder
        self.written: list[Path] = []

    async def hello(self) -> None:
        """Record the sample journey: who is pushed, who is not, who is refused, and the journey."""
        engine, client = self._engine, self._client
        report = await engine.start("hello", client=client)
        await engine.result(report, client=client)
        refused = user_workflow_id("hello", "nobody")
        await client.execute_workflow(
            "UserJourney", UserJourneyInput(journey="hello", user_id="nobody"), id=refused, task_queue=USERS_QUEUE
        )
        await self._write("pushed-user", user_workflow_id("hello", self._user_who(USERS_IN_SEGMENT)))
        await self._write("other-user", user_workflow_id("hello", self._user_who(ALL_OTHER_USERS)))
        await self._write("refused-user", refused)
        await self._write("journey", journey_workflow_id("hello"))

    async def tour(self) -> None:
        """Record every kind of element, and every turn that an operator can give to a run and to a journey."""
        engine, client, gate = self._engine, self._client, self._engine.stores.gate
        operator = Operator(client, "tour")
        reachable = self._engine.stores.tables.collect(
            self._engine.stores.tables.scan("devices").filter(opt_in=True).select("user_id").unique()
        )
        eager, late, held, moved, sent, removed = sorted(reachable["user_id"].to_list())[:6]
        report = await engine.start("tour", client=client)

        await self._enter_and_wait(operator, eager, late)
        await engine.event(eager, "session", client=client)
        for name, user in (("came-user", eager), ("late-user", late)):
            await self._write(name, user_workflow_id("tour", user))

        await self._enter_and_wait(operator, held)
        await operator.pause()
        await _until(lambda: bool(gate.held_by("tour", 1)))
        await operator.resume(ResumeRequest())
        await self._write("held-user", user_workflow_id("tour", held))

        await self._enter_and_wait(operator, moved)
        run = client.get_workflow_handle(user_workflow_id("tour", moved))
        before = (await run.describe()).run_id
        _save(engine, TOUR.replace("up_to: 10s", "up_to: 1d"))
        await operator.revise(ReviseRequest(inside="move"))
        await _until(lambda: stats_of(engine.stores, "tour").elements["wait"].inside == 1)
        await engine.event(moved, "session", client=client)
        await self._write("moved-user-after", run.id)
        await self._write("moved-user-before", run.id, before)

        await self._enter_and_wait(operator, sent)
        await operator.move(MoveRequest(user_id=sent, element="promo"))
        await self._write("sent-user", user_workflow_id("tour", sent))

        await self._enter_and_wait(operator, removed)
        await operator.remove(TakeOutRequest(user_id=removed))
        await self._write("removed-user", user_workflow_id("tour", removed))

        await client.get_workflow_handle(report.workflow_id).execute_update("refresh")
        await operator.finish(FinishRequest())
        await self._write("operated-journey", report.workflow_id)

    async def scheduled(self) -> None:
        """Record an occurrence of an entry's schedule, which begins at once."""
        engine, client = self._engine, self._client
        await engine.start("scheduled", client=client)
        schedule = client.get_schedule_handle(schedule_id("scheduled", "start"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (actions := (await schedule.describe()).info.recent_actions):
                await asyncio.sleep(0.2)
        begun = actions[0].action
        if not isinstance(begun, ScheduleActionExecutionStartWorkflow):
            raise TypeError(f"the schedule did {begun!r}, and not start a workflow")
        await self._write("enrolment", begun.workflow_id)
        await Operator(client, "scheduled").finish(FinishRequest(inside="end"))
        await self._write("scheduled-journey", journey_workflow_id("scheduled"))

    async def _enter_and_wait(self, operator: Operator, *users: str) -> None:
        """Let users enter the tour, and return when they wait for an event."""
        await operator.enter(EnterRequest(users=[UserGiven(user_id=user) for user in users]))
        await _until(lambda: stats_of(self._engine.stores, "tour").elements["wait"].inside == len(users))

    async def _write(self, name: str, workflow_id: str, run_id: str | None = None) -> None:
        """Write the history of a run when it has ended; without a run id, of the last one of its chain."""
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await handle.describe()).close_time is None:
                await asyncio.sleep(0.1)
        history = json.loads((await handle.fetch_history()).to_json())
        path = self._folder / f"{name}.engine-{ENGINE}.json"
        path.write_text(json.dumps(history, separators=(",", ":")) + "\n", encoding="utf-8")
        self.written.append(path)

    def _user_who(self, branch: str) -> str:
        """Find a user who took a branch of the sample's split, and was pushed where that is its way."""
        for number in range(SAMPLE_USERS):
            user = f"u{number:06d}"
            for run in explain(self._engine.stores.ledger.database, "hello", user).runs:
                steps = {step.branch: step.outcome for step in run.steps}
                if branch in steps and (branch == ALL_OTHER_USERS or "accepted" in steps.values()):
                    return user
        raise LookupError(f"no user of the sample takes {branch!r}")


async def _until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(check):
            await asyncio.sleep(0.05)


def main() -> None:
    """Record into the folder given, or where the replay test looks."""
    for path in asyncio.run(record(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)):
        print(path)


if __name__ == "__main__":
    main()
