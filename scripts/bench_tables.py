"""Audience tables for `bench_segments`: made up, the same in every run, and written by the product itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from activities.tables.delta import Tables

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
"""The instant at which questions are asked: the newest event is a moment older."""

IMPORTS = 10
"""How many commits the events come in, each a file, in the order of their time."""


def tables_of(folder: Path, users: int, events: int) -> Tables:
    """Write the tables of users and events, or find them there.

    Args:
        folder: Where.
        users: Rows of users, in no order.
        events: Rows of events; some users have many, most few.

    Returns:
        The tables.
    """
    root = folder / f"tables-{users}-{events}"
    if not root.exists():
        partial = Tables(root.with_suffix(".partial"))
        partial.append("users", _users(users), once="users")
        made = _events(events, users)
        share = -(-events // IMPORTS)
        for number in range(IMPORTS):
            partial.append("events", made.slice(number * share, share), once=f"events {number}")
        Path(partial.root).rename(root)
    return Tables(root)


def named(number: pl.Expr) -> pl.Expr:
    """Give the id of a user by number: 9 characters."""
    return pl.lit("u") + number.cast(pl.String).str.zfill(8)


def _users(users: int) -> pl.DataFrame:
    drawn = [_drawn(users, seed) for seed in range(8)]
    frame = pl.select(
        user_id=named(pl.int_range(users)),
        plan=_picked(drawn[0], {"free": 0.6, "paid": 0.25, "pro": 0.1, None: 0.05}),
        age=13 + (drawn[1] * 77).cast(pl.Int64),
        country=_picked(drawn[2], {"FR": 0.3, "BE": 0.1, "DE": 0.2, "US": 0.2, "NO": 0.1, "SE": 0.1}),
        score=drawn[3] * 100,
        vip=drawn[4] < 0.05,
        last_seen=_before(drawn[5], 120),
        order=drawn[6],
    )
    return frame.sort("order").drop("order")


def _events(events: int, users: int) -> pl.DataFrame:
    drawn = [_drawn(events, seed) for seed in range(10, 16)]
    frame = pl.select(
        event_id=pl.int_range(events).cast(pl.String),
        user_id=named((drawn[0] ** 2 * users).cast(pl.Int64)),
        event=_picked(drawn[1], {"visit": 0.6, "purchase": 0.3, "push_opened": 0.09, "unsubscribe": 0.01}),
        at=_before(drawn[2], 365),
        amount=1 + (drawn[3] * 200).cast(pl.Int64),
        category=_picked(drawn[4], {"shoes": 0.3, "books": 0.3, "gift-card": 0.1, "food": 0.3}),
    )
    return frame.sort("at")


def _drawn(rows: int, seed: int) -> pl.Expr:
    """Give numbers from 0 to 1 that look random and are the same in every run."""
    return pl.int_range(rows, eager=False).hash(seed).cast(pl.Float64) / 2.0**64


def _picked(drawn: pl.Expr, shares: dict[str | None, float]) -> pl.Expr:
    """Pick words by their shares, which add up to 1."""
    picked = pl.lit(next(reversed(shares)), dtype=pl.String)
    for word in reversed(list(shares)[:-1]):
        known = list(shares)
        below = sum(shares[one] for one in known[: known.index(word) + 1])
        picked = pl.when(drawn < below).then(pl.lit(word, dtype=pl.String)).otherwise(picked)
    return picked


def _before(drawn: pl.Expr, days: int) -> pl.Expr:
    return (pl.lit(NOW) - (drawn * days * 86_400_000_000).cast(pl.Int64).cast(pl.Duration("us"))).cast(
        pl.Datetime("us", "UTC")
    )
