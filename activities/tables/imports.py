"""Import people's files into the tables of users, devices and events."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl
from pydantic import BaseModel, ConfigDict

from activities.tables.changes import check_columns
from activities.tables.columns import Columns, type_columns
from activities.tables.delta import COLUMNS, MergeReport, Tables
from activities.tables.encodings import file_readable, file_unchanged
from activities.tables.headers import require_columns
from activities.tables.inference import as_text
from activities.tables.reading import DELIMITED, LINE, Sheet, read_delimited, records, scan_lines
from activities.tables.rejects import Reject, write_rejects
from activities.tables.schema import Kind
from activities.tables.stored import DEAD_ADDRESS, DEAD_SINCE
from activities.tables.temporary import temporary_folder
from activities.tables.typed_files import NDJSON, PARQUET, read_ndjson, read_parquet
from workflows.errors import ImportRefused

ImportedTable: TypeAlias = Literal["users", "devices", "events"]
"""The tables that a person's file can be imported into."""

KEYS: dict[ImportedTable, str] = {"users": "user_id", "devices": "device_id", "events": "event_id"}
"""The column that identifies a row."""

REQUIRED: dict[ImportedTable, tuple[str, ...]] = {
    "users": ("user_id",),
    "devices": ("device_id", "user_id", "platform"),
    "events": ("user_id", "event", "at"),
}
"""Columns that a file has to have, and no row may leave empty."""

ID_LIMIT = 200
"""Longest id in characters: ids become parts of workflow ids and keys of the ledger, which have limits."""

EVENT_ID_CHARACTERS = 32
"""Length of a made-up event id: 128 bits of SHA-256."""


class ImportReport(BaseModel):
    """What an import did."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    table: ImportedTable
    """The table that the file went into."""
    version: int
    """The table's version afterwards; the one before when nothing changed; -1 while there is no table."""
    rows: int
    """Rows of the file, without header and blank lines."""
    inserted: int
    """Rows that are new in the table."""
    updated: int
    """Rows that were there with other values. Events never change."""
    unchanged: int
    """Rows that were there already."""
    rejected: int
    """Rows that were not taken: each is in the rejects file."""
    users_added: int
    """Users that only these devices or events name, and who were added to the table of users."""
    rejects_file: str | None
    """A CSV of line, reason and row; null when no row was rejected."""
    warnings: list[str]
    """What was assumed, for the person to confirm."""


