"""Columns get their kinds: from the table, else from the person, else by their name, else by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from activities.tables.changes import type_change
from activities.tables.inference import as_text, filled, infer, kind_by_name, read_as, recognise
from activities.tables.reading import LINE, Sheet
from activities.tables.schema import Kind, TableName, kind_of

MOSTLY_BAD = 0.5
"""Above this share of values that do not read as the kind, the column is of another kind and no row is at fault."""


@dataclass(frozen=True)
class Columns:
    """A sheet with types."""

    frame: pl.DataFrame
    """One row per row of the sheet: `LINE: Int64`, then columns in the dtypes of `DTYPES`. Null is an empty cell."""
    faults: dict[int, list[str]] = field(default_factory=dict)
    """For a row, by its index, the values that do not read as their column's kind."""
    warnings: list[str] = field(default_factory=list)
    """What was assumed or left out."""


def type_columns(
    sheet: Sheet,
    table: TableName,
    *,
    stored: Mapping[str, Kind],
    overrides: Mapping[str, Kind],
    trimmed: set[str],
) -> Columns:
    """Give each column of a sheet its kind and read its values.

    Args:
        sheet: What was read.
        table: Where it goes, for messages.
        stored: The table's columns, each with its kind: these win.
        overrides: What the person says about columns.
        trimmed: Columns of names and ids, whose surrounding spaces mean nothing.

    Returns:
        The typed columns, the faulty values, and warnings. A column without any value and without a known kind is
        left out.

    Raises:
        ImportRefused: A column is of another kind than the stored one.
    """
    columns = [sheet.frame.get_column(LINE)]
    faults: dict[int, list[str]] = {}
    warnings: list[str] = []
    for name in sheet.columns:
        if name in stored and overrides.get(name, stored[name]) != stored[name]:
            raise type_change(table, name, stored[name], overrides[name], "the type that was asked for")
        told = stored.get(name) or overrides.get(name)
        kind = told or kind_by_name(name)
        column = sheet.frame.get_column(name)
        if column.dtype != pl.String:
            natural = kind_of(column.dtype)
            if kind in (None, natural):
                columns.append(column)
                continue
            column = as_text(column)
        text = column.str.strip_chars() if name in trimmed else column
        known = (kind, read_as(text, kind)) if kind is not None else None
        found, typed = known or recognise(text, textual=name in sheet.textual)
        if found is None:
            warnings.append(f"the column {name!r} has no value, so that its type is unknown: it was left out")
            continue
        bad = _unread(text, typed)
        if kind is not None and len(bad):
            example = f"{column[bad[0]]!r} on line {columns[0][bad[0]]}"
            other = _other_kind(text, kind, len(bad), textual=name in sheet.textual)
            if other and told:
                raise type_change(table, name, kind, other, example)
            if other:
                warnings.append(f"the column {name!r} is of type {other}, not {kind}: {example}")
                columns.append(read_as(text, other))
                continue
            for row in bad:
                faults.setdefault(row, []).append(f"{name} {column[row]!r} does not read as {kind}")
        columns.append(typed)
    return Columns(pl.DataFrame(columns), faults, warnings)


def _unread(text: pl.Series, typed: pl.Series) -> pl.Series:
    """Give the places of cells that hold a value and did not read as their column's kind."""
    return (filled(text).is_not_null() & typed.is_null() if typed.has_nulls() else typed.is_null()).arg_true()


def _other_kind(text: pl.Series, kind: Kind, bad: int, *, textual: bool) -> Kind | None:
    """Tell a column of another kind, which is named, from a column with a few bad cells."""
    found = infer(text, textual=textual) or kind
    if found not in (kind, "string"):
        return found
    return "string" if bad > MOSTLY_BAD * (len(text) - filled(text).null_count()) else None
