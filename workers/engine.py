"""The four verbs, for Python callers and the command line alike: check, save, plan, start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.documents.checking import check_documents
from activities.documents.reading import read_documents
from activities.events.taking import Events
from activities.life import places_of, stats_of
from activities.records.catalogue import Saved
from activities.stores import Stores
from workers.connecting import connect
from workers.documents import CheckReport, Documents, is_file, name_and_version
from workers.launching import JourneyFailed, NoWorker, audience_of, failure_of, launch, status_of
from workers.opening import open_stores
from workers.settings import Settings, load_settings
from workflows.contracts import JOURNEY_VERSION, EventGiven, LifeReport, Stats, journey_workflow_id
from workflows.errors import RefusedError
from workflows.events import EventTaken

__all__ = ["CheckReport", "Engine", "JourneyFailed", "NoWorker", "StartReport"]


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


class Engine(Documents):
    """The stores of one home, and the verbs on them: on its documents, and on the runs of its journeys.

    Args:
        settings: Where everything is.
        stores: The stores, open.
    """

    def __init__(self, settings: Settings, stores: Stores) -> None:
        super().__init__(settings, stores)
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
            handle = await launch(reached, found, document)
        except WorkflowAlreadyStartedError:
            handle = reached.get_workflow_handle(workflow_id, result_type=Stats)
            await self._require_version(handle, found)
            status = await status_of(handle)
            return StartReport(
                journey=found.name,
                version=found.version,
                workflow_id=workflow_id,
                audience=status.audience,
                already_running=True,
            )
        audience = await audience_of(handle)
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
            raise failure_of(error) from error

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