def import_table(
    tables: Tables,
    table: ImportedTable,
    path: str | Path,
    *,
    schema_overrides: Mapping[str, Kind] | None = None,
    now: datetime,
    rejects_dir: str | Path | None = None,
) -> ImportReport:
    """Import a file of users, devices or events: CSV, TSV, NDJSON or Parquet, by its extension.

    An absent column keeps what is stored, an empty cell clears it. Users that only devices or events name are
    committed before those, so that whatever is interrupted, no device or event is without its user.

    Args:
        tables: Where to import to.
        table: What the file holds, one per row.
        path: The file.
        schema_overrides: Kinds of columns, for those that the table does not have yet.
        now: The present instant, aware: events after it are warned of.
        rejects_dir: Folder of the rejects file; beside the input when null.

    Returns:
        The counts, the version afterwards, and what was assumed.

    Raises:
        ImportRefused: The file cannot be imported as it is: nothing was written.
        StoreUnavailable: The tables cannot be reached. Importing the file again does what is missing.
    """
    path = Path(path)
    overrides = dict(schema_overrides or {})
    with temporary_folder("rows") as scratch, file_unchanged(path):
        sheet = _read(path, scratch)
        require_columns(path, sheet.columns, [*REQUIRED[table], *overrides])
        if table == "devices" and (ours := {DEAD_ADDRESS, DEAD_SINCE} & set(sheet.columns)):
            said = "is kept by the engine: it tells which address a provider called dead"
            raise ImportRefused.together(
                [
                    ImportRefused(f"{path}: the column {name!r} {said}", hint="Leave it out, or give it another name.")
                    for name in sorted(ours)
                ]
            )
        stored = tables.schema(table)
        typed = type_columns(sheet, table, stored=stored, overrides=overrides, trimmed=set(COLUMNS[table]))
        check_columns(table, typed.frame.schema, stored)
        good, rejects = _judge(path, sheet, typed, REQUIRED[table])
    rejects_file = write_rejects(path, Path(rejects_dir) if rejects_dir else None, rejects, now)
    warnings = [*sheet.warnings, *typed.warnings]
    read = sheet.height + len(sheet.rejects)
    rows, absent = typed.frame, sheet.absent
    # What the file says is in the rows now, and they may be copied next.
    del sheet, typed
    if good is not None:
        rows = rows.filter(good)
        absent = {name: mask.filter(good) for name, mask in absent.items()}
    if rejects and not rows.height:
        raise ImportRefused(
            f"{path}: none of its {len(rejects)} rows can be imported; line {rejects[0].line}: {rejects[0].reason}",
            hint=f"All of them with their reasons are in {rejects_file}.",
        )
    if not rows.height:
        warnings.append(f"{path.name} has a header and no rows")
    if table == "events":
        rows = _with_event_ids(rows)
        warnings += _future(rows, now)
    users_added = 0
    if table != "users":
        # First, so that a crash in between leaves users without devices and never the reverse.
        users_added = tables.append_new("users", rows.select("user_id"), "user_id").inserted
    if table == "devices":
        # Conditions say `ios`, files `iOS`.
        rows = rows.with_columns(pl.col("platform").str.to_lowercase())
    if table == "devices" and "opt_in" not in rows.columns:
        warnings.append("no column opt_in: new devices are opted in")
    absent = {name: mask for name, mask in absent.items() if name in rows.columns}
    written = _write(tables, table, rows, absent)
    if repeated := written.repeated:
        verb, article = ("rows repeat" if repeated > 1 else "row repeats"), ("an" if table == "events" else "a")
        warnings.append(f"{repeated} {verb} {article} {KEYS[table]}: the last one of each was taken")
    return ImportReport(
        table=table,
        version=written.version,
        rows=read,
        inserted=written.inserted,
        updated=written.updated,
        unchanged=written.unchanged,
        rejected=len(rejects),
        users_added=users_added,
        rejects_file=rejects_file,
        warnings=warnings,
    )


def _read(path: Path, scratch: Path) -> Sheet:
    """Read a file by its extension."""
    suffix = path.suffix.lower()
    if suffix in DELIMITED:
        return read_delimited(path, scratch)
    if suffix in NDJSON:
        return read_ndjson(path)
    if suffix in PARQUET:
        return read_parquet(path)
    raise ImportRefused(
        f"{path}: files that end in {suffix or 'no extension'} are not imported",
        hint="Import .csv, .tsv, .txt, .ndjson, .jsonl or .parquet.",
    )


def _judge(path: Path, sheet: Sheet, typed: Columns, required: Iterable[str]) -> tuple[pl.Series | None, list[Reject]]:
    """Tell which rows can be imported, null meaning all, and give the others in the order of the file."""
    faults = dict(typed.faults)
    for name in required:
        for row in typed.frame.get_column(name).is_null().arg_true():
            # A value that does not read has its own reason already.
            if not any(reason.startswith(f"{name} ") for reason in faults.get(row, [])):
                faults[row] = [*faults.get(row, []), f"{name} is empty"]
    for name in sorted({"user_id", *KEYS.values()} & set(typed.frame.columns)):
        for row in (typed.frame.get_column(name).str.len_chars() > ID_LIMIT).arg_true():
            faults[row] = [*faults.get(row, []), f"{name} is longer than {ID_LIMIT} characters"]
    rejects = list(sheet.rejects)
    if not faults:
        return None, sorted(rejects)
    bad = sorted(faults)
    rows, reasons = sheet.rows(bad), ("; ".join(faults[row]) for row in bad)
    rejects += map(Reject, rows.get_column(LINE), reasons, _texts(path, sheet, rows, bad))
    good = pl.repeat(True, typed.frame.height, dtype=pl.Boolean, eager=True).scatter(bad, False)
    return good, sorted(rejects)


