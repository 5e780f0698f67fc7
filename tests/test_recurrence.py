"""Recurrences across zones and daylight-saving changes: a table of cases, and laws that hold for every instant."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_calendar import (
    APIA,
    CAIRO,
    DAY,
    HAVANA,
    INSTANTS,
    PARIS,
    PLACES,
    SECOND,
    SOME_WEEKDAYS,
    TIMES,
    instant,
)
from workflows.recurrence import Recurrence, is_due, occurrences

EVERY: list[tuple[Recurrence, str, str, list[str]]] = [
    (Recurrence(every=timedelta(minutes=15)), "2026-10-25 00:50", PARIS,
     ["2026-10-25 00:50", "2026-10-25 01:05", "2026-10-25 01:20"]),
    (Recurrence(every=timedelta(hours=36)), "2026-03-28 00:00", PARIS,
     ["2026-03-28 00:00", "2026-03-29 12:00", "2026-03-31 00:00"]),
    (Recurrence(every=timedelta(hours=8), weekdays=("sunday",)), "2026-03-28 00:00", PARIS,
     ["2026-03-29 00:00", "2026-03-29 08:00", "2026-03-29 16:00", "2026-04-05 00:00"]),
    (Recurrence(every=DAY, at=time(2, 30)), "2026-03-28 12:00", PARIS,
     ["2026-03-29 01:00", "2026-03-30 00:30", "2026-03-31 00:30"]),
    (Recurrence(every=DAY, at=time(2, 30)), "2026-10-24 00:30", PARIS,
     ["2026-10-24 00:30", "2026-10-25 00:30", "2026-10-26 01:30"]),
    (Recurrence(every=DAY), "2026-03-28 09:00:00.5", PARIS, ["2026-03-28 09:00:01", "2026-03-29 08:00:01"]),
    (Recurrence(every=3 * DAY, at=time(10)), "2026-03-27 10:00", PARIS, ["2026-03-30 08:00", "2026-04-02 08:00"]),
    (Recurrence(every=14 * DAY, at=time(10)), "2026-03-25 00:00", PARIS, ["2026-03-25 09:00", "2026-04-08 08:00"]),
    (Recurrence(every=7 * DAY, weekdays=("monday",), at=time(10)), "2026-03-25 00:00", PARIS,
     ["2026-03-30 08:00", "2026-04-06 08:00"]),
    # Seven days on, seven off, from Wednesday 25 March.
    (Recurrence(every=14 * DAY, weekdays=("monday", "wednesday"), at=time(10)), "2026-03-25 00:00", PARIS,
     ["2026-03-25 09:00", "2026-03-30 08:00", "2026-04-08 08:00", "2026-04-13 08:00"]),
    (Recurrence(weekdays=("sunday",), at=time(0)), "2026-03-02 00:00", HAVANA,
     ["2026-03-08 05:00", "2026-03-15 04:00"]),
    (Recurrence(dates=(date(2028, 2, 29), date(2026, 4, 24), date(2026, 4, 24), date(2026, 4, 1))), "2026-04-02 00:00",
     CAIRO, ["2026-04-23 22:00", "2028-02-28 22:00"]),
    (Recurrence(every=DAY, at=time(10)), "2011-12-29 12:00", APIA,
     ["2011-12-29 20:00", "2011-12-30 20:00", "2011-12-31 20:00"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "start", "zone", "expected"), EVERY)
def test_recurrences(rule: Recurrence, start: str, zone: str, expected: list[str]) -> None:
    """Intervals are exact times, days are those of the calendar from the start's day, dates are themselves."""
    found = list(islice(occurrences(rule, instant(start), zone), len(expected) + (1 if rule.dates else 0)))
    assert found == [instant(text) for text in expected]


WRONG_RULES = [
    ({}, "needs `every`"),
    ({"every": timedelta(seconds=59)}, "too often"),
    ({"every": timedelta(days=1, microseconds=1)}, "whole number of seconds"),
    ({"every": timedelta(hours=5), "at": time(9)}, "excludes a time of day"),
    ({"every": DAY, "dates": (date(2026, 1, 1),)}, "dates exclude"),
    ({"weekdays": ("Monday",)}, "'Monday' is no weekday"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG_RULES)
def test_a_recurrence_makes_sense(fields: dict[str, object], message: str) -> None:
    """A recurrence that says nothing, too much, or what cannot be, is refused."""
    with pytest.raises(ValueError, match=message):
        Recurrence(**fields)  # type: ignore[arg-type]


RULES = st.one_of(
    st.builds(Recurrence, every=st.builds(timedelta, minutes=st.integers(1, 1439)), weekdays=SOME_WEEKDAYS.map(tuple)),
    st.builds(Recurrence, every=st.builds(timedelta, days=st.integers(1, 30)), weekdays=SOME_WEEKDAYS.map(tuple),
              at=st.none() | TIMES),
    st.builds(Recurrence, dates=st.lists(st.dates(date(2000, 1, 1), date(2040, 1, 1)), min_size=1).map(tuple),
              at=st.none() | TIMES),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rule=RULES, start=INSTANTS, zone=PLACES, by=st.integers(1, 86_400))
def test_occurrences_ascend_and_are_due(rule: Recurrence, start: datetime, zone: str, by: int) -> None:
    """Occurrences ascend from the start on, each is due, and nothing between two of them is."""
    found = list(islice(occurrences(rule, start, zone), 12))
    assert found or rule.dates
    assert all(start <= moment and moment.tzinfo is UTC and not moment.microsecond for moment in found)
    assert all(is_due(rule, start, zone, moment) for moment in found)
    for one, another in pairwise(found):
        assert one < another
        between = one + by * SECOND
        assert not one < between < another or not is_due(rule, start, zone, between)
    assert not is_due(rule, start, zone, start - SECOND)
