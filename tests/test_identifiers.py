"""Lists of ids, matched with users and devices."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest

from activities.tables import identifiers
from activities.tables.identifiers import IdentifierReport, read_identifiers
from workflows.errors import ImportRefused

USERS = pl.LazyFrame({"user_id": ["u1", "u2", "u3", "007"]})
DEVICES = pl.LazyFrame({"device_id": ["d1", "d2", "d3", "d9"], "user_id": ["u1", "u1", "u2", "gone"]})


def read(folder: Path, text: str | bytes, **options: object) -> IdentifierReport:
    path = folder / "vip.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    given = {"column": None, "identifier": "user_id", "rejects_dir": None, **options}
    return read_identifiers(path, users=USERS, devices=DEVICES, **given)  # type: ignore[arg-type]


def rejects(report: IdentifierReport) -> list[list[str]]:
    assert report.rejects_file is not None
    with open(report.rejects_file, newline="") as file:
        return list(csv.reader(file))


def counts(report: IdentifierReport) -> dict[str, int]:
    return report.model_dump(include={"rows", "users", "unknown", "duplicates", "empty", "rejected"})


def test_users_are_matched_and_every_row_is_counted(tmp_path: Path) -> None:
    """Members come in file order; unknown, repeated, empty and broken rows are told apart and written down."""
    text = "client,note\nu3,x\n u1 ,y\nnobody,z\nu3,\nnobody,again\n,w\nu2\n007,ok\n"
    report = read(tmp_path, text, column="client")
    assert report.members.rows() == [("u3", None), ("u1", None), ("007", None)]
    assert report.members.schema == {"user_id": pl.String, "device_id": pl.String}
    assert counts(report) == {"rows": 8, "users": 3, "unknown": 1, "duplicates": 2, "empty": 1, "rejected": 1}
    assert report.rejects_file == str(tmp_path / "vip.rejects.csv")
    assert rejects(report) == [
        ["line", "reason", "row"],
        ["4", "no user_id nobody in the table", "nobody,z"],
        ["7", "the cell is empty", ",w"],
        ["8", "1 cells where the header has 2", "u2"],
    ]


def test_devices_lead_to_their_users(tmp_path: Path) -> None:
    """Device ids give one member per device; a device whose user is not stored is unknown."""
    report = read(tmp_path, "device_id\nd2\nd1\nd3\nd9\n", identifier="device_id")
    assert report.members.rows() == [("u1", "d2"), ("u1", "d1"), ("u2", "d3")]
    assert counts(report) == {"rows": 4, "users": 2, "unknown": 1, "duplicates": 0, "empty": 0, "rejected": 0}


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("user_id\nu1\n", None),
        ("anything\nu1\n", None),
        ("name;user_id\nx;u1\n", None),
        ("user_id;client\nu2;u1\n", " client "),
        ("\ufeffuser_id\r\nu1\r\n", None),
        ('"user_id"\n"u1"\n', None),
    ],
)
def test_the_column(tmp_path: Path, text: str, column: str | None) -> None:
    """The named column counts, else the one called like the identifier, else the only one."""
    report = read(tmp_path, text, column=column)
    assert report.members["user_id"].to_list() == ["u1"]
    assert report.rejects_file is None


def test_blank_lines_of_a_single_column_are_empty_cells(tmp_path: Path) -> None:
    """In a list of one column a blank line in between is an empty cell, and those at the end are nothing."""
    report = read(tmp_path, "user_id\nu1\n\nu2\n\n\n")
    assert counts(report) == {"rows": 3, "users": 2, "unknown": 0, "duplicates": 0, "empty": 1, "rejected": 0}
    assert rejects(report)[1:] == [["3", "the cell is empty", ""]]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path: Path, codec: str) -> None:
    """Lists come in the encodings that spreadsheets write."""
    report = read(tmp_path, "user_id,name\nu1,Zoé\nu2,Jürgen\n".encode(codec))
    assert report.users == 2
    assert bool(report.warnings) == (codec == "cp1252")


@pytest.mark.parametrize(
    ("text", "options", "message", "hint"),
    [
        ("", {}, "is empty", "first line"),
        ("a,b\nu1,u2\n", {}, "called 'user_id'; the header is: 'a', 'b'", "Name the column"),
        ("a,b\nu1,u2\n", {"column": "c"}, "no column 'c'", ""),
        ("u1\nu2\n", {}, "the first line, 'u1', is a user_id itself", "Put a line"),
        ("id\nx1\nx2\n\nx1\n", {}, r"none of it is a known user_id \(4 rows: 2 unknown, 1 empty", "such as 'x1'.*'u1'"),
        ("id,n\n,1\n", {"column": "id"}, r"1 rows: 0 unknown, 1 empty", "holds no value"),
        ("id\n", {}, r"0 rows", "holds no value"),
    ],
)
def test_refusals(tmp_path: Path, text: str, options: dict[str, object], message: str, hint: str) -> None:
    """A list that gives nobody is refused with counts, and says what to do."""
    with pytest.raises(ImportRefused, match=message) as refused:
        read(tmp_path, text, **options)
    assert pl.Series([refused.value.hint]).str.contains(hint).item()


def test_nothing_stored_yet(tmp_path: Path) -> None:
    """Without stored users, the refusal says to import them first."""
    path = tmp_path / "vip.csv"
    path.write_text("user_id\nu1\n")
    nobody = pl.LazyFrame(schema={"user_id": pl.String})
    with pytest.raises(ImportRefused) as refused:
        read_identifiers(path, column=None, identifier="user_id", users=nobody, devices=DEVICES)
    assert refused.value.hint == "No user_id is stored yet: import users or devices first."


def test_pieces_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file read in many pieces gives what it gives in one: duplicates are found across them."""
    text = "user_id\n" + "u1\nnobody\nu2\nu1\n\nu3\nnobody\n" * 3
    whole = read(tmp_path, text)
    monkeypatch.setattr(identifiers, "PIECE_ROWS", 2)
    pieces = read(tmp_path, text)
    assert counts(pieces) == counts(whole)
    assert counts(whole) == {"rows": 21, "users": 3, "unknown": 1, "duplicates": 14, "empty": 3, "rejected": 0}
    assert pieces.members.equals(whole.members)
