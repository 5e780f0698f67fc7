"""The main job on the real server: an audience enters, is split, is pushed, and leaves, each user by one workflow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select
from temporalio.client import Client, WorkflowUpdateFailedError

from activities.life import stats_of
from activities.records.reports import explain, list_pushes
from activities.records.rows import enrolments
from tests.house import VIP, House, events_of
from tests.win_back import load_purchases, write_examples
from tests.worker_that_dies import until
from workers.engine import StartReport
from workers.operating import Operator
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workflows.contracts import (
    JOURNEYS_QUEUE,
    PUSH_QUEUE,
    USERS_QUEUE,
    EnterRequest,
    FinishRequest,
    JourneyInput,
    JourneyStatus,
    Stats,
    UserGiven,
    user_workflow_id,
)
from workflows.errors import RefusedError

DECIDING = (JOURNEYS_QUEUE, USERS_QUEUE)
"""Without the queue of pushes, whoever is to be pushed stays inside, and the journey stays running."""


@asynccontextmanager
async def running(house: House) -> AsyncIterator[tuple[Client, StartReport]]:
    """Have `hello` running, three of its four users waiting for their push."""
    async with house.serving(DECIDING) as client:
        report = await house.engine.start("hello", client=client)
        for _ in range(200):
            stats = await refreshed(client)
            if stats.elements["promo"].inside == 3 and stats.inside == 3:
                break
            await asyncio.sleep(0.05)
        assert stats.inside == 3, "they never came to their push"
        yield client, report


async def refreshed(client: Client) -> Stats:
    found: Stats = await client.get_workflow_handle("journey/hello").execute_update("refresh", result_type=Stats)
    return found


async def test_everybody_enters_is_split_is_pushed_and_leaves(house: House) -> None:
    """A journey's final numbers are those that its documents and tables give by hand."""
    async with house.serving() as client:
        report = await house.engine.start("hello", client=client)
        stats = await house.engine.result(report, client=client)
        assert (report.audience, stats.audience, stats.entered, stats.inside) == (4, 4, 4, 0)
        assert stats.exited == {"end": 4}
        assert stats.elements["loyal"].branches == {"users_in_segment": 3, "all_other_users": 1}
        assert stats.elements["promo"].users == {"accepted": 2, "skipped: no-reachable-device": 1}
        assert stats.elements["promo"].devices == {"accepted": 3}
        assert len(await events_of(client, user_workflow_id("hello", "u1"))) <= 13
        assert len(await events_of(client, user_workflow_id("hello", "u4"))) <= 8


AUDIENCES = {
    "existing": "{segment: paying}",
    "in-place": "{attribute: plan, in: [paid, pro]}",
    "file": "{file: payers.csv, column: client, identifier: user_id}",
}
SPLITS = {
    "existing": "{segment: grown}",
    "in-place": "{all: [{attribute: age, at_least: 18}, {not: {attribute: country, is: BE}}]}",
    "file": "{file: vip.csv, column: client}",
}


async def test_three_ways_of_choosing_a_segment(house: House, tmp_path: Path) -> None:
    """Existing, built in place, or a CSV file: for audience and split, in any combination, the same users pass."""
    (tmp_path / "vip.csv").write_text(VIP, encoding="utf-8")
    (tmp_path / "payers.csv").write_text("client\nu1\nu2\nu4\nu6\ngone\n", encoding="utf-8")
    names = []
    for chosen, audience in AUDIENCES.items():
        for split, match in SPLITS.items():
            names.append(f"by-{chosen}-{split}")
            (tmp_path / f"{names[-1]}.yaml").write_text(
                f"""\
journey: {names[-1]}
entries:
  start: {{kind: audience-entry, audience: {audience}, next: loyal}}
elements:
  loyal: {{kind: condition-split, match: {match}, branches: {{users_in_segment: promo, all_other_users: done}}}}
  promo: {{kind: push, message: {{title: Hi, body: there}}, next: done}}
  done: {{kind: exit}}
""",
                encoding="utf-8",
            )
    house.engine.save([tmp_path])
    for name in names:
        saved = house.stores.catalogue.find("journey", name).document
        assert "file" not in json.dumps(saved.model_dump(mode="json", exclude_unset=True)).replace(name, "")
    client = await house.client(JourneysPlugin(house.stores, sandbox=False))
    async with run_workers(client, house.settings):
        reports = [await house.engine.start(name, client=client) for name in names]
        ended = [await house.engine.result(report, client=client) for report in reports]
    assert len(ended) == 9
    for stats in ended:
        assert (stats.audience, stats.exited) == (4, {"end": 4}), stats.journey
        assert stats.elements["loyal"].branches == {"users_in_segment": 3, "all_other_users": 1}, stats.journey
        assert stats.elements["promo"].devices == {"accepted": 3}, stats.journey


