"""Waits: each ends by what happened first, or when its time is over; no event is lost between two elements."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from activities.records.reports import explain
from activities.records.rows import hits, pushes, taken, waits
from tests.house import House, events_of
from tests.test_events import RUNS, branches_of, connected, example, left, open_journeys, rows, titles
from tests.waiting import begin, run_of, save_wait, skip
from tests.worker_that_dies import other_process, until
from workflows.contracts import PUSH_QUEUE, USERS_QUEUE, EventGiven
from workflows.documents import ConditionSplit


async def test_the_cart_example(house: House) -> None:
    """j03: whoever buys the cart is left in peace, who buys another one or nothing is pushed after an hour."""
    house.save(example("j03-cart"))
    await open_journeys(house, "j03-cart")
    engine, name = house.engine, "j03-cart"
    async with house.serving(RUNS) as client:
        totals = {"u1": "45 EUR", "u4": "20 EUR", "u6": "30 EUR", "u3": "19.99 EUR"}
        started = {
            user: (
                await engine.event(
                    user, "cart_updated", properties={"cart_id": f"c-{user}", "total": total}, client=client
                )
            ).started
            for user, total in totals.items()
        }
        assert started == {"u1": 1, "u4": 1, "u6": 1, "u3": 0}
        await until(lambda: len(rows(house, waits)) == 3)
        bought = await engine.event("u1", "purchase", properties={"cart_id": "c-u1"}, client=client)
        other = await engine.event("u4", "purchase", properties={"cart_id": "c-u1"}, client=client)
        assert (bought.delivered, other.delivered) == (1, 0)
        await left(house, name, "u1")
        for user in ("u4", "u6"):
            await skip(client, run_of(client, user, name), timedelta(minutes=61))
            await left(house, name, user)
        again = await engine.event("u4", "cart_updated", properties={"cart_id": "x", "total": "99 EUR"}, client=client)
        assert again.started == 0
    assert branches_of(house, name, "u1") == [["wait: bought"]]
    assert branches_of(house, name, "u4") == branches_of(house, name, "u6") == [["wait: not_triggered", "nudge: next"]]
    assert [row.message for row in rows(house, pushes) if "30 EUR is waiting" in row.message]
    assert titles(house, "u1") == []
    assert [one.reason for one in explain(house.stores.ledger.database, name, "u4").refused] == ["too-often"]


async def test_the_delivery_example(house: House) -> None:
    """j06: each order of one user follows its own events: one is delivered, one is cancelled, one is late."""
    house.save(example("j06-delivery"))
    await open_journeys(house, "j06-delivery")
    engine, name = house.engine, "j06-delivery"
    async with house.serving(RUNS) as client:
        for order in ("A-1", "A-2", "A-3"):
            await engine.event("u1", "order_shipped", properties={"order_id": order}, client=client)
        await until(lambda: len(rows(house, waits)) == 3)
        for event, order in (("order_delivered", "A-1"), ("order_cancelled", "A-2"), ("order_delivered", "A-9")):
            await engine.event("u1", event, properties={"order_id": order}, client=client)
        await left(house, name, "u1", 2)
        await skip(client, run_of(client, "u1", name, "A-3"), timedelta(days=10, minutes=1))
        await left(house, name, "u1", 3)
    runs = explain(house.stores.ledger.database, name, "u1").runs
    assert {run.key: run.steps[0].branch for run in runs} == {
        "A-1": "delivered",
        "A-2": "cancelled",
        "A-3": "not_triggered",
    }
    assert sorted({row.title for row in rows(house, pushes)}) == ["Late", "Order A-1"]


async def test_all_of_several_events(house: House) -> None:
    """`all` waits for each of its events, in any order, in whatever time; one event twice is not two."""
    save_wait(house, "both: {all: [{event: a}, {event: b, where: {property: n, at_least: 2}}], next: came}")
    await open_journeys(house, "waiting")
    engine = house.engine
    async with house.serving(RUNS) as client:
        await begin(house, client)
        for name, number in (("b", 1), ("b", 2), ("b", 3)):
            await engine.event("u1", name, properties={"n": number}, client=client)
        await asyncio.sleep(0.5)
        assert branches_of(house, "waiting", "u1") == [[]]
        await engine.event("u1", "a", properties={"n": 7}, client=client)
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: both", "came: next"]]
    assert titles(house, "u1")[0].startswith("7")


async def test_any_of_several_events(house: House) -> None:
    """`any` ends with one of its events, of two branches the one that came first; the values go to the templates."""
    branches = "x: {any: [{event: a}, {event: b}], next: came}, y: {trigger: {event: c}, next: late}"
    save_wait(house, branches)
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        await begin(house, client)
        assert (await house.engine.event("u1", "b", properties={"n": 5}, client=client)).delivered == 1
        await left(house, "waiting", "u1")
        # What nobody waits for any more reaches nobody.
        assert (await house.engine.event("u1", "c", client=client)).delivered == 0
    assert branches_of(house, "waiting", "u1") == [["wait: x", "came: next"]]
    assert titles(house, "u1")[0].startswith("5")


async def test_a_fixed_wait(house: House) -> None:
    """With `fixed` everybody waits the whole time and then takes the branch of what happened first, not came first."""
    save_wait(house, "x: {trigger: {event: a}, next: came}, y: {trigger: {event: b}, next: late}", fixed="true")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        now = datetime.now(UTC)
        await house.engine.event("u1", "b", at=now + timedelta(minutes=2), client=client)
        await house.engine.event("u1", "a", at=now + timedelta(minutes=1), properties={"n": 1}, client=client)
        await asyncio.sleep(0.5)
        assert branches_of(house, "waiting", "u1") == [[]]
        assert "workflow_execution_signaled" not in await events_of(client, run.id)
        await skip(client, run, timedelta(days=1, seconds=1))
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: x", "came: next"]]


OPENED = """\
journey: opening
reentry: after_exit
entries: {start: {kind: trigger-entry, trigger: {event: begin}, next: promo}}
elements:
  promo: {kind: push, message: {title: Promo, body: b}, next: opened}
  opened:
    kind: wait-for-trigger
    up_to: 2d
    branches:
      opened: {trigger: {event: push_opened, where: {property: element, is: promo}}, next: done}
      not_triggered: late
  late: {kind: exit}
  done: {kind: exit}
