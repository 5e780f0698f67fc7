"""A table's rows by user: scanned, and kept in memory once scans have cost more than reading the table whole.

Looking users up in a Delta table of 500 rows takes polars 3 ms of processor time for one and 30 ms for a hundred, and
next to nothing when the rows are at hand: it was a third of what a worker did for a pushed user. Reading and sorting a
table costs about a microsecond a row, so it is done for a version whose scans have cost that much already: whatever
comes, the cost is at most about twice that of having known it before. A table that is too large for the memory allowed
is scanned for ever, by batches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import polars as pl

from activities.tables.schema import TableName
from activities.tables.stored import StoredTables
from workflows.errors import JourneyError

SECONDS_A_ROW = 1e-6
"""What reading a table and sorting it takes: 1.4 s of processor time for 2 million rows of four columns, measured."""
BYTES_A_CELL = 16
"""What a value takes in memory: polars' view of a text."""


class KeptRows:
    """The rows of one table, by `user_id`. Safe to share between threads; it blocks on I/O.

    Args:
        tables: The audience tables.
        name: `users` or `devices`.
        limit_bytes: Largest table that is kept, in memory.
        chosen: Makes the rows that are looked for from the table's; all of them when None.
        required: Whether the table has to be there; else a missing one has no rows.
    """

    def __init__(
        self,
        tables: StoredTables,
        name: TableName,
        limit_bytes: int,
        chosen: Callable[[pl.LazyFrame], pl.LazyFrame] | None = None,
        *,
        required: bool = False,
    ) -> None:
        self._tables, self._name, self._limit = tables, name, limit_bytes
        self._chosen = chosen or (lambda frame: frame)
        self._newest = tables.require if required else tables.version
        self._lock = threading.Lock()
        self._version = -1
        self._spent = 0.0
        self._worth = float("inf")
        self._frame: pl.DataFrame | None = None

    def of(self, user_ids: Collection[str], version: int | None = None) -> pl.DataFrame:
        """Give some users' rows.

        Args:
            user_ids: The users.
            version: Of which version of the table; the newest when None.

        Returns:
            The table's columns; a user's rows in the order of the table's own key.

        Raises:
            NotFoundError: There is no such version, or it was vacuumed.
            StoreUnavailable: The table cannot be reached. Temporal retries.
        """
        newest = version is None
        version = self._newest(self._name) if version is None else version
        with self._lock:
            if newest and version > self._version:
                self._version, self._frame, self._spent = version, None, 0.0
                self._worth = self._cost(version)
            if version == self._version and self._frame is None and self._spent > self._worth:
                self._frame = self._read(version)
            if version == self._version and self._frame is not None:
                return _picked(self._frame, user_ids)
        begun = time.perf_counter()
        wanted = pl.col("user_id").is_in(list(user_ids))
        rows = self._chosen(self._tables.scan(self._name, version).filter(wanted))
        found = self._tables.collect(rows.sort(self._key))
        with self._lock:
            if version == self._version:
                self._spent += time.perf_counter() - begun
        return found

    @property
    def _key(self) -> list[str]:
        return ["user_id"] if self._name == "users" else ["user_id", "device_id"]

    def _cost(self, version: int) -> float:
        """Say how many seconds reading a version whole takes; without end when it is too large."""
        try:
            width = len(self._tables.schema(self._name, version))
            rows = self._tables.row_count(self._name, version)
        except JourneyError:  # the look-up itself meets it, and says so
            return float("inf")
        return rows * SECONDS_A_ROW if rows * width * BYTES_A_CELL <= self._limit else float("inf")

    def _read(self, version: int) -> pl.DataFrame:
        rows = self._chosen(self._tables.scan(self._name, version).filter(pl.col("user_id").is_not_null()))
        return self._tables.collect(rows.sort(self._key)).rechunk()


def _picked(frame: pl.DataFrame, user_ids: Collection[str]) -> pl.DataFrame:
    """Pick rows of a frame that is sorted by `user_id`."""
    ids, wanted = frame.get_column("user_id"), pl.Series(sorted(set(user_ids)), dtype=pl.String)
    begins, ends = (ids.search_sorted(wanted, side=side).to_list() for side in ("left", "right"))
    return frame[[place for begin, end in zip(begins, ends, strict=True) for place in range(begin, end)]]
