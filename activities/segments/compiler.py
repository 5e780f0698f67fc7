"""Compiles a condition to polars: one lazy query that gives the users for whom it is true.

A condition becomes a plan of three parts. *Rows* is an expression over the columns of `users`: all tests of attributes
that stand together become one filter. *Member* says that a user is, or is not, among the ids that another query finds:
events, devices and imported segments become semi and anti joins. *Both* and *Either* combine them. A count that can be
zero is compiled from its opposite, so that users without events need no row of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Protocol

import polars as pl

from activities.segments.clock import Clock
from activities.segments.comparisons import ALWAYS, Term, compare, every
from activities.segments.nesting import LEVELS_LIMIT
from activities.segments.plans import Member, Plan, Rows, both, either, narrowed, negated
from activities.segments.predicates import (
    Kinds,
    columns,
    comparison_expr,
    device_predicate,
    event_predicate,
    row_predicate,
)
from activities.segments.sums import sum_plan
from activities.tables.schema import kind_of
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeRef,
    AttributeTest,
    Condition,
    DeviceTest,
    EntryRef,
    EventTest,
    Everyone,
    FileRef,
    Not,
    PropertyTest,
    Reference,
    SegmentRef,
    walk,
)
from workflows.errors import DefinitionError, Fault
from workflows.operators import RELATIVE_OPERATORS, Operators

__all__ = [
    "Built",
    "Compiler",
    "Imported",
    "Resolver",
    "Snapshot",
    "comparison_expr",
    "device_predicate",
    "event_predicate",
    "is_timeless",
    "select_users",
]


OF_USER = "\x1fuser "
"""Before the names of the user's attributes beside his events: no import writes a control character."""


@dataclass(frozen=True)
class Snapshot:
    """One version of each table.

    Attributes:
        users: One row per user: `user_id: String`, unique and never null, and attributes.
        devices: One row per device: `device_id`, `user_id`, `platform` and other attributes.
        events: One row per event: `user_id`, `event`, `at` in UTC, `event_id`, and properties.
    """

    users: pl.LazyFrame
    devices: pl.LazyFrame
    events: pl.LazyFrame


@dataclass(frozen=True)
class Built:
    """A segment that is a condition.

    Attributes:
        condition: The condition.
        zone: The zone of its calendar days.
    """

    condition: Condition
    zone: str


@dataclass(frozen=True)
class Imported:
    """A segment that is a list of ids.

    Attributes:
        members: One column `user_id`, each user once.
    """

    members: pl.LazyFrame


class Resolver(Protocol):
    """Answers what references to segments and files stand for."""

    def segment(self, ref: SegmentRef) -> Built | Imported:
        """Give what a reference to a segment stands for; raises NotFoundError."""
        ...

    def file(self, ref: FileRef) -> Imported:
        """Give the members of a file; raises NotFoundError."""
        ...


def select_users(
    condition: Condition, snapshot: Snapshot, *, as_of: datetime, zone: str, resolve: Resolver
) -> pl.LazyFrame:
    """Compile a condition to the query of its users.

    Args:
        condition: What they have in common.
        snapshot: The tables.
        as_of: The instant of the evaluation, aware.
        zone: The zone of calendar days. A nested segment keeps its own.
        resolve: Answers what references to segments and files stand for.

    Returns:
        One column `user_id: String`, each user once, in no order; nothing is read until it is collected.

    Raises:
        DefinitionError: The condition does not fit the tables; `check_condition` finds such faults with their places.
        NotFoundError: A reference leads nowhere.
        ValueError: `as_of` has no zone.
    """
    if as_of.utcoffset() is None:
        raise ValueError(f"as_of has no zone: {as_of!r}")
    plan = Compiler(snapshot, Clock(as_of, zone), resolve).plan(condition)
    return narrowed(snapshot.users, plan).select("user_id")


def is_timeless(condition: Condition, resolve: Resolver) -> bool:
    """Tell whether the answer stays the same while the tables do, whatever the time.

    Args:
        condition: A condition.
        resolve: Answers what references to segments stand for.

    Returns:
        False when it, or a segment it refers to, compares with the clock.

    Raises:
        NotFoundError: A reference leads nowhere.
    """
    return _is_timeless(condition, resolve, 0)


def _is_timeless(condition: Condition, resolve: Resolver, depth: int) -> bool:
    for _, node in walk(condition):
        if isinstance(node, Operators) and RELATIVE_OPERATORS & node.operators.keys():
            return False
        if isinstance(node, SegmentRef):
            meant = resolve.segment(node)
            if isinstance(meant, Built) and not _is_timeless(meant.condition, resolve, nested(node, depth)):
                return False
    return True


def nested(ref: SegmentRef, depth: int) -> int:
    """Count a segment in a segment; raises DefinitionError where it is one too many, whoever resolves references."""
    if depth >= LEVELS_LIMIT:
        message = (
            f"the segment {ref.segment!r} lies more than {LEVELS_LIMIT} segments deep in others, or contains itself"
        )
        raise DefinitionError([Fault(code="too-deep", message=message)])
    return depth + 1


