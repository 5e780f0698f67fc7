"""Documents are read as they were written, and every fault is told with its place, once."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Literal

import pytest

from activities.documents import reading, yaml_text
from activities.documents.reading import RawDocument, raw_document, read_documents, read_text
from workflows.errors import DefinitionError, Fault


def one(text: str, form: Literal["yaml", "json"] = "yaml") -> RawDocument:
    (document,) = read_text(textwrap.dedent(text), "j.yaml", form=form)
    return document


def faults_in(text: str, form: Literal["yaml", "json"] = "yaml") -> list[Fault]:
    with pytest.raises(DefinitionError) as caught:
        read_text(textwrap.dedent(text), "j.yaml", form=form)
    return caught.value.faults


def places(faults: list[Fault]) -> list[tuple[str, int | None, int | None]]:
    return [(fault.code, fault.line, fault.column) for fault in faults]


@pytest.fixture(params=["compiled", "pure"], autouse=True)
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds for the compiled YAML parser and for the one in Python, used where it is missing."""
    if request.param == "pure":
        import yaml

        monkeypatch.setattr(yaml_text, "_Loader", yaml.SafeLoader)


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "written", ["22:00", "no", "1.10", "007", "null", "~", "true", "2026-03-01", "1e3", "0x1F", "+33 6", "-20 %", "NO"]
)
def test_a_scalar_is_the_text_that_was_written(written: str) -> None:
    """No scalar is typed by YAML: what stands in the file is what the document says."""
    document = one(f"journey: a\nvalue: {written}\nlist: [{written}]\nquoted: '{written}'\n")
    assert document.data == {"journey": "a", "value": written, "list": [written], "quoted": written}


def test_an_empty_value_is_an_empty_text() -> None:
    """A key without a value holds the empty text."""
    assert one("journey: a\ntitle:\nother: ''\n").data == {"journey": "a", "title": "", "other": ""}


def test_keys_are_texts_too() -> None:
    """`no` is the language, `on` is a key, `1` is a key."""
    assert one("journey: a\nno: {on: x, 1: y, ~: z}\n").data["no"] == {"on": "x", "1": "y", "~": "z"}


def test_one_file_holds_documents_of_both_kinds() -> None:
    """`---` separates documents; empty ones are skipped; each knows its kind, name and place."""
    documents = read_text("# first\n---\njourney: a\n---\n---\nsegment: b\nmatch: {}\n---\n# nothing\n", "x.yaml")
    assert [(d.kind, d.name, d.index, d.file) for d in documents] == [
        ("journey", "a", 0, "x.yaml"),
        ("segment", "b", 1, "x.yaml"),
    ]
    assert documents[1].locate(("match",)) == (7, 8)


def test_json_says_what_yaml_says() -> None:
    """A document in JSON has the same texts, numbers as they were written included, and the same places."""
    text = (
        '{\n\t"journey": "a",\n\t"v": [3.10, true, -0, 1e3, 12345678901234567890123],\n\t"t": "caf\\u00e9 \\ud83d"\n}'
    )
    document = one(text.replace("\\ud83d", "x"), "json")
    assert document.data == {
        "journey": "a",
        "v": ["3.10", "true", "-0", "1e3", "12345678901234567890123"],
        "t": "café x",
    }
    assert document.locate(("v", 1)) == (3, 14)


def test_json_that_yaml_cannot_read_has_no_places() -> None:
    """A pair of surrogates is one character in JSON; places are left out when YAML does not read it."""
    document = one('{"journey": "\\ud83d\\ude00"}', "json")
    assert document.data == {"journey": "😀"}
    assert document.locate(("journey",)) in ((None, None), (1, 13))


def test_data_sent_by_code_is_read_like_a_file() -> None:
    """Numbers and booleans of a client become texts; there is no file, folder or place."""
    document = raw_document({"journey": "a", "n": 3, "b": True, "l": [1.5]})
    assert document.data == {"journey": "a", "n": "3", "b": "true", "l": ["1.5"]}
    assert (document.file, document.folder, document.locate(("n",))) == ("", None, (None, None))
    with pytest.raises(DefinitionError) as caught:
        raw_document({"jurney": "a", "n": None})
    assert [(fault.code, fault.file, fault.line) for fault in caught.value.faults] == [
        ("null", None, None),
        ("unknown-document", None, None),
    ]


# ---------------------------------------------------------------------------------------------------- places

