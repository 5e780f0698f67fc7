"""Whatever people and strangers send, it is taken or refused by one of our errors: never a traceback, never a hang."""

from __future__ import annotations

import ast
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.documents.checking import check_documents
from activities.documents.raw import RawDocument
from activities.documents.reading import MAX_FILE_BYTES, raw_document, read_documents, read_text
from activities.push.messages import MissingValue, message_faults, render
from activities.tables.encodings import LARGEST_FILE_BYTES
from activities.tables.identifiers import read_identifiers
from activities.tables.imports import import_table
from activities.tables.reading import COLUMN_LIMIT
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from workflows.errors import DefinitionError, ImportRefused
from workflows.messages import Message

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SECONDS = 20.0
"""More than any input may take on a busy machine: each takes a fraction of a second."""

quick = settings(
    deadline=None,  # the guard below tells a hang, and a busy machine is none
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """End what hangs, and refuse what took too long."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"this took over {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < seconds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Stores with a few users; no server is needed."""
    with open_house(tmp_path_factory.mktemp("fuzz") / "home", "", "") as found:
        found.load("users", USERS)
        found.load("devices", DEVICES)
        found.load("events", "user_id,event,at,amount\nu1,purchase,2026-05-01,20 EUR\n")
        found.save(SAMPLE_DOCUMENTS)
        yield found


def check(house: House, documents: list[RawDocument]) -> None:
    """Check documents: every fault has a code, a message, and is told as one of ours."""
    for fault in check_documents(house.stores, documents, NOW).faults:
        assert fault.code
        assert fault.message


def read_and_check(house: House, text: str, form: Any) -> None:
    with in_time(), suppress(DefinitionError):
        check(house, read_text(text, f"fuzz.{form}", form=form))


WORDS = st.sampled_from(
    [
        *("journey", "segment", "entries", "elements", "start", "kind", "audience-entry", "condition-split", "push"),
        *("exit", "next", "branches", "users_in_segment", "all_other_users", "match", "audience", "message", "title"),
        *("all", "any", "not", "everyone", "attribute", "event", "any_device", "device", "file", "where", "property"),
        *("is", "is_not", "in", "has", "matches", "at_least", "between", "within_last", "count", "sum", "anniversary"),
        *(
            "plan",
            "age",
            "first_name",
            "platform",
            "user_id",
            "true",
            "30d",
            "19.99 EUR",
            "1.10",
            "2026-02-30",
            "hello",
        ),
        *("timezone", "reentry", "never", "at_most", "per", "paying", "paying@1", "grown", "Europe/Paris", "done", ""),
    ]
)
SCALARS = st.one_of(WORDS, st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none())
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=4)), inner, max_size=5)
    ),
    max_leaves=25,
)
PIECES = st.one_of(WORDS, st.sampled_from([*"{}[]:,-?&*!|>'\"%@`#\n \t", "\n  ", ": ", "- ", "---\n", "<<: "]))


@quick
@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)), st.sampled_from(["yaml", "json"]))
def test_any_text_is_a_document_or_refused(home: House, text: str, form: str) -> None:
    """Any text, read as YAML or JSON, is documents or faults."""
    read_and_check(home, text, form)


@quick
@given(st.dictionaries(WORDS, TREES, max_size=6), st.sampled_from(["journey", "segment"]))
def test_any_data_is_a_document_or_refused(home: House, data: dict[str, Any], kind: str) -> None:
    """Any data that a client sends as a definition is a document or faults, in one form as in the other."""
    with in_time(), suppress(DefinitionError):
        check(home, [raw_document({kind: "x", **data})])
    read_and_check(home, json.dumps({kind: "x", **data}), "json")


