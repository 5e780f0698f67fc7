"""Saving documents: files become imported segments, and every version is written down or none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from activities.documents.checking import Checked, check_documents, conditions_of
from activities.documents.raw import RawDocument
from activities.documents.reading import raw_document
from activities.records.catalogue import ImportedSegment, Saved
from activities.segments.imported import store_members
from activities.stores import Stores
from activities.tables.identifiers import ListNumbers
from workflows.conditions import FileRef, walk
from workflows.documents import JourneyDocument, SegmentDocument, definition_of
from workflows.errors import Fault


class SavedVersion(BaseModel):
    """One saved version, as commands report it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    kind: str
    """`journey` or `segment`."""
    name: str
    version: int
    digest: str
    changed: bool
    """False when this content was the newest version already."""


class ImportedList(ListNumbers):
    """What a file amounts to that a document refers to."""

    segment: str
    """The segment that it was imported as."""
    version: int
    file: str
    """Its name, as the document has it."""


class SaveReport(BaseModel):
    """What saving did."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    saved: list[SavedVersion]
    imported: list[ImportedList] = []
    """One for each file that the documents refer to, in their order."""
    warnings: list[Fault] = []


def save_documents(
    stores: Stores, raws: Sequence[RawDocument], now: datetime, *, rejects_dir: Path | None = None
) -> SaveReport:
    """Check documents and save them, all or none.

    Args:
        stores: Tables and catalogue.
        raws: The documents as they were read.
        now: The instant to record, UTC.
        rejects_dir: Folder for rejected rows of imported files; null writes none.

    Returns:
        A version for each imported segment and each document.

    Raises:
        DefinitionError: With every fault; nothing was saved.
        StoreUnavailable: A store cannot be reached.
    """
    checked = check_documents(stores, raws, now, rejects_dir=rejects_dir)
    checked.require()
    saved = save_checked(stores, checked, now)
    return SaveReport(
        saved=[
            SavedVersion(kind=one.kind, name=one.name, version=one.version, digest=one.digest, changed=one.changed)
            for one in saved
        ],
        # Files are saved first, in their order: each has its version.
        imported=[
            ImportedList(
                segment=version.name,
                version=version.version,
                file=ref.file,
                **membership.report.model_dump(include={*ListNumbers.model_fields}),
            )
            for ((_, ref), membership), version in zip(checked.files.items(), saved, strict=False)
        ],
        warnings=checked.warnings,
    )


def save_definition(stores: Stores, definition: dict[str, Any], now: datetime) -> Saved:
    """Save one journey that was sent as data.

    Args:
        stores: Tables and catalogue.
        definition: A journey document.
        now: The instant to record, UTC.

    Returns:
        The saved version.

    Raises:
        DefinitionError: With every fault; a `file` is one.
        StoreUnavailable: A store cannot be reached.
    """
    checked = check_documents(stores, [raw_document(definition)], now)
    checked.require()
    return save_checked(stores, checked, now)[-1]


def save_checked(stores: Stores, checked: Checked, now: datetime) -> list[Saved]:
    """Save documents without faults: members first, which mean nothing until a version names them."""
    newest = {segment.name: segment.document for segment in stores.catalogue.newest("segment")} if checked.files else {}
    imported: list[ImportedSegment] = []
    for membership in checked.files.values():
        listed, known = membership.segment, newest.get(membership.segment.segment)
        if isinstance(known, ImportedSegment) and known.import_id == listed.import_id:
            listed = known  # these very ids, from a file of another name perhaps
        store_members(stores.tables, listed, membership.report.members)
        imported.append(listed)

    def finish(versions: list[Saved]) -> list[JourneyDocument | SegmentDocument]:
        pinned = {place: f"{one.name}@{one.version}" for place, one in zip(checked.files, versions, strict=True)}
        return [
            _pin(document, {ref: name for (place, ref), name in pinned.items() if place == position})
            for position, (_, document) in enumerate(checked.documents)
        ]

    return stores.catalogue.save(imported, finish, now)


def _pin(document: JourneyDocument | SegmentDocument, names: dict[FileRef, str]) -> JourneyDocument | SegmentDocument:
    """Put the imported segment, in its version, in the place of each file."""
    if not names:
        return document
    definition = definition_of(document)
    for at, condition in conditions_of(document):
        for path, node in walk(condition):
            if isinstance(node, FileRef):
                *to, last = (*at, *path)
                holder: Any = definition
                for key in to:
                    holder = holder[key]
                holder[last] = {"segment": names[node]}
    return type(document).model_validate(definition)
