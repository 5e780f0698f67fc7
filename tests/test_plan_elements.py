"""The plan of every element: exact where it can be known, said where it cannot, and the same as the run."""

from __future__ import annotations

import random
import textwrap
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from temporalio.testing import TimeSkipper

from activities.elements.split_test import place_of, variant_of
from activities.planning.plan import Plan
from activities.planning.planner import plan_passages
from activities.push.claims import Cap
from activities.push.delivery import DeliveryRules
from activities.records.rows import pushes
from tests.house import House
from tests.test_numbers import people, saved_examples
from tests.test_plan import load_crowd
from workers.plugin import JourneysPlugin
from workers.serving import run_workers
from workflows.contracts import Stats

NOW = datetime(2027, 3, 9, 12, 0, tzinfo=UTC)


def planned(house: House, text: str, now: datetime = NOW, rules: DeliveryRules | None = None) -> Plan:
    house.save(text)
    return plan_passages(house.stores, house.engine.meant("planned", now), rules).plan


def journey(*elements: str, audience: str = "{everyone: true}", more: str = "") -> str:
    entry = f"entries: {{start: {{kind: audience-entry, audience: {audience}, next: one}}}}"
    boxes = [textwrap.dedent(one) for one in (*elements, "done: {kind: exit}")]
    return "\n".join(
        ["journey: planned", *([more] if more else []), entry, "elements:", *(f"  {one}" for one in boxes)]
    )


def require_agreement(plan: Plan, stats: Stats) -> int:
    """Hold a run against its plan: the same numbers where they are known, within the range where they are not.

    Returns:
        How many elements were known.
    """
    known = 0
    for name, found in plan.elements.items():
        happened = stats.elements[name]
        assert found.arrived <= happened.arrived, name
        if found.may_arrive is not None:
            assert happened.arrived <= found.arrived + found.may_arrive, name
        if found.unknown is None:
            known += 1
            assert found.arrived == happened.arrived, name
            assert found.branches == happened.branches, name
            assert found.users == happened.users, name
            assert found.left == happened.left, name
    return known


async def run(house: House, rules: DeliveryRules | None = None) -> Stats:
    """Run the journey to its end, skipping whatever time users are held for."""
    client = await house.client(JourneysPlugin(house.stores, sandbox=False, rules=rules))
    async with run_workers(TimeSkipper(client).client, house.settings):
        return await house.engine.result(await house.engine.start("planned", client=client), client=client)


async def test_random_journeys_agree(house: House) -> None:
    """On random journeys of every element without events a run does what the plan said, wherever it said so."""
    chance = random.Random(4)
    people(house, chance)
    client = await house.client(JourneysPlugin(house.stores, sandbox=False))
    known = elements = 0
    async with run_workers(client, house.settings):
        for group in range(3):
            for one in saved_examples(house, chance, f"group-{group}"):
                name = one.document["journey"]
                plan = house.engine.plan(name)
                report = await house.engine.start(name, client=client)
                known += require_agreement(plan, await house.engine.result(report, client=client))
                elements += len(plan.elements)
    assert elements > 30
    assert elements >= known > elements * 0.8


HELD_BACK = journey(
    "one: {kind: condition-split, by: {attribute: age}, branches: {old: {at_least: 40, next: two}, "
    "young: {less_than: 18, next: done}, all_other_users: three}}",
    "two: {kind: split-test, branches: {a: {share: 50, next: four}, b: {share: 50, next: three}}}",
    "three: {kind: reachability-check, branches: {reachable: four, not_reachable: five}}",
    "four: {kind: push, frequency_cap: {at_most: 1, per: 30d}, message: {title: Hi, body: b}, next: five}",
    "five: {kind: update-user, set: {nick: {attribute: first_name}}, next: six}",
    "six: {kind: push, frequency_cap: {at_most: 1, per: 30d}, message: {title: Hi, body: b}, next: seven}",
    "seven: {kind: push, purpose: transactional, message: {title: Hi, body: '{{ user.age }}'}, next: done}",
    more="exit_when: {attribute: country, is: NO}",
)


