"""The rows that an import could not take: written beside the input, with line and reason, to be mended and imported."""

from __future__ import annotations

import csv
import filecmp
import glob
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from workflows.errors import ImportRefused

log = logging.getLogger(__name__)

STEM_BYTES = 120
"""Of the imported file's name: with what is added to it, it has to stay below the 255 bytes that a name may have."""

UNFINISHED = ".unfinished"
"""How a file is called until it is whole."""


class Reject(NamedTuple):
    """A row that was not taken: one row of the rejects file, whose header these fields are."""

    line: int
    """Its first line in the file, from 1; in Parquet its number, from 1."""
    reason: str
    """Why not, quoting the value."""
    row: str
    """The row as it stands in the file; a row of Parquet as it would in a CSV."""


def keep_rejects(source: Path, folder: Path | None, now: datetime, write: Callable[[Path], object]) -> str:
    """Write a file of rejected rows: it has its name when it is whole, and takes no name that another file has.

    Args:
        source: The imported file.
        folder: Where to write, made when it is not there; beside the source when null.
        now: The present instant, aware: it tells the rejects of one import from those of another.
        write: Writes the rows to the file that it is given.

    Returns:
        The file's name: `users.20260301T093000Z.rejects.csv`, or `users.20260301T093000Z-2.rejects.csv` where that is
        there already; or that of an earlier import of such a file, where these very rows are in it.

    Raises:
        ImportRefused: The file cannot be written, in place of the operating system's error.
    """
    folder = folder or source.parent
    stem = os.fsencode(source.stem)[:STEM_BYTES].decode(errors="ignore")
    unfinished = folder / f"{stem}.{uuid4().hex[:8]}{UNFINISHED}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write(unfinished)
            # A list that is saved again and again has the same strangers each time.
            for earlier in folder.glob(f"{glob.escape(stem)}.*.rejects.csv"):
                with suppress(OSError):  # it may be gone by now, or not be ours to read
                    if filecmp.cmp(earlier, unfinished, shallow=False):
                        return str(earlier)
            return str(_named(unfinished, f"{stem}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"))
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ImportRefused(
            f"cannot write the rejected rows of {source} to {folder}: {error.strerror or error}",
            hint="Name another folder for them. Nothing was imported.",
        ) from error


def _named(unfinished: Path, name: str) -> Path:
    """Give a whole file the first name that no other file has."""
    path, number = unfinished.with_name(f"{name}.rejects.csv"), 1
    while True:
        try:
            _take_name(path, unfinished)
        except FileExistsError:
            number += 1
            path = unfinished.with_name(f"{name}-{number}.rejects.csv")
        else:
            return path


def _take_name(path: Path, unfinished: Path) -> None:
    """Give a whole file a name that no file has; raises FileExistsError where one has it, whoever else asks for it."""
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        raise
    except OSError:
        # Some file systems know no links. There the name is taken first, by an empty file.
        path.open("x").close()
        unfinished.replace(path)


def remove_unfinished(folder: Path, *, before: datetime, dry_run: bool = False) -> int:
    """Remove the files of rejected rows that imports left unfinished, because they were killed.

    Args:
        folder: The folder of rejects; perhaps not there.
        before: Files written later stay, for an import may be writing them.
        dry_run: Remove none, and tell how many would be.

    Returns:
        How many. What cannot be removed is told in the log: trying again would not help.
    """
    found = 0
    for path in folder.glob(f"*{UNFINISHED}"):
        try:
            if path.stat().st_mtime >= before.timestamp():
                continue
            if not dry_run:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s holds rows of people and cannot be removed: %s", path, error.strerror or error)
            continue
        found += 1
    return found


def write_rejects(source: Path, folder: Path | None, rejects: Iterable[Reject], now: datetime) -> str | None:
    """Write the rejected rows of an import, in the order of their lines.

    Args:
        source: The imported file.
        folder: Where to write; beside the source when null.
        rejects: The rows. Without any, no file is written.
        now: The present instant, aware.

    Returns:
        The file's name; null without rejects.

    Raises:
        ImportRefused: The file cannot be written.
    """
    ordered = sorted(rejects)
    if not ordered:
        return None

    def write(unfinished: Path) -> None:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Reject._fields)
            writer.writerows(ordered)

    return keep_rejects(source, folder, now, write)
