"""Scratch stores: what one user's run reads, copied aside, so that it can be rehearsed and nothing real is touched.

Whether a user is in a segment depends on his own rows alone, since conditions have two values and no aggregate over
users. So his rows of each table answer as the whole tables would, however large these are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from sqlalchemy import Connection, Table, select

from activities.push.claims import dead_addresses
from activities.records.catalogue import documents
from activities.records.database import Database
from activities.records.rows import winners
from activities.stores import Stores
from activities.tables.properties import typed_row
from activities.tables.schema import TableName
from activities.tables.stored import TABLES
from workflows.errors import RefusedError

NOBODY = "\x1fkinds"
"""Owns one empty row of each scratch table, which so has every column of the real one: no import can name a user so."""

KEYS: dict[TableName, str] = {"users": "user_id", "devices": "device_id", "events": "event_id"}
KEPT: tuple[Table, ...] = (documents, winners, dead_addresses)
"""Of the database: saved versions, winners of split tests, addresses that are dead. No passage and no push."""


def copy_user(source: Stores, target: Stores, user_id: str, *, leave_out: Sequence[TableName] = ()) -> bool:
    """Copy a user's rows, and what is saved, into fresh stores. Blocking; the source is only read.

    Args:
        source: The real stores.
        target: Fresh stores.
        user_id: The user.
        leave_out: Tables of which only the columns are copied.

    Returns:
        Whether the table of users knows the user.

    Raises:
        StoreUnavailable: A store cannot be reached.
    """
    for table in KEPT:
        _copy_rows(source.ledger.database, target.ledger.database, table)
    known = False
    for name in TABLES:
        rows = source.tables.collect(source.tables.scan(name).filter(pl.col("user_id") == user_id))
        kept = rows.clear() if name in leave_out else rows
        empty = rows.clear(1).with_columns(pl.lit(NOBODY).alias(key) for key in {"user_id", KEYS.get(name, "user_id")})
        target.tables.append(name, pl.concat([kept, empty]))
        known = known or (name == "users" and not kept.is_empty())
    return known


def add_rows(target: Stores, name: TableName, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows, or put their values over those that are there. Blocking.

    Args:
        target: Scratch stores.
        name: The table.
        rows: Column to text or JSON value; each with the table's key.

    Raises:
        RefusedError: A value cannot be read as its column's kind.
        StoreUnavailable: The store cannot be reached.
    """
    for row in rows:
        kinds = target.tables.schema(name)
        typed = typed_row(row, kinds, textual=False)
        for column in typed.columns:
            if typed.get_column(column).item() is None and str(row[column]).strip():
                raise RefusedError(
                    f"{name}: {row[column]!r} cannot be read as the type of {column!r}, which is {kinds[column]}",
                    code="unreadable-value",
                )
        target.tables.upsert(name, typed, KEYS[name])


def _copy_rows(source: Database, target: Database, table: Table) -> None:
    rows = source.read(lambda connection: [dict(row._mapping) for row in connection.execute(select(table))])

    def work(connection: Connection) -> None:
        if rows:
            connection.execute(table.insert(), rows)

    target.write_now(work)
