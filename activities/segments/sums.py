"""Sums of a property over a user's events: compiled, and shown for one user."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import polars as pl

from activities.segments.comparisons import ALWAYS, NEVER, RELATIONS, TAKES_SUM, every
from activities.segments.plans import Member, Plan, Rows
from activities.segments.values import Price, read_value, shown
from activities.tables.schema import Kind
from workflows.conditions import SumTest
from workflows.errors import DefinitionError, Fault

SUMS: dict[Kind, pl.DataType] = {"integer": pl.Int128(), "number": pl.Float64(), "price": pl.Decimal(38, 4)}
"""The dtype of a sum of each kind, exact but for numbers. A bound of another dtype would have every sum cast."""


def sum_plan(events: pl.LazyFrame, test: SumTest, kind: Kind | None) -> Plan:
    """Compile a test of a sum.

    Args:
        events: Those that count.
        test: The property, and what its sum is compared with.
        kind: The property's kind; None when no event has it, so that every sum is 0.

    Returns:
        The plan. Users without such events have the sum 0.

    Raises:
        DefinitionError: The property cannot be summed, or a bound cannot be read as its kind.
    """
    bounds = _bounds(test, kind)
    holds_of_nothing = all(RELATIONS[word](0, bound) for word, bound in bounds)
    if kind is None:
        return Rows(ALWAYS if holds_of_nothing else NEVER)
    holds = every(RELATIONS[word](pl.col("sum"), pl.lit(bound, dtype=SUMS[kind])) for word, bound in bounds)
    found = _sums(events, test, kind).filter(~holds if holds_of_nothing else holds)
    return Member(found.select("user_id"), inside=not holds_of_nothing)


def shown_sum(events: pl.LazyFrame, test: SumTest, kind: Kind | None) -> Any:
    """Give the sum over the events of one user as JSON data."""
    if kind is None:
        return 0
    found = _sums(events, test, kind).collect().get_column("sum").to_list()
    if kind == "price":
        return shown({"amount": found[0] if found else Decimal(0), "currency": _currency(test)}, kind)
    return shown(found[0], kind) if found else 0


def _sums(events: pl.LazyFrame, test: SumTest, kind: Kind) -> pl.LazyFrame:
    """Give `user_id` and `sum` of users who have events with the property, a price in the currency compared with.

    The sum has the dtype that `SUMS` says for the kind.
    """
    value = pl.col(test.property)
    if kind == "price":
        events = events.filter(value.struct.field("currency") == pl.lit(_currency(test)))
        value = value.struct.field("amount")
    # Int64 wraps round at 2^63. It is widened behind the filter, so that only what is summed is.
    added = value.cast(pl.Int128) if kind == "integer" else value
    return events.filter(value.is_not_null()).group_by("user_id").agg(added.sum().alias("sum"))


def _bounds(test: SumTest, kind: Kind | None) -> list[tuple[str, Any]]:
    """Read what a sum is compared with: pairs of an operator and a number."""
    texts: list[tuple[str, str]] = []
    for word, value in test.operators.items():
        texts += [("at_least", value[0]), ("at_most", value[1])] if word == "between" else [(word, value)]
    try:
        if kind is None:
            # No event has the property yet, so nothing says which kind its values will be.
            kind = "price" if " " in texts[0][1].strip() else "number"
        if kind not in TAKES_SUM:
            raise ValueError(f"a sum is of numbers or prices, not of values of the type {kind}")
        read = [(word, read_value(text, kind)) for word, text in texts]
    except ValueError as error:
        raise DefinitionError([Fault(code="unreadable-value", message=str(error))]) from None
    return [(word, value.amount if isinstance(value, Price) else value) for word, value in read]


def _currency(test: SumTest) -> str:
    texts = [text for value in test.operators.values() for text in ([value] if isinstance(value, str) else value)]
    found = {price.currency for text in texts if isinstance(price := read_value(text, "price"), Price)}
    if len(found) != 1:
        message = f"a sum is in one currency, not in {' and '.join(sorted(found))}"
        raise DefinitionError([Fault(code="currencies", message=message)])
    return found.pop()
