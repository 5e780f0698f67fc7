"""Runs are found by what operators know of them, on the real server, joined with what the ledger knows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from activities.records.reports import explain
from activities.runs import RunList, list_runs
from tests.house import SAMPLE_DOCUMENTS, House, open_house
from workflows.contracts import (
    JOURNEY_ELEMENT,
    JOURNEY_ID,
    JOURNEY_USER_ID,
    JOURNEYS_QUEUE,
    USERS_QUEUE,
    user_workflow_id,
)
from workflows.errors import RefusedError

PATIENCE = timedelta(seconds=20)


async def listed(client: Client, house: House, expected: int, **wanted: Any) -> RunList:
    """List runs when the server's visibility, which lags a little, has as many as expected."""
    until = datetime.now(UTC) + PATIENCE
    while True:
        found = await list_runs(client, house.stores, **wanted)
        if found.total == expected or datetime.now(UTC) > until:
            assert found.total == expected, found
            return found
        await asyncio.sleep(0.1)


async def waiting(client: Client, user: str, element: str) -> None:
    """Start a run as one that waits at an element is found: with all search attributes. No worker takes its queue."""
    await client.start_workflow(
        "UserJourney",
        {"journey": "hello", "user_id": user},
        id=user_workflow_id("hello", user),
        task_queue="nobody-serves-this",
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(JOURNEY_ID, "hello"),
                SearchAttributePair(JOURNEY_USER_ID, user),
                SearchAttributePair(JOURNEY_ELEMENT, element),
            ]
        ),
    )


async def test_each_run_is_listed_with_where_its_user_is(house: House) -> None:
    """Inside: the element that the newest step leads to; left: the exit; refused or failed: no element."""
    house.hold_pushes()
    async with house.serving((JOURNEYS_QUEUE, USERS_QUEUE)) as client:  # nobody pushes, so u1 waits there
        digest = house.stores.catalogue.find("journey", "hello").digest
        await house.stores.ledger.open_journey("hello", 1, digest, "launch", datetime.now(UTC))
        for user in ("u1", "u4", "nobody"):
            await house.start_user(client, "hello", user)
        await client.start_workflow("UserJourney", {"journey": 5}, id="journey/hello/user/u9", task_queue=USERS_QUEUE)
        for user in ("u4", "nobody"):
            await client.get_workflow_handle(user_workflow_id("hello", user)).result()
        await listed(client, house, 1, journey="hello", failed=True)
        until = datetime.now(UTC) + PATIENCE
        while not (runs := explain(house.stores.ledger.database, "hello", "u1").runs) or not runs[0].steps:
            assert datetime.now(UTC) < until
            await asyncio.sleep(0.05)
        found = await listed(client, house, 4, journey="hello")
        rows = {run.user_id: (run.status, run.element, run.version) for run in found.runs}
        assert rows == {
            "u1": ("running", "promo", 1),
            "u4": ("completed", "done", 1),
            "nobody": ("completed", None, None),
            "u9": ("failed", None, None),
        }
        assert found.runs[0].user_id == "u1"  # those under way come first
        since = {run.user_id: run.since for run in found.runs}
        assert since["u1"] == runs[0].steps[0].at
        assert since["u4"] == explain(house.stores.ledger.database, "hello", "u4").runs[0].left_at
        assert [run.user_id for run in (await listed(client, house, 1, journey="hello", user_id="u4")).runs] == ["u4"]
        assert len((await listed(client, house, 4, journey="hello", limit=2)).runs) == 2


async def test_runs_that_wait_at_an_element_are_one_query(house: House) -> None:
    """`--at` finds the runs whose `JourneyElement` it is; a quote in a user id is a letter like others."""
    async with house.serving((JOURNEYS_QUEUE,)) as client:
        quoted, slashed = "o'x' OR JourneyId = 'z", 'a\\b"c'
        for user, element in (("u1", "loyal"), ("u2", "promo"), (quoted, "promo"), (slashed, "promo")):
            await waiting(client, user, element)
        at = await listed(client, house, 3, journey="hello", element="promo")
        assert {run.user_id for run in at.runs} == {"u2", quoted, slashed}
        assert [run.user_id for run in (await listed(client, house, 1, user_id=quoted)).runs] == [quoted]
        for user in (quoted, slashed):
            assert [run.user_id for run in (await listed(client, house, 1, journey="hello", user_id=user)).runs] == [
                user
            ]
        with pytest.raises(RefusedError, match="cannot search"):
            await list_runs(client, house.stores, user_id=slashed)
        assert (await listed(client, house, 4)).total == 4


async def test_hidden_users_are_listed_by_their_own_ids(tmp_path: Path, address: str, namespace: str) -> None:
    """Where Temporal knows users by pseudonyms only, runs are asked for and listed by the users' own ids."""
    with open_house(tmp_path / "home", address, namespace, id_key=SecretStr("k" * 16)) as house:
        house.load("users", "user_id,first_name,plan,age\nu1,A,paid,30\nu4,D,paid,17\n")
        house.save(SAMPLE_DOCUMENTS)
        async with house.serving() as client:
            report = await house.engine.start("hello", client=client)
            await house.engine.result(report, client=client)
            found = await listed(client, house, 2, journey="hello")
            assert {(run.user_id, run.element) for run in found.runs} == {("u1", "done"), ("u4", "done")}
            assert not any("u1" in run.workflow_id for run in found.runs)
            for wanted in ({"user_id": "u4"}, {"user_id": "u4", "journey": "hello"}):
                (run,) = (await listed(client, house, 1, **wanted)).runs
                assert (run.user_id, run.workflow_id) == ("u4", house.stores.ids.workflow_id("hello", "u4"))
