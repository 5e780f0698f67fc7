"""Notices what the tables say by now of those who wait: who has come into a segment, or has to leave by `exit_when`.

A run looks again by itself at the instant at which time alone changes its answer. Of what an import, an update or a new
version of a segment changes, nobody tells it. So whoever watches a journey looks for all of its runs: each condition is
evaluated once, and only the runs for which it is true are woken. They ask again, and decide by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, select, tuple_
from temporalio.client import Client

from activities.events.waiting import watched
from activities.records.catalogue import SavedJourney
from activities.records.rows import hits, instant, passages, waits
from activities.segments.memberships import Ids
from activities.stores import Stores
from activities.waking import signal_runs
from workflows.conditions import Condition
from workflows.documents import JourneyDocument, WaitForTrigger
from workflows.errors import DefinitionError, NotFoundError

LOOK_SECONDS = 10.0
"""Shortest time between two looks at one journey."""
LOOK_LIMIT_SECONDS = 30.0
"""Longest one look may take: the next one goes on behind those who were woken."""
AGAIN_SECONDS = 3600.0
"""When a run is woken once more that still waits: its worker may be down, and each signal is an event."""
PAGE = 500
"""Runs read, and woken, at one time."""

LOG = logging.getLogger(__name__)

_True: TypeAlias = dict[tuple[str, Condition], Ids]
"""For whom a condition is true: by its zone and itself."""


@dataclass(frozen=True)
class _Inside:
    """One open passage, and the wait in which its user is."""

    passage: str
    user_id: str
    key: str
    version: int
    step: int
    element: str


class Notices:
    """Wakes runs for which the tables have changed.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._looked: dict[str, float] = {}
        self._told: dict[tuple[str, int], float] = {}
        self._answers: dict[str, tuple[float, dict[tuple[str, Condition], bytes]]] = {}
        """When the answers for a journey were other ones last, and the fingerprints of what they are."""
        self._whole: dict[str, float] = {}
        """When the last look began that came to an end."""
        self._behind: dict[str, tuple[str, str]] = {}
        """Behind whom the next look goes on, where the last one took too long."""

    async def look(self, client: Client, journey: str) -> int:
        """Wake those inside a journey for whom what they wait for is true, or its `exit_when`.

        Args:
            client: Reaches the server.
            journey: The journey.

        Returns:
            How many were woken; none when the last look was a moment ago.

        Raises:
            RPCError: The server cannot be reached.
            StoreUnavailable: Tables or ledger cannot be reached. Temporal retries.
        """
        began = time.monotonic()
        if began < self._looked.get(journey, float("-inf")) + LOOK_SECONDS:
            return 0
        self._looked[journey] = began
        self._told = {one: at for one, at in self._told.items() if at > began - AGAIN_SECONDS}
        documents = await asyncio.to_thread(self._watching, journey)
        true = await self._evaluated(documents)
        if not true or self._is_known(journey, true, began):
            return 0
        woken, after = 0, self._behind.pop(journey, ("", ""))
        whole = after == ("", "")
        while page := await asyncio.to_thread(self._inside, journey, after):
            after = page[-1].user_id, page[-1].key
            meant = await asyncio.to_thread(self._meant, page, documents, true)
            await signal_runs(client, self._stores.ids, journey, [(one.user_id, one.key) for one in meant], "event")
            self._told |= {(one.passage, one.step): time.monotonic() for one in meant}
            woken += len(meant)
            if time.monotonic() > began + LOOK_LIMIT_SECONDS:
                self._behind[journey] = after
                return woken
        if whole:
            self._whole[journey] = began
        return woken

    def _is_known(self, journey: str, true: _True, now: float) -> bool:
        """Tell whether everybody was looked at with these very answers.

        Who begins to wait may have asked with an answer as old as the freshness allows: so the whole look has to be
        later than the last change by that.
        """
        answers = {key: ids.fingerprint for key, ids in true.items()}
        changed_at, before = self._answers.get(journey, (now, {}))
        if answers != before:
            changed_at = now
        self._answers[journey] = (changed_at, answers)
        freshness = self._stores.memberships.freshness.total_seconds()
        return self._whole.get(journey, changed_at) > changed_at + freshness

    def _watching(self, journey: str) -> dict[int, SavedJourney]:
        """Give the versions that watch something, of those in which somebody is."""
        catalogue = self._stores.catalogue
        parsed = {version: catalogue.journey(digest) for version, digest in catalogue.digests(journey).items()}
        found = {version: saved for version, saved in parsed.items() if any(_conditions(saved))}
        if len(found) > 1:
            query = select(passages.c.version).where(passages.c.journey == journey, passages.c.closed_at.is_(None))
            inside = self._stores.ledger.database.read(lambda connection: connection.execute(query.distinct()).all())
            found = {version: saved for version, saved in found.items() if (version,) in {tuple(one) for one in inside}}
        return found

    async def _evaluated(self, documents: Mapping[int, SavedJourney]) -> _True:
        """Evaluate all that is watched, as of now: by zone and condition, who is in it."""
        found: _True = {}
        now = datetime.now(UTC)
        for saved in documents.values():
            zone = self._zone(saved)
            for condition in _conditions(saved):
                if (zone, condition) in found:
                    continue
                try:
                    asked = self._stores.memberships.membership(condition, zone, now, seen=now)
                    found[zone, condition] = (await asked).ids
                except (DefinitionError, NotFoundError) as error:
                    # A segment that is gone, or a column of another type: whoever comes there says so.
                    LOG.warning("a condition of %r cannot be watched: %s", saved.document.journey, error)
        return found

    def _zone(self, saved: SavedJourney) -> str:
        return saved.document.timezone or self._stores.segments.zone

    def _inside(self, journey: str, after: tuple[str, str]) -> list[_Inside]:
        """Read a page of those who have come in, in order of user and key."""
        query = (
            select(
                passages.c.passage,
                passages.c.user_id,
                passages.c.key,
                passages.c.version,
                waits.c.step,
                waits.c.element,
            )
            .outerjoin(waits, (waits.c.passage == passages.c.passage) & (waits.c.open == 1))
            .where(passages.c.journey == journey, passages.c.closed_at.is_(None), passages.c.begun_at.is_not(None))
            .where(passages.c.enters_at.is_(None) | (passages.c.enters_at <= instant(datetime.now(UTC))))
            .where(tuple_(passages.c.user_id, passages.c.key) > tuple_(*after))
            .order_by(passages.c.user_id, passages.c.key)
            .limit(PAGE)
        )
        rows = self._stores.ledger.database.read(lambda connection: connection.execute(query).all())
        return [_Inside(*row[:4], row.step or 0, row.element or "") for row in rows]

    def _meant(self, page: Collection[_Inside], documents: Mapping[int, SavedJourney], true: _True) -> list[_Inside]:
        """Find those whom to wake: what they watch is true, and neither was noticed before nor told a moment ago."""
        leaving: list[_Inside] = []
        coming: dict[tuple[str, int, str], _Inside] = {}
        for one in page:
            saved = documents.get(one.version)
            if saved is None or (one.passage, one.step) in self._told:
                continue
            zone, document = self._zone(saved), saved.document
            if document.exit_when is not None and _holds(true, zone, document.exit_when, one.user_id):
                leaving.append(one)
                continue
            for branch, condition, inside in _watched_at(document, one.element):
                if _holds(true, zone, condition, one.user_id) == inside:
                    coming[one.passage, one.step, branch] = one
        known = self._stores.ledger.database.read(lambda connection: _noticed(connection, coming))
        return leaving + list({one.passage: one for key, one in coming.items() if key not in known}.values())


