"""Match a CSV of user ids or device ids with the tables: what an imported segment is made of.

The file may be larger than memory allows: ids of the file and of the table go to temporary files, parted by a hash, so
that each part is matched by itself in memory. Only the matched ids and the rejected rows are ever held whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import polars as pl
from pydantic import BaseModel, ConfigDict

from activities.tables.delta import reaching
from activities.tables.encodings import file_readable, file_unchanged
from activities.tables.reading import (
    DELIMITED,
    LINE,
    PIECE_CHARACTERS,
    Layout,
    records,
    room_in,
    scan_clean,
    scan_lines,
    survey,
)
from activities.tables.rejects import keep_rejects
from activities.tables.temporary import temporary_folder
from workflows.errors import ImportRefused
from workflows.scalars import nearest, quoted

Identifier: TypeAlias = Literal["user_id", "device_id"]
"""What the ids of a file are."""

PIECE_ROWS = 50_000
"""Rows of a file that polars cannot read, parsed before they are written away."""

PART_ROWS = 350_000
"""Rows of the file and of the table in one part: about as much as a processor's cache holds, hashed."""

FEWER = 8
"""A list that is so many times shorter than the table has the table sifted first, for what it may name."""

BATCH_ROWS = 10_000

PARTS_LIMIT = 64
"""Most parts: each is an open file while they are written."""

PART = "part"

PIECE: dict[str, pl.DataType] = {LINE: pl.Int64(), "id": pl.String(), "reason": pl.String(), "row": pl.String()}
"""A row of the file: its id, or the reason why it has none."""

EMPTY = "the cell is empty"


NUMBERS = ("rows", "users", "unknown", "duplicates", "empty", "rejected")


class ListNumbers(BaseModel):
    """How the rows of a file of ids are counted. `rows` = matched + `unknown` + `duplicates` + `empty` + `rejected`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    rows: int
    """Rows of the file, without header and blank lines."""
    users: int
    """Different users among the members."""
    unknown: int
    """Different ids that the table does not have."""
    duplicates: int
    """Rows that repeat an id of an earlier row, known or unknown."""
    empty: int
    """Rows whose cell is empty."""
    rejected: int
    """Rows that could not be read."""
    rejects_file: str | None
    """A CSV of line, reason and row with each unknown id, empty cell and unreadable row; null without any,
    and where none was asked for."""

    @property
    def numbers(self) -> dict[str, int]:
        """The counts, in the order in which they are told."""
        return {what: getattr(self, what) for what in NUMBERS}


class IdentifierReport(ListNumbers):
    """What a file of ids amounts to."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    members: pl.DataFrame
    """One row per matched id, in no particular order: `user_id: String`, never null, and `device_id: String`, null in
    a list of user ids."""
    warnings: list[str]
    """What was assumed, for the person to confirm."""


def read_identifiers(
    path: str | Path,
    *,
    column: str | None,
    identifier: Identifier,
    users: pl.LazyFrame,
    devices: pl.LazyFrame,
    rejects_dir: str | Path | None = None,
) -> IdentifierReport:
    """Read a file of ids and match them with the tables.

    Args:
        path: A CSV, with a header; surrounding spaces of ids mean nothing.
        column: The column that holds the ids; when null the one called as the identifier, else the only one.
        identifier: What the ids are.
        users: One row per user, `user_id: String`.
        devices: One row per device, `device_id: String`, `user_id: String`; used for device ids only.
        rejects_dir: Folder of the rejects file; when null, none is written.

    Returns:
        The matched ids, and a count for every other row.

    Raises:
        ImportRefused: The file cannot be read as it is, the column cannot be told, or no id is in the table; then the
            rejects file is written all the same, and named.
        StoreUnavailable: The tables cannot be read.
    """
    path = Path(path)
    with temporary_folder("ids") as folder, file_unchanged(path), file_readable(path):
        if path.suffix.lower() not in DELIMITED:
            raise ImportRefused(f"{path}: a list of ids has to be a CSV", hint="Save it as .csv, .tsv or .txt.")
        layout = survey(path)
        index = _column(layout, column, identifier)
        owners = _owners(identifier, users, devices)
        if column is None and layout.header[index] != identifier:
            _refuse_headless(layout, layout.header[index], identifier, owners)
        file = _scan(layout, index, folder)
        matched = _match(file, identifier, owners, folder)
        rejects = _rejects(file, matched)
        report = _report(file, identifier, matched, rejects)
        refused = None
        if not report.members.height:
            refused = _nothing(path, layout.header[index], identifier, report, file, owners)
    rejects_file = None if rejects_dir is None else _write_rejects(path, Path(rejects_dir), identifier, rejects)
    if refused is not None:
        if rejects_file is not None:
            refused.hint += f" All rows with their reasons are in {rejects_file}."
        raise refused
    return report.model_copy(update={"rejects_file": rejects_file, "warnings": layout.warnings})


