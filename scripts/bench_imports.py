"""Measure imports: `python -m scripts.bench_imports [--json]`, of files of 100 MB.

Three files: users to be imported into the table; an export of a shop's customers, whose ids become a segment; and a
list of ids and nothing else, the hardest that 100 MB can be. Each measurement is a process of its own, so that its peak
memory is its own: the peak above what the process held when everything was imported and nothing was read. Times are
medians. Beside each import stands what polars by itself takes to read the file, types and dates recognised, and, for
the list, to match it with the users and to write the members, by hand and without a report.
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
from scripts.bare_polars import measured, peak_megabytes
from scripts.output import people, print_table

ROWS = {"users": 1_400_000, "export": 900_000, "ids": 4_000_000}
"""Rows of each file: 75, 119 and 25 bytes each."""
KNOWN = {"export": 2_000_000, "ids": 4_000_000}
"""Users who are stored when a list of them is imported."""
REPEATS = 5
MEGABYTE = 1 << 20
MOST_MEGABYTES = 400
"""The memory that an import of 100 MB may take."""
MOST_TIMES = 2.0
"""How many times as long as polars' reading it may last."""


def make_files(folder: Path) -> None:
    """Write the three files, and for each list a table of users."""
    row = pl.int_range(pl.len())
    users = pl.format("user-{}", 10_000_000 + row)
    email, age, score = pl.format("user{}@example.org", row), 18 + row % 60, (row % 1_000) / 8
    plan = pl.when(row % 3 == 0).then(pl.lit("free")).otherwise(pl.lit("paid"))
    last_seen = pl.format("2026-01-{}T10:00:00Z", 10 + row % 20)
    new = pl.select(number=pl.int_range(ROWS["users"]))
    new.select(user_id=users, email=email, plan=plan, age=age, score=score, last_seen=last_seen).write_csv(
        folder / "users.csv"
    )
    # Of a hundred rows one names nobody, and one repeats a user.
    nobody, again = pl.format("nobody-{}", row), pl.lit("user-10000001")
    listed = pl.when(row % 100 == 7).then(nobody).when(row % 100 == 9).then(again).otherwise(pl.col("user_id"))
    since = pl.lit("2026-01-15")
    columns = {
        "ids": {"user_id": listed, "since": since},
        "export": {
            "user_id": listed,
            "email": email,
            "first_name": pl.lit("Camille"),
            "last_name": pl.format("Martin{}", row % 1_000),
            "city": pl.when(row % 5 == 0).then(pl.lit("Marseille")).otherwise(pl.lit("Bordeaux")),
            "country": pl.lit("FR"),
            "age": age,
            "plan": plan,
            "signed_up": since,
            "last_seen": last_seen,
            "orders": row % 30,
            "spent": score,
        },
    }
    for name, known in KNOWN.items():
        stored = pl.select(number=pl.int_range(known)).select(user_id=users)
        Tables(folder / f"{name}-tables").upsert("users", stored, "user_id")
        stored.sample(ROWS[name], shuffle=True, seed=2).select(**columns[name]).write_csv(folder / f"{name}.csv")


def import_users(folder: Path, scratch: Path, name: str) -> Callable[[], int]:
    """Prepare to import a file of users into a new table."""
    return lambda: import_table(Tables(scratch), "users", folder / f"{name}.csv", now=datetime.now(UTC)).inserted


def import_list(folder: Path, scratch: Path, name: str) -> Callable[[], int]:
    """Prepare to import a file as a segment of the users that it names."""
    stored, members = Tables(folder / f"{name}-tables"), Tables(scratch / "tables")
    database = Database(f"sqlite:///{scratch}/ledger.db")
    database.create()

    def run() -> int:
        file = folder / f"{name}.csv"
        read = read_members(stored, "vip", file, column=None, identifier="user_id", rejects_dir=scratch)
        import_segment(members, Catalogue(database), read, datetime.now(UTC))
        return read.report.users

    return run


IMPORTS: dict[str, Callable[[Path, Path, str], Callable[[], int]]] = {
    "users": import_users,
    "export": import_list,
    "ids": import_list,
}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Import a file in this process, once."""
    before = peak_megabytes()
    with tempfile.TemporaryDirectory() as scratch:
        run = IMPORTS[name](folder, Path(scratch), name)
        began = time.perf_counter()
        return measured(began, before, run())


def in_processes(command: list[str]) -> dict[str, Any]:
    """Measure one thing several times, each in a process of its own: median seconds, and the highest peak."""
    runs = [json.loads(subprocess.check_output(command)) for _ in range(REPEATS)]  # noqa: S603  our own programs
    if len({run["answer"] for run in runs}) != 1:
        raise SystemExit(f"{command}: the answers differ: {[run['answer'] for run in runs]}")
    return {
        "answer": runs[0]["answer"],
        "seconds": statistics.median(run["seconds"] for run in runs),
        "megabytes": max(run["megabytes"] for run in runs),
    }


def measure_files() -> dict[str, dict[str, Any]]:
    """Generate the files, and measure the import of each and polars' reading of it."""
    python = [sys.executable, "-m"]
    # Polars as it comes, without what the product sets in this process, which that one would inherit.
    bare = ["env", "-u", "POLARS_CSV_CHUNK_SIZE", "_RJEM_MALLOC_CONF=", *python, "scripts.bare_polars"]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="journeys-bench-") as scratch:
        folder = Path(scratch)
        make_files(folder)
        for name in IMPORTS:
            file = folder / f"{name}.csv"
            read = in_processes([*bare, "read", str(file)])
            ours = in_processes([*python, "scripts.bench_imports", "--measure", name, "--folder", scratch])
            found[name] = {
                "file_megabytes": round(file.stat().st_size / MEGABYTE),
                "rows": read["answer"],
                "taken": ours["answer"],
                "import_seconds": ours["seconds"],
                "polars_read_seconds": read["seconds"],
                "times_polars": ours["seconds"] / read["seconds"],
                "peak_megabytes_above_empty": ours["megabytes"],
                "polars_peak_megabytes": read["megabytes"],
            }
        match = in_processes([*bare, "match", str(file), str(folder / "ids-tables" / "users")])
    if match["answer"] != found["ids"]["taken"]:
        raise SystemExit("the import and polars by hand disagree on the members")
    found["ids"] |= {"match_by_hand_seconds": match["seconds"], "match_by_hand_peak_megabytes": match["megabytes"]}
    return found


def print_files(found: dict[str, dict[str, Any]]) -> None:
    """Print what was measured for people."""
    rows = [
        (
            f"{name}.csv, {one['file_megabytes']} MB",
            one["rows"],
            f"{one['polars_read_seconds']:.2f}",
            f"{one['import_seconds']:.2f}",
            f"{one['times_polars']:.2f}",
            one["peak_megabytes_above_empty"],
        )
        for name, one in found.items()
    ]
    print_table(("file", "rows", "polars reads it", "import", "times", "peak MB above the empty process"), rows)
    ids = found["ids"]
    people().print(
        f"medians of {REPEATS} in seconds, highest peaks; reach: at most {MOST_TIMES:g} times, {MOST_MEGABYTES} MB\n"
        f"ids.csv matched by hand in polars: {ids['match_by_hand_seconds']:.2f} s, "
        f"{ids['match_by_hand_peak_megabytes']} MB"
    )


def main() -> None:
    """Measure everything, and print a table and, with `--json`, one JSON object last."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_imports", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    parser.add_argument("--measure", choices=list(IMPORTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return
    found = measure_files()
    print_files(found)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
