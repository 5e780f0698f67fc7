"""Everything in a condition that does not fit the tables is told at once, each fault with its place and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from activities.segments.checking import check_comparison, check_condition
from activities.tables.schema import Schema
from tests.condition_tables import CONDITION, EXAMPLES, KEYS, Tables, condition
from workflows.conditions import Comparison
from workflows.errors import Fault

SCHEMA: Schema = {
    "users": {
        "user_id": "string", "plan": "string", "age": "integer", "score": "number", "vip": "boolean", "zip": "string",
        "country": "string", "birth_date": "date", "trial_ends": "date", "last_seen": "instant", "interests": "list",
        "Favourite team": "string", "current_price": "price", "wished_price": "price",
    },
    "devices": {
        "device_id": "string", "user_id": "string", "platform": "string", "language": "string",
        "app_version": "version",
    },
    "events": {
        "user_id": "string", "event": "string", "at": "instant", "event_id": "string",
        "amount": "price", "category": "string", "qty": "integer", "sent": "date",
    },
}  # fmt: skip
SEGMENTS = ["churned", "vip", "s02-loyal", "s05-norway", "s14-beta-devices"]
DOCUMENTS: list[dict[str, Any]] = list(yaml.load_all(EXAMPLES.read_text(), yaml.BaseLoader))


def faults(text: str, **options: Any) -> list[Fault]:
    return check_condition(condition(text), SCHEMA, **({"at": ("match",), "segments": SEGMENTS} | options))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["segment"])
def test_example_fits_and_compiles(document: dict[str, Any]) -> None:
    """Each example fits the tables of an ordinary shop, and selects users from them."""
    node = CONDITION.validate_python(document["match"])
    assert check_condition(node, SCHEMA, at=("match",), segments=SEGMENTS) == []
    tables = Tables({name: dict(columns) for name, columns in SCHEMA.items()}, [{"user_id": "a"}])
    tables.segments = {name: set() for name in (*SEGMENTS, "beta.csv")}
    assert tables.select(node) in ([], ["a"])


FAULTS = [
    ("{attribute: plann, is: a}", "unknown-attribute match.attribute", "'plann'; users has user_id, plan … `plan`"),
    ("{attribute: PLAN, is: a}", "unknown-attribute match.attribute", "'PLAN' … did you mean `plan`?"),
    ("{attribute: platform, is: a}", "unknown-attribute match.attribute", "'platform' … `device: platform`"),
    ("{device: platfrm, is: a}", "unknown-device-attribute match.device", "'platfrm'; devices has … `platform`"),
    ("{any_device: {attribute: plan, is: a}}", "unknown-device-attribute match.any_device.attribute", "'plan'"),
    (
        "{event: b, where: {property: catgory, is: a}}",
        "unknown-property match.where.property",
        "'catgory'; events has amount, category, qty, sent … `category`",
    ),
    ("{event: b, where: {property: user_id, is: a}}", "unknown-property match.where.property", "'user_id'"),
    ("{event: b, sum: {property: amout, at_least: 1}}", "unknown-property match.sum.property", "'amout' … `amount`"),
    ("{segment: churnd}", "unknown-segment match.segment", "'churnd' … `churned`"),
    ("{segment: gold@2}", "unknown-segment match.segment", "'gold@2' … journeys segment import"),
    ("{attribute: age, contains: 1}", "wrong-type match.contains", "`contains` takes string, and this is an integer"),
    (
        "{attribute: plan, at_least: 1}",
        "wrong-type match.at_least",
        "`at_least` takes integer, number, date, instant, price, version, and this is a string",
    ),
    ("{attribute: interests, is: a}", "wrong-type match.is", "this is a list … `has`"),
    ("{attribute: plan, has: a}", "wrong-type match.has", "`has` takes list, and this is a string … `is`"),
    ("{attribute: vip, within_last: 3d}", "wrong-type match.within_last", "this is a boolean"),
    ("{attribute: age, is: 3, ignore_case: true}", "wrong-type match.ignore_case", "`ignore_case` is for strings"),
    ("{attribute: birth_date, within_last: 36h}", "wrong-type match.within_last", "'36h' is no whole number of days"),
    (
        "{event: b, sum: {property: category, at_least: 1}}",
        "wrong-type match.sum.property",
        "'category' is a string … `count`",
    ),
    ("{attribute: age, at_least: '18.5'}", "unreadable-value match.at_least", "'18.5' is not an integer, such as `18`"),
    ("{attribute: age, is: 9223372036854775808}", "unreadable-value match.is", "not an integer"),
    ("{attribute: score, is: nan}", "unreadable-value match.is", "'nan' is not a number, such as `0.5`"),
    ("{attribute: vip, is: maybe}", "unreadable-value match.is", "'maybe' is not a boolean, such as `true`"),
    ("{attribute: age, in: [1, x]}", "unreadable-value match.in[1]", "'x' is not an integer"),
    ("{attribute: current_price, is: 20}", "unreadable-value match.is", "'20' is not a price, such as `19.99 EUR`"),
    ("{attribute: birth_date, is: 2026-02-30}", "unreadable-value match.is", "is not a date, such as"),
    ("{attribute: birth_date, before: '2026-01-01T10:00Z'}", "unreadable-value match.before", "is not a date"),
    (
        "{attribute: last_seen, before: yesterday}",
        "unreadable-value match.before",
        "is not an instant, such as `2026-03-29T10:00:00Z`",
    ),
    (
        "{device: app_version, at_least: 3.x}",
        "unreadable-value match.at_least",
        "'3.x' is not a version, such as `3.10`",
    ),
    (
        "{attribute: plan, matches: '('}",
        "bad-pattern match.matches",
        "'(' is no regular expression: unclosed group … regex",
    ),
    ("{attribute: plan, matches: '(?=a)'}", "bad-pattern match.matches", "look-around, including … look-around"),
    (
        r"{attribute: plan, matches: '\w{210}'}",
        "bad-pattern match.matches",
        r"'\\w{210}' is too large a regular expression: compiled it exceeds 10485760 bytes … repeat less often",
    ),
    (
        "{attribute: plan, matches: 'k{50000}', ignore_case: true}",
        "bad-pattern match.matches",
        "'k{50000}' is too large a regular expression with `ignore_case: true` … repeat less often",
    ),
    (
        "{attribute: age, between: [65, 18]}",
        "empty-range match",
        "nothing is from '65' to '18' … lower value comes first",
    ),
    ("{attribute: last_seen, after: 2026-02-01, before: 2026-01-01}", "empty-range match", "nothing is from"),
    ("{attribute: current_price, between: [1 EUR, 2 USD]}", "empty-range match", "two currencies … one currency"),
    ("{event: b, sum: {property: amount, at_least: 1 EUR, at_most: 2 USD}}", "empty-range match.sum", "two currencies"),
    ("{property: amount, is: 1 EUR}", "misplaced match.property", "`property` cannot stand here … inside `where`"),
    (
        "{event: b, where: {attribute: plan, is: a}}",
        "misplaced match.where.attribute",
        "`attribute` cannot stand here … `{property: X, is: {attribute: Y}}`",
    ),
    ("{event: b, where: {segment: vip}}", "misplaced match.where.segment", "`segment` cannot stand here"),
    ("{any_device: {event: b}}", "misplaced match.any_device.event", "`event` cannot stand here … one device"),
    (
        "{attribute: plan, is: {property: category}}",
        "misplaced match.is.property",
        "has no value here … inside `where`",
    ),
    (
        "{attribute: plan, is: {entry: category}}",
        "misplaced match.is.entry",
        "{entry: category} has no value here … one user",
    ),
    ("{attribute: age, is: {attribute: plan}}", "wrong-type match.is", "an integer cannot be compared with a string"),
    ("{attribute: age, is: {attribute: agee}}", "unknown-attribute match.is.attribute", "'agee' … `age`"),
    ("{attribute: plan, is: {attribute: zip, times: 2}}", "wrong-type match.is.times", "`times` multiplies numbers"),
    ("{device: platform, is: {attribute: plan}}", "unknown-device-attribute match.is.attribute", "'plan'"),
]


@pytest.mark.parametrize(("text", "place", "told"), FAULTS)
def test_fault(text: str, place: str, told: str) -> None:
    """A fault is told once, with its place, the value, and what would be right."""
    found = faults(text)
    assert [f"{fault.code} {fault.path}" for fault in found] == [place]
    message, _, hint = told.partition(" … ")
    assert message in found[0].message
    assert hint in found[0].hint


@pytest.mark.parametrize(
    "text",
    [
        "{attribute: score, at_least: {attribute: age, times: 1.5}}",
        "{attribute: last_seen, after: {attribute: birth_date}}",
        "{attribute: interests, has: {attribute: plan}}",
        "{attribute: last_seen, between: [2026-01-01, '2026-01-02T10:00:00+02:00']}",
        "{event: never-seen, where: {property: qty, more_than: {attribute: age}}}",
        "{event: buy, where: {property: sent, within_last: 3d}, older_than: 90s}",
        "{event: buy, sum: {property: qty, at_least: 3}, before: {attribute: trial_ends}}",
        "{attribute: plan, matches: 'k{50000}'}",
        "{attribute: plan, matches: 'k{50000}', ignore_case: false}",
        "{segment: vip@7}",
        "{file: any.csv, column: hwid, identifier: device_id}",
        "{everyone: true}",
    ],
)
def test_no_fault(text: str) -> None:
    """What makes sense passes; names of events and files are not the checker's."""
    assert faults(text) == []


