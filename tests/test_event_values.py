"""Values of events decide: of the event by which a user entered, and of the last one that he was waited for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities.elements.split_test import variant_of
from activities.life import stats_of
from activities.records.reports import ExplainedRun, explain
from activities.records.rows import pushes, steps, waits
from tests.condition_tables import CONDITION
from tests.house import House
from tests.test_events import RUNS, left, open_journeys, rows
from tests.waiting import run_of, skip
from tests.worker_that_dies import until
from workflows.documents import SplitTest

SHOP = """\
journey: shop
reentry: {key: entry.order}
goals: {bought: {trigger: {event: paid, where: {property: order, is: {entry: order}}}, within: 30d}}
entries: {start: {kind: trigger-entry, trigger: {event: ordered}, next: wait}}
elements:
  wait:
    kind: wait-for-trigger
    up_to: 1d
    branches:
      paid: {trigger: {event: paid, where: {property: order, is: {entry: order}}}, next: whole}
      not_triggered: first
  first:
    kind: condition-split
    by: {entry: total}
    branches: {dear: {at_least: 100 EUR, next: out}, cheap: {less_than: 100 EUR, next: out}, all_other_users: out}
  whole:
    kind: condition-split
    by: {property: total}
    branches: {all: {is: {entry: total}, next: due}, part: {is_set: true, next: due}, all_other_users: due}
  due: {kind: time-delay, until: {property: due}, days: -1, time: "09:00", timezone: UTC, next: starts}
  starts: {kind: time-delay, until: {entry: starts}, timezone: Europe/Paris, next: out}
  out: {kind: exit}
"""
EVENTS = """\
event_id,user_id,event,at,order,total,due,starts
e1,u3,other,2026-01-01T00:00:00Z,none,1 EUR,2026-01-01,2026-01-01T00:00:00Z
"""


def run_for(house: House, order: str) -> ExplainedRun:
    return next(run for run in explain(house.stores.ledger.database, "shop", "u1").runs if run.key == order)


async def test_a_keyed_run_follows_its_own_events(house: House) -> None:
    """Splits and delays read the values of the run's own entry and of the event that ended its wait, by their types."""
    house.load("events", EVENTS)
    house.save(SHOP)
    await open_journeys(house, "shop")
    now = datetime.now(UTC)
    day, starts = (now + timedelta(days=9)).date(), (now + timedelta(days=20)).replace(microsecond=0)
    entering: dict[str, dict[str, Any]] = {
        "A": {"total": "100 EUR", "starts": starts.isoformat()},
        "B": {"total": "100 EUR", "starts": "2020-01-01T00:00:00Z"},
        "C": {"total": "99.99 EUR"},
        "D": {},
    }
    async with house.serving(RUNS) as client:

        async def event(name: str, **properties: Any) -> None:
            await house.engine.event("u1", name, properties=properties, client=client)

        for order, values in entering.items():
            await event("ordered", order=order, **values)
        await until(lambda: len(rows(house, waits)) == 4)
        await event("paid", order="A", total="100 EUR", due=day.isoformat())
        await event("paid", order="B", total="40 EUR", due="soon")
        await until(lambda: run_for(house, "B").reason is not None)
        for order in ("C", "D"):
            await skip(client, run_of(client, "u1", "shop", order), timedelta(days=1, minutes=1))
        await skip(client, run_of(client, "u1", "shop", "A"), timedelta(days=21))
        await left(house, "shop", "u1", 4)
    ways = {order: [(step.element, step.branch) for step in run_for(house, order).steps] for order in "ABCD"}
    assert ways == {
        "A": [("wait", "paid"), ("whole", "all"), ("due", "next"), ("starts", "next")],
        "B": [("wait", "paid"), ("whole", "part")],
        "C": [("wait", "not_triggered"), ("first", "cheap")],
        "D": [("wait", "not_triggered"), ("first", "all_other_users")],
    }
    due, begins = (step.at for step in run_for(house, "A").steps[2:])
    assert (due.date(), due.hour, due.minute) == (day - timedelta(days=1), 9, 0)
    assert timedelta() <= begins - starts < timedelta(minutes=1)
    assert run_for(house, "B").reason == "unreadable-date"
    assert stats_of(house.stores, "shop").goals["bought"].converted == 2


