"""The reachability check activity: who can receive a push, and who cannot."""

from __future__ import annotations

from temporalio import activity

from activities.elements.passing import Answer, Case, Passing
from activities.faults import as_failures
from activities.heartbeats import beating
from activities.segments.memberships import at_hand
from workflows.contracts import Outcome, Visit
from workflows.documents import ReachabilityCheck


class ReachabilityCheckActivities:
    """Checks users.

    Args:
        passing: Decides whether an element may go ahead.
    """

    def __init__(self, passing: Passing) -> None:
        self._passing = passing

    @activity.defn(name="reachability-check")
    @as_failures
    @beating
    async def reachability_check(self, visit: Visit) -> Outcome:
        """Tell whether the user has a device that can receive a push.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch, with the number of devices. Asked again, the first answer.

        Raises:
            ApplicationError: Tables or ledger cannot be reached, which Temporal retries; or the version is unknown,
                which it does not.
        """
        return await self._passing.pass_by(visit, ReachabilityCheck, self._check)

    async def _check(self, case: Case[ReachabilityCheck]) -> Answer:
        visit = case.visit
        profile = await at_hand(case.stores.profiles.look_up(visit.user_id, None, case.zone, visit.now))
        if not profile.reachable:
            return Answer("not_reachable", "no device is opted in with an address")
        return Answer("reachable", f"{profile.reachable} device{'s' if profile.reachable > 1 else ''}")
