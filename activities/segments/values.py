"""Reads the text values of conditions by the kind of the column they are compared with, and shows stored ones.

Nothing is guessed: a text either is a value of the kind or is refused with an example.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

from activities.tables.schema import Kind, version_order
from workflows.scalars import FALSE_WORDS, TRUE_WORDS

EXAMPLES: dict[Kind, str] = {
    "integer": "18",
    "number": "0.5",
    "string": "paid",
    "boolean": "true",
    "date": "2026-03-29",
    "instant": "2026-03-29T10:00:00Z",
    "price": "19.99 EUR",
    "version": "3.10",
    "list": "[running, trail]",
}
"""A value of each kind, as a document writes it."""

FIRST_DAY = date(1000, 1, 1)
LAST_DAY = date(9998, 12, 31)
"""The days that can be named: a day more or a zone's offset never leaves the calendar."""

_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_PRICE = re.compile(r"([+-]?\d{1,14}(?:\.\d{1,4})?) +([A-Z]{3})", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}(:?\d{2})?)?", re.ASCII)


@dataclass(frozen=True)
class Price:
    """An exact amount of at most four decimals, in one currency."""

    amount: Decimal
    currency: str


Scalar: TypeAlias = int | float | str | bool | date | datetime | Price
"""A value that was read. A version is the number by which it sorts."""


def read_value(text: str, kind: Kind) -> Scalar:
    """Read a text as a value of a kind.

    Args:
        text: As the document has it.
        kind: Of the column that it is compared with. An item of a list is read as a string, and an instant may be
            named by a bare date, which is given as a date.

    Returns:
        The value. Instants are in UTC, which is also the zone of those written without one.

    Raises:
        ValueError: The text is no value of the kind.
    """
    if kind in {"string", "list"}:
        return text
    read = _read(text.strip(), kind)
    if read is None:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(f"{text!r} is not {article} {kind}, such as `{EXAMPLES[kind]}`")
    return read


def _read(text: str, kind: Kind) -> Scalar | None:
    match kind:
        case "integer":
            return int(text) if _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63 else None
        case "number":
            return float(text) if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None
        case "boolean":
            word = text.lower()
            return word in TRUE_WORDS if word in TRUE_WORDS | FALSE_WORDS else None
        case "price":
            found = _PRICE.fullmatch(text)
            return Price(Decimal(found[1]), found[2]) if found else None
        case "version":
            return version_order(text)
        case "date":
            return _day(text)
        case "instant":
            return _day(text) or _instant(text)
        case _:
            return None


def _day(text: str) -> date | None:
    if not _DATE.fullmatch(text):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if FIRST_DAY <= day <= LAST_DAY else None


def _instant(text: str) -> datetime | None:
    if not _INSTANT.fullmatch(text):
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not FIRST_DAY.year < instant.year <= LAST_DAY.year:
        return None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def shown(value: Any, kind: Kind) -> Any:
    """Give a stored value as JSON data that people can read.

    Args:
        value: As polars gives it; None when it is missing.
        kind: The kind of its column.

    Returns:
        The value: prices as `19.99 EUR`, versions as written, dates and instants in ISO 8601. A sum of numbers that
        left the range of floats is the text `inf`, `-inf` or `nan`: JSON has no such numbers (RFC 8259 section 6).
    """
    if value is None:
        return None
    match kind:
        case "number":
            return value if math.isfinite(value) else str(value)
        case "price":
            amount = value["amount"]
            return None if amount is None else f"{_plain(amount)} {value['currency']}"
        case "version":
            return value["text"]
        case "instant":
            return value.isoformat().replace("+00:00", "Z")
        case "date":
            return value.isoformat()
        case "list":
            return list(value)
        case _:
            return value


def _plain(amount: Decimal) -> str:
    """Write an amount with two decimals, or as many more as it has."""
    exact = amount.normalize()
    return f"{exact:f}" if -int(exact.as_tuple().exponent) > 2 else f"{exact:.2f}"
