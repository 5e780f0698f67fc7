"""Measures segments: our evaluation beside hand-written polars, DuckDB and chDB, and splits from a warm membership.

    python -m scripts.bench_segments [--json] [--users N] [--events N] [--data DIR] [--without duckdb]

DuckDB and chDB are no part of the project: `pip install duckdb chdb`, or leave one out by `--without`. Every engine
reads the same two Parquet files (LZ4, row groups of 131,072 rows; events in the order of their time, as they arrive)
and gives the same answer: a polars frame of the ids of the users, sorted. Times are medians, and the engines take turns
in each round, so that whatever else the machine does meets all of them. Files are read through the operating system's
cache, which the first round, not counted, has filled. The time of the processors, of all cores together, says more than
the clock where the machine does other work meanwhile.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from activities.documents.yaml_text import parse_yaml
from activities.segments.compiler import Built, Imported, Snapshot, select_users
from activities.segments.memberships import Ids, Memberships
from scripts.bench_imports import in_processes, make_files
from workers.opening import open_stores
from workers.settings import Settings
from workflows.conditions import Condition, FileRef, SegmentRef
from workflows.errors import NotFoundError

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
ROW_GROUP = 131_072
REACH = {"polars": ("abc", 1 / 1.1), "duckdb": ("ab", 1.5), "chdb": ("ab", 3.0)}
"""How many times as fast as each engine ours shall be, and on which questions."""

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
    """The two files."""

    users: Path
    events: Path


def _drawn(rows: int, seed: int) -> pl.Expr:
    """Give numbers from 0 to 1 that look random and are the same in every run."""
    return pl.int_range(rows, eager=False).hash(seed).cast(pl.Float64) / 2.0**64


def _picked(drawn: pl.Expr, shares: dict[str | None, float]) -> pl.Expr:
    """Pick words by their shares, which add up to 1."""
    picked = pl.lit(next(reversed(shares)), dtype=pl.String)
    for word in reversed(list(shares)[:-1]):
        known = list(shares)
        below = sum(shares[one] for one in known[: known.index(word) + 1])
        picked = pl.when(drawn < below).then(pl.lit(word, dtype=pl.String)).otherwise(picked)
    return picked


def _before(drawn: pl.Expr, days: int) -> pl.Expr:
    return (pl.lit(NOW) - (drawn * days * 86_400_000_000).cast(pl.Int64).cast(pl.Duration("us"))).cast(
        pl.Datetime("us", "UTC")
    )


def _named(number: pl.Expr) -> pl.Expr:
    return pl.lit("u") + number.cast(pl.String).str.zfill(8)


def generate(folder: Path, users: int, events: int) -> Data:
    """Write both files, or find them there.

    Args:
        folder: Where.
        users: Rows of users.
        events: Rows of events; some users have many, most few.

    Returns:
        The files.
    """
    data = Data(folder / f"users-{users}.parquet", folder / f"events-{events}-of-{users}.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    if not data.users.exists():
        drawn = [_drawn(users, seed) for seed in range(8)]
        frame = pl.select(
            user_id=_named(pl.int_range(users)),
            plan=_picked(drawn[0], {"free": 0.6, "paid": 0.25, "pro": 0.1, None: 0.05}),
            age=13 + (drawn[1] * 77).cast(pl.Int64),
            country=_picked(drawn[2], {"FR": 0.3, "BE": 0.1, "DE": 0.2, "US": 0.2, "NO": 0.1, "SE": 0.1}),
            score=drawn[3] * 100,
            vip=drawn[4] < 0.05,
            last_seen=_before(drawn[5], 120),
            order=drawn[6],
        )
        _write(frame.sort("order").drop("order"), data.users)
    if not data.events.exists():
        drawn = [_drawn(events, seed) for seed in range(10, 16)]
        frame = pl.select(
            event_id=pl.int_range(events).cast(pl.String),
            user_id=_named((drawn[0] ** 2 * users).cast(pl.Int64)),
            event=_picked(drawn[1], {"visit": 0.6, "purchase": 0.3, "push_opened": 0.09, "unsubscribe": 0.01}),
            at=_before(drawn[2], 365),
            amount=1 + (drawn[3] * 200).cast(pl.Int64),
            category=_picked(drawn[4], {"shoes": 0.3, "books": 0.3, "gift-card": 0.1, "food": 0.3}),
        )
        _write(frame.sort("at"), data.events)
    return data


def _write(frame: pl.DataFrame, path: Path) -> None:
    partial = path.with_suffix(".partial")
    frame.write_parquet(partial, compression="lz4", row_group_size=ROW_GROUP)
    partial.rename(path)


def read_condition(text: str) -> Condition:
    """Read a condition as documents are read: every scalar as text."""
    trees, faults = parse_yaml(text, None)
    if faults:
        raise ValueError(str(faults[0]))
    condition: Condition = TypeAdapter(Condition).validate_python(trees[0].data)
    return condition


@dataclass(frozen=True)
class _Core:
    """Knows the one segment that another refers to."""

    condition: Condition

    def segment(self, ref: SegmentRef) -> Built | Imported:
        return Built(self.condition, "UTC")

    def file(self, ref: FileRef) -> Imported:
        raise NotFoundError(f"there is no file {ref.file!r}")


def ours(data: Data) -> Callable[[str], pl.DataFrame]:
    """Answer as the product does, from compiling the condition on."""
    conditions = {question: read_condition(text) for question, text in CONDITIONS.items()}
    known = _Core(read_condition(CORE))

    def ask(question: str) -> pl.DataFrame:
        events = pl.scan_parquet(data.events)
        nothing = pl.LazyFrame(schema={"device_id": pl.String, "user_id": pl.String, "platform": pl.String})
        snapshot = Snapshot(pl.scan_parquet(data.users), nothing, events)
        query = select_users(conditions[question], snapshot, as_of=NOW, zone="UTC", resolve=known)
        return query.sort("user_id").collect(engine="streaming")

    return ask


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

    def ask(question: str) -> pl.DataFrame:
        return pl.DataFrame(
            connection.sql(_sql(question, f"'{data.users}'", f"'{data.events}'", "TIMESTAMPTZ '{}+00'"))
        )

    return ask


def by_chdb(data: Data, session: ModuleType) -> Callable[[str], pl.DataFrame]:
    """Answer by chDB, which is ClickHouse in this process."""
    opened = session.Session()

    def ask(question: str) -> pl.DataFrame:
        users, events = (f"file('{path}', Parquet)" for path in (data.users, data.events))
        found = opened.query(_sql(question, users, events, "toDateTime64('{}', 6, 'UTC')"), "ArrowStream")
        return pl.read_ipc_stream(found.bytes())

    return ask


def _sql(question: str, users: str, events: str, instant: str) -> str:
    where = re.sub(r"\{(.*?)\}", lambda match: instant.format(match[1]), SQL[question]).replace("EVENTS", events)
    return f"SELECT user_id FROM {users} WHERE {where} ORDER BY user_id"


def engines_of(data: Data, without: list[str]) -> dict[str, Callable[[str], pl.DataFrame]]:
    """Prepare the engines. Ends the program where one is missing and not left out."""
    engines = {"ours": ours(data), "polars": by_hand(data)}
    for name, module, made in (("duckdb", "duckdb", by_duckdb), ("chdb", "chdb.session", by_chdb)):
        if name in without:
            continue
        if importlib.util.find_spec(name) is None:
            sys.exit(f"{name} is not installed: pip install {name}, or leave it out by --without {name}")
        engines[name] = made(data, importlib.import_module(module))
    return engines


def ask_all(engines: dict[str, Callable[[str], pl.DataFrame]], rounds: int) -> dict[str, Any]:
    """Ask each engine each question in turn. Ends the program where two engines disagree."""
    answers: dict[str, Any] = {}
    for question, meant in QUESTIONS.items():
        counts = {name: ask(question).height for name, ask in engines.items()}
        if len(set(counts.values())) != 1:
            sys.exit(f"the engines disagree about ({question}), {meant}: {counts}")
        times: dict[str, list[float]] = {name: [] for name in engines}
        worked: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(rounds):
            # Each goes first in its turn: none always follows the one that leaves most behind in the caches.
            for name in [*engines][turn % len(engines) :] + [*engines][: turn % len(engines)]:
                begun, busy = time.perf_counter(), time.process_time()
                engines[name](question)
                times[name].append(time.perf_counter() - begun)
                worked[name].append(time.process_time() - busy)
        seconds = {name: statistics.median(taken) for name, taken in times.items()}
        answers[question] = {
            "question": meant,
            "users": counts["ours"],
            "seconds": seconds,
            "best": {name: min(taken) for name, taken in times.items()},
            "processor": {name: statistics.median(taken) for name, taken in worked.items()},
            "times_as_fast_as": {name: taken / seconds["ours"] for name, taken in seconds.items() if name != "ours"},
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
    number = _named(pl.int_range(many))
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


def measure_import() -> dict[str, float]:
    """Measure the import of a list of ids of 100 MB beside polars' reading of it, each in processes of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_files(folder)
        read, imported = (in_processes(name, folder) for name in ("read_ids", "import_ids"))
    return {
        "rows": read["answer"],
        "import_seconds": imported["seconds"],
        "polars_read_seconds": read["seconds"],
        "times_polars": imported["seconds"] / read["seconds"],
        "peak_megabytes_above_empty": imported["megabytes"],
    }