NUMBERS = st.one_of(st.integers(-5, 90), st.integers(), st.floats()).map(str)
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(["paid", "19.99 EUR", "1.10", "30d", "12h", "2026-02-28", "2026-01-01T00:00:00Z", "(", "a{9999}"]),
    st.text(max_size=6),
    st.lists(st.text(max_size=4), max_size=3),
    st.fixed_dictionaries({"attribute": st.sampled_from(["age", "plan", "nothing"])}),
    st.fixed_dictionaries({"exactly": NUMBERS}),
)
OPERATORS = st.sampled_from(
    [
        *("is", "is_not", "in", "not_in", "is_set", "is_not_set", "at_least", "at_most", "more_than", "less_than"),
        *("between", "contains", "starts_with", "ends_with", "matches", "has", "has_any", "has_all", "before", "after"),
        *("within_last", "within_next", "older_than", "days_ago", "days_ahead", "anniversary", "ignore_case"),
    ]
)
NAMES = st.sampled_from(["plan", "age", "first_name", "country", "platform", "last_seen", "amount", "user_id", "x"])


def leaf(subject: str, names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(names, st.dictionaries(OPERATORS, VALUES, min_size=1, max_size=2)).map(
        lambda found: {subject: found[0], **found[1]}
    )


LEAVES = st.one_of(
    leaf("attribute", NAMES),
    leaf("device", NAMES),
    leaf("event", st.just("purchase")),
    st.tuples(leaf("property", NAMES), st.dictionaries(st.sampled_from(["at_least", "exactly"]), VALUES)).map(
        lambda found: {"event": "purchase", "where": found[0], "count": found[1]}
    ),
    st.sampled_from(["paying", "grown@1", "grown@9", "self", "none"]).map(lambda name: {"segment": name}),
    st.just({"everyone": "true"}),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda some: {"all": some}),
        st.lists(inner, max_size=3).map(lambda some: {"any": some}),
        inner.map(lambda one: {"not": one}),
        inner.map(lambda one: {"any_device": one}),
    ),
    max_leaves=8,
)


@quick
@given(CONDITIONS)
def test_any_condition_is_evaluated_or_refused(home: House, condition: dict[str, Any]) -> None:
    """Any tree of operators and values is evaluated over the tables, or refused with its faults."""
    with in_time():
        check(home, [raw_document({"segment": "self", "match": condition})])


TEMPLATES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *("{{ user.first_name }}", "{{", "}}", "{%", "%}", " | ", "default: 'x'", "user", ".first_name", "[0]"),
                *("{% for i in (1..9) %}", "{% endfor %}", "{% if user.age > 3 %}", "{% endif %}", "{% raw %}", "size"),
                *("times: 9", "divided_by: 0", "append: user.age", "date: '%Y %Q'", "{% assign a = a | append: a %}"),
                *("{% include 'x' %}", "{% cycle 1,2 %}", "{% case 1 %}", "(1..99999999)", "join", "truncate: -1"),
                *("{% capture a %}", "{% endcapture %}", "user['age']", "journey.title", "device", "now", "slice: -9"),
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=10,
).map("".join)


@quick
@given(TEMPLATES)
def test_any_template_is_rendered_or_refused(home: House, text: str) -> None:
    """Any template is rendered within its bounds, or refused when it is checked or when it is rendered."""
    with in_time():
        message = Message(title=text, body="b")
        schema: Any = {"users": home.stores.tables.schema("users"), "devices": home.stores.tables.schema("devices")}
        faults = message_faults(message, ("message",), schema)
        assert all(fault.message for fault in faults)
        if faults:
            return  # is never saved, so it is never rendered
        with suppress(MissingValue):
            assert len(render(message, None, {"user": {"first_name": "A", "age": 3}, "device": {}}).title) <= 20_000


