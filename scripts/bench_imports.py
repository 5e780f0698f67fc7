"""Measure imports: `python -m scripts.bench_imports [--json]`, a list of ids and a file of users, 100 MB each.

Each measurement is a process of its own, so that its peak memory is its own: the peak above what the process held when
everything was imported and nothing was read. Times are medians. Beside each import stands what polars takes to read the
file into memory, and, for the list, to match it with the users and to write the members, by hand and without a report.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from activities.records.catalogue import Catalogue
from activities.records.database import Database
from activities.segments.imported import import_segment, read_members
from activities.tables.delta import Tables
from activities.tables.imports import import_table
from scripts.output import people, print_table

IDS = 4_000_000
"""Rows of the list: 27 bytes each."""
USERS = 1_400_000
"""Rows of the file of users: 75 bytes each."""
REPEATS = 3
MEGABYTE = 1 << 20
MOST_MEGABYTES = 400
"""The memory that an import of 100 MB may take."""


def make_files(folder: Path) -> None:
    """Write a table of users, a list of most of their ids in another order, and a file of users."""
    known = pl.select(user_id=pl.format("user-{}", pl.int_range(10_000_000, 10_000_000 + IDS)))
    Tables(folder / "tables").upsert("users", known, "user_id")
    row = pl.int_range(pl.len())
    known.sample(fraction=1.0, shuffle=True, seed=1).select(
        user_id=pl.when(row % 100 == 7)
        .then(pl.format("nobody-{}", row))
        .when(row % 100 == 9)
        .then(pl.lit("user-10000001"))
        .otherwise(pl.col("user_id")),
        since=pl.lit("2026-01-15"),
    ).write_csv(folder / "ids.csv")
    row = pl.int_range(USERS)
    pl.select(
        user_id=pl.format("user-{}", 10_000_000 + row),
        email=pl.format("user{}@example.org", row),
        plan=pl.when(row % 3 == 0).then(pl.lit("free")).otherwise(pl.lit("paid")),
        age=18 + row % 60,
        score=(row % 1_000) / 8,
        last_seen=pl.format("2026-01-{}T10:00:00Z", 10 + row % 20),
    ).write_csv(folder / "users.csv")


def read_ids(folder: Path) -> int:
    """Read the list by polars."""
    return pl.read_csv(folder / "ids.csv").height


def match_ids(folder: Path) -> int:
    """Read the list, match it with the users and write the members, as one would by hand."""
    listed = pl.read_csv(folder / "ids.csv").unique("user_id", keep="first", maintain_order=True)
    known = Tables(folder / "tables").scan("users").select("user_id").collect()
    members = listed.join(known, on="user_id", how="semi")
    with tempfile.TemporaryDirectory() as scratch:
        members.select("user_id").write_parquet(Path(scratch) / "members.parquet")
    return members.height


def import_ids(folder: Path) -> int:
    """Import the list as a segment."""
    with tempfile.TemporaryDirectory() as scratch:
        stored = Tables(folder / "tables")
        members = Tables(Path(scratch) / "tables")
        database = Database(f"sqlite:///{scratch}/ledger.db")
        database.create()
        read = read_members(
            stored, "vip", folder / "ids.csv", column=None, identifier="user_id", rejects_dir=Path(scratch)
        )
        import_segment(members, Catalogue(database), read, datetime.now(UTC))
        database.close()
        return read.report.users


def read_users(folder: Path) -> int:
    """Read the file of users by polars, dates recognised."""
    return pl.read_csv(folder / "users.csv", try_parse_dates=True).height


def import_users(folder: Path) -> int:
    """Import the file of users into a new table."""
    with tempfile.TemporaryDirectory() as scratch:
        return import_table(Tables(scratch), "users", folder / "users.csv", now=datetime.now(UTC)).inserted


MEASURED: dict[str, Callable[[Path], int]] = {
    "read_ids": read_ids,
    "match_ids": match_ids,
    "import_ids": import_ids,
    "read_users": read_users,
    "import_users": import_users,
}


def peak_megabytes() -> float:
    """Give the most memory that this process held so far; `getrusage` would tell the peak of whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Measure one thing in this process, once."""
    before = peak_megabytes()
    began = time.perf_counter()
    answer = MEASURED[name](folder)
    seconds = time.perf_counter() - began
    return {"answer": answer, "seconds": round(seconds, 3), "megabytes": round(peak_megabytes() - before)}


def in_processes(name: str, folder: Path) -> dict[str, Any]:
    """Measure one thing several times, each in a process of its own: median seconds, and the highest peak."""
    command = [sys.executable, "-m", "scripts.bench_imports", "--measure", name, "--folder", str(folder)]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(REPEATS)]  # noqa: S603  this very program
    if len({run["answer"] for run in runs}) != 1:
        raise SystemExit(f"{name}: the answers differ: {[run['answer'] for run in runs]}")
    return {
        "answer": runs[0]["answer"],
        "seconds": statistics.median(run["seconds"] for run in runs),
        "megabytes": max(run["megabytes"] for run in runs),
    }


def main() -> None:
    """Generate the files, measure everything, and print a table and, with `--json`, one JSON object last."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_imports", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--measure", choices=list(MEASURED), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="journeys-bench-") as scratch:
        folder = Path(scratch)
        make_files(folder)
        sizes = {name: round((folder / f"{name}.csv").stat().st_size / MEGABYTE) for name in ("ids", "users")}
        found = {name: in_processes(name, folder) for name in MEASURED}
    if found["match_ids"]["answer"] != found["import_ids"]["answer"]:
        raise SystemExit("the import and polars by hand disagree on the members")
    ratios = {
        "ids_to_reading": round(found["import_ids"]["seconds"] / found["read_ids"]["seconds"], 1),
        "ids_to_matching_by_hand": round(found["import_ids"]["seconds"] / found["match_ids"]["seconds"], 2),
        "users_to_reading": round(found["import_users"]["seconds"] / found["read_users"]["seconds"], 1),
    }
    rows = [(name, run["answer"], f"{run['seconds']:.2f}", run["megabytes"]) for name, run in found.items()]
    print_table(("measured", "rows", "seconds", "MB above the empty process"), rows)
    console = people()
    console.print(f"ids.csv is {sizes['ids']} MB, users.csv {sizes['users']} MB; medians of {REPEATS}, highest peaks")
    for name, ratio in ratios.items():
        console.print(f"{name.replace('_', ' ')}: {ratio} times")
    if given.json:
        within = found["import_ids"]["megabytes"] < MOST_MEGABYTES
        print(json.dumps({"megabytes": sizes, "measured": found, "ratios": ratios, "memory_reached": within}))


if __name__ == "__main__":
    main()
