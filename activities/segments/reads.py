"""Which columns a condition reads, so that an evaluation takes no others into its hands."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from activities.segments.compiler import Built, Resolver, nested
from activities.tables.kept_columns import Reading
from activities.tables.schema import TableName
from workflows.conditions import (
    AnyDevice,
    AttributeRef,
    AttributeTest,
    Condition,
    DeviceTest,
    EventTest,
    PropertyRef,
    PropertyTest,
    SegmentRef,
    duration,
    walk,
)
from workflows.operators import Operators

KEYS: dict[TableName, frozenset[str]] = {
    "users": frozenset({"user_id"}),
    "devices": frozenset({"user_id"}),
    "events": frozenset({"user_id", "event", "at"}),
}
"""The columns that are read of a table in any case."""

_Columns: TypeAlias = set[tuple[TableName, str]]


def readings_of(condition: Condition, resolve: Resolver, as_of: datetime) -> dict[TableName, Reading]:
    """Tell what the query of a condition reads.

    Args:
        condition: A condition, compiled by `select_users`.
        resolve: Answers what references to segments stand for, as for the compiler.
        as_of: The instant of the evaluation, aware.

    Returns:
        For each table that is read, `users` always, names of columns, whether the table has them or not; of events
        also since when, where each test of them looks back for some time only.

    Raises:
        DefinitionError: A segment contains itself.
        NotFoundError: A reference leads nowhere.
    """
    found: _Columns = {("users", "user_id")}
    begins: list[datetime | None] = []
    _collect(condition, resolve, as_of, 0, found, begins)
    # A test without a window may ask for any event.
    windows = [begin for begin in begins if begin is not None]
    since = {"events": min(windows)} if windows and len(windows) == len(begins) else {}
    return {
        table: Reading(keys | {column for of, column in found if of == table}, since.get(table))
        for table, keys in KEYS.items()
        if any(of == table for of, _ in found)
    }


def _collect(
    condition: Condition,
    resolve: Resolver,
    as_of: datetime,
    depth: int,
    found: _Columns,
    begins: list[datetime | None],
) -> None:
    for path, node in walk(condition):
        # Inside `any_device` an attribute is the device's, and so it is in what a device's attribute is compared with.
        of: TableName = "devices" if "any_device" in path or isinstance(node, DeviceTest) else "users"
        match node:
            case AttributeTest(attribute=name):
                found.add((of, name))
            case DeviceTest(device=name):
                found.add(("devices", name))
            case AnyDevice():
                found.add(("devices", "user_id"))
            case PropertyTest(property=name):
                found.add(("events", name))
            case EventTest():
                found.add(("events", "event" if node.sum is None else node.sum.property))
                begins.append(_begin(node, as_of))
            case SegmentRef():
                meant = resolve.segment(node)
                if isinstance(meant, Built):
                    _collect(meant.condition, resolve, as_of, nested(node, depth), found, begins)
        if isinstance(node, Operators):
            found.update(_compared(node, of))


def _compared(node: Operators, of: TableName) -> _Columns:
    """Give the columns that a test compares with."""
    columns: _Columns = set()
    for value in node.operands:
        if isinstance(value, AttributeRef):
            columns.add((of, value.attribute))
        elif isinstance(value, PropertyRef):
            columns.add(("events", value.property))
    return columns


def _begin(node: EventTest, as_of: datetime) -> datetime | None:
    """Give the earliest instant at which an event counts for a test; None where there is none."""
    lasting = node.operators.get("within_last")
    return None if lasting is None else as_of - duration(lasting)
