"""The audience tables as they are stored: opened, read at a version, and for ever the same at that version."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

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

DEAD_ADDRESS, DEAD_SINCE = "dead_address", "dead_since"
"""Columns that upkeep gives the table of devices once a provider has called an address dead: which one, as
`provider:token`, and since when. They say nothing of another address, nor of a device that was seen after that."""

PINNED_VERSIONS = 32

NO_LOG = re.compile(r"(?i)no table metadata|log ?segment|not ?found|no such file")
"""What deltalake says when a version's part of the log is gone, or never was."""

MISSING_FILE = re.compile(rf"(?P<table>{'|'.join(TABLES)})/(?P<file>[^/\s]+\.parquet)")
NOT_THERE = re.compile("No such file|[Nn]ot ?[Ff]ound")
"""What polars says, of a folder or of an object store, when a file of a table is gone: first the file itself, and
perhaps another one afterwards, since it shares the connection to a bucket."""


CASTS = pl.ScanCastOptions(
    integer_cast="upcast",
    float_cast=["upcast", "downcast"],
    datetime_cast=["nanosecond-downcast", "millisecond-upcast", "convert-timezone"],
    missing_struct_fields="insert",
    extra_struct_fields="ignore",
    categorical_to_string="allow",
)
"""What polars allows a file of a Delta table to hold in place of the table's own dtypes."""

STATISTICS_STEP = timedelta(milliseconds=1)
"""How exactly the log tells the newest instant of a file: cut off to a whole millisecond, while columns have micros."""


@dataclass(frozen=True)
class StoredFile:
    """A Parquet file of a table: it has one name for ever, and is never written again.

    Attributes:
        uri: Its path, or its address in an object store.
        rows: How many it has.
        newest: No value of the column `at` is later; None where the log does not say.
    """

    uri: str
    rows: int
    newest: datetime | None


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


