"""Revisions of the tables make what the modules declare, from nothing and from what is there, on each database."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import Connection, text

from activities.records import migrations
from activities.records.database import METADATA, Database
from scripts.migrations import differences, load_tables, main
from workflows.errors import RefusedError

ROOT = Path(__file__).resolve().parents[1]

PUSH = """
INSERT INTO pushes (passage, step, device_id, journey, version, element, user_id, at, provider, outcome, title, message,
                    capped_by)
VALUES ('p', 1, 'd', 'j', 1, 'promo', 'u1', 't', 'outbox', 'accepted', 'Hi', '{}', 1)
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    found = Database(database_url)
    yield found
    found.close()


def execute(database: Database, *statements: str) -> None:
    database.write_now(lambda connection: [connection.execute(text(one)) for one in statements])


def values(database: Database, query: str) -> list[Any]:
    return database.read(lambda connection: [tuple(row) for row in connection.execute(text(query))])


def test_the_revisions_make_what_is_declared(database: Database) -> None:
    """Tables, columns and indexes after all revisions are those that the modules declare; anything else is told."""
    database.create()
    assert database.write_now(differences) == [], "write the missing revision: python -m scripts.migrations new WHY"
    execute(database, "DROP INDEX pushes_by_user", "ALTER TABLE passages DROP COLUMN exit", "DROP TABLE refusals")
    found = str(database.write_now(differences))
    for lost in ("pushes_by_user", "exit", "refusals"):
        assert lost in found


def test_revisions_are_numbered_without_a_gap() -> None:
    """Revisions are 0001, 0002, ..., each after the one before; the last is the one that programs compare with."""
    folder = ScriptDirectory(str(migrations.FOLDER))
    numbers = [revision.revision for revision in reversed(list(folder.walk_revisions()))]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert [folder.get_current_head()] == [migrations.newest()] == numbers[-1:]


def _create(url: str, ready: Any) -> None:
    ready.wait()
    database = Database(url)
    database.create()
    database.close()


def test_processes_that_start_at_once_all_find_the_tables(database: Database) -> None:
    """Four processes open one empty database at the same moment: all succeed, and the tables are there once."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(4)
    opening = [context.Process(target=_create, args=(database.url, ready)) for _ in range(4)]
    for process in opening:
        process.start()
    for process in opening:
        process.join(60)
    assert [process.exitcode for process in opening] == [0] * 4
    assert values(database, "SELECT version_num FROM alembic_version") == [(migrations.newest(),)]
    assert database.write_now(differences) == []


def test_a_ledger_from_before_the_revisions_is_taken_over(database: Database) -> None:
    """A ledger without a revision, and without some later tables and columns, keeps its rows and gets what it lacks."""
    load_tables()
    database.write_now(METADATA.create_all)
    execute(database, "DROP INDEX pushes_by_user", "ALTER TABLE pushes DROP COLUMN attempts", "DROP TABLE refusals")
    execute(database, "ALTER TABLE passages DROP COLUMN exit", "CREATE TABLE theirs (id INTEGER)", PUSH)
    for _ in range(2):
        database.create()
        assert values(database, "SELECT user_id, attempts FROM pushes") == [("u1", 0)]
        assert database.read(migrations.revision) == migrations.newest()
    assert values(database, "SELECT count(*) FROM theirs") == [(0,)]
    execute(database, "DROP TABLE theirs")
    assert database.write_now(differences) == []


def test_a_later_programs_ledger_is_refused(database: Database) -> None:
    """A ledger whose revision this program does not know is left alone, and the message says what to install."""
    database.create()
    execute(database, "UPDATE alembic_version SET version_num = '9001'")
    with pytest.raises(RefusedError, match="install the version of this program") as refused:
        database.create()
    assert refused.value.code == "later-ledger"


OPEN = """
import sys
from activities.records.database import Database
database = Database(sys.argv[1])
database.create()
database.close()
print("alembic" in sys.modules)
"""


def test_opening_loads_alembic_only_when_there_is_work(database: Database) -> None:
    """The first opening of a database runs alembic; every later one asks one question and does not even load it."""
    said = [
        subprocess.run([sys.executable, "-c", OPEN, database.url], cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [one.stdout.strip() for one in said] == ["True", "False"]
    assert [one.stderr for one in said] == ["", ""]


def test_the_next_revision_is_written_by_itself(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`new` writes what is declared and missing; a column that is never null reaches the rows that are there."""
    folder = tmp_path / "revisions"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]_*"))
    (first,) = (folder / "versions").glob("0001_*.py")
    before = re.sub(r".*\"attempts\".*\n", "", first.read_text())
    first.write_text(re.sub(r".*\"pushes_by_user\".*\n", "", before))
    monkeypatch.setattr(migrations, "FOLDER", folder)
    migrations.newest.cache_clear()
    monkeypatch.setattr(migrations, "newest", migrations.newest.__wrapped__)
    database.create()
    assert database.read(migrations.revision) == "0001"
    execute(database, PUSH)
    assert CliRunner().invoke(main, ["check"]).exit_code == 1
    done = CliRunner().invoke(main, ["new", "Count the tries"], catch_exceptions=False)
    assert (done.exit_code, migrations.newest()) == (0, "0002")
    assert (folder / "versions" / "0002_count_the_tries.py").exists()
    assert CliRunner().invoke(main, ["check"]).exit_code == 0
    database.create()
    assert values(database, "SELECT user_id, attempts FROM pushes") == [("u1", 1)]
    assert database.write_now(differences) == []
    assert "nothing to write" in CliRunner().invoke(main, ["new", "Once more"]).output


def test_what_fails_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision that fails half-way leaves the database as it was, and the next opening finishes it."""
    upgrade = migrations.upgrade

    def half(connection: Connection) -> None:
        upgrade(connection)
        raise ZeroDivisionError

    monkeypatch.setattr(migrations, "upgrade", half)
    with pytest.raises(ZeroDivisionError):
        database.create()
    monkeypatch.undo()
    assert database.read(migrations.revision) is None
    assert len(database.write_now(differences)) > 5
    database.create()
    assert database.write_now(differences) == []
