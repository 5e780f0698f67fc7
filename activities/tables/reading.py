"""People's files as rows of text: CSV in the encodings and with the delimiters that spreadsheets write.

Two readers share one survey of the file. Polars reads a file whose rows are proven to be one line each and of one
length; every other file goes through Python's `csv`, which is slower and knows for each row the line it stands on.
"""

from __future__ import annotations

import csv
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

import polars as pl

from activities.tables.encodings import (
    LONGEST_LINE_BYTES,
    delimiter_of,
    encoding_of,
    file_readable,
    head_of,
    uniform,
)
from activities.tables.headers import check_names
from activities.tables.rejects import Reject
from workflows.errors import ImportRefused

LINE = "\x1fline"
"""The column of a sheet that holds each row's line in the file, from 1. No file's column can be called so."""

INDEX = "\x1findex"

DELIMITED = {".csv", ".txt", ".tsv", ".tab"}
PIECE_ROWS = 50_000
"""Rows of a file that polars cannot read, held before they are written away."""
CELLS_AT_ONCE = 3_000_000
"""Cells of a file that are held as text together: some 40 bytes each."""

CELL_LIMIT = LONGEST_LINE_BYTES
"""Longest cell of a delimited file in characters: a quote that is never closed is known by it, in bounded memory. What
polars reads has no cell of so many bytes, so that both readers take the same cells."""
# Of Python's reader, whose own limit of 131,072 polars does not have.
csv.field_size_limit(CELL_LIMIT)

PIECE_CHARACTERS = 4 * CELL_LIMIT
"""Characters of rows that polars cannot read, held before they are written away."""

# Polars scans a CSV in chunks whose size grows with the file's, and holds many: 300 MB of a file of 300 MB. It has no
# argument for that, only a variable. With this one the same scan holds 60 MB and takes no longer (polars 2.1.0).
os.putenv("POLARS_CSV_CHUNK_SIZE", str(1 << 20))


class Record(NamedTuple):
    """One row of a delimited file."""

    line: int
    """Its first line in the file, from 1."""
    cells: list[str]
    """Its cells, as many as the header has, unless there is a fault."""
    fault: str
    """Why the row cannot be taken; empty for a good one."""
    text: str
    """The row as it stands in the file."""


class Unfit(NamedTuple):
    """A cell whose value cannot be taken: its row is rejected."""

    text: str
    """The value as it stands in the file."""
    wrong: str
    """What is wrong with it, after its name and value: `does not read as instant`."""


