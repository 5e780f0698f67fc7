"""The split test activity: a variant by a hash of user and element, or the winner once there is one."""

from __future__ import annotations

import asyncio
import hashlib

from temporalio import activity

from activities.elements.passing import Answer, Case, Passing
from activities.faults import as_failures
from activities.heartbeats import beating
from workflows.contracts import Outcome, Visit
from workflows.documents import SplitTest

PLACES = 1 << 64


def place_of(*parts: str) -> float:
    """Give a place from 0 to 1, evenly spread, that the same parts always have.

    Args:
        parts: What is hashed: ids, in order.

    Returns:
        A number from 0, included, to 1, excluded: the first 64 bits of the SHA-256 of the parts.
    """
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / PLACES


def variant_of(element: SplitTest, journey: str, name: str, user_id: str, passage: str = "") -> str:
    """Assign a user to a variant.

    Args:
        element: The split test.
        journey: The journey.
        name: The element's id.
        user_id: The user.
        passage: The passage; it counts where the test assigns anew at each entry.

    Returns:
        The branch. Shares are laid end to end in document order, and the user's place among them decides.
    """
    parts = (journey, name, user_id) if element.assign == "stable" else (journey, name, user_id, passage)
    place, end = place_of(*parts) * 100, 0
    for branch, variant in element.branches.items():
        end += variant.share
        if place < end:
            return branch
    raise AssertionError("the shares total 100, and every place is below")


class SplitTestActivities:
    """Divides users.

    Args:
        passing: Decides whether an element may go ahead.
    """

    def __init__(self, passing: Passing) -> None:
        self._passing = passing

    @activity.defn(name="split-test")
    @as_failures
    @beating
    async def split_test(self, visit: Visit) -> Outcome:
        """Choose a variant.

        Args:
            visit: Whose visit to which element.

        Returns:
            The branch. Asked again, the first answer.

        Raises:
            ApplicationError: The ledger cannot be reached, which Temporal retries; or the version is unknown, which it
                does not.
        """
        return await self._passing.pass_by(visit, SplitTest, self._test)

    async def _test(self, case: Case[SplitTest]) -> Answer:
        visit, element = case.visit, case.element
        winner = await asyncio.to_thread(case.stores.winners.winner, visit.journey, visit.element, element)
        if winner is not None:
            return Answer(winner.branch, f"the winner, chosen by {winner.chosen_by}")
        branch = variant_of(element, visit.journey, visit.element, visit.user_id, visit.passage)
        return Answer(branch, f"{element.branches[branch].share}% of the users")
