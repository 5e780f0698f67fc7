"""The numbers of a journey's version, counted from the ledger so that they always add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from activities.records.catalogue import SavedJourney
from activities.records.database import Database
from activities.records.rows import conversions, moves, passages, pushes, refusals, steps
from workflows.contracts import ElementStats, GoalStats, State, Stats
from workflows.documents import Exit, Push, SplitTest, UpdateUser, Webhook, ways_out

MOVED = "moved"
"""Why a user is not at an element any more who went on in another version."""

ACTING = (Push, UpdateUser, Webhook)
"""Elements whose users are counted by outcome."""


@dataclass(frozen=True)
class Whereabouts:
    """Where a passage is, or was when it was closed outside an exit.

    Attributes:
        entry: The entry taken.
        last: The last element visited; None for none.
        branch: The branch taken there.
        moved_to: The element at which the passage went on in its version, after that visit; None where it did not.
    """

    entry: str
    last: str | None
    branch: str | None
    moved_to: str | None

    def element_in(self, saved: SavedJourney) -> str:
        """Name the element in the passage's version."""
        if self.moved_to is not None:
            return self.moved_to
        if self.last is not None and self.branch is not None:
            return saved.routes[self.last].to[self.branch]
        return ways_out(saved.document.entries[self.entry])["next"]


@dataclass(frozen=True)
class Counts:
    """What the ledger holds of one version, read in one transaction.

    Attributes:
        entered: Passages that entered in it, by entry.
        open: Passages in it that are not closed.
        closed: Closed passages in it by (exit element or empty, reason).
        stopped: Passages in it that were closed outside an exit, by (where, reason).
        moved_in: Passages that came from another version, by the element where they go on.
        moved_out: Passages that went on in another version, by the element where they were.
        branches: Steps by (element, branch).
        outcomes: Steps by (element, outcome).
        devices: Pushes by (element, outcome).
        refused: Refusals by reason.
    """

    entered: Counter[str]
    open: int
    closed: Counter[tuple[str, str]]
    stopped: Counter[tuple[Whereabouts, str]]
    moved_in: Counter[str]
    moved_out: Counter[str]
    branches: Counter[tuple[str, str]]
    outcomes: Counter[tuple[str, str]]
    devices: Counter[tuple[str, str]]
    refused: Counter[str]


def count(database: Database, saved: SavedJourney, version: int, state: State, as_of: datetime) -> Stats:
    """Count where everybody is.

    Args:
        database: Where the ledger is kept.
        saved: The journey's version.
        version: Its number.
        state: The journey's state.
        as_of: The instant of the count, UTC.

    Returns:
        The numbers: audience = entered + refused, entered + moved in = inside + exited + moved out, and into each
        element = inside it + out of its branches + left there.

    Raises:
        StoreUnavailable: The ledger cannot be read. Temporal retries.
    """
    counts, goals = database.read(
        lambda connection: (
            _counts(connection, saved.document.journey, version),
            _goals(connection, saved, version),
        )
    )
    exited: Counter[str] = Counter()
    for (_, reason), number in counts.closed.items():
        exited[reason] += number
    entered = sum(counts.entered.values())
    return Stats(
        journey=saved.document.journey,
        version=version,
        state=state,
        as_of=as_of,
        audience=entered + sum(counts.refused.values()),
        entered=entered,
        refused=dict(sorted(counts.refused.items())),
        moved_in=counts.moved_in.total(),
        inside=counts.open,
        exited=dict(sorted(exited.items())),
        moved_out=counts.moved_out.total(),
        goals=goals,
        entries={name: counts.entered[name] for name in saved.document.entries},
        elements=_elements(saved, counts),
    )


