"""The audience tables on real Delta tables: versions, merging, single commits, concurrency."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from activities.tables.delta import COLUMNS, MergeReport, Tables
from activities.tables.schema import DTYPES, KINDS, version_order
from workflows.errors import ImportRefused, NotFoundError, StoreUnavailable

EVERY_KIND = {
    "integer": 7,
    "number": 1.5,
    "string": "é",
    "boolean": True,
    "date": date(2026, 1, 2),
    "instant": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "price": {"amount": Decimal("19.9900"), "currency": "EUR"},
    "version": {"text": "1.10", "order": version_order("1.10")},
    "list": ["a", "b"],
}


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables")


def users(**columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame(columns)


def test_no_table_is_version_minus_one_and_reads_as_empty(tables: Tables) -> None:
    """A table that nobody wrote has version -1, its well-known columns, and no rows."""
    assert tables.versions() == {"users": -1, "devices": -1, "events": -1, "members": -1}
    for name, columns in COLUMNS.items():
        frame = tables.scan(name).collect()
        assert frame.columns == list(columns)
        assert tables.schema(name) == columns
        assert tables.row_count(name) == 0
    assert not Path(tables.root).exists()


def test_every_kind_comes_back_as_it_was_stored(tables: Tables) -> None:
    """Values of all nine kinds, and nulls of all nine, survive insert, update and clearing."""
    schema = {"user_id": pl.String(), **DTYPES}
    full, bare = {"user_id": "a", **EVERY_KIND}, {"user_id": "b"}
    tables.upsert("users", pl.DataFrame([full, bare], schema=schema), "user_id")
    assert tables.schema("users") == {"user_id": "string", **{kind: kind for kind in KINDS}}
    assert tables.scan("users").sort("user_id").collect().rows(named=True)[0] == full
    swapped = pl.DataFrame([{**bare, "user_id": "a"}, {**full, "user_id": "b"}], schema=schema)
    assert tables.upsert("users", swapped, "user_id").updated == 2
    stored = tables.scan("users").sort("user_id").collect()
    assert stored.equals(swapped.sort("user_id"))
    assert stored.select(pl.exclude("user_id").is_null()).rows() == [(True,) * 9, (False,) * 9]
    assert tables.upsert("users", swapped, "user_id").unchanged == 2


def test_upsert_counts_and_touches_only_what_differs(tables: Tables) -> None:
    """Inserted, updated and unchanged rows are told apart null-safely, and equal rows make no commit."""
    first = tables.upsert("users", users(user_id=["a", "b", "c"], age=[1, None, 3]), "user_id")
    assert (first.version, first.inserted) == (0, 3)
    second = tables.upsert("users", users(user_id=["a", "b", "c", "d"], age=[1, None, None, 4]), "user_id")
    assert second == MergeReport(version=1, inserted=1, updated=1, unchanged=2)
    again = tables.upsert("users", users(user_id=["d", "c"], age=[4, None]), "user_id")
    assert again == MergeReport(version=1, unchanged=2)
    assert tables.version("users") == 1


def test_absent_column_keeps_and_null_clears(tables: Tables) -> None:
    """A column that the frame lacks keeps what is stored; null in one that it has clears; a new one is added."""
    tables.upsert("users", users(user_id=["a", "b"], plan=["pro", "free"], age=[1, 2]), "user_id")
    tables.upsert("users", users(user_id=["a"], plan=[None], city=["Paris"]).cast({"plan": pl.String}), "user_id")
    assert tables.scan("users").sort("user_id").collect().rows(named=True) == [
        {"user_id": "a", "plan": None, "age": 1, "city": "Paris"},
        {"user_id": "b", "plan": "free", "age": 2, "city": None},
    ]


def test_a_row_may_leave_a_column_unsaid(tables: Tables) -> None:
    """Where a row is marked absent the stored value stays; a new row takes the frame's value."""
    tables.upsert("users", users(user_id=["a", "b"], age=[1, 2]), "user_id")
    frame = users(user_id=["a", "b", "c"], age=[None, None, 3]).cast({"age": pl.Int64})
    report = tables.upsert("users", frame, "user_id", absent={"age": pl.Series([True, False, True])})
    assert (report.inserted, report.updated, report.unchanged) == (1, 1, 1)
    assert tables.scan("users").sort("user_id").collect()["age"].to_list() == [1, None, 3]


