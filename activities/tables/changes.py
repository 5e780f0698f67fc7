"""What a write would change: whether a frame fits a table, and which of its rows are new, equal, or different."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from activities.tables.schema import Kind, TableName, kind_of
from workflows.errors import ImportRefused

OLD = "\x1fold:"
"""Prefix of a stored value beside a new one; alone, the verdict on a row. No file's column can be called so."""

ABSENT = "\x1fabsent:"
"""Prefix of the mask that tells where a row says nothing about a column."""


def check_columns(name: TableName, columns: pl.Schema, stored: Mapping[str, Kind]) -> None:
    """Refuse columns that a table cannot take.

    Args:
        name: The table.
        columns: Of what is to be written.
        stored: The table's columns, each with its kind.

    Raises:
        ImportRefused: Columns' kinds differ from the stored ones, or their names only in case; each is told.
    """
    spelled = {column.lower(): column for column in stored}
    refused = []
    for column, dtype in columns.items():
        kind = kind_of(dtype)
        if stored.get(column, kind) != kind:
            refused.append(type_change(name, column, stored[column], kind))
        # Delta tells columns apart without regard to case.
        if column not in stored and column.lower() in spelled:
            refused.append(
                ImportRefused(
                    f"the table {name} has a column {spelled[column.lower()]!r}, and {column!r} differs only in case",
                    hint=f"Call it {spelled[column.lower()]!r}.",
                )
            )
    if refused:
        raise ImportRefused.together(refused)


def type_change(name: TableName, column: str, stored: Kind, found: Kind, example: str = "") -> ImportRefused:
    """Word the refusal of values whose kind differs from the stored column's.

    Args:
        name: The table.
        column: The column.
        stored: The kind that the table holds.
        found: The kind of what was to be written.
        example: Where such a value was found, as an addition to the message.
    """
    return ImportRefused(
        f"the column {column!r} of the table {name} is of type {stored}, and the new values are of type {found}"
        + (f": {example}" if example else ""),
        hint=f"Give values that read as {stored}, or give the column another name.",
    )


def compare(rows: pl.DataFrame, old: pl.DataFrame, key: str) -> pl.DataFrame:
    """Put what is stored in place of what rows leave unsaid, and tell new, equal and other rows apart.

    Args:
        rows: What is to be written, one row per key; beside a column there may be `ABSENT + column: Boolean`, true
            where the row says nothing about it.
        old: The stored rows with the same keys, with the columns that both sides have.
        key: The column that identifies a row.

    Returns:
        The rows, in which the column `OLD: Boolean` is null for a new row, true for one that is stored as it is, and
        false for one that differs.
    """
    columns = [column for column in rows.columns if not column.startswith(ABSENT)]
    if not old.height:
        return rows.select(*columns, pl.lit(None, pl.Boolean).alias(OLD))
    shared = [column for column in columns if column in old.columns and column != key]
    fresh = [column for column in columns if column not in old.columns]
    old = old.select(key, pl.lit(True).alias(OLD), *(pl.col(column).alias(OLD + column) for column in shared))
    both = rows.join(old, on=key, how="left", maintain_order="left")
    # An absent cell of a new row has nothing to keep.
    both = both.with_columns(
        pl.when(pl.col(ABSENT + column) & pl.col(OLD))
        .then(pl.col(OLD + column))
        .otherwise(pl.col(column))
        .alias(column)
        for column in shared
        if ABSENT + column in rows.columns
    )
    same = [pl.col(column).eq_missing(pl.col(OLD + column)) for column in shared]
    same += [pl.col(column).is_null() for column in fresh]
    return both.select(*columns, pl.when(pl.col(OLD)).then(pl.all_horizontal(True, *same)).alias(OLD))
