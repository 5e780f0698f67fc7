"""Whatever people and strangers send, it is taken or refused by one of our errors: never a traceback, never a hang."""

from __future__ import annotations

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
from activities.documents.reading import raw_document, read_documents, read_text
from activities.push.messages import MissingValue, message_faults, render
from activities.tables.identifiers import read_identifiers
from activities.tables.imports import import_table
from tests.house import DEVICES, SAMPLE_DOCUMENTS, USERS, House, open_house
from workflows.errors import DefinitionError, ImportRefused
from workflows.messages import Message

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


@contextmanager
def small_house(folder: Path) -> Iterator[House]:
    """Open stores with a few users; no server is needed."""
    with open_house(folder / "home", "", "") as found:
        found.load("users", USERS)
        found.load("devices", DEVICES)
        found.load("events", "user_id,event,at,amount\nu1,purchase,2026-05-01,20 EUR\n")
        found.save(SAMPLE_DOCUMENTS)
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with small_house(tmp_path_factory.mktemp("fuzz")) as found:
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


def check_and_render(house: House, text: str) -> None:
    with in_time():
        message = Message(title=text, body="b")
        schema: Any = {"users": house.stores.tables.schema("users"), "devices": house.stores.tables.schema("devices")}
        faults = message_faults(message, ("message",), schema)
        assert all(fault.message for fault in faults)
        if faults:
            return  # is never saved, so it is never rendered
        with suppress(MissingValue):
            assert len(render(message, None, {"user": {"first_name": "A", "age": 3}, "device": {}}).title) <= 20_000


@quick
@given(TEMPLATES)
def test_any_template_is_rendered_or_refused(home: House, text: str) -> None:
    """Any template is rendered within its bounds, or refused when it is checked or when it is rendered."""
    check_and_render(home, text)


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


def import_bytes(folder: Path, content: bytes, form: str, table: Any) -> None:
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
@given(SHEETS, st.sampled_from(["csv", "tsv", "txt", "ndjson", "parquet"]), st.sampled_from(["users", "events"]))
def test_any_bytes_are_imported_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, form: str, table: Any
) -> None:
    """Any bytes in a file of any name are imported, or refused with nothing written."""
    import_bytes(tmp_path_factory.mktemp("bytes"), content, form, table)


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