async def test_what_holds_back_agrees(house: House) -> None:
    """Values, variants, reachability, caps, control group, exit criteria: no difference at any branch or outcome."""
    load_crowd(house, seed=3)
    rules = DeliveryRules(cap=Cap(2, timedelta(days=7)), control_percent=15)
    plan = planned(house, HELD_BACK, datetime.now(UTC), rules)
    stats = await run(house, rules)
    assert require_agreement(plan, stats) == len(plan.elements)
    assert stats.elements["one"].left["exit-criteria"] > 3
    outcomes = {"skipped: capped", "skipped: control-group", "skipped: no-reachable-device"}
    assert set(plan.elements["six"].users) == outcomes
    assert all(plan.elements["five"].users.values())
    # What was sent in the run counts for the next plan.
    again = plan_passages(house.stores, house.engine.meant("planned", datetime.now(UTC)), rules).plan
    assert again.refused == {"entered-before": stats.audience}


ZONES = """\
user_id,first_name,timezone,trial_ends
u1,Anna,Asia/Tokyo,2031-05-01
u2,,,2031-05-01
u3,Chloé,America/New_York,
u4,Dmitri,Nowhere/Else,2031-05-02
u5,Élodie,Europe/Oslo,
u6,Fatima,,2031-05-03
"""
ZONED_DEVICES = """\
device_id,user_id,platform,token,opt_in,timezone,last_seen
z1,u4,ios,t,true,America/Sao_Paulo,2026-01-01T00:00:00Z
z2,u4,ios,t,true,Asia/Kolkata,2026-02-01T00:00:00Z
z3,u3,ios,t,true,,
z5,u5,ios,t,true,,
z6,u6,ios,t,true,Mars/Phobos,
"""
NIGHT = journey(
    "one: {kind: time-delay, time: 23:30, next: two}",
    "two: {kind: push, message: {title: Hi, body: b}, next: three}",
    "three: {kind: time-delay, until: {attribute: trial_ends}, days: -1, time: 09:15, next: four}",
    "four: {kind: push, purpose: transactional, message: {title: Hi, body: b}, next: done}",
    more="timezone: Europe/Paris\nsilent_hours: {push: {from: 22:00, to: 08:00, then: wait}}",
)


async def test_the_forecast_is_what_happens(house: House) -> None:
    """Pushes go out in the minutes of the forecast: delays, dates and silent hours on each user's own clock."""
    house.load("users", ZONES)
    house.load("devices", ZONED_DEVICES)
    plan = planned(house, NIGHT, datetime.now(UTC))
    stats = await run(house)
    assert require_agreement(plan, stats) == len(plan.elements)
    assert plan.elements["three"].left == {"unreadable-date": 2}
    assert (plan.elements["one"].later, plan.elements["two"].later) == (False, True)
    query = select(pushes.c.at)
    rows = house.stores.ledger.database.read(lambda connection: connection.execute(query).scalars().all())
    happened = Counter(datetime.fromisoformat(at).replace(second=0, microsecond=0) for at in rows)
    assert {minute.at: minute.pushes for minute in plan.forecast} == dict(happened)
    assert sum(happened.values()) == plan.pushes.devices
    assert len(happened) >= 6


def test_the_forecast_of_a_spread(house: House) -> None:
    """A send window spreads pushes over its time; what falls into silent hours waits for their end, spread too."""
    house.load("users", "user_id,plan\n" + "".join(f"s{number},spread\n" for number in range(400)))
    house.load("devices", "device_id,user_id,platform,opt_in\n" + "".join(f"s{n},s{n},ios,true\n" for n in range(400)))
    text = journey(
        "one: {kind: push, message: {title: Hi, body: b}, next: done}",
        audience="{attribute: plan, is: spread}",
        more="send_window: 2h\nsilent_hours: {push: {from: 13:00, to: 15:00, then: wait}}",
    )
    plan = planned(house, text)
    assert sum(minute.pushes for minute in plan.forecast) == plan.pushes.devices == 400
    first = [minute for minute in plan.forecast if minute.at < NOW + timedelta(hours=1)]
    rest = [minute for minute in plan.forecast if minute.at >= NOW + timedelta(hours=1)]
    assert 150 < sum(minute.pushes for minute in first) < 250
    assert all(NOW + timedelta(hours=4) <= minute.at < NOW + timedelta(hours=5) for minute in rest)
    assert max(minute.pushes for minute in plan.forecast) < 20
    # Whom the silent hours skip depends on the run's own place in the window.
    skipping = planned(house, text.replace("then: wait", "then: skip"))
    assert skipping.elements["one"].users == {}
    assert "send window" in str(skipping.elements["one"].unknown)
    assert (skipping.elements["done"].arrived, skipping.elements["done"].unknown) == (400, None)


