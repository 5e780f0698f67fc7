"""Says why one user is in a segment or not: every leaf with the value found, and whether it is true.

Below a test of devices stand the user's devices, and below a test of events with `where` the newest of those events,
each with every part of the condition: a part is true of one device and false of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl

from activities.segments.clock import Clock
from activities.segments.comparisons import Refer, Term
from activities.segments.compiler import OF_USER, Built, Compiler, Resolver, Snapshot
from activities.segments.plans import narrowed
from activities.segments.predicates import Kinds, columns, row_predicate
from activities.segments.sums import shown_sum
from activities.segments.values import shown
from activities.segments.wording import worded
from activities.tables.schema import kind_of
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeRef,
    AttributeTest,
    Condition,
    DeviceTest,
    EventTest,
    Not,
    PropertyTest,
    Reference,
    SegmentRef,
)
from workflows.errors import NotFoundError

Tree: TypeAlias = dict[str, Any]
"""`node`: `all`, `any`, `not` or `leaf`; `text`; `value`, null when missing; `true`; `children`. JSON data.

A `leaf` has children where it looks at several rows: an `all` for each device or event that is shown, whose children
are the parts of its condition, and a `leaf` that counts events, or the rows that are not shown.
"""

MOST_DEVICES = 10
MOST_EVENTS = 3
"""How many devices, and how many events for each test, are shown one by one."""


def leaf_table(
    condition: Condition, snapshot: Snapshot, *, as_of: datetime, zone: str, resolve: Resolver, user_id: str
) -> Tree:
    """Explain a condition for one user.

    Args:
        condition: The condition.
        snapshot: The tables.
        as_of: The instant of the evaluation, aware.
        zone: The zone of calendar days. A nested segment keeps its own.
        resolve: Answers what references to segments and files stand for.
        user_id: The user.

    Returns:
        The condition as a tree. A segment that is a condition is an `all` of that condition, with the segment's name.
        At most `MOST_DEVICES` devices and `MOST_EVENTS` events are shown one by one; the others are counted.

    Raises:
        NotFoundError: There is no such user, or a reference leads nowhere.
        DefinitionError: The condition does not fit the tables.
    """
    own = Snapshot(*(_of_user(frame, user_id) for frame in (snapshot.users, snapshot.devices, snapshot.events)))
    if own.users.collect().is_empty():
        raise NotFoundError(f"there is no user {user_id!r}: `journeys tables` counts those that were imported")
    return _Explainer(Compiler(own, Clock(as_of, zone), resolve)).tree(condition)


def _of_user(frame: pl.LazyFrame, user_id: str) -> pl.LazyFrame:
    return frame.filter(pl.col("user_id") == pl.lit(user_id)).collect().lazy()


@dataclass(frozen=True)
class _Explainer:
    compiler: Compiler
    """Compiles against tables that hold nothing but the one user's rows."""

    def tree(self, node: Condition) -> Tree:
        match node:
            case All():
                return _combined("all", "all of", [self.tree(child) for child in node.all], all)
            case Any_():
                return _combined("any", "any of", [self.tree(child) for child in node.any], any)
            case Not():
                return _combined("not", "not", [self.tree(node.not_)], lambda true: not all(true))
            case SegmentRef():
                meant = self.compiler.resolve.segment(node)
                if isinstance(meant, Built):
                    nested = _Explainer(self.compiler.inside(node, meant))
                    return _combined("all", worded(node), [nested.tree(meant.condition)], all)
        plan = self.compiler.plan(node)
        true = not narrowed(self.compiler.snapshot.users, plan).collect().is_empty()
        return _leaf(worded(node), self.value(node, true), true, self.evidence(node))

    def value(self, node: Condition, true: bool) -> Any:
        """Give what was found: a value, one for each device, a number of events, a sum, or whether a list has it."""
        match node:
            case AttributeTest(attribute=name):
                found = _values(self.compiler.snapshot.users, name)
                return found[0] if found else None
            case DeviceTest(device=name):
                return _values(self.compiler.snapshot.devices, name)
            case AnyDevice():
                return _values(self.compiler.matching_devices(node), "device_id")
            case EventTest(sum=None):
                return self.compiler.matching_events(node).select(pl.len()).collect().item()
            case EventTest(sum=test) if test is not None:
                return shown_sum(self.compiler.matching_events(node), test, self.compiler.events.get(test.property))
            case PropertyTest():
                return None
            case _:
                return true

    def evidence(self, node: Condition) -> list[Tree]:
        """Show the rows behind a leaf, each with the parts of the condition on it; none where its value says it all."""
        match node:
            case AnyDevice(any_device=test):
                return self.devices(test)
            case EventTest(where=test) if test is not None:
                return self.events(node, test)
            case _:
                return []

    def devices(self, test: Condition) -> list[Tree]:
        """Show the user's devices: those for which the condition is true first, else in the order of the table."""
        kinds, clock = self.compiler.devices, self.compiler.clock
        true = row_predicate(test, "attribute", kinds, clock, columns(kinds)).fill_null(False)
        found = self.compiler.snapshot.devices.sort(true, descending=True, maintain_order=True).collect()
        rows = _Rows(found.head(MOST_DEVICES), "attribute", kinds, clock, columns(kinds))
        texts = [f"device {device}" for device in rows.frame.get_column("device_id")]
        return _shown(texts, rows.trees(test), found.height, found.filter(true).height, "device")

    def events(self, node: EventTest, where: Condition) -> list[Tree]:
        """Show how many events a test finds before `where` narrows them, and the newest of them."""
        users, kinds, clock = self.compiler.users, self.compiler.events, self.compiler.clock

        def refer(reference: Reference) -> Term | None:
            if not isinstance(reference, AttributeRef):
                return columns(kinds)(reference)
            known = users.get(reference.attribute)
            return None if known is None else Term(pl.col(OF_USER + reference.attribute), known)

        window = node.model_copy(update={"where": None, "count": None, "sum": None})
        # Without columns that the compiler adds for its own references.
        found = self.compiler.matching_events(window).select(list(kinds)).sort("at", descending=True).collect()
        own = self.compiler.snapshot.users.select("user_id", pl.all().name.prefix(OF_USER)).collect()
        rows = _Rows(
            found.head(MOST_EVENTS).join(own, on="user_id", maintain_order="left"), "property", kinds, clock, refer
        )
        texts = [f"{node.event} at {shown(at, 'instant')}" for at in rows.frame.get_column("at")]
        true = self.compiler.matching_events(node).select(pl.len()).collect().item()
        counted = _leaf(f"{worded(window)}, whatever `where` says", found.height, found.height > 0, [])
        return [counted, *_shown(texts, rows.trees(where), found.height, true, "event")]


