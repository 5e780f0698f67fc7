"""Measures segments: our evaluation beside hand-written polars, DuckDB and chDB, and splits from a warm membership.

    python -m scripts.bench_segments [--json] [--users N] [--events N] [--data DIR] [--without duckdb]

DuckDB and chDB are no part of the project: `pip install duckdb chdb`, or leave one out by `--without`.

Ours is the product's whole path: a table that it has written itself, events appended in the order of their time, and
`Segments.evaluate` from a condition to the ids. The other engines read the very same Parquet files. Every engine gives
the same answer: a polars frame of the ids of the users, sorted.

"ours" has kept the columns of these files in memory, as a worker has from its third evaluation of a segment on, within
`--column-megabytes` (the setting JOURNEYS_COLUMN_MEGABYTES is smaller by default: 256). The others keep nothing but
what is theirs, and read the files each time. "ours, first" has kept nothing either: it scans the files as they do.
"ours, second" reads the columns whole, to keep them. Goals are those of "ours"; the ratio of the first stands beside.

Times are medians, and the engines take turns in each round, so that whatever else the machine does meets all of them.
Files are read through the operating system's cache, which the first rounds, not counted, have filled. The time of the
processors, of all cores together, says more than the clock where the machine does other work meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from activities.segments.memberships import Ids, Memberships
from scripts.bench_engines import QUESTIONS, Data, Engine, Ours, data_of, engines_of, read_condition
from scripts.bench_imports import measure_files, print_files
from scripts.bench_tables import NOW, named
from workers.opening import open_stores
from workers.settings import Settings

REACH = {"polars": ("abc", 1 / 1.1), "duckdb": ("ab", 1.5), "chdb": ("ab", 3.0)}
"""How many times as fast as each engine ours shall be, and on which questions."""

CALLED = {"first": "ours, first", "second": "ours, second"}


def ask_all(engines: dict[str, Engine], rounds: int) -> dict[str, Any]:
    """Ask each engine each question in turn. Ends the program where two engines disagree."""
    answers: dict[str, Any] = {}
    for question, meant in QUESTIONS.items():
        # The last time of three: by then ours keeps the columns.
        counts = {name: [ask(question).height for _ in range(3)][-1] for name, ask in engines.items()}
        if len(set(counts.values())) != 1:
            sys.exit(f"the engines disagree about ({question}), {meant}: {counts}")
        times: dict[str, list[float]] = {name: [] for name in engines}
        worked: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(rounds):
            # Each goes first in its turn: none always follows the one that leaves most behind in the caches.
            for name in [*engines][turn % len(engines) :] + [*engines][: turn % len(engines)]:
                if isinstance(engine := engines[name], Ours):
                    engine.prepare(question)
                begun, busy = time.perf_counter(), time.process_time()
                engine(question)
                times[name].append(time.perf_counter() - begun)
                worked[name].append(time.process_time() - busy)
        seconds = {name: statistics.median(taken) for name, taken in times.items()}
        others = [name for name in engines if name in REACH]
        answers[question] = {
            "question": meant,
            "users": counts["ours"],
            "seconds": seconds,
            "best": {name: min(taken) for name, taken in times.items()},
            "processor": {name: statistics.median(taken) for name, taken in worked.items()},
            "times_as_fast_as": {name: seconds[name] / seconds["ours"] for name in others},
            "first_times_as_fast_as": {name: seconds[name] / seconds["first"] for name in others},
        }
    return answers


def measure_splits(data: Data, rounds: int) -> dict[str, float]:
    """Measure split decisions from a warm membership of all users, and the membership itself."""
    users = pl.read_parquet(data.users).head(2_000_000)
    with tempfile.TemporaryDirectory() as folder, open_stores(Settings(home=Path(folder))) as stores:
        stores.tables.append("users", users)
        memberships = Memberships(stores.segments, timedelta(days=1), 1 << 32)
        condition = read_condition("{attribute: age, at_least: 40}")
        asked = users.get_column("user_id").sample(min(100_000, users.height), seed=1).to_list()

        async def decide() -> tuple[float, float]:
            begun = time.perf_counter()
            await memberships.membership(condition, "UTC", NOW)
            first = time.perf_counter() - begun
            taken = []
            for _ in range(rounds):
                # Of one core: what the machine does meanwhile plays no part.
                begun = time.thread_time()
                for user_id in asked:
                    (await memberships.membership(condition, "UTC", NOW)).ids.holds(user_id)
                taken.append(time.thread_time() - begun)
            return first, len(asked) / statistics.median(taken)

        first, rate = asyncio.run(decide())
    ids = users.get_column("user_id").sort()
    built = []
    for _ in range(rounds):
        begun = time.perf_counter()
        Ids(ids)
        built.append(time.perf_counter() - begun)
    many = 10_000_000
    number = named(pl.int_range(many))
    short, long = (
        Ids(pl.select(made.alias("user_id")).to_series()).size_bytes / many
        for made in (number, number + pl.lit("-" + "x" * 26))
    )
    return {
        "decisions_per_second": rate,
        "first_membership_seconds": first,
        "build_seconds": statistics.median(built),
        "built_ids": float(ids.len()),
        "bytes_per_id_of_9_characters": short,
        "bytes_per_id_of_36_characters": long,
    }


def print_results(results: dict[str, Any]) -> None:
    """Print the tables for people."""
    print(f"{results['users']:,} users, {results['events']:,} events; medians of {results['rounds']}, milliseconds")
    for question, answer in results["questions"].items():
        print(f"\n({question}) {answer['question']}: {answer['users']:,} users")
        for name, seconds in answer["seconds"].items():
            line = f"    {CALLED.get(name, name):14}{seconds * 1000:9.1f}   best {answer['best'][name] * 1000:8.1f}"
            line += f"   processor {answer['processor'][name] * 1000:8.1f}"
            if name in REACH:
                asked, reach = REACH[name]
                ratio = answer["times_as_fast_as"][name]
                goal = f", reach {reach:.2f}: {'yes' if ratio >= reach else 'NO'}" if question in asked else ""
                line += (
                    f"   ours is {ratio:.2f} times as fast{goal}; at first {answer['first_times_as_fast_as'][name]:.2f}"
                )
            print(line)
    if "kept_megabytes" in results:
        print(f"\ncolumns kept: {results['kept_megabytes']:.0f} MB")
    if "splits" in results:
        print("\nsplits")
        for name, number in results["splits"].items():
            print(f"    {name.replace('_', ' '):32}{number:14,.2f}")
    if "imports" in results:
        print("\nimports")
        print_files(results["imports"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure segments beside other engines.")
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--data", type=Path, help="folder to keep the files in, and to find them in again")
    parser.add_argument("--column-megabytes", type=int, default=1024, help="memory for columns, as the setting says it")
    parser.add_argument("--without", action="append", default=[], choices=["duckdb", "chdb"], help="leave one out")
    parser.add_argument("--only", choices=["questions", "splits", "imports"], help="measure one part")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(given.data.resolve() if given.data else Path(folder), given.users, given.events)
        results: dict[str, Any] = {"users": given.users, "events": given.events, "rounds": given.rounds}
        results["questions"] = {}
        if given.only in (None, "questions"):
            with open_stores(Settings(home=Path(folder))) as stores:
                engines = engines_of(data, stores.catalogue, given.column_megabytes, given.without)
                results["questions"] = ask_all(engines, given.rounds)
                kept = engines["ours"]
                results["kept_megabytes"] = kept.columns.size_bytes / 1e6 if isinstance(kept, Ours) else 0
        if given.only in (None, "splits"):
            results["splits"] = measure_splits(data, given.rounds)
        if given.only in (None, "imports"):
            results["imports"] = measure_files()
    print_results(results)
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
