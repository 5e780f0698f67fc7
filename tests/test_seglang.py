"""Segment expressions of Pushwoosh select the users they say, or are refused with the place and what to write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from activities.segments.seglang import FOREIGN, OPERATORS, read_seglang
from activities.segments.seglang_syntax import DEPTH_LIMIT
from activities.tables.schema import Kind, Schema
from scripts.cli import run
from tests.condition_tables import CONDITION, Tables, condition, euros, instant
from workflows.errors import DefinitionError, Fault

KINDS: dict[str, dict[str, Kind]] = {
    "users": {
        "City": "string", "Age": "integer", "score": "number", "vip": "boolean", "born": "date", "seen": "instant",
        "price": "price", "app": "version", "Favourite teams": "list", "plan": "string", "PLAN": "string",
    },
    "devices": {"language": "string", "City": "string", "topics": "list"},
}  # fmt: skip
USERS: list[dict[str, Any]] = [
    {"user_id": "a", "City": "Tokyo", "Age": 18, "score": 0.5, "vip": True, "app": "1.10", "plan": "x", "PLAN": "y"},
    {"user_id": "b", "City": "tokyo", "Age": 65, "score": 2.0, "vip": False, "app": "1.9", "price": euros("20")},
    {"user_id": "c", "City": 'Say "hi"\\\n', "Age": 17, "Favourite teams": ["OM", "PSG"]},
    {"user_id": "d", "Favourite teams": ["om"], "seen": instant("2026-03-15T12:00:00Z")},
    {"user_id": "e", "City": "Paris", "Favourite teams": ["Lens"], "price": euros("20", "USD")},
]
DEVICES = [
    {"device_id": "1", "user_id": "a", "platform": "ios", "language": "fr", "topics": ["News"]},
    {"device_id": "2", "user_id": "a", "platform": "web", "language": "RU"},
    {"device_id": "3", "user_id": "b", "platform": "ios", "language": "en", "topics": ["sport"]},
    {"device_id": "4", "user_id": "e", "platform": "android"},
]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables(KINDS, USERS, DEVICES)


def schema() -> Schema:
    return Tables(KINDS).kinds


def faults(text: str, columns: Schema | None = None) -> list[Fault]:
    with pytest.raises(DefinitionError) as caught:
        read_seglang(text, schema() if columns is None else columns)
    return caught.value.faults


MEANT = [
    ('T("City", eq, "Tokyo")', "a b"),
    ('T("City", EQ, "TOKYO")', "a b"),
    ("T('city', Eq, 'tokyo')", "a b"),
    ('t("CITY", "eq", "Tokyo")', "a b"),
    (r'T("City", equals, "say \"HI\"\\\n")', "c"),
    (r'T("City", eq, "\u0054ok\u0079o")', "a b"),
    # Users without a city are not covered by what it is not.
    ('T("City", NOTEQ, "Tokyo")', "c e"),
    ('T("City", notin, ["Tokyo", "Paris"])', "c"),
    ('T("City", IN, ["PARIS", "Tokyo"])', "a b e"),
    ('T("City", CONTAINS, "OK")', "a b"),
    ('T("City", EXISTS)', "a b c e"),
    ('T("City", IS EMPTY)', "d"),
    ('T("City", isempty)', "d"),
    ('T("Age", gte, 18)', "a b"),
    ('T("Age", lte, "18")', "a c"),
    ('T("Age", BETWEEN, [17, 18])', "a c"),
    ('T("Age", IN, [17, 65])', "b c"),
    ('T("Age", noteq, 17)', "a b"),
    ('T("score", gte, .5)', "a b"),
    ('T("score", eq, 2.0)', "b"),
    ('T("score", gte, -1e-3)', "a b"),
    ('T("vip", eq, 1)', "a"),
    ('T("vip", eq, "false")', "b"),
    ('T("vip", eq, true)', "a"),
    ('T("app", gte, 1.10)', "a"),
    ('T("app", lte, "1.9.0")', "b"),
    ('T("price", gte, "19.99 EUR")', "b"),
    ('T("price", noteq, "20 EUR")', "e"),
    ('T("seen", gte, "2026-03-15")', "d"),
    ('T("seen", eq, "2026-03-15")', "d"),
    ('T("Favourite teams", eq, "om")', "c d"),
    ('T("favourite teams", IN, ["psg", "lens"])', "c e"),
    ('T("Favourite teams", NOTEQ, "om")', "e"),
    ('T("Favourite teams", NOTIN, ["psg", "lens"])', "d"),
    ('T("plan", eq, "x")', "a"),
    ('T("PLAN", eq, "y")', "a"),
    # A tag that only devices have is true when any of the user's devices has it so.
    ('T("Language", EQ, "ru")', "a"),
    ('T("Language", NOTEQ, "ru")', "a b"),
    ('T("language", EXISTS)', "a b"),
    ('T("language", IS EMPTY)', "c d e"),
    ('T("topics", eq, "NEWS")', "a"),
    ('T("topics", noteq, "news")', "b"),
    ('T("Platform", in, ["ios", "android"])', "a b e"),
    # Intersection and subtraction bind closer than union, and go from left to right.
    ('T("City", eq, "Tokyo") * T("Age", gte, 18) * T("Age", lte, 20)', "a"),
    ('T("Age", eq, 17) + T("City", eq, "Tokyo") * T("Age", gte, 65)', "b c"),
    ('T("Age", gte, 65) * T("City", eq, "Tokyo") + T("Age", eq, 17)', "b c"),
    (r'T("City", EXISTS) \ T("City", eq, "Tokyo") \ T("City", eq, "Paris")', "c"),
    (r'T("City", EXISTS) \ T("Age", EXISTS) + T("Age", eq, 17)', "c e"),
    (r'T("City", EXISTS) \ (T("Age", EXISTS) + T("City", eq, "Paris"))', ""),
    (r'T("City", EXISTS) \ (T("Age", EXISTS) \ T("Age", eq, 17))', "c e"),
    (r'T("City", EXISTS) \ T("Age", gte, 18) * T("Age", EXISTS)', "c"),
    ('((T("Age", eq, 17)) + (T("Age", eq, 18) + T("Age", eq, 65))) * T("vip", EXISTS)', "a b"),
]


@pytest.mark.parametrize(("text", "chosen"), MEANT)
def test_meaning(tables: Tables, text: str, chosen: str) -> None:
    """An expression selects exactly the users it says; its condition, written down and read again, the same ones."""
    found = read_seglang(text, tables.kinds)
    assert " ".join(tables.select(found)) == chosen
    written = json.loads(json.dumps(found.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    assert CONDITION.validate_python(written) == found


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (
            'T("City", eq, "Tokyo") * T("Age", gte, 18)',
            "{all: [{attribute: City, is: Tokyo, ignore_case: true}, {attribute: Age, at_least: 18}]}",
        ),
        (
            r"""(T("Age", eq, 1) + T("Age", eq, 2) + T("Age", eq, 3)) \ T("language", eq, "fr") * T("score", eq, 1)""",
            """
            all:
              - any: [{attribute: Age, is: 1}, {attribute: Age, is: 2}, {attribute: Age, is: 3}]
              - not: {device: language, is: fr, ignore_case: true}
              - {attribute: score, is: 1}
            """,
        ),
    ],
)
def test_condition(text: str, same: str) -> None:
    """The condition is the one a person would write: a chain of one sign is one list."""
    assert read_seglang(text, schema()) == condition(same)


FAULTS = [
    ('T("Citty", eq, "x")', "1:3", "unknown tag 'Citty'; users and devices have user_id", "`City`"),
    ('T("Plan", eq, "x")', "1:3", "the tag 'Plan' may be `plan`, `PLAN`", "upper and lower case"),
    ('T("City", eqq, "x")', "1:11", "unknown operator 'eqq'", "`EQ`"),
    ('T("Age", gt, 18)', "1:10", "unknown operator 'gt'", "`GTE` includes its value: write `GTE, 19`; Age takes `EQ`"),
    ('T("Age", gt, "+-5")', "1:10", "unknown operator 'gt'", "`GTE` includes its value: write `T("),
    ('T("Age", LT, 18)', "1:10", "unknown operator 'LT'", "`LTE` includes its value: write `LTE, 17`; Age takes"),
    ('T("Age", more_than, -1)', "1:10", "unknown operator 'more_than'", "write `GTE, 0`"),
    ('T("score", gt, .5)', "1:12", "unknown operator", 'write `T("score", EXISTS) \\ T("score", LTE, .5)`'),
    ('T("born", lt, "2000-01-01")', "1:11", "'lt'", '`T("born", EXISTS) \\ T("born", GTE, "2000-01-01")`'),
    ('T("price", gt, "3 EUR")', "1:12", "unknown operator", "in YAML, `{attribute: price, more_than: 3 EUR}`"),
    ('T("app", lt, 1.10)', "1:10", "unknown operator", '`T("app", EXISTS) \\ T("app", GTE, 1.10)`'),
    ('T("City", gt, "x")', "1:11", "unknown operator 'gt'", "City takes `EQ`, `EQUALS`, `NOTEQ`, `IN`, `NOTIN`"),
    ('T("City", eq, x)', "1:15", "the text 'x' stands without quotes", '`"x"`'),
    ('T("City", gte, "x")', "1:11", "`GTE` does not compare a string", "`EQ`, `EQUALS`, `NOTEQ`, `IN`, `NOTIN`"),
    ('T("Favourite teams", gte, "x")', "1:22", "`GTE` does not compare a list", "`EQ`"),
    ('T("Age", eq, "x")', "1:14", "'x' is not an integer, such as `18`", ""),
    ('T("Age", eq, 1.5)', "1:14", "'1.5' is not an integer", ""),
    ('T("Age", eq, [18])', "1:14", "`EQ` takes one value, not a list", "`IN` takes a list"),
    ('T("Age", in, 18)', "1:14", "`IN` takes a list, such as `[1, 2]`, not '18'", ""),
    ('T("Age", in, [])', "1:14", "`IN` takes a list, such as `[1, 2]`, not a list of 0", ""),
    ('T("Age", in, [1, [2]])', "1:18", "a list in a list", ""),
    ('T("Age", between, [1])', "1:19", "`BETWEEN` takes a list of two values, such as `[18, 65]`, not a list of 1", ""),
    ('T("Age", between, 1, 2)', "1:22", "`BETWEEN` takes one value, not 2: put them in brackets", ""),
    ('T("Age", between, [65, 18])', "1:1", "nothing is from '65' to '18'", "lower value comes first"),
    ('T("Age", exists, 1)', "1:18", "`EXISTS` takes no value", ""),
    ('T("Age")', "1:1", "`T` takes a tag, an operator and a value, not 1 in all", 'write `T("Tag"'),
    ('T("Age", eq)', "1:10", "`EQ` takes one value, not 0", ""),
    ('T(5, eq, 1)', "1:3", "'5' is no name of a tag", ""),
    ('T("price", gte, 20)', "1:17", "'20' is not a price, such as `19.99 EUR`", ""),
    ('T("born", gte, 5)', "1:16", "5 may be days or a Unix time, and this is a date", '"2026-03-29"'),
    ('T("seen", lte, 1700000000)', "1:16", "1700000000 may be days or a Unix time", "in quotes"),
    ('A("12345-67890") * T("Age", eq, 1)', "1:1", "`A(...)` has no meaning here", "one project"),
    ('T("Age", eq, 1) * A("1-2", ["IOS"])', "1:19", "`A(...)` has no meaning here", "one project"),
    ('Application("12345")', "1:1", "`Application(...)` has no meaning here", "one project"),
    ('G("all")', "1:1", "`G(...)` has no meaning here", "one project"),
    ('AT("1-2", "Age", eq, 3)', "1:1", "`AT(...)` has no meaning here", 'write `T("Tag"'),
    ('EventCount("purchase", 3)', "1:1", "`EventCount(...)` has no meaning here", "`{event: NAME"),
    ('UpdatedAfter("2026-01-01")', "1:1", "`UpdatedAfter(...)` has no meaning here", "last_seen"),
    ('A("1").tags("City").eq("London")', "1:1", "`A(...).tags(...).eq(...)` has no meaning here", 'write `T("City"'),
    ('U("x")', "1:1", "`U(...)` is not known", "a condition is `T("),
    ("", "1:1", "the expression ends where a condition", ""),
    ('T("Age", eq, 1) *', "1:18", "the expression ends where a condition", ""),
    ('T("Age", eq, 1) T("Age", eq, 2)', "1:17", "'T' cannot stand here: `*`, `+` or `\\` between", ""),
    ('(T("Age", eq, 1)', "1:17", "the expression ends where `)` is expected", ""),
    ('T("Age", eq, 1))', "1:16", "')' cannot stand here", ""),
    ('T("Age", eq 1)', "1:13", "'1' cannot stand here: `,` or `)` is expected", ""),
    ('T("Age", eq, 1) &\nT("Age", eq, 2)', "1:17", "'&' cannot stand here", "joined by `*`"),
    ('T("City", eq, "Tok', "1:15", "its quote is not closed", ""),
    (r'T("City", eq, "a\q")', "1:17", "'\\\\q' is no escape", ""),
    (r'T("City", eq, "\ud800")', "1:15", "holds half of a letter", ""),
    ('T("City", eq, "\udcff")', "1:16", "holds bytes that are no text", ""),
    ('T("City", eq,\n  "a") *\n  T("Agee", eq, 1)', "3:5", "unknown tag 'Agee'", "`Age`"),
    ("(" * (DEPTH_LIMIT + 1) + 'T("Age", eq, 1)', f"1:{DEPTH_LIMIT + 1}", "nested over 50 deep", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "message", "hint"), FAULTS, ids=[text[:40] for text, *_ in FAULTS])
def test_fault(text: str, place: str, message: str, hint: str) -> None:
    """What is wrong is told once, with line and column, quoting it, and with what would be right."""
    found = faults(text)
    assert [f"{fault.line}:{fault.column}" for fault in found] == [place]
    assert message in found[0].message
    assert hint in found[0].hint
    assert "\n" not in found[0].message


@pytest.mark.parametrize(
    ("strict", "condition_meant"),
    [
        ('T("score", gt, .5)', "{attribute: score, more_than: .5}"),
        ('T("Age", lt, 18)', "{attribute: Age, less_than: 18}"),
        ('T("born", lt, "2000-01-01")', "{attribute: born, less_than: 2000-01-01}"),
    ],
)
def test_hints_keep_the_meaning(tables: Tables, strict: str, condition_meant: str) -> None:
    """What a hint writes in place of `gt` and `lt` selects the users that were meant."""
    (fault,) = faults(strict)
    written = fault.hint.split("write `")[1].split("`")[0]
    if not written.startswith("T("):
        written = f'T("Age", {written})'
    assert tables.select(read_seglang(written, schema())) == tables.select(condition(condition_meant))


def test_all_faults() -> None:
    """Several faults of one expression are told together, from left to right."""
    text = r'T("Citty", eq, "x") * (A("1") + T("Age", gt, 18)) \ T("Age", lte, "old")'
    assert [(fault.code, fault.column) for fault in faults(text)] == [
        ("unknown-tag", 3),
        ("seglang-unsupported", 24),
        ("unknown-operator", 42),
        ("unreadable-value", 67),
    ]


def test_nothing_imported_yet() -> None:
    """Before anything is imported, a tag is not known, and the fault says so."""
    assert "nothing was imported yet" in faults('T("Age", eq, 1)', {})[0].message


TEXTS = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(st.characters(codec="utf-8"), max_size=8).map(lambda text: "'" + text.replace("'", "\\'") + "'"),
    st.sampled_from(['"City"', '"age"', '"PLAN"', '"seen"', '"Favourite teams"', '"language"', '"price"', '"app"']),
)
PIECES = st.one_of(
    TEXTS,
    st.sampled_from([*OPERATORS, *FOREIGN, "T", "t", "T(", "eq", "IS EMPTY", "true", "EventX", "\\u00e9"]),
    st.sampled_from([*"()[],.*+\\\"'", " ", "\n", "1", "-2.5", "1e999", "1" * 5000, "٣", "\ud800", "\x00"]),
    st.text(max_size=3),
)
LITERALS = st.one_of(TEXTS, st.integers().map(str), st.floats().map(str), st.sampled_from(["true", "0", "x"]))
LISTS = st.lists(LITERALS, max_size=3).map(lambda items: f"[{', '.join(items)}]")
LEAVES = st.builds(
    lambda name, word, value: f"T({name}, {word}, {value})",
    TEXTS,
    st.sampled_from([*OPERATORS, *map(str.lower, OPERATORS)]),
    st.one_of(LITERALS, LISTS),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda a, sign, b: f"{a} {sign} {b}", inner, st.sampled_from("*+\\"), inner),
        inner.map(lambda one: f"({one})"),
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=14).map("".join), EXPRESSIONS, st.text()))
@example("(" * 5000)
@example('T("Age", in, ' + "[" * 5000)
@example('T("Age", eq, 1)' + ' * T("Age", eq, 1)' * 2000)
@example('T("Age", eq, 1)' + '\\ T("Age", eq, 1) + T("Age", eq, 1)' * 500)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is written is read as a condition that selects users, or refused as a definition, never a crash."""
    tables = Tables(KINDS, USERS, DEVICES)
    try:
        found = read_seglang(text, tables.kinds)
    except DefinitionError as error:
        found, told = None, error.faults
    if found is not None:
        assert set(tables.select(found)) <= {user["user_id"] for user in USERS}
        return
    lines = text.split("\n")
    assert told
    assert all(1 <= (fault.column or 0) <= len(lines[(fault.line or 0) - 1]) + 1 for fault in told)