def test_values_for_new_rows_only(tables: Tables) -> None:
    """`new_rows` fills a column of inserted rows and leaves that of stored rows as it is."""
    devices = pl.DataFrame({"device_id": ["d1"], "user_id": ["a"], "platform": ["ios"], "opt_in": [False]})
    tables.upsert("devices", devices, "device_id")
    more = pl.DataFrame({"device_id": ["d1", "d2"], "user_id": ["b", "b"]})
    tables.upsert("devices", more, "device_id", new_rows={"opt_in": True})
    stored = tables.scan("devices").sort("device_id").select("device_id", "user_id", "opt_in").collect()
    assert stored.rows() == [("d1", "b", False), ("d2", "b", True)]


def test_append_new_adds_each_key_once(tables: Tables) -> None:
    """Keys that are there already, in the table or in the frame, are not repeated and not changed."""
    frame = pl.DataFrame({"event_id": ["1", "1", "2"], "user_id": ["a", "b", "c"]})
    assert tables.append_new("events", frame, "event_id").inserted == 2
    again = tables.append_new("events", frame.vstack(pl.DataFrame({"event_id": ["3"], "user_id": ["d"]})), "event_id")
    assert again == MergeReport(version=1, inserted=1, unchanged=2, repeated=1)
    assert tables.append_new("events", frame, "event_id").version == 1
    assert sorted(tables.scan("events").collect()["user_id"]) == ["b", "c", "d"]


def test_append_takes_rows_as_they_are(tables: Tables) -> None:
    """`append` adds without looking, evolves the schema, and makes no commit for nothing."""
    assert tables.append("members", pl.DataFrame({"import_id": ["vip@1"], "user_id": ["a"]})) == 0
    assert tables.append("members", pl.DataFrame({"import_id": ["vip@1"], "user_id": ["a"], "note": ["x"]})) == 1
    assert tables.append("members", pl.DataFrame(schema={"import_id": pl.String})) == 1
    assert tables.scan("members").collect().shape == (2, 4)


def test_a_scan_stays_at_its_version(tables: Tables) -> None:
    """A scan made before a write reads the same rows after it, and any stored version can be read again."""
    tables.upsert("users", users(user_id=["a"]), "user_id")
    before = tables.scan("users")
    tables.upsert("users", users(user_id=["b"]), "user_id")
    assert before.collect().height == 1
    assert [tables.row_count("users", version) for version in (-1, 0, 1, None)] == [0, 1, 2, 2]
    with pytest.raises(NotFoundError, match="no version 9"):
        tables.scan("users", 9)


def test_type_change_is_refused(tables: Tables) -> None:
    """Another kind for a stored column is refused with both kinds and the column, and nothing is written."""
    tables.upsert("users", users(user_id=["a"], age=[1]), "user_id")
    for write in (tables.upsert, tables.append_new):
        with pytest.raises(ImportRefused, match=r"'age' of the table users is of type integer.*of type string"):
            write("users", users(user_id=["b"], age=["x"]), "user_id")
    with pytest.raises(ImportRefused, match="differs only in case"):
        tables.append("users", users(user_id=["b"], Age=[1]))
    assert tables.version("users") == 0


def test_odd_column_names(tables: Tables) -> None:
    """Names that SQL or a path would trip over are columns like any other."""
    names = ["select", "a.b", "a b", "q'q", 'q"q', "b`t", "é", "1st", "Upper", "a%b"]
    tables.upsert("users", pl.DataFrame({"user_id": ["a"], **{name: [1] for name in names}}), "user_id")
    tables.upsert("users", pl.DataFrame({"user_id": ["a", "b"], **{name: [2, 3] for name in names}}), "user_id")
    assert tables.scan("users").sort("user_id").collect().rows() == [("a", *[2] * 10), ("b", *[3] * 10)]


def test_unreachable_store_is_retryable_and_named(tmp_path: Path) -> None:
    """What a retry may cure is StoreUnavailable, with the place: a file for a folder, a store nobody answers at."""
    (tmp_path / "tables").write_text("not a folder")
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "tables")):
        Tables(tmp_path / "tables").versions()
    nobody = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "max_retries": "0",
    }
    with pytest.raises(StoreUnavailable, match="s3://bucket/tables/users"):
        Tables("s3://bucket/tables", nobody).version("users")


