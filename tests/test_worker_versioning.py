"""Worker versioning on the real server: builds serve when they are made current, and runs go on under the next one."""

from __future__ import annotations

import asyncio
import time

import pytest
from temporalio.api.enums.v1 import VersioningBehavior
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    SetWorkerDeploymentCurrentVersionRequest,
)
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from tests.house import House, events_of
from tests.test_worker_process import worker
from tests.worker_that_dies import until
from workflows.contracts import user_workflow_id

pytestmark = pytest.mark.whole_server

AUTO_UPGRADE = VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE


async def make_current(client: Client, build: str, deployment: str = "journeys") -> None:
    """Make a build the one that runs go to, as an operator does, once its worker polls."""
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace, deployment_name=deployment, build_id=build, identity="test"
    )
    end = time.monotonic() + 20
    while True:
        try:
            await client.workflow_service.set_worker_deployment_current_version(request)
            return
        except RPCError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)


async def build_of(handle: WorkflowHandle[object, object]) -> tuple[str, int]:
    """The build that did a run's last workflow task, and the versioning behaviour it has."""
    info = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
    return info.deployment_version.build_id, info.behavior


async def test_a_run_goes_on_under_the_next_build(house: House) -> None:
    """Runs started under one build wait at a push and are finished by the next one, without a change of theirs."""
    house.hold_pushes()
    async with (
        worker(house, "--role", "journeys", JOURNEYS_BUILD_ID="a") as journeys,
        worker(house, "--role", "users", JOURNEYS_BUILD_ID="a") as users,
    ):
        client = await house.client()
        await make_current(client, "a")
        report = await house.engine.start("hello", client=client)
        await until(lambda: house.stores.ledger.inside("hello") == 3)
        run = client.get_workflow_handle(user_workflow_id("hello", "u1"))
        while "activity_task_scheduled" not in await events_of(client, run.id):
            await asyncio.sleep(0.1)
        assert await build_of(run) == ("a", AUTO_UPGRADE)
        await asyncio.gather(journeys.told_to_stop(), users.told_to_stop())
    async with worker(house, JOURNEYS_BUILD_ID="b"):
        await make_current(client, "b")
        stats = await asyncio.wait_for(house.engine.result(report, client=client), 60)
        assert (stats.entered, stats.exited) == (4, {"end": 4})
        assert await build_of(run) == ("b", AUTO_UPGRADE)
        assert (await build_of(client.get_workflow_handle("journey/hello")))[0] == "b"


async def test_a_deployment_has_its_name(house: House) -> None:
    """A worker registers its build under the deployment that the setting names."""
    async with worker(house, "--role", "journeys", JOURNEYS_BUILD_ID="1.2", JOURNEYS_DEPLOYMENT="eu"):
        client = await house.client()
        await make_current(client, "1.2", "eu")
        request = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name="eu")
        found = (await client.workflow_service.describe_worker_deployment(request)).worker_deployment_info
        assert found.routing_config.current_deployment_version.build_id == "1.2"


async def test_without_a_build_nothing_is_versioned(house: House) -> None:
    """Left out, the setting leaves runs unversioned: any worker takes them."""
    async with worker(house):
        client = await house.client()
        report = await house.engine.start("hello", client=client)
        await asyncio.wait_for(house.engine.result(report, client=client), 30)
        assert await build_of(client.get_workflow_handle("journey/hello")) == ("", 0)