def test_two_typos_are_two_faults() -> None:
    """Two typos are two faults, in the order of the document."""
    text = "{all: [{attribute: plan, is: a}, {attribute: agee, at_least: x}, {not: {any: [{segment: churnd}]}}]}"
    assert [(fault.code, fault.path) for fault in faults(text)] == [
        ("unknown-attribute", "match.all[1].attribute"),
        ("unknown-segment", "match.all[2].not.any[0].segment"),
    ]


def test_nothing_imported_yet() -> None:
    """Where a table holds nothing, the fault says how to fill it."""
    for schema in ({}, {"users": {}}):
        (fault,) = check_condition(condition("{attribute: plan, is: a}"), schema, at=(), segments=None)
        assert fault.hint == "import them first: journeys import users FILE"
    (fault,) = check_condition(condition("{event: e, where: {property: p, is: a}}"), {}, at=(), segments=None)
    assert fault.hint == "import them first: journeys import events FILE"


@pytest.mark.parametrize(
    "text", ["{event: e, where: {property: amount, is: 1}}", "{event: e, sum: {property: amount, at_most: 1}}"]
)
def test_events_without_properties(text: str) -> None:
    """Where events have no properties, the fault says so, and not that there are no events."""
    (fault,) = check_condition(condition(text), KEYS, at=(), segments=None)
    assert (fault.code, "nothing was imported" in fault.message) == ("unknown-property", False)
    assert fault.message == "unknown property 'amount': no event that was imported has a property"
    assert fault.hint == "import events with a column 'amount': journeys import events FILE"


def test_one_user() -> None:
    """Where one user is judged, a value of the entry event may be compared with."""
    text = "{property: category, is: {entry: category}}"
    assert faults(text, one_user=True, subject="event") == []
    assert [fault.path for fault in faults(text, subject="event")] == ["match.is.entry"]


def test_devices_of_a_push() -> None:
    """A condition over devices names attributes of a device."""
    assert faults("{attribute: app_version, at_least: 3.10}", subject="device") == []
    assert [fault.code for fault in faults("{device: app_version, at_least: 3.10}", subject="device")] == ["misplaced"]


def test_unchecked_segments() -> None:
    """References pass where nobody knows the names yet."""
    assert faults("{segment: anything}", segments=None) == []


def test_branch_of_a_split() -> None:
    """A comparison without a subject is checked against the kind of what is split by."""
    test = Comparison.model_validate({"in": ["18", "x"]})
    assert check_comparison(test, "string", SCHEMA, at=("branches", "a")) == []
    assert [fault.path for fault in check_comparison(test, "integer", SCHEMA, at=("branches", "a"))] == [
        "branches.a.in[1]"
    ]
