"""The four verbs, for Python callers and the command line alike: check, save, plan, start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.documents.checking import Checked, check_documents
from activities.documents.raw import RawDocument
from activities.documents.reading import read_documents
from activities.documents.saving import SaveReport, save_documents
from activities.events.taking import Events
from activities.life import places_of, stats_of
from activities.planning.plan import Plan
from activities.planning.planner import Meant, plan_passages
from activities.records.catalogue import Saved
from activities.stores import Stores
from workers.connecting import connect, create_search_attributes
from workers.opening import open_stores
from workers.settings import Settings, load_settings
from workflows.contracts import (
    JOURNEY_ID,
    JOURNEY_VERSION,
    JOURNEYS_QUEUE,
    EventGiven,
    JourneyInput,
    JourneyStatus,
    LifeReport,
    Stats,
    journey_workflow_id,
)
from workflows.documents import JourneyDocument
from workflows.errors import DefinitionError, Fault, JourneyError, RefusedError
from workflows.events import EventTaken

WORKER_SECONDS = 5.0
"""How long a start waits for a worker to answer before it says that none does."""
ATTRIBUTE_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between tries while the server's parts learn of new search attributes."""
UNANSWERED = (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.FAILED_PRECONDITION, RPCStatusCode.CANCELLED)
"""What the server answers to a query that no worker takes."""


class NoWorker(JourneyError):
    """No worker answers: what was started waits."""

    code = "no-worker"


class JourneyFailed(JourneyError):
    """The journey's workflow failed.

    Args:
        faults: What it said.
        refused: Whether trying again can never help.
    """

    code = "journey-failed"

    def __init__(self, faults: list[Fault], *, refused: bool) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self._faults = faults
        self.refused = refused

    @property
    def faults(self) -> list[Fault]:
        """What the workflow said."""
        return list(self._faults)


class CheckReport(BaseModel):
    """What checking found."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    files: list[str]
    errors: list[Fault]
    warnings: list[Fault]


class StartReport(BaseModel):
    """What starting did."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    journey: str
    version: int
    workflow_id: str
    audience: int | None = None
    """Users in the audience of this start; null when it was running already and is still evaluating."""
    already_running: bool = False
    """True when this version ran already: its audience was not read again."""


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


