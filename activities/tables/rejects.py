"""The rows that an import could not take: written beside the input, with line and reason, to be mended and imported."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from workflows.errors import ImportRefused


class Reject(NamedTuple):
    """A row that was not taken: one row of the rejects file, whose header these fields are."""

    line: int
    """Its first line in the file, from 1; in Parquet its number, from 1."""
    reason: str
    """Why not, quoting the value."""
    row: str
    """The row as it stands in the file."""


def rejects_path(source: Path, folder: Path | None) -> Path:
    """Name the file that the rejected rows of an import go to: beside the input, or in a folder."""
    return (folder or source.parent) / f"{source.stem}.rejects.csv"


@contextmanager
def rejects_writable(path: Path) -> Iterator[Path]:
    """Make the folder of a rejects file, and refuse the import when it cannot be written.

    Args:
        path: The rejects file.

    Yields:
        The file to write in its place: it takes the name when it is whole, whatever is killed meanwhile.

    Raises:
        ImportRefused: In place of the operating system's error.
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ImportRefused(
            f"cannot write the rejected rows to {path}: {error.strerror or error}",
            hint="Name another folder for them. Nothing was imported.",
        ) from error


def write_rejects(source: Path, folder: Path | None, rejects: Iterable[Reject]) -> str | None:
    """Write the rejected rows of an import, in the order of their lines.

    Args:
        source: The imported file.
        folder: Where to write; beside the source when null.
        rejects: The rows. Without any, no file is written.

    Returns:
        The file's name; null without rejects.

    Raises:
        ImportRefused: The file cannot be written.
    """
    ordered = sorted(rejects)
    if not ordered:
        return None
    path = rejects_path(source, folder)
    with rejects_writable(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Reject._fields)
        writer.writerows(ordered)
    return str(path)
