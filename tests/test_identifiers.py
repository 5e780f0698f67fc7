"""Lists of ids, matched with users and devices."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from activities.records.catalogue import Catalogue, ImportedSegment, Saved
from activities.records.database import Database
from activities.segments.imported import import_segment, read_members
from activities.tables import identifiers
from activities.tables.delta import Tables
from activities.tables.identifiers import Identifier, IdentifierReport, read_identifiers
from workflows.conditions import Everyone
from workflows.documents import SegmentDocument
from workflows.errors import ImportRefused, RefusedError

USERS = pl.LazyFrame({"user_id": ["u1", "u2", "u3", "007"]})
DEVICES = pl.LazyFrame({"device_id": ["d1", "d2", "d3", "d9"], "user_id": ["u1", "u1", "u2", "gone"]})


def read(folder: Path, text: str | bytes, **options: object) -> IdentifierReport:
    path = folder / "vip.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    given = {"column": None, "identifier": "user_id", "rejects_dir": folder, **options}
    return read_identifiers(path, users=USERS, devices=DEVICES, **given)  # type: ignore[arg-type]


def rejects(report: IdentifierReport) -> list[list[str]]:
    assert report.rejects_file is not None
    with open(report.rejects_file, newline="") as file:
        return list(csv.reader(file))


def counts(report: IdentifierReport) -> dict[str, int]:
    return report.model_dump(include={"rows", "users", "unknown", "duplicates", "empty", "rejected"})


def test_users_are_matched_and_every_row_is_counted(tmp_path: Path) -> None:
    """Members are the known ids; unknown, repeated, empty and broken rows are told apart and written down."""
    text = "client,note\nu3,x\n u1 ,y\nnobody,z\nu3,\nnobody,again\n,w\nu2\n007,ok\n"
    report = read(tmp_path, text, column="client")
    assert report.members.rows() == [("u3", None), ("u1", None), ("007", None)]
    assert report.members.schema == {"user_id": pl.String, "device_id": pl.String}
    assert counts(report) == {"rows": 8, "users": 3, "unknown": 1, "duplicates": 2, "empty": 1, "rejected": 1}
    assert [str(path) for path in tmp_path.glob("vip.*.rejects.csv")] == [report.rejects_file]
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


NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Shelf:
    """Tables and a catalogue, into which lists are imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables = Tables(folder / "tables")
        self.database = Database(f"sqlite:///{folder / 'ledger.db'}")
        self.database.create()
        self.catalogue = Catalogue(self.database)
        self.tables.append("users", USERS.collect())
        self.tables.append("devices", DEVICES.collect())

    def load(self, text: str, *, identifier: Any = "user_id", add: bool = True, name: str = "vip") -> Saved:
        path = self.folder / f"{threading.get_ident()}.csv"
        path.write_text(f"{identifier}\n{text}")
        read = read_members(self.tables, name, path, column=None, identifier=identifier, rejects_dir=self.folder)
        return import_segment(self.tables, self.catalogue, read, NOW, add=add)

    def members(self, version: int) -> list[tuple[str | None, ...]]:
        document = self.catalogue.find("segment", "vip", version).document
        assert isinstance(document, ImportedSegment)
        stored = self.tables.collect(self.tables.scan("members").filter(import_id=document.import_id))
        return sorted(stored.select("user_id", "device_id").rows(), key=repr)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    found = Shelf(tmp_path)
    yield found
    found.database.close()


def test_adding_makes_a_version_with_both_lists(shelf: Shelf) -> None:
    """`--add` keeps the newest version's members, leaves earlier versions as they were, and repeats nobody."""
    assert shelf.load("u1\nu2\n").version == 1
    added = shelf.load("u2\nu3\n")
    assert isinstance(added.document, ImportedSegment)
    assert (added.version, added.changed, added.document.users) == (2, True, 3)
    assert shelf.members(1) == [("u1", None), ("u2", None)]
    assert shelf.members(2) == [("u1", None), ("u2", None), ("u3", None)]
    version = shelf.tables.version("members")
    again = shelf.load("u3\nu1\n")
    assert (again.version, again.changed, shelf.tables.version("members")) == (2, False, version)


def test_device_ids_can_be_added_to_user_ids(shelf: Shelf) -> None:
    """Lists of user ids and of device ids can be added to each other; a user in both counts once."""
    shelf.load("u1\nu3\n")
    added = shelf.load("d1\nd3\n", identifier="device_id")
    assert isinstance(added.document, ImportedSegment)
    assert added.document.users == 3
    assert shelf.members(2) == [("u1", "d1"), ("u1", None), ("u2", "d3"), ("u3", None)]


def test_nothing_can_be_added_to_a_condition(shelf: Shelf) -> None:
    """A segment that is a condition refuses `--add`, says so, and stays as it is."""
    document = SegmentDocument(segment="vip", match=Everyone(everyone=True))
    shelf.catalogue.save([], lambda _: [document], NOW)
    with pytest.raises(RefusedError, match="'vip' is a condition, version 1"):
        shelf.load("u1\n")
    assert shelf.tables.version("members") == -1
    assert shelf.catalogue.find("segment", "vip").version == 1