CELLS = st.one_of(
    st.sampled_from(
        ["u1", "user_id", "device_id", "platform", "event", "at", "age", "", '"', '""', '"a', "1e999", "-0"]
    ),
    st.text(max_size=6),
    st.integers().map(str),
)
SHEETS = st.tuples(
    st.sampled_from([b"", b"user_id,age\n", b"user_id;device_id;platform\n", b"user_id\tevent\tat\n", b"\xef\xbb\xbf"]),
    st.one_of(
        st.binary(max_size=120),
        st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6).map(
            lambda rows: "\r\n".join(rows).encode("utf-8", "replace")
        ),
    ),
    st.sampled_from([b"", b"\n", b"\x00", b'"', b"\xff\xfe", b"\r"]),
).map(b"".join)


@quick
@given(SHEETS, st.sampled_from(["csv", "tsv", "txt", "ndjson", "parquet"]), st.sampled_from(["users", "events"]))
def test_any_bytes_are_imported_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, form: str, table: Any
) -> None:
    """Any bytes in a file of any name are imported, or refused with nothing written."""
    folder = tmp_path_factory.mktemp("bytes")
    path = folder / f"file.{form}"
    path.write_bytes(content)
    with in_time(), open_house(folder / "home", "", "") as house:
        taken = False
        with suppress(ImportRefused):
            report = import_table(house.stores.tables, table, path, now=NOW)
            assert report.rows >= report.inserted + report.updated + report.unchanged + report.rejected
            taken = True
        assert taken or set(house.stores.tables.versions().values()) == {-1}


@quick
@given(SHEETS, st.sampled_from([None, "user_id", "age"]))
def test_any_list_of_ids_is_matched_or_refused(home: House, content: bytes, column: str | None) -> None:
    """Any bytes as a list of ids are matched, or refused."""
    path = home.settings.home / "list.csv"
    path.write_bytes(content)
    tables = home.stores.tables
    with in_time(), suppress(ImportRefused):
        read_identifiers(
            path, column=column, identifier="user_id", users=tables.scan("users"), devices=tables.scan("devices")
        )


LARGE = {
    "brackets": "[" * 200_000,
    "braces": "{a: " * 200_000,
    "quotes": '"' + "a" * 4_000_000,
    "items": "- a\n" * 400_000,
    "documents": "---\nsegment: a\nmatch: {everyone: true}\n" * 2_000,
    "anchors": "a: &a [x]\n" + "b: [*a, *a]\n" * 50_000,
    "keys": "segment: a\n" + "".join(f"k{n}: v\n" for n in range(100_000)),
    "one-key": "segment: a\n" + "k: v\n" * 100_000,
    "unclosed": "segment: [a\n---\n" * 20_000,
    "syntax": "segment: a: b\n---\n" * 20_000,
    "elements": "journey: a\nentries: {s: {kind: audience-entry, audience: {everyone: true}, next: e0}}\nelements:\n"
    + "".join(f"  e{n}: {{kind: push, message: {{title: a, body: b}}, next: e{n + 1}}}\n" for n in range(2_000))
    + "  e2000: {kind: exit}\n",
    "circle": "journey: a\nentries: {s: {kind: audience-entry, audience: {everyone: true}, next: e0}}\nelements:\n"
    + "".join(f"  e{n}: {{kind: push, message: {{title: a, body: b}}, next: e{(n + 1) % 900}}}\n" for n in range(900)),
    "leaves": "segment: a\nmatch: {any: [" + ", ".join(f"{{attribute: age, is: {n}}}" for n in range(2_000)) + "]}",
    "parts": "segment: a\nmatch: {any: [" + "{everyone: true}, " * 150_000 + "]}",
    "values": "segment: a\nmatch: {attribute: plan, in: [" + ", ".join(f"v{n}" for n in range(50_000)) + "]}",
    "depth": "segment: a\nmatch: " + "{not: " * 55 + "{everyone: true}" + "}" * 55,
    "regex": "segment: a\nmatch: {attribute: plan, matches: '" + "(a+)+" * 20_000 + "$'}",
    "number": "segment: a\nmatch: {attribute: age, is: " + "9" * 100_000 + "}",
    "duration": "segment: a\nmatch: {event: purchase, within_last: " + "9" * 5_000 + "d}",
}