def _texts(path: Path, sheet: Sheet, rows: pl.DataFrame, indices: Sequence[int]) -> list[str]:
    """Give rows of a sheet as they stand in the file, which is read again for them; those of Parquet as CSV."""
    lines = rows.get_column(LINE)
    wanted = set(lines)
    if sheet.layout is not None and sheet.layout.rows is not None:
        scanned = scan_lines(sheet.layout, "row").filter(pl.col(LINE).is_in(lines.implode()))
        texts = dict(scanned.collect(engine="streaming").iter_rows())
    elif sheet.layout is not None:
        texts = {record.line: record.text for record in records(sheet.layout) if record.line in wanted}
    elif path.suffix.lower() in NDJSON:
        with file_readable(path), path.open("rb") as file:
            raws = {line: raw for line, raw in enumerate(file, 1) if line in wanted}
        texts = {line: raw.decode("utf-8-sig").rstrip("\r\n") for line, raw in raws.items()}
    else:
        cells = {name: as_text(rows.get_column(name)).to_list() for name in sheet.columns}
        places = {row: place for place, row in enumerate(indices)}
        for name, unfit in sheet.unfit.items():
            for row, cell in unfit.items():
                cells[name][places[row]] = cell.text
        texts = dict(zip(lines, map(_as_csv, zip(*cells.values(), strict=True)), strict=True))
    return [texts[line] for line in lines]


def _as_csv(cells: Iterable[str | None]) -> str:
    """Write a row as it would stand in a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _write(tables: Tables, table: ImportedTable, rows: pl.DataFrame, absent: Mapping[str, pl.Series]) -> MergeReport:
    """Commit the rows."""
    if table == "events":
        return tables.append_new("events", rows, "event_id")
    if table == "users":
        return tables.upsert("users", rows, "user_id", absent=absent)
    if "opt_in" not in rows.columns:
        return tables.upsert("devices", rows, "device_id", absent=absent, new_rows={"opt_in": True})
    # Nobody is opted in by an empty cell.
    rows = rows.with_columns(pl.col("opt_in").fill_null(False))
    return tables.upsert("devices", rows, "device_id", absent=absent)


def _with_event_ids(rows: pl.DataFrame) -> pl.DataFrame:
    """Give each event without an id one that its values decide, so that importing it again does not repeat it.

    The order of the columns, and those that are empty, play no part.
    """
    given = (
        rows.get_column("event_id") if "event_id" in rows.columns else pl.Series([None] * rows.height, dtype=pl.String)
    )
    if not given.has_nulls():
        return rows.with_columns(given.alias("event_id"))  # also where there are no rows
    names = sorted(set(rows.columns) - {"event_id"})
    cells = pl.DataFrame([as_text(rows.get_column(name)) for name in names])
    hashed = []
    for row in cells.iter_rows():
        said = [[name, cell] for name, cell in zip(names, row, strict=True) if cell is not None]
        hashed.append(hashlib.sha256(json.dumps(said).encode()).hexdigest()[:EVENT_ID_CHARACTERS])
    made = pl.Series("event_id", hashed, dtype=pl.String)
    return rows.with_columns(given.fill_null(made).alias("event_id"))


def _future(rows: pl.DataFrame, now: datetime) -> list[str]:
    """Warn of events that have not happened yet: no window over the past contains them."""
    count = rows.select((pl.col("at") > now).sum()).item()
    return [f"{count} event{'s lie' if count != 1 else ' lies'} in the future"] if count else []
