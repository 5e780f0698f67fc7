"""The types of attributes: how each is named, stored, and read from text.

Nine kinds cover what people put on users, devices and events. Each has one polars dtype, which is also what the
Delta tables hold, so that a table describes itself and no second register of types can drift from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Literal, TypeAlias, get_args

import polars as pl

Kind: TypeAlias = Literal["integer", "number", "string", "boolean", "date", "instant", "price", "version", "list"]
"""What a value is, in the words of the segment language."""

KINDS: tuple[Kind, ...] = get_args(Kind)

TableName: TypeAlias = Literal["users", "devices", "events", "members"]
"""The audience tables."""

Schema: TypeAlias = Mapping[str, Mapping[str, Kind]]
"""Table name to its columns, each with its kind, in table order."""

PRICE = pl.Struct({"amount": pl.Decimal(18, 4), "currency": pl.String})
"""A price: an exact amount and an ISO 4217 code. A missing price is a null struct."""

VERSION = pl.Struct({"text": pl.String, "order": pl.Int64})
"""A version: as it was written, and a number that sorts `1.10` after `1.9.9` (four parts of up to 9999)."""

DTYPES: dict[Kind, pl.DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "string": pl.String(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "instant": pl.Datetime("us", "UTC"),
    "price": PRICE,
    "version": VERSION,
    "list": pl.List(pl.String()),
}
"""The one dtype in which each kind is stored."""

FIRST_DATE, LAST_DATE = date.min, date.max
"""The days that are dates: Python, which reads them from the tables, counts the years 1 to 9999."""

FIRST_INSTANT = datetime(1, 1, 2, tzinfo=UTC)
LAST_INSTANT = datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC)
"""The instants that are taken: a day inside those years, so that each of them has a local time in every zone. No zone
was ever further than 16 hours from UTC (IANA: `Asia/Manila`), and none may be a day (`datetime.tzinfo.utcoffset`)."""

VERSION_PARTS = 4
VERSION_PART_LIMIT = 10_000


def kind_of(dtype: pl.DataType) -> Kind:
    """Name the kind that a stored column has.

    Args:
        dtype: A column's dtype in one of the audience tables.

    Returns:
        Its kind.

    Raises:
        ValueError: The dtype is none of those this product writes.
    """
    for kind, stored in DTYPES.items():
        if dtype == stored:
            return kind
    raise ValueError(f"a column of dtype {dtype} is none of {', '.join(KINDS)}: the table was not written by an import")


def version_order(text: str) -> int | None:
    """Give the number by which a version sorts.

    Args:
        text: One to four parts of up to 9999, such as `3.10` or `1.9.9`.

    Returns:
        The number, or None when the text is no version.
    """
    parts = text.strip().split(".")
    if len(parts) > VERSION_PARTS or not all(part.isascii() and part.isdigit() for part in parts):
        return None
    numbers = [int(part) for part in parts] + [0] * (VERSION_PARTS - len(parts))
    if any(number >= VERSION_PART_LIMIT for number in numbers):
        return None
    order = 0
    for number in numbers:
        order = order * VERSION_PART_LIMIT + number
    return order
