"""The audience tables: opened, read at a version, and written in single commits. The only file that knows deltalake.

Every write is one Delta commit on top of the very version it was worked out from. Where somebody else committed in
between, the commit fails and the work is done again on what is there now, so that two imports at once both land and
neither doubles a row. A reader sees the table before a commit or after it, whatever is killed in between.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from typing import TypeAlias, get_args

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from pydantic import BaseModel, ConfigDict

from activities.tables.changes import ABSENT, OLD, check_columns, compare
from activities.tables.schema import DTYPES, Kind, TableName, kind_of
from workflows.errors import NotFoundError, StoreUnavailable

TABLES: tuple[TableName, ...] = get_args(TableName)

COLUMNS: dict[TableName, dict[str, Kind]] = {
    "users": {"user_id": "string"},
    "devices": {
        "device_id": "string",
        "user_id": "string",
        "platform": "string",
        "provider": "string",
        "token": "string",
        "language": "string",
        "timezone": "string",
        "opt_in": "boolean",
        "last_seen": "instant",
    },
    "events": {"event_id": "string", "user_id": "string", "event": "string", "at": "instant"},
    "members": {"import_id": "string", "user_id": "string", "device_id": "string"},
}
"""The columns that each table has from its first version on; a table nobody wrote yet reads as empty with these."""

ATTEMPTS = 40
"""How often a write starts again because somebody else committed first. Each lost round is another writer's gain."""

LONGEST_PAUSE_SECONDS = 0.5
PINNED_VERSIONS = 32

Cell: TypeAlias = str | bool | int | float | None
"""A value that every new row is given."""


