"""Files that carry types of their own, NDJSON and Parquet, as sheets like those that delimited files give."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from activities.tables.encodings import file_readable, head_of, require_size
from activities.tables.headers import check_names
from activities.tables.inference import as_text, no_json, read_as
from activities.tables.reading import LINE, Sheet, Unfit
from activities.tables.rejects import Reject
from activities.tables.schema import (
    DTYPES,
    FIRST_DATE,
    FIRST_INSTANT,
    LAST_DATE,
    LAST_INSTANT,
    VERSION,
    kind_of,
)
from workflows.errors import ImportRefused

NDJSON = {".ndjson", ".jsonl"}
PARQUET = {".parquet", ".pq"}

CASTS: dict[type[pl.DataType], pl.DataType] = {
    **dict.fromkeys((pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64), pl.Int64()),
    **dict.fromkeys((pl.String, pl.Categorical, pl.Enum, pl.Null), pl.String()),
    pl.Boolean: pl.Boolean(),
}
"""Parquet's types that a cast alone brings to a kind's dtype."""

IDS = {"user_id", "device_id", "event_id"}
"""Columns of ids. Programs that know no missing integer, such as pandas, write whole ids as floats."""

NO_ID = "is no id: a number has to be whole, and exact"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
CYCLE_YEARS, CYCLE_DAYS = 400, 146_097
"""After so many days the Gregorian calendar repeats itself."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Written(str):
    """A number as the file writes it: it keeps every digit, and is told from a string."""


def read_ndjson(path: Path) -> Sheet:
    """Read a file of one JSON object per line as columns of text.

    A key that a row lacks says nothing about that column; null in it empties the cell. A list of scalars stays JSON,
    and `{"amount": 19.99, "currency": "EUR"}` becomes `19.99 EUR`.

    Args:
        path: The file, in UTF-8.

    Returns:
        The sheet. Lines that are no JSON object are rejected.

    Raises:
        ImportRefused: The file is missing or empty, holds one JSON array, or nests objects.
    """
    if head_of(path).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"["):
        raise ImportRefused(f"{path} holds one JSON array", hint="Write one object per line, without the brackets.")
    rows: list[dict[str, str | None]] = []
    lines: list[int] = []
    rejects: list[Reject] = []
    textual: dict[str, bool] = {}
    nested: dict[str, ImportRefused] = {}
    with file_readable(path), path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if not raw.strip(b"\xef\xbb\xbf \r\n\t"):
                continue
            try:
                cells = _object(raw)
            except (ValueError, RecursionError) as error:
                said = "it is nested too deep" if isinstance(error, RecursionError) else error
                rejects.append(Reject(line, f"not read as JSON: {said}", raw.decode(errors="replace").rstrip("\r\n")))
                continue
            for key, value in cells.items():
                is_text = isinstance(value, str) and not isinstance(value, _Written)
                textual[key] = textual.get(key, False) or is_text
            rows.append(_row(path, line, cells, nested))
            lines.append(line)
    if nested:
        raise ImportRefused.together(list(nested.values()))
    if "" in textual:
        raise ImportRefused(f"{path}: a key has no name", hint="Name it, or remove it.")
    check_names(path, textual)
    columns = {key: pl.Series(key, [row.get(key) for row in rows], dtype=pl.String) for key in textual}
    absent = {key: pl.Series(key, [key not in row for row in rows], dtype=pl.Boolean) for key in textual}
    return Sheet(
        pl.DataFrame({LINE: pl.Series(LINE, lines, dtype=pl.Int64), **columns}).lazy(),
        len(lines),
        rejects,
        textual=frozenset(key for key, is_text in textual.items() if is_text),
        absent={key: mask for key, mask in absent.items() if mask.any()},
    )


