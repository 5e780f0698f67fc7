"""The clock of an evaluation: one instant, and the calendar days around it in one zone."""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

from activities.segments.values import FIRST_DAY, LAST_DAY

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Clock:
    """The instant of an evaluation and the zone of its calendar days.

    Attributes:
        as_of: The instant, aware.
        zone: An IANA time zone.
    """

    as_of: datetime
    zone: str

    @cached_property
    def today(self) -> date:
        """The calendar day."""
        return self.as_of.astimezone(ZoneInfo(self.zone)).date()

    def shifted(self, days: int) -> date:
        """Give a day counted from today, or the last that can be named on that side."""
        furthest = (FIRST_DAY - self.today).days, (LAST_DAY - self.today).days
        return self.today + timedelta(days=min(max(days, furthest[0]), furthest[1]))

    def start_of(self, day: date) -> datetime:
        """Give the first instant of a calendar day, UTC; where clocks skip midnight, the instant at which they do.

        A day is one stretch of time. Where clocks went back across midnight, as in America/St_Johns until 2011, the
        hour that came again is taken for a part of the later day, which had begun.
        """
        return datetime.combine(day, time(), ZoneInfo(self.zone)).astimezone(UTC)


def next_round(month: int, day: int, today: date) -> date:
    """Give the next day, today included, on which a day of the year comes round.

    Args:
        month: From 1.
        day: Of the month. 29 February comes round on the 28th in common years.
        today: Where to begin.

    Returns:
        The day, at most a year ahead.
    """
    for year in (today.year, today.year + 1):
        comes = date(year, month, min(day, monthrange(year, month)[1]))
        if comes >= today:
            return comes
    raise AssertionError("a day of the next year is never past")
