"""Columns of a table's files, kept in memory as they were read: the files are immutable, and asked again each minute.

Most of what an evaluation of a segment takes is reading and decoding Parquet. A scan skips what statistics rule out, so
that reading columns whole is dearer than one scan, and pays from the next: a column is kept when it is asked for the
second time. After an import only the files that are new are read.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from activities.tables.schema import TableName
from activities.tables.stored import StoredFile, StoredTables

IDLE_SECONDS = 300.0
"""How long a column is not thrown out for others after it was used: segments that do not fit into the memory together
would throw each other out by turns, and reading columns whole each time is dearer than scanning them."""

VIEW_BYTES, INLINE_BYTES = 16, 12
"""What polars keeps of each text in any case, and the longest text that needs nothing beside it."""

ALWAYS = datetime.min.replace(tzinfo=UTC)

SHARES = 8
"""Into how many parts of the memory allowed a reading is cut, to notice early that it will not fit."""


@dataclass(frozen=True)
class Reading:
    """What is read of one table.

    Attributes:
        columns: Names, one at least that the table has; those that it lacks are left out.
        since: Rows whose `at` is earlier or null may be left out; None: none may.
    """

    columns: frozenset[str]
    since: datetime | None = None


class _Key(NamedTuple):
    """One column of one file, in the table's dtype: what is added to a table has nulls in older files."""

    uri: str
    column: str
    dtype: pl.DataType


@dataclass
class _Kept:
    table: TableName
    series: pl.Series
    size_bytes: int
    used: float


@dataclass(frozen=True)
class _Asked:
    """A reading of a version: its columns, the files that matter, and all files there are."""

    table: TableName
    schema: dict[str, pl.DataType]
    chosen: list[StoredFile]
    current: frozenset[str]

    def keys(self, file: StoredFile) -> list[_Key]:
        return [_Key(file.uri, column, dtype) for column, dtype in self.schema.items()]


