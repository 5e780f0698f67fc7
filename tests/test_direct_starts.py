"""Runs that any client starts: who may enter by one, and who is refused and why, by the journey's rule of re-entry."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.common import WorkflowIDConflictPolicy

from activities.life import stats_of
from activities.records.reports import explain, list_pushes
from tests.door import enter, open_door, refusals_of, until_at
from tests.house import House, listed
from workflows.contracts import USERS_QUEUE, UserJourneyInput, UserJourneyResult, user_workflow_id


async def test_a_direct_start_obeys_the_rule_never(house: House) -> None:
    """Under `never` a client's second start of a user completes with admitted false and `entered-before`, on record."""
    async with open_door(house) as client:
        because = "not in the segment built in place, users v1"
        left = UserJourneyResult(admitted=True, reason="end", exit="out", because=because)
        assert await enter(house, client, "u1") == left
        refused = await enter(house, client, "u1")
        assert refused == UserJourneyResult(admitted=False, reason="entered-before")
        assert refusals_of(house, "u1") == ["entered-before"]
        assert len(explain(house.stores.ledger.database, "door", "u1").runs) == 1
    stats = stats_of(house.stores, "door")
    assert (stats.entered, stats.refused, stats.audience) == (2, {"entered-before": 1}, 3)


async def test_a_direct_start_of_an_unknown_user(house: House) -> None:
    """A user whom the tables do not know is refused with `unknown-user`; imported meanwhile, the next start enters."""
    async with open_door(house) as client:
        assert (await enter(house, client, "newcomer")).reason == "unknown-user"
        assert refusals_of(house, "newcomer") == ["unknown-user"]
        house.load("users", "user_id,plan\nnewcomer,free\n")
        assert (await enter(house, client, "newcomer")).admitted


async def test_a_direct_start_when_the_journey_is_over(house: House) -> None:
    """After a journey has finished, a direct start is refused with `not-running`, and nothing is sent."""
    async with house.serving() as client:
        await house.engine.result(await house.engine.start("hello", client=client), client=client)
        pushed = list_pushes(house.stores.ledger.database).total
        for user in ("u3", "u1"):
            assert await enter(house, client, user, "hello") == UserJourneyResult(admitted=False, reason="not-running")
            assert refusals_of(house, user, "hello") == ["not-running"]
    assert list_pushes(house.stores.ledger.database).total == pushed


async def test_a_direct_start_of_a_journey_that_never_ran(house: House) -> None:
    """A direct start into a journey that nobody started fails, once, and says how to start it."""
    async with house.serving((USERS_QUEUE,)) as client:
        with pytest.raises(Exception, match="Workflow execution failed") as failed:
            await enter(house, client, "u1", "hello")
    assert "journeys start hello" in str(failed.value.__cause__.__cause__ or failed.value.__cause__)


async def test_a_second_run_beside_an_open_passage(house: House) -> None:
    """Who is inside is refused as `already-inside`, even when his first run was thrown out for the second one."""
    async with open_door(house, "after_exit") as client:
        await until_at(client, "held", "hold")
        second = await client.start_workflow(
            "UserJourney",
            UserJourneyInput(journey="door", user_id="held"),
            id=user_workflow_id("door", "held"),
            task_queue=USERS_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
        )
        assert await second.result() == {"admitted": False, "reason": "already-inside"}
        assert refusals_of(house, "held") == ["already-inside"]
    # The first run is gone for good, and its passage does not hold the journey for ever.
    stats = stats_of(house.stores, "door")
    assert (stats.exited, stats.refused) == ({"terminated": 1}, {"already-inside": 1})
    assert stats.elements["hold"].left == {"terminated": 1}


async def test_after_exit(house: House) -> None:
    """Under `after_exit` a user enters again as often as he has left."""
    async with open_door(house, "after_exit") as client:
        for _ in range(3):
            assert (await enter(house, client, "u1")).admitted
    runs = explain(house.stores.ledger.database, "door", "u1").runs
    assert [(run.state, run.exit, len(run.steps)) for run in runs] == [("left", "out", 1)] * 3


async def test_at_most_per_period(house: House) -> None:
    """Under `{at_most: 2, per: 1d}` the third entry within a day is refused as `too-often`."""
    async with open_door(house, "{at_most: 2, per: 1d}") as client:
        results = [await enter(house, client, "u1") for _ in range(3)]
        assert [result.reason for result in results] == ["end", "end", "too-often"]
        assert (await enter(house, client, "u2")).admitted


async def test_at_most_after_the_period(house: House) -> None:
    """Under `{at_most: 1, per: 1s}` a user who waits a second enters again."""
    async with open_door(house, "{at_most: 1, per: 1s}") as client:
        assert (await enter(house, client, "u1")).admitted
        await asyncio.sleep(1.1)
        assert (await enter(house, client, "u1")).admitted


async def test_what_is_long_is_cut_in_a_summary(house: House) -> None:
    """A title, an id or a value longer than a summary may be is cut in it; the way that is told has it whole."""
    value, user = "é" * 1_000, "日" * 100
    house.load("users", f"user_id,plan\n{user},{value}\n")
    house.save(
        f"""\
        journey: wordy
        title: "{"Une très longue histoire. " * 40}"
        entries:
          start: {{kind: audience-entry, audience: {{attribute: plan, is: {value}}}, next: by-plan}}
        elements:
          by-plan:
            kind: condition-split
            by: {{attribute: plan}}
            branches:
              paid: {{is: paid, next: hi}}
              all_other_users: hi
          hi: {{kind: push, message: {{title: Hi, body: there}}, next: end}}
          end: {{kind: exit}}
        """
    )
    async with house.serving() as client:
        await house.engine.start("wordy", client=client)
        run = client.get_workflow_handle(house.stores.ids.workflow_id("wordy", user))
        await listed(client, f"WorkflowId = '{run.id}'", 1)
        assert (await asyncio.wait_for(run.result(), 20))["exit"] == "end"
        assert value in (await run.query("path"))[0]["because"]
        events = (await run.fetch_history()).events
        told = [event.user_metadata.summary.data for event in events if event.user_metadata.HasField("summary")]
        assert max(map(len, told)) < 400
        assert any(data.startswith(b'"Push: hi, ') and "é" in data.decode() for data in told)
        summary = await (await run.describe()).static_summary()
        assert summary is not None
        assert summary.startswith("Une très longue histoire. Une")
        assert ": 日日" in summary