class Engine:
    """The stores of one home, and the verbs on them.

    Args:
        settings: Where everything is.
        stores: The stores, open.
    """

    def __init__(self, settings: Settings, stores: Stores) -> None:
        self.settings = settings
        self.stores = stores
        self._events = Events(stores)

    @classmethod
    @contextmanager
    def open(cls, settings: Settings | None = None) -> Iterator[Engine]:
        """Open the stores that the settings name, and close them at the end.

        Args:
            settings: Null reads them from the environment.

        Yields:
            The engine.

        Raises:
            StoreUnavailable: A store cannot be reached.
        """
        found = settings or load_settings()
        with open_stores(found) as stores:
            yield cls(found, stores)

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

    def inside(self, name: str) -> LifeReport:
        """Tell who is inside a journey, by element. Blocking; changes nothing.

        Args:
            name: A saved journey as `NAME` or `NAME@3`, or a file, which is checked and not saved.

        Returns:
            Where it stands.

        Raises:
            NotFoundError: There is no such journey.
        """
        base = name_and_version(name)[0]
        if is_file(name):
            checked = check_documents(self.stores, read_documents(name), datetime.now(UTC))
            checked.require()
            base = self.only_journey(name, checked)[1].journey
        found = stats_of(self.stores, base)
        return LifeReport(
            journey=base,
            version=found.version,
            state=found.state,
            inside=self.stores.ledger.inside(base),
            elements=places_of(self.stores, base),
        )

    async def start(self, name: str, *, client: Client | None = None) -> StartReport:
        """Start a journey, and return when its audience is evaluated.

        Args:
            name: A saved journey as `NAME` or `NAME@3`, or a file, which is checked and saved first.
            client: Reaches the server; null connects as the settings say.

        Returns:
            What was started, or was running already.

        Raises:
            DefinitionError: The file has faults.
            NotFoundError: There is no such journey.
            RefusedError: Another version of it is running.
            NoServer: No Temporal server answers.
            NoWorker: No worker answers; the journey is started and waits for one.
            JourneyFailed: The workflow failed at once, with what it said.
        """
        found = await asyncio.to_thread(self.prepare, name)
        reached = client or await connect(self.settings)
        workflow_id = journey_workflow_id(found.name)
        document = self.document(found)
        try:
            handle = await _launched(reached, lambda: self._launch(reached, found, document))
        except WorkflowAlreadyStartedError:
            handle = reached.get_workflow_handle(workflow_id, result_type=Stats)
            await self._require_version(handle, found)
            status = await _status(handle)
            return StartReport(
                journey=found.name,
                version=found.version,
                workflow_id=workflow_id,
                audience=status.audience,
                already_running=True,
            )
        audience = await _evaluated(handle)
        return StartReport(journey=found.name, version=found.version, workflow_id=workflow_id, audience=audience)

    async def event(
        self,
        user_id: str,
        event: str,
        *,
        at: datetime | None = None,
        event_id: str = "",
        properties: Mapping[str, Any] | None = None,
        client: Client | None = None,
    ) -> EventTaken:
        """Take an event: store it, start the runs of trigger entries, wake those who wait for it, count goals.

        Args:
            user_id: Who did it. Of `push_opened` the property `push_id` tells that too: then it may be empty.
            event: The event's name.
            at: When it happened, with a zone; null for now.
            event_id: Names it, so that giving it again does nothing twice; empty: made of all that it says.
            properties: Its values: texts, numbers, booleans, lists of texts.
            client: Reaches the server; null connects as the settings say.

        Returns:
            What it did. It is stored, and what it sets off is set off.

        Raises:
            RefusedError: It cannot be taken as it is; nothing was changed.
            NoServer: No Temporal server answers.
            StoreUnavailable: A store cannot be reached. Giving the event again by the same id is safe.
        """
        given = EventGiven(user_id=user_id, event=event, at=at, event_id=event_id, properties=dict(properties or {}))
        reached = client or await connect(self.settings)
        return (await self._events.take(reached, [given]))[0]

    async def result(self, report: StartReport, *, client: Client) -> Stats:
        """Wait for a started journey to end.

        Args:
            report: What `start` gave.
            client: Reaches the server.

        Returns:
            The final numbers.

        Raises:
            JourneyFailed: The workflow failed, with what it said.
        """
        handle = client.get_workflow_handle(report.workflow_id, result_type=Stats)
        try:
            ended: Stats = await handle.result()
            return ended
        except WorkflowFailureError as error:
            raise _failed(error) from error

    async def _launch(self, client: Client, found: Saved, document: JourneyDocument) -> WorkflowHandle[object, Stats]:
        handle: WorkflowHandle[object, Stats] = await client.start_workflow(
            "Journey",
            JourneyInput(journey=found.name, version=found.version),
            id=journey_workflow_id(found.name),
            task_queue=JOURNEYS_QUEUE,
            result_type=Stats,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(JOURNEY_ID, found.name),
                    SearchAttributePair(JOURNEY_VERSION, str(found.version)),
                ]
            ),
            static_summary=document.title or document.journey,
            static_details=f"The life of **{found.name}**, started with version {found.version}. The query `status` "
            f"tells where it is, `stats` the last count; the update `refresh` counts anew. The runs of its users: "
            f'`JourneyId = "{found.name}" AND WorkflowType = "UserJourney"`.',
        )
        return handle

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

    def find(self, name: str) -> Saved:
        """Find the saved journey that `NAME` or `NAME@3` means.

        Raises:
            NotFoundError: There is none.
        """
        base, version = name_and_version(name)
        return self.stores.catalogue.find("journey", base, version)

    def _save_one(self, path: str) -> Saved:
        now = datetime.now(UTC)
        raws = read_documents(path)
        checked = check_documents(self.stores, raws, now)
        checked.require()
        _, document = self.only_journey(path, checked)
        save_documents(self.stores, raws, now, rejects_dir=self.settings.rejects)
        return self.stores.catalogue.find("journey", document.journey)

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

    def document(self, found: Saved) -> JourneyDocument:
        """Give the content of a saved journey."""
        if not isinstance(found.document, JourneyDocument):
            raise RefusedError(f"{found.name!r} is no journey")
        return found.document

    async def _require_version(self, handle: WorkflowHandle[object, Stats], found: Saved) -> None:
        """Refuse when another version than the one asked for is running."""
        running = (await handle.describe()).typed_search_attributes.get(JOURNEY_VERSION)
        if running is None:
            life = await asyncio.to_thread(self.stores.ledger.life, found.name)
            running = str(life.version) if life is not None else str(found.version)
        if running != str(found.version):
            raise RefusedError(
                f"version {running} of {found.name!r} is running, and version {found.version} was asked for: use "
                "revise, or wait until it has finished",
                code="other-version-running",
            )


