"""How a query is put together: filters, semi joins and anti joins, and flags where neither will do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import polars as pl

from activities.segments.comparisons import every, some


@dataclass(frozen=True)
class Rows:
    """A test of a user's own row; null stands for false."""

    expr: pl.Expr


@dataclass(frozen=True)
class Member:
    """A test whether a user is among the ids of a query, in which one may come several times."""

    ids: pl.LazyFrame
    inside: bool = True


@dataclass(frozen=True)
class Both:
    """True when all parts are: at most one of them is `Rows`, none is `Both`."""

    parts: tuple[Plan, ...]


@dataclass(frozen=True)
class Either:
    """True when a part is: at most one of them is `Rows`, none is `Either`."""

    parts: tuple[Plan, ...]


Plan: TypeAlias = Rows | Member | Both | Either


def both(plans: Iterable[Plan]) -> Plan:
    """Join plans by `and`."""
    rows, others = _sorted(plans, Both)
    if not others:
        return Rows(every(rows))
    return Both((*([Rows(every(rows))] if rows else []), *others)) if rows or len(others) > 1 else others[0]


def either(plans: Iterable[Plan]) -> Plan:
    """Join plans by `or`."""
    rows, others = _sorted(plans, Either)
    if not others:
        return Rows(some(rows))
    return Either((*([Rows(some(rows))] if rows else []), *others)) if rows or len(others) > 1 else others[0]


def _sorted(plans: Iterable[Plan], flattened: type[Both | Either]) -> tuple[list[pl.Expr], list[Plan]]:
    rows: list[pl.Expr] = []
    others: list[Plan] = []
    for plan in plans:
        for part in plan.parts if isinstance(plan, Both | Either) and isinstance(plan, flattened) else (plan,):
            if isinstance(part, Rows):
                rows.append(part.expr)
            else:
                others.append(part)
    return rows, others


def negated(plan: Plan) -> Plan:
    """Give the exact opposite: every plan is true or false for each user, so `not` moves down to the leaves."""
    match plan:
        case Rows(expr):
            return Rows(~expr.fill_null(False))
        case Member(ids, inside):
            return Member(ids, not inside)
        case Both(parts):
            return either(map(negated, parts))
        case Either(parts):
            return both(map(negated, parts))


def narrowed(users: pl.LazyFrame, plan: Plan) -> pl.LazyFrame:
    """Keep the users for whom a plan is true.

    Args:
        users: One row per user.
        plan: Compiled against the same columns.

    Returns:
        Those rows, with columns of its own behind them.
    """
    flags: list[str] = []
    for part in plan.parts if isinstance(plan, Both) else (plan,):
        match part:
            case Rows(expr):
                users = users.filter(expr)
            case Member(ids, inside):
                users = users.join(ids, on="user_id", how="semi" if inside else "anti")
            case Either(parts) if all(isinstance(option, Member) and option.inside for option in parts):
                users = users.join(_pooled(parts), on="user_id", how="semi")
            case _:
                users, expr = _flagged(users, part, flags)
                users = users.filter(expr)
    return users


def _flagged(users: pl.LazyFrame, plan: Plan, flags: list[str]) -> tuple[pl.LazyFrame, pl.Expr]:
    """Add a column for each set of ids that a plan asks about, and give the plan as an expression."""
    match plan:
        case Rows(expr):
            return users, expr
        case Member(ids, inside):
            # A control character first, as in every column that this product adds to those of an import.
            flag = f"\x1fmember{len(flags)}"
            flags.append(flag)
            found = ids.unique().with_columns(pl.lit(True).alias(flag))
            users = users.join(found, on="user_id", how="left")
            return users, pl.col(flag).is_not_null() if inside else pl.col(flag).is_null()
        case Both(parts):
            tests = []
            for part in parts:
                users, expr = _flagged(users, part, flags)
                tests.append(expr)
            return users, every(tests)
        case Either(parts):
            pool = [part for part in parts if isinstance(part, Member) and part.inside]
            others = [part for part in parts if not (isinstance(part, Member) and part.inside)]
            tests = []
            for part in [*([Member(_pooled(pool))] if pool else []), *others]:
                users, expr = _flagged(users, part, flags)
                tests.append(expr)
            return users, some(tests)


def _pooled(members: Iterable[Plan]) -> pl.LazyFrame:
    """Give the ids of several sets: one join in place of many."""
    frames = [member.ids for member in members if isinstance(member, Member)]
    return frames[0] if len(frames) == 1 else pl.concat(frames)