@dataclass(frozen=True)
class Sheet:
    """A file as it can be read, before its columns have types."""

    scan: pl.LazyFrame
    """One row per good row of the file, in its order: `LINE: Int64`, then the columns in file order, as text (null:
    empty) or, from Parquet, in one of the dtypes of `DTYPES`. Each time that it is collected, a CSV is read again."""
    height: int
    """How many rows that are."""
    rejects: list[Reject] = field(default_factory=list)
    """The rows that could not be read."""
    textual: frozenset[str] = frozenset()
    """Columns whose values the file itself marks as text, so that `"1"` is no number."""
    absent: dict[str, pl.Series] = field(default_factory=dict)
    """For a column, true in the rows that do not mention it. Only NDJSON has such rows."""
    unfit: dict[str, dict[int, Unfit]] = field(default_factory=dict)
    """For a column, by row from 0, the cells that the reader could not take: they are null in the scan. Only Parquet,
    which has types before it is read here, has such cells."""
    warnings: list[str] = field(default_factory=list)
    """What the reader assumed, for the person to confirm."""
    layout: Layout | None = None
    """How a delimited file is written; null for all others."""

    @property
    def columns(self) -> list[str]:
        """The file's own columns, in its order."""
        return [column for column in self.scan.collect_schema().names() if column != LINE]

    def series(self) -> Iterator[pl.Series]:
        """Read the columns in their order, few at a time: as text a file takes more memory than as values."""
        names = self.columns
        step = max(1, CELLS_AT_ONCE // max(1, self.height))
        for start in range(0, len(names), step):
            yield from self.scan.select(names[start : start + step]).collect(engine="streaming").iter_columns()

    def line(self, index: int) -> int:
        """Tell the line in the file, from 1, of a row, by its index from 0."""
        return int(self.scan.select(LINE).slice(index, 1).collect(engine="streaming").item())

    def rows(self, indices: Iterable[int]) -> pl.DataFrame:
        """Read some rows, by their indices from 0, in the order of the file."""
        wanted = pl.Series(sorted(indices), dtype=pl.UInt32).implode()
        numbered = self.scan.with_row_index(INDEX)
        return numbered.filter(pl.col(INDEX).is_in(wanted)).drop(INDEX).collect(engine="streaming")


@dataclass(frozen=True)
class Layout:
    """How a delimited file is written."""

    path: Path
    encoding: str
    """Python's name of the codec, which also removes a byte order mark."""
    delimiter: str
    header: list[str]
    """Column names without surrounding spaces; empty for a column without a name."""
    rows: int | None
    """How many rows follow the header, where every row is proven to be one line of UTF-8 with as many cells as the
    header, and no zero byte; null where they have to be read one by one."""
    quoted: bool
    """Whether cells of such rows may stand in quotes."""
    warnings: list[str]


def survey(path: Path) -> Layout:
    """Find out how a delimited file is written, reading it once in bounded memory.

    Args:
        path: The file, named .csv, .txt, .tsv or .tab.

    Returns:
        Its layout.

    Raises:
        ImportRefused: It is missing, empty, no text, or its header cannot be used.
    """
    head = head_of(path)
    encoding, warnings = encoding_of(path, head)
    text = head.decode(encoding, errors="ignore").lstrip("\r\n \ufeff")
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else delimiter_of(text)
    record = next((row for row in _records(path, encoding, delimiter, None) if row.cells or row.fault), None)
    if record is not None and record.fault:
        raise ImportRefused(f"{path}:{record.line}: the header cannot be read: {record.fault}")
    if record is None or not any(cell.strip() for cell in record.cells):
        raise ImportRefused(f"{path} is empty", hint="Its first line has to name the columns.")
    header = [cell.strip() for cell in record.cells]
    check_names(path, header)
    found = uniform(path, delimiter, len(header)) if encoding.startswith("utf-8") and record.line == 1 else None
    rows, quoted = (None, False) if found is None else (found.lines - 1, found.quoted)
    return Layout(path, encoding, delimiter, header, rows, quoted, warnings)


def records(layout: Layout) -> Iterator[Record]:
    """Read the rows of a delimited file one by one, in bounded memory.

    Blank lines are passed over, but in a file of one column a blank line before the last value is an empty cell.

    Args:
        layout: What `survey` found.

    Yields:
        Good rows, and faulty ones with their fault.

    Raises:
        ImportRefused: A quote is opened and never closed, so that no later row can be told.
    """
    rows = _records(layout.path, layout.encoding, layout.delimiter, len(layout.header))
    next((row for row in rows if row.cells), None)
    blank: list[Record] = []
    for record in rows:
        if record.cells or record.fault:
            yield from blank
            blank.clear()
            yield record
        elif len(layout.header) == 1:
            blank.append(record._replace(cells=[""]))


def read_delimited(path: Path, scratch: Path) -> Sheet:
    """Make a delimited file readable as columns of text.

    Args:
        path: The file.
        scratch: An empty folder that lasts as long as the sheet: rows that polars cannot read itself are kept in it.

    Returns:
        The sheet.

    Raises:
        ImportRefused: The file cannot be read as it is; see `survey` and `records`.
    """
    layout = survey(path)
    names = [name or f"\x1f{index}" for index, name in enumerate(layout.header)]
    rejects: list[Reject] = []
    if layout.rows is not None:
        scan, height = scan_clean(layout, names), layout.rows
    else:
        height = _read_exactly(layout, names, rejects, scratch)
        scan = pl.scan_parquet(scratch / "*.parquet")
    unnamed = [name for name in names if name.startswith("\x1f")]
    held = scan.select((pl.col(name).str.strip_chars() != "").any() for name in unnamed).collect()
    nameless = [
        ImportRefused(
            f"{path}: column {names.index(name) + 1} has values and no name in the header",
            hint="Name it in the first line, or remove it.",
        )
        for name in unnamed
        if held.get_column(name).item()
    ]
    if nameless:
        raise ImportRefused.together(nameless)
    return Sheet(
        scan.select(LINE, pl.exclude(LINE, *unnamed)), height, rejects, warnings=layout.warnings, layout=layout
    )


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Refuse an import for whose temporary files there is no room.

    Args:
        folder: Where they are written.

    Raises:
        ImportRefused: In place of polars' and the operating system's errors; others pass.
    """
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        # Polars gives the number of the system's error in its words only.
        numbers = {error.errno} if isinstance(error, OSError) else set()
        numbers |= {int(number) for number in re.findall(r"os error (\d+)", str(error))}
        if not numbers & {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
            raise
        raise ImportRefused(
            f"there is no room for temporary files in {folder.parent}",
            hint="They take about as much as the file: name a folder that has it in TMPDIR. Nothing was imported.",
        ) from error


def scan_clean(layout: Layout, names: list[str]) -> pl.LazyFrame:
    """Scan the rows of a clean file with polars.

    Args:
        layout: What `survey` found; its rows have to be counted.
        names: A name for each column.

    Returns:
        `LINE: Int64`, then the columns as text; an empty cell is null, or empty text where it stands in quotes.
    """
    return _scan(layout, names, layout.delimiter, '"' if layout.quoted else None)


def scan_lines(layout: Layout, name: str) -> pl.LazyFrame:
    """Scan the rows of a clean file as they stand in it.

    Args:
        layout: What `survey` found; its rows have to be counted.
        name: What to call the column of them.

    Returns:
        `LINE: Int64`, then `name: String`, the line without its end.
    """
    # Parted by a character that it does not hold, a line is one cell.
    return _scan(layout, [name], "\0", None)


def _scan(layout: Layout, names: list[str], delimiter: str, quote: str | None) -> pl.LazyFrame:
    scanned = pl.scan_csv(
        layout.path,
        has_header=False,
        skip_lines=1,
        separator=delimiter,
        quote_char=quote,
        schema=dict.fromkeys(names, pl.String()),
        raise_if_empty=False,
        glob=False,
        row_index_name=LINE,
        row_index_offset=2,
    )
    return scanned.with_columns(pl.col(LINE).cast(pl.Int64))


def _read_exactly(layout: Layout, names: list[str], rejects: list[Reject], folder: Path) -> int:
    """Read any file row by row into files of some rows each, put aside those that cannot be taken, count the others."""
    schema = {**dict.fromkeys(names, pl.String()), LINE: pl.Int64()}
    taken: list[list[str | int]] = []
    height = characters = 0

    def write() -> None:
        piece = pl.DataFrame(taken, schema=schema, orient="row")
        with room_in(folder):
            piece.write_parquet(folder / f"{height:012}.parquet", compression="lz4")

    for record in records(layout):
        if record.fault:
            rejects.append(Reject(record.line, record.fault, record.text))
            continue
        taken.append([*record.cells, record.line])
        characters += len(record.text)
        if len(taken) == PIECE_ROWS or characters > PIECE_CHARACTERS:
            write()
            height += len(taken)
            characters = 0
            taken.clear()
    write()
    return height + len(taken)


def _records(path: Path, encoding: str, delimiter: str, width: int | None) -> Iterator[Record]:
    """Read the header and all rows; rows without cells are blank lines. Without a width, only the header is sound."""
    held: list[str] = []

    def lines(file: TextIO) -> Iterator[str]:
        for line in file:
            held.append(line)
            yield line

    with file_readable(path), path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(lines(file), delimiter=delimiter, strict=True)
        while True:
            held.clear()
            line, fault = reader.line_num + 1, ""
            cells: list[str] = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = _fault(path, line, str(error))
            if width is not None and cells and len(cells) != width:
                fault = f"{len(cells)} cells where the header has {width}"
            yield Record(line, cells, fault, "".join(held).rstrip("\r\n"))


def _fault(path: Path, line: int, said: str) -> str:
    """Word what Python's reader found, and refuse what leaves the rest of the file in doubt."""
    if "unexpected end" in said or "field larger" in said:
        raise ImportRefused(
            f"{path}:{line}: a quote opened in this row is never closed, or a cell has over {CELL_LIMIT:,} characters",
            hint="Close the quote; a quote inside a cell is written twice.",
        )
    return "a quote inside a cell is not written twice" if "expected after" in said else said
