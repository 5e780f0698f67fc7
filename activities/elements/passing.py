"""What all elements share: before one of them decides or acts for a user, it is asked whether it may.

The order is the same everywhere. What is written down already is the answer. An event that came with the question is
taken. A paused journey holds the user. A later version takes him over, or ends his passage. The journey's own exit
condition ends it. Only then the element does its work, and its answer is written down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from activities.records.catalogue import SavedJourney
from activities.records.gate import Life
from activities.records.ledger import Evidence, Values
from activities.segments.facts import Facts
from activities.segments.memberships import at_hand
from activities.stores import Stores, leave_by
from activities.tables.schema import Kind
from workflows.contracts import EventGiven, Move, Outcome, Visit
from workflows.documents import JourneyDocument, Push, TimeDelay, WaitForTrigger
from workflows.errors import NotFoundError
from workflows.graph import says_the_same

EXIT_CRITERIA = "exit-criteria"
REVISED = "revised"

ElementT = TypeVar("ElementT")


@dataclass(frozen=True)
class Answer:
    """What an element did.

    Attributes:
        branch: The way out.
        because: Why, for a person.
        outcome: What was done, for statistics; the branch when empty.
        evidence: What a decision was made from.
        properties: The values of the event that a wait ended with.
    """

    branch: str
    because: str = ""
    outcome: str = ""
    evidence: Evidence | None = None
    properties: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Stay:
    """The user stays at the element until an instant, UTC, or until a signal wakes the run."""

    until: datetime
    because: str = ""


@dataclass(frozen=True)
class Out:
    """The user leaves the journey at this element."""

    reason: str
    because: str = ""


class Paused(Exception):
    """The journey was paused while an element was at work, before it did anything."""


class Answered(Exception):
    """The element had an answer, or the user had left, before it did anything.

    Args:
        outcome: What is written down.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(frozen=True)
