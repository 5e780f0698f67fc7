"""A condition is read exactly as it was written, or refused with what is wrong and what would be right."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from activities.documents.yaml_text import parse_yaml
from tests.condition_tables import CONDITION, EXAMPLES, condition
from workflows.conditions import (
    SUBJECTS,
    AttributeTest,
    Comparison,
    Duration,
    FileRef,
    SegmentRef,
    Zone,
    duration,
    render_path,
    subject_of,
    walk,
)
from workflows.scalars import DURATION_LIMIT

DOCUMENTS: list[dict[str, Any]] = list(yaml.load_all(EXAMPLES.read_text(), yaml.BaseLoader))


def refusals(value: Any) -> list[tuple[str, str]]:
    """Give place and message of each error."""
    with pytest.raises(ValidationError) as caught:
        CONDITION.validate_python(value)
    return [(render_path(error["loc"]), error["msg"]) for error in caught.value.errors()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["segment"])
def test_example_round_trips(document: dict[str, Any]) -> None:
    """Each example is read, and written again as its author wrote it; from JSON it is the same."""
    node = CONDITION.validate_python(document["match"])
    assert node.model_dump(mode="json", by_alias=True, exclude_unset=True) == document["match"]
    assert CONDITION.validate_json(json.dumps(document["match"])) == node
    assert hash(node) == hash(CONDITION.validate_python(document["match"]))


def test_fifteen_examples() -> None:
    """None of the examples is left out."""
    assert len(DOCUMENTS) == 15


def test_native_scalars_become_text() -> None:
    """A JSON client's numbers and booleans are the text that a YAML author writes."""
    native = {
        "all": [{"attribute": "vip", "is": True}, {"attribute": "age", "between": [18, 65.5]}, {"everyone": True}]
    }
    written = "{all: [{attribute: vip, is: 'true'}, {attribute: age, between: ['18', '65.5']}, {everyone: 'true'}]}"
    assert CONDITION.validate_python(native) == condition(written)
    assert CONDITION.validate_python({"event": "buy", "count": {"at_least": 2}}) == condition(
        "{event: buy, count: {at_least: 2}}"
    )