@dataclass(frozen=True)
class _Rows:
    """Some rows of one table, and what a condition over its columns is compiled with: see `row_predicate`."""

    frame: pl.DataFrame
    subject: str
    kinds: Kinds
    clock: Clock
    refer: Refer

    def trees(self, node: Condition) -> list[Tree]:
        """Explain a condition for each of the rows."""
        match node:
            case All():
                return [_combined("all", "all of", parts, all) for parts in self.parts(node.all)]
            case Any_():
                return [_combined("any", "any of", parts, any) for parts in self.parts(node.any)]
            case Not():
                return [_combined("not", "not", parts, lambda true: not all(true)) for parts in self.parts([node.not_])]
        test = row_predicate(node, self.subject, self.kinds, self.clock, self.refer).fill_null(False)
        # As a column: the literal of a test that no row passes would be one value for all of them.
        true = self.frame.with_columns(test.alias("\x1ftrue")).get_column("\x1ftrue").to_list()
        name = node.attribute if isinstance(node, AttributeTest) else getattr(node, "property", "")
        values = _values(self.frame.lazy(), name) or [None] * len(true)
        return [_leaf(worded(node), value, holds, []) for value, holds in zip(values, true, strict=True)]

    def parts(self, nodes: Iterable[Condition]) -> list[list[Tree]]:
        """Explain conditions that stand together, for each of the rows."""
        return [list(parts) for parts in zip(*map(self.trees, nodes), strict=True)]


def _shown(texts: list[str], trees: list[Tree], rows: int, true: int, what: str) -> list[Tree]:
    """Give each row that is shown as an `all` of the condition's parts, and a leaf for the others.

    Args:
        texts: What each of the rows shown is called.
        trees: The condition, explained for each of them.
        rows: How many rows there are.
        true: For how many of all rows the condition is true.
        what: What a row is, for the leaf of the others.

    Returns:
        The nodes.
    """
    nodes = []
    for text, tree in zip(texts, trees, strict=True):
        nodes.append(_combined("all", text, tree["children"] if tree["node"] == "all" else [tree], all))
    if more := rows - len(nodes):
        rest = true - sum(node["true"] for node in nodes)
        nodes.append(_leaf(f"{more:,} more {what}{'' if more == 1 else 's'}, true of {rest:,}", None, rest > 0, []))
    return nodes


def _leaf(text: str, value: Any, true: bool, children: list[Tree]) -> Tree:
    return {"node": "leaf", "text": text, "value": value, "true": true, "children": children}


def _combined(node: str, text: str, children: list[Tree], holds: Callable[[list[bool]], bool]) -> Tree:
    true = holds([child["true"] for child in children])
    return {"node": node, "text": text, "value": None, "true": true, "children": children}


def _values(frame: pl.LazyFrame, column: str) -> list[Any]:
    schema = frame.collect_schema()
    if column not in schema:
        return []
    kind = kind_of(schema[column])
    return [shown(value, kind) for value in frame.select(column).collect().to_series().to_list()]
