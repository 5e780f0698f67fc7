"""Columns kept in memory give what a scan of the same version gives, and read each file once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from activities.records.catalogue import Catalogue
from activities.records.database import Database
from activities.segments.segments import Segments
from activities.tables import kept_columns
from activities.tables.delta import Tables
from activities.tables.kept_columns import KeptColumns, Reading
from activities.tables.schema import DTYPES, TableName
from activities.tables.tidying import tidy
from tests.condition_tables import CONDITION, euros
from workflows.errors import NotFoundError, StoreUnavailable

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
VALUES: dict[str, list[Any]] = {
    "integer": [1, None, 3],
    "number": [0.5, None, -1.0],
    "string": ["short", None, "a text that is longer than twelve bytes, é"],
    "boolean": [True, None, False],
    "date": [date(2026, 1, 1), None, date(2024, 2, 29)],
    "instant": [NOW, None, NOW - timedelta(microseconds=1)],
    "price": [euros("19.99"), None, euros("0.0001", "USD")],
    "version": [{"text": "1.10", "order": 1_0010_0000_0000}, None, {"text": "2", "order": 2_0000_0000_0000}],
    "list": [["a", "a text that is longer than twelve bytes"], None, []],
}
MEBIBYTE = 1 << 20


class CountedTables(Tables):
    """Real tables that count the files which are read whole."""

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.read: list[tuple[int, set[str]]] = []

    def scan_files(self, uris: Any, schema: Any) -> pl.LazyFrame:
        self.read.append((len(uris), set(schema)))
        return super().scan_files(uris, schema)


@pytest.fixture
def tables(tmp_path: Path) -> CountedTables:
    return CountedTables(tmp_path / "tables")


def people(*names: str, **columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"user_id": list(names)}).with_columns(**columns)


def whole(number: int) -> pl.Expr:
    return pl.lit(number, pl.Int64)


def reading(*columns: str, since: datetime | None = None) -> Reading:
    return Reading(frozenset(columns), since)


def asked_twice(kept: KeptColumns, tables: Tables, name: TableName = "users", version: int | None = None) -> None:
    """Ask for all columns, until they are kept, and hold each answer against the scan."""
    version = tables.version(name) if version is None else version
    whole = tables.scan(name, version).collect()
    for _ in range(3):
        found = kept.frame(name, version, reading(*whole.columns)).collect()
        assert_frame_equal(found, whole, check_row_order=False)


def damage(tables: Tables, name: TableName = "users") -> None:
    """Take the files away, so that whoever reads one fails."""
    for file in Path(tables.place(name)).glob("*.parquet"):
        file.rename(file.with_suffix(".gone"))


def test_every_kind_of_column_is_as_the_scan_gives_it(tables: CountedTables) -> None:
    """Kept columns of every kind, lists, prices and nulls among them, have the scan's values and dtypes."""
    frame = people("a", "b", "c").with_columns(
        pl.Series(kind, values, dtype=DTYPES[kind])  # type: ignore[index]
        for kind, values in VALUES.items()
    )
    tables.append("users", frame)
    kept = KeptColumns(tables, MEBIBYTE)
    asked_twice(kept, tables)
    assert tables.read == [(1, set(frame.columns))]
    # 3 ids, 3 texts and 2 of a list, of prices and of versions: a view each, and what is too long for one.
    assert kept.size_bytes > 16 * (3 + 3 + 2 + 3 + 3) + len(VALUES["string"][2])


def test_every_version_is_as_the_scan_gives_it(tables: CountedTables) -> None:
    """After appended files, added columns, merges, removals and compaction, each version has the rows of its own."""
    kept = KeptColumns(tables, MEBIBYTE)
    tables.append("users", people("a", "b", age=whole(1)))
    tables.append("users", people("c", plan=pl.lit("paid")))
    tables.append("users", people("d", tags=pl.lit(["x"])))
    tables.upsert("users", people("a", "e", plan=pl.lit("pro"), price=pl.lit(euros("1"), DTYPES["price"])), "user_id")
    tables.remove("users", people("c"), "user_id")
    tidy(tables, "users", retain=timedelta(days=1), needed=(), now=datetime.now(UTC), dry_run=False)
    newest = tables.version("users")
    for version in [*range(newest + 1), *reversed(range(newest + 1)), -1]:
        asked_twice(kept, tables, version=version)
    assert newest >= 5


def test_the_second_reading_reads_the_files_and_no_later_one_does(tables: CountedTables) -> None:
    """What is asked once is scanned; asked again it is read whole; after that, no file is read any more."""
    tables.append("users", people("a", "b", age=whole(1)))
    kept = KeptColumns(tables, MEBIBYTE)
    kept.frame("users", 0, reading("user_id", "age"))
    assert (tables.read, kept.size_bytes) == ([], 0)
    kept.frame("users", 0, reading("user_id", "age"))
    assert tables.read == [(1, {"user_id", "age"})]
    damage(tables)
    found = kept.frame("users", 0, reading("age", "user_id", "unknown")), kept.frame("users", 0, reading("age"))
    with pytest.raises(StoreUnavailable, match="No such file"):
        tables.collect(found[0])  # an unknown column was never asked for
    assert found[1].collect().to_dict(as_series=False) == {"age": [1, 1]}


