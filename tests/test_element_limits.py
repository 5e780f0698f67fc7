"""The bounds of elements and entries: at the bound a document is taken, a step beyond it is refused with what to do."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

import pytest

from activities.documents.checking import check_documents
from activities.documents.reading import read_text
from tests.house import House
from workflows.errors import DefinitionError, Fault

TRIGGER = "{kind: trigger-entry, trigger: {event: begin}, next: it}"
AUDIENCE = "{kind: audience-entry, audience: {everyone: true}, next: it%s}"


def faults_of(house: House, element: str, *, entry: str = TRIGGER, more: str = "") -> list[Fault]:
    """Check a journey of one element."""
    text = f"journey: bounds\n{more}\nentries:\n  start: {entry}\nelements:\n  it: {element}\n  done: {{kind: exit}}\n"
    try:
        return check_documents(house.stores, read_text(textwrap.dedent(text), "b.yaml"), datetime.now(UTC)).faults
    except DefinitionError as error:
        return error.faults


def ways(number: int, way: str, last: str) -> str:
    return "{" + ", ".join([*(f"b{place}: {{{way}, next: done}}" for place in range(number)), last]) + "}"


def by_value(number: int) -> str:
    branches = ways(number, "is: x", "all_other_users: done")
    return f"{{kind: condition-split, by: {{attribute: country}}, branches: {branches}}}"


def wait(branches: int = 1, up_to: str = "1d", way: str = "trigger: {event: a}") -> str:
    return f"{{kind: wait-for-trigger, up_to: {up_to}, branches: {ways(branches, way, 'not_triggered: done')}}}"


def triggers(number: int, word: str) -> str:
    return wait(way=f"{word}: [{', '.join(['{event: a}'] * number)}]")


def test_of(*shares: int) -> str:
    branches = ", ".join(f"v{place}: {{share: {share}, next: done}}" for place, share in enumerate(shares))
    return f"{{kind: split-test, branches: {{{branches}}}}}"


test_of.__test__ = False  # type: ignore[attr-defined]


def delay(says: str) -> str:
    return f"{{kind: time-delay, {says}, next: done}}"


PUSH = "{kind: push, message: {title: T, body: B}, next: done%s}"
TAKEN = {
    "ten values": by_value(10),
    "three branches of a wait": wait(3),
    "ninety days": wait(up_to="90d"),
    "some of several events": triggers(3, "any"),
    "all of several events": triggers(3, "all"),
    "four variants": test_of(25, 25, 25, 25),
    "a variant of nobody": test_of(100, 0),
    "a moment": delay("duration: 1s"),
    "a day with its time": delay("date: 2037-03-31, time: 09:00"),
    "a weekday with its time": delay('weekdays: [monday, friday], time: "09:00"'),
    "days before": delay("until: {entry: due}, days: -3650"),
    "a cap of one's own": PUSH % ", frequency_cap: {at_most: 1, per: 7d}",
}
REFUSED = {
    "eleven values": (by_value(11), "has 1 to 10"),
    "no value": (by_value(0), "has 1 to 10"),
    "four branches of a wait": (wait(4), "has 1 to 3"),
    "a wait without a branch": (wait(0), "has 1 to 3"),
    "over ninety days": (wait(up_to="90d1s"), "at most `90d`"),
    "a wait of no time": (wait(up_to="0s"), "at most `90d`"),
    "a branch of two causes": (wait(way="trigger: {event: a}, in_segment: {everyone: true}"), "has one of"),
    "a branch of no event": (triggers(0, "any"), "at least 1"),
    "five variants": (test_of(20, 20, 20, 20, 20), "at most 4"),
    "one variant": (test_of(100), "at least 2"),
    "shares of less": (test_of(50, 49), "total 99"),
    "shares of more": (test_of(50, 51), "total 101"),
    "two moments": (delay("duration: 1d, date: 2037-03-31"), "found duration, date"),
    "no moment": (delay("timezone: UTC"), "a delay has one of"),
    "a weekday without a time": (delay("weekdays: [monday]"), "`time` is missing"),
    "a duration with a time": (delay('duration: 1d, time: "09:00"'), "not with `duration`"),
    "days of nothing": (delay("duration: 1d, days: 2"), "without it"),
    "days too many": (delay("until: {entry: due}, days: -3651"), "-3650"),
    "a push without a way": ("{kind: push, message: {title: T, body: B}}", "next"),
    "a push of both ways": (PUSH % ", branches: {accepted: done, not_accepted: done}", "either `next` or"),
    "a cap of nothing": (PUSH % ", frequency_cap: {at_most: 0, per: 7d}", "1"),
    "a reserved branch": (
        "{kind: split-test, branches: {reachable: {share: 50, next: done}, b: {share: 50, next: done}}}",
        "fixed branch",
    ),
    "an unknown kind": ("{kind: wait, up_to: 1d}", "wait-for-trigger"),
}  # fmt: skip
SCHEDULES = {
    "{every: 1m}": "",
    "{every: 59s}": "the shortest is `1m`",
    "{every: 1d}": "`time` is missing",
    "{every: 15m, time: 10:00}": "no whole days",
    "{every: 1d, weekdays: [monday], time: 10:00}": "whole weeks",
    "{every: 1w, weekdays: [monday], time: 10:00, timezone: user, if_passed: next_day}": "",
    "{dates: [2037-01-01], time: 10:00}": "",
    "{dates: [2037-01-01], every: 1d, time: 10:00}": "either",
    "{dates: [2037-02-30], time: 10:00}": "2037-02-30",
}
SETTINGS = {
    "reentry: {at_most: 1, per: 90d}": "",
    "reentry: {at_most: 0, per: 90d}": "1",
    "reentry: sometimes": "sometimes",
    "entry_cap: {at_most: 3, per: 30d}": "",
    "silent_hours: {push: {from: 22:00, to: 08:00, then: wait}}": "",
    "silent_hours: {push: {from: 22:00, to: 22:00}}": "whole day",
    "silent_hours: {sms: {from: 22:00, to: 08:00}}": "sms",
    "send_window: 30m": "",
    "send_window: soon": "soon",
    "goals: {g: {trigger: {event: a}, within: 7d, end_journey: true}}": "",
    "goals: {g: {within: 7d}}": "trigger",
}


@pytest.mark.parametrize("name", TAKEN)
def test_at_the_bound(house: House, name: str) -> None:
    """What stands at the bound is no fault."""
    assert faults_of(house, TAKEN[name]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_beyond_the_bound(house: House, name: str) -> None:
    """What stands beyond it is one fault, at the element, which says the bound."""
    element, said = REFUSED[name]
    (fault,) = faults_of(house, element)
    assert said in f"{fault.message} {fault.hint}"
    assert fault.path.startswith("elements.it")
    assert fault.line


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(house: House, schedule: str) -> None:
    """A schedule is taken as it makes sense, else refused with what to write."""
    faults = faults_of(house, delay("duration: 1s"), entry=AUDIENCE % f", schedule: {schedule}")
    said = SCHEDULES[schedule]
    assert bool(faults) == bool(said)
    assert said in " ".join(f"{fault.message} {fault.hint}" for fault in faults)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_a_journey(house: House, setting: str) -> None:
    """A setting of a journey is taken within its bounds, else refused with its value or its place."""
    faults = faults_of(house, delay("duration: 1s"), more=setting)
    said = SETTINGS[setting]
    assert bool(faults) == bool(said)
    assert said in " ".join(f"{fault.message} {fault.hint} {fault.path}" for fault in faults)
