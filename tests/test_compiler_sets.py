"""Events, devices, segments and files select the users they say; so do all, any and not around them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from activities.segments.comparisons import literal
from activities.segments.compiler import (
    Built,
    Snapshot,
    comparison_expr,
    device_predicate,
    event_predicate,
    is_timeless,
    select_users,
)
from activities.segments.explaining import Tree, leaf_table
from activities.tables.schema import Kind
from tests.condition_tables import NOON, Tables, condition, euros, frame, instant
from workflows.conditions import Comparison
from workflows.errors import NotFoundError

EVENT_KINDS: dict[str, Kind] = {"amount": "price", "category": "string", "qty": "integer", "score": "number"}
EVENTS = [
    ("often", "2026-03-14T12:00:00Z", euros("60"), "shoes", 1, 0.5),
    ("often", "2026-03-01T12:00:00Z", euros("39.9999"), "shoes", 2, None),
    ("often", "2026-01-01T12:00:00Z", euros("1"), "gift-card", 3, None),
    ("often", "2026-03-20T12:00:00Z", None, None, None, None),
    ("once", "2026-03-15T12:00:00Z", euros("100", "USD"), "gift-card", 10, 2.0),
    ("bare", "2025-03-15T12:00:00Z", None, None, None, None),
]
USERS = ["often", "once", "bare", "never"]


@pytest.fixture
def tables() -> Tables:
    names = ("user_id", "at", "amount", "category", "qty", "score")
    events = [dict(zip(names, event, strict=True)) | {"event": "buy"} for event in EVENTS]
    for event in events:
        event["at"] = instant(event["at"])
    events.append({"user_id": "never", "event": "visit", "at": NOON})
    devices = [
        {"device_id": "d1", "user_id": "often", "platform": "ios", "app_version": "1.9", "language": "fr-CA"},
        {"device_id": "d2", "user_id": "often", "platform": "android", "app_version": "1.10", "language": None},
        {"device_id": "d3", "user_id": "once", "platform": "ios", "app_version": "1.10", "language": "en"},
        {"device_id": "d4", "user_id": "bare", "platform": "ios", "app_version": None, "language": "fr"},
    ]
    users = [
        {"user_id": "often", "plan": "paid", "budget": euros("50"), "since": instant("2026-03-10T00:00:00Z")},
        {"user_id": "once", "plan": "free", "budget": euros("50")},
        {"user_id": "bare"},
        {"user_id": "never", "plan": ""},
    ]
    kinds: dict[str, dict[str, Kind]] = {
        "users": {"plan": "string", "budget": "price", "since": "instant"},
        "devices": {"app_version": "version", "language": "string"},
        "events": EVENT_KINDS,
    }
    segments: dict[str, Built | set[str]] = {
        "vip": {"once", "never", "stranger"},
        "vip@3": {"often"},
        "beta.csv": {"bare"},
        "payers": Built(condition("{attribute: plan, in: [paid, pro]}"), "UTC"),
        "buyers": Built(condition("{all: [{event: buy}, {not: {segment: vip}}]}"), "Europe/Paris"),
        "tokyo": Built(condition("{event: buy, days_ago: {exactly: 0}}"), "Asia/Tokyo"),
    }
    return Tables(kinds, users, devices, events, segments)


SETS = [
    ("{event: buy}", "bare often once"),
    ("{event: gone}", ""),
    ("{event: buy, count: {at_least: 2}}", "often"),
    ("{event: buy, count: {exactly: 4}}", "often"),
    ("{event: buy, count: {exactly: 0}}", "never"),
    ("{event: buy, count: {at_most: 1}}", "bare never once"),
    ("{event: buy, count: {between: [0, 3]}}", "bare never once"),
    ("{event: buy, count: {between: [1, 3]}}", "bare once"),
    ("{event: buy, count: {at_least: 1, at_most: 1}}", "bare once"),
    ("{event: buy, count: {at_least: 0}}", "bare never often once"),
    ("{event: gone, count: {exactly: 0}}", "bare never often once"),
    ("{not: {event: buy, count: {exactly: 0}}}", "bare often once"),
    ("{event: buy, within_last: 30d}", "often once"),
    ("{event: buy, within_last: 30d, count: {at_least: 2}}", "often"),
    ("{event: buy, within_next: 30d}", "often once"),
    ("{event: buy, after: 2026-03-15}", "often"),
    ("{event: buy, before: 2026-01-01}", "bare"),
    ("{event: buy, before: 2026-03-15, after: 2026-01-01, count: {exactly: 2}}", "often"),
    ("{event: buy, between: [2026-01-01, 2026-03-01], count: {exactly: 2}}", "often"),
    ("{event: buy, older_than: 300d}", "bare"),
    ("{event: buy, days_ago: {exactly: 0}}", "once"),
    ("{event: buy, anniversary: {exactly: 0}}", "bare once"),
    ("{event: buy, after: {attribute: since}}", "often"),
    ("{event: buy, where: {property: category, is: shoes}}", "often"),
    ("{event: buy, where: {property: category, is_not: shoes}}", "often once"),
    ("{event: buy, where: {not: {property: category, is: shoes}}}", "bare often once"),
    ("{event: buy, where: {all: [{property: qty, at_least: 3}, {property: category, is: shoes}]}}", ""),
    (
        "{event: buy, where: {any: [{property: qty, at_least: 3}, {property: qty, is_not_set: true}]}}",
        "bare often once",
    ),
    ("{event: buy, where: {property: amount, more_than: {attribute: budget}}}", "often"),
    ("{event: buy, where: {property: amount, is_not: {attribute: budget}}}", "often once"),
    ("{event: buy, where: {property: qty, more_than: {property: score, times: 3}}}", "once"),
    ("{event: buy, sum: {property: amount, at_least: 100 EUR}}", "often"),
    ("{event: buy, sum: {property: amount, at_least: 100 EUR}, within_last: 30d}", ""),
    ("{event: buy, sum: {property: amount, more_than: 99.9998 EUR}, within_last: 30d}", "often"),
    ("{event: buy, sum: {property: amount, less_than: 100 EUR}}", "bare never once"),
    ("{event: buy, sum: {property: amount, between: [100 USD, 200 USD]}}", "once"),
    ("{event: buy, sum: {property: amount, at_least: 0 EUR}}", "bare never often once"),
    ("{event: buy, sum: {property: qty, at_least: 6, at_most: 9}}", "often"),
    ("{event: buy, sum: {property: score, at_most: 0.5}}", "bare never often"),
    ("{not: {event: buy, sum: {property: score, at_most: 0.5}}}", "once"),
    ("{device: platform, is: ios}", "bare often once"),
    ("{device: platform, is_not: ios}", "often"),
    ("{not: {device: platform, is: android}}", "bare never once"),
    ("{device: language, is_not_set: true}", "often"),
    ("{any_device: {all: [{attribute: platform, is: ios}, {attribute: app_version, less_than: 1.10}]}}", "often"),
    ("{any_device: {not: {attribute: app_version, less_than: 1.10}}}", "bare often once"),
    ("{all: [{device: platform, is: android}, {device: app_version, is: 1.9}]}", "often"),
    ("{any_device: {all: [{attribute: platform, is: android}, {attribute: app_version, is: 1.9}]}}", ""),
    ("{segment: vip}", "never once"),
    ("{segment: vip@3}", "often"),
    ("{file: beta.csv}", "bare"),
    ("{segment: payers}", "often"),
    ("{segment: buyers}", "bare often"),
    ("{not: {segment: buyers}}", "never once"),
    # 15 March 12:00 UTC is the evening of the 15th in Tokyo: the event of that noon is of the same day.
    ("{segment: tokyo}", "once"),
    ("{everyone: true}", "bare never often once"),
    ("{not: {everyone: true}}", ""),
    ("{any: [{segment: vip}, {file: beta.csv}]}", "bare never once"),
    ("{any: [{attribute: plan, is: paid}, {file: beta.csv}]}", "bare often"),
    ("{any: [{attribute: plan, is: paid}, {not: {event: buy}}]}", "never often"),
    ("{any: [{not: {segment: vip}}, {not: {event: buy}}]}", "bare never often"),
    ("{not: {any: [{segment: vip}, {file: beta.csv}, {attribute: plan, is: free}]}}", "often"),
    ("{not: {all: [{attribute: plan, is: paid}, {event: buy}]}}", "bare never once"),
    ("{any: [{all: [{event: buy}, {segment: vip}]}, {all: [{file: beta.csv}, {everyone: true}]}]}", "bare once"),
]


@pytest.mark.parametrize(("text", "chosen"), SETS)
def test_users_and_explanation(tables: Tables, text: str, chosen: str) -> None:
    """The query selects exactly the users it says, and the explanation of each user agrees."""
    assert " ".join(tables.select(text)) == chosen
    for user in USERS:
        tree = leaf_table(condition(text), tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id=user)
        assert tree["true"] == (user in chosen.split()), (user, tree)


def test_explanation_of_each_leaf(tables: Tables) -> None:
    """An explanation names each leaf in words, with the value found; a nested segment is opened."""
    text = """
    all:
      - {attribute: plan, in: [paid, pro]}
      - not: {segment: payers}
      - {event: buy, count: {at_least: 2}, within_last: 30d, where: {property: category, is: shoes}}
      - {event: buy, sum: {property: amount, at_least: 100 EUR}}
      - {device: platform, is: ios}
      - {any_device: {all: [{attribute: platform, is: ios}, {attribute: app_version, less_than: 1.10}]}}
      - {segment: vip}
      - {attribute: since, before: {attribute: since}}
    """
    tree = leaf_table(condition(text), tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="often")
    assert (tree["node"], tree["true"]) == ("all", False)
    assert [(child["text"], child["value"], child["true"]) for child in tree["children"]] == [
        ("plan in paid, pro", "paid", True),
        ("not", None, False),
        ("buy at least 2 times, within last 30d, where category is shoes", 2, True),
        ("buy: sum of amount at least 100 EUR", "100.9999 EUR", True),
        ("a device with platform is ios", ["ios", "android"], True),
        ("a device with platform is ios and app_version less than 1.10", ["d1"], True),
        ("segment vip", False, False),
        ("since before since", "2026-03-10T00:00:00Z", False),
    ]
    nested = tree["children"][1]["children"][0]
    assert (nested["node"], nested["text"]) == ("all", "segment payers")
    assert nested["children"][0]["text"] == "plan in paid, pro"


def rows_of(tree: Tree) -> list[tuple[str, bool, list[tuple[str, Any, bool]]]]:
    """What stands below a leaf: each row with its truth and the parts of its condition."""
    return [
        (row["text"], row["true"], [(part["text"], part["value"], part["true"]) for part in row["children"]])
        for row in tree["children"]
    ]


def test_explanation_of_each_device(tables: Tables) -> None:
    """Below `any_device` stand the user's devices, each with every part of the condition, its value and truth."""
    text = "{any_device: {all: [{attribute: platform, is: ios}, {attribute: app_version, at_least: 1.10}]}}"
    tree = leaf_table(condition(text), tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="often")
    assert (tree["node"], tree["value"], tree["true"]) == ("leaf", [], False)
    assert rows_of(tree) == [
        ("device d1", False, [("platform is ios", "ios", True), ("app_version at least 1.10", "1.9", False)]),
        ("device d2", False, [("platform is ios", "android", False), ("app_version at least 1.10", "1.10", True)]),
    ]
    one = condition("{any_device: {not: {attribute: gone, is: a}}}")
    tree = leaf_table(one, tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="once")
    assert rows_of(tree) == [("device d3", True, [("not", None, True)])]
    assert tree["children"][0]["children"][0]["children"][0]["true"] is False
    bare = leaf_table(one, tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="never")
    assert (bare["true"], bare["children"]) == (False, [])