class StoredTables:
    """The four audience tables under one root, for reading. Safe to share between threads; every method blocks on I/O.

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
                    self._newest.pop(name, None)
                    raise self._gone(name)
                if newest is None:
                    return -1
                self._newest[name] = newest
                self._seen.add(name)
            return newest.version()

    def require(self, name: TableName) -> int:
        """Give the newest version of one table, and refuse to go on without it.

        Call it before a decision about users who are known to exist.

        A process that starts while a disk is not mounted has never seen the table, and -1 would read as nobody.

        Raises:
            StoreUnavailable: The store cannot be reached, or the table is not there. Retried by Temporal.
        """
        if (version := self.version(name)) < 0:
            raise self._gone(name)
        return version

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

    def files(self, name: TableName, version: int) -> list[StoredFile] | None:
        """Give the files that hold a version's rows, all of each.

        Returns:
            The files, or None where files alone do not tell the rows: the table was changed by others to have
            partitions, deletion vectors or mapped columns, or its log does not count rows.

        Raises:
            NotFoundError: There is no such version.
            StoreUnavailable: The store cannot be reached.
        """
        table = self._pin(name, version)
        with reaching(self.place(name)):
            if table.protocol().min_reader_version > 1 or table.metadata().partition_columns:
                return None
            uris = {uri.rpartition("/")[2]: uri for uri in table.file_uris()}
            known = pl.DataFrame(table.get_add_actions(flatten=True))
        newest = (
            known.get_column("max.at") if known.schema.get("max.at") == DTYPES["instant"] else [None] * known.height
        )
        found = [
            StoredFile(uri, rows, None if at is None else at + STATISTICS_STEP)
            for path, rows, at in zip(known["path"], known["num_records"], newest, strict=True)
            if (uri := uris.get(path.rpartition("/")[2])) is not None and rows is not None
        ]
        return found if len(found) == len(uris) == known.height else None

    def scan_files(self, uris: Collection[str], schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        """Read some files lazily, as `scan` reads all of a version.

        Args:
            uris: Files of one table, at least one, as `files` names them.
            schema: Columns of the table, with the dtypes that `scan` gives them.

        Returns:
            Those columns, the rows in the order of the files. Null where a file is older than a column.
        """
        return pl.scan_parquet(
            list(uris),
            schema=dict(schema),
            cast_options=CASTS,
            missing_columns="insert",
            extra_columns="ignore",
            storage_options=self._options,
        )

    def schema(self, name: TableName, version: int | None = None) -> dict[str, Kind]:
        """Give a table's columns in order, each with its kind; the columns of `COLUMNS` when there is no table.

        Raises:
            NotFoundError: There is no such version.
            StoreUnavailable: The store cannot be reached.
        """
        with reaching(self.place(name)):
            return {column: kind_of(dtype) for column, dtype in self.scan(name, version).collect_schema().items()}

    def collect(self, frame: pl.LazyFrame, *, engine: Literal["auto", "streaming"] = "auto") -> pl.DataFrame:
        """Work out a frame that was made from scans of these tables.

        Raises:
            NotFoundError: A version that the frame reads was vacuumed.
            StoreUnavailable: A file of a table cannot be read.
        """
        try:
            with reaching(self.root):
                return frame.collect(engine=engine)
        except StoreUnavailable as error:
            raise self._explained(error) or error from error.__cause__

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
        return int(self.collect(self.scan(name, version).select(pl.len())).item())

    def _pin(self, name: TableName, version: int) -> DeltaTable:
        """Give a handle that stays at its version."""
        with self._lock:
            table = self._pinned.get((name, version))
            if table is not None:
                self._pinned.move_to_end((name, version))
                return table
        table = self.handle(name, version)
        with self._lock:
            self._pinned[name, version] = table
            while len(self._pinned) > PINNED_VERSIONS:
                self._pinned.popitem(last=False)
        return table

    def handle(self, name: TableName, version: int) -> DeltaTable:
        """Open a version anew.

        Raises:
            NotFoundError: There is no such version, or it was vacuumed.
            StoreUnavailable: The store cannot be reached, or the table is not there.
        """
        try:
            with reaching(self.place(name)):
                table = self._open(name, version)
                there = table is not None or self._open(name) is not None
        except StoreUnavailable as error:
            # The store answers for the newest version, and says that the log of this one is not there.
            if version == self.version(name) or not NO_LOG.search(str(error.__cause__)):
                raise
            table, there = None, True
        if table is not None:
            return table
        newest = self.version(name)
        # Whoever knows a version has seen the table.
        if not there or version == newest:
            raise self._gone(name)
        if version < newest:
            raise self._vacuumed(name, version)
        raise NotFoundError(
            f"the table {name} has no version {version}",
            hint=f"Its newest version is {newest}, in {self.place(name)}.",
        )

    def _gone(self, name: TableName) -> StoreUnavailable:
        """Word that a table is not where it has to be: an unmounted disk must not read as an audience of nobody."""
        return StoreUnavailable(
            f"there is no table {name} at {self.place(name)}: nothing was imported, or its place is not mounted",
            hint="Mount it, or import the table; see the setting JOURNEYS_TABLES. The work waits and goes on.",
        )

    def _vacuumed(self, name: TableName, version: int | None) -> NotFoundError:
        """Word that a version existed and can be read no more."""
        which = f"version {version} of the table {name}" if version is not None else f"a version of the table {name}"
        return NotFoundError(
            f"{which} was vacuumed: its files were removed after newer versions had replaced them",
            code="vacuumed",
            hint=f"The newest version, {self.version(name)}, can be read. `journeys upkeep --retain` says how long "
            "older ones are kept.",
        )

    def _explained(self, error: StoreUnavailable) -> NotFoundError | None:
        """Tell whether a file could not be read because its version was vacuumed; None for any other reason."""
        said = str(error.__cause__)
        missing = MISSING_FILE.search(said) if NOT_THERE.search(said) else None
        if missing is None:
            return None
        name: TableName = next(table for table in TABLES if table == missing["table"])
        file = missing["file"]
        # A disk that was away for a moment.
        if self._local and os.path.exists(os.path.join(self.place(name), file)):
            return None
        # What the newest version needs is never vacuumed: without it the table is damaged, or the store not whole.
        if any(uri.endswith(file) for uri in self.handle(name, self.version(name)).file_uris()):
            return None
        with self._lock:
            pinned = [(version, table) for (of, version), table in self._pinned.items() if of == name]
        holding = [version for version, table in pinned if any(uri.endswith(file) for uri in table.file_uris())]
        return self._vacuumed(name, min(holding, default=None))

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
