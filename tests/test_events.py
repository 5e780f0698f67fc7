"""Events: stored once, whatever is killed in between; they start runs once, and count for goals."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from activities.events.effects import Effects
from activities.events.occurrences import Occurrence
from activities.events.taking import Events
from activities.life import stats_of
from activities.records import gate
from activities.records.admissions import Arrival
from activities.records.reports import explain, list_pushes
from activities.records.rows import conversions, passages, pushes, taken
from tests.commands import Commands
from tests.house import House
from tests.worker_that_dies import other_process, production_workers, until
from workers.connecting import create_search_attributes
from workers.opening import open_stores
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, EventGiven, UserJourneyInput, user_workflow_id
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


async def test_a_cap_over_the_keys_of_a_user(house: House) -> None:
    """One run per order, and two a month at most: the third order of a user is refused; another user's is not."""
    house.save("""\
        journey: orders
        reentry: {key: entry.order_id}
        entry_cap: {at_most: 2, per: 30d}
        entries: {start: {kind: trigger-entry, trigger: {event: shipped}, next: done}}
        elements: {done: {kind: exit}}
        """)
    await open_journeys(house, "orders")
    async with house.serving(RUNS) as client:

        async def ship(user: str, order: str, event_id: str = "") -> int:
            answer = await house.engine.event(
                user, "shipped", event_id=event_id, properties={"order_id": order}, client=client
            )
            return answer.started

        assert [await ship("u1", order) for order in ("A-1", "A-2", "A-3")] == [1, 1, 0]
        assert await ship("u1", "A-2", "again") == 0
        assert await ship("u4", "A-3") == 1
        await left(house, "orders", "u1", 2)
    told = explain(house.stores.ledger.database, "orders", "u1")
    assert sorted(run.key for run in told.runs) == ["A-1", "A-2"]
    assert sorted(one.reason for one in told.refused) == ["entered-before", "too-often"]
    stats = stats_of(house.stores, "orders")
    assert (stats.audience, stats.entered, stats.refused) == (5, 3, {"too-often": 1, "entered-before": 1})


async def test_a_cap_on_an_audience_is_planned(house: House) -> None:
    """What a plan says of a cap on entries is what the next start does: who came too often is refused as such."""
    house.save("""\
        journey: capped
        reentry: after_exit
        entry_cap: {at_most: 1, per: 30d}
        entries: {start: {kind: audience-entry, audience: {segment: paying}, next: done}}
        elements: {done: {kind: exit}}
        """)
    engine = house.engine
    async with house.serving() as client:
        for audience, wanted in ((4, {}), (5, {"too-often": 4})):
            assert ((plan := engine.plan("capped")).audience, plan.refused) == (audience, wanted)
            before = stats_of(house.stores, "capped").entered
            stats = await engine.result(await engine.start("capped", client=client), client=client)
            assert (stats.entered - before, stats.refused) == (audience - sum(wanted.values()), wanted)
            house.load("users", "user_id,plan\nu3,pro\n")


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
        ("", "push_opened", {"push_id": "none"}),
    ]
    for user, name, values in wrong:
        with pytest.raises(RefusedError):
            await engine.event(user, name, properties=values, client=client)
    with pytest.raises(RefusedError, match="no zone"):
        await engine.event("u1", "sign_up", at=datetime(2027, 1, 1), client=client)
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


async def test_conditions_of_entries(house: House) -> None:
    """`where` compares with prices, the user's attributes and the event's own values; others start nothing."""
    where = (
        ", where: {all: [{property: total, at_least: 20 EUR}, {property: country, is: {attribute: country}}, "
        "{property: now, less_than: {entry: before, times: 0.9}}]}"
    )
    welcome(house, where=where)
    await open_journeys(house, "welcome")
    engine, client = house.engine, await connected(house)
    right = {"total": "20 EUR", "country": "FR", "now": 80, "before": 100}
    wrong = ({"total": "19.99 EUR"}, {"total": "20 USD"}, {"country": "BE"}, {"now": 95}, {"before": None})
    started = [
        (await engine.event("u1", "sign_up", properties={**right, **other}, client=client)).started
        for other in (*wrong, {"total": 20}, {})
    ]
    assert started == [0, 0, 0, 0, 0, 0, 1]


