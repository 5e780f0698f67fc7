"""Time in a plan: when delays end, and when pushes may go out, on each user's own clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from activities.elements.split_test import place_of
from activities.elements.time_delay import due_moment
from activities.planning.reading import INSTANT, Reading
from workflows.calendar import end_of_silence, local_time
from workflows.documents import Silence, TimeDelay
from workflows.operators import AttributeRef


def after_delay(reading: Reading, element: TimeDelay, users: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Let users wait.

    Args:
        reading: The snapshot.
        element: The delay.
        users: Users with the moment of arrival. None of them has values of an event.

    Returns:
        The users who go on, each with the moment at which he does; and how many leave, since no date can be read.
    """
    own = element.timezone == "user" and element.duration is None
    rows = reading.zones(users) if own else users.with_columns(zone=pl.lit(reading.zone))
    if element.timezone != "user":
        rows = rows.with_columns(zone=pl.lit(element.timezone))
    value = pl.lit(None, dtype=pl.String)
    if isinstance(element.until, AttributeRef):
        name = element.until.attribute
        rows = reading.attributes(rows, [name])
        if reading.kinds.get(name) in ("date", "instant", "string"):
            value = pl.col(f"user:{name}")
    rows = rows.select("user_id", "at", "zone", value=value)
    cases = rows.select("at", "zone", "value").unique()
    due = [due_moment(element, at, zone, value) for at, zone, value in cases.iter_rows()]
    moments = cases.with_columns(due=pl.Series(due, dtype=INSTANT))
    found = rows.join(moments, on=["at", "zone", "value"], how="left", nulls_equal=True)
    going = found.filter(pl.col("due").is_not_null())
    # A moment that is past delays nobody.
    return going.select("user_id", at=pl.max_horizontal("at", "due")), found.height - going.height


def spread(users: pl.DataFrame, element: str, window: timedelta) -> pl.DataFrame:
    """Put beside users, as `spread: Duration`, how much later the send window has their push go out.

    The run takes the hash of its passage, which has no name before the launch: here the user's id stands for it, so
    that the spread is as even and its places are others.
    """
    if not window:
        return users.with_columns(spread=pl.lit(timedelta()))
    places = [window * place_of(user, element) for user in users.get_column("user_id").to_list()]
    return users.with_columns(spread=pl.Series(places, dtype=pl.Duration("us")))


def out_of_silence(reading: Reading, silence: Silence, users: pl.DataFrame) -> pl.DataFrame:
    """Have pushes wait for the end of silent hours.

    Args:
        reading: The snapshot.
        silence: The hours.
        users: Users with the moment at which the push is due, and their `spread`.

    Returns:
        The same users with `ready: Datetime`, the moment at which it goes out.
    """
    begin, end = local_time(silence.from_), local_time(silence.to)

    def ready(at: datetime, zone: str, later: timedelta) -> datetime:
        while (over := end_of_silence(at, begin, end, zone)) is not None:
            at = over + later
        return at

    rows = reading.zones(users)
    cases = rows.select("at", "zone", "spread").unique()
    moments = cases.with_columns(ready=pl.Series([ready(*case) for case in cases.iter_rows()], dtype=INSTANT))
    return rows.join(moments, on=["at", "zone", "spread"], how="left").drop("zone")
