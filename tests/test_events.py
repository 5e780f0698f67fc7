"""Events: each is stored once and starts its runs once, whoever gives it and whatever is killed in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from activities.events.taking import Events
from activities.records.reports import explain, list_pushes
from activities.records.rows import passages, pushes, taken
from tests.commands import Commands
from tests.house import House
from tests.worker_that_dies import other_process, production_workers, until
from workers.connecting import create_search_attributes
from workers.opening import open_stores
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, EventGiven
from workflows.errors import RefusedError, StoreUnavailable
from workflows.events import EVENTS_ID, EventTaken

RUNS = (USERS_QUEUE, PUSH_QUEUE)
EXAMPLES = (Path(__file__).parent / "examples" / "journeys.yaml").read_text(encoding="utf-8").split("\n---\n")

WELCOME = """\
journey: welcome
reentry: {reentry}
entries:
  start: {{kind: trigger-entry, trigger: {{event: sign_up{where}}}, next: hello}}
elements:
  hello: {{kind: push, message: {{title: Hi, body: "from {{{{ entry.source | default: 'nowhere' }}}}"}}, next: done}}
  done: {{kind: exit}}
"""


def example(name: str) -> str:
    """Give one of the ten example journeys."""
    return next(text for text in EXAMPLES if text.startswith(f"journey: {name}") or f"\njourney: {name}" in text)


async def open_journeys(house: House, *names: str) -> None:
    """Write down that saved journeys run, as their start does."""
    for name in names:
        saved = house.stores.catalogue.find("journey", name)
        await house.stores.ledger.open_journey(name, saved.version, saved.digest, f"launch-{name}", datetime.now(UTC))


async def connected(house: House) -> Client:
    """Connect where no worker serves: runs are started, and wait."""
    client = await house.client()
    await create_search_attributes(client)
    return client


def welcome(house: House, *, reentry: str = "never", where: str = "") -> None:
    house.save(WELCOME.format(reentry=reentry, where=where))


def rows(house: House, table: Any) -> list[Any]:
    return list(house.stores.ledger.database.read(lambda connection: connection.execute(select(table)).all()))


def table_rows(house: House) -> list[dict[str, Any]]:
    tables = house.stores.tables
    return tables.collect(tables.scan("events")).to_dicts()


async def left(house: House, journey: str, user: str, number: int = 1) -> None:
    """Wait until a user has left a journey so many times."""
    await until(
        lambda: sum(run.state == "left" for run in explain(house.stores.ledger.database, journey, user).runs) >= number
    )


def branches_of(house: House, journey: str, user: str) -> list[list[str]]:
    """Give the way that each run of a user took."""
    runs = explain(house.stores.ledger.database, journey, user).runs
    return [[f"{step.element}: {step.branch}" for step in run.steps] for run in runs]


def titles(house: House, user: str) -> list[str]:
    return [push.title for push in list_pushes(house.stores.ledger.database, user_id=user).pushes]


async def test_an_event_is_stored_typed_and_starts_a_run(house: House) -> None:
    """An event becomes a typed row, starts the run of a trigger entry, and its values reach the push."""
    welcome(house)
    await open_journeys(house, "welcome")
    async with house.serving(RUNS) as client:
        at = datetime(2027, 3, 31, 10, 0, tzinfo=UTC)
        values = {
            "source": "poster",
            "total": "20.50 EUR",
            "count": 3,
            "first": True,
            "tags": ["a", "b"],
            "empty": None,
        }
        answer = await house.engine.event("u1", "sign_up", at=at, properties=values, client=client)
        assert (answer.started, answer.delivered, answer.warnings) == (1, 0, [])
        await left(house, "welcome", "u1")
    (row,) = table_rows(house)
    assert row["total"]["currency"] == "EUR"
    assert {name: row[name] for name in ("event_id", "user_id", "event", "at", "source", "count", "first", "tags")} == {
        "event_id": answer.event_id,
        "user_id": "u1",
        "event": "sign_up",
        "at": at,
        "source": "poster",
        "count": 3.0,
        "first": True,
        "tags": ["a", "b"],
    }
    bodies = [push.message for push in rows(house, pushes)]
    assert len(bodies) == 2
    assert all("from poster" in body for body in bodies)


async def test_a_repeated_event_starts_nothing_twice(house: House) -> None:
    """The same event, by its id or by all that it says, given in turn or at once, is one row and one run."""
    welcome(house, reentry="after_exit")
    await open_journeys(house, "welcome")
    engine = house.engine
    async with house.serving(RUNS) as client:
        first = [await engine.event("u1", "sign_up", event_id="e1", client=client) for _ in range(2)]
        await left(house, "welcome", "u1")
        again = await engine.event("u1", "sign_up", event_id="e1", properties={"other": 1}, client=client)
        at = datetime.now(UTC)
        together = await asyncio.gather(*(engine.event("u2", "sign_up", at=at, client=client) for _ in range(5)))
        await left(house, "welcome", "u2")
    assert [one.started for one in (*first, again)] == [1, 0, 0]
    assert sorted(one.started for one in together) == [0, 0, 0, 0, 1]
    assert len({one.event_id for one in together}) == 1
    assert Counter(row["user_id"] for row in table_rows(house)) == {"u1": 1, "u2": 1}
    assert Counter(row.user_id for row in rows(house, passages)) == {"u1": 1, "u2": 1}


async def test_what_cannot_be_taken_is_refused(house: House) -> None:
    """An event without a name, with a property that no table holds, or of an unknown push changes nothing."""
    engine, client = house.engine, await connected(house)
    wrong: list[tuple[str, str, dict[str, Any]]] = [
        ("u1", " ", {}),
        ("", "sign_up", {}),
        ("u" * 201, "sign_up", {}),
        ("u1", "sign_up", {"user_id": "u2"}),
        ("u1", "sign_up", {"nested": {"a": 1}}),
        ("u1", "sign_up", {"text": "\0"}),
        ("u1", "sign_up", {"number": float("nan")}),
        ("u1", "sign_up", {"": 1}),
        ("u1", "sign_up", {"*": 1}),
        ("u1", "sign_up", {"__delta_rs_path": 1}),
        ("", "push_opened", {"push_id": "none"}),
    ]
    for user, name, values in wrong:
        with pytest.raises(RefusedError):
            await engine.event(user, name, properties=values, client=client)
    with pytest.raises(RefusedError, match="no zone"):
        await engine.event("u1", "sign_up", at=datetime(2027, 1, 1), client=client)
    for at in (datetime(1, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))):
        with pytest.raises(RefusedError, match="outside the calendar"):
            await engine.event("u1", "sign_up", at=at, client=client)
    assert rows(house, taken) == []
    assert table_rows(house) == []


async def test_a_value_of_another_type_is_told(house: House) -> None:
    """A value that does not read as its column's type, or whose name differs only in case, is null and a warning."""
    engine, client = house.engine, await connected(house)
    await engine.event("u1", "sign_up", properties={"count": 3}, client=client)
    answer = await engine.event("newcomer", "sign_up", properties={"count": "many", "Count": 4}, client=client)
    assert len(answer.warnings) == 2
    assert {"'many'", "'Count'"} <= {word.strip(",:") for text in answer.warnings for word in text.split()}
    assert {row["user_id"]: row["count"] for row in table_rows(house)} == {"u1": 3.0, "newcomer": None}
    # A user whom only an event names is added to the users.
    tables = house.stores.tables
    assert tables.collect(tables.scan("users").filter(user_id="newcomer")).height == 1