async def test_the_first_two_examples(house: House, tmp_path: Path) -> None:
    """The examples j01 and j02 check, save and run as they are written."""
    load_purchases(house)
    documents = write_examples(tmp_path / "documents")
    checked = house.engine.check(documents)
    assert (checked.ok, checked.errors) == (True, [])
    assert {warning.code for warning in checked.warnings} == {"unguarded-push"}
    assert {one.name: one.version for one in house.engine.save(documents).saved} == {
        "j01-vip-hello-vip": 1,
        "paying-customers": 1,
        "loyal-customers": 1,
        "j01-vip-hello": 1,
        "j02-win-back": 1,
    }
    async with house.serving() as client:
        hello = await house.engine.result(await house.engine.start("j01-vip-hello", client=client), client=client)
        back = await house.engine.result(await house.engine.start("j02-win-back", client=client), client=client)
    assert (hello.audience, hello.exited) == (3, {"end": 3})
    assert hello.elements["hello"].users == {"accepted": 2, "skipped: no-reachable-device": 1}
    assert back.elements["loyal"].branches == {"users_in_segment": 2, "all_other_users": 2}
    sent = list_pushes(house.stores.ledger.database)
    assert {(push.journey, push.device_id, push.title) for push in sent.pushes} == {
        ("j01-vip-hello", "d1", "Bonjour"),
        ("j01-vip-hello", "d1b", "Bonjour"),
        ("j01-vip-hello", "d6", "Bonjour"),
        ("j02-win-back", "d1", "Merci Anna"),
        ("j02-win-back", "d1b", "Merci Anna"),
    }


async def test_a_second_start(house: House, tmp_path: Path) -> None:
    """A second start of the running version does nothing, by name or by file: its audience is not read again."""
    house.hold_pushes()
    again = tmp_path / "again.json"
    again.write_text(house_document(house), encoding="utf-8")
    async with running(house) as (client, first):
        house.load("users", "user_id,first_name,plan,age\nu7,Gustav,paid,50\n")
        for name in ("hello", "hello@1", str(again)):
            second = await house.engine.start(name, client=client)
            assert second == first.model_copy(update={"already_running": True}), name
        assert (first.already_running, first.audience) == (False, 4)
        count = select(func.count()).select_from(enrolments)
        assert house.stores.ledger.database.read(lambda connection: connection.execute(count).scalar_one()) == 1
        async with house.serving((PUSH_QUEUE,)):
            stats = await house.engine.result(first, client=client)
    assert (stats.version, stats.audience, stats.exited) == (1, 4, {"end": 4})


def house_document(house: House) -> str:
    """Give the saved journey `hello` as a JSON file would hold it."""
    document = house.stores.catalogue.find("journey", "hello").document
    return document.model_dump_json(by_alias=True, exclude_unset=True)


async def test_another_version_and_a_start_anew(house: House) -> None:
    """Another version is refused while one runs; afterwards it starts, and under `never` only newcomers enter."""
    house.hold_pushes()
    async with running(house) as (client, report):
        house.save(house_document(house).replace("Thank them", "Thank them again"))
        for name in ("hello", "hello@2"):
            with pytest.raises(RefusedError, match=r"version 1 of 'hello' is running.*revise") as refused:
                await house.engine.start(name, client=client)
            assert refused.value.code == "other-version-running"
        async with house.serving((PUSH_QUEUE,)):
            await house.engine.result(report, client=client)
            house.load("users", "user_id,first_name,plan,age\nu7,Gustav,paid,50\n")
            anew = await house.engine.start("hello", client=client)
            stats = await house.engine.result(anew, client=client)
    assert (anew.version, anew.audience, anew.already_running) == (2, 5, False)
    assert (stats.version, stats.entered, stats.refused) == (2, 1, {"entered-before": 4})
    assert stats.exited == {"end": 1}
    assert list_pushes(house.stores.ledger.database).total == 3


