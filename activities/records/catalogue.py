"""The catalogue: every saved version of every journey and segment, immutable and known by its digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, Connection, Index, Integer, String, Table, Text, func, select

from activities.records.database import METADATA, Database
from workflows.documents import (
    AudienceEntry,
    JourneyDocument,
    SegmentDocument,
    WaitForTrigger,
    definition_of,
    digest_of,
)
from workflows.errors import NotFoundError
from workflows.graph import Route, routes_of

PARSED_LIMIT = 256
"""Versions of journeys that a process keeps parsed: the least recently used leaves first."""

DocumentKind: TypeAlias = Literal["journey", "segment"]

documents = Table(
    "documents",
    METADATA,
    Column("kind", String(16), primary_key=True),
    Column("name", String(80), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(16), nullable=False),
    Column("definition", Text, nullable=False),
    Column("saved_at", String(32), nullable=False),
    Index("documents_by_digest", "digest"),
)


class ImportedSegment(BaseModel):
    """A segment that is a list of ids: what was imported, and where its members are."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    segment: str
    """The segment's name."""
    title: str = ""
    import_id: str
    """Names the rows of the table `members`."""
    source: str
    """The imported file's name, without its folder."""
    identifier: Literal["user_id", "device_id"]
    """What the list's ids name."""
    users: int
    """Users whom the list holds."""


@dataclass(frozen=True)
class Saved:
    """One saved version.

    Attributes:
        kind: `journey` or `segment`.
        name: Its name.
        version: From 1.
        digest: Names the content.
        document: The parsed content.
        saved_at: When, UTC.
        changed: Whether saving made this version, or found it there.
    """

    kind: DocumentKind
    name: str
    version: int
    digest: str
    document: JourneyDocument | SegmentDocument | ImportedSegment
    saved_at: datetime
    changed: bool = False


@dataclass(frozen=True)
class SavedJourney:
    """A journey's version as activities use it: parsed once a process.

    Attributes:
        digest: Names the content.
        document: The parsed content.
        routes: Element id to route.
    """

    digest: str
    document: JourneyDocument
    routes: dict[str, Route]

    @cached_property
    def has_events(self) -> bool:
        """Whether its users may know values of events: of the one they entered by, or waited for."""
        by_event = any(not isinstance(entry, AudienceEntry) for entry in self.document.entries.values())
        return by_event or any(isinstance(element, WaitForTrigger) for element in self.document.elements.values())