async def test_a_burst_makes_few_commits(house: House) -> None:
    """2,000 events that come at once make few commits, and each run that they start is started once."""
    welcome(house, where=", where: {property: number, less_than: 200}")
    await open_journeys(house, "welcome")
    client = await connected(house)
    given = [EventGiven(user_id=f"b{n}", event="sign_up", properties={"number": n}) for n in range(2_000)]
    events = Events(house.stores)
    before = house.stores.tables.versions()
    parts = [given[begin : begin + 50] for begin in range(0, len(given), 50)]
    answers = [one for part in await asyncio.gather(*(events.take(client, part) for part in parts)) for one in part]
    after = house.stores.tables.versions()
    assert after["events"] - before["events"] <= 3
    assert after["users"] - before["users"] <= 3
    assert sum(one.started for one in answers) == 200
    assert len(table_rows(house)) == len({one.event_id for one in answers}) == 2_000
    found = rows(house, passages)
    assert Counter(row.user_id for row in found) == Counter(f"b{n}" for n in range(200))
    assert {row.started for row in found} == {1}
    assert {row.done for row in rows(house, taken)} == {1}


async def test_tables_that_cannot_be_written_lose_nothing(house: House) -> None:
    """An event that the ledger has and the table cannot take fails loudly; a sweep stores it and starts its run."""
    welcome(house)
    await open_journeys(house, "welcome")
    client = await connected(house)
    events = Events(house.stores)
    log = Path(house.stores.tables.place("users")) / "_delta_log"
    away = log.rename(log.with_name("away"))
    with pytest.raises(StoreUnavailable):
        await events.take(client, [EventGiven(user_id="lost", event="sign_up", event_id="e1")])
    (row,) = rows(house, taken)
    assert (row.stored, row.done) == (0, 0)
    assert table_rows(house) == []
    away.rename(log)
    assert await Events(house.stores).sweep(client, left_seconds=0) == 1
    (row,) = rows(house, taken)
    assert (row.stored, row.done) == (1, 1)
    assert [row["event_id"] for row in table_rows(house)] == ["e1"]
    assert [row.started for row in rows(house, passages)] == [1]


