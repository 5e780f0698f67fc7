"""Starting the runs of admitted users: each once, whatever was killed in between."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from activities.records.catalogue import Catalogue, SavedJourney
from activities.records.passages import Admission
from activities.records.pseudonyms import Pseudonyms
from workflows.contracts import (
    ENGINE,
    JOURNEY_ID,
    JOURNEY_USER_ID,
    JOURNEY_VERSION,
    USERS_QUEUE,
    UserJourneyInput,
    summary_of,
)
from workflows.errors import StoreUnavailable

STARTS_AT_ONCE = 50
"""Starts under way at one moment: more gain nothing on one server."""
TITLE_CHARACTERS = 80
"""Of a journey's title, in the summary of a user's run."""
ID_IN_USE_SECONDS = 30.0
"""How long a start waits for a workflow id whose earlier run is closing."""
PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Way:
    """What the runs of one admission share.

    Attributes:
        saved: The journey's version.
        version: Its number.
        entry: The entry taken.
        key: The key of keyed runs.
    """

    saved: SavedJourney
    version: int
    entry: str
    key: str = ""


class Starter:
    """Starts runs, some at a time.

    Args:
        ids: Names users towards Temporal.
        catalogue: Saved versions.
    """

    def __init__(self, ids: Pseudonyms, catalogue: Catalogue) -> None:
        self._ids, self._catalogue = ids, catalogue
        self._slots = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(self, client: Client, way: Way, admission: Admission, *, seen: datetime) -> None:
        """Start the run of an admission; returns when it runs, or ran.

        Args:
            client: Reaches the server.
            way: The version and the entry; those of who was admitted before, in another version, are his own.
            admission: Who was admitted.
            seen: When the tables were looked at for him, or had the event by which he enters, UTC: nothing that he is
                asked about later is answered from before it.

        Raises:
            StoreUnavailable: Another run holds the workflow id and does not end. Temporal retries.
        """
        if admission.version != way.version:
            # Admitted before another version took over: the run begins in its own, and follows as was picked.
            way = await asyncio.to_thread(self._way_of, way, admission)
        document = way.saved.document
        name = self._ids.name(admission.user_id)
        workflow_id = self._ids.workflow_id(document.journey, admission.user_id, way.key)
        waited = 0.0
        # A run that a dead worker started may have ended meanwhile, and then its id is free for a second one.
        if admission.known and await self._runs(client, workflow_id, admission.passage):
            return
        while True:
            try:
                async with self._slots:
                    await client.start_workflow(
                        "UserJourney",
                        UserJourneyInput(
                            journey=document.journey,
                            user_id=admission.user_id,
                            key=way.key,
                            entry=way.entry,
                            passage=admission.passage,
                            version=way.version,
                            digest=way.saved.digest,
                            routes=way.saved.routes,
                            engine=ENGINE,
                            seen=seen,
                        ),
                        id=workflow_id,
                        task_queue=USERS_QUEUE,
                        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                        search_attributes=search_attributes(document.journey, way.version, name),
                        static_summary=summary_of(f"{(document.title or document.journey)[:TITLE_CHARACTERS]}: {name}"),
                    )
                return
            except WorkflowAlreadyStartedError:
                # Either this passage's run, started by a worker that died before it could write so, or an earlier
                # run of the user that has left the journey and is about to close.
                if await self._runs(client, workflow_id, admission.passage):
                    return
                if waited >= ID_IN_USE_SECONDS:
                    raise StoreUnavailable(
                        f"the workflow id {workflow_id!r} is held by another run that does not end: "
                        "see it in Temporal's UI, and terminate it if it is stuck"
                    ) from None
                waited += PAUSE_SECONDS
                await asyncio.sleep(PAUSE_SECONDS)

    def _way_of(self, way: Way, admission: Admission) -> Way:
        found = self._catalogue.find("journey", way.saved.document.journey, admission.version)
        return replace(way, saved=self._catalogue.journey(found.digest), version=found.version, entry=admission.entry)

    async def _runs(self, client: Client, workflow_id: str, passage: str) -> bool:
        """Tell whether the newest run of a workflow id, open or ended, is a passage's."""
        handle = client.get_workflow_handle(workflow_id)
        try:
            async with self._slots:
                async for event in handle.fetch_history_events(page_size=1):
                    payloads = event.workflow_execution_started_event_attributes.input.payloads
                    (given,) = await client.data_converter.decode(payloads, [UserJourneyInput])
                    return bool(given.passage == passage)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
        return False


def search_attributes(journey: str, version: int, name: str) -> TypedSearchAttributes:
    """Give a run's search attributes, the user by what Temporal may know: set at its start, they cost no event."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(JOURNEY_ID, journey),
            SearchAttributePair(JOURNEY_VERSION, str(version)),
            SearchAttributePair(JOURNEY_USER_ID, name),
        ]
    )
