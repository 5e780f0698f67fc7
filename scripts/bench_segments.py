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
import importlib.util
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import polars as pl
from pydantic import TypeAdapter

from activities.documents.yaml_text import parse_yaml
from activities.records.catalogue import Catalogue
from activities.segments.memberships import Ids, Memberships
from activities.segments.segments import Segments
from activities.tables.delta import Tables
from activities.tables.kept_columns import KeptColumns
from activities.tables.schema import TableName
from scripts.bench_imports import measure_files, print_files
from scripts.bench_tables import NOW, named, tables_of
from workers.opening import open_stores
from workers.settings import Settings
from workflows.conditions import Condition
from workflows.documents import SegmentDocument

Engine: TypeAlias = Callable[[str], pl.DataFrame]
"""Answers a question, `a`, `b` or `c`: one column `user_id`, sorted."""

REACH = {"polars": ("abc", 1 / 1.1), "duckdb": ("ab", 1.5), "chdb": ("ab", 3.0)}
"""How many times as fast as each engine ours shall be, and on which questions."""

CALLED = {"first": "ours, first", "second": "ours, second"}

CONDITIONS = {
    "a": """
        all:
          - {attribute: plan, in: [paid, pro]}
          - {attribute: age, at_least: 18, less_than: 65}
          - {attribute: country, in: [FR, BE, DE]}
          - {attribute: last_seen, within_last: 30d}
        """,
    "b": """
        all:
          - {attribute: plan, in: [paid, pro]}
          - {event: purchase, count: {at_least: 2}, within_last: 30d}
        """,
    "c": """
        all:
          - {segment: core}
          - {attribute: age, at_least: 18}
          - {attribute: last_seen, within_last: 60d}
          - not: {event: unsubscribe, within_last: 365d}
          - any:
              - {event: purchase, count: {at_least: 2}, within_last: 90d}
              - {attribute: plan, is_not_set: true}
        """,
}
CORE = """
    any:
      - all:
          - {attribute: score, at_least: 50}
          - {attribute: vip, is: false}
          - {attribute: country, in: [FR, BE, US]}
      - all:
          - {attribute: plan, is: pro}
          - {event: push_opened, within_last: 90d}
    """
QUESTIONS = {
    "a": "four attribute conditions",
    "b": "an attribute, and 2 or more purchases in the last 30 days",
    "c": "a nested segment of ten leaves",
}


def _within(column: str, days: int) -> str:
    return f"{column} BETWEEN {{{NOW - timedelta(days=days):%Y-%m-%d %H:%M:%S}}} AND {{{NOW:%Y-%m-%d %H:%M:%S}}}"


def _done(event: str, days: int, more: str = "") -> str:
    return f"user_id IN (SELECT user_id FROM EVENTS e WHERE e.event = '{event}' AND {_within('e.at', days)} {more})"


_TWICE = "GROUP BY user_id HAVING count(*) >= 2"
SQL = {
    "a": "plan IN ('paid', 'pro') AND age >= 18 AND age < 65 AND country IN ('FR', 'BE', 'DE') "
    f"AND {_within('last_seen', 30)}",
    "b": f"plan IN ('paid', 'pro') AND {_done('purchase', 30, _TWICE)}",
    "c": f"age >= 18 AND {_within('last_seen', 60)} AND NOT {_done('unsubscribe', 365)} "
    "AND ((score >= 50 AND NOT vip AND country IN ('FR', 'BE', 'US')) "
    f"OR (plan = 'pro' AND {_done('push_opened', 90)})) "
    f"AND (plan IS NULL OR {_done('purchase', 90, _TWICE)})",
}
"""What DuckDB and chDB are asked: instants stand in braces, since each writes them in its own way."""


@dataclass(frozen=True)
class Data:
    """The product's tables, and the Parquet files that they consist of."""

    tables: Tables
    users: list[str]
    events: list[str]


WRITTEN: tuple[TableName, ...] = ("users", "events")


def data_of(folder: Path, users: int, events: int) -> Data:
    """Write the tables, or find them there."""
    tables = tables_of(folder, users, events)
    people, done = (tables.handle(name, tables.require(name)).file_uris() for name in WRITTEN)
    return Data(tables, people, done)


def read_condition(text: str) -> Condition:
    """Read a condition as documents are read: every scalar as text."""
    trees, faults = parse_yaml(text, None)
    if faults:
        raise ValueError(str(faults[0]))
    condition: Condition = TypeAdapter(Condition).validate_python(trees[0].data)
    return condition


