"""What is known of one user at one moment, as one row: for splits by a value, triggers, dates and updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from activities.segments.comparisons import Term
from activities.segments.values import shown
from activities.tables.properties import typed_row
from activities.tables.schema import Kind, kind_of
from workflows.operators import AttributeRef, EntryRef, PropertyRef, Reference

USER, ENTRY, PROPERTY = "\x1fuser:", "\x1fentry:", "\x1fproperty:"
"""Before the names of columns: no import can name a column so."""


@dataclass(frozen=True)
class Facts:
    """Values of one user, of the event by which he entered, and of the last event that he did.

    Attributes:
        user: Attribute to JSON value.
        entry: Value of the entry event, by name.
        last: Property of the last awaited event, by name.
        kinds: Table name to its columns' kinds: of `users` and `events`.
    """

    user: Mapping[str, Any]
    entry: Mapping[str, Any]
    last: Mapping[str, Any]
    kinds: Mapping[str, Mapping[str, Kind]]

    @cached_property
    def row(self) -> pl.DataFrame:
        """One row that holds them all; a value that is missing has no column."""
        events = self.kinds.get("events", {})
        parts = (
            (USER, self.user, self.kinds.get("users", {})),
            (ENTRY, self.entry, events),
            (PROPERTY, self.last, events),
        )
        columns = [pl.Series("\x1f", [True])]
        for prefix, values, kinds in parts:
            columns += [column.alias(prefix + column.name) for column in typed_row(values, kinds)]
        return pl.DataFrame(columns)

    def term(self, reference: Reference) -> Term | None:
        """Give what a reference stands for; None where there is no such value."""
        name = _column(reference)
        return Term(pl.col(name), kind_of(self.row.schema[name])) if name in self.row.columns else None

    def terms(self, prefix: str) -> dict[str, Term]:
        """Give all values of the user (`USER`) or of the entry event (`ENTRY`) as terms, by name."""
        return {
            name.removeprefix(prefix): Term(pl.col(name), kind_of(dtype))
            for name, dtype in self.row.schema.items()
            if name.startswith(prefix)
        }

    def value(self, reference: Reference) -> Any:
        """Give the value of a reference as JSON data; None where it is missing."""
        name = _column(reference)
        if name not in self.row.columns:
            return None
        return shown(self.row.get_column(name).item(), kind_of(self.row.schema[name]))


def words_of(reference: Reference) -> str:
    """Name a reference in a sentence."""
    match reference:
        case AttributeRef(attribute=name):
            return f"the attribute {name!r}"
        case EntryRef(entry=name):
            return f"the entry event's {name!r}"
        case PropertyRef(property=name):
            return f"the last event's {name!r}"


def _column(reference: Reference) -> str:
    match reference:
        case AttributeRef(attribute=name):
            return USER + name
        case EntryRef(entry=name):
            return ENTRY + name
        case PropertyRef(property=name):
            return PROPERTY + name
