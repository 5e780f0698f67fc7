"""Imported segments: a list of ids becomes rows of the table `members`, and a saved version that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl

from activities.records.catalogue import Catalogue, ImportedSegment, Saved
from activities.tables.delta import Tables
from activities.tables.identifiers import IdentifierReport, read_identifiers
from workflows.documents import JourneyDocument, SegmentDocument
from workflows.errors import RefusedError, StoreUnavailable

SEEDS = (1, 2, 3)
"""Of the hashes of 64 bits whose sums name a list by its content, so that no two lists share a name by chance."""

ADD_ATTEMPTS = 10
"""How often adding to a segment starts again because somebody else made a version of it first."""


@dataclass(frozen=True)
class Membership:
    """A list of ids that was read and matched, and is not imported yet.

    Attributes:
        segment: What importing it will save.
        report: What the file held.
    """

    segment: ImportedSegment
    report: IdentifierReport


class _Overtaken(Exception):
    """Somebody else saved a version of the segment meanwhile."""


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
        import_id=_content_id(segment, identifier, _sums(report.members.lazy()).collect(engine="streaming")),
        source=path.name,
        identifier=identifier,
        users=report.users,
    )
    return Membership(found, report)


def store_members(tables: Tables, segment: ImportedSegment, members: pl.DataFrame) -> None:
    """Append a list's members to the table `members`, in one commit, or none where it holds all of them.

    They mean nothing until a saved version names their import id, so a crash before that leaves nothing half-done;
    the same list again has the same id, and readers take each user once.

    Args:
        tables: The audience tables.
        segment: What will name them.
        members: `user_id: String`, `device_id: String`, null in a list of user ids.

    Raises:
        StoreUnavailable: The tables cannot be reached.
    """
    version = tables.version("members")
    stored = _members(tables, segment.import_id, version)
    sums = tables.collect(_sums(stored), engine="streaming")
    if _content_id(segment.segment, segment.identifier, sums) == segment.import_id:
        return
    if sums.item(0, 0):
        # Imported before; some have been erased since.
        members = members.join(tables.collect(stored), on=["user_id", "device_id"], how="anti", nulls_equal=True)
    rows = members.select(import_id=pl.lit(segment.import_id), user_id="user_id", device_id="device_id")
    tables.append("members", rows, once=f"{segment.import_id} after {version}")


def import_segment(
    tables: Tables,
    catalogue: Catalogue,
    membership: Membership,
    now: datetime,
    *,
    add: bool = False,
) -> Saved:
    """Import a list that was read, as a new version of its segment, or none when that holds these very ids already.

    Args:
        tables: Where members go.
        catalogue: Where versions are saved.
        membership: The list.
        now: The instant to record, UTC.
        add: The new version holds the members of the newest one too; without an earlier version, just the list.
            Lists of user ids and of device ids can be added to each other.

    Returns:
        The segment's newest version.

    Raises:
        RefusedError: The segment is a condition.
        StoreUnavailable: A store cannot be reached; importing again does what is missing.
    """
    name, listed = membership.segment.segment, membership.segment
    for _ in range(ADD_ATTEMPTS):
        earlier = next((one for one in catalogue.newest("segment") if one.name == name), None)
        kept = earlier.document if earlier is not None else None
        if earlier is not None and not isinstance(kept, ImportedSegment):
            raise RefusedError(
                f"{name!r} is a condition, version {earlier.version}, and no list: whatever refers to it would mean "
                "other users",
                code="not-a-list",
                hint="import the file under a name of its own, and combine both: any: "
                f"[{{segment: {name}}}, {{segment: ...}}]",
            )
        members, found = membership.report.members, listed
        if add and isinstance(kept, ImportedSegment):
            members, found = _united(tables, kept, membership)
        if isinstance(kept, ImportedSegment) and kept.import_id == found.import_id:
            found = kept  # these very ids, from a file of another name perhaps
        store_members(tables, found, members)
        expected = earlier.version if earlier is not None else 0

        def unless_overtaken(saved: list[Saved], expected: int = expected) -> list[SegmentDocument | JourneyDocument]:
            # Inside the transaction: what somebody else added since would be missing from a version after theirs.
            if add and saved[0].version > expected + 1:
                raise _Overtaken
            return []

        try:
            return catalogue.save([found], unless_overtaken, now)[0]
        except _Overtaken:
            continue
    raise StoreUnavailable(
        f"could not add to {name!r}: others made a version of it first {ADD_ATTEMPTS} times in a row",
        hint="Nothing was added. Try again.",
    )


def _united(tables: Tables, kept: ImportedSegment, membership: Membership) -> tuple[pl.DataFrame, ImportedSegment]:
    """Put an imported version and a list together; the version itself where the list adds nobody."""
    before = tables.collect(_members(tables, kept.import_id, tables.version("members")).unique(maintain_order=True))
    after = pl.concat([before, membership.report.members]).unique(maintain_order=True)
    if after.height == before.height:
        return before, kept
    listed = membership.segment
    return after, listed.model_copy(
        update={
            "title": kept.title,
            "import_id": _content_id(listed.segment, listed.identifier, _sums(after.lazy()).collect()),
            "users": after.get_column("user_id").n_unique(),
        }
    )


def _members(tables: Tables, import_id: str, version: int) -> pl.LazyFrame:
    """Scan what one import has stored: `user_id: String`, `device_id: String`."""
    return tables.scan("members", version).filter(pl.col("import_id") == import_id).select("user_id", "device_id")


def _sums(members: pl.LazyFrame) -> pl.LazyFrame:
    """Sum up a list's content in one row: how many members, and a sum of hashes for each seed."""
    # A sum knows no order. Another release of polars may hash otherwise: then the same list makes one more version.
    return members.select(
        pl.len(),
        *(
            (pl.col("user_id").hash(seed) ^ pl.col("device_id").hash(seed + len(SEEDS)))
            .cast(pl.Int128)
            .sum()
            .alias(str(seed))
            for seed in SEEDS
        ),
    )


def _content_id(segment: str, identifier: str, sums: pl.DataFrame) -> str:
    """Name a list by its segment and content: importing the same list again, in any order, changes nothing."""
    return hashlib.sha256("\n".join(map(str, (segment, identifier, *sums.row(0)))).encode()).hexdigest()[:24]
