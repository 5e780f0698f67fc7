"""Recurrences: when something happens again and again, as instants that follow the clocks of a zone.

Pure, as `workflows.calendar` is, whose two rules hold here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import count

from workflows.calendar import DAY, MIDNIGHT, SECOND, WEEKDAYS, aware, check_weekdays, coming, days_from, place_of

SHORTEST = timedelta(minutes=1)
"""Shortest interval of a recurrence."""


@dataclass(frozen=True)
class Recurrence:
    """When something happens again and again: every so often, on weekdays, or on dates.

    Raises:
        ValueError: It says nothing, too much, or names an interval under a minute or a weekday that is none.
    """

    every: timedelta | None = None
    """An interval, or with whole days a number of calendar days. None: on `weekdays` of each week, or on `dates`."""
    weekdays: tuple[str, ...] = ()
    """The weekdays on which it counts; all when empty. Of `every` N weeks, those in each Nth seven days from the
    start's day."""
    dates: tuple[date, ...] = ()
    """The days on which it happens, and no other."""
    at: time | None = None
    """The time of day. None: midnight of a date, else the start's time of day."""

    def __post_init__(self) -> None:
        check_weekdays(self.weekdays)
        if self.dates and (self.every is not None or self.weekdays):
            raise ValueError("dates exclude `every` and weekdays: they say each day themselves")
        if not (self.dates or self.weekdays or self.every is not None):
            raise ValueError("a recurrence needs `every`, weekdays or dates")
        if self.every is not None and self.every < SHORTEST:
            raise ValueError(f"every {self.every} is too often: a minute is the shortest interval")
        if self.every is not None and self.every % SECOND:
            raise ValueError(f"every {self.every} is no whole number of seconds")
        if self.interval is not None and self.at is not None:
            raise ValueError(f"every {self.every} excludes a time of day, here {self.at}: it needs whole days")

    @property
    def interval(self) -> timedelta | None:
        """The exact time between two, when it is not counted in calendar days."""
        return self.every if self.every is not None and self.every % DAY else None

    @property
    def days(self) -> int:
        """After how many calendar days it comes round; 1 for weekdays alone."""
        return 1 if self.every is None else self.every // DAY

    def falls_on(self, day: date, first: date) -> bool:
        """Whether a day is one of its days.

        Args:
            day: The day asked about.
            first: The day on which it starts.

        Returns:
            Whether it happens on that day, at whatever time. Of an interval, only whether the weekday counts.
        """
        if self.dates:
            return day in self.dates
        if self.weekdays and WEEKDAYS[day.weekday()] not in self.weekdays:
            return False
        if self.interval is not None:
            return True
        gone = (day - first).days
        if self.weekdays and self.days % 7 == 0:
            return gone // 7 % (self.days // 7) == 0
        return gone % self.days == 0

    def begin(self, start: datetime, zone: str) -> tuple[datetime, date, time]:
        """Give where counting begins.

        Args:
            start: An instant, with a zone.
            zone: An IANA zone.

        Returns:
            The start as the next whole second in UTC, since schedules count in seconds; its day in the zone; the time
            of day at which it happens.

        Raises:
            ValueError: An instant without a zone, or no such zone.
        """
        whole = aware(start).astimezone(UTC).replace(microsecond=0)
        whole += SECOND if whole < start else timedelta(0)
        local = whole.astimezone(place_of(zone))
        return whole, local.date(), self.at or (MIDNIGHT if self.dates else local.time())


def occurrences(rule: Recurrence, start: datetime, zone: str) -> Iterator[datetime]:
    """Give the instants of a recurrence.

    Args:
        rule: The recurrence.
        start: From when on, included when it is one of them: an instant, with a zone. An interval begins here,
            calendar days are counted from its day in the zone.
        zone: The IANA zone of days and times of day.

    Yields:
        Instants in UTC, each after the one before; without end, but for dates.

    Raises:
        ValueError: An instant without a zone, or no such zone.
    """
    start, first, at = rule.begin(start, zone)
    if rule.interval is not None:
        for number in count():
            moment = start + number * rule.interval
            if rule.falls_on(moment.astimezone(place_of(zone)).date(), first):
                yield moment
    last = start - SECOND
    for day in sorted(rule.dates) or days_from(first):
        found = coming(day, at, zone) if rule.falls_on(day, first) else None
        if found is not None and found > last:
            yield found
            last = found


def is_due(rule: Recurrence, start: datetime, zone: str, moment: datetime) -> bool:
    """Whether an instant is one that `occurrences` gives, without counting up to it.

    Args:
        rule: The recurrence.
        start: As for `occurrences`.
        zone: As for `occurrences`.
        moment: The instant asked about, with a zone.

    Returns:
        Whether it is.

    Raises:
        ValueError: An instant without a zone, or no such zone.
    """
    if rule.interval is None:
        return due_day(rule, start, zone, moment) is not None
    start, first, _ = rule.begin(start, zone)
    if aware(moment) < start or (moment - start) % rule.interval:
        return False
    return rule.falls_on(moment.astimezone(place_of(zone)).date(), first)


def due_day(rule: Recurrence, start: datetime, zone: str, moment: datetime) -> date | None:
    """Give the day whose occurrence comes at an instant.

    Args:
        rule: A recurrence of days, no interval.
        start: As for `occurrences`.
        zone: As for `occurrences`.
        moment: The instant asked about, with a zone.

    Returns:
        The day, in the zone; None when nothing is due then.

    Raises:
        ValueError: An instant without a zone, or no such zone.
    """
    start, first, at = rule.begin(start, zone)
    today = aware(moment).astimezone(place_of(zone)).date()
    if moment < start:
        return None
    # A gap over midnight moves a time into the next day.
    return next(
        (day for day in (today - DAY, today) if rule.falls_on(day, first) and coming(day, at, zone) == moment), None
    )