class KeptColumns:
    """Columns in memory, bounded in bytes; the least recently used leave first. Safe to share between threads.

    The bound is on what is kept from one evaluation to the next: what an evaluation that runs has in its hands stays
    until it is done, whether it is still kept or not.

    Args:
        tables: The audience tables.
        limit_bytes: Most memory to hold; 0 scans every time.
    """

    def __init__(self, tables: StoredTables, limit_bytes: int) -> None:
        self._tables, self._limit = tables, limit_bytes
        # One reads at a time, so that nobody reads what another one is reading; who finds all at hand waits for nobody.
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._held = 0
        self._seen: dict[tuple[TableName, str], datetime] = {}
        self._widths: dict[tuple[TableName, str], float] = {}

    @property
    def size_bytes(self) -> int:
        """Memory held."""
        return self._held

    def frame(self, name: TableName, version: int, reading: Reading) -> pl.LazyFrame:
        """Give what an evaluation reads of a table. Blocks on I/O.

        Args:
            name: The table.
            version: Which version; -1 is the table before its first version.
            reading: What is read of it.

        Returns:
            The columns asked for at least, in the dtypes of `DTYPES`, and the rows of `StoredTables.scan` in any order,
            but those that `since` lets go. Scanned when it is collected, where it is asked for the first time or does
            not fit into the memory.

        Raises:
            NotFoundError: There is no such version, or it was vacuumed.
            StoreUnavailable: The table cannot be reached. Temporal retries.
        """
        scan = self._tables.scan(name, version)
        if version < 0 or not self._limit or not self._again(name, reading):
            return scan
        asked = self._asked(name, version, reading, scan)
        if asked is None or (found := self._at_hand(asked) or self._read(asked)) is None:
            return scan
        return _joined(asked, found).lazy()

    def _again(self, name: TableName, reading: Reading) -> bool:
        """Tell whether all that a reading asks for was asked for before, and remember that it was."""
        since = reading.since or ALWAYS
        with self._lock:
            before = [self._seen.get((name, column)) for column in reading.columns]
            for column in reading.columns:
                self._seen[name, column] = min(since, self._seen.get((name, column), since))
        return all(begin is not None and begin <= since for begin in before)

    def _asked(self, name: TableName, version: int, reading: Reading, scan: pl.LazyFrame) -> _Asked | None:
        """Look up what a reading means at a version; None where that cannot be told file by file."""
        files, since = self._tables.files(name, version), reading.since
        if files is None:
            return None
        schema = {column: dtype for column, dtype in scan.collect_schema().items() if column in reading.columns}
        chosen = [file for file in files if since is None or file.newest is None or file.newest >= since]
        return _Asked(name, schema, chosen, frozenset(file.uri for file in files))

    def _at_hand(self, asked: _Asked) -> dict[_Key, pl.Series] | None:
        """Give all that is asked for, or None where some of it is not kept."""
        found: dict[_Key, pl.Series] = {}
        with self._lock:
            for key in (key for file in asked.chosen for key in asked.keys(file)):
                if (kept := self._kept.get(key)) is None:
                    return None
                found[key] = kept.series
            now = time.monotonic()
            for key in found:
                self._kept[key].used = now
                self._kept.move_to_end(key)
        return found

    def _read(self, asked: _Asked) -> dict[_Key, pl.Series] | None:
        """Read what is not kept, and keep it; None where there is no room for it."""
        with self._turn:
            fresh: list[_Key] = []
            while (found := self._at_hand(asked)) is None:
                # Nothing else is kept or thrown out meanwhile: that is done in turns.
                missing = {file: [key for key in asked.keys(file) if key not in self._kept] for file in asked.chosen}
                missing = {file: keys for file, keys in missing.items() if keys}
                wanted = sum(self._guess(asked, file, keys) for file, keys in missing.items())
                if not (self._make_room(asked, wanted) and self._keep(asked, self._some(asked, missing), fresh)):
                    self._drop(fresh)
                    return None
            return found

    def _guess(self, asked: _Asked, file: StoredFile, keys: list[_Key]) -> float:
        """Say how many bytes columns take: as far as is known, else what they take at least."""
        widths = self._widths
        for key in keys:
            if (asked.table, key.column) not in widths:
                widths[asked.table, key.column] = _size_of(pl.Series([None], dtype=key.dtype))
        return file.rows * sum(widths[asked.table, key.column] for key in keys)

    def _some(self, asked: _Asked, missing: Mapping[StoredFile, list[_Key]]) -> dict[_Key, pl.Series]:
        """Read the first files, as many as are surely worth it, of those that lack the same columns."""
        columns = [key.column for key in next(iter(missing.values()))]
        taken: dict[StoredFile, list[_Key]] = {}
        size = 0.0
        for file, keys in missing.items():
            if [key.column for key in keys] == columns:
                size += self._guess(asked, file, keys)
                if taken and size > self._limit / SHARES:
                    break
                taken[file] = keys
        frame = self._tables.collect(
            self._tables.scan_files([file.uri for file in taken], asked.schema).select(columns)
        )
        found: dict[_Key, pl.Series] = {}
        offset = 0
        for file, keys in taken.items():
            found.update({key: frame.get_column(key.column).slice(offset, file.rows) for key in keys})
            offset += file.rows
        # A log that counts wrongly, which only others can have written: it must not put rows where they do not belong.
        return found if offset == frame.height else {}

    def _keep(self, asked: _Asked, found: Mapping[_Key, pl.Series], fresh: list[_Key]) -> bool:
        """Keep what was read; False where it did not fit after all, or nothing came."""
        for key, series in found.items():
            size = _size_of(series)
            self._widths[asked.table, key.column] = size / max(len(series), 1)
            if not self._make_room(asked, size):
                return False
            with self._lock:
                self._kept[key] = _Kept(asked.table, series, size, time.monotonic())
                self._held += size
            fresh.append(key)
        return bool(found)

    def _make_room(self, asked: _Asked, wanted: float) -> bool:
        """Throw out what stands in the way of so many bytes more, or nothing at all where that would not suffice."""
        excess, old, leaving = self._held + wanted - self._limit, time.monotonic() - IDLE_SECONDS, []
        chosen = {file.uri for file in asked.chosen} if excess > 0 else set()
        with self._lock:
            for key, kept in self._kept.items():
                if excess <= 0:
                    break
                # A file that its table does without is read no more, but by those who repeat an old decision.
                replaced = kept.table == asked.table and key.uri not in asked.current
                if replaced or (kept.used < old and not (key.uri in chosen and key.column in asked.schema)):
                    leaving.append(key)
                    excess -= kept.size_bytes
        if excess <= 0:
            self._drop(leaving)
        return excess <= 0

    def _drop(self, keys: list[_Key]) -> None:
        with self._lock:
            for key in keys:
                self._held -= self._kept.pop(key).size_bytes


def _joined(asked: _Asked, found: Mapping[_Key, pl.Series]) -> pl.DataFrame:
    """Put the columns of several files together, without copying any."""
    parts: dict[str, list[pl.Series]] = {name: [pl.Series(name, dtype=dtype)] for name, dtype in asked.schema.items()}
    for key, series in found.items():
        parts[key.column].append(series)
    return pl.DataFrame([pl.concat(pieces[1:] or pieces) for pieces in parts.values()])


def _size_of(series: pl.Series) -> int:
    """Count the bytes that a column takes: polars' own count knows texts by their length alone."""
    if series.dtype == pl.String:
        lengths = series.str.len_bytes()
        return VIEW_BYTES * len(series) + int(lengths.filter(lengths > INLINE_BYTES).sum())
    texts = 0
    match series.dtype:
        case pl.List():
            texts = int(series.list.len().sum())
        case pl.Struct(fields=fields):
            texts = len(series) * sum(field.dtype == pl.String for field in fields)
    return int(series.estimated_size()) + VIEW_BYTES * texts