def test_explanation_of_many_devices(tables: Tables) -> None:
    """Ten devices are shown, those for which it is true first; the others are counted."""
    tables.devices = [
        {"device_id": f"d{place}", "user_id": "once", "platform": "ios" if place > 8 else "web"} for place in range(21)
    ]
    node = condition("{any_device: {attribute: platform, is: ios}}")
    tree = leaf_table(node, tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="once")
    names = [(row["text"], row["true"]) for row in tree["children"]]
    shown = [(f"device d{place}", True) for place in range(9, 19)]
    assert names == [*shown, ("11 more devices, true of 2", True)]
    tables.devices = tables.devices[:11]
    tree = leaf_table(node, tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="once")
    assert [(row["text"], row["true"]) for row in tree["children"]][-2:] == [
        ("device d7", False),
        ("1 more device, true of 0", False),
    ]


def test_explanation_of_each_event(tables: Tables) -> None:
    """Below an event with `where` stands how many there are in the window, and the newest three, part by part."""
    where = "where: {all: [{property: category, is: shoes}, {property: amount, more_than: {attribute: budget}}]}"
    tree = leaf_table(
        condition(f"{{event: buy, count: {{at_least: 2}}, {where}}}"),
        tables.snapshot,
        as_of=NOON,
        zone="UTC",
        resolve=tables,
        user_id="often",
    )
    assert (tree["node"], tree["value"], tree["true"]) == ("leaf", 1, False)
    shoes, dear = "category is shoes", "amount more than budget"
    assert rows_of(tree) == [
        ("buy at least once, whatever `where` says", True, []),
        ("buy at 2026-03-20T12:00:00Z", False, [(shoes, None, False), (dear, None, False)]),
        ("buy at 2026-03-14T12:00:00Z", True, [(shoes, "shoes", True), (dear, "60.00 EUR", True)]),
        ("buy at 2026-03-01T12:00:00Z", False, [(shoes, "shoes", True), (dear, "39.9999 EUR", False)]),
        ("1 more event, true of 0", False, []),
    ]
    assert tree["children"][0]["value"] == 4
    window = condition(f"{{event: buy, after: {{attribute: since}}, sum: {{property: qty, at_most: 0}}, {where}}}")
    tree = leaf_table(window, tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="often")
    assert [(row["text"], row["value"], row["true"]) for row in tree["children"]] == [
        ("buy at least once, after since, whatever `where` says", 2, True),
        ("buy at 2026-03-20T12:00:00Z", None, False),
        ("buy at 2026-03-14T12:00:00Z", None, True),
    ]
    tree = leaf_table(window, tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="never")
    assert [(row["value"], row["true"]) for row in tree["children"]] == [(0, False)]