async def test_rules_of_entries(house: House) -> None:
    """Re-entry rules, missing keys, paused and finished journeys: each refusal stands in the ledger with its reason."""
    welcome(house, reentry="{key: entry.order}")
    await open_journeys(house, "welcome")
    engine, gate, ledger = house.engine, house.stores.gate, house.stores.ledger
    client = await connected(house)
    orders: list[dict[str, Any]] = [{"order": 7}, {"order": 8}, {"order": "7"}, {}]
    started = [(await engine.event("u1", "sign_up", properties=one, client=client)).started for one in orders]
    assert started == [1, 1, 0, 0]
    await gate.pause("welcome", datetime.now(UTC))
    assert (await engine.event("u1", "sign_up", properties={"order": 9}, client=client)).started == 0
    await ledger.finish_journey("welcome", "launch-welcome", datetime.now(UTC))
    assert (await engine.event("u1", "sign_up", properties={"order": 10}, client=client)).started == 0
    assert Counter(one.reason for one in explain(ledger.database, "welcome", "u1").refused) == Counter(
        ["already-inside", "no-key", "not-running"]
    )
    assert sorted(row.key for row in rows(house, passages)) == ["7", "8"]
    described = await client.get_workflow_handle(user_workflow_id("welcome", "u1", "7")).describe()
    assert described.workflow_type == "UserJourney"


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


GOAL = """\
journey: shop
reentry: after_exit
goals:
  bought: {trigger: {event: purchase, where: {property: amount, at_least: 10 EUR}}, within: 7d, end_journey: true}
  looked: {trigger: {event: session}}
entries:
  start: {kind: trigger-entry, trigger: {event: sign_up}, next: first}
elements:
  first: {kind: push, message: {title: First, body: b}, next: second}
  second: {kind: push, message: {title: Second, body: b}, next: wait}
  wait: {kind: time-delay, duration: 30d, next: third}
  third: {kind: push, message: {title: Third, body: b}, next: done}
  done: {kind: exit}
"""


async def test_goals(house: House) -> None:
    """A goal counts once for a passage, by the last opened push, else the last sent; it ends the journey at once."""
    house.save(GOAL)
    await open_journeys(house, "shop")
    engine = house.engine
    async with house.serving(RUNS) as client:
        await engine.event("u1", "sign_up", client=client)
        await engine.event("u4", "sign_up", client=client)
        await until(lambda: len(titles(house, "u1")) == 4 and len(titles(house, "u4")) == 2)
        opened = next(row for row in rows(house, pushes) if (row.user_id, row.element) == ("u1", "first"))
        open_event = await engine.event("", "push_opened", properties={"push_id": opened.push_id}, client=client)
        for user, amount in (("u1", "5 EUR"), ("u1", "10 EUR"), ("u4", "12 EUR"), ("u4", "13 EUR"), ("u6", "99 EUR")):
            await engine.event(user, "purchase", properties={"amount": amount}, client=client)
        await engine.event("u1", "session", client=client)
        await engine.event("u1", "session", client=client)
        old = datetime.now(UTC) - timedelta(days=1)
        await engine.event("u4", "session", at=old, client=client)
        await left(house, "shop", "u1")
        await left(house, "shop", "u4")
        ended = client.get_workflow_handle(user_workflow_id("shop", "u1"))
        assert (await asyncio.wait_for(ended.result(), 20))["reason"] == "goal: bought"
    stored = next(row for row in table_rows(house) if row["event_id"] == open_event.event_id)
    assert (stored["user_id"], stored["journey"], stored["element"]) == ("u1", "shop", "first")
    counted = {(row.user_id, row.goal): (row.element, row.opened) for row in rows(house, conversions)}
    assert counted == {("u1", "bought"): ("first", 1), ("u4", "bought"): ("second", 0), ("u1", "looked"): ("first", 1)}
    assert stats_of(house.stores, "shop").exited == {"goal: bought": 2}
    assert "Third" not in [*titles(house, "u1"), *titles(house, "u4")]