class Catalogue:
    """Saved versions in SQL.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parsed = lru_cache(maxsize=PARSED_LIMIT)(self._parse)

    def save(
        self,
        imported: list[ImportedSegment],
        finish: Callable[[list[Saved]], list[JourneyDocument | SegmentDocument]],
        now: datetime,
    ) -> list[Saved]:
        """Save documents and the imported segments they refer to, all or none.

        Content that is a name's newest version already makes no new one.

        Args:
            imported: Imported segments, whose members are stored.
            finish: Gives the checked documents, told the versions that the imported segments have.
            now: The instant to record, UTC.

        Returns:
            One saved version for each: the imported segments', then the documents', in order.

        Raises:
            StoreUnavailable: The catalogue cannot be written.
        """

        def work(connection: Connection) -> list[Saved]:
            first = [self._save_one(connection, segment, now) for segment in imported]
            return first + [self._save_one(connection, document, now) for document in finish(first)]

        return self._database.write_now(work)

    def _save_one(
        self, connection: Connection, document: JourneyDocument | SegmentDocument | ImportedSegment, now: datetime
    ) -> Saved:
        kind: DocumentKind = "journey" if isinstance(document, JourneyDocument) else "segment"
        name = document.journey if isinstance(document, JourneyDocument) else document.segment
        definition = content_of(document)
        digest = digest_of(definition)
        newest = connection.execute(
            select(documents)
            .where(documents.c.kind == kind, documents.c.name == name)
            .order_by(documents.c.version.desc())
            .limit(1)
        ).first()
        if newest is not None and newest.digest == digest:
            return _saved(newest)
        version = 1 if newest is None else newest.version + 1
        connection.execute(
            documents.insert().values(
                kind=kind,
                name=name,
                version=version,
                digest=digest,
                definition=json.dumps(definition, ensure_ascii=False),
                saved_at=now.astimezone(UTC).isoformat(),
            )
        )
        return Saved(kind, name, version, digest, document, now, changed=True)

    def find(self, kind: DocumentKind, name: str, version: int = 0) -> Saved:
        """Find one version.

        Args:
            kind: `journey` or `segment`.
            name: Its name.
            version: Which; 0 for the newest.

        Returns:
            The version.

        Raises:
            NotFoundError: There is none, with the names that exist.
            StoreUnavailable: The catalogue cannot be read.
        """
        query = select(documents).where(documents.c.kind == kind, documents.c.name == name)
        query = query.where(documents.c.version == version) if version else query.order_by(documents.c.version.desc())
        row = self._database.read(lambda connection: connection.execute(query.limit(1)).first())
        if row is None:
            raise self._missing(kind, name, version)
        return _saved(row)

    def versions(self, kind: DocumentKind, name: str) -> list[Saved]:
        """List all versions of one document, newest first; empty when there is none."""
        query = select(documents).where(documents.c.kind == kind, documents.c.name == name)
        rows = self._database.read(
            lambda connection: connection.execute(query.order_by(documents.c.version.desc())).all()
        )
        return [_saved(row) for row in rows]

    def digests(self, journey: str) -> dict[int, str]:
        """Give the content's name of each version of a journey."""
        query = select(documents.c.version, documents.c.digest)
        query = query.where(documents.c.kind == "journey", documents.c.name == journey)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return {row.version: row.digest for row in rows}

    def newest(self, kind: DocumentKind) -> list[Saved]:
        """List the newest version of every document of a kind, by name."""
        last = (
            select(documents.c.name, func.max(documents.c.version).label("version"))
            .where(documents.c.kind == kind)
            .group_by(documents.c.name)
            .subquery()
        )
        query = (
            select(documents)
            .join(last, (documents.c.name == last.c.name) & (documents.c.version == last.c.version))
            .where(documents.c.kind == kind)
        )
        found = [_saved(row) for row in self._database.read(lambda connection: connection.execute(query).all())]
        return sorted(found, key=lambda saved: saved.name)  # here, since each database has an order of its own

    def names(self, kind: DocumentKind) -> list[str]:
        """List the names of all documents of a kind, sorted."""
        query = select(documents.c.name).where(documents.c.kind == kind).distinct()
        return sorted(self._database.read(lambda connection: connection.execute(query).scalars().all()))

    def journey(self, digest: str) -> SavedJourney:
        """Give a journey's version by its content, parsed once a process.

        Args:
            digest: Names the content.

        Returns:
            The version.

        Raises:
            NotFoundError: No saved journey has this digest.
            StoreUnavailable: The catalogue cannot be read.
        """
        return self._parsed(digest)

    def _parse(self, digest: str) -> SavedJourney:
        query = select(documents.c.definition).where(documents.c.digest == digest, documents.c.kind == "journey")
        row = self._database.read(lambda connection: connection.execute(query.limit(1)).first())
        if row is None:
            raise NotFoundError(
                f"no saved journey has the digest {digest!r}: the catalogue of this worker is not the one that "
                "the journey was started with; see the setting JOURNEYS_DATABASE"
            )
        document = JourneyDocument.model_validate_json(row.definition)
        return SavedJourney(digest, document, routes_of(document))

    def _missing(self, kind: DocumentKind, name: str, version: int) -> NotFoundError:
        names = self.names(kind)
        asked = f"{name}@{version}" if version else name
        if name in names:
            newest = self.versions(kind, name)[0].version
            return NotFoundError(f"there is no {kind} {asked!r}: the versions of {name!r} go from 1 to {newest}")
        exist = f"there are: {', '.join(names[:20])}" if names else f"no {kind} is saved yet"
        return NotFoundError(
            f"there is no {kind} {asked!r}; {exist}",
            hint="save one with: journeys save FILE" if kind == "journey" else "see: journeys segment list",
        )


def content_of(document: JourneyDocument | SegmentDocument | ImportedSegment) -> dict[str, Any]:
    """Give a document as the JSON data that its digest names."""
    if isinstance(document, ImportedSegment):
        return document.model_dump(mode="json")
    return definition_of(document)


def _saved(row: Any) -> Saved:
    """Read one row of the catalogue."""
    definition = json.loads(row.definition)
    document: JourneyDocument | SegmentDocument | ImportedSegment
    if row.kind == "journey":
        document = JourneyDocument.model_validate(definition)
    elif "import_id" in definition:
        document = ImportedSegment.model_validate(definition)
    else:
        document = SegmentDocument.model_validate(definition)
    return Saved(row.kind, row.name, row.version, row.digest, document, datetime.fromisoformat(row.saved_at))
