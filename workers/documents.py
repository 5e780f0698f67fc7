"""The verbs on documents: check, save, plan; and what a name or a file means."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from activities.documents.checking import Checked, check_documents
from activities.documents.raw import RawDocument
from activities.documents.reading import read_documents
from activities.documents.saving import SaveReport, save_documents
from activities.planning.plan import Plan
from activities.planning.planner import Meant, plan_passages
from activities.records.catalogue import Saved
from activities.stores import Stores
from workers.settings import Settings
from workflows.documents import JourneyDocument
from workflows.errors import DefinitionError, Fault, RefusedError


class CheckReport(BaseModel):
    """What checking found."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    files: list[str]
    errors: list[Fault]
    warnings: list[Fault]


def is_file(name: str) -> bool:
    """Tell whether a person means a file: the name ends in .yaml, .yml, .json, or holds a `/`."""
    return name.endswith((".yaml", ".yml", ".json")) or "/" in name


def name_and_version(name: str) -> tuple[str, int]:
    """Read `NAME` or `NAME@3`.

    Raises:
        RefusedError: What follows the `@` is no version.
    """
    base, at, version = name.partition("@")
    if at and not (version.isascii() and version.isdigit() and int(version) > 0):
        raise RefusedError(f"{name!r}: a version is written NAME@3, with a number from 1", code="usage")
    return base, int(version) if at else 0


class Documents:
    """The documents of one home, and the verbs on them.

    Args:
        settings: Where everything is.
        stores: The stores, open.
    """

    def __init__(self, settings: Settings, stores: Stores) -> None:
        self.settings = settings
        self.stores = stores

    def check(self, paths: Iterable[str | Path]) -> CheckReport:
        """Check documents together; saves nothing.

        Args:
            paths: Files, or folders of them.

        Returns:
            Every fault and warning.

        Raises:
            StoreUnavailable: A store cannot be reached.
        """
        raws, faults = self._read(paths)
        checked = check_documents(self.stores, raws, datetime.now(UTC))
        files = sorted({raw.file for raw in raws} | {fault.file for fault in faults if fault.file})
        errors = faults + checked.faults
        return CheckReport(ok=not errors, files=files, errors=errors, warnings=checked.warnings)

    def save(self, paths: Iterable[str | Path]) -> SaveReport:
        """Check documents and save them as new versions, all or none.

        Args:
            paths: Files, or folders of them.

        Returns:
            The saved versions.

        Raises:
            DefinitionError: With every fault; nothing was saved.
            StoreUnavailable: A store cannot be reached.
        """
        raws, faults = self._read(paths)
        if faults:
            faults += check_documents(self.stores, raws, datetime.now(UTC)).faults
            raise DefinitionError(faults)
        return save_documents(self.stores, raws, datetime.now(UTC), rejects_dir=self.settings.rejects)

    def plan(self, name: str, *, now: datetime | None = None) -> Plan:
        """Work out exactly what starting a journey now would do. Sends nothing, writes nothing.

        Args:
            name: A saved journey as `NAME` or `NAME@3`, or a file that holds one.
            now: The instant to plan for; null for now.

        Returns:
            The plan.

        Raises:
            DefinitionError: The file has faults.
            NotFoundError: There is no such journey.
            StoreUnavailable: A store cannot be reached.
        """
        found = self.meant(name, now or datetime.now(UTC))
        from workers.providers import delivery_rules  # the libraries of all providers: most commands need none

        return plan_passages(self.stores, found, delivery_rules(self.settings)).plan

    def meant(self, name: str, now: datetime) -> Meant:
        """Find what a name or a file means, on the newest snapshot; saves nothing.

        Args:
            name: A saved journey as `NAME` or `NAME@3`, or a file that holds one.
            now: The instant to plan for, UTC.

        Returns:
            The journey, and what its references mean.

        Raises:
            DefinitionError: The file has faults.
            NotFoundError: There is no such journey.
            StoreUnavailable: A store cannot be reached.
        """
        segments = self.stores.segments
        if not is_file(name):
            document, versions = self.document(self.find(name)), segments.versions()
            zone = document.timezone or segments.zone
            return Meant(document, now, versions, segments.references(versions, zone=zone))
        checked = check_documents(self.stores, read_documents(name), now)
        checked.require()
        position, document = self.only_journey(name, checked)
        versions = segments.versions()
        zone, files = document.timezone or segments.zone, checked.members(position)
        references = segments.references(versions, zone=zone, saving=checked.segments, files=files)
        return Meant(document, now, versions, references)

    def read(self, name: str) -> tuple[JourneyDocument, int]:
        """Read a journey; saves nothing.

        Args:
            name: A saved journey as `NAME` or `NAME@3`, or a file that holds one.

        Returns:
            The document, and its version; 0 for a file.

        Raises:
            DefinitionError: The file has faults.
            NotFoundError: There is no such journey.
            StoreUnavailable: A store cannot be reached.
        """
        if not is_file(name):
            found = self.find(name)
            return self.document(found), found.version
        return self.meant(name, datetime.now(UTC)).document, 0

    def prepare(self, name: str) -> Saved:
        """Find the journey that a start means; a file is checked and saved.

        Args:
            name: A saved journey as `NAME` or `NAME@3`, or a file.

        Returns:
            The saved version.

        Raises:
            DefinitionError: The file has faults.
            NotFoundError: There is no such journey.
        """
        return self._save_one(name) if is_file(name) else self.find(name)

    def find(self, name: str) -> Saved:
        """Find the saved journey that `NAME` or `NAME@3` means.

        Raises:
            NotFoundError: There is none.
        """
        base, version = name_and_version(name)
        return self.stores.catalogue.find("journey", base, version)

    def document(self, found: Saved) -> JourneyDocument:
        """Give the content of a saved journey."""
        if not isinstance(found.document, JourneyDocument):
            raise RefusedError(f"{found.name!r} is no journey")
        return found.document

    def only_journey(self, path: str, checked: Checked) -> tuple[int, JourneyDocument]:
        """Give the one journey of a file, with its place among the documents.

        Raises:
            RefusedError: It holds none, or several.
        """
        found = [
            (position, document)
            for position, (_, document) in enumerate(checked.documents)
            if isinstance(document, JourneyDocument)
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(document.journey for _, document in found) or "none"
        raise RefusedError(
            f"{path!r} holds {len(found)} journeys ({names}); this command takes one",
            code="one-journey",
            hint="save the file with `journeys save`, then give the journey's name",
        )

    def _read(self, paths: Iterable[str | Path]) -> tuple[list[RawDocument], list[Fault]]:
        """Read every document, and collect what cannot be read."""
        raws: list[RawDocument] = []
        faults: list[Fault] = []
        for path in paths:
            try:
                raws += read_documents(path)
            except DefinitionError as error:
                faults += error.faults
        return raws, faults

    def _save_one(self, path: str) -> Saved:
        now = datetime.now(UTC)
        raws = read_documents(path)
        checked = check_documents(self.stores, raws, now)
        checked.require()
        _, document = self.only_journey(path, checked)
        save_documents(self.stores, raws, now, rejects_dir=self.settings.rejects)
        return self.stores.catalogue.find("journey", document.journey)