async def test_the_price_drop_example(house: House) -> None:
    """j08: whoever is told of a price drop entered by it, once for each article, with its values in title and link."""
    house.save(example("j08-price-drop"))
    await open_journeys(house, "j08-price-drop")
    engine = house.engine
    drops: Sequence[tuple[str, float, float]] = [("a", 80, 100), ("b", 90.5, 100), ("a", 70, 80), ("c", 8.9, 10)]
    async with house.serving(RUNS) as client:
        started = [
            (
                await engine.event(
                    "u1",
                    "price_changed",
                    properties={"sku": sku, "name": sku.upper(), "new_price": new, "old_price": old},
                    client=client,
                )
            ).started
            for sku, new, old in drops
        ]
        await left(house, "j08-price-drop", "u1", 2)
    assert started == [1, 0, 0, 1]
    said = {row.message for row in rows(house, pushes)}
    assert any("A: 80" in text and "myapp://p/a" in text for text in said)
    assert any("C: 8.9" in text and "myapp://p/c" in text for text in said)


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


async def test_a_run_is_of_the_version_that_admitted_its_user(house: House) -> None:
    """Admitted by an event, and started only when another version has taken over: the run is of the first one."""
    welcome(house)
    await open_journeys(house, "welcome")
    client = await connected(house)
    ledger, saved = house.stores.ledger, house.stores.catalogue.find("journey", "welcome")
    where = Arrival(
        "event/e1/welcome/start", "welcome", saved.version, "start", "never", datetime.now(UTC), event_id="e1"
    )
    await ledger.admit(where, ["u1"])
    welcome(house, reentry="after_exit")
    later = house.stores.catalogue.find("journey", "welcome")
    await house.stores.gate.revise("welcome", later.version, later.digest, "keep", {}, datetime.now(UTC))
    assert (await house.engine.event("u1", "sign_up", event_id="e1", client=client)).started == 1
    history = await client.get_workflow_handle(user_workflow_id("welcome", "u1")).fetch_history()
    payloads = history.events[0].workflow_execution_started_event_attributes.input.payloads
    (given,) = await client.data_converter.decode(payloads, [UserJourneyInput])
    assert (given.version, given.digest, later.version) == (1, saved.digest, 2)


async def test_an_event_meets_a_revision(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision comes between the look for an entry and the admission: the user enters the new version, or none."""
    monkeypatch.setattr(gate, "COPY_SECONDS", 60.0)
    monkeypatch.setattr(gate, "TRUST_SECONDS", 180.0)
    welcome(house)
    await open_journeys(house, "welcome")
    client = await connected(house)
    effects = Effects(house.stores)
    event = Occurrence("e1", "u1", "sign_up", datetime.now(UTC), datetime.now(UTC), {})
    found = await effects.find([event, replace(event, event_id="e2", user_id="u2")])
    welcome(house, where=", where: {property: number, less_than: 2}")
    later = house.stores.catalogue.find("journey", "welcome")
    await house.stores.gate.revise("welcome", later.version, later.digest, "keep", {}, datetime.now(UTC))
    await effects.do(client, found[0])
    assert (found[0].started, rows(house, passages)) == ([], [])
    welcome(house, reentry="after_exit")
    newest = house.stores.catalogue.find("journey", "welcome")
    await house.stores.gate.revise("welcome", newest.version, newest.digest, "keep", {}, datetime.now(UTC))
    await effects.do(client, found[1])
    assert [(row.user_id, row.version) for row in rows(house, passages)] == [("u2", 3)]
