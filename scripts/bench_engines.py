"""Three questions about an audience, and who answers them for `scripts.bench_segments`: us, polars, DuckDB, chDB."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import polars as pl
from pydantic import TypeAdapter

from activities.documents.yaml_text import parse_yaml
from activities.records.catalogue import Catalogue
from activities.segments.segments import Segments
from activities.tables.delta import Tables
from activities.tables.kept_columns import KeptColumns
from activities.tables.schema import TableName
from scripts.bench_tables import NOW, tables_of
from workflows.conditions import Condition
from workflows.documents import SegmentDocument

Engine: TypeAlias = Callable[[str], pl.DataFrame]
"""Answers a question, `a`, `b` or `c`: one column `user_id`, sorted."""

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
