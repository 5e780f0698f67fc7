"""Relates integers and numbers of the same row, the other one times a factor: exactly, as far as both are exact.

An integer is one of 64 bits. A number is a binary float, so that 0.1 is not quite a tenth. A factor is a decimal that a
document writes, of at most six digits before and six behind the point.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias

import polars as pl

from activities.tables.schema import Kind

Relation: TypeAlias = Callable[[Any, Any], pl.Expr]
"""`operator.ge` and its like, applied to expressions."""

Number: TypeAlias = tuple[pl.Expr, Kind]
"""The value, `Int64` or `Float64`, null where it is missing; and its kind, `integer` or `number`."""


def relate_numbers(relation: Relation, mine: Number, theirs: Number, factor: Decimal | None) -> pl.Expr:
    """Compile a comparison of two values of the same row.

    Two integers compare exactly, whatever the factor: 110 is 1.1 times 100. An integer and a number are compared by
    their exact values: the integer 2^53 + 1 is more than the float 2^53. But where one of the two is a number, theirs
    times the factor is the nearest float, so that 110.0 is 1.1 times 100 as well, and what no float holds is rounded as
    floats are; only an integer times a whole factor stays exact. Infinity, which only a product can be, lies beyond
    every integer; NaN, which no import stores, sorts above all, as polars has it.

    Args:
        relation: How they are compared.
        mine: The value that is compared.
        theirs: The one it is compared with.
        factor: What theirs is multiplied by; None for nothing.

    Returns:
        A boolean for every row; null where one of the values is.
    """
    (left, kind), (right, other) = mine, theirs
    if factor is not None:
        top, bottom = factor.as_integer_ratio()
        if kind == other == "integer":
            # Both sides by the denominator in place of a division. At most 2^63 times 10^12, far below 2^127.
            return relation(_by(left, bottom), _by(right, top))
        if other == "number":
            right = _product(right, top, bottom)
        elif bottom == 1:
            right = _by(right, top)
        else:
            right, other = _by(right, top).cast(pl.Float64) / float(bottom), "number"
    return relation(left, right) if kind == other else _across(relation, left, right, kind)


def _by(integer: pl.Expr, factor: int) -> pl.Expr:
    """Multiply integers exactly, in 128 bits."""
    return integer.cast(pl.Int128) * pl.lit(factor, dtype=pl.Int128)


def _product(number: pl.Expr, top: int, bottom: int) -> pl.Expr:
    """Multiply floats by a fraction: first by the whole number above, so that 100.0 times 11 tenths is 110.0."""
    whole = number * float(top)
    # Near the end of the range of floats that may leave it, though the product does not.
    return pl.when(whole.is_infinite()).then(number * (top / bottom)).otherwise(whole / float(bottom))


def _across(relation: Relation, left: pl.Expr, right: pl.Expr, kind: Kind) -> pl.Expr:
    """Compare an integer with a float, or the reverse; `kind` is that of the left one.

    As floats the two are in their true order, or equal where the integer was rounded: then both are whole, and compared
    as integers.
    """
    if kind == "integer":
        floats, integers = (left.cast(pl.Float64), right), (left, right.cast(pl.Int128, strict=False))
    else:
        floats, integers = (left, right.cast(pl.Float64)), (left.cast(pl.Int128, strict=False), right)
    return pl.when(floats[0] == floats[1]).then(relation(*integers)).otherwise(relation(*floats))
