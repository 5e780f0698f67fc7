"""The wait for trigger activity: what a user waits for, whether it came, and when that is asked again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from temporalio import activity

from activities.elements.condition_split import segment_words
from activities.elements.passing import Case, Passing, Stay, kinds_of
from activities.events.occurrences import is_meant
from activities.events.waiting import Hit, Wait, Waits, awaited, close_wait, decided, watched
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.records.ledger import Evidence
from activities.records.rows import instant
from activities.segments.memberships import at_hand
from activities.stores import outcome_of
from workflows.conditions import compares_with
from workflows.contracts import Outcome, Visit
from workflows.documents import NOT_TRIGGERED, WaitForTrigger
from workflows.errors import NotFoundError
from workflows.operators import AttributeRef
from workflows.scalars import duration

PASSED_AT_ONCE = ("condition-split", "split-test", "reachability-check", "update-user")
"""Kinds of elements that hold nobody and tell the user nothing: what he does while passing them still counts."""


class WaitForTriggerActivities:
    """Holds users until something happens.

    Args:
        passing: Decides whether an element may go ahead.
    """

    def __init__(self, passing: Passing) -> None:
        self._passing = passing
        self._waits = Waits(passing.stores.ledger)

    @activity.defn(name="wait-for-trigger")
    @as_failures
    @beating
    async def wait_for_trigger(self, visit: Visit) -> Outcome:
        """Begin to wait for something; asked again, say what happened, or that time is over.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch of what happened first; or until when the run waits. Asked again after an answer, the first one.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version or a segment
                is unknown, which it does not.
        """
        return await self._passing.pass_by(visit, WaitForTrigger, self._wait)

    async def _wait(self, case: Case[WaitForTrigger]) -> Stay | Outcome:
        visit, element = case.visit, case.element
        wait = await asyncio.to_thread(self._waits.wait, visit)
        if wait is None:
            wait = await self._begun(case)
        known = await asyncio.to_thread(self._waits.hits, visit.passage, visit.step)
        found = await self._came(case, wait, known)
        entered, evidence, turns_at = await self._segments(case, wait, known)
        if found or entered:
            known = await self._waits.add(visit.passage, visit.step, [*found, *entered])
        hit = decided(element, known)
        over = visit.now >= wait.deadline
        if hit is not None and (over or not element.fixed):
            return await self._decide(case, hit.branch, _said(element, hit), hit, evidence)
        if over:
            return await self._decide(case, NOT_TRIGGERED, f"nothing came until {wait.deadline:%Y-%m-%d %H:%M:%S} UTC")
        # What an import or an update changes, whoever watches the journey notices for all who wait.
        return Stay(wait.deadline if turns_at is None else min(wait.deadline, turns_at))

    async def _begun(self, case: Case[WaitForTrigger]) -> Wait:
        """Begin: before the events are looked at, so that whatever comes from now on finds the wait."""
        visit = case.visit
        elements = case.document.elements.items()
        at_once = [name for name, element in elements if element.kind in PASSED_AT_ONCE]
        since = await asyncio.to_thread(self._waits.since, visit, at_once)
        await self._waits.begin(visit, since or visit.now, visit.now + duration(case.element.up_to))
        begun = await asyncio.to_thread(self._waits.wait, visit)
        if begun is None:
            raise NotFoundError(
                f"the ledger holds no passage {visit.passage!r} of {visit.journey!r}: this worker's ledger is not the "
                "one that admitted it; see the setting JOURNEYS_DATABASE"
            )
        return begun

    async def _came(self, case: Case[WaitForTrigger], wait: Wait, known: list[Hit]) -> list[Hit]:
        """Find what was taken already: in the moment before the wait began, or by a process that died."""
        there = {(hit.branch, hit.place) for hit in known}
        open_places = [one for one in awaited(case.element) if one[:2] not in there]
        if not open_places:
            return []
        events = await asyncio.to_thread(self._waits.events_since, wait, [one[2].event for one in open_places])
        if not events:
            return []
        user: Mapping[str, Any] = {}
        if any(compares_with(trigger.where, AttributeRef) for _, _, trigger in open_places):
            user = (await case.facts()).user
        kinds = await asyncio.to_thread(kinds_of, case.stores)
        found: dict[tuple[str, int], Hit] = {}
        for event in events:
            for branch, place, trigger in open_places:
                if trigger.event == event.event and is_meant(
                    trigger.where, event, entry=wait.entry, user=lambda: user, kinds=kinds, zone=case.zone
                ):
                    hit = Hit(branch, place, event.event_id, instant(event.at), event.properties)
                    found.setdefault((branch, place), hit)
        return list(found.values())

    async def _segments(
        self, case: Case[WaitForTrigger], wait: Wait, known: list[Hit]
    ) -> tuple[list[Hit], dict[str, Evidence], datetime | None]:
        """Look whether the user is in, or out of, the segments that are watched, and when time alone changes that."""
        visit, standings, memberships = case.visit, case.stores.standings, case.stores.memberships
        there = {hit.branch for hit in known}
        found: list[Hit] = []
        evidence: dict[str, Evidence] = {}
        turns: list[datetime] = []
        # An event may come from a clock that is ahead: the decision is about its instant then.
        now = max(visit.now, visit.seen) if visit.seen else visit.now
        for branch, condition, inside in watched(case.element):
            if branch in there:
                continue
            if await asyncio.to_thread(standings.is_timeless, condition, case.zone):
                # One evaluation for all who wait: their answers change with the tables alone.
                membership = await at_hand(memberships.membership(condition, case.zone, now, seen=visit.seen))
                member, as_of = membership.ids.holds(visit.user_id), membership.as_of
                tables = {**membership.tables, **membership.segments}
            else:
                asked = standings.look_up(condition, case.zone, visit.user_id, now, wait.deadline)
                standing = await at_hand(asked)
                member, as_of, tables = standing.member, now, standing.tables
                turns += [standing.turns_at] if standing.turns_at is not None else []
            if member == inside:
                found.append(Hit(branch, 0, "", instant(visit.now), {}))
                evidence[branch] = Evidence(tables, as_of)
        return found, evidence, min(turns, default=None)

    async def _decide(
        self,
        case: Case[WaitForTrigger],
        branch: str,
        because: str,
        hit: Hit | None = None,
        evidence: Mapping[str, Evidence] | None = None,
    ) -> Outcome:
        """Write down the branch, and that the wait is over, at once."""
        visit, ledger = case.visit, case.stores.ledger
        outcome = outcome_of(case.saved, visit.element, branch, because)

        def work(connection: Connection) -> Outcome:
            written = ledger.record_in(
                connection,
                visit,
                outcome,
                outcome=branch,
                evidence=(evidence or {}).get(branch),
                properties=None if hit is None or not hit.event_id else json.dumps(hit.properties),
            )
            close_wait(connection, visit)
            return written

        written = await ledger.database.write(work, keys=[visit.user_id])
        return written.model_copy(update={"learned": hit is not None})


def _said(element: WaitForTrigger, hit: Hit) -> str:
    """Word what ended a wait."""
    way = element.branches.own[hit.branch]
    if not hit.event_id:
        condition = way.in_segment or way.not_in_segment
        return f"{'in' if way.in_segment else 'not in'} {segment_words(condition)} at {hit.at[:19]}Z"
    names = [trigger.event for branch, place, trigger in awaited(element) if (branch, place) == (hit.branch, hit.place)]
    return f"{names[0]} {hit.event_id!r} at {hit.at[:19]}Z"
