"""A worker in a process of its own, which dies by SIGKILL at the moment it is told: `python -m tests.worker_that_dies`.

It also holds what tests need beside it: a client whose waits for the dead are short, and production workers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import temporalio.client
import temporalio.worker
from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.push.provider import Answer, Notification, Provider, Target
from activities.stores import Stores
from tests.house import House, open_house
from workers.connecting import create_search_attributes
from workers.plugin import JourneysPlugin, activities_of
from workers.providers import open_providers
from workers.serving import make_worker

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 60.0
WEBHOOK_SECRET = "a secret of the tests"  # noqa: S105  no secret


class _HurriedOutbound(temporalio.worker.WorkflowOutboundInterceptor):
    def start_activity(self, input: temporalio.worker.StartActivityInput) -> Any:
        if input.heartbeat_timeout is not None:
            input.heartbeat_timeout = timedelta(seconds=5)
        elif input.activity in ("push", "take-event"):
            input.start_to_close_timeout = timedelta(seconds=2)
        return super().start_activity(input)


class _HurriedInbound(temporalio.worker.WorkflowInboundInterceptor):
    def init(self, outbound: temporalio.worker.WorkflowOutboundInterceptor) -> None:
        super().init(_HurriedOutbound(outbound))


class Hurried(temporalio.client.Interceptor, temporalio.worker.Interceptor):
    """Has the server miss a dead worker after seconds: only the timeouts differ from production."""

    def workflow_interceptor_class(self, input: Any) -> type[temporalio.worker.WorkflowInboundInterceptor]:
        return _HurriedInbound


class _Starts(temporalio.client.OutboundInterceptor):
    def __init__(self, next: temporalio.client.OutboundInterceptor, watcher: StartWatcher) -> None:
        super().__init__(next)
        self._watcher = watcher

    async def start_workflow(self, input: temporalio.client.StartWorkflowInput) -> Any:
        return await self._watcher.start(super().start_workflow, input)


class StartWatcher(temporalio.client.Interceptor):
    """Sees every start that a client makes."""

    def intercept_client(self, next: temporalio.client.OutboundInterceptor) -> temporalio.client.OutboundInterceptor:
        return _Starts(next, self)

    async def start(self, proceed: Callable[..., Any], input: temporalio.client.StartWorkflowInput) -> Any:
        return await proceed(input)


class _DiesAfterStarts(StartWatcher):
    def __init__(self, number: int) -> None:
        self._left = number

    async def start(self, proceed: Callable[..., Any], input: temporalio.client.StartWorkflowInput) -> Any:
        handle = await proceed(input)
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return handle


class _DyingInbound(temporalio.worker.ActivityInboundInterceptor):
    def __init__(self, next: temporalio.worker.ActivityInboundInterceptor, name: str) -> None:
        super().__init__(next)
        self._name = name

    async def execute_activity(self, input: temporalio.worker.ExecuteActivityInput) -> Any:
        answer = await super().execute_activity(input)
        if activity.info().activity_type == self._name:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


class _DiesAfterActivity(temporalio.client.Interceptor, temporalio.worker.Interceptor):
    def __init__(self, name: str) -> None:
        self._name = name

    def intercept_activity(
        self, next: temporalio.worker.ActivityInboundInterceptor
    ) -> temporalio.worker.ActivityInboundInterceptor:
        return _DyingInbound(next, self._name)


class _DiesAfterAnswer:
    """A provider whose process dies when the answer is here and nobody knows it yet.

    Args:
        provider: The real one.
    """

    def __init__(self, provider: Provider) -> None:
        self.name, self.payload, self.close = provider.name, provider.payload, provider.close
        self._send = provider.send

    async def send(self, notification: Notification, target: Target) -> Answer:
        await self._send(notification, target)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")


@asynccontextmanager
async def production_workers(
    house: House,
    queues: Sequence[str],
    interceptors: Sequence[temporalio.client.Interceptor] = (),
    providers: Mapping[str, Provider] | None = None,
) -> AsyncIterator[Client]:
    """Run workers as production does: runs cached, no sandbox."""
    client = await Client.connect(
        house.address,
        namespace=house.namespace,
        plugins=[JourneysPlugin(house.stores, sandbox=False, providers=providers)],
        interceptors=[Hurried(), *interceptors],
    )
    await create_search_attributes(client)
    async with AsyncExitStack() as stack:
        for queue in queues:
            await stack.enter_async_context(make_worker(client, queue, house.settings))
        yield client


@asynccontextmanager
async def activities_only(
    house: House, queue: str, interceptors: Sequence[temporalio.client.Interceptor] = ()
) -> AsyncIterator[None]:
    """Run a worker that does a queue's activities and lets its runs wait."""
    client = await Client.connect(
        house.address,
        namespace=house.namespace,
        data_converter=pydantic_data_converter,
        interceptors=[Hurried(), *interceptors],
    )
    async with _bare_worker(client, house.stores, queue):
        yield


def _bare_worker(client: Client, stores: Stores, queue: str) -> Worker:
    return Worker(client, task_queue=queue, activities=activities_of(stores)[queue])


class OtherProcess:
    """A worker process that a test has started."""

    def __init__(self, house: House, *arguments: str) -> None:
        self._said = house.settings.home / f"said-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "tests.worker_that_dies", str(house.settings.home)]
        command += [house.address, house.namespace, str(house.settings.freshness_seconds), *arguments]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)

    async def killed(self) -> None:
        """Return when it has died as it was told to."""
        status = await asyncio.to_thread(self._process.wait, PATIENCE_SECONDS)
        assert status == -signal.SIGKILL, self._said.read_text()

    def stop(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def other_process(house: House, *arguments: str) -> AsyncIterator[OtherProcess]:
    """Run a worker process beside a test."""
    process = OtherProcess(house, *arguments)
    try:
        yield process
    finally:
        process.stop()


async def until(true: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    """Return when something is so; fail the test when it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


async def _serve(given: argparse.Namespace) -> None:
    interceptors: list[temporalio.client.Interceptor] = []
    if given.after_activity:
        interceptors.append(_DiesAfterActivity(given.after_activity))
    if given.after_starts:
        interceptors.append(_DiesAfterStarts(given.after_starts))
    webhook = {"webhook_url": given.webhook, "webhook_secret": WEBHOOK_SECRET} if given.webhook else {}
    with open_house(given.home, given.address, given.namespace, freshness_seconds=given.freshness, **webhook) as house:
        async with AsyncExitStack() as stack:
            providers = dict(await stack.enter_async_context(open_providers(house.settings)))
            if given.after_answer:
                providers = {name: _DiesAfterAnswer(provider) for name, provider in providers.items()}
            if given.activities_only:
                for queue in given.queues:
                    await stack.enter_async_context(activities_only(house, queue, interceptors))
            else:
                await stack.enter_async_context(production_workers(house, given.queues, interceptors, providers))
            await asyncio.sleep(PATIENCE_SECONDS)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("address")
    parser.add_argument("namespace")
    parser.add_argument("freshness", type=float)
    parser.add_argument("--queues", nargs="+", required=True)
    parser.add_argument("--after-activity")
    parser.add_argument("--after-starts", type=int)
    parser.add_argument("--after-answer", action="store_true")
    parser.add_argument("--webhook")
    parser.add_argument("--activities-only", action="store_true")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
