"""The leave activity: a user is taken out of a journey wherever he is."""

from __future__ import annotations

from temporalio import activity

from activities.faults import as_failures
from activities.heartbeats import beating
from activities.stores import Stores
from workflows.contracts import Outcome, Visit


class LeavingActivities:
    """Closes passages.

    Args:
        stores: The ledger.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    @activity.defn(name="leave")
    @as_failures
    @beating
    async def leave(self, visit: Visit) -> Outcome:
        """Close a passage with the reason that the visit names.

        Args:
            visit: Whose visit, and why he leaves.

        Returns:
            How the user left. Where the element has answered already, its answer: the user leaves at the next one.

        Raises:
            ApplicationError: The ledger cannot be reached, which Temporal retries.
        """
        return await self._stores.ledger.leave(visit, visit.leave)
