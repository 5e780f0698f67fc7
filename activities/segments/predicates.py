"""Conditions over the columns of one table, as one boolean expression: devices, events, and branches of a split."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import polars as pl

from activities.segments.clock import Clock
from activities.segments.comparisons import Refer, Term, compare, every, some
from activities.tables.schema import Kind
from workflows.conditions import (
    All,
    Any_,
    AttributeRef,
    AttributeTest,
    Comparison,
    Condition,
    EntryRef,
    Not,
    PropertyRef,
    PropertyTest,
    Reference,
    subject_of,
)
from workflows.errors import DefinitionError, Fault

Kinds: TypeAlias = Mapping[str, Kind]
"""Columns of one table, each with its kind."""


def device_predicate(
    condition: Condition, kinds: Kinds, *, as_of: datetime, zone: str, entry: Mapping[str, Term] | None = None
) -> pl.Expr:
    """Compile a condition over devices, such as a push's `devices`.

    Args:
        condition: Its leaves are about attributes of a device.
        kinds: The columns of `devices`.
        as_of: The instant of the evaluation, aware.
        zone: The zone of calendar days.
        entry: The values of the entry event, for `{entry: X}`; what it lacks is missing.

    Returns:
        True or false for every row of `devices`, never null.

    Raises:
        DefinitionError: The condition does not fit the table.
    """
    own = columns(kinds)

    def refer(reference: Reference) -> Term | None:
        return (entry or {}).get(reference.entry) if isinstance(reference, EntryRef) else own(reference)

    return row_predicate(condition, "attribute", kinds, Clock(as_of, zone), refer).fill_null(False)


def event_predicate(
    condition: Condition,
    kinds: Kinds,
    *,
    as_of: datetime,
    zone: str,
    entry: Mapping[str, Term] | None = None,
    user: Mapping[str, Term] | None = None,
) -> pl.Expr:
    """Compile a condition over the properties of events, such as a trigger's `where`.

    Args:
        condition: Its leaves are about properties of an event.
        kinds: The columns of `events`.
        as_of: The instant of the evaluation, aware.
        zone: The zone of calendar days.
        entry: The values of the entry event, for `{entry: X}`; what it lacks is missing.
        user: The user's attributes, for `{attribute: X}`; what it lacks is missing.

    Returns:
        True or false for every row of `events`, never null.

    Raises:
        DefinitionError: The condition does not fit the table.
    """
    own = columns(kinds)

    def refer(reference: Reference) -> Term | None:
        if isinstance(reference, PropertyRef):
            return own(reference)
        if isinstance(reference, AttributeRef):
            return (user or {}).get(reference.attribute)
        return (entry or {}).get(reference.entry)

    return row_predicate(condition, "property", kinds, Clock(as_of, zone), refer).fill_null(False)


def comparison_expr(
    column: pl.Expr, kind: Kind, comparison: Comparison, *, as_of: datetime, zone: str, kinds: Kinds | None = None
) -> pl.Expr:
    """Compile a comparison without a subject, such as a branch of a split by attribute.

    Args:
        column: What is compared.
        kind: Its kind.
        comparison: The operators.
        as_of: The instant of the evaluation, aware.
        zone: The zone of calendar days.
        kinds: The columns that `{attribute: X}` may name.

    Returns:
        True or false for every row, never null.

    Raises:
        DefinitionError: The comparison does not fit the column.
    """
    clock = Clock(as_of, zone)
    return compare(Term(column, kind), comparison, clock, columns(kinds or {})).fill_null(False)


def columns(kinds: Kinds) -> Refer:
    """Let references name columns of the frame that is filtered."""

    def refer(reference: Reference) -> Term | None:
        name = {**reference.model_dump(exclude={"times"})}.popitem()[1]
        return Term(pl.col(name), kinds[name]) if name in kinds else None

    return refer


def row_predicate(condition: Condition, subject: str, kinds: Kinds, clock: Clock, refer: Refer) -> pl.Expr:
    """Compile a condition all of whose leaves are about one table's columns; null stands for false.

    Args:
        condition: The condition.
        subject: The subject of its leaves: `attribute` or `property`.
        kinds: The table's columns.
        clock: Now, and the zone of calendar days.
        refer: Gives what references stand for.

    Returns:
        A boolean for every row.

    Raises:
        DefinitionError: The condition does not fit the table.
    """

    def compiled(node: Condition) -> pl.Expr:
        match node:
            case All():
                return every(map(compiled, node.all))
            case Any_():
                return some(map(compiled, node.any))
            case Not():
                return ~compiled(node.not_).fill_null(False)
            case AttributeTest(attribute=name) | PropertyTest(property=name) if subject_of(node) == subject:
                term = Term(pl.col(name), kinds[name]) if name in kinds else None
                return compare(term, node, clock, refer)
            case _:
                message = f"`{subject_of(node)}` cannot stand here: only `{subject}`, `all`, `any` and `not` can"
                raise DefinitionError([Fault(code="misplaced", message=message)])

    return compiled(condition)
