"""An import killed with -9 at any moment: each table, segment and file of rejects is as before or as after."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from activities.records.catalogue import ImportedSegment
from activities.segments.imported import import_segment, read_members
from activities.stores import Stores
from activities.tables.imports import ImportedTable, import_table
from activities.tables.temporary import temporary_folder
from activities.upkeep import tidy_tables
from workers.opening import open_stores
from workers.settings import Settings
from workflows.errors import NotFoundError
from workflows.upkeep import UpkeepInput

ROWS = 2_000
BAD = 300
KILLS = 6
SPREAD_SECONDS = 0.6
"""About how long one round of four imports takes on a busy machine."""

TABLES: tuple[ImportedTable, ...] = ("users", "devices", "events")

IMPORTER = """
import itertools, sys
from pathlib import Path
from tests.test_killed_imports import import_round
from workers.opening import open_stores
from workers.settings import Settings
home, first = sys.argv[1:]
with open_stores(Settings(home=Path(home))) as stores:
    for step in itertools.count(int(first)):
        print(step, flush=True)
        import_round(stores, Path(home), step)
"""

KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from activities.tables import imports
from activities.tables.delta import Tables
imports.type_columns = lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL)
home = Path(sys.argv[1])
imports.import_table(Tables(home / "tables"), "users", home / "users.csv", now=datetime.now(UTC))
"""


def import_round(stores: Stores, folder: Path, step: int) -> None:
    """Import users, devices, events and a list of ids, each of one step, and each with rows that are refused."""
    numbers = range(ROWS)
    texts = {
        "users": "user_id,step\n" + "".join(f"u{n},{step}\n" for n in numbers),
        # Devices change hands to users whom nobody imported.
        "devices": "device_id,user_id,platform,step\n" + "".join(f"d{n},x{step}-{n},ios,{step}\n" for n in numbers),
        "events": "user_id,event,at,step\n" + "".join(f"u{n},opened,2026-01-15T10:00:00Z,{step}\n" for n in numbers),
        "vip": "user_id,step\n" + "".join(f"u{n},{step}\n" for n in range(step, step + ROWS // 2)),
    }
    now = datetime.now(UTC)
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text + f"broken {step}\n" * BAD)
    for table in TABLES:
        import_table(stores.tables, table, folder / f"{table}.csv", now=now, rejects_dir=folder)
    listed = read_members(
        stores.tables, "vip", folder / "vip.csv", column=None, identifier="user_id", rejects_dir=folder
    )
    import_segment(stores.tables, stores.catalogue, listed, now)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def stores(home: Path) -> Iterator[Stores]:
    with open_stores(Settings(home=home)) as found:
        yield found


def kill_after(home: Path, step: int, seconds: float) -> int:
    """Import from a step on in a process of its own, kill it, and give the step that it was in."""
    command = [sys.executable, "-c", IMPORTER, str(home), str(step)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return int([said, *rest.splitlines()][-1])


def require_whole(stores: Stores, home: Path, step: int) -> tuple[int, ...]:
    """Hold everything to one step or the one before, and give which: users, devices, events, segment."""
    tables = {name: stores.tables.scan(name).collect() for name in TABLES}
    reached = []
    known = tables["users"].filter(pl.col("user_id").str.starts_with("u"))
    for table, rows in (("users", known), ("devices", tables["devices"])):
        steps = rows["step"].unique().to_list() if rows.height else [step - 1]
        assert len(steps) == 1, f"{table} of several steps: {steps}"
        assert rows.height in ({0, ROWS} if step == 1 else {ROWS})
        reached.append(steps[0])
    assert tables["devices"].join(tables["users"], on="user_id", how="anti").height == 0
    events = tables["events"]["step"].to_list() if tables["events"].height else []
    reached.append(max(events, default=step - 1))
    assert sorted(events) == [n for n in range(1, reached[-1] + 1) for _ in range(ROWS)], "each step's events are once"
    reached.append(step_of_segment(stores, step))
    for name in (*TABLES, "vip"):
        for file in home.glob(f"{name}.*.rejects.csv"):
            lines = file.read_text().splitlines()[1:]
            assert len(lines) == BAD
            assert len({line.rpartition(",")[2] for line in lines}) == 1, "rejected rows of two imports in one file"
    assert set(reached) <= {step, step - 1}
    return tuple(reached)


def step_of_segment(stores: Stores, step: int) -> int:
    """Give the step whose list the segment holds, whole."""
    try:
        saved = stores.catalogue.find("segment", "vip").document
    except NotFoundError:
        return step - 1
    assert isinstance(saved, ImportedSegment)
    members = stores.tables.scan("members").filter(pl.col("import_id") == saved.import_id).collect()
    numbers = sorted(int(user.removeprefix("u")) for user in members["user_id"])
    assert numbers == list(range(numbers[0], min(numbers[0] + ROWS // 2, ROWS)))
    return numbers[0]


def test_killed_at_any_moment(home: Path, stores: Stores) -> None:
    """Killed again and again at random, nothing is half there, the next import goes on, and in the end all is there."""
    moments = random.Random(3)
    step, caught = 1, set()
    for number in range(8 * KILLS):
        if number >= KILLS and len(caught) > 1:
            break  # a busy machine may need more kills to meet two moments
        step = kill_after(home, step, moments.uniform(0, SPREAD_SECONDS))
        reached = require_whole(stores, home, step)
        caught.add(reached.count(step))
        # The process that comes next imports the same step again: what was there already is not there twice.
    assert len(caught) > 1, "all kills came at one moment"
    import_round(stores, home, step)
    assert require_whole(stores, home, step) == (step,) * 4


def test_what_a_killed_import_leaves_goes_after_a_day(
    home: Path, stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary and unfinished files of a killed import go with upkeep a day later, those of a running one stay."""
    left = tmp_path / "left"
    left.mkdir()
    (home / "users.csv").write_text('user_id,note\nu1,"of two\nlines"\n')
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(home)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TMPDIR": str(left)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list(left.rglob("*.parquet"))) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(left))
    assert tidy_tables(stores, UpkeepInput()).imports == 0
    (left / "journeys-rows-of-mine.csv").write_text("no folder")
    stores.rejects.mkdir()
    written, unfinished = stores.rejects / "a.rejects.csv", stores.rejects / "a.1.unfinished"
    for path in (written, unfinished, stores.rejects / "young.unfinished"):
        path.write_text("line,reason,row\n")
    with temporary_folder("ids") as running:
        for path in (*left.iterdir(), written, unfinished):
            os.utime(path, (time.time() - 2 * 86_400,) * 2)
        assert tidy_tables(stores, UpkeepInput(dry_run=True)).imports == 2
        assert len(list(left.rglob("*.parquet"))) == 1
        assert tidy_tables(stores, UpkeepInput()).imports == 2
        assert sorted(path.name for path in left.iterdir()) == sorted([running.name, "journeys-rows-of-mine.csv"])
    assert [path.name for path in left.iterdir()] == ["journeys-rows-of-mine.csv"]
    assert sorted(path.name for path in stores.rejects.iterdir()) == ["a.rejects.csv", "young.unfinished"]