@pytest.mark.parametrize(
    ("values", "total"),
    [([2**63 - 1, 1], 2**63), ([-(2**63), -1], -(2**63) - 1), ([2**63 - 1, 2**63 - 1, -(2**63)], 2**63 - 2)],
)
def test_sums_of_integers_are_exact(values: list[int], total: int) -> None:
    """A sum of integers does not wrap round, upwards or downwards, whether users are selected by it or it is shown."""
    events = [{"user_id": "a", "event": "buy", "at": NOON, "qty": value} for value in values]
    tables = Tables({"events": {"qty": "integer"}}, [{"user_id": "a"}, {"user_id": "none"}], [], events)
    sign = "more_than: 0" if total > 0 else "less_than: 0"
    text = f"{{event: buy, sum: {{property: qty, {sign}}}}}"
    assert tables.select(text) == ["a"]
    assert tables.select(f"{{not: {text}}}") == ["none"]
    tree = leaf_table(condition(text), tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="a")
    assert (tree["value"], tree["true"]) == (total, True)


def test_explanation_of_a_stranger(tables: Tables) -> None:
    """Nobody is explained who is no user: `not` would call him a member."""
    with pytest.raises(NotFoundError, match="no user 'stranger'"):
        leaf_table(
            condition("{everyone: true}"), tables.snapshot, as_of=NOON, zone="UTC", resolve=tables, user_id="stranger"
        )


