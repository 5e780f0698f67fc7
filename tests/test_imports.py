"""Importing users, devices and events into real tables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from activities.tables import reading
from activities.tables.delta import Tables
from activities.tables.imports import ImportedTable, import_table
from tests.desk import NOW, Desk, rejected
from workflows.errors import ImportRefused


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_users_of_every_kind(desk: Desk) -> None:
    """A file of users becomes typed columns, ids and zip codes staying text."""
    report = desk.load(
        "users",
        "user_id,zip,age,score,paid,born,seen,spent,app_version,tags,plan\n"
        '007,075,30,1.5,yes,1996-02-29,2026-01-01T10:00:00+01:00,19.99 EUR,3.10,"[""a"",""b""]",pro\n'
        "8,75001,,,no,,,,,,\n",
    )
    assert report.model_dump() == {
        "table": "users",
        "version": 0,
        "rows": 2,
        "inserted": 2,
        "updated": 0,
        "unchanged": 0,
        "rejected": 0,
        "users_added": 0,
        "rejects_file": None,
        "warnings": [],
    }
    assert list(desk.tables.schema("users").values()) == [
        "string", "string", "integer", "number", "boolean", "date", "instant", "price", "version", "list", "string",
    ]  # fmt: skip
    first = desk.tables.scan("users").filter(pl.col("user_id") == "007").collect().row(0, named=True)
    assert first["zip"] == "075"
    assert first["born"] == date(1996, 2, 29)
    assert first["seen"] == datetime(2026, 1, 1, 9, tzinfo=UTC)
    assert first["spent"] == {"amount": Decimal("19.9900"), "currency": "EUR"}
    assert first["app_version"] == {"text": "3.10", "order": 3_001_000_000_000}
    assert first["tags"] == ["a", "b"]


def test_importing_again_changes_nothing(desk: Desk) -> None:
    """The same files again are unchanged and make no commit, for all three tables."""
    files: dict[ImportedTable, str] = {
        "users": "user_id,age\na,1\nb,\n",
        "devices": "device_id,user_id,platform\nd,a,iOS\n",
        "events": "user_id,event,at,amount\na,purchase,2026-01-01,5\nz,open,2026-01-02,\n",
    }
    for table, text in files.items():
        desk.load(table, text)
    versions = desk.tables.versions()
    for table, text in files.items():
        report = desk.load(table, text)
        assert (report.inserted, report.updated, report.unchanged) == (0, 0, report.rows)
        assert report.users_added == 0
        assert report.version == versions[table]
    assert desk.tables.versions() == versions


def test_empty_cell_clears_and_absent_column_keeps(desk: Desk) -> None:
    """An empty cell clears a value; a column that the file lacks keeps what is stored."""
    desk.load("users", "user_id,plan,age\na,pro,1\nb,free,2\n")
    report = desk.load("users", "user_id,plan\na,\nb,free\n")
    assert (report.updated, report.unchanged) == (1, 1)
    assert desk.rows("users") == [("a", None, 1), ("b", "free", 2)]


def test_absent_key_in_ndjson_keeps_too(desk: Desk) -> None:
    """In NDJSON a row that does not mention a column keeps it, and null clears it."""
    desk.load("users", "user_id,plan,age\na,pro,1\nb,free,2\n")
    desk.load("users", '{"user_id": "a", "plan": null}\n{"user_id": "b", "age": 3}\n', "file.ndjson")
    assert desk.rows("users") == [("a", None, 1), ("b", "free", 3)]


def test_rejected_rows(desk: Desk) -> None:
    """Rows without an id, of the wrong length, or with values of another kind are written down, the others taken."""
    desk.load("users", "user_id,age,city\nx,1,Rome\n")
    text = "user_id,age,city\na,1,Paris\n,2,Lyon\nb,3\nc,old,Nice\nd,5,Lille\n"
    report = desk.load("users", text)
    assert (report.rows, report.inserted, report.rejected) == (5, 2, 3)
    assert report.rejects_file == str(desk.folder / "file.20260301T000000Z.rejects.csv")
    assert rejected(report) == [
        ["line", "reason", "row"],
        ["3", "user_id is empty", ",2,Lyon"],
        ["4", "2 cells where the header has 3", "b,3"],
        ["5", "age 'old' does not read as integer", "c,old,Nice"],
    ]
    aside = import_table(desk.tables, "users", desk.file(text), now=NOW, rejects_dir=desk.folder / "new" / "aside")
    assert aside.rejects_file == str(desk.folder / "new" / "aside" / "file.20260301T000000Z.rejects.csv")
    with pytest.raises(ImportRefused, match=r"none of its 1 rows can be imported; line 2: user_id is empty"):
        desk.load("users", "user_id,age\n,1\n")


def test_the_last_of_repeated_ids_wins(desk: Desk) -> None:
    """Rows that repeat an id are counted in a warning, and the last one is taken."""
    report = desk.load("users", "user_id,n\na,1\na,2\n a ,3\nb,4\n")
    assert report.warnings == ["2 rows repeat a user_id: the last one of each was taken"]
    assert desk.rows("users") == [("a", 3), ("b", 4)]


def test_devices_add_their_users(desk: Desk) -> None:
    """Users that only devices name are added and counted, and the well-known columns are always there."""
    desk.load("users", "user_id\na\n")
    report = desk.load(
        "devices", "device_id,user_id,platform,last_seen,app_version\nd1,a,iOS,2026-01-01,2\nd2,b,web,,\n"
    )
    assert (report.inserted, report.users_added) == (2, 1)
    assert report.warnings == ["no column opt_in: new devices are opted in"]
    assert desk.rows("users") == [("a",), ("b",)]
    assert desk.rows("devices", "device_id", "platform", "opt_in", "token") == [
        ("d1", "ios", True, None),
        ("d2", "web", True, None),
    ]
    assert desk.tables.schema("devices")["last_seen"] == "instant"


def test_opt_in(desk: Desk) -> None:
    """Without the column new devices are opted in and old ones stay; an empty cell is not opted in."""
    report = desk.load("devices", "device_id,user_id,platform,opt_in\nd1,a,ios,no\nd2,a,ios,\nd3,a,ios,1\n")
    assert report.warnings == []
    desk.load("devices", "device_id,user_id,platform\nd1,b,ios\nd4,b,ios\n")
    assert desk.rows("devices", "device_id", "user_id", "opt_in") == [
        ("d1", "b", False),
        ("d2", "a", False),
        ("d3", "a", True),
        ("d4", "b", True),
    ]


def test_devices_need_platform_and_user(desk: Desk) -> None:
    """Each missing required cell is told, and a row without them is not taken."""
    report = desk.load("devices", "device_id,user_id,platform\nd1,,ios\nd2,a,\nd3,a,ios\n")
    assert [line[1] for line in rejected(report)[1:]] == ["user_id is empty", "platform is empty"]
    assert desk.rows("users") == [("a",)]


def test_events_are_added_once(desk: Desk) -> None:
    """Events with ids and without are not repeated, within a file or over files, in any order of columns."""
    report = desk.load(
        "events",
        "event_id,user_id,event,at,amount\n"
        "e1,a,buy,2026-01-01,5 EUR\n,a,buy,2026-01-02,6 EUR\ne1,a,buy,2026-01-01,5 EUR\n",
    )
    assert (report.inserted, report.users_added) == (2, 1)
    assert report.warnings == ["1 row repeats an event_id: the last one of each was taken"]
    again = desk.load(
        "events", "amount,at,color,event,user_id\n6.00 EUR,2026-01-02T00:00:00Z,,buy,a\n7 EUR,2027-01-01,,buy,b\n"
    )
    assert (again.inserted, again.unchanged, again.users_added) == (1, 1, 1)
    assert again.warnings[1:] == ["1 event lies in the future"]
    ids = [row[0] for row in desk.rows("events", "event_id")]
    assert len(ids) == len(set(ids)) == 3
    assert all(event_id == "e1" or len(str(event_id)) == 32 for event_id in ids)


def test_events_with_unreadable_instants(desk: Desk) -> None:
    """A row whose instant does not read is rejected once, with the value."""
    report = desk.load("events", "user_id,event,at\na,buy,2026-01-01\nb,buy,yesterday\nc,buy,2026-01-01T10:00Z\n")
    assert rejected(report)[1:] == [["3", "at 'yesterday' does not read as instant", "b,buy,yesterday"]]
    assert desk.rows("users") == [("a",), ("c",)]


def test_the_same_rows_in_every_format(desk: Desk) -> None:
    """CSV, TSV, NDJSON and Parquet of the same rows make the same table."""
    frame = pl.DataFrame(
        {
            "user_id": ["1", "2"],
            "age": [30, None],
            "rate": [0.5, 1.25],
            "ok": [True, False],
            "born": [date(2000, 1, 1), None],
            "seen": [datetime(2026, 1, 1, 5, tzinfo=UTC), None],
            "tags": [["a", "b"], None],
        }
    )
    frame.write_parquet(desk.folder / "a.parquet")
    frame.with_columns(pl.col("user_id").cast(pl.Int64)).write_parquet(desk.folder / "b.parquet")
    desk.file(
        '{"user_id": "1", "age": 30, "rate": 0.5, "ok": true, "born": "2000-01-01", '
        '"seen": "2026-01-01T05:00:00Z", "tags": ["a", "b"]}\n'
        '{"user_id": 2, "age": null, "rate": 1.25, "ok": false, "born": null, "seen": null, "tags": null}\n',
        "c.jsonl",
    )
    table = (
        "user_id,age,rate,ok,born,seen,tags\n"
        '1,30,0.5,true,2000-01-01,2026-01-01 05:00,"[""a"",""b""]"\n'
        "2,,1.25,false,,,\n"
    )
    desk.file(table, "d.csv")
    desk.file(table.replace('"[""a"",""b""]"', "LIST").replace(",", "\t").replace("LIST", '["a","b"]'), "e.tsv")
    for name in ("a.parquet", "b.parquet", "c.jsonl", "d.csv", "e.tsv"):
        tables = Tables(desk.folder / name.replace(".", "-"))
        import_table(tables, "users", desk.folder / name, now=NOW)
        assert tables.scan("users").collect().equals(frame), name


def test_events_with_several_prices_get_ids(desk: Desk) -> None:
    """Made-up event ids tell columns of prices and versions apart by their names, and stay the same."""
    text = "user_id,event,at,paid,saved,app_version,os_version\na,buy,2026-01-01,1 EUR,2 EUR,1.2.3,4.5.6\n"
    assert desk.load("events", text).inserted == 1
    assert desk.load("events", text).inserted == 0
    assert desk.load("events", text.replace("1 EUR,2 EUR", "2 EUR,1 EUR")).inserted == 1


def test_many_columns_with_one_bad_cell_each(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad cell has its row rejected, and nothing of the file is read for it but that row, once."""
    names = [f"n{number}" for number in range(30)]
    header = ",".join(["user_id", *names])
    desk.load("users", f"{header}\n" + ",".join(["a", *"1" * 30]) + "\n")
    lines = [",".join([f"u{row}", *("x" if row == place else "1" for place in range(30))]) for row in range(90)]
    rows, asked = reading.Sheet.rows, list[list[int]]()

    def counted(sheet: reading.Sheet, indices: Iterable[int]) -> pl.DataFrame:
        asked.append(list(indices))
        return rows(sheet, indices)

    monkeypatch.setattr(reading.Sheet, "rows", counted)
    monkeypatch.setattr(reading.Sheet, "line", None)
    report = desk.load("users", "\n".join([header, *lines]))
    assert (report.inserted, report.rejected) == (60, 30)
    assert asked == [list(range(30))]


