"""Columns of text become columns of a kind: how each kind is recognised, and how its values are read and written.

Recognising is stricter than reading. `007` is read as 7 where the table holds integers, but a column that holds it is
recognised as text, since whoever wrote the zeros meant them.

In a cell of a delimited file a price is `19.99 EUR`, an instant is ISO 8601 (without a zone: UTC), and a list is a JSON
array, `["a","b"]`: no delimiter inside a cell is guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import polars as pl

from activities.tables.schema import (
    DTYPES,
    FIRST_DATE,
    FIRST_INSTANT,
    LAST_DATE,
    LAST_INSTANT,
    VERSION_PART_LIMIT,
    VERSION_PARTS,
    Kind,
)

NAMED: dict[str, Kind] = {
    "opt_in": "boolean",
    # Norwegian is `no`, and so is Norway.
    "language": "string",
    "locale": "string",
    "country": "string",
    "timezone": "string",
}
"""Columns whose kind their name decides, whatever their values look like; so does the ending `_version`."""

PATTERNS: dict[Kind, str] = {
    "boolean": r"(?i)^(true|false|yes|no|1|0)$",
    "integer": r"^(0|-?[1-9][0-9]{0,14})$",
    "number": r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "instant": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].*)?$",
    "price": r"^-?[0-9]{1,14}(\.[0-9]{1,4})?\s+[A-Z]{3}$",
    "version": r"^[0-9]+(\.[0-9]+){0,3}$",
    "list": r"^\[[\s\S]*\]$",
}
"""What every value of a column looks like for its kind to be recognised, tried in this order. Whatever `read_as` reads
as a kind looks like that, but for numbers, of which it reads more."""

ALSO: dict[Kind, str] = {"boolean": r"[A-Za-z]", "version": r"\..*\."}
"""What some value looks like besides: zeros and ones count, and a dotted pair is a number."""

NEVER_IN_TEXT: set[Kind] = {"boolean", "integer", "number"}
"""Kinds that are not recognised in columns that the file itself marks as text."""

SAMPLE_ROWS = 200
PART_ROWS = 50_000

CELL = pl.col("cell")

INSTANT = (
    r"^(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<time>[0-2][0-9]:[0-5][0-9])(?::(?P<second>[0-5][0-9])(?:[.,](?P<fraction>[0-9]+))?)?"
    r" ?(?P<zone>[Zz]|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
"""ISO 8601 as files hold it: with `T` or a space, seconds and fraction or without, any offset, none being UTC."""
PLAIN_INSTANT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$"
"""One form of it, which polars reads as it is."""


def kind_by_name(column: str) -> Kind | None:
    """Give the kind that a column's name decides, or null."""
    return "version" if column.endswith("_version") else NAMED.get(column)


def filled(column: pl.Series) -> pl.Series:
    """Give a column of text without surrounding spaces, null where nothing is left; itself where that is the same."""
    text = CELL.str.strip_chars()
    if not _any(column, (text == "") | (text.str.len_bytes() != CELL.str.len_bytes())):
        return column
    return _read(column, pl.when(text != "").then(text))


def unread(column: pl.Series, read: pl.Series) -> pl.Series:
    """Give the places of cells of text that hold a value and were not read."""
    places = read.is_null().arg_true()
    return places.filter(filled(column.gather(places)).is_not_null())


def infer(column: pl.Series, *, textual: bool = False) -> Kind | None:
    """Recognise the kind of a column.

    Args:
        column: String; null and blank cells say nothing.
        textual: The file marks the values as text, so that they are no numbers and no booleans.

    Returns:
        The kind, `string` where no other fits every value; null when all cells are empty.
    """
    return recognise(column, textual=textual)[0]


