"""Rows that imports could not take: each is written down as it stands in the file, and no other import loses it."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from activities.tables.identifiers import IdentifierReport, read_identifiers
from activities.tables.imports import ImportReport, import_table
from activities.tables.rejects import UNFINISHED, Reject, remove_unfinished, write_rejects
from tests.desk import NOW, Desk
from tests.desk import rejected as with_header
from workflows.errors import ImportRefused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def rejected(report: ImportReport | IdentifierReport) -> list[list[str]]:
    """Give the rejected rows, each with its line and its reason."""
    return with_header(report)[1:]


def test_rejected_rows_of_no_other_import_are_lost(desk: Desk) -> None:
    """Files of one name, in other folders or with other endings, and the same file again have rejects of their own."""
    aside = desk.folder / "aside"
    texts = {f"p{n}/users.csv": f"user_id,age\na,1\n,{n}\n" for n in range(3)}
    texts["users.ndjson"] = '{"user_id": "a"}\n{"age": 9}\n'
    written = []
    for name, text in texts.items():
        (desk.folder / name).parent.mkdir(exist_ok=True)
        path = desk.file(text, name)
        written.append(import_table(desk.tables, "users", path, now=NOW, rejects_dir=aside))
    assert [Path(str(report.rejects_file)).name for report in written] == [
        "users.20260301T000000Z.rejects.csv",
        *(f"users.20260301T000000Z-{n}.rejects.csv" for n in (2, 3, 4)),
    ]
    assert [rejected(report)[0][2] for report in written] == [",0", ",1", ",2", '{"age": 9}']
    assert len(list(aside.iterdir())) == len(texts)


def test_the_same_rejects_are_kept_once(desk: Desk) -> None:
    """Files of one name with the same rejected rows share a file of them, and other rows get one of their own."""
    files = []
    for number, text in enumerate(["user_id,age\na,1\n,2\n", "user_id,age\nb,1\n,2\n", "user_id,age\na,1\n,3\n"]):
        (desk.folder / str(number)).mkdir()
        path, aside = desk.file(text, f"{number}/users.csv"), desk.folder / "aside"
        files.append(import_table(desk.tables, "users", path, now=NOW, rejects_dir=aside).rejects_file)
    assert files[0] == files[1] != files[2]
    assert len(list((desk.folder / "aside").iterdir())) == 2


def test_rejected_rows_of_imports_at_once_are_all_there(tmp_path: Path) -> None:
    """Many imports that write their rejects at one moment each find a name, and all rows are there in the end."""
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda n: write_rejects(tmp_path / "users.csv", None, [Reject(n, "x", str(n))], NOW), range(40))
        )
    assert len(set(found)) == 40
    assert sorted(int(Path(str(path)).read_text().split(",")[-1]) for path in found) == list(range(40))


def test_rejects_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that knows no hard links the rejects have names of their own all the same."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    found = [write_rejects(tmp_path / "users.csv", None, [Reject(n, "x", str(n))], NOW) for n in range(3)]
    assert [Path(str(path)).read_text().split(",")[-1] for path in found] == ["0\n", "1\n", "2\n"]
    assert len(list(tmp_path.iterdir())) == 3


def test_rejects_of_a_file_with_a_long_name(desk: Desk) -> None:
    """A name as long as a name may be, in letters of several bytes, leaves room for what the rejects file adds."""
    report = desk.load("users", "user_id,age\na,1\n,2\n", "é" * 125 + ".csv")
    assert rejected(report) == [["3", "user_id is empty", ",2"]]


@pytest.mark.parametrize("broken", ["", "too,long\n"])
def test_a_list_that_matches_nobody_tells_its_rows(tmp_path: Path, broken: str) -> None:
    """A list without a known id is refused and names the file of its rejected rows, if one was asked for."""
    (tmp_path / "list.csv").write_text("user_id\nx1\nx2\n" + broken)
    tables = {"users": pl.LazyFrame({"user_id": ["u1"]}), "devices": pl.LazyFrame()}
    for folder in (None, tmp_path / "aside"):
        with pytest.raises(ImportRefused, match="none of it is a known user_id") as refused:
            read_identifiers(tmp_path / "list.csv", column=None, identifier="user_id", rejects_dir=folder, **tables)
        written = [path for path in tmp_path.rglob("*") if path.name.startswith("list.") and path.suffix == ".csv"]
        assert len(written) == (1 if folder is None else 2)
        if folder is not None:
            rows = next(path for path in written if path.parent == folder)
            assert str(rows) in refused.value.hint
            assert rows.read_text().splitlines()[1:3] == [
                "2,no user_id x1 in the table,x1",
                "3,no user_id x2 in the table,x2",
            ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "encoding", "lines", "expected"),
    [
        ("users.csv", "utf-8", ["x;1;", ' ;2;a,"b', "y;old; c "], [(3, ' ;2;a,"b'), (4, "y;old; c ")]),
        ("users.csv", "utf-8-sig", ["x;1;", 'y;"old";"a;b"'], [(3, 'y;"old";"a;b"')]),
        ("users.csv", "utf-8", ["x;1;", "y;old;a", "", "z;3", ";4;é"], [(3, "y;old;a"), (5, "z;3"), (6, ";4;é")]),
        ("users.csv", "cp1252", ["x;1;", "y;old;é"], [(3, "y;old;é")]),
        ("users.csv", "utf-16", ["x;1;", "y;old;é"], [(3, "y;old;é")]),
        ("users.tsv", "utf-8", ["x\t1\t", "y\told\ta,b"], [(3, "y\told\ta,b")]),
    ],
)
def test_rejected_rows_stand_as_in_the_file(
    desk: Desk, name: str, encoding: str, lines: list[str], expected: list[tuple[int, str]], ending: str
) -> None:
    """Whatever the reason and whichever reader read it, a rejected row keeps its delimiters, quotes and spaces."""
    desk.load("users", "user_id,age,note\nx,1,first\n")
    header = "\t".join(["user_id", "age", "note"]) if name.endswith("tsv") else "user_id;age;note"
    path = desk.folder / name
    path.write_bytes(ending.join([header, *lines, ""]).encode(encoding))
    report = import_table(desk.tables, "users", path, now=NOW)
    assert [(int(line), row) for line, _, row in rejected(report)] == expected


def test_a_rejected_row_of_several_lines_is_whole(desk: Desk) -> None:
    """A row whose cell holds a line end is written down with it, and known by its first line."""
    desk.load("users", "user_id,age,note\nx,1,first\n")
    report = desk.load("users", 'user_id;age;note\na;1;"of two\nlines"\nb;old;"of two\nlines"\n')
    assert rejected(report) == [["4", "age 'old' does not read as integer", 'b;old;"of two\nlines"']]


def test_rejected_rows_of_files_with_types(desk: Desk) -> None:
    """A rejected line of NDJSON is the object that it is, a row of Parquet its values as a CSV has them."""
    desk.load("users", "user_id,age\nx,1\n")
    lines = ['{"user_id": "a", "age": 2}', "", '{"age":3, "note": "é"}', "no object"]
    report = desk.load("users", "\n".join(lines), "users.ndjson")
    assert [(line, row) for line, _, row in rejected(report)] == [("3", lines[2]), ("4", lines[3])]
    path = desk.folder / "users.parquet"
    pl.DataFrame({"user_id": ["a", None], "age": [4, 5], "note": ["", "b,c"]}).write_parquet(path)
    assert [row for _, _, row in rejected(import_table(desk.tables, "users", path, now=NOW))] == [',5,"b,c"']


def test_what_cannot_be_removed_is_told_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Upkeep removes what killed imports left, though one of it cannot be removed, which the log tells."""
    (tmp_path / f"a{UNFINISHED}").mkdir()
    (tmp_path / f"b{UNFINISHED}").write_text("rows")
    later = NOW + timedelta(days=36_500)
    assert remove_unfinished(tmp_path, before=later, dry_run=True) == 2
    assert remove_unfinished(tmp_path, before=later) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"a{UNFINISHED}"]
    assert f"a{UNFINISHED} holds rows of people and cannot be removed" in caplog.text
