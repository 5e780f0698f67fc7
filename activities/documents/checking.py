"""Checking documents: models, graph, references, types, templates. All faults of all documents at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from activities.documents.elements import element_faults, element_warnings
from activities.documents.files import Place, read_files
from activities.documents.raw import RawDocument
from activities.documents.remains import conditions_left, is_over_devices, parsed, without_faults
from activities.documents.triggers import trigger_faults, unknown_events
from activities.documents.wording import faults_of
from activities.segments.checking import check_condition
from activities.segments.imported import Membership
from activities.segments.segments import References
from activities.stores import Stores
from activities.tables.delta import TABLES
from activities.tables.schema import Schema
from workflows.conditions import Condition, FileRef, SegmentRef, render_path, walk
from workflows.documents import AudienceEntry, ConditionSplit, JourneyDocument, SegmentDocument, WaitForTrigger
from workflows.errors import DefinitionError, Fault, NotFoundError
from workflows.graph import graph_faults

MOST_FAULTS = 500
"""With more faults of its form, what remains of a document is not looked at: nobody reads further."""


@dataclass
class Checked:
    """Documents that were checked together.

    Attributes:
        documents: Those whose models are valid, each with the raw document it came from.
        files: Members of the files that they refer to, by (document's position, reference).
        faults: Everything that is wrong; nothing may be saved while there is any.
        warnings: What is probably not meant.
    """

    documents: list[tuple[RawDocument, JourneyDocument | SegmentDocument]] = field(default_factory=list)
    files: dict[tuple[int, FileRef], Membership] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)

    @property
    def segments(self) -> dict[str, SegmentDocument]:
        """The segments among the documents, by name."""
        return {document.segment: document for _, document in self.documents if isinstance(document, SegmentDocument)}

    def members(self, position: int) -> dict[FileRef, pl.DataFrame]:
        """Give the members of the files that one document refers to, by reference; then those of the other documents'.

        A document may refer to a segment beside it, which refers to a file.
        """
        own = {ref: found.report.members for (place, ref), found in self.files.items() if place == position}
        return {ref: found.report.members for (_, ref), found in self.files.items()} | own

    def require(self) -> None:
        """Refuse when anything is wrong.

        Raises:
            DefinitionError: With every fault.
        """
        if self.faults:
            raise DefinitionError(self.faults)


def conditions_of(document: JourneyDocument | SegmentDocument) -> Iterator[tuple[Place, Condition]]:
    """List the conditions over all users that a document holds, each with its place."""
    if isinstance(document, SegmentDocument):
        yield ("match",), document.match
        return
    for name, entry in document.entries.items():
        if isinstance(entry, AudienceEntry):
            yield ("entries", name, "audience"), entry.audience
    if document.exit_when is not None:
        yield ("exit_when",), document.exit_when
    for name, element in document.elements.items():
        if isinstance(element, ConditionSplit):
            yield ("elements", name, "match"), element.match
        if isinstance(element, WaitForTrigger):
            yield from _watched_segments(name, element)


def _files_of(document: JourneyDocument | SegmentDocument) -> list[tuple[Place, FileRef]]:
    """List the references to files that a document holds, each with its place."""
    return [
        ((*at, *path), node)
        for at, condition in conditions_of(document)
        for path, node in walk(condition)
        if isinstance(node, FileRef)
    ]


def _watched_segments(name: str, element: WaitForTrigger) -> Iterator[tuple[Place, Condition]]:
    """List the segments that a wait watches, each with its place."""
    for branch, way in element.branches.own.items():
        for word in ("in_segment", "not_in_segment"):
            if (condition := getattr(way, word)) is not None:
                yield ("elements", name, "branches", branch, word), condition


def check_documents(
    stores: Stores, raws: Sequence[RawDocument], now: datetime, *, rejects_dir: Path | None = None
) -> Checked:
    """Check documents that belong together: they may refer to each other.

    Args:
        stores: Tables and catalogue.
        raws: The documents as they were read.
        now: The instant at which segments are evaluated for the warnings, UTC.
        rejects_dir: Folder for rejected rows of imported files; null writes none.

    Returns:
        The documents with every fault and warning.

    Raises:
        StoreUnavailable: Tables or catalogue cannot be reached.
    """
    checked = Checked()
    partly: list[tuple[RawDocument, JourneyDocument | SegmentDocument | None, list[Fault]]] = []
    for raw in raws:
        model = JourneyDocument if raw.kind == "journey" else SegmentDocument
        try:
            checked.documents.append((raw, parsed(model, raw.data)))
        except ValidationError as error:
            faults = faults_of(error, raw, model)
            checked.faults += faults
            if len(faults) <= MOST_FAULTS:
                partly.append((raw, without_faults(raw, model, faults), faults))
    _repeated_names(checked)
    schema: Schema = {str(name): stores.tables.schema(name) for name in TABLES}
    # A document with faults will exist once it is mended: what refers to it has no fault of its own.
    known = {*stores.catalogue.names("segment"), *(str(raw.data["segment"]) for raw in raws if raw.kind == "segment")}
    for position, (raw, document) in enumerate(checked.documents):
        faults = _document_faults(stores, raw, document, schema, known)
        files = read_files(
            stores, raw.name, raw.folder, _files_of(document), saving=checked.segments, rejects_dir=rejects_dir
        )
        checked.files |= {(position, ref): found for ref, found in files.found.items()}
        checked.faults += [_placed(fault, raw) for fault in (*faults, *files.faults)]
        checked.warnings += [_placed(warning, raw) for warning in files.warnings]
        if isinstance(document, JourneyDocument):
            _, warnings = trigger_faults(document, schema)
            warnings += unknown_events(document, stores.tables)
            checked.warnings += [_placed(warning, raw) for warning in warnings]
    for raw, rest, told in partly:
        found = _faults_left(stores, checked, raw, rest, told, schema, known)
        checked.faults += [_placed(fault, raw) for fault in found]
    if not checked.faults:
        for raw, document in checked.documents:
            if isinstance(document, JourneyDocument):
                checked.warnings += [_placed(warning, raw) for warning in element_warnings(document, schema)]
        _try_out(stores, checked, now)
    checked.faults = _in_document_order(checked.faults, raws)
    return checked


def _in_document_order(faults: list[Fault], raws: Sequence[RawDocument]) -> list[Fault]:
    """Sort faults by their places, which were found one kind after the other."""
    files = {raw.file: place for place, raw in enumerate(raws)}
    return sorted(faults, key=lambda fault: (files.get(fault.file or "", 0), fault.line or 0, fault.column or 0))


def _repeated_names(checked: Checked) -> None:
    names = Counter((raw.kind, raw.data[raw.kind]) for raw, _ in checked.documents)
    for raw, _ in checked.documents:
        name = raw.data[raw.kind]
        if names[raw.kind, name] > 1:
            names[raw.kind, name] = 1  # told once
            fault = Fault(
                code="repeated-name",
                path=raw.kind,
                message=f"two documents are called {name!r}",
                hint="a name names one document: rename one of them",
            )
            checked.faults.append(_placed(fault, raw))


def _document_faults(
    stores: Stores,
    raw: RawDocument,
    document: JourneyDocument | SegmentDocument,
    schema: Schema,
    known: set[str],
) -> list[Fault]:
    faults: list[Fault] = []
    for at, condition in conditions_of(document):
        faults += check_condition(condition, schema, at=at, segments=known)
        for path, node in walk(condition):
            if isinstance(node, SegmentRef) and node.version is not None:
                faults += _pinned_faults(stores, node, (*at, *path))
    if isinstance(document, JourneyDocument):
        faults += graph_faults(document)
        faults += trigger_faults(document, schema)[0]
        faults += element_faults(document, schema, known)
    return faults


def _faults_left(
    stores: Stores,
    checked: Checked,
    raw: RawDocument,
    rest: JourneyDocument | SegmentDocument | None,
    told: list[Fault],
    schema: Schema,
    known: set[str],
) -> list[Fault]:
    """Check what remains of a document without the faults of its form, which were told."""
    if rest is None:
        return _condition_faults(raw, told, schema, known)
    found = _document_faults(stores, raw, rest, schema, known)
    files = read_files(stores, raw.name, raw.folder, _files_of(rest), saving=checked.segments, rejects_dir=None)
    return found + files.faults


def _condition_faults(raw: RawDocument, told: list[Fault], schema: Schema, known: set[str]) -> list[Fault]:
    """Check the conditions of a document whose graph cannot be read."""
    return [
        fault
        for at, condition in conditions_left(raw, told)
        for fault in check_condition(
            condition,
            schema,
            at=at,
            segments=known,
            one_user=is_over_devices(at),
            subject="device" if is_over_devices(at) else "user",
        )
    ]


def _pinned_faults(stores: Stores, ref: SegmentRef, path: Place) -> list[Fault]:
    try:
        stores.catalogue.find("segment", ref.name, ref.version or 0)
    except NotFoundError as error:
        if ref.name in stores.catalogue.names("segment"):
            place = render_path((*path, "segment"))
            return [Fault(code="unknown-version", path=place, message=error.message, hint=error.hint)]
    return []


def _try_out(stores: Stores, checked: Checked, now: datetime) -> None:
    """Evaluate every condition once: circles and nesting too deep are faults, segments of nobody are warnings."""
    versions, faulty = stores.segments.versions(), set[str]()
    for position, (raw, document) in enumerate(checked.documents):
        zone = document.timezone or stores.segments.zone
        references: References = stores.segments.references(
            versions, zone=zone, saving=checked.segments, files=checked.members(position)
        )
        for at, condition in conditions_of(document):
            try:
                found = stores.segments.evaluate(condition, now, zone=zone, versions=versions, references=references)
            except (DefinitionError, NotFoundError) as error:
                # Told once: whatever refers to a segment that cannot be evaluated cannot be either.
                if not faulty & {node.name for _, node in walk(condition) if isinstance(node, SegmentRef)}:
                    placed = (fault.model_copy(update={"path": render_path(at)}) for fault in error.faults)
                    checked.faults += [_placed(fault, raw) for fault in placed]
                if isinstance(document, SegmentDocument):
                    faulty.add(document.segment)
                continue
            # Whom a schedule, a wait or an exit criterion means is often still to come.
            if found.users.is_empty() and _meant_now(document, at):
                warning = Fault(
                    code="segment-of-nobody",
                    path=render_path(at),
                    message="no user is in this segment now",
                    hint="see each part of it for one user with: journeys segment explain NAME|FILE USER",
                )
                checked.warnings.append(_placed(warning, raw))
    if not checked.faults and checked.segments:
        checked.faults += _dependents(stores, checked)


def _dependents(stores: Stores, checked: Checked) -> list[Fault]:
    """Find what is saved, refers to these segments, and could not be evaluated with them any more."""
    before, after = stores.segments.references(), stores.segments.references(saving=checked.segments)
    raw = next(raw for raw, document in checked.documents if isinstance(document, SegmentDocument))
    beside = {(raw.kind, raw.name) for raw, _ in checked.documents}
    faults = []
    for saved in (*stores.catalogue.newest("segment"), *stores.catalogue.newest("journey")):
        if (saved.kind, saved.name) in beside or not isinstance(saved.document, JourneyDocument | SegmentDocument):
            continue
        for _, condition in conditions_of(saved.document):
            error = _unfit(after, condition)
            if error is not None and _unfit(before, condition) is None:
                (fault,) = error.faults
                message = f"with it the saved {saved.kind} {saved.name!r} could not be evaluated: {fault.message}"
                told = Fault(code=fault.code, path="segment", message=message, hint=fault.hint)
                faults.append(_placed(told, raw))
                break
    return faults


def _unfit(references: References, condition: Condition) -> DefinitionError | None:
    """Tell why a condition cannot be evaluated, if its references lead anywhere at all."""
    try:
        references.require_fit(condition)
    except DefinitionError as error:
        return error
    except NotFoundError:
        return None
    return None


def _meant_now(document: JourneyDocument | SegmentDocument, at: Place) -> bool:
    """Tell whether a condition is about the users of this moment."""
    entry = document.entries[str(at[1])] if isinstance(document, JourneyDocument) and at[0] == "entries" else None
    return at[-1] in ("match", "audience") and not (isinstance(entry, AudienceEntry) and entry.schedule is not None)


def _placed(fault: Fault, raw: RawDocument) -> Fault:
    """Say where in its file a fault is."""
    line, column = raw.locate_text(fault.path)
    return fault.model_copy(update={"file": raw.file, "line": line, "column": column})
