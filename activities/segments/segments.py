"""Segments by name, file or condition: what they refer to, and who is in them.

A reference is resolved at the moment of an evaluation: `{segment: vip}` is the newest version then, `vip@3` that one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import polars as pl

from activities.meters import Meters, timed
from activities.records.catalogue import Catalogue, ImportedSegment, Saved
from activities.segments.compiler import Built, Imported, Snapshot, is_timeless, select_users
from activities.segments.nesting import Nesting
from activities.segments.reads import readings_of
from activities.tables.delta import Tables
from activities.tables.kept_columns import KeptColumns, Reading
from activities.tables.schema import TableName
from workflows.conditions import Condition, FileRef, SegmentRef, walk
from workflows.contracts import Versions
from workflows.documents import SegmentDocument, digest_of
from workflows.errors import NotFoundError

PIN = "segment/"
"""Before the name of a segment among versions of tables: no table is called so."""


class References:
    """Answers what the references of one condition mean, once, so that one evaluation sees one version of each.

    Args:
        catalogue: Where segments are saved.
        tables: Where imported members are.
        zone: The zone of the condition's own calendar days.
        default_zone: That of a segment which names none: the same wherever it is referred to.
        versions: The table versions of this evaluation, and the versions of segments that it shall read, as
            `pinned` gives them; null for the newest.
        saving: Documents that are about to be saved, by name: they win over saved ones.
        files: Members of files that are not imported, by their reference.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        tables: Tables,
        zone: str,
        default_zone: str,
        *,
        versions: Versions | None = None,
        saving: Mapping[str, SegmentDocument] | None = None,
        files: Mapping[FileRef, pl.DataFrame] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._tables = tables
        self._zone = zone
        self._default_zone = default_zone
        self._versions = versions or {}
        self._saving = dict(saving or {})
        self._files = dict(files or {})
        self._found: dict[str, Saved] = {}
        self._nesting = Nesting(self._followed)
        self._digests: dict[str, str] = {}

    def segment(self, ref: SegmentRef) -> Built | Imported:
        """Give what a reference to a segment stands for.

        Raises:
            NotFoundError: Nobody saved or imported it.
            StoreUnavailable: The catalogue cannot be read.
        """
        found = self._document(ref)
        if isinstance(found, ImportedSegment):
            return Imported(self._members(found.import_id))
        return Built(found.match, found.timezone or self._default_zone)

    def file(self, ref: FileRef) -> Imported:
        """Give the members of a file that was read for this evaluation.

        Raises:
            NotFoundError: The file was not read: only a document's folder can resolve it.
        """
        if ref not in self._files:
            raise NotFoundError(f"the file {ref.file!r} is imported when its document is saved from where the file is")
        return Imported(self._files[ref].lazy().select("user_id").unique())

    def digest(self, condition: Condition) -> str:
        """Name a condition together with all that it refers to: equal digests select the same users.

        Raises:
            DefinitionError: With all that it refers to it is too deep or too large, or a segment contains itself.
            NotFoundError: A reference leads nowhere.
            StoreUnavailable: The catalogue cannot be read.
        """
        self.require_fit(condition)
        return digest_of([self._zone, *self._content(condition)])

    def require_fit(self, condition: Condition) -> None:
        """Refuse a condition that cannot be evaluated, as `digest` does."""
        self._nesting.require(condition)

    def _content(self, condition: Condition) -> list[Any]:
        """Give what a condition is made of: itself, and the name of what each reference means."""
        refs = [node for _, node in walk(condition) if isinstance(node, SegmentRef)]
        return [condition.model_dump(mode="json", by_alias=True, exclude_unset=True), *map(self._digest_of, refs)]

    def _digest_of(self, ref: SegmentRef) -> str:
        if ref.segment not in self._digests:
            found = self._document(ref)
            self._digests[ref.segment] = (
                found.import_id
                if isinstance(found, ImportedSegment)
                else digest_of([found.timezone or self._default_zone, *self._content(found.match)])
            )
        return self._digests[ref.segment]

    def _followed(self, ref: SegmentRef) -> tuple[str, Condition | None]:
        found = self._document(ref)
        name = f"{ref.name}@{self._saved(ref).version}" if not self._is_new(ref) else ref.name
        return name, None if isinstance(found, ImportedSegment) else found.match

    def _is_new(self, ref: SegmentRef) -> bool:
        return ref.version is None and ref.name in self._saving

    def _document(self, ref: SegmentRef) -> SegmentDocument | ImportedSegment:
        found = self._saving[ref.name] if self._is_new(ref) else self._saved(ref).document
        if not isinstance(found, SegmentDocument | ImportedSegment):
            raise NotFoundError(f"{ref.segment!r} is no segment")
        return found

    def _saved(self, ref: SegmentRef) -> Saved:
        if ref.segment not in self._found:
            version = ref.version or self._versions.get(PIN + ref.name, 0)
            self._found[ref.segment] = self._catalogue.find("segment", ref.name, version)
        return self._found[ref.segment]

    @property
    def pinned(self) -> Versions:
        """The versions that references without one were found to mean, each name behind `segment/`."""
        return {PIN + name: saved.version for name, saved in sorted(self._found.items()) if "@" not in name}

    def _members(self, import_id: str) -> pl.LazyFrame:
        # Members are stored before the version that names them is saved.
        self._tables.require("members")
        members = self._tables.scan("members", self._versions.get("members"))
        return members.filter(pl.col("import_id") == import_id).select("user_id").unique()


