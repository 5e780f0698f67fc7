"""On random tables and conditions the query agrees with a slow judge, and obeys the laws of logic."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.segments import compiler
from activities.segments.checking import check_condition
from activities.segments.compiler import Built, Snapshot, select_users
from activities.segments.explaining import Tree, leaf_table
from activities.segments.reads import KEYS as KEYS_READ
from activities.segments.reads import readings_of
from activities.tables.schema import Kind, TableName, kind_of
from tests.condition_oracle import Oracle
from tests.condition_tables import CONDITION, KEYS, NOON, Tables, euros
from workflows.conditions import All, Any_, Condition, Not

ATTRIBUTES: dict[str, Kind] = {
    "plan": "string", "city": "string", "age": "integer", "score": "number", "vip": "boolean", "born": "date",
    "seen": "instant", "price": "price", "wish": "price", "app": "version", "tags": "list",
}  # fmt: skip
OF_DEVICES: dict[str, Kind] = {"app": "version", "seen": "instant", "build": "integer", "name": "string"}
PROPERTIES: dict[str, Kind] = {"amount": "price", "qty": "integer", "rate": "number", "kind": "string", "due": "date"}
REFERENCES: dict[Kind, set[Kind]] = {"integer": {"integer", "number"}, "date": {"date", "instant"}}
REFERENCES |= {"number": REFERENCES["integer"], "instant": REFERENCES["date"]}
ZONES = ["UTC", "Europe/Paris", "Asia/Tokyo", "America/Los_Angeles"]
SHORT_TEXTS = ["", "a", "A", "ab", "Ba", "b.a"]
DAYS = [date(2026, 3, 15) + timedelta(days=days) for days in (-400, -30, -1, 0, 1, 30)] + [date(2024, 2, 29)]
MOMENTS = [NOON + timedelta(hours=hours) for hours in (-9000, -720, -24, -13, -1, 0, 1, 12, 24, 720)]
MONEY = [("10", "EUR"), ("20", "EUR"), ("18", "EUR"), ("20", "USD"), ("0", "EUR")]
LARGE: dict[str, list[Any]] = {
    "age": [2**53 + 1],
    "score": [2.0**53],
    "build": [2**63 - 1],
    "qty": [2**63 - 1, 2**53 + 1],
}
"""Beyond what a float, or a sum of 64 bits, holds exactly. Not of `rate`: float sums depend on the order of events."""
STORED: dict[Kind, list[Any]] = {
    "string": SHORT_TEXTS, "integer": [-1, 0, 1, 2, 18], "number": [-0.5, 0.0, 0.5, 1.0, 2.0], "boolean": [True, False],
    "date": DAYS, "instant": MOMENTS, "price": [euros(*money) for money in MONEY],
    "version": ["1.9", "1.10", "1.10.0", "2"], "list": [[], ["a"], ["a", "Ba"], ["ab", "A"]],
}  # fmt: skip
WRITTEN: dict[Kind, list[str]] = {
    "string": SHORT_TEXTS, "integer": ["-1", "0", "1", "2", "18"], "number": ["-0.5", "0", "0.5", "1", "2"],
    "boolean": ["true", "false"], "date": [day.isoformat() for day in DAYS],
    "instant": [moment.isoformat() for moment in MOMENTS] + [day.isoformat() for day in DAYS],
    "price": [" ".join(money) for money in MONEY], "version": ["1.9", "1.10", "2"], "list": ["a", "A", "Ba", "zz"],
}  # fmt: skip

FACTORS = st.sampled_from([{}, {}, {"times": "0.9"}, {"times": "1.1"}, {"times": "999999.999999"}])


@st.composite
def comparisons(draw: st.DrawFn, kind: Kind, columns: dict[str, dict[str, Kind]]) -> dict[str, Any]:
    """An operator that takes the kind, or two bounds; `columns` are those that references may name, by their key."""
    comparable = REFERENCES.get(kind, {"string" if kind == "list" else kind})
    names = [(key, name, its) for key, known in columns.items() for name, its in known.items() if its in comparable]

    @st.composite
    def values(draw: st.DrawFn) -> Any:
        if names and draw(st.integers(0, 4)) == 0:
            key, name, its = draw(st.sampled_from(names))
            return {key: name} | (draw(FACTORS) if its in {"integer", "number", "price"} else {})
        return draw(st.sampled_from(WRITTEN[kind]))

    several = st.lists(values(), min_size=1, max_size=3)
    pair = st.lists(values(), min_size=2, max_size=2)
    found: dict[str, st.SearchStrategy[Any]] = {"is_set": st.just("true"), "is_not_set": st.just("true")}
    if kind == "list":
        found |= {"has": values(), "has_any": several, "has_all": several}
    else:
        found |= {"is": values(), "is_not": values(), "in": several, "not_in": several}
    if kind == "string":
        found |= dict.fromkeys(("contains", "starts_with", "ends_with"), values())
        found |= {"matches": st.sampled_from(["^a", "a$", "b.a", "[A-C]"])}
    if kind not in {"list", "string", "boolean"}:
        found |= {**dict.fromkeys(("at_least", "at_most", "more_than", "less_than"), values()), "between": pair}
    if kind in {"date", "instant"}:
        found |= {"before": values(), "after": values(), **times(kind)}
    word = draw(st.sampled_from(sorted(found)))
    made = {word: draw(found[word])}
    if kind in {"string", "list"} and draw(st.booleans()):
        made["ignore_case"] = "true"
    upper = draw(st.sampled_from(["at_most", "less_than"]))
    return made | ({upper: draw(found[upper])} if word in {"at_least", "more_than"} and draw(st.booleans()) else {})


def times(kind: Kind) -> dict[str, st.SearchStrategy[Any]]:
    lasting = st.sampled_from(["0d", "1d", "30d", "60w"] + (["13h", "1d12h"] if kind == "instant" else []))
    return {
        **dict.fromkeys(("within_last", "within_next", "older_than"), lasting),
        **dict.fromkeys(("days_ago", "days_ahead", "anniversary"), numbers([0, 1, 30, 351, 365, 1_000_000_000])),
    }


def numbers(limits: list[int]) -> st.SearchStrategy[Any]:
    limit = st.sampled_from(limits)
    return st.one_of(
        st.builds(lambda word, value: {word: str(value)}, st.sampled_from(["exactly", "at_least", "at_most"]), limit),
        st.builds(lambda pair: {"between": [str(value) for value in sorted(pair)]}, st.tuples(limit, limit)),
        st.builds(lambda a, b: {"at_least": str(min(a, b)), "at_most": str(max(a, b))}, limit, limit),
    )


def combined(leaves: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda parts: {"all": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda parts: {"any": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda part: {"not": part}, inner),
        ),
        max_leaves=most,
    )


def leaves_of(
    subject: str, columns: dict[str, Kind], references: dict[str, dict[str, Kind]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(sorted(columns)).flatmap(
        lambda name: comparisons(columns[name], references).map(lambda made: {subject: name} | made)
    )


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {"event": draw(st.sampled_from(["buy", "visit"]))}
    if draw(st.booleans()):
        window = draw(comparisons("instant", {"attribute": ATTRIBUTES}))
        made |= {
            word: value for word, value in window.items() if word in {"before", "after", "between", *times("instant")}
        }
    if draw(st.booleans()):
        references = {"property": PROPERTIES, "attribute": ATTRIBUTES}
        made["where"] = draw(combined(leaves_of("property", PROPERTIES, references), 3))
    measure = draw(st.sampled_from(["", "count", "sum"]))
    if measure == "count":
        made["count"] = draw(numbers([0, 1, 2]))
    if measure == "sum":
        name, currency = draw(st.sampled_from([("amount", " EUR"), ("qty", ""), ("rate", "")]))
        bound = st.sampled_from(["0", "1", "18", "30"])
        word = draw(st.sampled_from(["at_least", "at_most", "more_than", "less_than"]))
        made["sum"] = {"property": name, word: draw(bound) + currency}
    return made


LEAVES = st.one_of(
    leaves_of("attribute", ATTRIBUTES, {"attribute": ATTRIBUTES}),
    leaves_of("device", OF_DEVICES, {"attribute": OF_DEVICES}),
    combined(leaves_of("attribute", OF_DEVICES, {"attribute": OF_DEVICES}), 3).map(lambda inner: {"any_device": inner}),
    events(),
    st.sampled_from([{"segment": "vip"}, {"segment": "built"}, {"file": "beta.csv"}, {"everyone": "true"}]),
)
CONDITIONS = combined(LEAVES, 5).map(CONDITION.validate_python)
WINDOWS = combined(
    st.builds(
        lambda name, window: {"event": name} | ({"within_last": window} if window else {}),
        st.sampled_from(["buy", "visit"]),
        st.sampled_from(["13h", "1d", "30d", "60w", "60w", ""]),
    ),
    3,
).map(CONDITION.validate_python)


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    """Four users, some devices and events. Cells come from a seed: drawing each would take most of the time."""
    chance = Random(draw(st.integers(0, 2**32)))
    ids = ["u1", "u2", "u3", "u4"]

    def row(columns: dict[str, Kind]) -> dict[str, Any]:
        return {name: chance.choice([None, *STORED[kind], *LARGE.get(name, [])]) for name, kind in columns.items()}

    return Tables(
        {"users": ATTRIBUTES, "devices": OF_DEVICES, "events": PROPERTIES},
        [row(ATTRIBUTES) | {"user_id": user} for user in ids],
        [
            row(OF_DEVICES) | {"device_id": f"d{place}", "user_id": chance.choice(ids)}
            for place in range(chance.randrange(5))
        ],
        [
            row(PROPERTIES)
            | {"user_id": chance.choice(ids), "event": chance.choice(["buy", "visit"]), "at": chance.choice(MOMENTS)}
            for _ in range(chance.randrange(12))
        ],
        {
            "vip": set(chance.sample([*ids, "stranger"], 2)),
            "beta.csv": set(chance.sample(ids, 2)),
            "built": Built(draw(combined(LEAVES, 2).filter(is_flat).map(CONDITION.validate_python)), "Asia/Tokyo"),
        },
    )


def is_flat(document: dict[str, Any]) -> bool:
    return "'built'" not in str(document)


quick = settings(max_examples=400, deadline=None, derandomize=True, database=None)


@quick
@given(node=CONDITIONS, made=tables(), zone=st.sampled_from(ZONES))
def test_query_agrees_with_the_judge(node: Condition, made: Tables, zone: str) -> None:
    """A condition that the checker passes selects exactly the users whom the slow judge finds, one by one."""
    faults = check_condition(node, made.kinds, at=(), segments={"vip", "built"})
    assert {fault.code for fault in faults} <= {"empty-range"}, faults
    oracle = Oracle(made.kinds, made.devices, made.events, NOON, zone, made.segments)
    assert made.select(node, zone=zone) == [user["user_id"] for user in made.users if oracle.holds(node, user)]


class Asked(dict[str, Kind]):
    """The kinds of a table's columns, which note the columns that the compiler asks about."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        super().__init__(kinds)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Kind:
        self.names.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


