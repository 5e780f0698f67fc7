"""What elements say is held against the tables and the graph before anything is saved, with the place of each fault."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest

from activities.documents.checking import Checked, check_documents
from activities.documents.reading import read_text
from tests.house import House

AUDIENCE = "entries: {start: {kind: audience-entry, audience: {segment: paying}, next: one}}"
TRIGGER = "entries: {start: {kind: trigger-entry, trigger: {event: order}, next: one}}"
DONE = "  done: {kind: exit}"


def checked(house: House, text: str, folder: Path | None = None) -> Checked:
    raws = read_text(textwrap.dedent(text), "test.yaml", folder=folder)
    return check_documents(house.stores, raws, datetime.now(UTC))


def journey(entry: str, *elements: str, more: str = "") -> str:
    return "\n".join(["journey: tried", *([more] if more else []), entry, "elements:", *elements, DONE, ""])


def push(name: str, text: str, way: str = "next: done") -> str:
    return f'  {name}: {{kind: push, message: {{title: "{text}", body: b}}, {way}}}'


WAIT = "  %s: {kind: wait-for-trigger, up_to: 1h, branches: {came: {%s, next: %s}, not_triggered: done}}"
PAID = WAIT % ("one", "trigger: {event: paid}", "two")

FAULTS = {
    "split by an unknown attribute": (
        journey(AUDIENCE, "  one: {kind: condition-split, by: {attribute: contry}, branches: "
                "{fr: {is: FR, next: done}, all_other_users: done}}"),
        ("unknown-attribute", "elements.one.by.attribute"),
    ),
    "split's comparison of another type": (
        journey(AUDIENCE, "  one: {kind: condition-split, by: {attribute: age}, branches: "
                "{old: {at_least: sixty, next: done}, all_other_users: done}}"),
        ("unreadable-value", "elements.one.branches.old.at_least"),
    ),
    "split's operator of another type": (
        journey(AUDIENCE, "  one: {kind: condition-split, by: {attribute: age}, branches: "
                "{old: {contains: 6, next: done}, all_other_users: done}}"),
        ("wrong-type", "elements.one.branches.old.contains"),
    ),
    "split by the event of an audience": (
        journey(AUDIENCE, "  one: {kind: condition-split, by: {entry: total}, branches: "
                "{some: {is_set: true, next: done}, all_other_users: done}}"),
        ("no-entry-event", "elements.one.by.entry"),
    ),
    "split by an event that nobody waited for": (
        journey(TRIGGER, "  one: {kind: condition-split, by: {property: total}, branches: "
                "{some: {is_set: true, next: done}, all_other_users: done}}"),
        ("no-awaited-event", "elements.one.by.property"),
    ),
    "split by an event after a wait for a segment": (
        journey(TRIGGER, WAIT % ("one", "in_segment: {segment: paying}", "two"),
                "  two: {kind: condition-split, by: {property: total}, branches: "
                "{some: {is_set: true, next: done}, all_other_users: done}}"),
        ("no-awaited-event", "elements.two.by.property"),
    ),
    "wait for an unknown segment": (
        journey(AUDIENCE, WAIT % ("one", "in_segment: {segment: payng}", "done")),
        ("unknown-segment", "elements.one.branches.came.in_segment.segment"),
    ),
    "wait for a condition of another type": (
        journey(AUDIENCE, WAIT % ("one", "not_in_segment: {attribute: age, is: old}", "done")),
        ("unreadable-value", "elements.one.branches.came.not_in_segment.is"),
    ),
    "exit criterion of an unknown attribute": (
        journey(AUDIENCE, push("one", "Hi"), more="exit_when: {attribute: gone, is: true}"),
        ("unknown-attribute", "exit_when.attribute"),
    ),
    "delay until an unknown attribute": (
        journey(AUDIENCE, "  one: {kind: time-delay, until: {attribute: trial_ends}, next: done}"),
        ("unknown-attribute", "elements.one.until.attribute"),
    ),
    "delay until a number": (
        journey(AUDIENCE, "  one: {kind: time-delay, until: {attribute: age}, next: done}"),
        ("wrong-type", "elements.one.until"),
    ),
    "update of a value that cannot be read": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {age: old}, next: done}"),
        ("unreadable-value", "elements.one.set.age"),
    ),
    "update by a value of another type": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {age: {attribute: plan}}, next: done}"),
        ("wrong-type", "elements.one.set.age"),
    ),
    "update by an unknown attribute": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {age: {attribute: agee}}, next: done}"),
        ("unknown-attribute", "elements.one.set.age.attribute"),
    ),
    "update of an attribute that differs in case": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {Age: 7}, next: done}"),
        ("bad-name", "elements.one.set.Age"),
    ),
    "update of an attribute that no column can be called": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {__delta_rs_source: x}, next: done}"),
        ("bad-name", "elements.one.set.__delta_rs_source"),
    ),
    "update of the user's id": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {user_id: x}, next: done}"),
        ("misplaced", "elements.one.set.user_id"),
    ),
    "webhook whose address is a template": (
        journey(AUDIENCE, '  one: {kind: webhook, url: "https://x.org/{{ user.plan }}", next: done}'),
        ("bad-address", "elements.one.url"),
    ),
    "webhook without a host": (
        journey(AUDIENCE, '  one: {kind: webhook, url: "https:///path", next: done}'),
        ("bad-address", "elements.one.url"),
    ),
    "webhook with an unknown attribute": (
        journey(AUDIENCE, '  one: {kind: webhook, url: "https://x.org", data: {a: "{{ user.pln }}"}, next: done}'),
        ("unknown-attribute", "elements.one.data.a"),
    ),
    "webhook with a device": (
        journey(AUDIENCE, '  one: {kind: webhook, url: "https://x.org", data: {a: "{{ device.token }}"}, next: done}'),
        ("misplaced", "elements.one.data.a"),
    ),
    "template that does not parse": (
        journey(AUDIENCE, '  one: {kind: webhook, url: "https://x.org", data: {a: "{{ user.plan"}, next: done}'),
        ("bad-template", "elements.one.data.a"),
    ),
    "winner of an unknown goal": (
        journey(AUDIENCE, "  one: {kind: split-test, winner: {goal: bougt}, branches: "
                "{a: {share: 50, next: done}, b: {share: 50, next: done}}}",
                more="goals: {bought: {trigger: {event: purchase}}}"),
        ("unknown-goal", "elements.one.winner.goal"),
    ),
    "entry in a template of an audience's journey": (
        journey(AUDIENCE, push("one", "{{ entry.total }}")),
        ("no-entry-event", "elements.one.message.title"),
    ),
    "a wait that is none": (
        journey(TRIGGER, PAID, push("two", "{{ waited.onne.total }}")),
        ("unknown-wait", "elements.two.message.title"),
    ),
    "a push as a wait": (
        journey(TRIGGER, push("one", "Hi", "next: two"), push("two", "{{ waited.one.total }}")),
        ("unknown-wait", "elements.two.message.title"),
    ),
    "a wait that comes later": (
        journey(TRIGGER, push("one", "{{ waited.two.total }}", "next: two"),
                WAIT % ("two", "trigger: {event: x}", "done")),
        ("wait-comes-later", "elements.one.message.title"),
    ),
    "a devices' condition of another type": (
        journey(AUDIENCE, push("one", "Hi", "devices: {attribute: opt_in, is: perhaps}, next: done")),
        ("unreadable-value", "elements.one.devices.is"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(house: House, name: str) -> None:
    """Each thing that cannot be is one fault, with its code, its path and its line."""
    text, expected = FAULTS[name]
    faults = checked(house, text).faults
    assert [(one.code, one.path) for one in faults] == [expected]
    assert faults[0].line


def test_two_typos_in_two_elements(house: House) -> None:
    """Faults of conditions, values and branches are told together, with hints that name what was meant."""
    text = journey(
        TRIGGER,
        "  one: {kind: condition-split, by: {attribute: plann}, branches: "
        "{free: {is: free, next: two}, all_other_users: three}}",
        WAIT % ("two", "in_segment: {segment: payin}", "donne"),
    )
    faults = checked(house, text).faults
    assert [(one.code, one.hint) for one in faults if one.code != "missing-target"] == [
        ("unknown-attribute", "did you mean `plan`?"),
        ("unknown-segment", "did you mean `paying`?"),
    ]
    assert [one.path for one in faults if one.code == "missing-target"] == [
        "elements.one.branches.all_other_users",
        "elements.two.branches.came",
    ]


def test_a_wrong_condition_of_a_wait_hides_nothing(house: House) -> None:
    """A typo within a wait's condition stands beside what is wrong elsewhere."""
    text = journey(AUDIENCE, WAIT % ("one", "in_segment: {attribute: plan, iss: paid}", "nowhere"))
    assert {(one.code, one.path) for one in checked(house, text).faults} == {
        ("unknown-key", "elements.one.branches.came.in_segment.iss"),
        ("missing-target", "elements.one.branches.came"),
    }