def _column(layout: Layout, column: str | None, identifier: Identifier) -> int:
    """Find the column that holds the ids."""
    if column is not None:
        if (named := column.strip()) in layout.header:
            return layout.header.index(named)
        # It is the name that was given which is wrong, not the file.
        near = nearest(named, filter(None, layout.header))
        raise ImportRefused(
            f"{layout.path}: there is no column {column!r}; the header is: {', '.join(map(repr, layout.header))}",
            code="unknown-column",
            hint=f"did you mean {quoted(near)}?" if near else "name the column that holds the ids",
        )
    if identifier in layout.header:
        return layout.header.index(identifier)
    if len(layout.header) == 1:
        return 0
    raise ImportRefused(
        f"{layout.path}: none of its columns is called {identifier!r}; the header is: "
        + ", ".join(map(repr, layout.header)),
        hint="Name the column that holds the ids.",
    )


def _owners(identifier: Identifier, users: pl.LazyFrame, devices: pl.LazyFrame) -> pl.LazyFrame:
    """Give each known id with its members' columns: `id`, `user_id`, `device_id`."""
    known = users.select("user_id")
    if identifier == "user_id":
        return known.select(pl.col("user_id").alias("id"), "user_id", pl.lit(None, pl.String).alias("device_id"))
    return (
        devices.select("device_id", "user_id")
        .join(known, on="user_id", how="semi")
        .select(pl.col("device_id").alias("id"), "user_id", "device_id")
    )


def _refuse_headless(layout: Layout, header: str, identifier: Identifier, owners: pl.LazyFrame) -> None:
    """Refuse a file whose first line is an id already: it would be lost without a word."""
    with reaching("the tables"):
        found = owners.filter(pl.col("id") == header).select("id").head(1).collect()
    if found.height:
        raise ImportRefused(
            f"{layout.path}: the first line, {header!r}, is a {identifier} itself",
            hint=f"Put a line with {identifier} above it.",
        )


class _File(NamedTuple):
    """A file of ids, which is read again each time that one of its frames is collected."""

    ids: pl.LazyFrame
    """`LINE: UInt32`, `id: String`, null in a row without one."""
    rows: int
    texts: pl.LazyFrame
    """`LINE: Int64`, `reason: String` why the row has no id, `row: String` as it stands in the file."""


def _scan(layout: Layout, index: int, folder: Path) -> _File:
    """Make a file readable: by polars where its rows are proven, else exactly, through temporary files."""
    if layout.rows is not None:
        names = [f"\x1f{number}" for number in range(len(layout.header))]
        text = pl.col(names[index]).str.strip_chars()
        ids = scan_clean(layout, names).select(LINE, id=pl.when(text != "").then(text))
        rows, texts = layout.rows, scan_lines(layout, "row").with_columns(reason=pl.lit(EMPTY))
    else:
        rows = 0
        for number, piece in enumerate(_pieces(layout, index)):
            with room_in(folder):
                piece.write_parquet(folder / f"{number:06}.parquet")
            rows += piece.height
        ids = texts = pl.scan_parquet(folder / "*.parquet")
    line = pl.col(LINE).cast(pl.UInt32)
    return _File(ids.select(line, "id"), rows, texts.select(LINE, "reason", "row"))


def _pieces(layout: Layout, index: int) -> Iterator[pl.DataFrame]:
    """Read the file exactly, in pieces of bounded size; at least one, perhaps empty."""
    taken: list[tuple[int, str | None, str | None, str | None]] = []
    characters = 0
    for record in records(layout):
        cell = "" if record.fault else record.cells[index].strip()
        reason = record.fault or (None if cell else EMPTY)
        taken.append((record.line, cell or None, reason, record.text))
        characters += len(record.text)
        if len(taken) == PIECE_ROWS or characters > PIECE_CHARACTERS:
            yield pl.DataFrame(taken, schema=PIECE, orient="row")
            taken, characters = [], 0
    yield pl.DataFrame(taken, schema=PIECE, orient="row")


class _Matched(NamedTuple):
    """What became of the rows of a file, or of a part of it."""

    members: pl.DataFrame
    """As the report has them."""
    rejected: pl.DataFrame
    """`LINE: UInt32`, and `unknown: String`, the id that the table lacks; null for a row that has none."""
    duplicates: int


