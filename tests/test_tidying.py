"""Tidying a table changes no row, removes what nothing needs, and says of what is gone that it was vacuumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from activities.tables.delta import Tables
from activities.tables.log import RETENTION
from activities.tables.schema import TableName
from activities.tables.tidying import forget_versions, tidy
from tests.house import House
from workflows.errors import NotFoundError, StoreUnavailable
from workflows.upkeep import TidiedTable

NONE = timedelta(0)
DAY = timedelta(days=1)

KILLED = """
import os, signal, sys
from deltalake import DeltaTable
from activities.tables.delta import Tables
from activities.tables.tidying import forget_versions
DeltaTable.create_checkpoint = lambda table: os.kill(os.getpid(), signal.SIGKILL)
forget_versions(Tables(sys.argv[1]), "users")
"""
"""Forgets versions, and is killed in the middle."""


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables")


def users(*ids: str, plan: str = "free") -> pl.DataFrame:
    return pl.DataFrame({"user_id": ids, "plan": [plan] * len(ids)}, schema={"user_id": pl.String, "plan": pl.String})


def tidied(
    tables: Tables, needed: tuple[int, ...] = (), retain: timedelta = NONE, *, dry_run: bool = False
) -> TidiedTable:
    found = tidy(tables, "users", retain=retain, needed=needed, now=datetime.now(UTC), dry_run=dry_run)
    assert found is not None
    return found


def rows(tables: Tables, version: int | None = None, name: TableName = "users") -> list[tuple[Any, ...]]:
    return sorted(tables.collect(tables.scan(name, version)).rows(), key=repr)


def test_compaction_changes_no_row_and_is_one_commit(tables: Tables) -> None:
    """Many small files become one in one commit, with the same rows; what was replaced stays for its time."""
    for number in range(6):
        tables.append("users", users(f"u{number}"))
    before = rows(tables)
    foretold = tidied(tables, retain=DAY, dry_run=True)
    assert (foretold.version, foretold.files_before, foretold.files_after, foretold.vacuumed) == (5, 6, 1, 0)
    done = tidied(tables, retain=DAY)
    assert done.model_dump() == {"table": "users", "version": 6, "files_before": 6, "files_after": 1, "vacuumed": 0}
    assert rows(tables) == before
    assert [len(rows(tables, version)) for version in range(7)] == [1, 2, 3, 4, 5, 6, 6]
    again = tidied(tables, retain=DAY)
    assert (again.version, again.files_before, again.files_after) == (6, 1, 1)


def test_vacuum_removes_what_nothing_needs_and_says_so(tables: Tables) -> None:
    """Replaced files go after their time; the newest version stays whole; an older one is refused as vacuumed."""
    for plan in ("free", "paid", "pro"):
        tables.upsert("users", users("a", "b", plan=plan), "user_id")
    scanned_before = tables.scan("users", 0)
    assert tidied(tables, dry_run=True).vacuumed == 2
    assert tidied(tables, retain=DAY).vacuumed == 0
    assert rows(tables, 0) == [("a", "free"), ("b", "free")]
    assert tidied(tables).vacuumed == 2
    assert rows(tables) == [("a", "pro"), ("b", "pro")]
    with pytest.raises(NotFoundError, match="version 0 of the table users was vacuumed") as refused:
        tables.collect(scanned_before)
    assert refused.value.code == "vacuumed"
    assert "newest version" in refused.value.hint
    with pytest.raises(NotFoundError, match="version 1 of the table users was vacuumed"):
        Tables(tables.root).row_count("users", 1)
    assert tidied(tables).version == tables.version("users"), "a vacuum that finds nothing commits nothing"


def test_a_version_whose_log_is_gone_was_vacuumed(tables: Tables) -> None:
    """A version that the log has forgotten is refused as vacuumed; one that never was, as unknown."""
    for number in range(4):
        tables.append("users", users(f"u{number}"))
    tables.handle("users", 3).create_checkpoint()
    for version in range(3):
        (Path(tables.place("users")) / "_delta_log" / f"{version:020}.json").unlink()
    fresh = Tables(tables.root)
    with pytest.raises(NotFoundError, match="version 1 of the table users was vacuumed"):
        fresh.scan("users", 1)
    with pytest.raises(NotFoundError, match="no version 9"):
        fresh.scan("users", 9)
    assert len(rows(fresh)) == 4


def test_a_file_that_the_newest_version_needs_is_no_vacuum(tables: Tables) -> None:
    """A damaged table is a store that cannot be used, which is retried, and never taken for a vacuumed version."""
    tables.append("users", users("a"))
    next(Path(tables.place("users")).glob("*.parquet")).unlink()
    with pytest.raises(StoreUnavailable, match="No such file"):
        tables.row_count("users")


def test_needed_versions_survive(tables: Tables) -> None:
    """A needed version, and all that are newer, stay readable whatever the retention; older ones go."""
    for plan in ("a", "b", "c", "d"):
        tables.upsert("users", users("u", plan=plan), "user_id")
        time.sleep(0.01)
    assert tidied(tables, needed=(1, 77)).vacuumed == 0
    assert [rows(tables, version) for version in (1, 2, 3)] == [[("u", "b")], [("u", "c")], [("u", "d")]]
    assert tidied(tables).vacuumed == 3


def test_a_killed_imports_leavings_go_after_a_day(tables: Tables) -> None:
    """A file that no commit names stays while it may belong to an import under way, and goes after a day."""
    tables.append("users", users("a"))
    stray = Path(tables.place("users")) / "part-00000-stray-c000.snappy.parquet"
    stray.write_bytes(b"half a file")
    assert tidied(tables).vacuumed == 0
    os.utime(stray, (time.time() - 2 * 86_400,) * 2)
    assert tidied(tables, retain=timedelta(hours=1)).vacuumed == 0
    assert tidied(tables, retain=DAY).vacuumed == 1
    assert not stray.exists()
    assert len(rows(tables)) == 1


def test_members_of_saved_versions_survive(house: House) -> None:
    """Compaction and vacuum leave each saved version of an imported segment whole."""
    for user in ("u1", "u2", "u3"):
        house.stores.tables.append("members", pl.DataFrame({"import_id": [user], "user_id": [user]}), once=user)
    now = datetime.now(UTC)
    done = tidy(house.stores.tables, "members", retain=NONE, needed=(), now=now, dry_run=False)
    assert done is not None
    assert (done.files_before, done.files_after, done.vacuumed) == (3, 1, 3)
    found = house.stores.tables.collect(house.stores.tables.scan("members").filter(import_id="u2"))
    assert found["user_id"].to_list() == ["u2"]


def kept_for(tables: Tables) -> str | None:
    return tables.handle("users", tables.version("users")).metadata().configuration.get(RETENTION)


def require_remembered(tables: Tables, version: int, expected: int) -> None:
    """Hold a table to its log being kept, whatever checkpoint is made of it."""
    assert kept_for(tables) == "interval 365 days"
    handle = tables.handle("users", tables.version("users"))
    handle.create_checkpoint()
    handle.cleanup_metadata()
    assert len(rows(Tables(tables.root), version)) == expected


def test_versions_are_kept_again_after_a_kill(tables: Tables) -> None:
    """Killed while it forgets versions, a table remembers all later ones: erased again, written, or tidied."""
    tables.append("users", users("a"))
    tables.append("users", users("b"))
    killed = subprocess.run([sys.executable, "-c", KILLED, tables.root], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert kept_for(tables) == "interval 0 days"
    mended: dict[str, Callable[[Tables], object]] = {
        "erased": lambda found: forget_versions(found, "users"),
        "written": lambda found: found.upsert("users", users("c"), "user_id"),
        "tidied": lambda found: tidied(found, retain=DAY),
    }
    for name, mend in mended.items():
        shutil.copytree(tables.root, f"{tables.root}-{name}")
        found = Tables(f"{tables.root}-{name}")
        mend(found)
        version, height = found.version("users"), len(rows(found))
        found.append("users", users("d"))
        require_remembered(found, version, height)


def test_versions_are_forgotten_beside_a_writer(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while a table forgets its versions stays, what was before goes, and later versions are kept."""
    tables.append("users", users("a"))
    other, checkpoint = Tables(tables.root), DeltaTable.create_checkpoint

    def beside(table: DeltaTable) -> None:
        other.append("users", users("beside"))
        checkpoint(table)

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_checkpoint", beside)
        forget_versions(tables, "users")
    with pytest.raises(NotFoundError, match="version 0 of the table users was vacuumed"):
        Tables(tables.root).scan("users", 0)
    version = tables.version("users")
    tables.append("users", users("later"))
    require_remembered(tables, version, 2)
