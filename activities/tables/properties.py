"""Values that come one at a time, typed as the tables would type them: of events, of updates, of one user's row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import polars as pl

from activities.tables.inference import infer, kind_by_name, read_as
from activities.tables.schema import Kind


def as_cell(value: Any) -> str | None:
    """Write a JSON value as a file's cell would hold it; None for a missing one."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return json.dumps([str(item) for item in value], ensure_ascii=False)
        case date() | datetime():
            return value.isoformat()
        case _:
            return str(value)


def typed_row(values: Mapping[str, Any], kinds: Mapping[str, Kind], *, textual: bool = True) -> pl.DataFrame:
    """Type some values as one row.

    Args:
        values: Name to JSON value.
        kinds: Kinds of the columns that the table has already.
        textual: Texts are meant as texts; else they are what a file's cell would be, and may be numbers or booleans.

    Returns:
        One row, a column for each value that is there, in the dtype of its kind: the stored one, else the one that its
        name or its value tells. Null where a value does not read as the stored kind.
    """
    columns: list[pl.Series] = []
    for name, value in values.items():
        if (cell := as_cell(value)) is None:
            continue
        text = pl.Series(name, [cell], dtype=pl.String)
        kind = kinds.get(name) or kind_by_name(name) or _native(value) or infer(text, textual=textual) or "string"
        columns.append(read_as(text, kind))
    return pl.DataFrame(columns)


def _native(value: Any) -> Kind | None:
    """Give the kind that JSON itself tells; None for text, which may be a date or a price."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case list() | tuple():
            return "list"
        case _:
            return None