def read_parquet(path: Path) -> Sheet:
    """Read a Parquet file, each column in one of the dtypes of `DTYPES`; the line of a row is its number, from 1.

    Args:
        path: The file.

    Returns:
        The sheet. Strings may still become dates, prices, versions or lists. Values that have a kind's type and are
        none that a table may hold are null, and among the sheet's `unfit`.

    Raises:
        ImportRefused: The file is missing, is no Parquet, or has a column of a type that no kind holds.
    """
    require_size(path)
    try:
        with file_readable(path), path.open("rb") as file:
            frame = pl.read_parquet(file)
    except pl.exceptions.PolarsError as error:
        raise ImportRefused(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    frame = frame.rename(str.strip) if len({name.strip() for name in frame.columns}) == frame.width else frame
    check_names(path, frame.columns)
    unfit: dict[str, dict[int, Unfit]] = {}
    columns, refused = [], []
    for column in frame:
        try:
            columns.append(_column(path, column, unfit))
        except ImportRefused as error:
            refused.append(error)
    if refused:
        raise ImportRefused.together(refused)
    numbered = pl.int_range(1, frame.height + 1, dtype=pl.Int64, eager=True).alias(LINE)
    textual = frozenset(column.name for column in columns if column.dtype == pl.String)
    warnings = [
        f"the column {column.name!r} holds numbers of type {column.dtype}: they were read as whole ones, 1.0 as '1'"
        for column in frame
        if _is_inexact_id(column) and column.count()
    ]
    rows = pl.DataFrame([numbered, *columns]).lazy()
    return Sheet(rows, frame.height, textual=textual, unfit=unfit, warnings=warnings)


def _object(raw: bytes) -> dict[str, object]:
    """Read a line as a JSON object, by its keys without surrounding spaces."""
    row = json.loads(raw.decode("utf-8-sig"), parse_int=_Written, parse_float=_Written, parse_constant=no_json)
    if not isinstance(row, dict):
        raise ValueError("the line is no JSON object")
    # In UTF-8 a surrogate can only be an escape.
    if SURROGATE.search(raw) and (half := _half_of_a_pair(row)):
        raise ValueError(f"\\u{ord(half):04x} is half of a surrogate pair, which is no text: write both halves")
    return {key.strip(): value for key, value in row.items()}


def _half_of_a_pair(row: dict[str, object]) -> str:
    """Find a surrogate without its other half, in a key or a value at any depth; empty without any."""
    # Halves that belong together are one character already.
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return str(error.object)[error.start]
    return ""


def _row(path: Path, line: int, cells: dict[str, object], nested: dict[str, ImportRefused]) -> dict[str, str | None]:
    """Write the values of a line as text, and note the first refusal of each key."""
    row: dict[str, str | None] = {}
    for key, value in cells.items():
        try:
            row[key] = _cell(path, line, key, value)
        except ImportRefused as error:
            nested.setdefault(key, error)
    return row


def _cell(path: Path, line: int, key: str, value: object) -> str | None:
    """Write a JSON value as the text that reads as it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        # Written numbers become strings, which is what lists hold.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and set(value) == {"amount", "currency"}:
        parts = value["amount"], value["currency"]
        return None if parts == (None, None) else " ".join("null" if part is None else str(part) for part in parts)
    raise ImportRefused(
        f"{path}:{line}: {key!r} holds {'an object' if isinstance(value, dict) else 'a list of lists or objects'}",
        hint=f"Give each value a key of its own, such as {key + '_name'!r}.",
    )


def _column(path: Path, column: pl.Series, unfit: dict[str, dict[int, Unfit]]) -> pl.Series:
    """Bring a column to one of the dtypes of `DTYPES`, and note the values that do not fit, which become null."""
    given = column
    try:
        if _is_struct(column.dtype, "amount", "currency"):
            # As text, a price is judged here as it is in a delimited file.
            given = _price_texts(column)
            read: pl.Series | None = read_as(given, "price")
        else:
            read = _read(column)
    except pl.exceptions.PolarsError as error:
        raise ImportRefused(
            f"{path}: the column {column.name!r} cannot be taken: {str(error).splitlines()[0]}"
        ) from error
    if read is None:
        raise ImportRefused(
            f"{path}: the column {column.name!r} is of type {column.dtype}, which no table holds",
            hint="Write it as text, a number, a date, an instant, or a list of strings.",
        )
    if len(lost := (read.is_null() & given.is_not_null()).arg_true()):
        wrong = NO_ID if _is_inexact_id(column) else f"does not read as {kind_of(read.dtype)}"
        cells = (Unfit(text, wrong) for text in _texts(given.gather(lost)))
        unfit[column.name] = dict(zip(lost, cells, strict=True))
    return read


def _read(column: pl.Series) -> pl.Series | None:
    """Bring a column to one of the dtypes of `DTYPES`, null where a value does not fit; None when no kind holds it."""
    dtype = column.dtype
    if cast := CASTS.get(dtype.base_type()):
        return column.cast(cast)
    if _is_inexact_id(column):
        return _whole(column)
    if dtype.is_float() or dtype.is_decimal():
        number = column.cast(pl.Float64)
        return number.set(~number.is_finite(), None)
    if isinstance(dtype, pl.Date | pl.Datetime):
        return _in_the_calendar(column)
    if isinstance(dtype, pl.List) and not isinstance(dtype.inner, pl.List | pl.Struct | pl.Array):
        return column.cast(DTYPES["list"]).list.drop_nulls()
    # The order that another program wrote beside the text of a version is not taken on trust.
    if _is_struct(dtype, "text", "order"):
        return as_text(column.cast(VERSION))
    return None


def _is_struct(dtype: pl.DataType, *names: str) -> bool:
    """Whether a type is a struct of just these fields."""
    return isinstance(dtype, pl.Struct) and {part.name for part in dtype.fields} == set(names)


def _is_inexact_id(column: pl.Series) -> bool:
    """Whether a column holds ids as numbers that may have a fraction."""
    return column.name in IDS and (column.dtype.is_float() or column.dtype.is_decimal())


def _whole(column: pl.Series) -> pl.Series:
    """Write whole numbers without a fraction, null for all others, and for those that a float may have rounded."""
    if column.dtype.is_decimal():
        texts = column.cast(pl.String).str.replace(r"\.0*$", "")
        whole = ~texts.str.contains(".", literal=True)
    else:
        texts = column.cast(pl.Int64, strict=False).cast(pl.String)
        exact = 2**24 if column.dtype == pl.Float32 else 2**53  # IEEE 754: the bits of the significand
        whole = (column == column.round()) & (column.abs() < exact)
    return pl.select(pl.when(whole).then(texts).alias(column.name)).to_series()


def _price_texts(column: pl.Series) -> pl.Series:
    """Write prices as a delimited file holds them; null where both the amount and the currency are missing."""
    price = pl.col("price").struct
    # A number with a fixed count of decimals ends in zeros, which say nothing.
    amount = price.field("amount").cast(pl.String).str.replace(r"(\.[0-9]*?)0+$", "${1}").str.strip_suffix(".")
    currency = price.field("currency").cast(pl.String)
    missing = amount.is_null() & currency.is_null()
    text = pl.when(~missing).then(amount.fill_null("null") + " " + currency.fill_null("null"))
    return column.alias("price").to_frame().select(text.alias(column.name)).to_series()


def _in_the_calendar(column: pl.Series) -> pl.Series:
    """Give dates and instants in their kind's dtype, null for those that no table may hold."""
    dtype = column.dtype
    if not isinstance(dtype, pl.Datetime):
        return _between(column, (FIRST_DATE - EPOCH.date()).days, (LAST_DATE - EPOCH.date()).days)
    # Nanoseconds end in 2262. Other counts are looked at before they are cast: casts wrap around.
    if dtype.time_unit != "ns":
        second, per_second = timedelta(seconds=1), PER_SECOND[dtype.time_unit]
        first, last = (FIRST_INSTANT - EPOCH) // second, (LAST_INSTANT - EPOCH) // second
        column = _between(column, first * per_second, (last + 1) * per_second - 1)
    zoned = column.dt.replace_time_zone("UTC") if dtype.time_zone is None else column
    return zoned.dt.convert_time_zone("UTC").cast(DTYPES["instant"])


def _between(column: pl.Series, first: int, last: int) -> pl.Series:
    """Give a column of dates or instants, null outside two counts of its unit from 1970, both of which are inside."""
    inside = column.to_physical().is_between(first, last)
    return pl.select(pl.when(inside).then(column).alias(column.name)).to_series()


def _texts(values: pl.Series) -> Iterator[str]:
    """Write values as they stand in a file, those too that Python and polars cannot write: no year is too far."""
    if not isinstance(values.dtype, pl.Date | pl.Datetime):
        yield from values.cast(pl.String)
        return
    per_day = 86_400 * PER_SECOND[values.dtype.time_unit] if isinstance(values.dtype, pl.Datetime) else 1
    for count in values.to_physical():
        days, rest = divmod(count, per_day)
        cycles, days = divmod(days, CYCLE_DAYS)
        day = EPOCH.date() + timedelta(days=days)
        text = f"{day.year + cycles * CYCLE_YEARS:04}-{day:%m-%d}"
        yield text if per_day == 1 else f"{text}T{EPOCH + timedelta(seconds=rest * 86_400 // per_day):%H:%M:%S}Z"