class MergeReport(BaseModel):
    """What one write did to a table."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    version: int
    """The table's version afterwards, -1 while there is none; the version before when nothing changed."""
    inserted: int = 0
    """Rows whose key was not there."""
    updated: int = 0
    """Rows whose key was there with other values."""
    unchanged: int = 0
    """Rows that were there already, value for value."""


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Word the failures of a store that a retry may cure. Wrap every `collect` of a scanned table in it.

    Args:
        place: The folder or address, named in the message.

    Raises:
        StoreUnavailable: The store, or a file in it, could not be read or written. Retried by Temporal.
    """
    try:
        yield
    except (OSError, DeltaError) as error:
        # The object stores draw their chain of causes over several coloured lines.
        said = " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", " ", str(error)).split())
        raise StoreUnavailable(
            f"cannot use the table at {place}: {said[:400]}",
            hint="Check that the place exists and that this process may read and write it; the work waits and goes on.",
        ) from error


class Tables:
    """The four audience tables under one root. Safe to share between threads; every method blocks on I/O.

    Args:
        root: A local folder, made on the first write, or an object store's address such as `s3://bucket/tables`.
        storage_options: Credentials and options of the object store, as deltalake and polars name them.
    """

    def __init__(self, root: str | Path, storage_options: Mapping[str, str] | None = None) -> None:
        self._local = isinstance(root, Path) or "://" not in root
        self.root = os.path.abspath(root) if self._local else str(root).rstrip("/")
        self._options = dict(storage_options) if storage_options else None
        self._lock = threading.Lock()
        self._reading = {name: threading.Lock() for name in TABLES}
        self._writing = {name: threading.Lock() for name in TABLES}
        self._newest: dict[TableName, DeltaTable] = {}
        self._seen: set[TableName] = set()
        # A scan reads its handle when it is collected, not when it is made: a handle that is scanned never moves on.
        self._pinned: OrderedDict[tuple[TableName, int], DeltaTable] = OrderedDict()

    def place(self, name: TableName) -> str:
        """Say where a table is kept: a folder or an address."""
        return f"{self.root}/{name}"

    def versions(self) -> dict[TableName, int]:
        """Give the newest version of each table, -1 for a table that does not exist. About a millisecond each.

        Raises:
            StoreUnavailable: The store cannot be reached.
        """
        return {name: self.version(name) for name in TABLES}

    def version(self, name: TableName) -> int:
        """Give the newest version of one table, -1 when it does not exist.

        Raises:
            StoreUnavailable: The store cannot be reached, or a table that was there is gone.
        """
        with self._reading[name], reaching(self.place(name)):
            newest = self._newest.get(name)
            if newest is not None and self._is_there(name):
                newest.update_incremental()
            else:
                newest = self._open(name)
                if newest is None and name in self._seen:
                    # An unmounted disk must not read as an audience of nobody.
                    self._newest.pop(name, None)
                    raise FileNotFoundError("the table was there and is gone")
                if newest is None:
                    return -1
                self._newest[name] = newest
                self._seen.add(name)
            return newest.version()

    def scan(self, name: TableName, version: int | None = None) -> pl.LazyFrame:
        """Read a table lazily, for ever at the same version.

        Args:
            name: The table.
            version: Which version; the newest when null. -1 is the table before its first version.

        Returns:
            One row per user, device, event or member, with the columns of `COLUMNS` and those that imports added,
            each in its kind's dtype (`DTYPES`). Null means that nothing is known. Empty when there is no table.

        Raises:
            NotFoundError: There is no such version.
            StoreUnavailable: The store cannot be reached.
        """
        version = self.version(name) if version is None else version
        if version < 0:
            return pl.LazyFrame(schema={column: DTYPES[kind] for column, kind in COLUMNS[name].items()})
        table = self._pin(name, version)
        with reaching(self.place(name)):
            return pl.scan_delta(table, storage_options=self._options)

    def schema(self, name: TableName, version: int | None = None) -> dict[str, Kind]:
        """Give a table's columns in order, each with its kind; the columns of `COLUMNS` when there is no table.

        Raises:
            NotFoundError: There is no such version.
            StoreUnavailable: The store cannot be reached.
        """
        with reaching(self.place(name)):
            return {column: kind_of(dtype) for column, dtype in self.scan(name, version).collect_schema().items()}

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Work out a frame that was made from scans of these tables.

        Raises:
            StoreUnavailable: A file of a table cannot be read.
        """
        with reaching(self.root):
            return frame.collect()

    def set_counts(self, name: TableName, version: int | None = None) -> dict[str, int]:
        """Count, for each column in order, the rows that have a value.

        Raises:
            NotFoundError: There is no such version.
            StoreUnavailable: The store cannot be reached.
        """
        counted = self.collect(self.scan(name, version).select(pl.all().count()))
        return counted.row(0, named=True)

    def row_count(self, name: TableName, version: int | None = None) -> int:
        """Count a table's rows.

        Raises:
            NotFoundError: There is no such version.
            StoreUnavailable: The store cannot be reached.
        """
        with reaching(self.place(name)):
            return int(self.scan(name, version).select(pl.len()).collect().item())

    def upsert(
        self,
        name: TableName,
        frame: pl.DataFrame,
        key: str,
        *,
        new_rows: Mapping[str, Cell] | None = None,
        absent: Mapping[str, pl.Series] | None = None,
    ) -> MergeReport:
        """Insert the rows whose key is new and update those that differ, in one commit or none.

        A column that the frame lacks keeps what is stored; null in a column that it has clears it; a column that the
        table lacks is added to it.

        Args:
            name: The table.
            frame: `key: String`, never null, and any columns in the dtypes of `DTYPES`. Of rows with the same key
                the last counts.
            key: The column that identifies a row.
            new_rows: Values for columns that the frame lacks, given to new rows only.
            absent: For a column, true where a row says nothing about it: what is stored stays.

        Returns:
            The counts, and the version afterwards.

        Raises:
            ImportRefused: A column's kind differs from the stored one.
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """
        masks = {ABSENT + column: mask for column, mask in (absent or {}).items() if column != key}
        rows = frame.with_columns(**masks).unique(subset=key, keep="last", maintain_order=True)
        given = {column: value for column, value in (new_rows or {}).items() if column not in frame.columns}

        def attempt(version: int) -> MergeReport:
            stored = self.schema(name, version)
            check_columns(name, frame, stored)
            old = self._stored_rows(name, version, rows, key, list(stored))
            compared = compare(rows, old, key)
            is_new, differs = pl.col(OLD).is_null(), pl.col(OLD).not_()
            changes = compared.filter(is_new | differs)
            inserted = changes.select(is_new.sum()).item()
            report = MergeReport(
                version=version,
                inserted=inserted,
                updated=changes.height - inserted,
                unchanged=compared.height - changes.height,
            )
            if not changes.height:
                return report
            source = changes.select(frame.columns).with_columns(
                pl.lit(value).cast(DTYPES[stored[column]]).alias(column) for column, value in given.items()
            )
            if report.updated:
                self._merge(name, version, source, key, updates=frame.columns)
            else:
                self._add(name, version, source)
            return report.model_copy(update={"version": version + 1})

        return self._commit(name, attempt)

    def append(self, name: TableName, frame: pl.DataFrame) -> int:
        """Add rows without looking at those that are there, in one commit, or none for a frame without rows.

        Args:
            name: The table.
            frame: Any columns in the dtypes of `DTYPES`; a column of the table that it lacks becomes null.

        Returns:
            The version afterwards.

        Raises:
            ImportRefused: A column's kind differs from the stored one.
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """

        def attempt(version: int) -> MergeReport:
            check_columns(name, frame, self.schema(name, version))
            if not frame.height:
                return MergeReport(version=version)
            self._add(name, version, frame)
            return MergeReport(version=version + 1, inserted=frame.height)

        return self._commit(name, attempt).version

    def append_new(self, name: TableName, frame: pl.DataFrame, key: str) -> MergeReport:
        """Add the rows whose key is not there yet, in one commit or none, and leave all others as they are.

        Args:
            name: The table.
            frame: As for `append`, with `key: String`, never null. Of rows with the same key the last counts.
            key: The column that identifies a row.

        Returns:
            The counts, and the version afterwards. `unchanged` counts the keys that were there, whatever their values.

        Raises:
            ImportRefused: A column's kind differs from the stored one.
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """
        rows = frame.unique(subset=key, keep="last", maintain_order=True)

        def attempt(version: int) -> MergeReport:
            check_columns(name, frame, self.schema(name, version))
            fresh = rows.join(self._stored_rows(name, version, rows, key, [key]), on=key, how="anti")
            known = rows.height - fresh.height
            if not fresh.height:
                return MergeReport(version=version, unchanged=known)
            self._add(name, version, fresh)
            return MergeReport(version=version + 1, inserted=fresh.height, unchanged=known)

        return self._commit(name, attempt)

    def _commit(self, name: TableName, attempt: Callable[[int], MergeReport]) -> MergeReport:
        """Run an attempt on the newest version until its commit is the next one."""
        random = SystemRandom()
        # Threads of one process take turns; other processes are met at the commit.
        with self._writing[name], reaching(self.place(name)):
            for lost in range(ATTEMPTS):
                version = self.version(name)
                try:
                    report = attempt(version)
                    if report.version >= 0:
                        self._seen.add(name)
                    return report
                except DeltaError as error:
                    made_meanwhile = version < 0 <= self.version(name)
                    if not isinstance(error, CommitFailedError) and not made_meanwhile:
                        raise
                    time.sleep(random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.01 * 2**lost)))
        raise StoreUnavailable(
            f"could not write to {self.place(name)}: other writers committed first {ATTEMPTS} times in a row",
            hint="Nothing was written. Try again, or run fewer imports into one table at a time.",
        )

    def _stored_rows(
        self, name: TableName, version: int, rows: pl.DataFrame, key: str, columns: list[str]
    ) -> pl.DataFrame:
        """Read the stored rows whose key is among the given ones, with the given columns that both sides have."""
        wanted = [column for column in columns if column in rows.columns]
        keys = rows.lazy().select(key)
        return self.scan(name, version).select(wanted).join(keys, on=key, how="semi").collect(engine="streaming")

    def _add(self, name: TableName, version: int, rows: pl.DataFrame) -> None:
        """Commit new rows on top of a version."""
        if version < 0:
            if self._local:
                os.makedirs(self.root, exist_ok=True)
            missing = {column: kind for column, kind in COLUMNS[name].items() if column not in rows.columns}
            rows = rows.with_columns(pl.lit(None, DTYPES[kind]).alias(column) for column, kind in missing.items())
            rows = rows.select(*COLUMNS[name], pl.exclude(list(COLUMNS[name])))
        write_deltalake(
            self.place(name) if version < 0 else self._opened(name, version),
            rows,
            mode="error" if version < 0 else "append",
            schema_mode=None if version < 0 else "merge",
            storage_options=self._options,
            commit_properties=CommitProperties(max_commit_retries=0),
        )

    def _merge(self, name: TableName, version: int, source: pl.DataFrame, key: str, *, updates: list[str]) -> None:
        """Commit changed and new rows on top of a version."""
        quoted = {column: "`" + column.replace("`", "``") + "`" for column in source.columns}
        (
            self._opened(name, version)
            .merge(
                source,
                predicate=f"t.{quoted[key]} = s.{quoted[key]}",
                source_alias="s",
                target_alias="t",
                merge_schema=True,
                # The source is in memory anyway, and its smallest and greatest key spare files that hold none of it.
                streamed_exec=False,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
            .when_matched_update({quoted[column]: f"s.{quoted[column]}" for column in updates})
            .when_not_matched_insert({column: f"s.{column}" for column in quoted.values()})
            .execute()
        )

    def _pin(self, name: TableName, version: int) -> DeltaTable:
        """Give a handle that stays at its version."""
        with self._lock:
            table = self._pinned.get((name, version))
            if table is not None:
                self._pinned.move_to_end((name, version))
                return table
        table = self._opened(name, version)
        with self._lock:
            self._pinned[name, version] = table
            while len(self._pinned) > PINNED_VERSIONS:
                self._pinned.popitem(last=False)
        return table

    def _opened(self, name: TableName, version: int) -> DeltaTable:
        """Open a version that has to be there."""
        try:
            with reaching(self.place(name)):
                table = self._open(name, version)
        except StoreUnavailable:
            newest = self.version(name)
            if version <= newest:
                raise
            table = None
        if table is None:
            raise NotFoundError(
                f"the table {name} has no version {version}",
                hint=f"Its newest version is {self.version(name)}, in {self.place(name)}.",
            )
        return table

    def _open(self, name: TableName, version: int | None = None) -> DeltaTable | None:
        """Open a table anew, or say that there is none."""
        if not self._is_there(name):
            return None
        try:
            return DeltaTable(self.place(name), version=version, storage_options=self._options)
        except TableNotFoundError:
            return None

    def _is_there(self, name: TableName) -> bool:
        """Look for a local table's log: a handle alone does not notice that its folder is gone."""
        if not self._local:
            return True
        try:
            os.stat(os.path.join(self.place(name), "_delta_log"))
        except FileNotFoundError:
            return False
        return True