def test_an_appended_file_alone_is_read(tables: CountedTables) -> None:
    """After an import only its file is read, and of a column that is new to us only that column."""
    tables.append("users", people("a", age=whole(1), plan=pl.lit("x")))
    tables.append("users", people("b", age=whole(2), plan=pl.lit("y")))
    kept = KeptColumns(tables, MEBIBYTE)
    for columns in (("user_id", "age"), ("user_id", "plan")):
        for _ in range(2):
            kept.frame("users", 1, reading(*columns))
    assert [number for number, _ in tables.read] == [2, 2]
    held = kept.size_bytes
    damage(tables)
    tables.append("users", people("c", age=whole(3)))
    found = kept.frame("users", 2, reading("user_id", "age", "plan")).collect()
    assert sorted(found.select("user_id", "age", "plan").rows()) == [("a", 1, "x"), ("b", 2, "y"), ("c", 3, None)]
    assert held < kept.size_bytes < 2 * held
    assert [number for number, _ in tables.read] == [2, 2, 1]


def test_a_window_reads_the_files_in_it(tables: CountedTables) -> None:
    """Files all of whose events are before the window are not read; an event at its very edge is there."""
    edge = NOW - timedelta(days=30, microseconds=1)
    for number, at in enumerate([NOW - timedelta(days=90), edge + timedelta(microseconds=1), edge, NOW]):
        tables.append("events", pl.DataFrame({"user_id": [f"u{number}"], "event": ["buy"], "at": [at]}))
    kept, columns = KeptColumns(tables, MEBIBYTE), ("user_id", "event", "at")
    for since in (NOW - timedelta(days=30), NOW - timedelta(days=30), None, None):
        found = kept.frame("events", 3, reading(*columns, since=since)).collect()
        users = found.filter(since is None or pl.col("at") >= since).get_column("user_id").to_list()
        assert sorted(users) == (["u0", "u1", "u2", "u3"] if since is None else ["u1", "u3"])
    # The log tells instants to the millisecond: the event a microsecond before the window is read too.
    assert [number for number, _ in tables.read] == [3, 1]


@pytest.mark.parametrize("limit", [0, 1, 20_000, 100_000])
def test_the_memory_held_stays_within_its_limit(tables: CountedTables, limit: int) -> None:
    """Whatever is asked for, no more is held than is allowed, and the answer is the scan's; also for long texts."""
    text = "long" * 10
    for number in range(8):
        names = [f"u{number}-{row}" for row in range(100)]
        tables.append("users", people(*names, age=whole(number), plan=pl.lit(text) + pl.col("user_id")))
    kept = KeptColumns(tables, limit)
    for version in (7, 3, 7):
        for columns in (("user_id", "age"), ("user_id", "plan"), ("user_id", "age", "plan")):
            for _ in range(3):
                found = kept.frame("users", version, reading(*columns)).select(columns).collect()
                assert_frame_equal(
                    found, tables.scan("users", version).select(columns).collect(), check_row_order=False
                )
                assert kept.size_bytes <= limit
    assert bool(tables.read) == (limit > 1)
    assert limit < 100_000 or kept.size_bytes > 8 * 100 * (16 + 8 + 16 + 40)


def test_what_does_not_fit_throws_nothing_out(tables: CountedTables) -> None:
    """A table that is too large is tried once, then scanned, and what was kept of others is there still."""
    tables.append("users", people(*[f"u{row}" for row in range(100)], age=whole(1)))
    for number in range(20):
        events = pl.DataFrame({"user_id": [f"u{row}" for row in range(100)]}).with_columns(note=pl.lit("x" * 500))
        tables.append("events", events, once=str(number))
    kept = KeptColumns(tables, 100_000)
    asked_twice(kept, tables)
    held, before = kept.size_bytes, len(tables.read)
    for _ in range(5):
        found = kept.frame("events", 19, reading("user_id", "note")).collect()
        assert found.height == 2_000
        assert kept.size_bytes == held
    assert 1 <= len(tables.read) - before <= 3
    damage(tables)
    assert kept.frame("users", 0, reading("user_id", "age")).collect().height == 100