def test_the_same_list_is_stored_once(shelf: Shelf) -> None:
    """A list that comes back after another one, or after a lost answer, is a version again and no second copy."""
    for text in ("u1\nu2\n", "u3\n", "u2\nu1\n"):
        shelf.load(text, add=False)
    assert shelf.catalogue.find("segment", "vip").version == 3
    assert shelf.members(3) == shelf.members(1) == [("u1", None), ("u2", None)]
    assert shelf.tables.row_count("members") == 3


def test_lists_added_at_once_are_all_in_the_newest_version(shelf: Shelf) -> None:
    """Threads that add to one segment at the same moment lose nobody: each version holds the one before."""
    shelf.load("u1\n")
    gate = threading.Barrier(3)
    failures: list[BaseException] = []

    def add(user: str) -> None:
        gate.wait()
        try:
            shelf.load(f"{user}\n")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(user,)) for user in ("u2", "u3", "007")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert [len(shelf.members(version)) for version in (1, 2, 3, 4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("identifier", ["user_id", "device_id"])
@pytest.mark.parametrize("broken", ["", '"u2",\n', '"u2",\n\n'], ids=["plain", "quoted", "with a blank line"])
def test_parts_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identifier: str, broken: str) -> None:
    """A file matched in many parts gives what it gives in one, row by row, read by any reader."""
    ids = ["u3", "d2", "nobody", "", "u1", "d1", "u3", "d2", "nobody", "d9", "007"] * 4
    text = f"{identifier},n\n" + "".join(f"{one},{number}\n" for number, one in enumerate(ids)) + broken
    (tmp_path / "whole").mkdir()
    whole = read(tmp_path / "whole", text, identifier=identifier)
    monkeypatch.setattr(identifiers, "PART_ROWS", 8)
    parts = read(tmp_path, text, identifier=identifier)
    assert counts(parts) == counts(whole)
    assert whole.rows == whole.unknown + whole.duplicates + whole.empty + whole.rejected + whole.members.height
    assert sorted(parts.members.rows()) == sorted(whole.members.rows())
    assert whole.members.rows() == (
        [("u3", None), ("u1", None), ("007", None)] + [("u2", None)] * bool(broken)
        if identifier == "user_id"
        else [("u1", "d2"), ("u1", "d1")]
    )
    assert rejects(parts) == rejects(whole)
    assert rejects(parts)[1][0] == ("3" if identifier == "user_id" else "2")


def test_rows_whose_lengths_make_up_for_each_other(tmp_path: Path) -> None:
    """A short row and a long one are rejected each, though their delimiters add up to those of whole rows."""
    report = read(tmp_path, "a,user_id,c\n1,u1,3\n4,u2\n6,u3,8,9\n1,007,3\n")
    assert report.members["user_id"].to_list() == ["u1", "007"]
    assert [line[:2] for line in rejects(report)[1:]] == [
        ["3", "2 cells where the header has 3"],
        ["4", "4 cells where the header has 3"],
    ]


@pytest.mark.parametrize("identifier", ["user_id", "device_id"])
def test_a_short_list_and_a_long_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, identifier: Identifier) -> None:
    """A list much shorter than the table is matched as any other, and no more of the table is kept than it names."""
    users = pl.LazyFrame({"user_id": [f"u{number}" for number in range(1_000)]})
    devices = users.select(device_id=pl.col("user_id").str.replace("u", "d"), user_id="user_id")
    kept: list[int] = []
    match = identifiers._match_part

    def counted(listed: pl.DataFrame, known: pl.DataFrame, identifier: Identifier) -> identifiers._Matched:
        kept.append(known.height)
        return match(listed, known, identifier)

    monkeypatch.setattr(identifiers, "_match_part", counted)
    path = tmp_path / "few.csv"
    first = identifier[0]
    path.write_text(f"{identifier}\n{first}5\nnobody\n\n{first}5\n{first}999\n")
    report = read_identifiers(
        path, column=None, identifier=identifier, users=users, devices=devices, rejects_dir=tmp_path
    )
    assert report.members["user_id"].to_list() == ["u5", "u999"]
    assert counts(report) == {"rows": 5, "users": 2, "unknown": 1, "duplicates": 1, "empty": 1, "rejected": 0}
    assert kept == [2]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_rejected_rows_stand_as_in_the_file(tmp_path: Path, ending: str, last: str) -> None:
    """The rejects file holds whole rows, with their spaces and without their line ends."""
    lines = ["user_id;note", "u1;a", " nobody ; b,c", " ; d ", "none;é"]
    report = read(tmp_path, ending.join(lines) + (ending if last else ""))
    assert rejects(report)[1:] == [
        ["3", "no user_id nobody in the table", " nobody ; b,c"],
        ["4", "the cell is empty", " ; d "],
        ["5", "no user_id none in the table", "none;é"],
    ]


def test_a_file_that_is_written_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that changes while it is read is refused, and nothing is written beside it."""
    match = identifiers._match

    def overtaken(*given: Any) -> identifiers._Matched:
        found = match(*given)
        with (tmp_path / "vip.csv").open("a") as file:
            file.write("u2\n")
        return found

    monkeypatch.setattr(identifiers, "_match", overtaken)
    with pytest.raises(ImportRefused, match=r"vip\.csv was changed while it was read"):
        read(tmp_path, "user_id\nu1\nnobody\n")
    assert [one.name for one in tmp_path.iterdir()] == ["vip.csv"]