RIGHT = {
    "a value of an event that no table has": journey(
        TRIGGER,
        "  one: {kind: condition-split, by: {entry: never_seen}, branches: "
        "{some: {at_least: 3, next: two}, all_other_users: two}}",
        "  two: {kind: time-delay, until: {entry: starts_at}, days: -1, next: done}",
    ),
    "a comparison with the entry event": journey(
        TRIGGER,
        "  one: {kind: condition-split, by: {attribute: country}, branches: "
        "{same: {is: {entry: country}, next: done}, all_other_users: done}}",
    ),
    "a wait that may come before": journey(
        TRIGGER,
        PAID,
        push("two", "{{ waited.one.total | default: 'all' }} {{ entry.total }}", "next: three"),
        "  three: {kind: update-user, set: {age: {property: age}, plan: {entry: plan}}, next: done}",
    ),
    "values that read as their types": journey(
        AUDIENCE, '  one: {kind: update-user, set: {age: 31, plan: "7", seen_at: {attribute: country}}, next: done}'
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_may_stand(house: House, name: str) -> None:
    """What can be known only when somebody is judged is no fault."""
    assert checked(house, RIGHT[name]).faults == []


def test_files_are_read_wherever_a_condition_stands(house: House, tmp_path: Path) -> None:
    """A file in a wait or an exit criterion is imported as the one of an audience is; the saved version names none."""
    for name in ("in", "out", "gone"):
        (tmp_path / f"{name}.csv").write_text("user_id\nu1\n")
    text = journey(
        AUDIENCE,
        "  one: {kind: wait-for-trigger, up_to: 1h, branches: {in: {in_segment: {file: in.csv}, next: done}, "
        "out: {not_in_segment: {not: {file: out.csv}}, next: done}, not_triggered: done}}",
        more="exit_when: {all: [{file: gone.csv}, {attribute: age, at_least: 99}]}",
    )
    assert {one.code for one in checked(house, text).faults} == {"file-out-of-reach"}
    house.save(text, folder=tmp_path)
    names = house.stores.catalogue.names("segment")
    assert {"tried-in", "tried-out", "tried-gone"} <= set(names)
    assert ".csv" not in house.stores.catalogue.find("journey", "tried").document.model_dump_json()


WARNED = {
    "a recurring audience that never enters again": (
        "journey: tried\nentries: {start: {kind: audience-entry, audience: {segment: paying}, "
        "schedule: {every: 15m}, next: done}}\nelements:\n" + DONE,
        [("recurring-never", "entries.start.schedule")],
    ),
    "the same on dates": (
        "journey: tried\nentries: {start: {kind: audience-entry, audience: {segment: paying}, "
        "schedule: {dates: [2031-01-01], time: 09:00}, next: done}}\nelements:\n" + DONE,
        [],
    ),
    "a push that nothing guards": (
        journey(AUDIENCE, "  one: {kind: reachability-check, branches: {reachable: two, not_reachable: three}}",
                push("two", "Hi"), push("three", "Hi")),
        [("unguarded-push", "elements.three")],
    ),
    "a push that tells whom it reached": (
        journey(AUDIENCE, push("one", "Hi", "branches: {accepted: done, not_accepted: done}")),
        [],
    ),
    "a segment of nobody": (
        journey(AUDIENCE.replace("{segment: paying}", "{attribute: age, at_least: 100}"), "  one: {kind: exit}"),
        [("segment-of-nobody", "entries.start.audience")],
    ),
    "nobody yet": (
        journey(AUDIENCE, WAIT % ("one", "in_segment: {attribute: age, at_least: 100}", "done"),
                more="exit_when: {attribute: age, at_least: 100}"),
        [],
    ),
    "an attribute that nobody has": (
        journey(AUDIENCE, "  one: {kind: update-user, set: {countri: FR}, next: done}"),
        [("new-attribute", "elements.one.set.countri")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNED)
def test_warnings(house: House, name: str) -> None:
    """What is probably not meant is told, with its place, and keeps nobody from saving."""
    text, expected = WARNED[name]
    if name == "a segment of nobody":
        text = text.replace(DONE + "\n", "")
    found = checked(house, text)
    assert (found.faults, [(one.code, one.path) for one in found.warnings]) == ([], expected)
    assert all(one.line for one in found.warnings)