def recognise(column: pl.Series, *, textual: bool = False) -> tuple[Kind | None, pl.Series]:
    """Recognise the kind of a column, and read it as that, which is how it is known to be one.

    Args:
        column: As `infer` has it.
        textual: As `infer` has it.

    Returns:
        The kind as `infer` gives it, and the column as `read_as` gives it; as it was where there is no kind.
    """
    text = filled(column)
    values = len(text) - text.null_count()
    if not values:
        return None, column
    sample = text.head(SAMPLE_ROWS).drop_nulls()
    for kind, pattern in PATTERNS.items():
        if (textual and kind in NEVER_IN_TEXT) or not sample.str.contains(pattern).all():
            continue
        if kind in ALSO and not _any(text, CELL.str.contains(ALSO[kind])):
            continue
        if kind not in CASTS:
            read = _read_filled(text, kind)
        elif _any(text, ~CELL.str.contains(pattern)):
            continue
        else:
            read = _read(text, CASTS[kind])
        if len(read) - read.null_count() == values:
            return kind, read
    return "string", _blanks_out(column, text)


def read_as(column: pl.Series, kind: Kind) -> pl.Series:
    """Read a column of text as a kind.

    Args:
        column: String.
        kind: What the values shall be.

    Returns:
        The column in the kind's dtype (`DTYPES`). Null where the cell is empty or does not read as the kind. Strings
        keep their surrounding spaces.
    """
    text = filled(column)
    return _blanks_out(column, text) if kind == "string" else _read_filled(text, kind)


def _blanks_out(column: pl.Series, text: pl.Series) -> pl.Series:
    """Give a column of text as it is, null where nothing but spaces is."""
    return column if text is column else column.set(text.is_null(), None)


def _read_filled(text: pl.Series, kind: Kind) -> pl.Series:
    """Read a column that `filled` gave as a kind other than text."""
    if kind == "list":
        return pl.Series(text.name, [_list(cell) for cell in text], dtype=DTYPES["list"])
    if kind != "instant":
        return _read(text, READERS[kind](CELL))
    # Those in the plainest form at once, which takes a tenth of the time, and only the others apart.
    read = _read(text, _plain_instant(CELL))
    others = unread(text, read)
    return read.scatter(others, _read(text[others], _instant(CELL))) if len(others) else read


def _any(column: pl.Series, condition: pl.Expr) -> bool:
    """Ask whether something is true of any cell."""
    return bool(_frame(column, condition.any()).item())


def _read(column: pl.Series, expression: pl.Expr) -> pl.Series:
    """Make a column of another."""
    return _frame(column, expression).to_series().alias(column.name)


def _frame(column: pl.Series, *expressions: pl.Expr) -> pl.DataFrame:
    """Work on a column, part by part where it is long: what is made on the way would be several times the column."""
    cells = column.alias(CELL.meta.output_name()).to_frame().lazy().select(expressions)
    return cells.collect(engine="streaming" if len(column) > PART_ROWS else "in-memory")


def as_text(column: pl.Series) -> pl.Series:
    """Write a column of any kind as text that reads as the same values; equal values give equal text.

    Args:
        column: In one of the dtypes of `DTYPES`.

    Returns:
        String; null stays null.
    """
    return _as_text(column).alias(column.name)


def _as_text(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Datetime:
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    if column.dtype == DTYPES["price"]:
        amount, currency = column.struct.field("amount"), column.struct.field("currency")
        return amount.cast(pl.String) + " " + currency
    if column.dtype == DTYPES["version"]:
        return column.struct.field("text")
    if column.dtype == DTYPES["list"]:
        cells = [None if cell is None else json.dumps(cell, ensure_ascii=False) for cell in column.to_list()]
        return pl.Series(column.name, cells, dtype=pl.String)
    return column.cast(pl.String)


def _boolean(text: pl.Expr) -> pl.Expr:
    lower = text.str.to_lowercase()
    return pl.when(lower.is_in(["true", "yes", "1"])).then(True).when(lower.is_in(["false", "no", "0"])).then(False)


def _integer(text: pl.Expr) -> pl.Expr:
    return text.str.extract(r"^([+-]?[0-9]+)(?:\.0*)?$").str.strip_prefix("+").cast(pl.Int64, strict=False)


def _number(text: pl.Expr) -> pl.Expr:
    digits = text.str.extract(r"^([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)$")
    return _finite(digits.cast(pl.Float64, strict=False))


def _finite(number: pl.Expr) -> pl.Expr:
    return pl.when(number.is_finite()).then(number)


def _date(text: pl.Expr) -> pl.Expr:
    day = text.str.extract(f"({PATTERNS['date']})").str.to_date("%Y-%m-%d", strict=False)
    return pl.when(day.is_between(FIRST_DATE, LAST_DATE)).then(day)


def _plain_instant(text: pl.Expr) -> pl.Expr:
    plain = pl.when(text.str.contains(PLAIN_INSTANT)).then(text)
    return _held(plain.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False, time_unit="us"))


