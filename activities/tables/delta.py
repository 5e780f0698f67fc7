"""The audience tables, written in single commits.

Every write is one Delta commit on top of the very version it was worked out from. Where somebody else committed in
between, the commit fails and the work is done again on what is there now, so that two imports at once both land and
neither doubles a row. A reader sees the table before a commit or after it, whatever is killed in between.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from typing import TypeAlias

import polars as pl
from deltalake import CommitProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from pydantic import BaseModel, ConfigDict

from activities.tables.changes import ABSENT, OLD, check_columns, compare
from activities.tables.log import KEPT_FOR, remember, remembers
from activities.tables.parquet import ROW_GROUP_ROWS, layout_of
from activities.tables.schema import DTYPES, TableName
from activities.tables.stored import COLUMNS, TABLES, StoredTables, reaching
from workflows.errors import StoreUnavailable

__all__ = ["COLUMNS", "TABLES", "MergeReport", "Tables", "reaching"]

ATTEMPTS = 40
"""How often a write starts again because somebody else committed first. Each lost round is another writer's gain."""

LONGEST_PAUSE_SECONDS = 0.5

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
    repeated: int = 0
    """Rows that were given and left out, because a later one has the same key."""
    removed: int = 0
    """Rows that were deleted."""


class Tables(StoredTables):
    """The four audience tables under one root, read and written.

    Safe to share between threads; every method blocks on I/O.

    Args:
        root: A local folder, made on the first write, or an object store's address such as `s3://bucket/tables`.
        storage_options: Credentials and options of the object store, as deltalake and polars name them.
    """

    def __init__(self, root: str | Path, storage_options: Mapping[str, str] | None = None) -> None:
        super().__init__(root, storage_options)
        self._writing = {name: threading.Lock() for name in TABLES}

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
        rows = _last_of_each(frame.with_columns(**masks), key)
        given = {column: value for column, value in (new_rows or {}).items() if column not in frame.columns}

        def attempt(version: int) -> MergeReport:
            stored = self.schema(name, version)
            check_columns(name, frame.schema, stored)
            old = self._stored_rows(name, version, rows, key, list(stored))
            compared = compare(rows, old, key)
            is_new, differs = pl.col(OLD).is_null(), pl.col(OLD).not_()
            changes = compared.filter(is_new | differs) if old.height else compared
            inserted = changes.select(is_new.sum()).item()
            report = MergeReport(
                version=version,
                inserted=inserted,
                updated=changes.height - inserted,
                unchanged=compared.height - changes.height,
                repeated=frame.height - rows.height,
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

    def update(self, name: TableName, changes: Callable[[pl.LazyFrame], pl.DataFrame], key: str) -> MergeReport:
        """Change rows that are there, by what they are, in one commit or none.

        Args:
            name: The table.
            changes: Makes the changed rows from all rows: `key`, and the columns that change, in the dtypes of
                `DTYPES`; one that the table lacks is added to it. Called again when somebody else committed first.
            key: The column that identifies a row.

        Returns:
            The count, and the version afterwards.

        Raises:
            ImportRefused: A column's kind differs from the stored one.
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """

        def attempt(version: int) -> MergeReport:
            rows = changes(self.scan(name, version))
            check_columns(name, rows.schema, self.schema(name, version))
            if not rows.height:
                return MergeReport(version=version)
            self._merge(name, version, rows, key, updates=rows.columns)
            return MergeReport(version=version + 1, updated=rows.height)

        return self._commit(name, attempt)

    def append(self, name: TableName, frame: pl.DataFrame, *, once: str = "") -> int:
        """Add rows without looking at those that are there, in one commit, or none for a frame without rows.

        Args:
            name: The table.
            frame: Any columns in the dtypes of `DTYPES`; a column of the table that it lacks becomes null.
            once: Names these rows in the table's log, so that adding them again, after a commit whose answer was
                lost for instance, adds nothing. Empty: they are added each time.

        Returns:
            The version afterwards.

        Raises:
            ImportRefused: A column's kind differs from the stored one.
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """

        def attempt(version: int) -> MergeReport:
            check_columns(name, frame.schema, self.schema(name, version))
            if not frame.height or (once and self._is_done(name, version, once)):
                return MergeReport(version=version)
            self._add(name, version, frame, once)
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
        rows = _last_of_each(frame, key)

        def attempt(version: int) -> MergeReport:
            check_columns(name, frame.schema, self.schema(name, version))
            fresh = rows.join(self._stored_rows(name, version, rows, key, [key]), on=key, how="anti")
            known, repeated = rows.height - fresh.height, frame.height - rows.height
            if not fresh.height:
                return MergeReport(version=version, unchanged=known, repeated=repeated)
            self._add(name, version, fresh)
            return MergeReport(version=version + 1, inserted=fresh.height, unchanged=known, repeated=repeated)

        return self._commit(name, attempt)

    def remove(self, name: TableName, keys: pl.DataFrame, key: str) -> MergeReport:
        """Delete the rows that have one of some values in a column, in one commit or none.

        Args:
            name: The table.
            keys: `key: String`, the values.
            key: The column.

        Returns:
            The number of rows, and the version afterwards. Older versions still hold them, until they are vacuumed.

        Raises:
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """

        def attempt(version: int) -> MergeReport:
            known = self._stored_rows(name, version, keys, key, [key]).height
            if not known:
                return MergeReport(version=version)
            # By a merge, so that the values are data and no part of a predicate.
            (
                self.handle(name, version)
                .merge(
                    keys,
                    predicate=f"t.`{key}` = s.`{key}`",
                    source_alias="s",
                    target_alias="t",
                    streamed_exec=False,
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
                .when_matched_delete()
                .execute()
            )
            return MergeReport(version=version + 1, removed=known)

        return self._commit(name, attempt)

    def remember(self, name: TableName) -> None:
        """Have the log of a table remember its versions for our time, in one commit or none, as every write does first.

        Raises:
            StoreUnavailable: The store cannot be reached, or others kept committing first.
        """
        self._commit(name, lambda version: MergeReport(version=version))

    def _commit(self, name: TableName, attempt: Callable[[int], MergeReport]) -> MergeReport:
        """Run an attempt on the newest version until its commit is the next one."""
        random = SystemRandom()
        # Threads of one process take turns; other processes are met at the commit.
        with self._writing[name], reaching(self.place(name)):
            for lost in range(ATTEMPTS):
                version = self.version(name)
                try:
                    if version >= 0 and not remembers(self._newest[name]):
                        remember(self.handle(name, version))
                        version = self.version(name)
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

    def _is_done(self, name: TableName, version: int, once: str) -> bool:
        """Tell whether a version holds the rows that were added under a name."""
        return version >= 0 and self.handle(name, version).transaction_version(once) is not None

    def _add(self, name: TableName, version: int, rows: pl.DataFrame, once: str = "") -> None:
        """Commit new rows on top of a version."""
        if version < 0:
            if self._local:
                os.makedirs(self.root, exist_ok=True)
            missing = {column: kind for column, kind in COLUMNS[name].items() if column not in rows.columns}
            rows = rows.with_columns(pl.lit(None, DTYPES[kind]).alias(column) for column, kind in missing.items())
            rows = rows.select(*COLUMNS[name], pl.exclude(list(COLUMNS[name])))
        write_deltalake(
            self.place(name) if version < 0 else self.handle(name, version),
            # Some rows at a time, of which several are on the way: a column of one value takes no memory until then.
            rows.lazy().collect_batches(chunk_size=ROW_GROUP_ROWS // 4),
            mode="error" if version < 0 else "append",
            schema_mode=None if version < 0 else "merge",
            storage_options=self._options,
            configuration=KEPT_FOR if version < 0 else None,
            writer_properties=layout_of(name),
            commit_properties=CommitProperties(
                max_commit_retries=0, app_transactions=[Transaction(once, 1)] if once else None
            ),
        )

    def _merge(self, name: TableName, version: int, source: pl.DataFrame, key: str, *, updates: list[str]) -> None:
        """Commit changed and new rows on top of a version."""
        quoted = {column: "`" + column.replace("`", "``") + "`" for column in source.columns}
        (
            self.handle(name, version)
            .merge(
                source,
                predicate=f"t.{quoted[key]} = s.{quoted[key]}",
                source_alias="s",
                target_alias="t",
                merge_schema=True,
                # The source is in memory anyway, and its smallest and greatest key spare files that hold none of it.
                streamed_exec=False,
                writer_properties=layout_of(name),
                commit_properties=CommitProperties(max_commit_retries=0),
            )
            .when_matched_update({quoted[column]: f"s.{quoted[column]}" for column in updates})
            .when_not_matched_insert({column: f"s.{column}" for column in quoted.values()})
            .execute()
        )


def _last_of_each(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """Give the last row of each key, in their order; the frame itself, uncopied, where none repeats."""
    # Keys whose hashes differ differ; told in a third of the time.
    if frame.get_column(key).hash().n_unique() == frame.height:
        return frame
    return frame.unique(subset=key, keep="last", maintain_order=True)
