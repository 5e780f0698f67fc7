"""Columns get their kinds: from the table, else from the person, else by their name, else by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from activities.tables.changes import type_change
from activities.tables.inference import as_text, filled, infer, kind_by_name, read_as, recognise, unread
from activities.tables.reading import Sheet
from activities.tables.schema import Kind, TableName, kind_of
from workflows.errors import ImportRefused

MOSTLY_BAD = 0.5
"""Above this share of values that do not read as the kind, the column is of another kind and no row is at fault."""


@dataclass(frozen=True)
class Columns:
    """A sheet with types."""

    frame: pl.DataFrame
    """One row per row of the sheet: columns in the dtypes of `DTYPES`, each in one piece. Null is an empty cell."""
    faults: dict[int, list[str]] = field(default_factory=dict)
    """For a row, by its index, the values that do not read as their column's kind: each begins with the column."""
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
        ImportRefused: Columns are of another kind than the stored one, or than the person says; each is told.
    """
    typing = _Typing(sheet, table, stored, overrides, trimmed)
    for name, unfit in sheet.unfit.items():
        for row, cell in unfit.items():
            typing.faults.setdefault(row, []).append(f"{name} {cell.text!r} {cell.wrong}")
    columns = []
    for column in sheet.series():
        if (read := typing.read(column)) is not None:
            columns.append(read.rechunk())
        # Text goes before more of it comes.
        del column, read
    if typing.refused:
        raise ImportRefused.together(typing.refused)
    return Columns(pl.DataFrame(columns), typing.faults, typing.warnings)


@dataclass
class _Typing:
    """What `type_columns` was given, and what it found so far."""

    sheet: Sheet
    table: TableName
    stored: Mapping[str, Kind]
    overrides: Mapping[str, Kind]
    trimmed: set[str]
    faults: dict[int, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refused: list[ImportRefused] = field(default_factory=list)

    def read(self, column: pl.Series) -> pl.Series | None:
        """Read one column; null leaves it out, or it is refused."""
        name = column.name
        told = self.stored.get(name) or self.overrides.get(name)
        if (asked := self.overrides.get(name, told)) != told:
            self.refused.append(self._contradiction(name, asked))
            return None
        kind = told or kind_by_name(name)
        if column.dtype != pl.String:
            if kind in (None, kind_of(column.dtype)):
                return column
            column = as_text(column)
        text = filled(column) if name in self.trimmed else column
        textual = name in self.sheet.textual
        found, read = (kind, read_as(text, kind)) if kind is not None else recognise(text, textual=textual)
        if found is None:
            self.warnings.append(f"the column {name!r} has no value, so that its type is unknown: it was left out")
            return None
        bad = unread(text, read)
        if kind is not None and len(bad):
            if other := _other_kind(text, kind, len(bad), textual=textual):
                example = f"{column[bad[0]]!r} on line {self.sheet.line(bad[0])}"
                if told:
                    self.refused.append(self._refusal(name, kind, other, example))
                    return None
                self.warnings.append(f"the column {name!r} is of type {other}, not {kind}: {example}")
                return read_as(text, other)
            for row in bad:
                self.faults.setdefault(row, []).append(f"{name} {column[row]!r} does not read as {kind}")
        return read

    def _contradiction(self, name: str, asked: Kind | None) -> ImportRefused:
        """Word the refusal of a schema that asks for another kind than the table holds."""
        stored = self.stored[name]
        return ImportRefused(
            f"the column {name!r} of the table {self.table} is of type {stored}, and the schema asks for {asked}",
            hint=f"Change the type of {name!r} to {stored} in the schema, or give the column another name in both.",
        )

    def _refusal(self, name: str, told: Kind, found: Kind, example: str) -> ImportRefused:
        """Word the refusal of values that are of another kind than they were told to be, by whoever told it."""
        if name in self.stored:
            return type_change(self.table, name, told, found, example)
        return ImportRefused(
            f"the schema asks for type {told} of the column {name!r}, and the values are of type {found}: {example}",
            hint=f"Change the type of {name!r} to {found} in the schema, or give values that read as {told}.",
        )


def _other_kind(text: pl.Series, kind: Kind, bad: int, *, textual: bool) -> Kind | None:
    """Tell a column of another kind, which is named, from a column with a few bad cells."""
    found = infer(text, textual=textual) or kind
    if found not in (kind, "string"):
        return found
    return "string" if bad > MOSTLY_BAD * (len(text) - filled(text).null_count()) else None
