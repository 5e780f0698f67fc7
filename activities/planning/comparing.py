"""Two versions over one snapshot: who would come in by one of them only, and take another branch."""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel, ConfigDict

from activities.documents.changes import Change, changes_between
from activities.planning.planner import Meant, Planned, plan_passages
from activities.push.delivery import DeliveryRules
from activities.stores import Stores
from workflows.documents import JourneyDocument, ways_out

BRANCHES = {"user_id": pl.String, "branch": pl.String}


class BranchChange(BaseModel):
    """Users who take one branch before and another after."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    before: str | None
    """The branch; null for users who do not come to the element."""
    after: str | None
    users: int
    user_ids: list[str] | None = None
    """Who they are, sorted, where that was asked for."""


class SplitChange(BaseModel):
    """An element with several branches, in both versions or one."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    element: str
    before: dict[str, int]
    """Users by branch, in the first version."""
    after: dict[str, int]
    """Users by branch, in the second."""
    other_branch: int
    """Users who come to it in both and take another branch."""
    changed: list[BranchChange] = []
    """Who they are, and who comes to it in one version only."""
    unknown: str | None = None
    """Why this cannot be known, or not for all; null where it can."""


class Comparison(BaseModel):
    """What differs between two versions."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    before: str
    """The first, as it was named."""
    after: str
    """The second."""
    changes: list[Change]
    """What they say differently."""
    entering: list[BranchChange]
    """Users who would enter by one only; `entered` stands for the branch."""
    splits: list[SplitChange]
    """Each element with several branches."""


def compare_versions(
    stores: Stores,
    before: tuple[str, Meant],
    after: tuple[str, Meant],
    rules: DeliveryRules | None = None,
    *,
    ids: bool = False,
) -> Comparison:
    """Compare two versions. Blocking; sends nothing, writes nothing.

    Args:
        stores: Tables, catalogue and ledger.
        before: How the first is called, and what it is.
        after: The second, over the same snapshot.
        rules: How pushes are delivered.
        ids: Whether users are named.

    Returns:
        What they say differently, and for how many users that makes a difference.

    Raises:
        NotFoundError: A reference leads nowhere.
        StoreUnavailable: A store cannot be reached.
    """
    first, second = (plan_passages(stores, meant, rules) for _, meant in (before, after))
    old, new = before[1].document, after[1].document
    entered = [plan.entered.with_columns(branch=pl.lit("entered")) for plan in (first, second)]
    names = [name for name in dict.fromkeys([*old.elements, *new.elements]) if _splits(old, name) or _splits(new, name)]
    return Comparison(
        before=before[0],
        after=after[0],
        changes=changes_between(old, new),
        entering=_moved(entered[0], entered[1], ids),
        splits=[_compared(name, first, second, ids) for name in names],
    )


def _splits(document: JourneyDocument, name: str) -> bool:
    return name in document.elements and len(ways_out(document.elements[name])) > 1


def _compared(name: str, first: Planned, second: Planned, ids: bool) -> SplitChange:
    taken = [_taken(plan, name) for plan in (first, second)]
    changed = _moved(taken[0], taken[1], ids)
    numbers = [plan.plan.elements.get(name) for plan in (first, second)]
    return SplitChange(
        element=name,
        before=numbers[0].branches if numbers[0] is not None else {},
        after=numbers[1].branches if numbers[1] is not None else {},
        other_branch=sum(one.users for one in changed if one.before is not None and one.after is not None),
        changed=changed,
        unknown=next((one.unknown for one in numbers if one is not None and one.unknown), None),
    )


def _taken(plan: Planned, name: str) -> pl.DataFrame:
    """Give the branch that each user takes at an element."""
    found = plan.passed[name].branches if name in plan.passed else {}
    parts = [users.select("user_id", branch=pl.lit(branch)) for branch, users in found.items()]
    return pl.concat([pl.DataFrame(schema=BRANCHES), *parts])


def _moved(before: pl.DataFrame, after: pl.DataFrame, ids: bool) -> list[BranchChange]:
    """Count the users whose branch is another one, by both branches."""
    both = before.join(after.rename({"branch": "other"}), on="user_id", how="full", coalesce=True)
    rows = both.filter(pl.col("branch").ne_missing(pl.col("other"))).sort("user_id")
    grouped = rows.group_by("branch", "other").agg("user_id").sort("branch", "other", nulls_last=True)
    return [
        BranchChange(before=branch, after=other, users=len(users), user_ids=users if ids else None)
        for branch, other, users in grouped.iter_rows()
    ]