@pytest.mark.parametrize("name", list(LARGE))
def test_large_documents_take_bounded_time(home: House, name: str) -> None:
    """A document as large as one may be, or nested as deep as one can write it, is read or refused in bounded time."""
    assert len(LARGE[name]) <= MAX_FILE_BYTES
    read_and_check(home, LARGE[name], "yaml")
    if name in ("brackets", "quotes"):
        read_and_check(home, LARGE[name], "json")


@pytest.mark.parametrize(
    "text",
    [
        "{% for a in (1..1000) %}{% for b in (1..1000) %}{% for c in (1..1000) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in (1..999999999) %}x{% endfor %}",
        "{{ (1..999999999) | join }}",
        "{% assign a = 'xxxxxxxxxx' %}" + "{% assign a = a | append: a %}" * 60 + "{{ a }}",
        "{{ '" + "9" * 5_000 + "' | times: 9 | times: 9 }}",
        "{% if 1 %}" * 3_000,
        "{{ 'a'" + " | replace: 'a', 'aaaaaaaaaaaaaaaaaaaa'" * 9 + " }}",
        "{{ 9 | times: 9999999999999999999 | times: 9999999999999999999999 }}",
        "{" * 100_000,
        "{{ a" + "[a" * 2_000 + "]" * 2_000 + " }}",
        "{{ a" + ".a" * 20_000 + " }}",
        "{{ a" + " | upcase" * 20_000 + " }}",
    ],
    ids=range(12),
)
def test_templates_are_bounded(home: House, text: str) -> None:
    """A template that would loop, grow or nest without end is refused, or cut off by its bounds."""
    test_any_template_is_rendered_or_refused.hypothesis.inner_test(home, text)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("csv", b'user_id,a\n"' + b"x" * 5_000_000),
        ("csv", b"user_id,a\n" + b'"' * 3_000_001),
        ("csv", b"user_id" + b",a" * 100_000 + b"\n"),
        ("csv", b"user_id\n" + b"u" * 5_000_000),
        ("csv", b"\n" * 3_000_000),
        ("csv", b"user_id," + b"," * 500_000 + b"\nu1\n"),
        ("csv", b"user_id," + b",".join(b"c%d" % n for n in range(COLUMN_LIMIT)) + b"\nu1\n"),
        ("ndjson", b'{"user_id": "u", "a": ' + b"[" * 300_000),
        ("ndjson", b'{"user_id": "u", "a": ' + b'{"a":' * 300_000),
        ("ndjson", b'{"user_id": "u", "a": ' + b"9" * 300_000 + b"}"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:20]),
)
def test_large_files_take_bounded_time(tmp_path: Path, form: str, content: bytes) -> None:
    """A file with endless cells, quotes, columns, lines or nesting is imported or refused in bounded time."""
    test_any_bytes_are_imported_or_refused.hypothesis.inner_test(  # type: ignore[attr-defined]
        _Folders(tmp_path), content, form, "users"
    )


