"""The numbers of a journey's version, counted from the ledger so that they always add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from activities.records.catalogue import SavedJourney
from activities.records.database import Database
from activities.records.rows import passages, pushes, refusals, steps
from workflows.contracts import ElementStats, State, Stats
from workflows.documents import Exit, Push, ways_out


@dataclass(frozen=True)
class Counts:
    """What the ledger holds of one version, read in one transaction.

    Attributes:
        entered: Passages by entry.
        open: Passages that are not closed.
        closed: Closed passages by (exit element or empty, reason).
        stopped_after: Passages closed outside an exit, by (entry, last element visited, branch taken there, reason).
        branches: Steps by (element, branch).
        outcomes: Steps by (element, outcome).
        devices: Pushes by (element, outcome).
        refused: Refusals by reason.
    """

    entered: Counter[str]
    open: int
    closed: Counter[tuple[str, str]]
    stopped_after: Counter[tuple[str, str, str, str]]
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
        The numbers: audience = entered + refused, entered = inside + exited, and into each element = inside it + out
        of its branches + left there.

    Raises:
        StoreUnavailable: The ledger cannot be read. Temporal retries.
    """
    counts = database.read(lambda connection: _counts(connection, saved.document.journey, version))
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
        inside=counts.open,
        exited=dict(sorted(exited.items())),
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
    for (entry_name, last, branch, reason), number in counts.stopped_after.items():
        at = saved.routes[last].to[branch] if last else ways_out(saved.document.entries[entry_name])["next"]
        left.setdefault(at, Counter())[reason] += number
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
            users=_of(counts.outcomes, name) if isinstance(element, Push) else {},
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
    entered = grouped(passages, passages.c.entry)
    return Counts(
        entered=entered,
        open=sum(entered.values()) - sum(closed.values()),
        closed=closed,
        stopped_after=_stopped(connection, journey, version),
        branches=grouped(steps, steps.c.element, steps.c.branch),
        outcomes=grouped(steps, steps.c.element, steps.c.outcome),
        devices=grouped(pushes, pushes.c.element, pushes.c.outcome),
        refused=grouped(refusals, refusals.c.reason),
    )


def _stopped(connection: Connection, journey: str, version: int) -> Counter[tuple[str, str, str, str]]:
    """Count passages that ended outside an exit by (entry, last element visited, branch taken there, reason)."""
    last = (
        select(steps.c.passage, func.max(steps.c.step).label("step"))
        .join(passages, passages.c.passage == steps.c.passage)
        .where(
            passages.c.journey == journey,
            passages.c.version == version,
            passages.c.closed_at.is_not(None),
            passages.c.exit.is_(None),
        )
        .group_by(steps.c.passage)
        .subquery()
    )
    columns = (passages.c.entry, steps.c.element, steps.c.branch, passages.c.reason)
    query = (
        select(*columns, func.count())
        .select_from(passages)
        .outerjoin(last, last.c.passage == passages.c.passage)
        .outerjoin(steps, (steps.c.passage == last.c.passage) & (steps.c.step == last.c.step))
        .where(
            passages.c.journey == journey,
            passages.c.version == version,
            passages.c.closed_at.is_not(None),
            passages.c.exit.is_(None),
        )
        .group_by(*columns)
    )
    return Counter(
        {
            (entry, element or "", branch or "", reason): number
            for entry, element, branch, reason, number in connection.execute(query)
        }
    )