@pytest.mark.parametrize(
    ("text", "timeless"),
    [
        ("{attribute: plan, is: paid}", True),
        ("{event: buy, after: 2026-01-01, count: {at_least: 2}}", True),
        ("{event: buy, within_last: 2d}", False),
        ("{not: {any: [{attribute: plan, is: paid}, {attribute: since, days_ago: {exactly: 3}}]}}", False),
        ("{event: buy, where: {property: at, older_than: 3d}}", False),
        ("{any_device: {attribute: last_seen, within_last: 3d}}", False),
        ("{segment: vip}", True),
        ("{segment: buyers}", True),
        ("{segment: tokyo}", False),
    ],
)
def test_timeless(tables: Tables, text: str, timeless: bool) -> None:
    """An answer is timeless when nothing in it, nested segments included, looks at the clock."""
    assert is_timeless(condition(text), tables) is timeless


def test_predicates_are_never_null() -> None:
    """What is handed out to filter devices, events and branches is true or false on every row."""
    kinds: dict[str, Kind] = {"app": "version", "id": "string", "wanted": "string"}
    rows = frame([{"app": "3.10", "id": "a", "wanted": "a"}, {"app": "3.9"}, {}], kinds)
    device = device_predicate(condition("{attribute: app, at_least: 3.10}"), kinds, as_of=NOON, zone="UTC")
    trigger = condition("{any: [{property: id, is: {entry: cart}}, {property: id, is: {attribute: name}}]}")
    event = event_predicate(trigger, kinds, as_of=NOON, zone="UTC", entry={"cart": literal("a", "string")})
    branch = comparison_expr(
        pl.col("id"),
        "string",
        Comparison.model_validate({"is": {"attribute": "wanted"}}),
        as_of=NOON,
        zone="UTC",
        kinds=kinds,
    )
    found = rows.select(device.alias("device"), event.alias("event"), branch.alias("branch")).collect()
    assert found.to_dict(as_series=False) == {name: [True, False, False] for name in ("device", "event", "branch")}