def test_a_table_that_vanishes_is_no_empty_audience(tables: Tables, tmp_path: Path) -> None:
    """A table that was there and is gone is a store that cannot be reached, until it is back, for whoever asks."""
    for age in (1, 2):
        tables.upsert("users", users(user_id=["a"], age=[age]), "user_id")
    newcomer = Tables(tables.root)
    scans = [tables.scan("users", version) for version in (0, 1)]
    (tmp_path / "tables").rename(tmp_path / "unmounted")
    asked = [lambda: tables.version("users"), lambda: tables.scan("users"), lambda: tables.upsert("users", frame, key)]
    asked += [lambda: newcomer.require("users"), lambda: newcomer.scan("users", 0), lambda: newcomer.scan("users", 1)]
    frame, key = users(user_id=["b"]), "user_id"
    for ask in asked * 2:
        with pytest.raises(StoreUnavailable, match=f"no table users at {tables.place('users')}.*not mounted") as said:
            ask()
        assert "Mount it" in said.value.hint
    for scan in scans:
        with pytest.raises(StoreUnavailable, match="no table users"):
            tables.collect(scan)
    assert not Path(tables.root).exists()
    (tmp_path / "unmounted").rename(tmp_path / "tables")
    assert tables.version("users") == newcomer.version("users") == 1
    assert [tables.collect(scan)["age"].to_list() for scan in scans] == [[1], [2]]
    assert newcomer.scan("users", 0).collect()["age"].to_list() == [1]


WRITER = """
import sys, time
import polars as pl
from activities.tables.delta import Tables
root, me, start = sys.argv[1:]
tables = Tables(root)
while time.time() < float(start):
    pass
for step in range(6):
    tables.upsert("users", pl.DataFrame({"user_id": [f"both-{step}", f"{me}-{step}"], me: [step, step]}), "user_id")
    tables.append_new("events", pl.DataFrame({"event_id": [f"both-{step}", f"{me}-{step}"]}), "event_id")
"""


def test_two_processes_at_once_both_land(tmp_path: Path, tables: Tables) -> None:
    """Two processes that create and write the same tables lose no row, double none, and merge column by column."""
    start = str(time.time() + 1.5)
    arguments = [[sys.executable, "-c", WRITER, tables.root, me, start] for me in ("x", "y")]
    both = [subprocess.Popen(each, cwd=Path(__file__).parent.parent) for each in arguments]
    assert [process.wait(60) for process in both] == [0, 0]
    assert tables.versions() == {"users": 11, "devices": -1, "events": 11, "members": -1}
    stored = tables.scan("users").collect()
    assert stored.height == stored["user_id"].n_unique() == 18
    common = stored.filter(pl.col("user_id").str.starts_with("both")).sort("user_id")
    assert common["x"].to_list() == common["y"].to_list() == list(range(6))
    assert tables.row_count("events") == 18


def test_threads_share_one_handle_cache(tables: Tables) -> None:
    """Threads that write and read at once all land, and no reader sees half a commit."""
    heights: list[int] = []

    def write(me: int) -> None:
        for step in range(4):
            tables.upsert("users", users(user_id=[f"{me}-{step}-{row}" for row in range(10)]), "user_id")
            heights.append(tables.scan("users").collect().height)

    threads = [threading.Thread(target=write, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert tables.row_count("users") == 120
    assert len(heights) == 12
    assert all(height % 10 == 0 for height in heights)


KILLED = """
import sys
import polars as pl
from activities.tables.delta import Tables
tables = Tables(sys.argv[1])
everyone = [f"{n}" for n in range(20_000)]
step = 0
while True:
    step += 1
    tables.upsert("users", pl.DataFrame({"user_id": everyone, "n": [step] * 20_000}), "user_id")
    print(step, flush=True)
"""


def test_killed_at_any_moment_leaves_before_or_after(tmp_path: Path, tables: Tables) -> None:
    """A writer killed with SIGKILL in the middle of its work leaves one version whole: all rows of one step."""
    for delay in (0.0, 0.03, 0.09):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, tables.root],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        stored = Tables(tables.root).scan("users").collect()
        assert stored.height == 20_000
        assert stored["n"].n_unique() == 1
    assert tables.upsert("users", users(user_id=["0"], n=[-1]), "user_id").updated == 1
