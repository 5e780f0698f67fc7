"""Imported segments: a list of ids becomes rows of the table `members`, and a saved version that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from activities.records.catalogue import ImportedSegment
from activities.tables.delta import Tables
from activities.tables.identifiers import IdentifierReport, read_identifiers


@dataclass(frozen=True)
class Membership:
    """A list of ids that was read and matched, and is not imported yet.

    Attributes:
        segment: What importing it will save.
        report: What the file held.
    """

    segment: ImportedSegment
    report: IdentifierReport


def read_members(
    tables: Tables,
    segment: str,
    path: Path,
    *,
    column: str | None,
    identifier: Literal["user_id", "device_id"],
    rejects_dir: Path | None,
) -> Membership:
    """Read a file of ids and match it with the tables. Writes nothing but the file of rejected rows.

    Args:
        tables: The audience tables.
        segment: The name of the segment that it will be.
        path: The file.
        column: The column that holds the ids; null where it can be told.
        identifier: What the ids name.
        rejects_dir: Folder for the file of rejected rows; null writes none.

    Returns:
        The members, and the report.

    Raises:
        ImportRefused: The file cannot be read, or holds no id that the tables know.
        StoreUnavailable: The tables cannot be reached.
    """
    report = read_identifiers(
        path,
        column=column,
        identifier=identifier,
        users=tables.scan("users"),
        devices=tables.scan("devices"),
        rejects_dir=rejects_dir,
    )
    found = ImportedSegment(
        segment=segment,
        import_id=_content_id(segment, identifier, report.members),
        source=path.name,
        identifier=identifier,
        users=report.users,
    )
    return Membership(found, report)


def store_members(tables: Tables, membership: Membership) -> None:
    """Append a list's members to the table `members`, in one commit.

    They mean nothing until a saved version names their import id, so a crash before that leaves nothing half-done;
    the same list again has the same id, and readers take each user once.

    Raises:
        StoreUnavailable: The tables cannot be reached.
    """
    rows = membership.report.members.select(
        import_id=pl.lit(membership.segment.import_id), user_id="user_id", device_id="device_id"
    )
    tables.append("members", rows)


def _content_id(segment: str, identifier: str, members: pl.DataFrame) -> str:
    """Name a list by its segment and content: importing the same list again changes nothing."""
    content = hashlib.sha256(f"{segment}\n{identifier}\n".encode())
    ids = members.select(pl.concat_str(pl.col("user_id"), pl.col("device_id").fill_null(""), separator="\t").sort())
    for chunk in ids.iter_slices(100_000):
        content.update("\n".join(chunk.to_series().to_list()).encode() + b"\n")
    return content.hexdigest()[:24]
