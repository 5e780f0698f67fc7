"""One comparison as a polars expression.

The expressions of this module are null where a value is missing, and a filter takes null for false. So nothing is
filled in while conditions are combined by `and` and `or`, which keeps filters as plain as those written by hand;
whoever negates an expression, or hands it out, fills it first.
"""

from __future__ import annotations

import operator
from calendar import monthrange
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import reduce
from typing import Any, TypeAlias

import polars as pl

from activities.segments.clock import DAY, Clock, next_round
from activities.segments.numbers import Relation, relate_numbers
from activities.segments.values import Price, read_value
from activities.tables.schema import Kind
from workflows.errors import DefinitionError, Fault
from workflows.operators import Comparison, HowMany, Operators, Reference
from workflows.scalars import WHOLE_LIMIT, duration

NEVER = pl.lit(False)
ALWAYS = pl.lit(True)

EXACT = pl.Decimal(38, 10)
"""Wide enough for an amount of four decimals times a factor of six, exactly."""

_A_LEAP_YEAR = 2024

FEW_TEXTS = 8
"""Up to so many texts are compared one by one: a Parquet reader does that in half the time of a look-up in a set."""

RELATIONS: dict[str, Relation] = {
    "is": operator.eq,
    "is_not": operator.ne,
    "at_least": operator.ge,
    "at_most": operator.le,
    "more_than": operator.gt,
    "less_than": operator.lt,
    "after": operator.gt,
    "before": operator.lt,
}
"""The operators that relate a value to one other."""
_ORDERED: frozenset[Kind] = frozenset({"integer", "number", "price", "version", "date", "instant"})
_SINGLE: frozenset[Kind] = _ORDERED | {"string", "boolean"}
_TEXT: frozenset[Kind] = frozenset({"string"})
_LIST: frozenset[Kind] = frozenset({"list"})
_TIME: frozenset[Kind] = frozenset({"date", "instant"})

TAKES: dict[str, frozenset[Kind]] = {
    **dict.fromkeys(("is_set", "is_not_set"), _SINGLE | _LIST),
    **dict.fromkeys(("is", "is_not", "in", "not_in"), _SINGLE),
    **dict.fromkeys(("at_least", "at_most", "more_than", "less_than", "between"), _ORDERED),
    **dict.fromkeys(("contains", "starts_with", "ends_with", "matches"), _TEXT),
    **dict.fromkeys(("has", "has_any", "has_all"), _LIST),
    **dict.fromkeys(
        ("before", "after", "within_last", "within_next", "older_than", "days_ago", "days_ahead", "anniversary"), _TIME
    ),
}
"""The kinds that each operator compares."""

TAKES_SUM: frozenset[Kind] = frozenset({"integer", "number", "price"})
"""The kinds that can be summed."""


@dataclass(frozen=True)
class Term:
    """Something that has a value for every row.

    Attributes:
        expr: The value; null where it is missing.
        kind: Its kind.
    """

    expr: pl.Expr
    kind: Kind


Refer: TypeAlias = Callable[[Reference], Term | None]
"""Gives what a reference stands for; None when nobody has such a value."""


def literal(text: str, kind: Kind) -> Term:
    """Give one value as a term, such as a value of the event by which a user entered.

    Args:
        text: As a document would write it.
        kind: What it is read as.

    Returns:
        The term: the same value for every row.

    Raises:
        ValueError: The text is no value of the kind.
    """
    value = read_value(text, kind)
    if isinstance(value, Price):
        amount = pl.lit(value.amount, dtype=pl.Decimal(18, 4))
        return Term(pl.struct(amount.alias("amount"), pl.lit(value.currency).alias("currency")), kind)
    if kind == "version":
        return Term(pl.struct(pl.lit(text).alias("text"), pl.lit(value).alias("order")), kind)
    return Term(pl.lit(value), kind)


MANY_TESTS = 50
"""From how many tests on they are joined side by side: one inside the other, 800 take polars 3 s, and 0.2 s so."""


def every(tests: Iterable[pl.Expr]) -> pl.Expr:
    """Join tests by `and`; true when there are none."""
    listed = list(tests)
    if len(listed) > MANY_TESTS:
        return pl.all_horizontal(listed)
    return reduce(operator.and_, listed) if listed else ALWAYS


def some(tests: Iterable[pl.Expr]) -> pl.Expr:
    """Join tests by `or`; false when there are none."""
    listed = list(tests)
    if len(listed) > MANY_TESTS:
        return pl.any_horizontal(listed)
    return reduce(operator.or_, listed) if listed else NEVER