@pytest.mark.parametrize("assign", ["stable", "anew"])
async def test_the_variant_of_a_user_who_comes_again(house: House, assign: str) -> None:
    """Whoever enters again gets the variant that he had, or with `anew` the one that his new passage's hash gives."""
    house.save(f"""\
        journey: again
        reentry: after_exit
        entries: {{start: {{kind: trigger-entry, trigger: {{event: begin}}, next: it}}}}
        elements:
          it:
            kind: split-test
            assign: {assign}
            branches: {{a: {{share: 50, next: out}}, b: {{share: 50, next: out}}}}
          out: {{kind: exit}}
        """)
    await open_journeys(house, "again")
    split = house.stores.catalogue.find("journey", "again").document.elements["it"]
    assert isinstance(split, SplitTest)
    async with house.serving(RUNS) as client:
        for number in range(1, 6):
            await house.engine.event("u1", "begin", event_id=f"e{number}", client=client)
            await left(house, "again", "u1", number)
            await asyncio.sleep(0)
    found = rows(house, steps)
    assert [row.branch for row in found] == [variant_of(split, "again", "it", "u1", row.passage) for row in found]
    assert len({variant_of(split, "again", "it", "u1", row.passage) for row in found}) == 1 or assign == "anew"
    many = {variant_of(split, "again", "it", "u1", f"p{number}") for number in range(50)}
    assert many == ({"a", "b"} if assign == "anew" else {found[0].branch})


ALARM = """\
journey: alarm
reentry: {key: entry.serial}
entries: {start: {kind: trigger-entry, trigger: {event: alarm}, next: tell}}
elements:
  tell:
    kind: push
    purpose: transactional
    devices: {any: [{attribute: serial, is: {entry: serial}}, {attribute: build, less_than: {entry: build}}]}
    message: {title: "{{ entry.serial }}", body: rings}
    next: done
  done: {kind: exit}
"""


async def test_the_devices_of_a_push_may_follow_the_entry_event(house: House) -> None:
    """`devices` compares with `{entry: X}` of each run: runs of one user reach their own, a missing value none."""
    house.load(
        "devices",
        "device_id,user_id,platform,serial,build,opt_in\nx1,u1,ios,S1,5,true\nx2,u1,ios,S2,7,true\nx6,u6,ios,S1,5,true\n",
    )
    house.save(ALARM)
    await open_journeys(house, "alarm")
    async with house.serving() as client:
        for user, serial, build in (("u1", "S1", 1), ("u1", "S2", 1), ("u1", "S9", 7), ("u6", "S9", None)):
            properties = {"serial": serial} | ({} if build is None else {"build": build})
            assert (await house.engine.event(user, "alarm", properties=properties, client=client)).started == 1
        await left(house, "alarm", "u1", 3)
        await left(house, "alarm", "u6")
    sent = {(row.title, row.device_id, row.user_id) for row in rows(house, pushes)}
    assert sent == {("S1", "x1", "u1"), ("S2", "x2", "u1"), ("S9", "x1", "u1")}
    (other,) = explain(house.stores.ledger.database, "alarm", "u6").runs
    assert other.steps[0].outcome == "skipped: no-matching-device"


async def test_runs_of_one_user_that_ask_at_once_are_told_apart(house: House) -> None:
    """Questions about one user with different entry events, asked in one moment, get each its own answer."""
    house.load("devices", "device_id,user_id,platform,serial,opt_in\nx1,u1,ios,S1,true\nx2,u1,ios,S2,true\n")
    condition, now = CONDITION.validate_python({"attribute": "serial", "is": {"entry": "serial"}}), datetime.now(UTC)
    look_up = house.stores.profiles.look_up
    asked = [look_up("u1", condition, "UTC", now, {"serial": f"S{number}"}) for number in (1, 2, 3, 1)]
    found = [[device["device_id"] for device in profile.devices] for profile in await asyncio.gather(*asked)]
    assert found == [["x1"], ["x2"], [], ["x1"]]