@pytest.mark.parametrize("kind", ["price", "version", "instant", "integer"])
def test_value_of_the_entry_event(kind: Kind) -> None:
    """A value of the entry event compares like a stored one of its kind."""
    text = {"price": "20 EUR", "version": "1.10", "instant": "2026-03-15T12:00:00Z", "integer": "20"}[kind]
    stored = {"price": euros("20"), "version": "1.10.0", "instant": NOON, "integer": 20}[kind]
    rows = frame([{"x": stored}, {}], {"x": kind})
    test = condition("{property: x, is: {entry: y}}")
    expr = event_predicate(test, {"x": kind}, as_of=NOON, zone="UTC", entry={"y": literal(text, kind)})
    assert rows.select(expr).collect().to_series().to_list() == [True, False]


def test_attributes_are_one_filter(tables: Tables) -> None:
    """Conditions on attributes, nested segments included, are one filter and no join; an event is a semi join."""

    def plan(text: str) -> str:
        query = select_users(condition(text), tables.snapshot, as_of=NOON, zone="UTC", resolve=tables)
        return query.explain()

    attributes = plan(
        "{all: [{attribute: plan, is: paid}, {segment: payers}, {not: {attribute: since, is_set: true}}]}"
    )
    assert (attributes.count("FILTER"), attributes.count("JOIN")) == (1, 0)
    assert plan("{all: [{attribute: plan, is: paid}, {event: buy}]}").count("SEMI JOIN:") == 1
    assert plan("{not: {event: buy}}").count("ANTI JOIN:") == 1
    assert plan("{any: [{event: buy}, {segment: vip}, {device: platform, is: ios}]}").count("JOIN:") == 1


def test_tables_that_are_empty() -> None:
    """Tables without a row answer like any other: nobody."""
    nothing = Tables({"events": {"amount": "price"}})
    for text in (
        "{everyone: true}",
        "{not: {event: buy}}",
        "{device: platform, is: ios}",
        "{event: buy, count: {exactly: 0}}",
    ):
        assert nothing.select(text) == []
    assert isinstance(nothing.snapshot, Snapshot)


def test_an_instant_without_a_zone_is_refused(tables: Tables) -> None:
    """An evaluation at an instant without a zone would depend on the machine: it is refused."""
    with pytest.raises(ValueError, match="as_of has no zone"):
        tables.select("{event: buy, within_last: 2d}", as_of=NOON.replace(tzinfo=None))