def compare(term: Term | None, test: Operators, clock: Clock, refer: Refer) -> pl.Expr:
    """Compile a comparison.

    Args:
        term: What is compared; None when the table has no such column, so that every value is missing.
        test: The operators.
        clock: Now, and the zone of calendar days.
        refer: Gives what references in the comparison stand for.

    Returns:
        A boolean for every row; null stands for false.

    Raises:
        DefinitionError: A value cannot be read as the column's kind, or the operator does not take it.
    """
    if term is None:
        return ALWAYS if "is_not_set" in test.operators else NEVER
    folds = isinstance(test, Comparison) and test.ignores_case
    comparer = _Comparer(term, clock, refer, folds)
    try:
        return every(comparer.test(word, value) for word, value in test.operators.items())
    except ValueError as error:
        raise DefinitionError([Fault(code="unreadable-value", message=str(error))]) from None


@dataclass(frozen=True)
class _Comparer:
    term: Term
    clock: Clock
    refer: Refer
    folds: bool

    def test(self, word: str, value: Any) -> pl.Expr:
        """Compile one operator."""
        if self.term.kind not in TAKES[word]:
            raise ValueError(f"`{word}` does not compare a value of the type {self.term.kind}")
        if word in RELATIONS:
            return self.relate(RELATIONS[word], value)
        match word:
            case "is_set":
                return self.term.expr.is_not_null()
            case "is_not_set":
                return self.term.expr.is_null()
            case "in":
                known = self.known(value)
                return some(self.relate(operator.eq, item) for item in value) if known is None else known
            case "not_in":
                known = self.known(value)
                return every(self.relate(operator.ne, item) for item in value) if known is None else ~known
            case "between":
                return self.relate(operator.ge, value[0]) & self.relate(operator.le, value[1])
            case "has" | "has_any" | "has_all":
                return self.in_list(word, value)
            case "contains" | "starts_with" | "ends_with" | "matches":
                return self.in_text(word, value)
            case _:
                return self.in_time(word, value)

    def relate(self, relation: Relation, value: str | Reference) -> pl.Expr:
        """Compare with one value."""
        kind = self.term.kind
        if not isinstance(value, str):
            return self.relate_to(relation, value)
        if kind == "string":
            return relation(self.folded(self.term.expr), pl.lit(_lowered(value) if self.folds else value))
        read = read_value(value, kind)
        if isinstance(read, Price):
            return self.relate_prices(relation, pl.lit(read.amount, dtype=pl.Decimal(18, 4)), pl.lit(read.currency))
        if kind == "instant" and not isinstance(read, datetime):
            assert isinstance(read, date)  # noqa: S101 - what `read_value` gives for an instant
            return self.relate_to_day(relation, read)
        return relation(_key(self.term), pl.lit(read))

    def relate_to(self, relation: Relation, reference: Reference) -> pl.Expr:
        """Compare with another value of the same row."""
        other = self.refer(reference)
        if other is None:
            return NEVER
        if not comparable(self.term.kind, other.kind):
            raise ValueError(
                f"a value of the type {self.term.kind} cannot be compared with one of the type {other.kind}"
            )
        factor = None if reference.times is None else Decimal(reference.times)
        if self.term.kind == "price":
            amount = other.expr.struct.field("amount")
            if factor is not None:
                amount = amount.cast(EXACT) * pl.lit(factor, dtype=EXACT)
            return self.relate_prices(relation, amount, other.expr.struct.field("currency"))
        if factor is not None and other.kind not in {"integer", "number"}:
            raise ValueError(f"`times` multiplies numbers and prices, not a value of the type {other.kind}")
        if other.kind in {"integer", "number"}:
            return relate_numbers(relation, (self.term.expr, self.term.kind), (other.expr, other.kind), factor)
        mine, theirs = _key(self.term), _key(other)
        if {self.term.kind, other.kind} == {"date", "instant"}:
            mine, theirs = self.day_of(self.term), self.day_of(other)
        if self.term.kind == "string":
            mine, theirs = self.folded(mine), self.folded(theirs)
        return relation(mine, theirs)

    def relate_prices(self, relation: Relation, amount: pl.Expr, currency: pl.Expr) -> pl.Expr:
        """Compare amounts of one currency. Another currency is another value, and neither more nor less."""
        compared: pl.Expr = relation(self.term.expr.struct.field("amount"), amount)
        mine = self.term.expr.struct.field("currency")
        return compared | (mine != currency) if relation is operator.ne else compared & (mine == currency)

    def relate_to_day(self, relation: Relation, day: date) -> pl.Expr:
        """Compare instants with a calendar day of the zone."""
        start, end = pl.lit(self.clock.start_of(day)), pl.lit(self.clock.start_of(day + DAY))
        value = self.term.expr
        if relation is operator.eq:
            return (value >= start) & (value < end)
        if relation is operator.ne:
            return (value < start) | (value >= end)
        if relation in {operator.ge, operator.lt}:
            return relation(value, start)
        return value >= end if relation is operator.gt else value < end

    def known(self, values: Iterable[str | Reference]) -> pl.Expr | None:
        """Look a value up among literals; None where values have to be compared one by one."""
        kind = self.term.kind
        if kind in {"price", "instant"} or not all(isinstance(value, str) for value in values):
            return None
        read = [read_value(str(value), kind) for value in values]
        if kind != "string":
            return _key(self.term).is_in(read)
        if not self.folds and len(read) <= FEW_TEXTS:
            return some(self.term.expr == pl.lit(text) for text in read)
        return self.folded(self.term.expr).is_in([_lowered(str(text)) for text in read] if self.folds else read)

    def in_text(self, word: str, value: str | Reference) -> pl.Expr:
        """Look into a string."""
        if word == "matches":
            return self.term.expr.str.contains(pattern_run(str(value), self.folds), literal=False)
        text, sought = self.folded(self.term.expr), self.sought(value)
        if word == "contains":
            return text.str.contains(sought, literal=True)
        return text.str.starts_with(sought) if word == "starts_with" else text.str.ends_with(sought)

    def in_list(self, word: str, value: Any) -> pl.Expr:
        """Look into a list."""
        items = self.term.expr.list.eval(pl.element().str.to_lowercase()) if self.folds else self.term.expr
        if word == "has":
            return items.list.contains(self.sought(value), nulls_equal=False)
        found = [items.list.contains(self.sought(item), nulls_equal=False) for item in value]
        return some(found) if word == "has_any" else every(found)

    def sought(self, value: str | Reference) -> pl.Expr:
        """Give a text to look for."""
        if isinstance(value, str):
            return pl.lit(_lowered(value) if self.folds else value)
        other = self.refer(value)
        if other is not None and other.kind != "string":
            raise ValueError(f"a text is looked for, not a value of the type {other.kind}")
        return pl.lit(None, dtype=pl.String) if other is None else self.folded(other.expr)

    def in_time(self, word: str, value: Any) -> pl.Expr:
        """Compare with the clock."""
        if isinstance(value, HowMany):
            least, most = value.limits
            if word == "anniversary":
                return self.comes_round(least, most)
            return (
                self.on_days(least, most)
                if word == "days_ahead"
                else self.on_days(None if most is None else -most, -least)
            )
        lasting = duration(value)
        if self.term.kind == "date":
            if word == "older_than":
                return self.on_days(None, -lasting.days - 1)
            return self.on_days(-lasting.days, 0) if word == "within_last" else self.on_days(0, lasting.days)
        now = self.clock.as_of.astimezone(UTC)
        if word == "older_than":
            return self.term.expr < pl.lit(now - lasting)
        first, last = (now - lasting, now) if word == "within_last" else (now, now + lasting)
        return (self.term.expr >= pl.lit(first)) & (self.term.expr <= pl.lit(last))

    def on_days(self, first: int | None, last: int | None) -> pl.Expr:
        """Tell whether a value lies on some calendar days, counted from today; None for no end on that side."""
        value, day = self.term.expr, self.clock.shifted
        tests = []
        if self.term.kind == "date":
            tests += [value >= pl.lit(day(first))] if first is not None else []
            tests += [value <= pl.lit(day(last))] if last is not None else []
        else:
            tests += [value >= pl.lit(self.clock.start_of(day(first)))] if first is not None else []
            tests += [value < pl.lit(self.clock.start_of(day(last) + DAY))] if last is not None else []
        return every(tests)

    def comes_round(self, least: int, most: int | None) -> pl.Expr:
        """Tell whether a day and month come round in some number of days."""
        today = self.clock.today
        wanted = [
            month * 100 + day
            for month in range(1, 13)
            for day in range(1, monthrange(_A_LEAP_YEAR, month)[1] + 1)
            if least <= (next_round(month, day, today) - today).days <= (WHOLE_LIMIT if most is None else most)
        ]
        value = self.day_of(self.term)
        return (value.dt.month().cast(pl.Int16) * 100 + value.dt.day()).is_in(wanted)

    def day_of(self, term: Term) -> pl.Expr:
        """Give the calendar day of a date or instant."""
        return term.expr if term.kind == "date" else term.expr.dt.convert_time_zone(self.clock.zone).dt.date()

    def folded(self, text: pl.Expr) -> pl.Expr:
        """Give a text as it is compared."""
        return text.str.to_lowercase() if self.folds else text


def pattern_run(pattern: str, folds: bool) -> str:
    """Give the regular expression that is run for `matches`.

    Args:
        pattern: As the document has it.
        folds: Whether upper and lower case count as the same, which can make the compiled expression too large.

    Returns:
        The pattern as polars takes it.
    """
    return f"(?i){pattern}" if folds else pattern


def comparable(kind: Kind, other: Kind) -> bool:
    """Whether values of two kinds can be compared: two numbers, two points in time, or the same kind."""
    return any({kind, other} <= kinds for kinds in ({"integer", "number"}, _TIME)) or (kind == other and kind != "list")


def _key(term: Term) -> pl.Expr:
    """Give what a value sorts by."""
    return term.expr.struct.field("order") if term.kind == "version" else term.expr


def _lowered(text: str) -> str:
    # By polars, like the column: Python's own table of letters is of another Unicode version.
    lowered: str = pl.Series([text]).str.to_lowercase().item()
    return lowered