def test_what_is_replaced_or_idle_makes_room(tables: CountedTables, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of replaced files leave at once where room is needed; those of others once they were idle for a while."""
    names = [f"u{row}" for row in range(100)]
    tables.append("users", people(*names, age=whole(0)))
    tables.append("devices", pl.DataFrame({"device_id": names, "user_id": names}))
    kept = KeptColumns(tables, 3_500)
    for version in range(3):
        tables.upsert("users", people(*names, age=whole(version + 1)), "user_id")
        asked_twice(kept, tables)
        assert len(tables.read) == version + 1
        assert kept.size_bytes <= 3_500
    of_devices = reading("device_id", "user_id")
    for _ in range(3):
        kept.frame("devices", 0, of_devices)
    assert len(tables.read) == 3, "users are asked for all the time"
    monkeypatch.setattr(kept_columns, "IDLE_SECONDS", -1)
    kept.frame("devices", 0, of_devices)
    damage(tables, "devices")
    assert kept.frame("devices", 0, of_devices).select(pl.len()).collect().item() == 100
    assert kept.size_bytes == 100 * (16 + 16)


def test_those_who_ask_at_once_share_one_reading(tables: CountedTables) -> None:
    """Sixteen threads that want the same columns get the scan's rows, and each file is read once for all of them."""
    for number in range(4):
        tables.append("users", people(*[f"u{number}-{row}" for row in range(50)], age=whole(number)))
    kept, wanted, start = KeptColumns(tables, MEBIBYTE), reading("user_id", "age"), threading.Barrier(16)
    kept.frame("users", 3, wanted)

    def ask(number: int) -> pl.DataFrame:
        start.wait(10)
        return kept.frame("users", number % 2 + 2, wanted).collect()

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    for number, frame in enumerate(found):
        assert_frame_equal(frame, tables.scan("users", number % 2 + 2).collect(), check_row_order=False)
    assert sum(number for number, _ in tables.read) == 4


def test_what_others_made_of_a_table_is_scanned(tables: CountedTables) -> None:
    """A table whose files alone do not tell its rows, such as one with partitions, is scanned each time."""
    frame = people("a", "b", plan=pl.Series(["x", "y"]))
    frame.write_delta(tables.place("users"), delta_write_options={"partition_by": ["plan"]})
    asked_twice(KeptColumns(tables, MEBIBYTE), tables)
    assert tables.read == []


def test_failures_are_worded_as_those_of_a_scan(tables: CountedTables) -> None:
    """A vacuumed version is not found, a file that has to be there is an outage, and nothing is kept of either."""
    for plan in ("free", "paid", "pro"):
        tables.upsert("users", people("a", "b", plan=pl.lit(plan)), "user_id")
    kept, wanted = KeptColumns(tables, MEBIBYTE), reading("user_id", "plan")
    kept.frame("users", 0, wanted)
    tidy(tables, "users", retain=timedelta(0), needed=(), now=datetime.now(UTC), dry_run=False)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="version 0 of the table users was vacuumed") as refused:
            kept.frame("users", 0, wanted)
        assert refused.value.code == "vacuumed"
    damage(tables)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="No such file"):
            kept.frame("users", tables.version("users"), wanted)
    assert kept.size_bytes == 0
    with pytest.raises(NotFoundError, match="no version 99"):
        kept.frame("users", 99, wanted)


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    database.create()
    yield Catalogue(database)
    database.close()


def test_evaluations_are_those_without_memory(tables: CountedTables, catalogue: Catalogue) -> None:
    """A segment has the same users from kept columns, whatever was imported meanwhile, and at older versions too."""
    rows = [f"u{number}" for number in range(30)]
    tables.append("users", people(*rows, age=pl.int_range(30, dtype=pl.Int64)))
    remembering = Segments(tables, catalogue, "UTC", columns=KeptColumns(tables, MEBIBYTE))
    forgetting = Segments(tables, catalogue, "UTC")
    dear = {"property": "amount", "more_than": {"attribute": "age"}}
    node = CONDITION.validate_python(
        {
            "any": [
                {"attribute": "age", "at_least": "25"},
                {"device": "platform", "is": "ios"},
                {
                    "event": "buy",
                    "within_last": "30d",
                    "where": dear,
                },
            ]
        }
    )
    recorded = []
    for number in range(4):
        if number == 1:
            tables.append("devices", pl.DataFrame({"device_id": ["d"], "user_id": ["u1"], "platform": ["ios"]}))
        events = pl.DataFrame({"user_id": rows[2:9], "event": "buy", "at": NOW - timedelta(days=20 * number)})
        tables.append("events", events.with_columns(amount=whole(4 + number)))
        for _ in range(3):
            found, wanted = (one.evaluate(node, NOW) for one in (remembering, forgetting))
            assert (found.users.equals(wanted.users), found.tables) == (True, wanted.tables)
        recorded.append(found)
    assert tables.read
    assert len({tuple(one.users.get_column("user_id")) for one in recorded}) > 1
    for one in recorded:
        assert remembering.evaluate(node, NOW, versions=one.tables).users.equals(one.users)