PLACED = """\
journey: a
elements:
  loyal:
    match:
      all:
        - {attribute: plan, is: paid}
        - segment: "é"
"""


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ((), (1, 1), (1, 1)),
        (("journey",), (1, 10), (1, 1)),
        (("elements", "loyal"), (3, 3), (3, 3)),
        (("elements", "loyal", "match", "all", 0), (6, 11), (6, 11)),
        (("elements", "loyal", "match", "all", 0, "is"), (6, 33), (6, 29)),
        (("elements", "loyal", "match", "all", 1, "segment"), (7, 20), (7, 11)),
        (("elements", "loyal", "match", "all", 9, "x"), (5, 7), (5, 7)),
        (("elements", "loyal", "next"), (3, 3), (3, 3)),
        (("nothing", "at", "all"), (1, 1), (1, 1)),
    ],
)
def test_every_value_and_key_has_its_place(
    path: tuple[str | int, ...], value: tuple[int, int], key: tuple[int, int]
) -> None:
    """A value, its key, and for what is absent the key of the nearest value around it."""
    document = one(PLACED)
    assert (document.locate(path), document.locate(path, key=True)) == (value, key)


def test_a_way_is_read_back_from_its_text() -> None:
    """`locate_text` finds what a fault names, even through keys that hold full stops."""
    document = one("journey: a\nx:\n  a.b: [{c: 1}, {d: {e: 2}}]\n  a: {b: 3}\n")
    assert document.path_of("x.a.b[1].d.e") == ("x", "a.b", 1, "d", "e")
    assert document.locate_text("x.a.b[1].d.e") == (3, 25)
    assert document.locate_text("x.a.zzz.y") == (4, 3)
    assert document.locate_text("") == (1, 1)


# ---------------------------------------------------------------------------------------------------- what is refused


def test_what_means_more_than_it_says_is_refused_all_at_once() -> None:
    """Anchors, aliases, tags, merge keys, repeated and structured keys: each told, with line and column."""
    faults = faults_in(
        """\
        journey: a
        one: &x {b: 1}
        two: *x
        three: !!str 3
        four: {<<: {b: 1}, b: 2}
        one: again
        ? [a, b]
        : five
        six: {{ user.first_name }}
        seven: {{ user.first_name }} hello
        """
    )
    assert places(faults) == [
        ("anchor", 2, 6),
        ("alias", 3, 6),
        ("tag", 4, 8),
        ("merge-key", 5, 8),
        ("duplicate-key", 6, 1),
        ("wrong-key", 7, 3),
        ("wrong-key", 9, 7),
        ("wrong-key", 10, 9),
    ]
    assert faults[1].message == "an alias is not allowed: '*x'"
    assert faults[2].message == "a tag is not allowed: '!!str'"
    assert faults[4].message == "the key 'one' is given twice, first on line 2, column 1"
    assert "{{" in faults[6].hint
    assert faults[0].path == "one"
    assert all(fault.file == "j.yaml" for fault in faults)


@pytest.mark.parametrize(
    ("text", "line", "column", "hint"),
    [
        ("journey: a: b\n", 1, 11, "holds ': '"),
        ("journey: a\n\ttitle: b\n", 2, 1, "spaces"),
        ("journey: a\nbody: %x\n", 2, 7, "begins with %"),
        ("journey: a\nbody: @x\n", 2, 7, "begins with @"),
        ("journey: a\nbody: 'it's'\n", 2, 11, "quotes"),
        ("journey: a\nx: {a: 1\ny: 2\n", 3, None, "opens on line 2"),
        ('journey: a\nx: "abc\n', 3, 1, "opens on line 2 is not closed"),
        ("journey: a\nx: - b\n", 2, 4, "begin a list on the line after"),
    ],
)
def test_an_error_of_syntax_has_its_place_and_its_usual_cause(
    text: str, line: int, column: int | None, hint: str
) -> None:
    """What the parser says, the line it stopped at, and what people usually did."""
    (fault,) = faults_in(text)
    assert (fault.code, fault.line) == ("syntax", line)
    assert column is None or fault.column == column
    assert hint in fault.hint
    assert fault.message.startswith("not YAML: ")


def test_reading_goes_on_after_an_error_of_syntax() -> None:
    """The next document is read: one run tells the faults of all of them, at their own lines."""
    faults = faults_in("journey: a: b\n---\njourney: b\nx: *y\n---\nx: [\n---\nsegment: c\nd: 1\nd: 2\n")
    assert places(faults) == [("syntax", 1, 11), ("alias", 4, 4), ("syntax", 7, 1), ("duplicate-key", 10, 1)]


def test_a_document_of_no_kind_is_told_with_its_keys() -> None:
    """A document that is neither a journey nor a segment: its keys are quoted, the nearest name offered."""
    (typo,) = faults_in("title: x\njurney: a\n")
    assert (typo.code, typo.line, typo.column) == ("unknown-document", 2, 1)
    assert "'title', 'jurney'" in typo.message
    assert "`journey`" in typo.hint
    listed, text = faults_in("- a\n--- just text\n...\n")
    assert "a list" in listed.message
    assert "'just text'" in text.message
    (empty,) = faults_in("{}\n")
    assert "no keys" in empty.message


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_file_without_a_document_is_a_fault(form: Literal["yaml", "json"]) -> None:
    """Nothing to read is told, never taken for success."""
    assert [fault.code for fault in faults_in("\n", form)] == ["no-document"]
    assert [fault.code for fault in faults_in("# a\n---\n---\n")] == ["no-document"]