async def _launched(
    client: Client, launch: Callable[[], Awaitable[WorkflowHandle[object, Stats]]]
) -> WorkflowHandle[object, Stats]:
    """Launch; where no worker ever served, the namespace lacks our search attributes, and gets them first."""
    for pause in ATTRIBUTE_PAUSES:
        try:
            return await launch()
        except RPCError as error:
            if error.status != RPCStatusCode.INVALID_ARGUMENT or "search attribute" not in error.message:
                raise
            await create_search_attributes(client)
            await asyncio.sleep(pause)
    return await launch()


async def _status(handle: WorkflowHandle[object, Stats]) -> JourneyStatus:
    """Ask a journey for its status; a worker has to answer."""
    try:
        patience = timedelta(seconds=WORKER_SECONDS)
        found: JourneyStatus = await handle.query("status", result_type=JourneyStatus, rpc_timeout=patience)
        return found
    except WorkflowQueryFailedError as error:
        raise JourneyError(f"the journey {handle.id!r} does not answer: {error}") from error
    except RPCError as error:
        if error.status in UNANSWERED:
            raise NoWorker(
                f"no worker answers for {handle.id!r} within {WORKER_SECONDS:g} s; it is started, and goes on as soon "
                "as one serves",
                hint="run `journeys worker`, or `journeys dev`, with the same home and the same server",
            ) from error
        raise


async def _evaluated(handle: WorkflowHandle[object, Stats]) -> int | None:
    """Wait until a journey's audience is evaluated, or the journey fails."""
    over = asyncio.create_task(handle.result())
    pause = 0.02
    try:
        while not over.done():
            status = await _status(handle)
            if status.audience is not None:
                return status.audience
            await asyncio.wait([over], timeout=pause)
            pause = min(pause * 2, 1.0)
        over.result()
        return (await _status(handle)).audience
    except WorkflowFailureError as error:
        raise _failed(error) from error
    finally:
        over.cancel()


def _failed(error: WorkflowFailureError) -> JourneyFailed:
    """Give what a failed workflow said: our faults where it was one of our errors."""
    cause: BaseException | None = error.cause
    while cause is not None and not isinstance(cause, ApplicationError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ApplicationError):
        details = cause.details[0] if cause.details and isinstance(cause.details[0], list) else []
        faults = [Fault.model_validate(one) for one in details]
        return JourneyFailed(faults or [Fault(code=cause.type or "failed", message=cause.message)], refused=True)
    fault = Fault(code="failed", message=f"the journey did not end well: {cause or error}")
    return JourneyFailed([fault], refused=False)