def test_subject_comes_first() -> None:
    """Where a condition is shown, its subject comes before its operators."""
    shown = condition("{less_than: 65, at_least: 18, attribute: age}").model_dump(by_alias=True, exclude_unset=True)
    assert next(iter(shown)) == "attribute"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("{}", "", "the condition is empty"),
        ("paid", "", "a condition is expected, such as `{attribute: plan, is: paid}`, not 'paid'"),
        ("{atribute: plan, is: paid}", "", "did you mean `attribute`?"),
        ("{attribute: plan, segment: vip, is: paid}", "", "2 subjects found, `attribute`, `segment`"),
        ("{all: []}", "all", "the list holds no condition"),
        ("{any: []}", "any", "the list holds no condition"),
        ("{all: {attribute: plan, is: paid}}", "all", "a list of conditions is expected"),
        ("{not: paid}", "not", "a condition is expected"),
        ("{attribute: plan}", "", "an operator is missing: give one of `is`, `is_not`, `in`"),
        ("{attribute: plan, ignore_case: true}", "", "an operator is missing"),
        ("{attribute: plan, iss: paid}", "", "'iss' is not known here: did you mean `is`"),
        ("{attribute: plan, is: paid, in: [pro]}", "", "2 operators found, `is`, `in`"),
        ("{attribute: age, at_least: 1, more_than: 2}", "", "2 operators found, `at_least`, `more_than`"),
        ("{attribute: age, at_least: 1, at_most: 3, less_than: 2}", "", "3 operators found"),
        ("{attribute: age, between: [1, 2], at_most: 3}", "", "2 operators found"),
        ("{attribute: plan, is: [paid]}", "is", "one value is expected, not the list ['paid']"),
        ("{attribute: plan, in: paid}", "in", "a list is expected, such as `[paid, pro]`, not 'paid'"),
        ("{attribute: plan, in: []}", "in", "the list is empty"),
        ("{attribute: age, between: [1]}", "between", "two values are expected"),
        ("{attribute: plan, is: {attribut: x}}", "is", "write text, or one of `{attribute: NAME}`"),
        ("{attribute: price, is: {attribute: old, times: -1}}", "is.times", "'-1' is no factor"),
        ("{attribute: plan, is_set: false}", "is_set", "only `true` is meant"),
        ("{attribute: plan, is: a, ignore_case: maybe}", "ignore_case", "'maybe' is neither `true` nor `false`"),
        ("{attribute: seen, within_last: 3 days}", "within_last", "'3 days' is no duration"),
        (
            "{attribute: seen, days_ago: 3}",
            "days_ago",
            "not '3': write `days_ago: {exactly: 3}`; it has one of `exactly`",
        ),
        ("{attribute: seen, days_ago: yesterday}", "days_ago", "write `days_ago: {exactly: 1}`"),
        ("{attribute: seen, days_ahead: soon}", "days_ahead", "not 'soon': write `days_ahead: {exactly: 3}`"),
        ("{attribute: seen, days_ahead: [2, 5]}", "days_ahead", "write `days_ahead: {between: [2, 5]}`"),
        ("{attribute: birth, anniversary: today}", "anniversary", "write `anniversary: {exactly: 0}`"),
        ("{attribute: birth, anniversary: }", "anniversary", "not nothing: write `anniversary: {exactly: 3}`"),
        ("{event: buy, count: 2}", "count", "not '2': write `count: {exactly: 2}`"),
        ("{event: buy, sum: 100}", "sum", "not '100': write `sum: {property: NAME, at_least: 100}`"),
        ("{attribute: seen, days_ago: {}}", "days_ago", "an operator is missing: give one of `exactly`"),
        ("{attribute: seen, days_ago: {exactly: -3}}", "days_ago.exactly", "'-3' is no whole number"),
        ("{attribute: seen, days_ago: {between: [5, 3]}}", "days_ago", "no number is from 5 to 3"),
        ("{event: buy, at_least: 2}", "", "compared by `count: {at_least: 2}`"),
        ("{event: buy, count: {at_least: 2}, sum: {property: a, at_least: 2}}", "", "`count` and `sum` found"),
        ("{event: buy, within_last: 3d, days_ago: {exactly: 2}}", "", "2 operators found"),
        ("{event: buy, sum: {property: a}}", "sum", "an operator is missing: give one of `at_least`"),
        ("{event: buy, sum: {property: a, at_least: {attribute: b}}}", "sum.at_least", "one value is expected"),
        ("{everyone: false}", "everyone", "only `true` is meant"),
        ("{segment: Paying Customers}", "segment", "no name of a segment"),
        ("{segment: vip@0}", "segment", "no name of a segment"),
        ("{file: a.csv, identifier: email}", "identifier", "'user_id' or 'device_id'"),
    ],
)
def test_refusal(text: str, place: str, message: str) -> None:
    """What is no condition is refused in one message, which quotes it and says what would do."""
    found = refusals(yaml.load(text, yaml.BaseLoader))  # noqa: S506 - makes nothing but text
    assert [where for where, _ in found] == [place]
    assert message in found[0][1]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{attribute: plan, is: }", "is"),
        ("{attribute: plan, is}", "is"),
        ("attribute: plan\nis:\n", "is"),
        ("attribute: plan\nin:\n- paid\n-\n", "in[1]"),
        ("{attribute: plan, between: [a, ]}", "between"),
        ("{attribute: plan, matches: }", "matches"),
        ("{all: [{event: buy, where: {property: a, starts_with: }}]}", "all[0].where.starts_with"),
    ],
)
def test_what_was_not_written_is_no_value(text: str, place: str) -> None:
    """An operator with nothing behind it is refused; the empty text is written in quotes, and `~` is a text."""
    (tree,), faults = parse_yaml(text, None)
    assert faults == []
    ((where, message),) = refusals(tree.data)
    assert (where, "two values are expected" in message or "write `''` for the empty text" in message) == (place, True)
    for word in ("''", '""', "~", "null"):
        (tree,), _ = parse_yaml(f"{{attribute: plan, is: {word}}}", None)
        assert CONDITION.validate_python(tree.data).operators == {"is": word.strip("'\"")}  # type: ignore[union-attr]


def test_null_is_no_value() -> None:
    """Null is refused wherever it stands, for it would read like a key that was left out."""
    assert "`is` is null" in refusals({"attribute": "plan", "is": None})[0][1]
    assert "null is no value" in refusals({"attribute": "plan", "in": [None]})[0][1]


def test_subjects_are_told() -> None:
    """A condition without a subject is told all of them."""
    assert all(f"`{subject}`" in refusals({"foo": "1"})[0][1] for subject in SUBJECTS)


def test_two_faults_are_two() -> None:
    """Each of two wrong leaves is told, each with its place."""
    found = refusals({"all": [{"attribute": "a", "is": ["x"]}, {"any": [{"sgment": "x"}, {"segment": "y"}]}]})
    assert [place for place, _ in found] == ["all[0].is", "all[1].any[0]"]


