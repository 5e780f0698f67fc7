"""Rows kept in memory are the table's, at every version."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from activities.push.devices import reachable
from activities.tables.delta import Tables
from activities.tables.kept import KeptRows
from workflows.errors import NotFoundError, StoreUnavailable

USERS = [f"u{number:03}" for number in range(300)]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    found = Tables(tmp_path / "tables")
    found.upsert("users", pl.DataFrame({"user_id": USERS}).with_columns(plan=pl.lit("paid")), "user_id")
    devices = pl.DataFrame({"device_id": [f"d{n}-{user}" for user in USERS for n in (2, 1)]}).with_columns(
        user_id=pl.col("device_id").str.slice(3), platform=pl.lit("ios"), opt_in=pl.col("device_id") != "d1-u007"
    )
    found.upsert("devices", devices, "device_id")
    return found


def told(rows: KeptRows, users: list[str], version: int | None = None) -> pl.DataFrame:
    """Ask until it is asked of the kept rows, if they are kept at all."""
    first = rows.of(users, version)
    for _ in range(3):
        assert_frame_equal(rows.of(users, version), first)
    return first


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["scanned", "kept"])
def test_rows_are_those_of_the_newest_version(tables: Tables, limit: int) -> None:
    """Scanned or kept, the rows are those of the version that is newest when they are asked for, or of that named."""
    rows = KeptRows(tables, "users", limit)
    assert told(rows, ["u007", "nobody", "u001", "u007"]).rows() == [("u001", "paid"), ("u007", "paid")]
    tables.upsert("users", pl.DataFrame({"user_id": ["u001", "w"], "plan": [None, "pro"]}), "user_id")
    assert told(rows, ["w", "u007", "u001"]).rows() == [("u001", None), ("u007", "paid"), ("w", "pro")]
    assert told(rows, ["w", "u001"], 0).rows() == [("u001", "paid")]
    assert told(rows, ["w", "u001"], 1).rows() == [("u001", None), ("w", "pro")]
    assert told(rows, []).is_empty()
    with pytest.raises(NotFoundError):
        rows.of(["u001"], 9)


@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["scanned", "kept"])
def test_only_the_chosen_rows_in_the_order_of_their_keys(tables: Tables, limit: int) -> None:
    """A user's devices come in the order of their ids, and only those that were chosen."""
    rows = KeptRows(tables, "devices", limit, lambda found: reachable(found, "outbox"))
    found = told(rows, ["u008", "u007"])
    assert found.get_column("device_id").to_list() == ["d2-u007", "d1-u008", "d2-u008"]
    assert set(found.get_column("provider")) == {"outbox"}


def test_kept_once_scans_have_cost_as_much(tables: Tables) -> None:
    """A version's files are not read again once its rows are kept; a table over the limit is scanned every time."""
    kept, scanned = KeptRows(tables, "users", 1 << 30), KeptRows(tables, "users", 300 * 2 * 16 - 1)
    for rows in (kept, scanned):
        told(rows, ["u001"])
    for file in Path(tables.place("users")).glob("*.parquet"):
        file.unlink()
    assert kept.of(["u001"]).rows() == [("u001", "paid")]
    with pytest.raises(StoreUnavailable):
        scanned.of(["u001"])


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """A missing table has no rows, and is an outage where it has to be there."""
    tables = Tables(tmp_path / "tables")
    assert KeptRows(tables, "devices", 1 << 30).of(["u001"]).is_empty()
    with pytest.raises(StoreUnavailable, match="there is no table users"):
        KeptRows(tables, "users", 1 << 30, required=True).of(["u001"])
