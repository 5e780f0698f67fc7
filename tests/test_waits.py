"""Waits: each ends by what happened first, or when its time is over; no event is lost between two elements."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import TimeSkipper

from activities.noticing import Notices
from activities.records.reports import explain
from activities.records.rows import hits, pushes, taken, waits
from tests.house import House, at_rest, events_of
from tests.test_events import RUNS, branches_of, connected, example, left, open_journeys, rows, titles
from tests.worker_that_dies import other_process, until
from workers.opening import open_stores
from workflows.contracts import PUSH_QUEUE, USERS_QUEUE, EventGiven, user_workflow_id
from workflows.documents import ConditionSplit

ENTRY = "{kind: trigger-entry, trigger: {event: begin}, next: wait}"


def save_wait(house: House, branches: str, *, up_to: str = "1d", fixed: str = "false", more: str = "") -> None:
    """Save the journey `waiting`: entered by `begin`, it waits, and leaves by an exit named as the branch."""
    house.save(f"""\
        journey: waiting
        reentry: after_exit
        entries: {{start: {ENTRY}}}
        elements:
          wait:
            kind: wait-for-trigger
            up_to: {up_to}
            fixed: {fixed}
            branches: {{{branches}, not_triggered: late}}
          came: {{kind: push, message: {{title: "{{{{ waited.wait.n | default: 'none' }}}}", body: b}}, next: done}}
          late: {{kind: exit}}
          done: {{kind: exit}}
          {more}
        """)


def run_of(client: Client, user: str, journey: str = "waiting", key: str = "") -> WorkflowHandle[Any, Any]:
    return client.get_workflow_handle(user_workflow_id(journey, user, key))


async def begin(house: House, client: Client, user: str = "u1", **properties: Any) -> WorkflowHandle[Any, Any]:
    """Enter `waiting`, and return when the wait has begun."""
    before = len(rows(house, waits))
    assert (await house.engine.event(user, "begin", properties=properties, client=client)).started == 1
    await until(lambda: len(rows(house, waits)) > before)
    await at_rest(client, run := run_of(client, user))
    return run


async def skip(client: Client, handle: WorkflowHandle[Any, Any], lasting: timedelta) -> None:
    """Have a run's clock go on by a time at once."""
    await asyncio.wait_for(TimeSkipper(client).fast_forward(handle, lasting), 30)


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


async def look(house: House, client: Client, journey: str = "waiting") -> int:
    """Look at the tables for all who wait, as whoever watches the journey does."""
    return await Notices(house.stores).look(client, journey)


async def test_waits_for_segments(house: House) -> None:
    """A wait ends at once when an event brings the user into a segment, and when an import does it is noticed."""
    save_wait(
        house,
        "spent: {in_segment: {event: purchase, count: {at_least: 2}}, next: came}, "
        "freed: {not_in_segment: {segment: paying}, next: late}",
        up_to="30d",
    )
    await open_journeys(house, "waiting")
    engine = house.engine
    async with house.serving(RUNS) as client:
        runs = {user: await begin(house, client, user) for user in ("u1", "u4", "u6")}
        await engine.event("u1", "purchase", client=client)
        await engine.event("u1", "purchase", client=client)
        await left(house, "waiting", "u1")
        assert await look(house, client) == 0
        house.load("users", "user_id,plan\nu4,free\n")
        assert await look(house, client) == 1
        await left(house, "waiting", "u4")
        assert branches_of(house, "waiting", "u6") == [[]]
        kinds = await events_of(client, runs["u6"].id)
        assert (kinds.count("timer_fired"), kinds.count("workflow_execution_signaled")) == (0, 0)
    assert branches_of(house, "waiting", "u1") == [["wait: spent", "came: next"]]
    assert branches_of(house, "waiting", "u4") == [["wait: freed"]]
    step = explain(house.stores.ledger.database, "waiting", "u4").runs[0].steps[0]
    assert "not in 'paying'" in step.because
    assert (step.tables or {})["users"] == house.stores.tables.version("users")


async def test_the_moment_at_which_time_ends_a_wait(house: House) -> None:
    """A wait ends at the very moment at which time alone changes the answer for its user, and looks at no other."""
    bought = datetime.now(UTC) - timedelta(days=1, hours=19)
    house.load("events", f"user_id,event,at\nu1,purchase,{bought:%Y-%m-%dT%H:%M:%SZ}\nu4,look,2026-01-01T00:00:00Z\n")
    lately = "{event: purchase, within_last: 7d}"
    save_wait(house, f"cold: {{not_in_segment: {lately}, next: came}}", up_to="30d")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        await begin(house, client, "u4")
        await left(house, "waiting", "u4")  # who never bought is out of the segment already
        await skip(client, run, timedelta(days=5, hours=4, minutes=59))
        assert branches_of(house, "waiting", "u1") == [[]]
        assert (await events_of(client, run.id)).count("timer_fired") == 0
        await skip(client, run, timedelta(minutes=2))
        await left(house, "waiting", "u1")
    step = explain(house.stores.ledger.database, "waiting", "u1").runs[0].steps[0]
    late = step.at - (bought + timedelta(days=7))
    assert timedelta() < late < timedelta(seconds=30), late


