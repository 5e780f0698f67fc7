"""Users on their way through a plan: those who are certain to come, and those who may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from activities.planning.reading import USERS

NOBODY = pl.DataFrame(schema=USERS)
NO_ONE = pl.DataFrame(schema={"user_id": pl.String})


@dataclass(frozen=True)
class Flow:
    """Users who come to an element.

    Attributes:
        users: Those who are certain to: `user_id: String`, `at: Datetime`, the moment of arrival; each user once.
        maybe: Those who may come beside them: `user_id: String`.
        unbounded: Whether others may come too, nobody knows how many.
        why: Why not all of them are certain; empty when they are.
        changed: Attributes that updates of the journey have written before, for some of them.
        later: Whether they arrive later than the launch.
    """

    users: pl.DataFrame = field(default_factory=lambda: NOBODY)
    maybe: pl.DataFrame = field(default_factory=lambda: NO_ONE)
    unbounded: bool = False
    why: str = ""
    changed: frozenset[str] = frozenset()
    later: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nobody comes, and nobody may."""
        return self.users.is_empty() and self.maybe.is_empty() and not self.unbounded


@dataclass(frozen=True)
class Passed:
    """What an element would do with the users who are certain to come.

    Attributes:
        branches: Users by branch, `at` being the moment at which they take it.
        outcomes: Users by outcome, where the element does something.
        left: Users who leave the journey here, by reason.
        maybe: Users whose branch is not known: each may take any, or leave.
        unknown: Why something is not known; empty when all is.
        changed: Attributes that the element writes.
        later: Whether it takes time.
    """

    branches: dict[str, pl.DataFrame]
    outcomes: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    maybe: pl.DataFrame = field(default_factory=lambda: NO_ONE)
    unknown: str = ""
    changed: frozenset[str] = frozenset()
    later: bool = False


def joined(flows: Iterable[Flow]) -> Flow:
    """Join the users who come to one element by several ways."""
    found = [flow for flow in flows if not flow.is_empty]
    if len(found) < 2:
        return found[0] if found else Flow()
    return Flow(
        users=pl.concat([flow.users for flow in found]),
        maybe=pl.concat([flow.maybe for flow in found]).unique(),
        unbounded=any(flow.unbounded for flow in found),
        why=next((flow.why for flow in found if flow.why), ""),
        changed=frozenset().union(*(flow.changed for flow in found)),
        later=any(flow.later for flow in found),
    )


def onwards(flow: Flow, passed: Passed, branch: str, element: str) -> Flow:
    """Give the users who go on by one branch of an element."""
    uncertain = not passed.maybe.is_empty() and passed.unknown
    return Flow(
        users=passed.branches.get(branch, NOBODY),
        maybe=pl.concat([flow.maybe, passed.maybe]).unique(),
        unbounded=flow.unbounded,
        why=flow.why or (f"{passed.unknown} (at {element!r})" if uncertain else ""),
        changed=flow.changed | passed.changed,
        later=flow.later or passed.later,
    )
