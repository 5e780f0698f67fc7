"""What an event sets off: runs that it starts, waits that it answers, goals that it reaches.

All of it is found for a batch of events at once, then done for each of them. Whatever is done is done under a name
that the event decides, so that doing it again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.elements.passing import kinds_of
from activities.events.entering import Door, Entering, TakenOver, doors_of, open_doors
from activities.events.goals import Goals, Passage, counts
from activities.events.occurrences import Judge, Occurrence, is_meant
from activities.events.waiting import Hit, Wait, Waits, awaited, decided, may_change_by_events
from activities.records.gate import Life
from activities.records.rows import instant
from activities.starting import Starter
from activities.stores import Stores
from workflows.conditions import Condition
from workflows.documents import Goal, WaitForTrigger


@dataclass
class Effect:
    """What one event sets off.

    Attributes:
        event: The event.
        doors: The entries that it goes through.
        waits: The waits that it may end, each with what it waited for.
        goals: The goals that it reaches, each with the passage.
        started: The passages whose runs were started.
    """

    event: Occurrence
    doors: list[Door] = field(default_factory=list)
    waits: list[tuple[Wait, WaitForTrigger, list[Hit]]] = field(default_factory=list)
    goals: list[tuple[Passage, str, Goal]] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    @property
    def delivered(self) -> int:
        """How many runs waited for it."""
        return sum(bool(found) for _, _, found in self.waits)


class Effects:
    """Finds and does what events set off.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._ids = stores.ids
        self._entering = Entering(stores.ledger, Starter(stores.ids, stores.catalogue))
        self._waits = Waits(stores.ledger)
        self._goals = Goals(stores.ledger)

    async def find(self, events: Sequence[Occurrence]) -> list[Effect]:
        """Find the entries, waits and goals that mean each event.

        Args:
            events: Events that are in the table.

        Returns:
            One effect each, in order.

        Raises:
            StoreUnavailable: A store cannot be read. Temporal retries.
        """
        # A journey that was started before an event was taken is known, whatever the age of the copy.
        await self._stores.gate.renew()
        lives = await self._stores.gate.lives()
        return await asyncio.to_thread(self._find, events, lives)

    def _find(self, events: Sequence[Occurrence], lives: Mapping[str, Life]) -> list[Effect]:
        stores = self._stores
        users = {event.user_id for event in events}
        judge = _Judge(stores, users)
        doors = doors_of(lives, stores.catalogue)
        waiting = _by_user(self._waits.open_waits(users))
        passing = _by_user(self._goals.passages(users, self._with_goals(lives)))
        found = [Effect(event) for event in events]
        for effect in found:
            event = effect.event
            effect.doors = open_doors(doors.get(event.event, ()), event, judge)
            for wait in waiting.get(event.user_id, ()):
                self._look_at_wait(effect, wait, judge)
            for passage in passing.get(event.user_id, ()):
                document = stores.catalogue.journey(passage.digest).document
                effect.goals += [
                    (passage, name, goal)
                    for name, goal in document.goals.items()
                    if counts(goal, passage, event)
                    and judge(goal.trigger.where, event, entry=passage.entry, zone=document.timezone)
                ]
        return found

    def _with_goals(self, lives: Mapping[str, Life]) -> list[str]:
        """Name the journeys of which a version may have goals: the one that runs, or one before it."""
        return [
            life.journey
            for life in lives.values()
            if life.version > 1 or self._stores.catalogue.journey(life.digest).document.goals
        ]

    def _look_at_wait(self, effect: Effect, wait: Wait, judge: Judge) -> None:
        """See whether a wait waits for an event, or for a segment that it may bring the user into."""
        document, event = self._stores.catalogue.journey(wait.digest).document, effect.event
        element = document.elements.get(wait.element)
        if not isinstance(element, WaitForTrigger) or wait.entry_event == event.event_id:
            return
        found = [
            Hit(branch, place, event.event_id, instant(event.at), event.properties)
            for branch, place, trigger in awaited(element)
            if trigger.event == event.event and judge(trigger.where, event, entry=wait.entry, zone=document.timezone)
        ]
        if found or may_change_by_events(element):
            effect.waits.append((wait, element, found))

    async def do(self, client: Client, effect: Effect) -> None:
        """Start the runs, answer the waits and count the goals of one event.

        Args:
            client: Reaches the server.
            effect: What was found.

        Raises:
            StoreUnavailable: A store cannot be reached, or a workflow id is held by another run. Temporal retries.
            RPCError: The server cannot be reached. Temporal retries.
        """
        entering = [asyncio.create_task(self._enter(client, door, effect.event)) for door in effect.doors]
        telling = (self._tell(client, *wait) for wait in effect.waits)
        converting = (self._convert(client, effect.event, *goal) for goal in effect.goals)
        # All of them are tried, whatever becomes of one.
        results = await asyncio.gather(*entering, *telling, *converting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        effect.started = [passage for task in entering if (passage := task.result()) is not None]

    async def _enter(self, client: Client, door: Door, event: Occurrence) -> str | None:
        """Have the user of an event enter, in the version that runs at that very moment."""
        while True:
            try:
                return await self._entering.enter(client, door, event)
            except TakenOver:
                found = await self._door_now(door.life.journey, event)
                if found is None:
                    return None
                door = found

    async def _door_now(self, journey: str, event: Occurrence) -> Door | None:
        """Find the entry of a journey that an event goes through now; None where it means none."""
        stores = self._stores
        await stores.gate.renew()
        own = {name: life for name, life in (await stores.gate.lives()).items() if name == journey}

        def work() -> list[Door]:
            doors = doors_of(own, stores.catalogue).get(event.event, ())
            return open_doors(doors, event, _Judge(stores, {event.user_id}))

        return next(iter(await asyncio.to_thread(work)), None)

    async def _tell(self, client: Client, wait: Wait, element: WaitForTrigger, found: list[Hit]) -> None:
        """Write down what came of a wait, and wake its run where that changes anything now."""
        known = await self._waits.add(wait.passage, wait.step, found)
        changes = decided(element, known) is not None or may_change_by_events(element)
        if changes and not element.fixed:
            await _signal(client, self._ids.workflow_id(wait.journey, wait.user_id, wait.key), "event")

    async def _convert(self, client: Client, event: Occurrence, passage: Passage, name: str, goal: Goal) -> None:
        """Count a conversion. A run that is over by it is woken, and finds its passage closed."""
        if await self._goals.convert(passage, name, goal, event, datetime.now(UTC)):
            await _signal(client, self._ids.workflow_id(passage.journey, passage.user_id, passage.key), "resumed")


class _Judge:
    """Judges conditions of triggers for a batch of events; attributes are read when the first one asks."""

    def __init__(self, stores: Stores, users: set[str]) -> None:
        self._stores = stores
        self._users = users
        self._kinds = kinds_of(stores)
        self._known: dict[str, Mapping[str, Any]] | None = None

    def __call__(
        self, where: Condition | None, event: Occurrence, *, entry: Mapping[str, Any], zone: str | None
    ) -> bool:
        """Tell whether a condition is true of an event."""
        return is_meant(
            where,
            event,
            entry=entry,
            user=lambda: self._attributes().get(event.user_id, {}),
            kinds=self._kinds,
            zone=zone or self._stores.segments.zone,
        )

    def _attributes(self) -> dict[str, Mapping[str, Any]]:
        if self._known is None:
            zone, now = self._stores.segments.zone, datetime.now(UTC)
            profiles = self._stores.profiles.read(sorted(self._users), None, zone, now)
            self._known = {user: profile.user for user, profile in profiles.items()}
        return self._known


class _OfUser(Protocol):
    @property
    def user_id(self) -> str: ...


Record = TypeVar("Record", bound=_OfUser)


def _by_user(found: Sequence[Record]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {}
    for one in found:
        grouped.setdefault(one.user_id, []).append(one)
    return grouped


async def _signal(client: Client, workflow_id: str, name: str) -> None:
    """Wake a run. One that is not there needs no waking: it asks the ledger when it begins, or is over."""
    try:
        await client.get_workflow_handle(workflow_id).signal(name)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