async def test_a_window_that_an_event_moves(house: House) -> None:
    """Another event moves the moment: the wait ends when the last one leaves the window, not when the first does."""
    save_wait(house, "cold: {not_in_segment: {event: purchase, within_last: 2h}, next: came}", up_to="1d")
    house.load("events", f"user_id,event,at\nu1,purchase,{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        await house.engine.event("u1", "purchase", at=datetime.now(UTC) + timedelta(minutes=90), client=client)
        await skip(client, run, timedelta(hours=3))
        assert branches_of(house, "waiting", "u1") == [[]]
        await skip(client, run, timedelta(minutes=31))
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: cold", "came: next"]]


async def test_a_run_is_woken_once(house: House) -> None:
    """Who was woken a moment ago, or has noticed and waits out a fixed time, is not woken again; no other is."""
    save_wait(house, "gone: {not_in_segment: {segment: paying}, next: came}", fixed="true")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        await begin(house, client, "u4")
        house.load("users", "user_id,plan\nu1,free\n")
        assert await look(house, client) == 1
        await until(lambda: len(rows(house, hits)) == 1)
        assert await look(house, client) == 0
        await skip(client, run, timedelta(days=1, seconds=1))
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: gone", "came: next"]]
    # While no worker answers, two looks of one process wake a run once.
    house.load("users", "user_id,plan\nu4,free\n")
    notices, client = Notices(house.stores), await connected(house)
    assert await notices.look(client, "waiting") == 1
    notices._looked.clear()
    assert await notices.look(client, "waiting") == 0


async def test_the_exit_condition_finds_whoever_waits(house: House) -> None:
    """A user for whom an import makes `exit_when` true leaves from the middle of a delay of thirty days."""
    house.save("""\
        journey: waiting
        exit_when: {attribute: plan, is: free}
        entries: {start: {kind: trigger-entry, trigger: {event: begin}, next: hold}}
        elements:
          hold: {kind: time-delay, duration: 30d, next: done}
          done: {kind: exit}
        """)
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        for user in ("u1", "u4"):
            await house.engine.event(user, "begin", client=client)
            await at_rest(client, run_of(client, user))
        house.load("users", "user_id,plan\nu4,free\n")
        assert await look(house, client) == 1
        await left(house, "waiting", "u4")
    reasons = {user: explain(house.stores.ledger.database, "waiting", user).runs[0].reason for user in ("u1", "u4")}
    assert reasons == {"u1": None, "u4": "exit-criteria"}


async def test_who_waits_by_an_old_answer_is_noticed(house: House) -> None:
    """Whoever begins to wait by an answer that is a moment old is found by the next look, whatever changed."""
    house.save("""\
        journey: waiting
        entries: {start: {kind: audience-entry, audience: {everyone: true}, next: hold}}
        elements:
          hold: {kind: time-delay, duration: 20s, next: wait}
          wait:
            kind: wait-for-trigger
            up_to: 30d
            branches: {freed: {not_in_segment: {segment: paying}, next: done}, not_triggered: done}
          done: {kind: exit}
        """)
    await open_journeys(house, "waiting")
    with open_stores(house.settings) as others:  # another worker's, who watches the journey
        notices = Notices(others)
        async with house.serving(RUNS) as client:

            async def wait(user: str, number: int) -> None:
                """Have a user come from the delay to the wait, as so many have."""
                await skip(client, run_of(client, user), timedelta(seconds=21))
                await until(lambda: len(rows(house, waits)) == number)
                await at_rest(client, run_of(client, user))

            for user in ("u4", "u1"):
                await house.start_user(client, "waiting", user)
                await at_rest(client, run_of(client, user))
            await wait("u1", 1)
            house.load("users", "user_id,plan\nu4,free\n")
            assert await notices.look(client, "waiting") == 0
            await wait("u4", 2)
            assert branches_of(house, "waiting", "u4") == [["hold: next"]], "this answer is of before the import"
            assert await notices.look(client, "waiting") == 0, "two looks at once are one"
            notices._looked.clear()
            assert await notices.look(client, "waiting") == 1
            await left(house, "waiting", "u4")
    assert branches_of(house, "waiting", "u1") == [["hold: next"]]


async def test_a_running_journey_notices(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journey that runs looks at the tables for those who wait, again and again, though nobody tells it to."""
    monkeypatch.setattr("activities.noticing.LOOK_SECONDS", 0.5)
    save_wait(house, "freed: {not_in_segment: {segment: paying}, next: came}", up_to="30d")
    async with house.serving() as client:
        await house.engine.start("waiting", client=client)
        for user in ("u1", "u4"):
            await begin(house, client, user)
        house.load("users", "user_id,plan\nu4,free\n")
        await left(house, "waiting", "u4")
    assert branches_of(house, "waiting", "u1") == [[]]


async def test_a_user_who_is_in_the_segment_already(house: House) -> None:
    """Who is in the segment on arrival passes at once."""
    save_wait(house, "payer: {in_segment: {segment: paying}, next: came}")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        await begin(house, client)
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: payer", "came: next"]]


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