async def give(client: Client, event: EventGiven, *, wait: float = 20) -> EventTaken:
    """Give an event to the workflow `Events`, as any client does: started by its first event."""
    start = WithStartWorkflowOperation(
        "Events",
        id=EVENTS_ID,
        task_queue=JOURNEYS_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    answer = client.execute_update_with_start_workflow(
        "event", event, start_workflow_operation=start, result_type=EventTaken
    )
    return await asyncio.wait_for(answer, wait)


async def test_any_client_gives_events(house: House) -> None:
    """The workflow `Events` is started by the first event that a client gives; what is wrong is refused."""
    welcome(house)
    async with house.serving((JOURNEYS_QUEUE, *RUNS)) as client:
        await house.engine.start("welcome", client=client)
        first = await give(client, EventGiven(user_id="u1", event="sign_up", event_id="e1"))
        assert (first.event_id, first.started) == ("e1", 1)
        many = [EventGiven(user_id="u2", event="other", properties={"n": n}) for n in range(5)]
        assert {one.started for one in await asyncio.gather(*(give(client, one) for one in many))} == {0}
        with pytest.raises(WorkflowUpdateFailedError) as failed:
            await give(client, EventGiven(user_id="", event="sign_up"))
        assert isinstance(failed.value.cause, ActivityError)
        assert isinstance(failed.value.cause.cause, ApplicationError)
        assert "no user_id" in failed.value.cause.cause.message
        await left(house, "welcome", "u1")
    assert len(table_rows(house)) == 6


async def test_a_worker_killed_between_the_run_and_its_record(house: House) -> None:
    """A worker killed with -9 when it has started a run: the next one finds the run, and starts no other."""
    welcome(house, reentry="after_exit")
    await open_journeys(house, "welcome")
    async with production_workers(house, (JOURNEYS_QUEUE,)) as client:
        async with other_process(house, "--queues", USERS_QUEUE, "--activities-only", "--after-starts", "1") as process:
            giving = asyncio.create_task(
                give(client, EventGiven(user_id="u1", event="sign_up", event_id="e1"), wait=60)
            )
            await process.killed()
        (row,) = rows(house, taken)
        assert (row.stored, row.done) == (1, 0)
        async with house.serving(RUNS):
            assert (await giving).started == 1
            await left(house, "welcome", "u1")
    assert len(rows(house, passages)) == len(table_rows(house)) == 1
    assert [row.done for row in rows(house, taken)] == [1]
    assert len(titles(house, "u1")) == 2


def test_the_command(tmp_path: Path, address: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`journeys event` takes an event once, its values typed as a file's cells; what is wrong is refused with 2."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", namespace)
    here = Commands(tmp_path)
    words = ["event", "u1", "purchase", "--id", "e1", "--at", "2027-03-31T10:00:00+02:00", "--json"]
    words += ["--set", "amount=19.99 EUR", "--set", "count=3", "--set", "gift=yes", "--set", "code=007"]
    assert here(*words).json == {"event_id": "e1", "started": 0, "delivered": 0, "warnings": []}
    assert here(*words[:-8], "--set", "count=4").json["event_id"] == "e1"
    again = here("event", "u1", "purchase", "--set", "count=many")
    assert again.status == 0
    assert "'many'" in again.err
    assert "0 runs started, 0 waiting runs reached" in again.out
    with open_stores(here.settings) as stores:
        found = stores.tables.collect(stores.tables.scan("events").filter(event_id="e1"))
    (row,) = found.to_dicts()
    assert row["amount"]["currency"] == "EUR"
    assert (row["at"], row["count"], row["gift"], row["code"]) == (
        datetime(2027, 3, 31, 8, tzinfo=UTC),
        3.0,
        True,
        "007",
    )
    for wrong in (["--at", "yesterday"], ["--at", "2027-03-31T10:00:00"], ["--set", "count"], ["--set", "user_id=u2"]):
        said = here("event", "u1", "purchase", *wrong, "--json")
        assert said.status == 2
        assert said.errors