class Ours:
    """Answers as the product does: by `Segments.evaluate`, at given versions of its tables.

    Args:
        data: The tables.
        catalogue: An empty one.
        megabytes: Most memory for columns.
        before: How often a question was asked before it is timed, by whoever keeps no columns for longer; None: columns
            are kept from one time to the next.
    """

    def __init__(self, data: Data, catalogue: Catalogue, megabytes: int, before: int | None) -> None:
        self._data, self._catalogue, self._limit, self._before = data, catalogue, megabytes << 20, before
        self._conditions = {question: read_condition(text) for question, text in CONDITIONS.items()}
        self._core = SegmentDocument(segment="core", match=read_condition(CORE), timezone="UTC")
        self._open()
        self._versions = self._segments.versions()

    def _open(self) -> None:
        self.columns = KeptColumns(self._data.tables, self._limit)
        self._segments = Segments(self._data.tables, self._catalogue, "UTC", columns=self.columns)

    def prepare(self, question: str) -> None:
        """Forget what is kept, and ask as often as was said."""
        if self._before is not None:
            self._open()
            for _ in range(self._before):
                self(question)

    def __call__(self, question: str) -> pl.DataFrame:
        """Answer a question."""
        references = self._segments.references(self._versions, saving={"core": self._core})
        condition = self._conditions[question]
        return self._segments.evaluate(condition, NOW, versions=self._versions, references=references).users


def by_hand(data: Data) -> Callable[[str], pl.DataFrame]:
    """Answer as somebody would who writes one query in polars for one question."""
    col = pl.col

    def done(event: str, days: int) -> pl.LazyFrame:
        window = col("at").is_between(NOW - timedelta(days=days), NOW)
        return pl.scan_parquet(data.events).filter(col("event") == event, window)

    def twice(days: int) -> pl.LazyFrame:
        return done("purchase", days).group_by("user_id").agg(pl.len().alias("n")).filter(col("n") >= 2)

    def seen(days: int) -> pl.Expr:
        return col("last_seen").is_between(NOW - timedelta(days=days), NOW)

    def query(question: str) -> pl.LazyFrame:
        users = pl.scan_parquet(data.users)
        paying = col("plan").is_in(["paid", "pro"])
        if question == "a":
            near = col("country").is_in(["FR", "BE", "DE"])
            return users.filter(paying, col("age") >= 18, col("age") < 65, near, seen(30))
        if question == "b":
            return users.filter(paying).join(twice(30), on="user_id", how="semi")
        opened = done("push_opened", 90).select("user_id").unique().with_columns(opened=True)
        bought = twice(90).select("user_id").with_columns(bought=True)
        core = (col("score") >= 50) & ~col("vip") & col("country").is_in(["FR", "BE", "US"])
        return (
            users.filter(col("age") >= 18, seen(60))
            .join(done("unsubscribe", 365), on="user_id", how="anti")
            .join(opened, on="user_id", how="left")
            .join(bought, on="user_id", how="left")
            .filter(core | ((col("plan") == "pro") & col("opened").is_not_null()))
            .filter(col("plan").is_null() | col("bought").is_not_null())
        )

    def ask(question: str) -> pl.DataFrame:
        return query(question).select("user_id").sort("user_id").collect(engine="streaming")

    return ask


def by_duckdb(data: Data, duckdb: ModuleType) -> Callable[[str], pl.DataFrame]:
    """Answer by DuckDB."""
    connection = duckdb.connect()
    users, events = f"read_parquet({data.users})", f"read_parquet({data.events})"

    def ask(question: str) -> pl.DataFrame:
        return pl.DataFrame(connection.sql(_sql(question, users, events, "TIMESTAMPTZ '{}+00'")))

    return ask


def by_chdb(data: Data, session: ModuleType) -> Callable[[str], pl.DataFrame]:
    """Answer by chDB, which is ClickHouse in this process."""
    opened = session.Session()

    def ask(question: str) -> pl.DataFrame:
        users, events = (f"file('{_all_of(files)}', Parquet)" for files in (data.users, data.events))
        found = opened.query(_sql(question, users, events, "toDateTime64('{}', 6, 'UTC')"), "ArrowStream")
        return pl.read_ipc_stream(found.bytes())

    return ask


def _all_of(files: list[str]) -> str:
    """Name files of one folder in one pattern, as ClickHouse reads it."""
    folder, names = Path(files[0]).parent, [Path(file).name for file in files]
    return f"{folder}/{names[0]}" if len(names) == 1 else f"{folder}/{{{','.join(names)}}}"


def _sql(question: str, users: str, events: str, instant: str) -> str:
    where = re.sub(r"\{(.*?)\}", lambda match: instant.format(match[1]), SQL[question]).replace("EVENTS", events)
    return f"SELECT user_id FROM {users} WHERE {where} ORDER BY user_id"


def engines_of(data: Data, catalogue: Catalogue, megabytes: int, without: list[str]) -> dict[str, Engine]:
    """Prepare the engines. Ends the program where one is missing and not left out."""
    engines: dict[str, Engine] = {
        "ours": Ours(data, catalogue, megabytes, None),
        "first": Ours(data, catalogue, megabytes, 0),
        "second": Ours(data, catalogue, megabytes, 1),
        "polars": by_hand(data),
    }
    for name, module, made in (("duckdb", "duckdb", by_duckdb), ("chdb", "chdb.session", by_chdb)):
        if name in without:
            continue
        if importlib.util.find_spec(name) is None:
            sys.exit(f"{name} is not installed: pip install {name}, or leave it out by --without {name}")
        engines[name] = made(data, importlib.import_module(module))
    return engines


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