IMPORT = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from activities.tables.delta import Tables
from activities.tables.imports import import_table
root, file, start = sys.argv[1:]
while time.time() < float(start):
    pass
print("go", flush=True)
import_table(Tables(root), "devices", Path(file), now=datetime.now(UTC))
"""


def importer(desk: Desk, name: str, start: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", IMPORT, desk.tables.root, str(desk.folder / name), str(start)]
    return subprocess.Popen(arguments, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True)


def test_two_imports_at_once_both_land(desk: Desk) -> None:
    """Two processes that import overlapping devices into new tables leave each device and each user once."""
    for name, low in (("one.csv", 0), ("two.csv", 50)):
        lines = (f"d{row},u{row // 2},ios\n" for row in range(low, low + 100))
        desk.file("device_id,user_id,platform\n" + "".join(lines), name)
    start = time.time() + 1.5
    both = [importer(desk, name, start) for name in ("one.csv", "two.csv")]
    assert [process.communicate(timeout=60)[0] for process in both] == ["go\n", "go\n"]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(desk.rows("devices", "device_id")) == sorted((f"d{row}",) for row in range(150))
    assert sorted(desk.rows("users")) == sorted((f"u{row}",) for row in range(75))


def test_killed_import_leaves_no_device_without_its_user(desk: Desk) -> None:
    """An import killed at any moment leaves whole commits, users before devices, and the next one completes it."""
    lines = "".join(f"d{row},u{row},ios\n" for row in range(30_000))
    desk.file("device_id,user_id,platform\n" + lines, "many.csv")
    for delay in (0.05, 0.12, 0.2):
        process = importer(desk, "many.csv", 0)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        users, devices = desk.tables.row_count("users"), desk.tables.row_count("devices")
        assert (users, devices) in {(0, 0), (30_000, 0), (30_000, 30_000)}
    import_table(desk.tables, "devices", desk.folder / "many.csv", now=NOW)
    assert desk.tables.versions() == {"users": 0, "devices": 0, "events": -1, "members": -1}