def test_strict_json() -> None:
    """Repeated keys, null, and what only looks like JSON are refused, with their places."""
    faults = faults_in('{"journey": "a",\n "x": null,\n "y": [NaN],\n "x": 1}', "json")
    assert places(faults) == [("null", 2, 7), ("wrong-value", 3, 8), ("duplicate-key", 4, 2)]
    for text in ("{'journey': 'a'}", '{"journey": "a",}', '{"journey": "a"} {}', '{"journey": "a"', "{journey: a}"):
        (fault,) = faults_in(text, "json")
        assert fault.code == "syntax"
        assert fault.line == 1
        assert fault.column is not None
    assert "one document" in faults_in('{"journey": "a"} {}', "json")[0].hint


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ('journey: "a\\0b"', "yaml"),
        ("journey: a\x00b", "yaml"),
        ("journey: a\x07b", "yaml"),
        ('{"journey": "a\\u0000"}', "json"),
        ('{"journey": "\\ud83d"}', "json"),
    ],
)
def test_characters_that_no_store_can_hold_are_refused(text: str, form: Literal["yaml", "json"]) -> None:
    """NUL, half a surrogate pair, control characters in the file."""
    assert {fault.code for fault in faults_in(text, form)} == {"wrong-character"}


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_nesting_has_a_limit(form: Literal["yaml", "json"]) -> None:
    """Sixty levels are read; more is refused at once, however deep it goes."""
    fits = reading.MAX_DEPTH - 1
    assert one('{"journey": "a", "x": ' + "[" * fits + "]" * fits + "}", form).kind == "journey"
    for depth in (fits + 1, 5_000, 500_000):
        faults = faults_in('{"journey": "a", "x": ' + "[" * depth + "]" * depth + "}", form)
        assert [fault.code for fault in faults] == ["too-deep"]


def test_aliases_are_never_expanded() -> None:
    """The billion laughs: a few faults, at once."""
    text = "journey: a\na0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 10))
    assert {fault.code for fault in faults_in(text)} == {"anchor", "alias"}


# ---------------------------------------------------------------------------------------------------- files


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """Every .yaml, .yml and .json of the folder, sorted; no hidden file, no sub-folder; each knows its folder."""
    for name, text in [
        ("b.yml", "segment: b"),
        ("a.yaml", "\ufeffjourney: a\r\ntitle: x\r\n"),
        ("c.json", '\ufeff{"journey": "c"}'),
        (".d.yaml", "broken: ["),
        ("readme.md", "# no"),
    ]:
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "e.yaml").write_text("broken: [")
    documents = read_documents(str(tmp_path))
    assert [(d.name, Path(d.file).name, d.folder) for d in documents] == [
        ("a", "a.yaml", tmp_path),
        ("b", "b.yml", tmp_path),
        ("c", "c.json", tmp_path),
    ]
    assert documents[0].data["title"] == "x"
    assert read_documents(tmp_path / "c.json")[0].locate(("journey",)) == (1, 13)


def test_the_faults_of_all_files_are_told_together(tmp_path: Path) -> None:
    """A folder with two broken files gives the faults of both, by file."""
    (tmp_path / "a.yaml").write_text("journey: a\nx: *y\n")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DefinitionError) as caught:
        read_documents(tmp_path)
    assert [Path(fault.file or "").name for fault in caught.value.faults] == ["a.yaml", "b.json"]


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, an empty folder, a pipe, Latin-1, UTF-16, a file too large: each has its own words."""
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("journey: a\ntitle: é\n".encode("latin-1"))
    wide = tmp_path / "wide.yaml"
    wide.write_bytes("journey: a\n".encode("utf-16"))
    large = tmp_path / "large.yaml"
    large.write_text("journey: " + "a" * 100)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 100)
    expected = {
        tmp_path / "none.yaml": "file-not-found",
        latin: "not-utf-8",
        wide: "not-utf-8",
        large: "file-too-large",
        pipe: "not-a-file",
        empty: "no-document",
        tmp_path / f"{'n' * 300}.yaml": "unreadable-file",
    }
    for path, code in expected.items():
        with pytest.raises(DefinitionError) as caught:
            read_documents(path)
        (fault,) = caught.value.faults
        assert (fault.code, fault.file) == (code, str(path))
        if path == latin:
            assert fault.line == 2