class _Folders:
    """Gives folders as pytest's factory does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mktemp(self, name: str) -> Path:
        found = self._folder / name
        found.mkdir()
        return found


def test_what_is_too_large_is_refused_with_what_to_do(tmp_path: Path, home: House) -> None:
    """A document or file over its limit is refused before it is read, with the limit and what to do."""
    document = tmp_path / "large.yaml"
    document.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(DefinitionError) as caught:
        read_documents(document)
    assert caught.value.faults[0].code == "file-too-large"
    for form in ("csv", "ndjson", "parquet"):
        path = tmp_path / f"large.{form}"
        with path.open("wb") as file:
            file.truncate(LARGEST_FILE_BYTES + 1)  # takes no room on the disk
        with in_time(), pytest.raises(ImportRefused, match="GB") as refused:
            import_table(home.stores.tables, "users", path, now=NOW)
        assert "Split the file" in refused.value.hint
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(["user_id", *(f"c{n}" for n in range(COLUMN_LIMIT))]) + "\n")
    with pytest.raises(ImportRefused, match=f"at most {COLUMN_LIMIT}"):
        import_table(home.stores.tables, "users", wide, now=NOW)


@pytest.mark.parametrize("where", ["link", "folder/list.csv", "../outside.csv", "/etc/hostname", "chain", "list.csv/x"])
def test_files_of_documents_stay_in_their_folder(tmp_path: Path, home: House, where: str) -> None:
    """A document reads no file out of its folder: by no path, no link to a file, to a folder, or to another link."""
    inside = tmp_path / "inside"
    (tmp_path / "elsewhere").mkdir()
    inside.mkdir()
    for path in (tmp_path / "outside.csv", tmp_path / "elsewhere" / "list.csv", inside / "list.csv"):
        path.write_text("user_id\nu1\n")
    (inside / "link").symlink_to(tmp_path / "outside.csv")
    (inside / "folder").symlink_to(tmp_path / "elsewhere")
    (inside / "chain").symlink_to("link")
    document = inside / "segment.yaml"
    document.write_text(f"segment: reaching\nmatch: {{file: {where}, column: user_id}}\n")
    (fault,) = check_documents(home.stores, read_documents(document), NOW).faults
    assert fault.code == ("file-outside-folder" if where != "list.csv/x" else "import-refused")
    document.write_text("segment: reaching\nmatch: {file: list.csv, column: user_id}\n")
    assert check_documents(home.stores, read_documents(document), NOW).faults == []


def made_of_strings(node: ast.AST) -> bool:
    """Tell whether an expression puts a text together from values: by an f-string, `%` or `+`."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr) and any(isinstance(one, ast.FormattedValue) for one in part.values):
            return True
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod | ast.Add):
            sides = (part.left, part.right)
            if any(
                isinstance(one, ast.JoinedStr | ast.Constant) and isinstance(getattr(one, "value", ""), str)
                for one in sides
            ):
                return True
    return False


STATEMENTS = {
    "execute",
    "exec_driver_sql",
    "executemany",
    "executescript",
    "text",
    "literal_column",
    "scalar",
    "scalars",
}


def statements_of_strings(tree: ast.Module) -> list[int]:
    """Lines where a statement of SQL is put together from strings, directly or by a name in the same function."""
    found = []
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        made = {
            target.id
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign) and made_of_strings(node.value) and not isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if name in STATEMENTS and (
                (isinstance(first, ast.Name) and first.id in made)
                or (isinstance(first, ast.JoinedStr | ast.BinOp) and made_of_strings(first))
                or (isinstance(first, ast.Call) and ast.unparse(first.func).endswith((".format", ".join")))
            ):
                found.append(node.lineno)
    return sorted(set(found))


def test_sql_is_never_put_together() -> None:
    """No statement of SQL is made from strings and values: values are bound parameters."""
    sources = [path for folder in ("activities", "workers", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 50
    found = {path.name: statements_of_strings(ast.parse(path.read_text(encoding="utf-8"))) for path in sources}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_check_of_sql_finds_what_it_looks_for() -> None:
    """On a text that breaks the rule in each way, the check tells each line."""
    sample = "\n".join(
        [
            "def work(connection, user):",
            "    connection.execute(f'SELECT {user}')",
            "    connection.execute(text('SELECT %s' % user))",
            "    connection.execute('SELECT ' + user)",
            "    connection.execute('SELECT {}'.format(user))",
            "    query = f'SELECT {user}'",
            "    connection.execute(query)",
            "    connection.execute(select(users).where(users.c.user_id == user))",
            "    connection.execute('PRAGMA synchronous=FULL')",
        ]
    )
    assert statements_of_strings(ast.parse(sample)) == [2, 3, 4, 5, 7]