@dataclass(frozen=True)
class Compiler:
    """Turns conditions into plans.

    Attributes:
        snapshot: The tables.
        clock: Now, and the zone of calendar days.
        resolve: Answers what references to segments and files stand for.
        depth: How many segments this one is nested in.
    """

    snapshot: Snapshot
    clock: Clock
    resolve: Resolver
    depth: int = 0

    @cached_property
    def users(self) -> Kinds:
        """The columns of `users`."""
        return _kinds(self.snapshot.users)

    @cached_property
    def devices(self) -> Kinds:
        """The columns of `devices`."""
        return _kinds(self.snapshot.devices)

    @cached_property
    def events(self) -> Kinds:
        """The columns of `events`."""
        return _kinds(self.snapshot.events)

    def plan(self, node: Condition) -> Plan:
        """Compile a condition over users."""
        match node:
            case All():
                return both([self.plan(child) for child in node.all])
            case Any_():
                return either([self.plan(child) for child in node.any])
            case Not():
                return negated(self.plan(node.not_))
            case Everyone():
                return Rows(ALWAYS)
            case EventTest():
                return self.event_plan(node)
            case SegmentRef():
                return self.segment_plan(node)
            case FileRef():
                return Member(self.resolve.file(node).members.select("user_id"))
            case DeviceTest() | AnyDevice():
                return Member(self.matching_devices(node).select("user_id"))
            case AttributeTest() | PropertyTest():
                return Rows(row_predicate(node, "attribute", self.users, self.clock, self.refer))

    def segment_plan(self, node: SegmentRef) -> Plan:
        """Compile a reference: a condition in the place where it stands, an imported segment as a join."""
        meant = self.resolve.segment(node)
        if isinstance(meant, Imported):
            return Member(meant.members.select("user_id"))
        return self.inside(node, meant).plan(meant.condition)

    def inside(self, ref: SegmentRef, meant: Built) -> Compiler:
        """Give the compiler for a nested segment: at the same instant, in the segment's own zone."""
        return replace(self, clock=Clock(self.clock.as_of, meant.zone), depth=nested(ref, self.depth))

    def refer(self, reference: Reference) -> Term | None:
        """Give what a reference in a test of an attribute stands for."""
        if isinstance(reference, AttributeRef):
            return columns(self.users)(reference)
        raise _no_such_value(reference)

    def matching_devices(self, node: DeviceTest | AnyDevice) -> pl.LazyFrame:
        """Give the devices for which a test is true."""
        refer = columns(self.devices)
        if isinstance(node, AnyDevice):
            test = row_predicate(node.any_device, "attribute", self.devices, self.clock, refer)
        else:
            kind = self.devices.get(node.device)
            test = compare(None if kind is None else Term(pl.col(node.device), kind), node, self.clock, refer)
        return self.snapshot.devices.filter(test)

    def matching_events(self, node: EventTest) -> pl.LazyFrame:
        """Give the events that a test counts or sums: of its name, in its window, with all of `where` true."""
        asked: dict[str, pl.Expr] = {}

        def refer(reference: Reference) -> Term | None:
            if isinstance(reference, EntryRef):
                raise _no_such_value(reference)
            if not isinstance(reference, AttributeRef):
                return columns(self.events)(reference)
            if (kind := self.users.get(reference.attribute)) is None:
                return None
            name = OF_USER + reference.attribute
            asked[name] = pl.col(reference.attribute).alias(name)
            return Term(pl.col(name), kind)

        tests = [compare(Term(pl.col("at"), "instant"), node, self.clock, refer)] if node.operators else []
        if node.where is not None:
            tests.append(row_predicate(node.where, "property", self.events, self.clock, refer))
        named = pl.col("event") == pl.lit(node.event)
        if not asked:
            return self.snapshot.events.filter(every([named, *tests]))
        attributes = self.snapshot.users.select("user_id", *asked.values())
        return self.snapshot.events.filter(named).join(attributes, on="user_id").filter(every(tests))

    def event_plan(self, node: EventTest) -> Plan:
        """Compile a test of events."""
        events = self.matching_events(node)
        if node.sum is not None:
            return sum_plan(events, node.sum, self.events.get(node.sum.property))
        least, most = (1, None) if node.count is None else node.count.limits
        if least == 0 and most is None:
            return Rows(ALWAYS)
        if least == 0:
            return Member(_counted(events, (most or 0) + 1, None), inside=False)
        return Member(_counted(events, least, most))


def _kinds(frame: pl.LazyFrame) -> Kinds:
    return {name: kind_of(dtype) for name, dtype in frame.collect_schema().items()}


def _counted(events: pl.LazyFrame, least: int, most: int | None) -> pl.LazyFrame:
    """Give the users with some number of events, at least one."""
    if least == 1 and most is None:
        return events.select("user_id")
    number = pl.col("number")
    enough = number >= least if most is None else (number >= least) & (number <= most)
    return events.group_by("user_id").agg(pl.len().alias("number")).filter(enough).select("user_id")


def _no_such_value(reference: Reference) -> DefinitionError:
    known = "only inside `where`" if not isinstance(reference, EntryRef) else "only where one user is judged"
    written = reference.model_dump(by_alias=True, exclude_unset=True)
    return DefinitionError([Fault(code="misplaced", message=f"{written} has a value {known}")])