@st.composite
def judged(draw: st.DrawFn, depth: int = 3) -> tuple[str, set[str]]:
    """An expression, and the users that sets of Python say are in it; each kind of join in parentheses or bare."""
    every = {user["user_id"]: user for user in USERS}
    if depth == 0 or draw(st.booleans()):
        age = draw(st.sampled_from([17, 18, 65]))
        word = draw(st.sampled_from(["eq", "GTE", "lte", "NOTEQ"]))
        holds = {"eq": int.__eq__, "GTE": int.__ge__, "lte": int.__le__, "NOTEQ": int.__ne__}[word]
        return f'T("Age", {word}, {age})', {
            name for name, user in every.items() if "Age" in user and holds(user["Age"], age)
        }
    (left, mine), (right, theirs) = draw(judged(depth - 1)), draw(judged(depth - 1))
    sign = draw(st.sampled_from("*+\\"))
    return f"(({left}) {sign} ({right}))", {"*": mine & theirs, "+": mine | theirs, "\\": mine - theirs}[sign]


@settings(max_examples=60, deadline=None)
@given(judged())
def test_signs_are_sets(made: tuple[str, set[str]]) -> None:
    r"""`*`, `+` and `\` are intersection, union and difference of the sets of users."""
    text, chosen = made
    tables = Tables(KINDS, USERS, DEVICES)
    assert set(tables.select(read_seglang(text, tables.kinds))) == chosen