def test_silent_hours_that_skip(house: House) -> None:
    """With `then: skip` users go on at once, those for whom it is day are pushed."""
    house.load("users", ZONES)
    plan = planned(
        house,
        journey(
            "one: {kind: push, purpose: marketing, message: {title: Hi, body: b}, next: done}",
            more="silent_hours: {push: {from: 20:00, to: 08:00, then: skip}}",
        ),
    )
    # At noon in UTC it is 21:00 in Tokyo, and seven in the morning in New York before the clocks change on March 14.
    assert plan.elements["one"].users["skipped: silent-hours"] == 2
    assert plan.elements["done"].arrived == 6
    assert {minute.at for minute in plan.forecast} == {NOW}


UNKNOWN: dict[str, tuple[str, str, dict[str, tuple[int, int]]]] = {
    "a wait": (
        journey(
            "one: {kind: wait-for-trigger, up_to: 1h, branches: {came: {trigger: {event: x}, next: two}, "
            "not_triggered: done}}",
            "two: {kind: push, message: {title: Hi, body: b}, next: done}",
        ),
        "what users do",
        {"one": (6, 0), "two": (0, 6), "done": (0, 6)},
    ),
    "a webhook's answer": (
        journey(
            "one: {kind: condition-split, match: {segment: paying}, branches: {users_in_segment: two, "
            "all_other_users: three}}",
            "two: {kind: webhook, url: 'https://x.org', branches: {accepted: three, not_accepted: done}}",
            "three: {kind: push, message: {title: Hi, body: b}, next: done}",
        ),
        "what the other side answers",
        {"two": (4, 0), "three": (2, 4), "done": (2, 4)},
    ),
    "a variant that is new each time": (
        journey(
            "one: {kind: split-test, assign: anew, branches: {a: {share: 90, next: two}, b: {share: 10, next: done}}}",
            "two: {kind: push, message: {title: Hi, body: b}, next: done}",
        ),
        "hash is of the run",
        {"one": (6, 0), "two": (0, 6), "done": (0, 6)},
    ),
    "what the journey itself writes": (
        journey(
            "one: {kind: update-user, set: {plan: {attribute: country}}, next: two}",
            "two: {kind: condition-split, match: {segment: paying}, branches: {users_in_segment: three, "
            "all_other_users: done}}",
            "three: {kind: push, message: {title: Hi, body: b}, next: done}",
        ),
        "the journey writes 'plan' before",
        {"one": (6, 0), "two": (6, 0), "three": (0, 6), "done": (0, 6)},
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_known_is_said(house: House, name: str) -> None:
    """An element whose branches depend on the future says why, and what follows counts who may come."""
    text, why, expected = UNKNOWN[name]
    plan = planned(house, text)
    assert {key: (plan.elements[key].arrived, plan.elements[key].may_arrive) for key in expected} == expected
    unsure = [key for key, (_, may_arrive) in expected.items() if may_arrive]
    assert all(why in str(plan.elements[key].unknown) for key in unsure)
    assert plan.elements["done"].unknown


def test_entries_that_nobody_can_count(house: House) -> None:
    """Users who come by events or by a client's word have no number before; an audience beside them has one."""
    plan = planned(
        house,
        textwrap.dedent("""\
        journey: planned
        entries:
          bought: {kind: trigger-entry, trigger: {event: purchase}, next: one}
          named: {kind: api-entry, next: one}
          all: {kind: audience-entry, audience: {segment: paying}, next: two}
        elements:
          one: {kind: push, message: {title: Hi, body: b}, next: two}
          two: {kind: push, message: {title: Hi, body: b}, next: done}
          done: {kind: exit}
        """),
    )
    assert {name: one.audience for name, one in plan.entries.items()} == {"bought": None, "named": None, "all": 4}
    assert "the event 'purchase'" in str(plan.entries["bought"].unknown)
    assert (plan.elements["one"].arrived, plan.elements["one"].may_arrive) == (0, None)
    assert (plan.elements["two"].arrived, plan.elements["two"].may_arrive) == (4, None)
    assert plan.audience == 4


def test_a_webhook_that_everybody_passes(house: House) -> None:
    """Where the answer decides nothing, users go on for sure, and only the outcome is not known."""
    plan = planned(house, journey("one: {kind: webhook, url: 'https://x.org', next: done}"))
    assert "answers" in str(plan.elements["one"].unknown)
    assert (plan.elements["done"].arrived, plan.elements["done"].unknown) == (6, None)


def test_variants_and_their_winner(house: House) -> None:
    """Users are counted at the variant that the run's own hash gives; once there is a winner, all at the winner."""
    text = journey(
        "one: {kind: split-test, branches: {a: {share: 30, next: done}, b: {share: 70, next: two}}}",
        "two: {kind: push, message: {title: Hi, body: b}, next: done}",
    )
    plan = planned(house, text)
    element = house.engine.meant("planned", NOW).document.elements["one"]
    expected = Counter(variant_of(element, "planned", "one", f"u{number}") for number in range(1, 7))  # type: ignore[arg-type]
    assert plan.elements["one"].branches == {"a": expected["a"], "b": expected["b"]}
    house.stores.winners.choose("planned", "one", "a")
    assert planned(house, text).elements["one"].branches == {"a": 6, "b": 0}


def test_a_schedule_is_planned_for_its_next_time(house: House) -> None:
    """A recurring audience is counted as of its next time, and each user comes in on his own clock."""
    house.load("users", ZONES)
    schedule = "schedule: {every: 1d, time: 10:00, timezone: %s, if_passed: skip}"
    text = journey("one: {kind: push, message: {title: Hi, body: b}, next: done}", more="timezone: Europe/Paris")
    fixed = planned(house, text.replace("next: one}}", f"{schedule % 'Europe/Paris'}, next: one}}}}"))
    assert fixed.entries["start"].at == datetime(2027, 3, 10, 9, tzinfo=UTC)
    assert {minute.at for minute in fixed.forecast} == {datetime(2027, 3, 10, 9, tzinfo=UTC)}
    own = planned(house, text.replace("next: one}}", f"{schedule % 'user'}, next: one}}}}"))
    # It is noon in UTC: ten has passed in Tokyo, Oslo and Paris today, and not in New York.
    assert own.refused == {"time-passed": 5}
    assert (own.elements["one"].arrived, own.elements["one"].later) == (1, True)
    assert "evaluated anew" in str(own.entries["start"].unknown)


def test_a_condition_is_asked_when_users_arrive(house: House) -> None:
    """After a delay, a condition that compares with the clock is asked as of then, each zone at its own moment."""
    house.load("users", ZONES)
    text = journey(
        "one: {kind: time-delay, date: 2031-04-30, time: 12:00, next: two}",
        "two: {kind: condition-split, match: {attribute: trial_ends, days_ahead: {exactly: 1}}, branches: "
        "{users_in_segment: done, all_other_users: three}}",
        "three: {kind: time-delay, duration: 1d, next: four}",
        "four: {kind: condition-split, by: {attribute: trial_ends}, branches: {tomorrow: {days_ahead: {exactly: 1}, "
        "next: done}, all_other_users: done}}",
    )
    plan = planned(house, text)
    assert plan.elements["two"].branches == {"users_in_segment": 2, "all_other_users": 4}
    assert plan.elements["four"].branches == {"tomorrow": 1, "all_other_users": 3}
    assert all(plan.elements[name].later for name in ("two", "three", "four"))


def test_the_control_group_by_hash(house: House) -> None:
    """The control group is that of the run: users whose hash is below the percentage; transactional pushes reach it."""
    percent = place_of("control-group", "u1") * 100 + 0.001
    text = journey(
        "one: {kind: push, message: {title: Hi, body: b}, branches: {accepted: two, not_accepted: two}}",
        "two: {kind: push, purpose: transactional, message: {title: Hi, body: b}, next: done}",
    )
    plan = planned(house, text, rules=DeliveryRules(control_percent=percent))
    control = sum(place_of("control-group", f"u{number}") * 100 < percent for number in range(1, 7))
    assert plan.elements["one"].users["skipped: control-group"] == control
    assert "skipped: control-group" not in plan.elements["two"].users
