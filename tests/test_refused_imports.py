"""Imports that are refused: each says why and what to do, and nothing is written."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from activities.tables import reading
from activities.tables.identifiers import read_identifiers
from activities.tables.imports import ImportedTable, import_table
from activities.tables.schema import Kind
from tests.desk import NOW, Desk
from workflows.errors import ImportRefused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("users", "", "is empty"),
        ("users", "uid,plan\na,b\n", r"no column 'user_id'; the header is: 'uid', 'plan'"),
        ("devices", "device_id,user_id\nd,a\n", "no column 'platform'"),
        ("events", "user_id,event,date\na,b,c\n", "no column 'at'"),
        ("users", "User_ID,plan\na,b\n", "no column 'user_id'"),
        ("users", "user_id,^a$,b\nu1,x,y\n", r"'\^a\$' cannot be the name of a column"),
        ("users", "user_id,*\nu1,x\n", r"'\*' cannot be the name of a column"),
    ],
)
def test_refusals(desk: Desk, table: ImportedTable, text: str, message: str) -> None:
    """A file that cannot be imported as it is says why, and nothing is written."""
    with pytest.raises(ImportRefused, match=message):
        desk.load(table, text)
    assert set(desk.tables.versions().values()) == {-1}


def test_all_that_is_wrong_with_a_file_is_told_at_once(desk: Desk) -> None:
    """Each missing column, unusable name, nested value or column of another type is a fault of its own, with a hint."""

    def faults(table: ImportedTable, text: str, name: str = "file.csv", **kinds: Kind) -> list[str]:
        with pytest.raises(ImportRefused) as refused:
            desk.load(table, text, name, **kinds)
        assert all(fault.code == "import-refused" and fault.hint for fault in refused.value.faults)
        assert all(fault.message in refused.value.message for fault in refused.value.faults)
        return [fault.message.removeprefix(f"{desk.folder / name}: ") for fault in refused.value.faults]

    assert faults("events", "user_id\na\n", zip="string") == [
        f"there is no column {name!r}; the header is: 'user_id'" for name in ("event", "at", "zip")
    ]
    assert faults("users", "user_id,*,b,b,b,c,C,^d$\n") == [
        "'*' cannot be the name of a column",
        "the header names 'b' twice",
        "the header names 'c' and 'C', which differ only in case",
        "'^d$' cannot be the name of a column",
    ]
    assert faults("users", "user_id,,,\na,1,,2\n") == [
        f"column {number} has values and no name in the header" for number in (2, 4)
    ]
    assert len(faults("users", '{"user_id": "a", "b": {}, "c": [[1]]}\n{"b": {}}\n', "file.ndjson")) == 2
    desk.load("users", "user_id,age,born,City\na,1,2000-01-01,x\n")
    assert faults("users", "user_id,age,born,zip\na,x,y,z\n", zip="integer", born="string") == [
        "the column 'age' of the table users is of type integer, and the new values are of type string: 'x' on line 2",
        "the column 'born' of the table users is of type date, and the schema asks for string",
        "the schema asks for type integer of the column 'zip', and the values are of type string: 'z' on line 2",
    ]
    desk.load("users", "user_id,Lang\na,x\n")
    assert len(faults("users", "user_id,city,lang\na,x,y\n")) == 2
    assert len(faults("devices", "device_id,user_id,platform,dead_address,dead_since\nd,a,ios,x,y\n")) == 2
    pl.DataFrame({"user_id": ["a"], "b": [b"x"], "c": [b"y"]}).write_parquet(desk.folder / "file.parquet")
    with pytest.raises(ImportRefused) as refused:
        import_table(desk.tables, "users", desk.folder / "file.parquet", now=NOW)
    assert len(refused.value.faults) == 2


def test_refusals_say_what_to_do(desk: Desk) -> None:
    """A missing column names the nearest one; an unknown extension names those that are imported."""
    with pytest.raises(ImportRefused) as missing:
        desk.load("users", "User_ID,plan\na,b\n")
    assert missing.value.hint == "Rename 'User_ID' to 'user_id', if that is what it holds."
    with pytest.raises(ImportRefused, match=r"end in \.xlsx are not imported"):
        desk.load("users", "x", "file.xlsx")
    assert desk.load("users", "user_id,plan\n").warnings[-1] == "file.csv has a header and no rows"


@pytest.mark.parametrize(
    "meanwhile",
    ["user_id,plan,age\na,basic,7\nb,x,8\nc,y,9\n", "user_id,plan,age\n", ""],
    ids=["longer", "no rows", "empty"],
)
@pytest.mark.parametrize(
    ("quote", "end"), [("", ""), ('"', ""), ('"', "\n")], ids=["plain", "quoted", "with a blank line"]
)
def test_a_file_that_is_written_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, meanwhile: str, quote: str, end: str
) -> None:
    """A file that changes while its columns are read is refused as that, whatever it became, and nothing is written."""
    monkeypatch.setattr(reading, "CELLS_AT_ONCE", 1)
    path = desk.file(f"user_id,plan,age\n{quote}a{quote},pro,1\nb,pro,2\n{end}")
    series = reading.Sheet.series

    def overtaken(sheet: reading.Sheet) -> Iterator[pl.Series]:
        for column in series(sheet):
            yield column
            path.write_text(meanwhile)

    monkeypatch.setattr(reading.Sheet, "series", overtaken)
    with pytest.raises(ImportRefused, match=r"file\.csv was changed while it was read"):
        import_table(desk.tables, "users", path, now=NOW)
    assert desk.tables.version("users") == -1
    assert [one.name for one in desk.folder.iterdir()] == ["file.csv"]


@pytest.mark.parametrize("table", ["users", "members"])
def test_no_room_for_temporary_files(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, table: str
) -> None:
    """An import whose temporary files find no room says where and what to do, and nothing is written."""
    desk.load("users", "user_id\n" + "".join(f"u{number}\n" for number in range(20_000)))
    text = "user_id,note\n" + "".join(f"u{number},{number * 7919}\n" for number in range(20_000)) + "\n"
    path = desk.file(text, "many.csv")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("full")))
    work: dict[str, Callable[[], object]] = {
        "users": lambda: import_table(desk.tables, "users", path, now=NOW),
        "members": lambda: read_identifiers(
            path,
            column=None,
            identifier="user_id",
            users=desk.tables.scan("users"),
            devices=desk.tables.scan("devices"),
        ),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(ImportRefused, match=r"there is no room for temporary files in .*full") as refused:
            work[table]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "TMPDIR" in refused.value.hint
    assert desk.tables.version("users") == 0


def test_a_column_that_differs_in_case_writes_nothing(desk: Desk) -> None:
    """A refusal that concerns devices comes before their users are added."""
    desk.load("devices", "device_id,user_id,platform,Model\nd,a,ios,x\n")
    with pytest.raises(ImportRefused, match="differs only in case"):
        desk.load("devices", "device_id,user_id,platform,model\ne,b,ios,x\n")
    assert desk.rows("users") == [("a",)]
