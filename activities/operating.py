"""What operators do with a running journey: pause, resume, finish, revise, take a user out.

Each is committed to the ledger first, which every activity asks, and only then told to the runs that wait: a run that
is not told learns of it when it next asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from temporalio import activity

from activities.documents.saving import save_definition
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.life import opened_journey
from activities.records.catalogue import SavedJourney
from activities.records.gate import TRUST_SECONDS
from activities.records.statistics import Inside, everybody_inside
from activities.stores import Stores
from activities.waking import PAGE, signal_runs, wake_held
from workflows.contracts import (
    FinishRequest,
    Leave,
    LifeReport,
    LifeRequest,
    RemoveRequest,
    ResumeRequest,
    Revised,
    ReviseRequest,
    State,
)
from workflows.documents import TimeDelay, WaitForTrigger
from workflows.errors import DefinitionError, Fault, RefusedError
from workflows.graph import says_the_same
from workflows.scalars import nearest, quoted

WAITING = (TimeDelay, WaitForTrigger)
"""Elements at which users stay: only these runs have to be told of a change; others ask soon."""


class OperatingActivities:
    """Takes the turns of a journey's life.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="pause-journey")
    @as_failures
    @beating
    async def pause_journey(self, request: LifeRequest) -> LifeReport:
        """Commit a pause. Three seconds later nothing is sent any more.

        Args:
            request: Which journey.

        Returns:
            Where the journey stands.

        Raises:
            ApplicationError: The ledger cannot be reached. Temporal retries.
        """
        await self._stores.gate.pause(request.journey, request.now)
        return await self._report(request, "paused")

    @activity.defn(name="resume-journey")
    @as_failures
    @beating
    async def resume_journey(self, request: LifeRequest) -> LifeReport:
        """Commit a resumption, and wake the runs that the pause held, a page at a time.

        Args:
            request: Which journey, and what becomes of what fell due.

        Returns:
            Where the journey stands, and how many runs were woken.

        Raises:
            ApplicationError: The ledger or the server cannot be reached. Temporal retries, and goes on behind those
                who were woken.
        """
        woken = await self._resume(request, request.resume or ResumeRequest())
        return await self._report(request, "running", signalled=woken)

    @activity.defn(name="finish-journey")
    @as_failures
    @beating
    async def finish_journey(self, request: LifeRequest) -> LifeReport:
        """Let nobody enter any more; end those inside where asked.

        Args:
            request: Which journey, and what becomes of those inside.

        Returns:
            Where the journey stands, and how many passages were ended.

        Raises:
            ApplicationError: The ledger or the server cannot be reached. Temporal retries.
        """
        stores = self._stores
        # First, so that nobody enters while those held by a pause are woken: they go on to their ends, or leave below.
        await stores.ledger.finish_journey(request.journey, request.launch, request.now)
        told = await self._resume(request, ResumeRequest())
        if (request.finish or FinishRequest()).inside == "end":
            inside = await asyncio.to_thread(everybody_inside, stores.ledger.database, request.journey)
            told += await self._end(request, inside, "finished")
        return await self._report(request, "finished", signalled=told)

    @activity.defn(name="take-out")
    @as_failures
    @beating
    async def take_out(self, request: LifeRequest) -> LifeReport:
        """Take a user out of the journey, in all his runs or in the one of a key.

        Args:
            request: Which journey, who, and the reason.

        Returns:
            Where the journey stands, and how many passages were ended.

        Raises:
            ApplicationError: Nobody of that name is inside, which Temporal does not retry; or the ledger or the server
                cannot be reached, which it does.
        """
        given = request.take_out
        if given is None:
            raise RefusedError("nobody is named: give {user_id: ...}")
        meant = await self._inside(request, given.user_id, given.key)
        ended = await self._end(request, meant, given.reason)
        return await self._report(request, None, signalled=ended)

    @activity.defn(name="move")
    @as_failures
    @beating
    async def move(self, request: LifeRequest) -> LifeReport:
        """Have a user go on at another element, in the version that runs.

        Args:
            request: Which journey, who, and where.

        Returns:
            Where the journey stands, and how many runs were told.

        Raises:
            ApplicationError: There is no such element, or the user is not inside, which Temporal does not retry; or the
                ledger or the server cannot be reached, which it does.
        """
        given, stores = request.move, self._stores
        if given is None:
            raise RefusedError("nobody is named: give {user_id: ..., element: ...}")
        life = await asyncio.to_thread(stores.ledger.life, request.journey)
        routes = stores.catalogue.journey(life.digest).routes if life is not None else {}
        if given.element not in routes:
            raise RefusedError(
                f"{request.journey!r} has no element {given.element!r}; it has: {', '.join(routes)}", code="no-element"
            )
        meant = await self._inside(request, given.user_id, given.key)
        for one in meant:
            await stores.ledger.send(one.passage, given.element)
        await signal_runs(
            activity.client(), stores.ids, request.journey, [(one.user_id, one.key) for one in meant], "resumed"
        )
        return await self._report(request, None, signalled=len(meant))

    async def _inside(self, request: LifeRequest, user_id: str, key: str | None) -> list[Inside]:
        """Find a user's passages; refuse where there is none, and none has ended since this was asked for."""
        journey, ledger = request.journey, self._stores.ledger
        runs = await asyncio.to_thread(everybody_inside, ledger.database, journey, user_id)
        meant = [one for one in runs if key in (None, one.key)]
        # An attempt before this one may have ended it, or sent the user where he left.
        ended = [] if meant else await asyncio.to_thread(ledger.ended_since, journey, request.now, user_id)
        if not meant and not any(key in (None, one.key) for one in ended):
            keyed = f" with the key {key!r}" if key is not None else ""
            raise RefusedError(f"the user {user_id!r}{keyed} is not inside {journey!r}", code="not-inside")
        return meant

    @activity.defn(name="revise-journey")
    @as_failures
    @beating
    async def revise_journey(self, request: LifeRequest) -> Revised:
        """Have another version take over.

        Args:
            request: Which journey, which version, and what becomes of those inside.

        Returns:
            The version that runs now, and how many were inside, by element.

        Raises:
            ApplicationError: The version is wrong or unknown, or leaves somebody inside without a place, which Temporal
                does not retry; or a store cannot be reached, which it does.
        """
        stores, revise = self._stores, request.revise or ReviseRequest()
        if revise.definition is not None:
            found = await asyncio.to_thread(save_definition, stores, revise.definition, request.now)
        else:
            found = await asyncio.to_thread(stores.catalogue.find, "journey", request.journey, revise.version)
        if found.name != request.journey:
            raise RefusedError(f"the definition is of {found.name!r}, and {request.journey!r} is running")
        saved = stores.catalogue.journey(found.digest)
        everybody, earlier = await self._inside_before(request.journey, found.version)
        places = await asyncio.to_thread(self._places, request.journey, earlier)
        report = LifeReport(
            journey=request.journey,
            version=found.version,
            state="running",
            inside=everybody,
            elements=dict(sorted(Counter(places.values()).items())),
        )
        await stores.gate.renew()
        life = await stores.gate.life(request.journey)
        if life is not None and life.state == "paused":
            report = report.model_copy(update={"state": "paused"})
        running = life.version if life is not None else 0
        if found.version < running:
            raise RefusedError(
                f"version {found.version} is older than version {running}, which is running: save what it says as a "
                "new version, with: journeys save FILE",
                code="older-version",
            )
        asked = found.version, revise.inside, revise.mapping
        if life is None or not life.revisions or not life.revisions[-1].says(*asked):  # else asked again
            if revise.inside == "move":
                require_places(saved, set(places.values()), revise.mapping)
            await stores.gate.revise(
                request.journey, found.version, found.digest, revise.inside, revise.mapping, request.now
            )
        told = 0
        if revise.inside != "keep":
            # Until every worker knows of it, somebody may still come in, or come to rest, in his version.
            await asyncio.sleep(TRUST_SECONDS)
            _, earlier = await self._inside_before(request.journey, found.version)
            if revise.inside == "end":
                told = await self._end(request, earlier, "revised")
            else:
                told = await self._tell_those_who_wait(request.journey, saved, earlier, revise.mapping)
        opened = opened_journey(found, saved.document)
        return Revised(opened=opened, report=report.model_copy(update={"signalled": told}))

    async def _inside_before(self, journey: str, version: int) -> tuple[int, list[Inside]]:
        """Count those inside, and list those in versions before one."""
        everybody = await asyncio.to_thread(everybody_inside, self._stores.ledger.database, journey)
        return len(everybody), [one for one in everybody if one.version < version]

    def _versions(self, journey: str, inside: list[Inside]) -> dict[int, SavedJourney]:
        """Read the versions in which somebody is."""
        catalogue = self._stores.catalogue
        return {
            version: catalogue.journey(catalogue.find("journey", journey, version).digest)
            for version in {one.version for one in inside}
        }

    def _places(self, journey: str, inside: list[Inside]) -> dict[str, str]:
        """Name the element at which each passage is."""
        versions = self._versions(journey, inside)
        return {one.passage: one.whereabouts.element_in(versions[one.version]) for one in inside}

    async def _tell_those_who_wait(
        self, journey: str, saved: SavedJourney, inside: list[Inside], mapping: dict[str, str]
    ) -> int:
        """Wake the runs that wait at an element which has changed: the others learn of it when they next ask."""
        versions = await asyncio.to_thread(self._versions, journey, inside)
        changed: list[tuple[str, str]] = []
        for one in inside:
            place = one.whereabouts.element_in(versions[one.version])
            before = versions[one.version].document.elements[place]
            after = saved.document.elements.get(mapping.get(place, place))
            if isinstance(before, WAITING) and (after is None or not says_the_same(before, after)):
                changed.append((one.user_id, one.key))
        for begin in range(0, len(changed), PAGE):
            await signal_runs(activity.client(), self._stores.ids, journey, changed[begin : begin + PAGE], "resumed")
        return len(changed)

    async def _resume(self, request: LifeRequest, resume: ResumeRequest) -> int:
        """Commit a resumption, and wake those whom the newest pause held and nobody has woken yet."""
        epoch = await self._stores.gate.resume(request.journey, resume.due, request.now)
        return 0 if epoch is None else await wake_held(activity.client(), self._stores, request.journey, epoch)

    async def _end(self, request: LifeRequest, inside: list[Inside], reason: str) -> int:
        """Close passages, and tell their runs; also those that an attempt before this one closed, and did not tell."""
        untold = await self._untold(request, reason) if activity.info().attempt > 1 else []
        for begin in range(0, len(untold), PAGE):
            await self._tell_to_leave(request.journey, untold[begin : begin + PAGE], reason)
        for begin in range(0, len(inside), PAGE):
            page = inside[begin : begin + PAGE]
            left = Leave(exit="", reason=reason)
            await self._stores.ledger.close({one.passage: left for one in page}, request.now)
            await self._tell_to_leave(request.journey, [(one.user_id, one.key) for one in page], reason)
        return len(untold) + len(inside)

    async def _untold(self, request: LifeRequest, reason: str) -> list[tuple[str, str]]:
        """List whom an attempt before this one took out, unless he has come back: his new run has the same id."""
        ledger, journey = self._stores.ledger, request.journey
        closed = await asyncio.to_thread(ledger.ended_since, journey, request.now)
        who = {(one.user_id, one.key) for one in closed if one.left == Leave(exit="", reason=reason)}
        back = await asyncio.to_thread(ledger.open_passages, journey, [user for user, _ in who])
        return sorted(who - back.keys())

    async def _tell_to_leave(self, journey: str, who: list[tuple[str, str]], reason: str) -> None:
        """Tell runs that their passages were ended."""
        given = RemoveRequest(reason=reason)
        await signal_runs(activity.client(), self._stores.ids, journey, who, "remove", given)

    async def _report(self, request: LifeRequest, state: State | None, *, signalled: int = 0) -> LifeReport:
        inside = await asyncio.to_thread(self._stores.ledger.inside, request.journey)
        if state is None:
            life = await asyncio.to_thread(self._stores.ledger.life, request.journey)
            state = life.state if life is not None else "draft"
        return LifeReport(
            journey=request.journey, version=request.version, state=state, inside=inside, signalled=signalled
        )


def require_places(saved: SavedJourney, occupied: set[str], mapping: dict[str, str]) -> None:
    """Refuse a revision that would leave somebody inside without a place.

    Args:
        saved: The version that takes over.
        occupied: The elements at which users are.
        mapping: Old element to new one.

    Raises:
        DefinitionError: With a fault for each element that has no place, or is mapped to none.
    """
    known = list(saved.routes)
    faults = []
    for old in sorted(occupied | set(mapping)):
        new = mapping.get(old, old)
        if new not in saved.routes:
            near = nearest(new, known)
            faults.append(
                Fault(
                    code="no-place",
                    path=old,
                    message=f"users are at {old!r}, and the new version has no element {new!r}"
                    if old in occupied
                    else f"{old!r} is mapped to {new!r}, which the new version does not have",
                    hint=f"map it, with --map {old}={near[0] if near else known[0]}; elements are: {quoted(known)}",
                )
            )
    if faults:
        raise DefinitionError(faults)