def test_walk() -> None:
    """Every node is met with its place, parents first, also inside devices and events."""
    text = """
    all:
      - not: {segment: vip}
      - {event: buy, where: {any: [{property: a, is: b}]}}
      - any_device: {attribute: c, is: d}
    """
    assert [(render_path(path), subject_of(node)) for path, node in walk(condition(text), ("match",))] == [
        ("match", "all"),
        ("match.all[0]", "not"),
        ("match.all[0].not", "segment"),
        ("match.all[1]", "event"),
        ("match.all[1].where", "any"),
        ("match.all[1].where.any[0]", "property"),
        ("match.all[2]", "any_device"),
        ("match.all[2].any_device", "attribute"),
    ]


def test_comparison_without_subject() -> None:
    """A branch of a split inherits the operators and adds keys of its own."""

    class Branch(Comparison):
        next: str

    branch = Branch.model_validate({"in": ["FR"], "next": "fr"})
    assert branch.operators == {"in": ("FR",)}
    with pytest.raises(ValidationError, match="an operator is missing"):
        Branch.model_validate({"next": "fr"})
    with pytest.raises(ValidationError, match="did you mean `next`"):
        Branch.model_validate({"in": ["FR"], "nxt": "fr"})


def test_references_to_segments() -> None:
    """A reference follows the newest version, or pins one."""
    assert (SegmentRef(segment="vip").name, SegmentRef(segment="vip").version) == ("vip", None)
    assert (SegmentRef(segment="vip@3").name, SegmentRef(segment="vip@3").version) == ("vip", 3)
    assert FileRef(file="a.csv").identifier == "user_id"
    assert {FileRef(file="a.csv"): 1}[FileRef(file="a.csv")] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600), ("1d12h", 129_600), ("0s", 0)],
)
def test_duration(text: str, seconds: int) -> None:
    """A duration is its units added up, and stays the text it was."""
    assert duration(text).total_seconds() == seconds
    assert TypeAdapter(Duration).validate_python(text) == text


@pytest.mark.parametrize("text", ["", "1", "d", "1.5d", "-1d", "12h1d", "1d 12h", "1y", "٣d", "99999999999999d"])
def test_no_duration(text: str) -> None:
    """What is no duration, or over a century, is refused."""
    with pytest.raises(ValueError, match="duration"):
        duration(text)
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)
    assert duration(f"{DURATION_LIMIT.days}d") == DURATION_LIMIT


def test_zone() -> None:
    """A zone is one of the IANA names; the nearest is told otherwise."""
    zone: TypeAdapter[str] = TypeAdapter(Zone)
    assert [zone.validate_python(name) for name in ("UTC", "Europe/Paris")] == ["UTC", "Europe/Paris"]
    with pytest.raises(ValidationError, match="did you mean `Europe/Paris`"):
        zone.validate_python("europe/pariss")
    for name in ("", "../etc/passwd", "localtime"):
        with pytest.raises(ValidationError, match="no IANA time zone"):
            zone.validate_python(name)


def test_published_schema() -> None:
    """Editors get a schema in which every field is described, and null is nowhere allowed."""
    schema = CONDITION.json_schema()
    assert '"null"' not in json.dumps(schema)
    for model in schema["$defs"].values():
        assert model["description"]
        assert all("description" in field for field in model["properties"].values()), model
    assert next(iter(AttributeTest.model_json_schema()["properties"])) == "attribute"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "{attribute: plan, iss: paid, ignorecase: true}",
            [("", "'iss' is not known here: did you mean `is`"), ("", "'ignorecase' is not known here")],
        ),
        (
            "{attribute: plan, iss: paid, ignore_case: maybe}",
            [("", "'iss' is not known here"), ("ignore_case", "'maybe' is neither `true` nor `false`")],
        ),
        (
            "{event: buy, at_least: 2, within_last: x}",
            [("", "a number of events is compared by `count"), ("within_last", "'x' is no duration")],
        ),
        (
            "{event: buy, sum: {propert: amount, at_lest: 3}}",
            [("sum", "'propert' is not known here: did you mean `property`"), ("sum", "'at_lest' is not known here")],
        ),
        (
            "{event: buy, cuont: {exactly: 2}, where: {property: a, iss: b}}",
            [("where", "'iss' is not known here"), ("", "'cuont' is not known here: did you mean `count`")],
        ),
    ],
)
def test_two_typos_of_one_leaf(text: str, told: list[tuple[str, str]]) -> None:
    """Two typos in one leaf are two faults, and a typo in the key of what is required is one."""
    found = refusals(yaml.load(text, yaml.BaseLoader))  # noqa: S506 - makes nothing but text
    assert len(found) == len(told)
    for place, part in told:
        assert [part in message for at, message in found if at == place].count(True) == 1