class Line:
    """The command line, in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> None:
        patch.setenv("JOURNEYS_HOME", str(home))
        self.patch = patch
        self.capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, Any]:
        """Run one command; its status and what it printed."""
        self.patch.setattr(sys, "argv", ["journeys", *arguments, "--json"])
        self.capsys.readouterr()
        status = run()
        return status, json.loads(self.capsys.readouterr().out)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`journeys segment save NAME --seglang` saves it as a segment like any other; faults are told as faults are."""
    users = tmp_path / "users.csv"
    users.write_text("user_id,City,Age\na,Tokyo,18\nb,tokyo,17\nc,Paris,40\n")
    journeys = Line(monkeypatch, capsys, tmp_path / "home")
    assert journeys("import", "users", str(users))[0] == 0
    expression = 'T("city", eq, "TOKYO") * T("Age", gte, 18)'
    status, answer = journeys("segment", "save", "tokyo", "--seglang", expression)
    assert (status, [(one["name"], one["version"]) for one in answer["saved"]]) == (0, [("tokyo", 1)])
    assert journeys("segment", "preview", "tokyo", "--ids")[1]["user_ids"] == ["a"]
    assert journeys("segment", "save", "tokyo", "--seglang", expression)[1]["saved"][0]["changed"] is False
    status, answer = journeys("segment", "save", "x", "--seglang", 'T("Agee", eq, 1) + G("y")')
    assert (status, [(one["code"], one["column"]) for one in answer["errors"]]) == (
        2,
        [("unknown-tag", 3), ("seglang-unsupported", 20)],
    )
    status, answer = journeys("segment", "save", "x")
    assert (status, answer["errors"][0]["code"]) == (2, "usage")
