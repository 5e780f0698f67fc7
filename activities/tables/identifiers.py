"""Match a CSV of user ids or device ids with the tables: what an imported segment is made of.

The file may be larger than memory allows: its rows go through a temporary Parquet file in pieces, and are matched by
polars' streaming engine. Only the matched ids and the rejected rows are ever held whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl
from pydantic import BaseModel, ConfigDict

from activities.tables.delta import reaching
from activities.tables.reading import DELIMITED, LINE, Layout, records, require_columns, survey
from activities.tables.rejects import Reject, rejects_path, rejects_writable
from workflows.errors import ImportRefused

Identifier: TypeAlias = Literal["user_id", "device_id"]
"""What the ids of a file are."""

PIECE_ROWS = 50_000

PIECE: dict[str, pl.DataType] = {LINE: pl.Int64(), "id": pl.String(), "reason": pl.String(), "row": pl.String()}
"""A row of the file: its id, or the reason why it has none."""

EMPTY = "the cell is empty"


class IdentifierReport(BaseModel):
    """What a file of ids amounts to. `rows` = matched + `unknown` + `duplicates` + `empty` + `rejected`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

    members: pl.DataFrame
    """One row per matched id, in the order of the file: `user_id: String`, never null, and `device_id: String`, null
    in a list of user ids."""
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
    """A CSV of line, reason and row with each unknown id, empty cell and unreadable row; null without any."""
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
        rejects_dir: Folder of the rejects file; beside the input when null.

    Returns:
        The matched ids, and a count for every other row.

    Raises:
        ImportRefused: The file cannot be read as it is, the column cannot be told, or no id is in the table.
        StoreUnavailable: The tables cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in DELIMITED:
        raise ImportRefused(f"{path}: a list of ids has to be a CSV", hint="Save it as .csv, .tsv or .txt.")
    layout = survey(path)
    index = _column(layout, column, identifier)
    owners = _owners(identifier, users, devices)
    if column is None and layout.header[index] != identifier:
        _refuse_headless(layout, layout.header[index], identifier, owners)
    with tempfile.TemporaryDirectory(prefix="journeys-ids-") as folder:
        for number, piece in enumerate(_pieces(layout, index)):
            piece.write_parquet(Path(folder) / f"{number:06}.parquet")
        read = pl.scan_parquet(Path(folder) / "*.parquet")
        report, rejects = _match(read, identifier, owners)
        if not report.members.height:
            raise _nothing(path, layout.header[index], identifier, report, read, owners)
        rejects_file = _write_rejects(path, Path(rejects_dir) if rejects_dir else None, rejects)
    return report.model_copy(update={"rejects_file": rejects_file, "warnings": layout.warnings})


def _column(layout: Layout, column: str | None, identifier: Identifier) -> int:
    """Find the column that holds the ids."""
    if column is not None:
        require_columns(layout.path, layout.header, [column.strip()])
        return layout.header.index(column.strip())
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


def _pieces(layout: Layout, index: int) -> Iterator[pl.DataFrame]:
    """Read the file in pieces of bounded size; at least one, perhaps empty."""
    taken: list[tuple[int, str | None, str | None, str | None]] = []
    for record in records(layout):
        cell = "" if record.fault else record.cells[index].strip()
        reason = record.fault or (None if cell else EMPTY)
        taken.append((record.line, cell or None, reason, record.text))
        if len(taken) == PIECE_ROWS:
            yield pl.DataFrame(taken, schema=PIECE, orient="row")
            taken = []
    yield pl.DataFrame(taken, schema=PIECE, orient="row")


def _match(read: pl.LazyFrame, identifier: Identifier, owners: pl.LazyFrame) -> tuple[IdentifierReport, pl.DataFrame]:
    """Match the ids, count every row once, and collect those that did not match."""
    # An unknown id is rejected once, on its first line.
    first = read.filter(pl.col("id").is_not_null()).group_by("id").agg(pl.col(LINE).min())
    with reaching("the tables"):
        matched = first.join(owners, on="id", how="inner").collect(engine="streaming").sort(LINE)
    unknown = first.join(matched.lazy().select("id"), on="id", how="anti")
    reason = pl.lit(f"no {identifier} ") + pl.col("id") + " in the table"
    strange = read.join(unknown, on=LINE, how="semi").with_columns(reason=reason).collect(engine="streaming")
    unread = read.filter(pl.col("id").is_null()).collect(engine="streaming")
    rows = int(read.select(pl.len()).collect().item())
    empty = int((unread.get_column("reason") == EMPTY).sum())
    ids = matched.get_column("id").n_unique()
    report = IdentifierReport(
        members=matched.select("user_id", "device_id"),
        rows=rows,
        users=matched.get_column("user_id").n_unique(),
        unknown=strange.height,
        duplicates=rows - unread.height - strange.height - ids,
        empty=empty,
        rejected=unread.height - empty,
        rejects_file=None,
        warnings=[],
    )
    return report, pl.concat([unread, strange]).sort(LINE)


def _write_rejects(path: Path, folder: Path | None, rejects: pl.DataFrame) -> str | None:
    """Write the rejects file, as `rejects.write_rejects` does, from a frame."""
    if not rejects.height:
        return None
    target = rejects_path(path, folder)
    with rejects_writable(target):
        rejects.rename({LINE: "line"}).select(Reject._fields).write_csv(target)
    return str(target)


def _nothing(
    path: Path,
    column: str,
    identifier: Identifier,
    report: IdentifierReport,
    read: pl.LazyFrame,
    owners: pl.LazyFrame,
) -> ImportRefused:
    """Word the refusal of a file without a single known id, with an id of each side to compare."""
    with reaching("the tables"):
        known = owners.select("id").head(1).collect().to_series().to_list()
    found = read.select("id").drop_nulls().head(1).collect().to_series().to_list()
    counts = f"{report.rows} rows: {report.unknown} unknown, {report.empty} empty, {report.rejected} unreadable"
    if not known:
        hint = f"No {identifier} is stored yet: import users or devices first."
    elif found:
        hint = f"The column {column!r} holds ids such as {found[0]!r}, the table such as {known[0]!r}."
    else:
        hint = f"The column {column!r} holds no value: name the column that holds the ids."
    return ImportRefused(f"{path}: none of it is a known {identifier} ({counts})", hint=hint)