def print_results(results: dict[str, Any]) -> None:
    """Print the tables for people."""
    print(f"{results['users']:,} users, {results['events']:,} events; medians of {results['rounds']}, milliseconds")
    for question, answer in results["questions"].items():
        print(f"\n({question}) {answer['question']}: {answer['users']:,} users")
        for name, seconds in answer["seconds"].items():
            line = f"    {name:8}{seconds * 1000:9.1f}   best {answer['best'][name] * 1000:8.1f}"
            line += f"   processor {answer['processor'][name] * 1000:8.1f}"
            if name != "ours":
                asked, reach = REACH[name]
                ratio = answer["times_as_fast_as"][name]
                goal = f", reach {reach:.2f}: {'yes' if ratio >= reach else 'NO'}" if question in asked else ""
                line += f"   ours is {ratio:.2f} times as fast{goal}"
            print(line)
    for title in ("splits", "import"):
        if title in results:
            print(f"\n{title}")
            for name, number in results[title].items():
                print(f"    {name.replace('_', ' '):32}{number:14,.2f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure segments beside other engines.")
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--data", type=Path, help="folder to keep the files in, and to find them in again")
    parser.add_argument("--without", action="append", default=[], choices=["duckdb", "chdb"], help="leave one out")
    parser.add_argument("--only", choices=["questions", "splits", "import"], help="measure one part")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = generate(given.data.resolve() if given.data else Path(folder), given.users, given.events)
        results: dict[str, Any] = {"users": given.users, "events": given.events, "rounds": given.rounds}
        results["questions"] = {}
        if given.only in (None, "questions"):
            results["questions"] = ask_all(engines_of(data, given.without), given.rounds)
        if given.only in (None, "splits"):
            results["splits"] = measure_splits(data, given.rounds)
        if given.only in (None, "import"):
            results["import"] = measure_import()
    print_results(results)
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