def _holds(true: _True, zone: str, condition: Condition, user_id: str) -> bool | None:
    """Tell whether a condition is true of a user; null where it could not be evaluated."""
    ids = true.get((zone, condition))
    return None if ids is None else ids.holds(user_id)


def _watched_at(document: JourneyDocument, name: str) -> list[tuple[str, Condition, bool]]:
    """List what the wait of a user watches; empty for a user who does not wait."""
    element = document.elements.get(name)
    if isinstance(element, WaitForTrigger):
        return watched(element)
    # A revision has put another element in its place: it may be any. Who is woken in vain waits on.
    waiting = [one for one in document.elements.values() if name and isinstance(one, WaitForTrigger)]
    return [found for one in waiting for found in watched(one)]


def _conditions(saved: SavedJourney) -> Iterator[Condition]:
    """Give the conditions that a version watches for those who wait."""
    for element in saved.document.elements.values():
        if isinstance(element, WaitForTrigger):
            yield from (condition for _, condition, _ in watched(element))
    if saved.document.exit_when is not None:
        yield saved.document.exit_when


def _noticed(connection: Connection, waiting: Collection[tuple[str, int, str]]) -> set[tuple[Any, ...]]:
    """Tell which branches of which waits were noticed before: their run waits out its time."""
    named = {passage for passage, _, _ in waiting}
    query = select(hits.c.passage, hits.c.step, hits.c.branch).where(hits.c.passage.in_(sorted(named)))
    return {tuple(row) for row in connection.execute(query)} if named else set()