@dataclass(frozen=True)
class Evaluation:
    """Who is in a segment, and from what that was answered.

    Attributes:
        users: One column `user_id: String`, sorted, each user once.
        tables: The version of each table that was read.
        as_of: The instant of the evaluation, UTC.
        digest: Names the condition with all that it referred to.
        timeless: Whether the answer stays true while the tables stay the same.
        segments: The version of each segment that a reference followed to its newest, named `segment/NAME`.
    """

    users: pl.DataFrame
    tables: Versions
    as_of: datetime
    digest: str
    timeless: bool
    segments: Versions


class Segments:
    """Evaluates conditions over the audience tables.

    Args:
        tables: The audience tables.
        catalogue: Where segments are saved.
        zone: The zone of calendar days where a segment names none.
        meters: Counts evaluations.
        columns: Keeps columns of the tables for the next evaluation; null: each reads its own.
    """

    def __init__(
        self,
        tables: Tables,
        catalogue: Catalogue,
        zone: str,
        meters: Meters | None = None,
        columns: KeptColumns | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self.tables = tables
        self.catalogue = catalogue
        self.zone = zone
        self._columns = columns or KeptColumns(tables, 0)

    def versions(self) -> Versions:
        """Give the newest version of each table.

        Raises:
            StoreUnavailable: The table store cannot be reached.
        """
        return {str(name): version for name, version in self.tables.versions().items()}

    def snapshot(self, versions: Versions) -> Snapshot:
        """Open one version of each table."""
        return Snapshot(
            users=self.tables.scan("users", versions["users"]),
            devices=self.tables.scan("devices", versions["devices"]),
            events=self.tables.scan("events", versions["events"]),
        )

    def references(
        self,
        versions: Versions | None = None,
        *,
        zone: str | None = None,
        saving: Mapping[str, SegmentDocument] | None = None,
        files: Mapping[FileRef, pl.DataFrame] | None = None,
    ) -> References:
        """Answer references at the given table versions; `zone` is the condition's own, null for the default."""
        return References(
            self.catalogue,
            self.tables,
            zone or self.zone,
            self.zone,
            versions=versions,
            saving=saving,
            files=files,
        )

    def evaluate(
        self,
        condition: Condition,
        as_of: datetime,
        *,
        zone: str | None = None,
        versions: Versions | None = None,
        references: References | None = None,
    ) -> Evaluation:
        """Work out who is in a segment. Blocking: call it in a thread.

        Args:
            condition: The segment's condition.
            as_of: The instant of the evaluation, UTC.
            zone: The zone of its calendar days; null for the default.
            versions: Table versions to read; null for the newest. With the versions of segments among them, as a
                decision records both, the evaluation repeats that decision's.
            references: What references mean; null for what is saved now.

        Returns:
            The users, and from what they were worked out.

        Raises:
            DefinitionError: With all that it refers to the condition is too deep or too large, or in a circle.
            NotFoundError: A reference leads nowhere, or a version was vacuumed.
            StoreUnavailable: Tables or catalogue cannot be reached. Temporal retries.
        """
        read = versions or self.versions()
        meant = references or self.references(read, zone=zone)
        digest = meant.digest(condition)
        with timed(self.meters.evaluations):
            snapshot = self._kept_snapshot(read, readings_of(condition, meant, as_of))
            lazy = select_users(condition, snapshot, as_of=as_of, zone=zone or self.zone, resolve=meant)
            users = self.tables.collect(lazy.select("user_id").sort("user_id"), engine="streaming")
        self.meters.column_bytes.set(self._columns.size_bytes)
        tables = {name: version for name, version in read.items() if not name.startswith(PIN)}
        return Evaluation(users, tables, as_of, digest, is_timeless(condition, meant), meant.pinned)

    def _kept_snapshot(self, versions: Versions, readings: Mapping[TableName, Reading]) -> Snapshot:
        """Open one version of each table, for what is read of it; the others are empty."""

        def opened(name: TableName) -> pl.LazyFrame:
            if name not in readings:
                return self.tables.scan(name, -1)
            return self._columns.frame(name, versions[name], readings[name])

        return Snapshot(users=opened("users"), devices=opened("devices"), events=opened("events"))


@lru_cache(maxsize=1024)
def condition_key(condition: Condition, zone: str) -> str:
    """Name a condition as it is written, references unresolved. Each split asks: so it is written out once."""
    return zone + json.dumps(condition.model_dump(mode="json", by_alias=True, exclude_unset=True), sort_keys=True)