"""


async def test_push_opened(house: House) -> None:
    """A wait for `push_opened` ends by an open; the push's id says whose it is, of which journey and element."""
    house.save(OPENED)
    await open_journeys(house, "opening")
    async with house.serving(RUNS) as client:
        for user in ("u1", "u6"):
            await house.engine.event(user, "begin", client=client)
        await until(lambda: len(rows(house, waits)) == 2)
        sent = next(row.push_id for row in rows(house, pushes) if row.user_id == "u1")
        assert (await house.engine.event("", "push_opened", properties={"push_id": sent}, client=client)).delivered == 1
        await left(house, "opening", "u1")
        await skip(client, run_of(client, "u6", "opening"), timedelta(days=2, seconds=1))
        await left(house, "opening", "u6")
    assert branches_of(house, "opening", "u1") == [["promo: next", "opened: opened"]]
    assert branches_of(house, "opening", "u6") == [["promo: next", "opened: not_triggered"]]


async def test_an_event_before_its_wait(house: House) -> None:
    """What a user does after he entered and before his run waits counts; what he did before, and the entry, do not."""
    save_wait(house, "x: {any: [{event: a}, {event: begin}], next: came}")
    await open_journeys(house, "waiting")
    engine, client = house.engine, await connected(house)
    for user in ("u1", "u4"):
        await engine.event(user, "a", properties={"n": 1}, client=client)
        await engine.event(user, "begin", client=client)
    # No worker serves yet: the runs are started, and have not come to their wait.
    assert (await engine.event("u1", "a", properties={"n": 2}, client=client)).delivered == 0
    async with house.serving(RUNS):
        await left(house, "waiting", "u1")
        await until(lambda: len(rows(house, waits)) == 2)
    assert titles(house, "u1")[0].startswith("2")
    assert branches_of(house, "waiting", "u4") == [[]]


