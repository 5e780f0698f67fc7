"""Winners of split tests: chosen by hand, or by the goal whose lead is significant."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from activities.records.database import Database
from activities.records.rows import conversions, instant, steps, winners
from workflows.documents import SplitTest

LOOK_SECONDS = 10.0
"""How old a worker's knowledge of winners may be."""
KNOWN_LIMIT = 1_000
"""Split tests whose winners a worker knows at once."""
SIGNIFICANCE = 1.96
"""Standard errors by which the best variant has to lead every other: 95 percent, two-sided."""


@dataclass(frozen=True)
class Chosen:
    """The variant that everybody gets.

    Attributes:
        branch: The branch.
        chosen_by: `hand`, or the goal that decided.
    """

    branch: str
    chosen_by: str


class Winners:
    """Winners in SQL.

    Args:
        database: Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, str], tuple[float, Chosen | None]] = {}

    def winner(self, journey: str, element: str, test: SplitTest, *, look: bool = False) -> Chosen | None:
        """Give the winner of a split test; None while there is none. Blocking.

        Args:
            journey: The journey.
            element: The split test's id.
            test: What it says.
            look: Writes nothing: a goal that leads has decided only for whoever asks now.

        Raises:
            StoreUnavailable: The ledger cannot be used. Temporal retries.
        """
        read_at, known = self._known.get((journey, element), (float("-inf"), None))
        if time.monotonic() - read_at < LOOK_SECONDS and not look:
            return known
        query = select(winners.c.branch, winners.c.chosen_by).where(
            winners.c.journey == journey, winners.c.element == element
        )
        row = self._database.read(lambda connection: connection.execute(query).first())
        found = Chosen(row.branch, row.chosen_by) if row is not None else None
        if found is None and test.winner is not None:
            rates = self._database.read(lambda connection: _rates(connection, journey, element, test))
            leader = leading(rates, test.winner.users)
            if leader is not None:
                if not look:
                    self.choose(journey, element, leader, by=test.winner.goal)
                found = Chosen(leader, test.winner.goal)
        if found is not None and found.branch not in test.branches:
            found = None  # chosen for a version with other variants
        if not look:
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()  # each is worth ten seconds: what is still asked for is read again
            self._known[journey, element] = (time.monotonic(), found)
        return found

    def choose(self, journey: str, element: str, branch: str, *, by: str = "hand") -> None:
        """Write down a winner, in place of an earlier one. Blocking; workers know within ten seconds.

        Raises:
            StoreUnavailable: The ledger cannot be written.
        """
        values = {"branch": branch, "at": instant(datetime.now(UTC)), "chosen_by": by}
        statement = self._database.insert(winners).values(journey=journey, element=element, **values)
        statement = statement.on_conflict_do_update(index_elements=["journey", "element"], set_=values)
        self._database.write_now(lambda connection: connection.execute(statement))
        self._known.pop((journey, element), None)


def leading(rates: dict[str, tuple[int, int]], least: int) -> str | None:
    """Find the variant whose conversion rate leads every other's significantly.

    Args:
        rates: Variant to its users and how many of them converted.
        least: Fewest users of each variant.

    Returns:
        The variant, by a two-proportion z-test at 95 percent against each other one; None while there is none.
    """
    if len(rates) < 2 or any(users < least for users, _ in rates.values()):
        return None
    best = max(rates, key=lambda name: rates[name][1] / rates[name][0])
    users, converted = rates[best]
    for name, (others, other_converted) in rates.items():
        if name == best:
            continue
        pooled = (converted + other_converted) / (users + others)
        error = math.sqrt(pooled * (1 - pooled) * (1 / users + 1 / others))
        if error == 0 or (converted / users - other_converted / others) / error < SIGNIFICANCE:
            return None
    return best


def _rates(connection: Connection, journey: str, element: str, test: SplitTest) -> dict[str, tuple[int, int]]:
    goal = test.winner.goal if test.winner is not None else ""
    query = (
        select(steps.c.branch, func.count(), func.count(conversions.c.passage))
        .outerjoin(conversions, (conversions.c.passage == steps.c.passage) & (conversions.c.goal == goal))
        .where(steps.c.journey == journey, steps.c.element == element)
        .group_by(steps.c.branch)
    )
    counted = {branch: (users, converted) for branch, users, converted in connection.execute(query)}
    # A variant without a share has no say.
    return {name: counted.get(name, (0, 0)) for name, variant in test.branches.items() if variant.share}
