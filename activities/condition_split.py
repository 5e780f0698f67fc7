"""The condition split activity: "Users in a segment" or "All other users"."""

from __future__ import annotations

from temporalio import activity

from activities.faults import as_failures
from activities.records.ledger import Evidence
from activities.segments.memberships import at_hand
from activities.stores import Stores, outcome_of
from workflows.conditions import Condition, SegmentRef
from workflows.contracts import Outcome, Visit
from workflows.documents import ALL_OTHER_USERS, USERS_IN_SEGMENT, ConditionSplit
from workflows.errors import NotFoundError


class ConditionSplitActivities:
    """Splits users by segment.

    Args:
        stores: Tables, catalogue and ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="condition-split")
    @as_failures
    async def condition_split(self, visit: Visit) -> Outcome:
        """Choose a branch by whether the segment holds the user on arrival.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch, and the reason for a person. Asked again, the first answer.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version or the segment
                is unknown, which it does not.
        """
        stores = self._stores
        saved = stores.catalogue.journey(visit.digest)
        element = saved.document.elements[visit.element]
        if not isinstance(element, ConditionSplit):
            raise NotFoundError(f"{visit.element!r} is no condition split of {visit.journey!r}")
        zone = saved.document.timezone or stores.segments.zone
        membership = await at_hand(stores.memberships.membership(element.match, zone, visit.now))
        member = membership.ids.holds(visit.user_id)
        place = f"{segment_words(element.match)}, users v{membership.tables.get('users', -1)}"
        answer = outcome_of(
            saved,
            visit.element,
            USERS_IN_SEGMENT if member else ALL_OTHER_USERS,
            f"{'in' if member else 'not in'} {place}",
        )
        # With the versions of the segments it followed: a later import of one makes a later version the newest.
        evidence = Evidence({**membership.tables, **membership.segments}, membership.as_of)
        return await stores.ledger.record(visit, answer, outcome=answer.branch, evidence=evidence)


def segment_words(condition: Condition) -> str:
    """Name a segment in a sentence."""
    return repr(condition.segment) if isinstance(condition, SegmentRef) else "the segment built in place"
