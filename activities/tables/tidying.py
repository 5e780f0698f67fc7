"""Tidying a table: small files become large ones, and files that no version still needs are removed.

Both change no row. Compaction is one Delta commit. Vacuum leaves the newest version whole, whatever the table went
through in the retained time, and each older version that it is told of.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from activities.tables.delta import Tables
from activities.tables.log import forget
from activities.tables.parquet import layout_of
from activities.tables.schema import TableName
from activities.tables.stored import reaching
from workflows.upkeep import TidiedTable

TARGET_BYTES = 100_000_000
"""Size that compaction brings files to: large enough to read quickly, small enough for a merge to write again."""

ATTEMPTS = 5
"""How often a commit of upkeep starts again because an import committed first. After that the next upkeep does it."""

STRAY_HOURS = 24
"""A file that no commit names may belong to an import under way; after this long it is what a killed one left."""

HOUR = timedelta(hours=1)


def tidy(
    tables: Tables, name: TableName, *, retain: timedelta, needed: Collection[int], now: datetime, dry_run: bool
) -> TidiedTable | None:
    """Compact and vacuum one table.

    Args:
        tables: The audience tables.
        name: Which.
        retain: How long files stay after newer versions replaced them; whole hours, rounded up.
        needed: Versions to keep readable, with all that are newer than the oldest of them.
        now: The present instant, aware.
        dry_run: Change nothing, and tell what would be done.

    Returns:
        What was done; None where there is no table.

    Raises:
        StoreUnavailable: The store cannot be reached. Tidying again does what is missing.
    """
    if tables.version(name) < 0:
        return None
    if not dry_run:
        # Before any commit that may make a checkpoint.
        tables.remember(name)
    version = tables.version(name)
    with reaching(tables.place(name)):
        handle = tables.handle(name, version)
        sizes = _sizes(handle)
        files_before = files_after = len(sizes)
        if _small(sizes) > 1:
            if dry_run:
                files_after = _compacted(sizes)
            else:
                handle = _compact(tables, name, handle)
                files_after = len(_sizes(handle))
        vacuumed = _vacuum(handle, retain, needed, now, dry_run=dry_run)
    return TidiedTable(
        table=name,
        version=tables.version(name),
        files_before=files_before,
        files_after=files_after,
        vacuumed=vacuumed,
    )


def forget_versions(tables: Tables, name: TableName) -> None:
    """Remove at once all that only older versions hold: their files, and the log, which quotes values of each.

    Args:
        tables: The audience tables.
        name: Which; nothing is done where there is no table.

    Raises:
        StoreUnavailable: The store cannot be reached. Asking again does what is missing.
    """
    if tables.version(name) < 0:
        return
    try:
        with reaching(tables.place(name)):
            handle = tables.handle(name, tables.version(name))
            handle.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
            for last in reversed(range(ATTEMPTS)):
                try:
                    forget(tables.handle(name, tables.version(name)))
                    break
                except CommitFailedError:
                    if not last:
                        raise
    finally:
        tables.remember(name)


def _sizes(handle: DeltaTable) -> list[int]:
    """Give the size of each file of the newest version."""
    actions: Any = handle.get_add_actions(flatten=True)
    return [int(size.as_py()) for size in actions.column("size_bytes")]


def _small(sizes: list[int]) -> int:
    """Count the files that compaction would join with others."""
    return sum(size < TARGET_BYTES // 2 for size in sizes)


def _compacted(sizes: list[int]) -> int:
    """Estimate how many files compaction would leave."""
    small = [size for size in sizes if size < TARGET_BYTES // 2]
    return len(sizes) - len(small) + math.ceil(sum(small) / TARGET_BYTES)


def _compact(tables: Tables, name: TableName, handle: DeltaTable) -> DeltaTable:
    """Join small files, on whatever version is the newest by then; leave it where imports keep coming first."""
    for _ in range(ATTEMPTS):
        try:
            handle.optimize.compact(target_size=TARGET_BYTES, writer_properties=layout_of(name))
            break
        except CommitFailedError:
            handle = tables.handle(name, tables.version(name))
    return tables.handle(name, tables.version(name))


def _vacuum(handle: DeltaTable, retain: timedelta, needed: Collection[int], now: datetime, *, dry_run: bool) -> int:
    """Remove the files that neither the retained time nor a needed version asks for, and count them."""
    newest = handle.version()
    older = [version for version in needed if 0 <= version <= newest]
    commits = handle.history(newest - min(older) + 1) if older else []
    committed = {
        int(commit["version"]): datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        for commit in commits
        if "version" in commit and "timestamp" in commit
    }
    # A version whose part of the log is gone cannot be kept any more.
    kept = sorted(set(older) & committed.keys())
    if kept:
        # What replaced the oldest needed version did so after it, by another machine's clock perhaps.
        retain = max(retain, now - min(committed[version] for version in kept) + HOUR)
    hours = max(0, math.ceil(retain / HOUR))
    options: dict[str, Any] = {
        "retention_hours": hours,
        "enforce_retention_duration": False,
        "full": hours >= STRAY_HOURS,
        "keep_versions": kept or None,
    }
    found = handle.vacuum(dry_run=True, **options)
    # A vacuum is two commits, which make every kept membership be worked out again: none for nothing.
    if found and not dry_run:
        found = handle.vacuum(dry_run=False, **options)
    return len(found)
