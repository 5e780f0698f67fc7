"""The condition split activity: "Users in a segment" or "All other users"; or a branch by a value."""

from __future__ import annotations

from temporalio import activity

from activities.elements.passing import Answer, Case, Passing
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.records.ledger import Evidence
from activities.segments.clock import Clock
from activities.segments.comparisons import compare
from activities.segments.facts import words_of
from activities.segments.memberships import at_hand
from workflows.conditions import Condition, SegmentRef
from workflows.contracts import Outcome, Visit
from workflows.documents import ALL_OTHER_USERS, USERS_IN_SEGMENT, ConditionSplit, ValueSplit


class ConditionSplitActivities:
    """Splits users by segment, or by a value.

    Args:
        passing: Decides whether an element may go ahead.
    """

    def __init__(self, passing: Passing) -> None:
        self._passing = passing

    @activity.defn(name="condition-split")
    @as_failures
    @beating
    async def condition_split(self, visit: Visit) -> Outcome:
        """Choose a branch: by whether the segment holds the user on arrival, or by a value.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch, and the reason for a person. Asked again, the first answer.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version or the segment
                is unknown, which it does not.
        """
        return await self._passing.pass_by(visit, (ConditionSplit, ValueSplit), self._split)

    async def _split(self, case: Case[ConditionSplit | ValueSplit]) -> Answer:
        if isinstance(case.element, ValueSplit):
            return await _by_value(case, case.element)
        visit, match = case.visit, case.element.match
        asked = case.stores.memberships.membership(match, case.zone, visit.now, seen=visit.seen)
        membership = await at_hand(asked)
        member = membership.ids.holds(visit.user_id)
        place = f"{segment_words(match)}, users v{membership.tables.get('users', -1)}"
        # With the versions of the segments it followed: a later import of one makes a later version the newest.
        return Answer(
            USERS_IN_SEGMENT if member else ALL_OTHER_USERS,
            f"{'in' if member else 'not in'} {place}",
            evidence=Evidence({**membership.tables, **membership.segments}, membership.as_of),
        )


async def _by_value(case: Case[ConditionSplit | ValueSplit], split: ValueSplit) -> Answer:
    """Take the first branch whose comparison is true of the value."""
    facts = await case.facts()
    term, value, words = facts.term(split.by), facts.value(split.by), words_of(split.by)
    clock = Clock(case.visit.now, case.zone)
    for name, branch in split.branches.own.items():
        test = compare(term, branch, clock, facts.term).fill_null(False)
        if facts.row.select(test.alias("\x1ftrue")).item():
            return Answer(name, f"{words} is {value!r}" if value is not None else f"{words} is missing")
    said = "is missing" if value is None else f"is {value!r}"
    return Answer(ALL_OTHER_USERS, f"{words} {said}")


def segment_words(condition: Condition) -> str:
    """Name a segment in a sentence."""
    return repr(condition.segment) if isinstance(condition, SegmentRef) else "the segment built in place"
