"""Runs that an operator ended close their passages, and whoever was admitted without a run is not left behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import (
    Client,
    Interceptor,
    ListWorkflowsInput,
    OutboundInterceptor,
    WorkflowExecutionAsyncIterator,
    WorkflowExecutionStatus,
)
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import life
from activities.life import Endings, LifeActivities, stats_of
from activities.noticing import Notices
from activities.records.admissions import Arrival
from activities.records.reports import explain
from tests.door import load_door, open_door, until_at
from tests.house import House, listed
from tests.worker_that_dies import until
from workers.connecting import create_search_attributes
from workflows.contracts import JourneyRequest, user_workflow_id

RUNNING = WorkflowExecutionStatus.RUNNING


async def test_a_terminated_run_is_reconciled(house: House) -> None:
    """A run that an operator terminates closes its passage as `terminated`, where it stood, and the journey ends."""
    async with open_door(house) as client:
        run = await until_at(client, "held", "hold")
        inside = stats_of(house.stores, "door")
        assert (inside.inside, inside.elements["hold"].inside) == (1, 1)
        await run.terminate("an operator")
    stats = stats_of(house.stores, "door")
    assert (stats.inside, stats.exited, stats.state) == (0, {"terminated": 1}, "finished")
    assert stats.elements["hold"].left == {"terminated": 1}
    (passed,) = explain(house.stores.ledger.database, "door", "held").runs
    assert (passed.state, passed.reason, passed.exit) == ("left", "terminated", None)


async def test_who_was_admitted_and_never_started_is_not_left_behind(house: House) -> None:
    """A user whose run nobody started, since whoever admitted him died, is started by the journey that watches."""
    async with open_door(house) as client:
        await until_at(client, "held", "hold")
        before = datetime.now(UTC) - timedelta(minutes=2)
        (admission,) = await house.stores.ledger.admit(Arrival("dead", "door", 1, "start", "never", before), ["u1"])
        await until(lambda: bool((found := house.stores.ledger.admission(admission.passage)) and found.left), 20)
        assert (await client.get_workflow_handle(user_workflow_id("door", "u1")).result())["exit"] == "out"


async def test_a_journey_that_closes_starts_whoever_was_left_behind(house: House) -> None:
    """Somebody admitted in the last moment, whose start was lost, keeps no journey open for ever: he is started."""
    load_door(house, "never")
    client = await house.client()
    await create_search_attributes(client)
    saved, now = house.stores.catalogue.find("journey", "door"), datetime.now(UTC)
    await house.stores.ledger.open_journey("door", saved.version, saved.digest, "one", now)
    where = Arrival("dead", "door", 1, "start", "never", now - timedelta(minutes=2))
    (admission,) = await house.stores.ledger.admit(where, ["u1"])
    closing = JourneyRequest(journey="door", version=1, launch="one", now=now)
    close = LifeActivities(house.stores, Notices(house.stores)).close_journey
    with pytest.raises(ApplicationError, match="1 users have come into 'door'"):
        await ActivityEnvironment(client=client).run(close, closing)
    found = house.stores.ledger.admission(admission.passage)
    assert found is not None
    assert found.started
    assert (await client.get_workflow_handle(user_workflow_id("door", "u1")).describe()).status is RUNNING


class Listing(Interceptor):
    """Remembers how many runs each list gave."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        given = self.given

        class Counting(OutboundInterceptor):
            def list_workflows(self, input: ListWorkflowsInput) -> WorkflowExecutionAsyncIterator:
                found = super().list_workflows(input)
                fetch = found.fetch_next_page

                async def counted(**options: Any) -> None:
                    await fetch(**options)
                    given.append(len(found.current_page or ()))

                found.fetch_next_page = counted  # type: ignore[method-assign]
                return found

        return Counting(next)


async def test_a_look_at_runs_that_ended_is_at_what_is_new(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look for runs that did not end well lists those that ended since the last one, and closes their passages."""
    monkeypatch.setattr(life, "ENDINGS_OVERLAP", timedelta(0))
    listing, ledger = Listing(), house.stores.ledger
    client = await Client.connect(house.address, namespace=house.namespace, interceptors=[listing])
    other = await house.client()
    endings = Endings(house.stores)
    for number, user in enumerate(("u1", "u2", "u3")):
        (admission,) = await ledger.admit(Arrival("e", "door", 1, "start", "never", datetime.now(UTC)), [user])
        given, name = {"journey": "door", "user_id": user}, user_workflow_id("door", user)
        run = await client.start_workflow("UserJourney", given, id=name, task_queue="nobody")
        await ledger.started([admission.passage])
        await run.terminate()
        await listed(other, f"WorkflowId = '{name}'", 1)  # what lists runs learns of the end a little later
        assert await endings.reconcile(client, "door") == 1
        assert (ledger.inside("door"), listing.given[-1]) == (0, 1), number