async def test_what_an_operator_can_ask_a_journey(house: House) -> None:
    """`refresh` counts now, `stats` repeats the last count with its instant, `status` says what the journey does."""
    house.hold_pushes()
    async with running(house) as (client, report):
        journey = client.get_workflow_handle("journey/hello")
        stats = await refreshed(client)
        assert (stats.state, stats.entered, stats.inside, stats.exited) == ("running", 4, 3, {"end": 1})
        assert (stats.elements["promo"].arrived, stats.elements["promo"].inside) == (3, 3)
        assert await journey.query("stats", result_type=Stats) == stats
        waiting = JourneyStatus(
            journey="hello", version=1, state="running", doing="waiting for those inside to leave", audience=4
        )
        async with asyncio.timeout(20):  # the last page of the enrolment may be under way
            while await journey.query("status", result_type=JourneyStatus) != waiting:
                await asyncio.sleep(0.1)
        assert (await refreshed(client)).as_of > stats.as_of
        async with house.serving((PUSH_QUEUE,)):
            ended = await house.engine.result(report, client=client)
        assert await journey.query("stats", result_type=Stats) == ended
        status = await journey.query("status", result_type=JourneyStatus)
        assert (status.state, status.doing) == ("finished", "finished")


async def test_refresh_before_a_journey_is_open(house: House) -> None:
    """A `refresh` that comes before there is anything to count is refused, with what to do."""
    client = await house.client()
    journey = await client.start_workflow(
        "Journey", JourneyInput(journey="hello"), id="journey/hello", task_queue=JOURNEYS_QUEUE
    )
    asked = asyncio.create_task(journey.execute_update("refresh"))
    await asyncio.sleep(0.3)
    async with house.serving():
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await asked
        assert "ask again in a moment" in str(refused.value.cause)
        assert (await journey.result())["exited"] == {"end": 4}


async def test_a_journey_whose_audience_is_nobody(house: House, tmp_path: Path) -> None:
    """An audience of nobody is a warning when it is checked, and a journey that ends at once with nothing in it."""
    path = tmp_path / "nobody.yaml"
    path.write_text(
        """\
journey: nobody
entries:
  start: {kind: audience-entry, audience: {attribute: plan, is: gold}, next: done}
elements:
  done: {kind: exit}
""",
        encoding="utf-8",
    )
    assert [fault.code for fault in house.engine.check([path]).warnings] == ["segment-of-nobody"]
    async with house.serving() as client:
        report = await house.engine.start(str(path), client=client)
        stats = await house.engine.result(report, client=client)
    assert (report.audience, stats.audience, stats.entered, stats.state) == (0, 0, 0, "finished")


async def test_who_was_imported_just_before_a_start_is_known_to_its_splits(house: House) -> None:
    """A split is never answered from before the tables that admitted the user, however new an older answer is."""
    house.save("""\
        journey: warm
        reentry: after_exit
        entries:
          start: {kind: audience-entry, audience: {everyone: true}, next: payers}
          named: {kind: api-entry, next: payers}
        elements:
          payers:
            kind: condition-split
            match: {attribute: plan, is: paid}
            branches: {users_in_segment: done, all_other_users: done}
          done: {kind: exit}
        """)
    async with house.serving() as client:
        report = await house.engine.start("warm", client=client)
        await until(lambda: stats_of(house.stores, "warm").exited == {"end": 6})
        house.load("users", "user_id,plan\nu7,paid\n")
        operator = Operator(client, "warm")
        await operator.enter(EnterRequest(users=[UserGiven(user_id="u7")]))
        await until(lambda: stats_of(house.stores, "warm").exited == {"end": 7})
        house.load("users", "user_id,plan\nu8,paid\n")
        direct = await house.start_user(client, "warm", "u8")
        await direct.result()
        await operator.finish(FinishRequest())
        await house.engine.result(report, client=client)
        house.load("users", "user_id,plan\nu9,paid\n")
        report = await house.engine.start("warm", client=client)
        await until(lambda: stats_of(house.stores, "warm").exited == {"end": 17})
        await operator.finish(FinishRequest())
    for user in ("u7", "u8", "u9"):
        (*_, run) = explain(house.stores.ledger.database, "warm", user).runs
        assert [step.branch for step in run.steps] == ["users_in_segment"], user
