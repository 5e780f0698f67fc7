"""Entries: an event lets in whom conditions, re-entry rules and caps allow, by the version that runs at that moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from activities.events.effects import Effects
from activities.events.occurrences import Occurrence
from activities.life import stats_of
from activities.records import gate
from activities.records.admissions import Arrival
from activities.records.reports import explain
from activities.records.rows import passages, pushes
from tests.house import House
from tests.test_events import RUNS, connected, example, left, open_journeys, rows, welcome
from workflows.contracts import UserJourneyInput, user_workflow_id


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
