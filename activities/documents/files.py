"""Files of ids that a document refers to: read where the document stands, each named as a segment of its own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from activities.records.catalogue import ImportedSegment
from activities.segments.imported import Membership, read_members
from activities.stores import Stores
from activities.tables.identifiers import IdentifierReport
from workflows.conditions import FileRef, render_path
from workflows.errors import Fault, ImportRefused, NotFoundError

NAME_LENGTH = 80
HASH_LENGTH = 8

Place: TypeAlias = tuple[str | int, ...]
"""Where in a document: keys and indexes."""


@dataclass
class Listed:
    """What the files of one document amount to.

    Attributes:
        found: Those that were read and matched.
        faults: Why one cannot be imported; each with its place in the document.
        warnings: What was assumed, and that most rows name nobody.
    """

    found: dict[FileRef, Membership] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)


def read_files(
    stores: Stores,
    document: str,
    folder: Path | None,
    refs: Sequence[tuple[Place, FileRef]],
    *,
    saving: Collection[str],
    rejects_dir: Path | None,
) -> Listed:
    """Read the files of one document, matching their ids with the tables.

    Args:
        stores: Tables and catalogue.
        document: The document's name.
        folder: Where it stands; null for one that was sent as data, which can have no files.
        refs: Its references, each with its place.
        saving: Names of the segments that are saved together with it.
        rejects_dir: Folder for rejected rows; null writes none.

    Returns:
        Members, faults and warnings.

    Raises:
        StoreUnavailable: Tables or catalogue cannot be reached.
    """
    listed, names = Listed(), segment_names(document, dict.fromkeys(ref for _, ref in refs))
    for at, ref in refs:
        if ref in listed.found:
            continue
        path = render_path((*at, "file"))
        fault = _out_of_reach(folder, ref, path) or _taken(stores, names[ref], ref, saving, path)
        if fault is not None or folder is None:
            listed.faults += filter(None, [fault])
            continue
        try:
            found = read_members(
                stores.tables,
                names[ref],
                (folder / ref.file).resolve(),
                column=ref.column,
                identifier=ref.identifier,
                rejects_dir=rejects_dir,
            )
        except ImportRefused as error:
            where = render_path((*at, "column")) if error.code == "unknown-column" else path
            listed.faults.append(Fault(code=error.code, path=where, message=error.message, hint=error.hint))
            continue
        listed.found[ref] = found
        listed.warnings += _warnings(found.report, ref, path)
    return listed


def segment_names(document: str, refs: Iterable[FileRef]) -> dict[FileRef, str]:
    """Name the segments that a document's files are imported as: the document's name and the file's.

    Args:
        document: The document's name.
        refs: Its references, each once.

    Returns:
        A name for each, the same each time: with the column where one file is taken twice, and with a part of a hash
        where that does not tell them apart either.
    """
    plain = {ref: _named(document, Path(ref.file).stem) for ref in refs}
    named = {ref: _named(document, Path(ref.file).stem, ref.column or ref.identifier) for ref in plain}
    times, again = Counter(plain.values()), Counter(named.values())
    names: dict[FileRef, str] = {}
    for ref, short in plain.items():
        name = short if times[short] == 1 else named[ref]
        if times[short] > 1 and (again[name] > 1 or name in times):
            said = "\n".join((ref.file, ref.column or "", ref.identifier))
            told = hashlib.sha256(said.encode()).hexdigest()[:HASH_LENGTH]
            name = f"{name[: NAME_LENGTH - HASH_LENGTH - 1].rstrip('-')}-{told}"
        names[ref] = name
    return names


def _named(document: str, *parts: str) -> str:
    return "-".join((document, *map(_slug, parts)))[:NAME_LENGTH].rstrip("-")


def _slug(part: str) -> str:
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in part.lower()).strip("-") or "file"


def _out_of_reach(folder: Path | None, ref: FileRef, path: str) -> Fault | None:
    if folder is None:
        return Fault(
            code="file-out-of-reach",
            path=path,
            message=f"the file {ref.file!r} cannot be read from here: a definition that is sent as data has no folder",
            hint="save the document from where the file is, or import it with `journeys segment import NAME FILE` "
            "and write {segment: NAME}",
        )
    if not (folder.resolve() / ref.file).resolve().is_relative_to(folder.resolve()):
        return Fault(
            code="file-outside-folder",
            path=path,
            message=f"{ref.file!r} leads out of the document's folder",
            hint="put the file beside the document, or import it with `journeys segment import NAME FILE`",
        )
    return None


def _taken(stores: Stores, name: str, ref: FileRef, saving: Collection[str], path: str) -> Fault | None:
    """Refuse a file whose list would replace a condition or a list of another file: who refers to it means those."""
    try:
        holds = None if name in saving else stores.catalogue.find("segment", name).document
    except NotFoundError:
        return None
    what = "a condition"
    if isinstance(holds, ImportedSegment):
        if _slug(Path(holds.source).stem) == _slug(Path(ref.file).stem):
            return None
        what = f"the list of {holds.source!r}"
    return Fault(
        code="name-taken",
        path=path,
        message=f"the file {ref.file!r} would be imported as the segment {name!r}, and that is {what}",
        hint="rename the file or that segment; or import it with `journeys segment import NAME FILE` and write "
        "{segment: NAME}",
    )


def _warnings(report: IdentifierReport, ref: FileRef, path: str) -> list[Fault]:
    """Tell what was assumed of a file, and that most of it is left out: probably another file or column is meant."""
    said = [Fault(code="file-assumed", path=path, message=warning) for warning in report.warnings]
    left_out = {"unknown": report.unknown, "empty": report.empty, "unreadable": report.rejected}
    if sum(left_out.values()) > report.rows / 2:
        counts = ", ".join(f"{number:,} {what}" for what, number in left_out.items() if number)
        said.append(
            Fault(
                code="rows-left-out",
                path=path,
                message=f"of the {report.rows:,} rows of {ref.file!r} most are left out: {counts}",
                hint="saving writes them to a file, each with its line and the reason",
            )
        )
    return said