@quick
@given(node=CONDITIONS, made=tables())
def test_what_the_compiler_asks_about_is_what_is_said_to_be_read(node: Condition, made: Tables) -> None:
    """Beside the keys, the columns that a condition is said to read are those that the compiler looks up, no others."""
    asked: dict[int, Asked] = {}

    def noted(frame: pl.LazyFrame) -> Asked:
        return asked.setdefault(id(frame), Asked({name: kind_of(of) for name, of in frame.collect_schema().items()}))

    whole, readings = made.snapshot, readings_of(node, made, NOON)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiler, "_kinds", noted)
        select_users(node, whole, as_of=NOON, zone="UTC", resolve=made)
    for name, frame in zip(KEYS_READ, (whole.users, whole.devices, whole.events), strict=True):
        said = readings[name].columns - KEYS_READ[name] if name in readings else set()
        looked_up = asked[id(frame)].names - KEYS_READ[name] if id(frame) in asked else set()
        assert said == looked_up


@quick
@given(node=st.one_of(CONDITIONS, WINDOWS), made=tables(), zone=st.sampled_from(ZONES))
def test_only_what_is_said_to_be_read_matters(node: Condition, made: Tables, zone: str) -> None:
    """Over the columns, tables and events that a condition is said to read, its users are those over all there is."""
    readings = readings_of(node, made, NOON)

    def cut(name: TableName, whole: pl.LazyFrame) -> pl.LazyFrame:
        if name not in readings:
            return whole.select(list(KEYS[name])).clear()
        known = whole.select(column for column in whole.collect_schema() if column in readings[name].columns)
        since = readings[name].since
        return known if since is None else known.filter(pl.col("at") >= since)

    whole = made.snapshot
    snapshot = Snapshot(cut("users", whole.users), cut("devices", whole.devices), cut("events", whole.events))
    found = select_users(node, snapshot, as_of=NOON, zone=zone, resolve=made).collect()
    assert sorted(found.get_column("user_id")) == made.select(node, zone=zone)


