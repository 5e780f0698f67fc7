"""However large or deep a document, template or file is, it is read or refused in bounded time, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.documents.reading import MAX_FILE_BYTES, read_documents
from activities.tables.encodings import LARGEST_FILE_BYTES
from activities.tables.headers import COLUMN_LIMIT
from activities.tables.imports import import_table
from tests.house import House
from tests.test_fuzz import NOW, check_and_render, import_bytes, in_time, read_and_check, small_house
from workflows.errors import DefinitionError, ImportRefused

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
    "typos": "segment: a\nmatch: {any: [" + "{attribute: age, iss: 1}, {attribute: age, is: 1}, " * 490 + "]}",
    "parts": "segment: a\nmatch: {any: [" + "{everyone: true}, " * 150_000 + "]}",
    "values": "segment: a\nmatch: {attribute: plan, in: [" + ", ".join(f"v{n}" for n in range(50_000)) + "]}",
    "depth": "segment: a\nmatch: " + "{not: " * 55 + "{everyone: true}" + "}" * 55,
    "regex": "segment: a\nmatch: {attribute: plan, matches: '" + "(a+)+" * 20_000 + "$'}",
    "number": "segment: a\nmatch: {attribute: age, is: " + "9" * 100_000 + "}",
    "duration": "segment: a\nmatch: {event: purchase, within_last: " + "9" * 5_000 + "d}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with small_house(tmp_path_factory.mktemp("limits")) as found:
        yield found


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
    check_and_render(home, text)


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
    import_bytes(tmp_path, content, form, "users")


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
