"""`python -m workers`: serves its queues, says what is wrong, and drains when told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from activities.enrolment import PAGE
from activities.records.rows import enrolments
from tests.house import House
from tests.test_enrolment import load_crowd, rows, runs_of
from tests.worker_that_dies import production_workers, until
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE

ROOT = Path(__file__).resolve().parents[1]
QUEUES = (JOURNEYS_QUEUE, USERS_QUEUE, PUSH_QUEUE)


def environment(home: Path, address: str = "", namespace: str = "", **settings: str) -> dict[str, str]:
    found = {"PATH": os.environ["PATH"], "HOME": str(home), "JOURNEYS_HOME": str(home), **settings}
    if address:
        found |= {"TEMPORAL_ADDRESS": address, "TEMPORAL_NAMESPACE": namespace}
    return found


def run(home: Path, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    """Run a worker that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "workers", *arguments],
        cwd=ROOT,
        env=environment(home, **given),
        capture_output=True,
        text=True,
        timeout=30,
    )


class Served:
    """A worker process that serves."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, null while it runs."""
        return self._process.poll()

    def tell_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def told_to_stop(self) -> tuple[int, float]:
        """Send SIGTERM; give the exit status, and how long it took."""
        self.tell_to_stop()
        return await self.ended()

    async def ended(self) -> tuple[int, float]:
        """Wait for its end; give the exit status, and how long it took."""
        began = time.monotonic()
        status = await asyncio.to_thread(self._process.wait, 60)
        return status, time.monotonic() - began


@asynccontextmanager
async def worker(house: House, *arguments: str, **settings: str) -> AsyncIterator[Served]:
    """Run `python -m workers` beside a test, which goes on when it serves."""
    log = house.settings.home / f"worker-{time.monotonic_ns()}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", *arguments],
            cwd=ROOT,
            env=environment(house.settings.home, house.address, house.namespace, **settings),
            stdout=said,
            stderr=said,
        )
    served = Served(process, log)
    try:
        await until(lambda: "serving" in served.said or process.poll() is not None)
        assert process.poll() is None, served.said
        yield served
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def polled(client: Client, queue: str) -> bool:
    """Ask the server whether anybody takes a queue's tasks."""
    kinds = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
    found = []
    for kind in kinds:
        request = DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
        found.append(bool((await client.workflow_service.describe_task_queue(request)).pollers))
    return any(found)


async def test_it_serves_and_drains(house: House) -> None:
    """A worker process carries a journey to its end, and SIGTERM ends it with 0 within its bound."""
    async with worker(house, JOURNEYS_DRAIN_SECONDS="10") as served:
        client = await house.client()
        report = await house.engine.start("hello", client=client)
        stats = await asyncio.wait_for(house.engine.result(report, client=client), 30)
        status, seconds = await served.told_to_stop()
    assert (stats.entered, stats.exited) == (4, {"end": 4})
    assert (status, seconds < 10) == (0, True), served.said
    assert "Traceback" not in served.said
    assert served.said.rstrip().endswith("stopped")


@pytest.mark.parametrize("role", ["journeys", "users", "push"])
async def test_a_role_serves_its_queue_alone(house: House, role: str) -> None:
    """`--role` polls the role's queue and no other."""
    async with worker(house, "--role", role):
        client = await house.client()
        end = time.monotonic() + 10
        while not await polled(client, role):
            assert time.monotonic() < end, "nobody polls"
            await asyncio.sleep(0.1)
        assert [queue for queue in QUEUES if await polled(client, queue)] == [role]


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    """An unknown role ends with 2 and names the roles there are."""
    ended = run(tmp_path / "home", "--role", "everything")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert all(role in ended.stderr for role in ("everything", "all", "journeys", "users", "push"))
    assert not (tmp_path / "home").exists()


def _nowhere() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("address", [_nowhere, lambda: ""])
def test_no_server_is_said(tmp_path: Path, address: Callable[[], str]) -> None:
    """No server at the address, or none known: exit 1, and a message that names it and says what to do."""
    asked = address()
    ended = run(tmp_path / "home", address=asked, namespace="default")
    assert ended.returncode == 1, ended.stderr
    assert (asked or "TEMPORAL_ADDRESS is not set") in ended.stderr
    assert "start one with `journeys dev`, or set TEMPORAL_ADDRESS" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    """A setting that makes no sense ends with 2 and is named as its environment variable."""
    ended = run(tmp_path / "home", JOURNEYS_POLLERS="none")
    assert ended.returncode == 2
    assert "JOURNEYS_POLLERS" in ended.stderr
    assert "'none'" in ended.stderr


async def test_a_long_enrolment_does_not_hold_up_draining(house: House) -> None:
    """Told to stop in the middle of an enrolment, a worker ends at the page's end, and another goes on at once."""
    size = PAGE + 20
    load_crowd(house, size)
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with worker(house, "--role", "users", JOURNEYS_DRAIN_SECONDS="60") as served:
            report = await house.engine.start("crowd", client=client)
            await until(lambda: house.stores.ledger.inside("crowd") > 0)
            status, seconds = await served.told_to_stop()
            (enrolment,) = rows(house, enrolments)
            assert (status, 0 < enrolment.cursor < size) == (0, True), (served.said, enrolment.cursor)
            assert seconds < 30
        async with production_workers(house, (USERS_QUEUE, PUSH_QUEUE)):
            stats = await asyncio.wait_for(house.engine.result(report, client=client), 90)
        assert len(await runs_of(client, "crowd", size)) == size
    assert (stats.entered, stats.exited) == (size, {"end": size})