def _instant(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(INSTANT).struct
    clock = part.field("day") + "T" + part.field("time").fill_null("00:00") + ":" + part.field("second").fill_null("00")
    fraction = part.field("fraction").fill_null("0").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64)
    zone = part.field("zone").fill_null("Z")
    hours = zone.str.extract(r"^[+-]([0-9]{2})").cast(pl.Int64).fill_null(0)
    minutes = zone.str.extract(r"^[+-][0-9]{2}:?([0-9]{2})$").cast(pl.Int64).fill_null(0)
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    local = clock.str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False, time_unit="us")
    instant = local + pl.duration(microseconds=fraction) - pl.duration(minutes=sign * (hours * 60 + minutes))
    # No place is further than 18 hours from UTC (ISO 8601 as `zoneinfo` and java.time bound it).
    return pl.when((hours <= 18) & (minutes < 60)).then(_held(instant))


def _held(local: pl.Expr) -> pl.Expr:
    """Give instants in UTC, of those that a table may hold."""
    instant = local.dt.replace_time_zone("UTC")
    return pl.when(instant.is_between(FIRST_INSTANT, LAST_INSTANT)).then(instant)


def _price(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(r"^(?P<amount>-?[0-9]{1,14}(?:\.[0-9]{1,4})?)\s+(?P<currency>[A-Z]{3})$").struct
    amount = part.field("amount").cast(pl.Decimal(18, 4), strict=False)
    return pl.when(amount.is_not_null()).then(pl.struct(amount=amount, currency=part.field("currency")))


def _version(text: pl.Expr) -> pl.Expr:
    """Number versions as `schema.version_order` does."""
    parts = text.str.extract(r"^((?:0*[0-9]{1,4})(?:\.0*[0-9]{1,4}){0,3})$").str.split(".")
    order = pl.lit(0, pl.Int64)
    for index in range(VERSION_PARTS):
        order = order * VERSION_PART_LIMIT + parts.list.get(index, null_on_oob=True).cast(pl.Int64).fill_null(0)
    return pl.when(parts.is_not_null()).then(pl.struct(text=text, order=order))


CASTS: dict[Kind, pl.Expr] = {
    "integer": CELL.cast(pl.Int64, strict=False),
    "number": _finite(CELL.cast(pl.Float64, strict=False)),
}
"""What reads numbers that look like some: the same values as by `READERS`, in a third of the time."""

READERS: dict[Kind, Callable[[pl.Expr], pl.Expr]] = {
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "date": _date,
    "instant": _instant,
    "price": _price,
    "version": _version,
}


def no_json(text: str) -> None:
    """Refuse NaN and the infinities: Python reads them, JSON has no such numbers (RFC 8259 section 6)."""
    raise ValueError(f"{text} is no JSON number")


def _list(cell: str | None) -> list[str] | None:
    """Read a JSON array of scalars as a list of strings; null in it is left out."""
    try:
        # Numbers stay as they are written; a half of a surrogate pair is no text.
        values = json.loads(cell or "", parse_int=str, parse_float=str, parse_constant=no_json)
        json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or any(isinstance(value, list | dict) for value in values):
        return None
    texts = {True: "true", False: "false"}
    return [texts[value] if isinstance(value, bool) else value for value in values if value is not None]
