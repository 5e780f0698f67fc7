"""Planning: the whole audience passes a journey at once, element after element, and nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from activities.elements.passing import EXIT_CRITERIA
from activities.planning.elements import changed_before, pass_through, undecided
from activities.planning.entries import Entering
from activities.planning.flow import Flow, Passed, joined, onwards
from activities.planning.plan import Plan, PlannedElement
from activities.planning.pushes import Pushing
from activities.planning.reading import Reading
from activities.push.delivery import DeliveryRules
from activities.segments.segments import References
from activities.stores import Stores
from workflows.contracts import Versions
from workflows.documents import Element, Exit, JourneyDocument, Push, TimeDelay, ways_out
from workflows.graph import visiting_order


@dataclass(frozen=True)
class Meant:
    """What is planned.

    Attributes:
        document: A journey without faults.
        now: The instant to plan for, UTC.
        versions: The table versions to read.
        references: What the document's references mean.
    """

    document: JourneyDocument
    now: datetime
    versions: Versions
    references: References


@dataclass(frozen=True)
class Planned:
    """A plan, and the users behind its numbers.

    Attributes:
        plan: The numbers.
        entered: The users who come in for sure: `user_id: String`.
        passed: Each element with the users by branch.
    """

    plan: Plan
    entered: pl.DataFrame
    passed: dict[str, Passed]


class _Planner:
    """Passes users through a journey."""

    def __init__(self, reading: Reading, rules: DeliveryRules) -> None:
        self._reading = reading
        self._document = reading.document
        self._pushing = Pushing(reading, rules)

    def plan(self) -> Planned:
        entering, document = Entering(self._reading), self._document
        arriving: dict[str, list[Flow]] = {}
        entries = {}
        for name, entry in document.entries.items():
            entries[name], flow = entering.enter(entry)
            arriving.setdefault(entry.next, []).append(flow)
        elements: dict[str, PlannedElement] = {}
        passed: dict[str, Passed] = {}
        for name in visiting_order(document):
            element, flow = document.elements[name], joined(arriving.get(name, ()))
            found = passed[name] = self._pass(name, element, flow)
            for branch, target in ways_out(element).items():
                arriving.setdefault(target, []).append(onwards(flow, found, branch, name))
            elements[name] = _numbers(element, flow, found)
        plan = Plan(
            journey=document.journey,
            audience=entering.audience,
            refused={reason: number for reason, number in sorted(entering.refused.items()) if number},
            entries=entries,
            elements={name: elements[name] for name in document.elements},
            pushes=self._pushing.total,
            forecast=self._pushing.forecast,
            as_of=self._reading.now,
            tables=self._reading.versions,
        )
        return Planned(plan, entering.entered, passed)

    def _pass(self, name: str, element: Element, flow: Flow) -> Passed:
        """Pass users through one element, those taken out for whom the exit criteria are true."""
        criteria = self._document.exit_when
        if criteria is None or isinstance(element, Exit):
            return self._act(name, element, flow)
        if flow.changed and self._reading.reads(criteria, flow.changed):
            return undecided(flow, changed_before(flow.changed))
        out = self._reading.holders(criteria, flow.users)
        staying = flow.users.join(out, on="user_id", how="anti")
        found = self._act(name, element, Flow(staying, changed=flow.changed, later=flow.later))
        branches, gone = found.branches, out.height
        if isinstance(element, TimeDelay | Push) and found.later:
            # Asked again when the time has come.
            for branch, users in branches.items():
                out = self._reading.holders(criteria, users.join(staying, on=["user_id", "at"], how="anti"))
                branches = {**branches, branch: users.join(out, on="user_id", how="anti")}
                gone += out.height
        left = found.left.copy()
        left[EXIT_CRITERIA] += gone
        return Passed(branches, found.outcomes, left, found.maybe, found.unknown, found.changed, found.later)

    def _act(self, name: str, element: Element, flow: Flow) -> Passed:
        if isinstance(element, Push):
            return self._pushing.push(name, element, flow)
        return pass_through(self._reading, name, element, flow)


def _numbers(element: Element, flow: Flow, found: Passed) -> PlannedElement:
    left = {reason: number for reason, number in sorted(found.left.items()) if number}
    if isinstance(element, Exit) and flow.users.height:
        left["end"] = flow.users.height
    return PlannedElement(
        arrived=flow.users.height,
        branches={
            branch: found.branches[branch].height if branch in found.branches else 0 for branch in ways_out(element)
        },
        users={outcome: number for outcome, number in sorted(found.outcomes.items()) if number},
        left=left,
        may_arrive=None if flow.unbounded else flow.maybe.height,
        unknown=found.unknown or flow.why or None,
        later=flow.later,
    )


def plan_passages(stores: Stores, meant: Meant, rules: DeliveryRules | None = None) -> Planned:
    """Work out who would enter, take each branch and be pushed. Blocking; sends nothing, writes nothing.

    With several audience entries, a user whom an earlier one admits is taken for still inside at the later ones. Of a
    schedule, the next time is planned.

    Args:
        stores: Tables, catalogue and ledger.
        meant: The journey, the snapshot and the instant.
        rules: How pushes are delivered; null for no cap and no control group.

    Returns:
        The plan, with the users who take each branch.

    Raises:
        NotFoundError: A reference leads nowhere.
        StoreUnavailable: A store cannot be reached.
    """
    reading = Reading(stores, meant.document, meant.now, meant.versions, meant.references)
    return _Planner(reading, rules or DeliveryRules()).plan()