def _elements(saved: SavedJourney, counts: Counts) -> dict[str, ElementStats]:
    """Derive each element's numbers from what was counted and from the graph."""
    arrived: Counter[str] = Counter()
    left: dict[str, Counter[str]] = {}
    for name, entry in saved.document.entries.items():
        arrived[ways_out(entry)["next"]] += counts.entered[name]
    for (source, branch), number in counts.branches.items():
        arrived[saved.routes[source].to[branch]] += number
    for (exit_element, reason), number in counts.closed.items():
        if exit_element:
            left.setdefault(exit_element, Counter())[reason] += number
    for (whereabouts, reason), number in counts.stopped.items():
        left.setdefault(whereabouts.element_in(saved), Counter())[reason] += number
    arrived.update(counts.moved_in)
    for element_id, number in counts.moved_out.items():
        left.setdefault(element_id, Counter())[MOVED] += number
    found: dict[str, ElementStats] = {}
    for name, element in saved.document.elements.items():
        branches = {branch: counts.branches[name, branch] for branch in ways_out(element)}
        gone = left.get(name, Counter())
        if isinstance(element, Exit):
            gone.setdefault("end", 0)
        found[name] = ElementStats(
            arrived=arrived[name],
            inside=arrived[name] - sum(branches.values()) - sum(gone.values()),
            branches=branches,
            left=dict(sorted(gone.items())),
            users=_of(counts.outcomes, name) if isinstance(element, ACTING) else {},
            devices=_of(counts.devices, name) if isinstance(element, Push) else {},
        )
    return found


def _of(counter: Counter[tuple[str, str]], element: str) -> dict[str, int]:
    return {outcome: number for (name, outcome), number in sorted(counter.items()) if name == element}


def _counts(connection: Connection, journey: str, version: int) -> Counts:
    """Count by the database's own grouping."""

    def grouped(table: Any, *columns: Any, where: Any = None) -> Counter[Any]:
        query = (
            select(*columns, func.count())
            .where(table.c.journey == journey, table.c.version == version)
            .group_by(*columns)
        )
        if where is not None:
            query = query.where(where)
        rows = connection.execute(query)
        return Counter({(key[0] if len(key) == 1 else tuple(key)): number for *key, number in rows})

    closed = Counter(
        {
            (element or "", reason): number
            for (element, reason), number in grouped(
                passages, passages.c.exit, passages.c.reason, where=passages.c.closed_at.is_not(None)
            ).items()
        }
    )
    entered = Counter(
        {
            row.entry: row.number
            for row in connection.execute(
                select(passages.c.entry, func.count().label("number"))
                .where(passages.c.journey == journey, passages.c.entered_version == version)
                .group_by(passages.c.entry)
            )
        }
    )
    inside = (passages.c.journey == journey, passages.c.version == version, passages.c.closed_at.is_(None))
    ended = (passages.c.journey == journey, passages.c.version == version, passages.c.closed_at.is_not(None))
    return Counts(
        entered=entered,
        open=connection.execute(select(func.count()).select_from(passages).where(*inside)).scalar_one(),
        closed=closed,
        stopped=Counter(
            {
                (whereabouts, reason): number
                for whereabouts, reason, number in _located(connection, *ended, passages.c.exit.is_(None))
            }
        ),
        moved_in=_moved(connection, journey, moves.c.to_version == version, moves.c.to_element),
        moved_out=_moved(connection, journey, moves.c.from_version == version, moves.c.from_element),
        branches=grouped(steps, steps.c.element, steps.c.branch),
        outcomes=grouped(steps, steps.c.element, steps.c.outcome),
        devices=grouped(pushes, pushes.c.element, pushes.c.outcome),
        refused=grouped(refusals, refusals.c.reason),
    )


def _moved(connection: Connection, journey: str, where: Any, column: Any) -> Counter[str]:
    query = select(column, func.count()).where(moves.c.journey == journey, where).group_by(column)
    return Counter({element: number for element, number in connection.execute(query)})