@settings(quick, max_examples=150)
@given(node=CONDITIONS, made=tables(), zone=st.sampled_from(ZONES))
def test_not_is_the_exact_complement(node: Condition, made: Tables, zone: str) -> None:
    """Every user is in a segment or in its opposite, and in no case in both."""
    chosen, others = made.select(node, zone=zone), made.select(Not(not_=node), zone=zone)
    assert sorted(chosen + others) == [user["user_id"] for user in made.users]


@settings(quick, max_examples=100)
@given(parts=st.lists(CONDITIONS, min_size=1, max_size=3), made=tables())
def test_de_morgan(parts: list[Condition], made: Tables) -> None:
    """Not any is all not, and not all is any not."""
    opposites = tuple(Not(not_=part) for part in parts)
    assert made.select(Not(not_=Any_(any=tuple(parts)))) == made.select(All(all=opposites))
    assert made.select(Not(not_=All(all=tuple(parts)))) == made.select(Any_(any=opposites))


@settings(quick, max_examples=60)
@given(node=CONDITIONS, made=tables(), zone=st.sampled_from(ZONES))
def test_explanation_agrees_with_the_query(node: Condition, made: Tables, zone: str) -> None:
    """What is explained of a user is what the query decides."""
    chosen = made.select(node, zone=zone)
    for user in made.users:
        tree = leaf_table(node, made.snapshot, as_of=NOON, zone=zone, resolve=made, user_id=user["user_id"])
        assert tree["true"] == (user["user_id"] in chosen)
        agree(tree)


def agree(tree: Tree) -> None:
    """Fails where the truth of a part does not follow from the parts below it, down to each device and event."""
    below = [part["true"] for part in tree["children"]]
    if tree["node"] in {"all", "any"}:
        assert tree["true"] == (all(below) if tree["node"] == "all" else any(below))
    elif tree["node"] == "not":
        assert below == [not tree["true"]]
    elif below and tree["text"].startswith("a device with"):
        assert tree["true"] == any(below)
    elif below and "more event" not in tree["children"][-1]["text"]:
        whole, *events = tree["children"]
        assert whole["value"] == len(events)
        assert ": sum of" in tree["text"] or tree["value"] == sum(event["true"] for event in events)
    for part in tree["children"]:
        agree(part)


@settings(quick, max_examples=150)
@given(node=CONDITIONS)
def test_document_survives_reading(node: Condition) -> None:
    """Writing a condition and reading it again gives the same condition."""
    document = node.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert CONDITION.validate_python(document) == node
