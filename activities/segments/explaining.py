"""Says why one user is in a segment or not: every leaf with the value found, and whether it is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl

from activities.segments.clock import Clock
from activities.segments.compiler import Built, Compiler, Resolver, Snapshot
from activities.segments.plans import narrowed
from activities.segments.sums import shown_sum
from activities.segments.values import shown
from activities.segments.wording import worded
from activities.tables.schema import kind_of
from workflows.conditions import (
    All,
    Any_,
    AnyDevice,
    AttributeTest,
    Condition,
    DeviceTest,
    EventTest,
    Not,
    PropertyTest,
    SegmentRef,
)
from workflows.errors import NotFoundError

Tree: TypeAlias = dict[str, Any]
"""`node`: `all`, `any`, `not` or `leaf`; `text`; `value`, null when missing; `true`; `children`. JSON data."""


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
        return {"node": "leaf", "text": worded(node), "value": self.value(node, true), "true": true, "children": []}

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


def _combined(node: str, text: str, children: list[Tree], holds: Callable[[list[bool]], bool]) -> Tree:
    true = holds([child["true"] for child in children])
    return {"node": node, "text": text, "value": None, "true": true, "children": children}


def _values(frame: pl.LazyFrame, column: str) -> list[Any]:
    schema = frame.collect_schema()
    if column not in schema:
        return []
    kind = kind_of(schema[column])
    return [shown(value, kind) for value in frame.select(column).collect().to_series().to_list()]
