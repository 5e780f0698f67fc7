"""What each element but a push would do with the users who come to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import polars as pl

from activities.elements.split_test import variant_of
from activities.elements.time_delay import UNREADABLE_DATE
from activities.elements.update_user import NOTHING_TO_WRITE
from activities.planning.flow import NOBODY, Flow, Passed
from activities.planning.reading import Reading, compared_attributes
from activities.planning.timing import after_delay
from activities.segments.clock import Clock
from activities.segments.comparisons import Term, compare
from activities.tables.properties import typed_row
from workflows.documents import (
    ALL_OTHER_USERS,
    USERS_IN_SEGMENT,
    ConditionSplit,
    Element,
    ReachabilityCheck,
    SplitTest,
    TimeDelay,
    UpdateUser,
    ValueSplit,
    WaitForTrigger,
    Webhook,
    ways_out,
)
from workflows.operators import AttributeRef, Reference

UPDATED = "updated"


def pass_through(reading: Reading, name: str, element: Element, flow: Flow) -> Passed:
    """Pass the users who are certain to come through an element that is no push.

    Args:
        reading: The snapshot.
        name: The element's id.
        element: The element.
        flow: Who comes.

    Returns:
        Which branch each would take, and what cannot be known.
    """
    match element:
        case ConditionSplit():
            return _by_segment(reading, element, flow)
        case ValueSplit():
            return _by_value(reading, element, flow)
        case SplitTest():
            return _by_chance(reading, name, element, flow)
        case ReachabilityCheck():
            reachable = _reachable(reading, flow.users)
            return Passed(parted(flow.users, reachable, "reachable", "not_reachable"))
        case TimeDelay():
            return _held(reading, element, flow)
        case WaitForTrigger():
            return undecided(flow, "what users do is not known before", later=True)
        case UpdateUser():
            return _updated(reading, element, flow)
        case Webhook(branches=None):
            unknown = "" if flow.users.is_empty() else "what the other side answers is not known before"
            return Passed({"next": flow.users}, unknown=unknown)
        case Webhook():
            return undecided(flow, "what the other side answers is not known before")
        case _:
            return Passed(dict.fromkeys(ways_out(element), flow.users))


def undecided(flow: Flow, why: str, *, later: bool = False) -> Passed:
    """Let users take any branch."""
    unknown = "" if flow.is_empty else why
    return Passed({}, maybe=flow.users.select("user_id"), unknown=unknown, later=later)


def parted(users: pl.DataFrame, some: pl.DataFrame, here: str, there: str) -> dict[str, pl.DataFrame]:
    """Part users by whether they are among some."""
    return {
        here: users.join(some, on="user_id", how="semi"),
        there: users.join(some, on="user_id", how="anti"),
    }


def changed_before(attributes: frozenset[str]) -> str:
    """Say why something that reads what the journey itself writes is not known."""
    return f"the journey writes {', '.join(map(repr, sorted(attributes)))} before, for some users or all"


def _by_segment(reading: Reading, split: ConditionSplit, flow: Flow) -> Passed:
    if flow.changed and reading.reads(split.match, flow.changed):
        return undecided(flow, changed_before(flow.changed))
    members = reading.holders(split.match, flow.users)
    return Passed(parted(flow.users, members, USERS_IN_SEGMENT, ALL_OTHER_USERS))


def _by_value(reading: Reading, split: ValueSplit, flow: Flow) -> Passed:
    """Try the branches in order; users whom no event is known of have no value of one."""
    names = set(_names_read(split))
    if flow.changed & names:
        return undecided(flow, changed_before(flow.changed & names))
    rows = reading.attributes(flow.users, names)

    def term(reference: Reference) -> Term | None:
        if isinstance(reference, AttributeRef) and reference.attribute in reading.kinds:
            return Term(pl.col(f"user:{reference.attribute}"), reading.kinds[reference.attribute])
        return None

    def branch_of(some: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
        clock, taken = Clock(as_of, reading.zone), pl.lit(ALL_OTHER_USERS)
        for branch, comparison in reversed(list(split.branches.own.items())):
            test = compare(term(split.by), comparison, clock, term).fill_null(False)
            taken = pl.when(test).then(pl.lit(branch)).otherwise(taken)
        return some.select("user_id", "at", branch=taken)

    found = reading.by_moment(rows, branch_of) if rows.height else NOBODY.with_columns(branch=pl.lit(""))
    return Passed(
        {
            branch: found.filter(pl.col("branch") == branch).select("user_id", "at")
            for branch in (*split.branches.own, ALL_OTHER_USERS)
        }
    )


def _names_read(split: ValueSplit) -> Iterator[str]:
    if isinstance(split.by, AttributeRef):
        yield split.by.attribute
    for branch in split.branches.own.values():
        yield from compared_attributes(branch)


def _by_chance(reading: Reading, name: str, test: SplitTest, flow: Flow) -> Passed:
    journey = reading.document.journey
    winner = reading.stores.winners.winner(journey, name, test, look=True)
    if winner is not None:
        return Passed({branch: flow.users if branch == winner.branch else NOBODY for branch in test.branches})
    if test.assign == "anew":
        return undecided(flow, "the hash is of the run, which has no name before the launch")
    variants = [variant_of(test, journey, name, user) for user in flow.users.get_column("user_id").to_list()]
    rows = flow.users.with_columns(branch=pl.Series(variants, dtype=pl.String))
    return Passed({branch: rows.filter(pl.col("branch") == branch).select("user_id", "at") for branch in test.branches})


def _reachable(reading: Reading, users: pl.DataFrame) -> pl.DataFrame:
    snapshot = reading.stores.segments.snapshot(reading.versions)
    devices = reading.stores.profiles.reachable(snapshot.devices).select("user_id")
    return reading.stores.tables.collect(devices.join(users.lazy(), on="user_id", how="semi").unique())


def _held(reading: Reading, element: TimeDelay, flow: Flow) -> Passed:
    if isinstance(element.until, AttributeRef) and element.until.attribute in flow.changed:
        return undecided(flow, changed_before(frozenset({element.until.attribute})), later=True)
    going, unreadable = after_delay(reading, element, flow.users)
    return Passed({"next": going}, left=Counter({UNREADABLE_DATE: unreadable}), later=True)


def _updated(reading: Reading, element: UpdateUser, flow: Flow) -> Passed:
    """Count whom something is written for: users whom no event is known of have no value of one."""
    texts = {name: value for name, value in element.set.items() if isinstance(value, str)}
    written = typed_row(texts, reading.kinds, textual=False)
    changed = frozenset(element.set)
    if any(written.get_column(name).item() is not None for name in written.columns):
        return Passed({"next": flow.users}, outcomes=Counter({UPDATED: flow.users.height}), changed=changed)
    names = [value.attribute for value in element.set.values() if isinstance(value, AttributeRef)]
    if flow.changed & set(names):
        return Passed({"next": flow.users}, unknown=changed_before(flow.changed & set(names)), changed=changed)
    rows = reading.attributes(flow.users, names)
    columns = [f"user:{name}" for name in names if f"user:{name}" in rows.columns]
    some = rows.filter(pl.any_horizontal(pl.col(columns).is_not_null())).height if columns else 0
    outcomes = Counter({UPDATED: some, NOTHING_TO_WRITE: rows.height - some})
    return Passed({"next": flow.users}, outcomes=outcomes, changed=changed)