def _match(file: _File, identifier: Identifier, owners: pl.LazyFrame, folder: Path) -> _Matched:
    """Match the ids of a file with the known ones, `id`, `user_id`, `device_id`, in bounded memory."""
    # Of user ids the owner is the id itself: one column is enough.
    known = owners.select("id") if identifier == "user_id" else owners
    with reaching("the tables"):
        stored = known.select(pl.len()).collect(engine="streaming").item()
        if file.rows * FEWER < stored:
            named = file.ids.select("id").collect(engine="streaming")
            known, stored = known.join(named.lazy(), on="id", how="semi"), file.rows
        parts = min(PARTS_LIMIT, 1 + (file.rows + stored) // PART_ROWS)
        listed_in, known_in = _parted(file.ids, folder / "listed", parts), _parted(known, folder / "known", parts)
    # One by one: two side by side take a twentieth less time, and more memory.
    done = [_match_part(listed_in(part), known_in(part), identifier) for part in range(parts)]
    return _Matched(
        pl.concat([part.members for part in done]),
        pl.concat([part.rejected for part in done]),
        sum(part.duplicates for part in done),
    )


def _match_part(listed: pl.DataFrame, known: pl.DataFrame, identifier: Identifier) -> _Matched:
    """Match all rows of the file whose ids fall into one part with the known ids that do."""
    if not listed.get_column(LINE).is_sorted():
        listed = listed.sort(LINE)
    given = listed.drop_nulls("id")
    first = given.filter(pl.col("id").is_first_distinct())
    held = first.get_column("id").is_in(known.get_column("id").implode())
    found = first.filter(held)
    if identifier == "device_id":
        members = found.join(known, on="id", maintain_order="left").select("user_id", "device_id")
    else:
        members = found.select(pl.col("id").alias("user_id"), pl.lit(None, pl.String).alias("device_id"))
    # An unknown id is rejected once, on its first line.
    rejected = pl.concat([listed.filter(pl.col("id").is_null()), first.filter(~held)])
    return _Matched(members, rejected.select(LINE, unknown="id"), given.height - first.height)


def _parted(frame: pl.LazyFrame, folder: Path, parts: int) -> Callable[[int], pl.DataFrame]:
    """Part a frame by a hash of its ids, all empty ones together, and give a reader of the parts.

    The hash only says which part an id goes to; ids are matched by themselves.
    """
    if parts == 1:
        whole = frame.collect(engine="streaming")
        return lambda _: whole
    parted = frame.with_columns((pl.col("id").hash() % parts).cast(pl.UInt8).alias(PART))
    to = pl.PartitionBy(folder, key=PART, include_key=False)
    with room_in(folder.parent):
        # Each part holds a batch back until it is full.
        parted.sink_ipc(to, mkdir=True, record_batch_size=BATCH_ROWS)
    empty = pl.DataFrame(schema=frame.collect_schema())

    def part(number: int) -> pl.DataFrame:
        files = sorted(folder.glob(f"{PART}={number}/*"))
        return pl.concat([empty, *(pl.read_ipc(BytesIO(file.read_bytes())) for file in files)])

    return part


def _rejects(file: _File, matched: _Matched) -> pl.DataFrame:
    """Read the rows that did not match, in the order of the file: `LINE`, `unknown`, `reason`, `row`."""
    rejected = matched.rejected.with_columns(pl.col(LINE).cast(pl.Int64))
    wanted = pl.col(LINE).is_in(rejected.get_column(LINE).implode())
    return file.texts.filter(wanted).collect(engine="streaming").join(rejected, on=LINE).sort(LINE)


def _report(file: _File, identifier: Identifier, matched: _Matched, rejects: pl.DataFrame) -> IdentifierReport:
    """Count every row of the file once."""
    members, unknown = matched.members, rejects.get_column("unknown").count()
    empty = rejects.filter(pl.col("unknown").is_null() & (pl.col("reason") == EMPTY)).height
    return IdentifierReport(
        members=members,
        rows=file.rows,
        users=members.get_column("user_id").n_unique() if identifier == "device_id" else members.height,
        unknown=unknown,
        duplicates=matched.duplicates,
        empty=empty,
        rejected=rejects.height - unknown - empty,
        rejects_file=None,
        warnings=[],
    )


def _write_rejects(path: Path, folder: Path, identifier: Identifier, rejects: pl.DataFrame) -> str | None:
    """Write the rejects file, as `rejects.write_rejects` does, with the rows as they stand in the file."""
    if not rejects.height:
        return None
    said = pl.lit(f"no {identifier} ") + pl.col("unknown") + " in the table"
    rows = rejects.select(line=LINE, reason=pl.coalesce(said, "reason"), row="row")
    return keep_rejects(path, folder, datetime.now(UTC), rows.write_csv)


def _nothing(
    path: Path,
    column: str,
    identifier: Identifier,
    report: IdentifierReport,
    file: _File,
    owners: pl.LazyFrame,
) -> ImportRefused:
    """Word the refusal of a file without a single known id, with an id of each side to compare."""
    with reaching("the tables"):
        known = owners.select("id").head(1).collect().to_series().to_list()
    found = file.ids.select("id").drop_nulls().head(1).collect().to_series().to_list()
    counts = f"{report.rows} rows: {report.unknown} unknown, {report.empty} empty, {report.rejected} unreadable"
    if not known:
        hint = f"No {identifier} is stored yet: import users or devices first."
    elif found:
        hint = f"The column {column!r} holds ids such as {found[0]!r}, the table such as {known[0]!r}."
    else:
        hint = f"The column {column!r} holds no value: name the column that holds the ids."
    return ImportRefused(f"{path}: none of it is a known {identifier} ({counts})", hint=hint)
