"""Serving: the workers of one process, until they are told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Literal, TypeAlias

from temporalio.client import Client
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import Interceptor, PollerBehaviorSimpleMaximum, Worker, WorkerDeploymentConfig

from activities.events.taking import Events
from activities.meters import Meters
from activities.stores import Stores
from workers.codec import open_codec
from workers.connecting import connect, create_search_attributes, require_readable_runs
from workers.draining import Draining
from workers.logs import TaskLogging
from workers.metrics import OutcomeCounting, Telemetry
from workers.opening import open_stores
from workers.plugin import JourneysPlugin
from workers.providers import delivery_rules, open_outside, open_providers
from workers.settings import Settings
from workers.tracing import tracing
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE

Role: TypeAlias = Literal["all", "journeys", "users", "push"]
"""Which task queues a worker process serves."""

QUEUES: dict[Role, tuple[str, ...]] = {
    "all": (JOURNEYS_QUEUE, USERS_QUEUE, PUSH_QUEUE),
    "journeys": (JOURNEYS_QUEUE,),
    "users": (USERS_QUEUE,),
    "push": (PUSH_QUEUE,),
}


def make_worker(client: Client, queue: str, settings: Settings, interceptors: Sequence[Interceptor] = ()) -> Worker:
    """Make the worker of one task queue.

    Args:
        client: Connected with the plugin, which brings workflows and activities.
        queue: The task queue.
        settings: How many of what, and as which build.
        interceptors: Stand before the work.

    Returns:
        A worker that is not running yet.
    """
    deployment: WorkerDeploymentConfig | None = None
    if settings.build_id is not None:
        # A run may wait for months: it goes on under the newest build, whose code replays the histories of older ones.
        deployment = WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(settings.deployment, settings.build_id),
            use_worker_versioning=True,
            default_versioning_behavior=VersioningBehavior.AUTO_UPGRADE,
        )
    pollers = PollerBehaviorSimpleMaximum(settings.pollers)
    return Worker(
        client,
        task_queue=queue,
        max_cached_workflows=settings.cached_workflows,
        max_concurrent_workflow_tasks=settings.concurrent_activities,
        max_concurrent_activities=settings.concurrent_activities,
        max_concurrent_local_activities=settings.concurrent_activities,
        workflow_task_poller_behavior=pollers,
        activity_task_poller_behavior=pollers,
        graceful_shutdown_timeout=timedelta(seconds=settings.drain_seconds),
        interceptors=interceptors,
        deployment_config=deployment,
    )


@asynccontextmanager
async def run_workers(
    client: Client, settings: Settings, role: Role = "all", interceptors: Sequence[Interceptor] = ()
) -> AsyncIterator[None]:
    """Run the workers of a role while the body runs, then drain them all at once.

    Args:
        client: Connected with a plugin that has stores.
        settings: How many of what.
        role: Which queues.
        interceptors: Stand before the work.
    """
    await create_search_attributes(client)
    workers = [make_worker(client, queue, settings, interceptors) for queue in QUEUES[role]]
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        try:
            yield
        finally:
            # Left one after the other, the last would go on taking tasks while the first one finishes.
            await asyncio.gather(*(worker.shutdown() for worker in workers))


@asynccontextmanager
async def serving(
    settings: Settings, role: Role = "all", telemetry: Telemetry | None = None, draining: Draining | None = None
) -> AsyncIterator[tuple[Client, Stores]]:
    """Open the stores, connect, and run the workers of a role while the body runs.

    Args:
        settings: Where everything is.
        role: Which queues.
        telemetry: What the process tells of itself; null for nothing.
        draining: Ends the process in time; null where the process goes on.

    Yields:
        The client and the stores that the workers use.

    Raises:
        NoServer: No Temporal server answers.
        StoreUnavailable: A store cannot be reached.
        KeyMissing: The runs that wait were encrypted with a key that is not here.
        RefusedError: A setting needs another one, a file or a package that is missing; or one cannot be used.
    """
    meters, runtime = (telemetry.meters, telemetry.runtime) if telemetry is not None else (Meters(), None)
    with open_stores(settings, meters) as stores, tracing(settings.tracing) as spans:
        async with open_providers(settings) as providers, open_outside(settings) as outside:
            codec = open_codec(settings)
            plugin = JourneysPlugin(
                stores,
                sandbox=settings.sandbox,
                providers=providers,
                rules=delivery_rules(settings),
                outside=outside,
                codec=codec,
            )
            client = await connect(settings, plugin, runtime=runtime, interceptors=spans)
            await require_readable_runs(client, codec)
            interceptors = [TaskLogging(), OutcomeCounting(meters), *filter(None, [draining])]
            try:
                async with run_workers(client, settings, role, interceptors):
                    sweeping = asyncio.create_task(Events(stores).keep_sweeping(client))
                    try:
                        yield client, stores
                    finally:
                        sweeping.cancel()
            finally:
                if draining is not None:
                    draining.finish()


async def until_told_to_stop(others: Sequence[asyncio.Event] = ()) -> None:
    """Return on SIGTERM or SIGINT, or when one of some events is set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for order in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(order, stop.set)
    waiting = [asyncio.create_task(event.wait()) for event in (stop, *others)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        for order in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(order)