def whereabouts_of(*where: Any) -> tuple[Any, Any]:
    """Give the columns that tell where some passages are, and what they are selected from."""
    last = (
        select(steps.c.passage, func.max(steps.c.step).label("step"))
        .join(passages, passages.c.passage == steps.c.passage)
        .where(*where)
        .group_by(steps.c.passage)
        .subquery()
    )
    tables = (
        passages.outerjoin(last, last.c.passage == passages.c.passage)
        .outerjoin(steps, (steps.c.passage == last.c.passage) & (steps.c.step == last.c.step))
        .outerjoin(
            moves,
            (moves.c.passage == passages.c.passage)
            & (moves.c.to_version == passages.c.version)
            & (moves.c.step > func.coalesce(last.c.step, 0)),
        )
    )
    return (passages.c.entry, steps.c.element, steps.c.branch, moves.c.to_element), tables


def _located(connection: Connection, *where: Any) -> Iterator[tuple[Whereabouts, str, int]]:
    """Count passages by where they are and why they were closed."""
    columns, tables = whereabouts_of(*where)
    columns = (*columns, passages.c.reason)
    query = select(*columns, func.count().label("number")).select_from(tables).where(*where).group_by(*columns)
    for row in connection.execute(query):
        yield Whereabouts(row.entry, row.element, row.branch, row.to_element), row.reason or "", row.number


@dataclass(frozen=True)
class Inside:
    """One passage that is open.

    Attributes:
        passage: Its id.
        user_id: Whose.
        key: The key of a keyed run.
        version: The version that it is in.
        whereabouts: Where it is.
    """

    passage: str
    user_id: str
    key: str
    version: int
    whereabouts: Whereabouts


def everybody_inside(database: Database, journey: str, user_id: str | None = None) -> list[Inside]:
    """List the open passages of a journey, in all versions, with where each is. Blocking.

    Args:
        database: Where the ledger is kept.
        journey: The journey.
        user_id: Only those of this user.

    Raises:
        StoreUnavailable: The ledger cannot be read. Temporal retries.
    """
    where = [passages.c.journey == journey, passages.c.closed_at.is_(None)]
    if user_id is not None:
        where.append(passages.c.user_id == user_id)
    columns, tables = whereabouts_of(*where)
    own = (passages.c.passage, passages.c.user_id, passages.c.key, passages.c.version)
    query = select(*own, *columns).select_from(tables).where(*where)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [
        Inside(
            row.passage,
            row.user_id,
            row.key,
            row.version,
            Whereabouts(row.entry, row.element, row.branch, row.to_element),
        )
        for row in rows
    ]


def _goals(connection: Connection, saved: SavedJourney, version: int) -> dict[str, GoalStats]:
    """Count conversions by goal, by the push they are attributed to, and by the variants of split tests."""
    own = (conversions.c.journey == saved.document.journey, conversions.c.version == version)
    by_element: dict[str, Counter[str]] = {}
    for goal, element, number in connection.execute(
        select(conversions.c.goal, conversions.c.element, func.count())
        .where(*own)
        .group_by(conversions.c.goal, conversions.c.element)
    ):
        by_element.setdefault(goal, Counter())[element or ""] += number
    tests = [name for name, element in saved.document.elements.items() if isinstance(element, SplitTest)]
    by_variant: dict[str, dict[str, dict[str, int]]] = {}
    for goal, element, branch, number in connection.execute(
        select(conversions.c.goal, steps.c.element, steps.c.branch, func.count())
        .join(steps, steps.c.passage == conversions.c.passage)
        .where(*own, steps.c.element.in_(tests))
        .group_by(conversions.c.goal, steps.c.element, steps.c.branch)
    ):
        by_variant.setdefault(goal, {}).setdefault(element, {})[branch] = number
    return {
        goal: GoalStats(
            converted=by_element.get(goal, Counter()).total(),
            by_element={name: number for name, number in sorted(by_element.get(goal, {}).items()) if name},
            by_variant=by_variant.get(goal, {}),
        )
        for goal in saved.document.goals
    }