class Case(Generic[ElementT]):
    """One visit that may go ahead.

    Attributes:
        visit: Whose visit to which element.
        saved: The journey's version.
        element: The element.
        skip: Whether a resumption skips what was held.
    """

    visit: Visit
    saved: SavedJourney
    element: ElementT
    stores: Stores
    skip: bool = False

    @property
    def document(self) -> JourneyDocument:
        """The journey."""
        return self.saved.document

    @property
    def zone(self) -> str:
        """The zone of calendar days in conditions, and of users without a zone of their own."""
        return self.saved.document.timezone or self.stores.segments.zone

    async def values(self) -> Values:
        """Read what the run knows beside the tables; costs nothing where the journey has no events.

        Raises:
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        if not self.saved.has_events:
            return Values()
        return await asyncio.to_thread(self.stores.ledger.values, self.visit.passage)

    async def facts(self) -> Facts:
        """Read what is known of the user: attributes, and the values of events.

        Raises:
            StoreUnavailable: Tables or ledger cannot be read. Temporal retries.
        """
        values = await self.values()
        profile = await at_hand(self.stores.profiles.look_up(self.visit.user_id, None, self.zone, self.visit.now))
        return Facts(profile.user, values.entry, values.last, await asyncio.to_thread(kinds_of, self.stores))

    async def template_values(self) -> dict[str, Mapping[str, Any]]:
        """Give what a template sees that is about the user and no device.

        Raises:
            StoreUnavailable: Tables or ledger cannot be read. Temporal retries.
        """
        values = await self.values()
        profile = await self.stores.profiles.look_up(self.visit.user_id, None, self.zone, self.visit.now)
        journey = {"id": self.document.journey, "title": self.document.title}
        return {"user": profile.user, "journey": journey, "entry": values.entry, "waited": values.waited}

    async def require_open(self) -> None:
        """Look again, just before something is done that cannot be taken back.

        Raises:
            Paused: The journey was paused meanwhile.
            Answered: The user was taken out meanwhile, or an earlier try has done it.
            StoreUnavailable: The ledger cannot be read. Temporal retries.
        """
        life = await self.stores.gate.life(self.visit.journey)
        if life is not None and life.state == "paused":
            raise Paused
        if (known := await asyncio.to_thread(self.stores.ledger.outcome, self.visit)) is not None:
            raise Answered(known)

    async def zone_of_user(self) -> str:
        """Give the user's own zone: his attribute, else that of the device last seen, else the journey's.

        Raises:
            StoreUnavailable: The tables cannot be read. Temporal retries.
        """
        return await at_hand(self.stores.profiles.zone(self.visit.user_id, self.zone, self.visit.now))


def kinds_of(stores: Stores) -> dict[str, Mapping[str, Kind]]:
    """Give the kinds of attributes and of properties: of the tables `users` and `events`. Blocking.

    Raises:
        StoreUnavailable: The tables cannot be read. Temporal retries.
    """
    return {"users": stores.tables.schema("users"), "events": stores.tables.schema("events")}


class Passing:
    """Decides whether an element may go ahead, and writes down what it did.

    Args:
        stores: Tables, catalogue and ledger.
        take: Takes an event that a client sent to a run: stores it, and sets off what it sets off.
    """

    def __init__(self, stores: Stores, take: Callable[[Visit, EventGiven], Awaitable[None]]) -> None:
        self.stores = stores
        self._take = take

    async def pass_by(
        self,
        visit: Visit,
        kinds: type[Any] | tuple[type[Any], ...],
        work: Callable[[Case[Any]], Awaitable[Answer | Stay | Out | Outcome]],
    ) -> Outcome:
        """Pass a user by an element.

        Args:
            visit: Whose visit to which element.
            kinds: The element's model, or models.
            work: Decides or acts; called when the user may go ahead. An `Outcome` is one that it has written down.

        Returns:
            What is written down: the first answer. Or what the run waits for.

        Raises:
            NotFoundError: The version has no such element.
            StoreUnavailable: A store cannot be reached. Temporal retries.
        """
        stores = self.stores
        saved = stores.catalogue.journey(visit.digest)
        element = saved.document.elements.get(visit.element)
        if not isinstance(element, kinds):
            raise NotFoundError(f"{visit.element!r} of {visit.journey!r} is no element of this kind")
        if visit.event is not None:
            await self._take(visit, visit.event)
        if visit.woken:
            await stores.gate.renew()
        life = await stores.gate.life(visit.journey)
        skip = False
        # Time passes in a pause too: whoever waits is held at what he reaches then.
        waits = isinstance(element, TimeDelay | WaitForTrigger)
        if life is not None and not waits and (life.state == "paused" or life.may_have_held(visit)):
            stopped = await self._held(visit, life)
            if isinstance(stopped, Outcome):
                return stopped
            skip = stopped
        if life is not None and (taken := await self._revised(visit, life)) is not None:
            return taken
        if (reason := await self._exit_criteria(visit, saved)) is not None:
            return reason
        case = Case(visit, saved, element, stores, skip)
        return await self._worked(case, work)

    async def _worked(
        self, case: Case[Any], work: Callable[[Case[Any]], Awaitable[Answer | Stay | Out | Outcome]]
    ) -> Outcome:
        """Have an element do its work, unless it finds at the last moment that it may not."""
        gate, visit = self.stores.gate, case.visit
        while True:
            try:
                return await self._written(visit, case.saved, await work(case))
            except Answered as answered:
                return answered.outcome
            except Paused:
                if await gate.hold(visit):
                    return Outcome(held=True, because="the journey is paused")
                await gate.renew()

    async def _held(self, visit: Visit, life: Life) -> Outcome | bool:
        """Hold the user while the journey is paused, and let him go as it was resumed.

        Returns:
            What the run waits for, or has as its answer already; else whether the resumption skips what was held.
        """
        stores = self.stores
        if life.state == "paused":
            if (known := await asyncio.to_thread(stores.ledger.outcome, visit)) is not None:
                return known
            if await stores.gate.hold(visit):
                return Outcome(held=True, because="the journey is paused")
        held = await asyncio.to_thread(stores.gate.held, visit)
        if held is not None and held.due == "shift" and held.until > visit.now:
            return Outcome(until=held.until, because="held by a pause, and due as much later as it lasted")
        return held is not None and held.due == "skip"

    async def _written(self, visit: Visit, saved: SavedJourney, answer: Answer | Stay | Out | Outcome) -> Outcome:
        """Write down an answer; a user who stays leaves nothing to write."""
        ledger = self.stores.ledger
        match answer:
            case Outcome():
                return answer
            case Stay(until, because):
                # A removal may have closed the passage, or the first answer may be there already.
                known = await asyncio.to_thread(ledger.outcome, visit)
                return known or Outcome(until=max(until, visit.now + timedelta(milliseconds=1)), because=because)
            case Out(reason, because):
                return await ledger.leave(visit, reason, because)
            case Answer():
                outcome = Outcome(
                    branch=answer.branch,
                    because=answer.because,
                    left=leave_by(saved, saved.routes[visit.element].to[answer.branch]),
                )
                return await ledger.record(
                    visit,
                    outcome,
                    outcome=answer.outcome or answer.branch,
                    evidence=answer.evidence,
                    properties=None if answer.properties is None else json.dumps(answer.properties),
                )

    async def _revised(self, visit: Visit, life: Life) -> Outcome | None:
        """Have the user go on elsewhere, or end his passage, where a revision or an operator says so."""
        ledger, catalogue = self.stores.ledger, self.stores.catalogue
        if visit.woken and (sent := await asyncio.to_thread(ledger.sent_to, visit)) is not None:
            version, element = sent
            found = await asyncio.to_thread(catalogue.find, "journey", visit.journey, version or life.version)
            meant = catalogue.journey(found.digest)
            if element not in meant.routes:  # another version has taken over since
                return await ledger.leave(visit, REVISED, f"version {found.version} has no {element!r}")
            return await self._move(visit, found.version, meant, element)
        if (revision := life.revision_for(visit.version)) is None:
            return None
        if (known := await asyncio.to_thread(ledger.outcome, visit)) is not None:
            return known
        if revision.inside == "end":
            return await ledger.leave(visit, REVISED, f"version {revision.version} ended those inside")
        meant = catalogue.journey(revision.digest)
        version, place = await asyncio.to_thread(ledger.place, visit)
        element = place if version == revision.version else revision.mapping.get(place, place)
        if element not in meant.routes:
            return await ledger.leave(visit, REVISED, f"version {revision.version} has no {element!r}")
        return await self._move(visit, revision.version, meant, element)

    async def _move(self, visit: Visit, version: int, meant: SavedJourney, element: str) -> Outcome:
        """Hand the user over to an element of a version; what is the same in both goes on as it was."""
        before = self.stores.catalogue.journey(visit.digest).document.elements[visit.element]
        after = meant.document.elements[element]
        keeps, abandons = says_the_same(before, after), isinstance(before, Push) and not isinstance(after, Push)
        leave = leave_by(meant, element)
        moved = await self.stores.ledger.move(visit, version, element, leave, keeps=keeps, abandons=abandons)
        if moved is not None:
            return moved
        until = visit.until if keeps else None
        return Outcome(
            move=Move(version=version, digest=meant.digest, routes=meant.routes, element=element, until=until)
        )

    async def _exit_criteria(self, visit: Visit, saved: SavedJourney) -> Outcome | None:
        """End the passage of a user for whom the journey's exit condition is true."""
        condition = saved.document.exit_when
        if condition is None:
            return None
        zone = saved.document.timezone or self.stores.segments.zone
        asked = self.stores.memberships.membership(condition, zone, visit.now, seen=visit.seen)
        membership = await at_hand(asked)
        if not membership.ids.holds(visit.user_id):
            return None
        return await self.stores.ledger.leave(visit, EXIT_CRITERIA, "the journey's `exit_when` is true of the user")