async def test_an_event_serves_one_wait(house: House) -> None:
    """The event that ends a wait does not end the next one for the same; what comes in between does."""
    house.save("""\
        journey: twice
        entries: {start: {kind: trigger-entry, trigger: {event: begin}, next: one}}
        elements:
          one: {kind: wait-for-trigger, up_to: 1d, branches: {x: {trigger: {event: a}, next: two}, not_triggered: out}}
          two: {kind: wait-for-trigger, up_to: 1d, branches: {y: {trigger: {event: a}, next: out}, not_triggered: out}}
          out: {kind: exit}
        """)
    await open_journeys(house, "twice")
    async with house.serving(RUNS) as client:
        await house.engine.event("u1", "begin", client=client)
        await until(lambda: len(rows(house, waits)) == 1)
        # By the signal of the run itself, as any client in any language sends it.
        handle = run_of(client, "u1", "twice")
        await handle.signal("event", EventGiven(event="a", event_id="first"))
        await until(lambda: len(rows(house, waits)) == 2)
        await asyncio.sleep(0.5)
        assert branches_of(house, "twice", "u1") == [["one: x"]]
        await handle.signal("event", EventGiven(event="", event_id="wrong"))
        await handle.signal("event", EventGiven(event="a", event_id="second"))
        await left(house, "twice", "u1")
        assert (await handle.result())["reason"] == "end"
    assert [row.event_id for row in rows(house, hits)] == ["first", "second"]
    assert {row.event_id: row.user_id for row in rows(house, taken) if row.event == "a"} == {
        "first": "u1",
        "second": "u1",
    }


BUYERS = (
    "buyer: {kind: condition-split, match: {event: purchase, count: {at_least: 1}}, "
    "branches: {users_in_segment: came, all_other_users: late}}"
)


async def warm(house: House) -> None:
    """Have the membership of buyers at hand, as another user's split a moment ago leaves it."""
    saved = house.stores.catalogue.journey(house.stores.catalogue.find("journey", "waiting").digest)
    split = saved.document.elements["buyer"]
    assert isinstance(split, ConditionSplit)
    found = await house.stores.memberships.membership(split.match, house.stores.segments.zone, datetime.now(UTC))
    assert len(found.ids) == 0


@pytest.mark.parametrize("waits_already", [True, False])
async def test_a_split_sees_what_its_run_waited_for(house: House, waits_already: bool) -> None:
    """Wait for a purchase, then split on purchase: the split sees it, though an older membership is at hand."""
    save_wait(house, "bought: {trigger: {event: purchase}, next: buyer}", more=BUYERS)
    await open_journeys(house, "waiting")
    engine = house.engine
    if waits_already:
        async with house.serving(RUNS) as client:
            await begin(house, client)
            await warm(house)
            await engine.event("u1", "purchase", client=client)
            await left(house, "waiting", "u1")
    else:
        client = await connected(house)
        await engine.event("u1", "begin", client=client)
        await warm(house)
        await engine.event("u1", "purchase", client=client)
        async with house.serving(RUNS):
            await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: bought", "buyer: users_in_segment", "came: next"]]


async def test_a_split_sees_the_event_by_which_its_user_entered(house: House) -> None:
    """Enter by a purchase, then split on purchase: the split sees it, whatever membership is warm already."""
    bought = "{event: purchase, count: {at_least: 1}}"
    house.save(f"""\
        journey: buying
        entries: {{start: {{kind: trigger-entry, trigger: {{event: purchase}}, next: buyer}}}}
        elements:
          buyer:
            kind: condition-split
            match: {bought}
            branches: {{users_in_segment: done, all_other_users: done}}
          done: {{kind: exit}}
        """)
    await open_journeys(house, "buying")
    async with house.serving(RUNS) as client:
        await house.engine.event("u6", "look", client=client)
        document = house.stores.catalogue.find("journey", "buying").document
        split = document.elements["buyer"]
        await house.stores.memberships.membership(split.match, house.stores.segments.zone, datetime.now(UTC))
        await house.engine.event("u1", "purchase", client=client)
        await left(house, "buying", "u1")
    assert branches_of(house, "buying", "u1") == [["buyer: users_in_segment"]]


async def test_a_worker_killed_as_the_wait_begins(house: House) -> None:
    """A worker killed with -9 when the wait is written down: the next one waits on, and the event ends it once."""
    save_wait(house, "x: {trigger: {event: a}, next: came}")
    await open_journeys(house, "waiting")
    engine, client = house.engine, await connected(house)
    await engine.event("u1", "begin", client=client)
    async with other_process(house, "--queues", USERS_QUEUE, "--after-activity", "wait-for-trigger") as process:
        await process.killed()
    (wait,) = rows(house, waits)
    assert wait.open == 1
    assert (await engine.event("u1", "a", properties={"n": 3}, client=client)).delivered == 1
    async with house.serving((USERS_QUEUE, PUSH_QUEUE)):
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: x", "came: next"]]
    assert [(row.deadline, row.open) for row in rows(house, waits)] == [(wait.deadline, 0)]
