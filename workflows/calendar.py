"""Wall clocks and calendars: what a time of day, a weekday, a date or silent hours mean in a zone, as instants.

Every function is pure: no clock, no settings. What it gives depends on the IANA database of the machine, which changes
several times a year, so a run asks once and keeps the instant. Temporal's sandbox hides `zoneinfo`: this module has to
be one of those that it takes from the worker.

Two rules hold everywhere (RFC 5545 section 3.3.5 has the second; it moves the first by the width of the gap, past the
time that was asked for). A time of day that clocks jump over comes at the first instant after the gap. One that comes
twice comes at the first of the two. A day that a zone skipped as a whole, as Samoa did on 2011-12-30, does not come.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from typing import Literal
from zoneinfo import ZoneInfo

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""As documents spell them, in the order of `date.weekday`."""

FIRST_ZONE = "Etc/GMT-14"
"""UTC+14, where each day comes first; the names of these zones have the sign of POSIX, opposite to ISO 8601."""
LAST_ZONE = "Etc/GMT+12"
"""UTC-12, where each day comes last."""

MIDNIGHT = time()
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
SHORTEST = timedelta(minutes=1)
"""Shortest interval of a recurrence."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_TIME = re.compile(r"\d{2}:\d{2}(:\d{2})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}(:?\d{2})?)?", re.ASCII)

_NOT_PLACES = frozenset({"Factory", "localtime"})
"""In the database, but each machine's own."""


def local_time(text: str) -> time:
    """Read a time of day.

    Args:
        text: `22:00` or `22:00:30`, from `00:00` to `23:59:59`.

    Returns:
        The time, in no zone.

    Raises:
        ValueError: The text is no time of day.
    """
    try:
        if _TIME.fullmatch(text.strip()):
            return time.fromisoformat(text.strip())
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no time of day: write `08:00` or `22:30:15`, from `00:00` to `23:59:59`")


def zone_or(name: object, fallback: str) -> str:
    """Give a user's zone where it is one, else another.

    Args:
        name: What a table holds: anything.
        fallback: The zone for users without one.

    Returns:
        An IANA zone that this machine knows.
    """
    if isinstance(name, str):
        try:
            return _place(name).key
        except ValueError:
            pass
    return fallback


def at_local(day: date, at: time, zone: str) -> datetime:
    """Give the instant at which a day's clock shows a time.

    Args:
        day: The day, in the zone.
        at: The time of day.
        zone: An IANA zone.

    Returns:
        The instant, in UTC. In a gap the first instant after it; of two the first.

    Raises:
        ValueError: There is no such zone, or the instant is outside the years 1 to 9999.
    """
    return _instant(day, at, zone, fold=0)


def next_time(after: datetime, at: time, zone: str, *, weekdays: Collection[str] = (), strict: bool = True) -> datetime:
    """Give the next instant at which the clock shows a time.

    Args:
        after: An instant, with a zone.
        at: The time of day.
        zone: An IANA zone.
        weekdays: The weekdays on which it counts; all when empty.
        strict: Whether `after` itself does not count.

    Returns:
        The instant, in UTC, as `at_local` gives it.

    Raises:
        ValueError: A weekday or zone that is none, an instant without a zone, or the calendar ends before.
    """
    _check_weekdays(weekdays)
    today = _aware(after).astimezone(_place(zone)).date()
    # From the day before: a gap over midnight moves a time into the next day.
    for day in _days(today, -1):
        if weekdays and WEEKDAYS[day.weekday()] not in weekdays:
            continue
        moment = _coming(day, at, zone)
        if moment is not None and (moment > after or (moment == after and not strict)):
            return moment
    raise ValueError(f"{at} never comes after {after.isoformat()}: the calendar ends")


def end_of_silence(now: datetime, begin: time, end: time, zone: str) -> datetime | None:
    """Tell when the silent hours end that an instant is in.

    Each is one stretch of time, whatever clocks do within it: from the first time that the clock shows `begin` to the
    last time that it shows `end`. So no clock ever shows a silent hour outside it.

    Args:
        now: An instant, with a zone.
        begin: When silence begins, included.
        end: When it ends, excluded; on the next day when it is not after `begin`.
        zone: An IANA zone.

    Returns:
        The first instant that is not silent, in UTC; None when `now` is not silent.

    Raises:
        ValueError: `begin` and `end` are the same, no such zone, or an instant without a zone.
    """
    if begin == end:
        raise ValueError(f"silent hours from {begin} to {end} would never end: give them two different times")
    until = _aware(now)
    # Where the end comes twice, the next silence may have begun.
    while (later := _end_of_one(until, begin, end, zone)) is not None:
        until = later
    return None if until == now else until


def _end_of_one(moment: datetime, begin: time, end: time, zone: str) -> datetime | None:
    """The end of the one stretch of silence around the moment."""
    today = moment.astimezone(_place(zone)).date()
    for day in (today - DAY, today, today + DAY):
        closes = _instant(day + DAY if end <= begin else day, end, zone, fold=1)
        if at_local(day, begin, zone) <= moment < closes:
            return closes
    return None


def shifted_day(value: date | datetime, days: int, at: time | None, zone: str) -> datetime:
    """Give the instant that lies whole calendar days from a date or instant.

    Args:
        value: A day of the zone, or an instant with a zone of its own, whose day in `zone` counts.
        days: Days to go forward; back when negative.
        at: The time of that day. None: midnight for a date, the same time of day for an instant.
        zone: An IANA zone.

    Returns:
        The instant, in UTC, as `at_local` gives it.

    Raises:
        ValueError: The instant is outside the years 1 to 9999, has no zone, or there is no such zone.
    """
    fold = 0
    if isinstance(value, datetime):
        local = _aware(value).astimezone(_place(zone))
        value = local.date()
        if at is None:
            # Zero days after an instant is that instant, in an hour that comes twice too.
            at, fold = local.time(), local.fold
    try:
        day = value + timedelta(days=days)
    except OverflowError:
        raise ValueError(f"{days} days from {value} is outside the calendar, the years 1 to 9999") from None
    return _instant(day, at or MIDNIGHT, zone, fold=fold)


def read_moment(value: object, zone: str) -> date | datetime | None:
    """Read the day or instant that an attribute or a property of an event holds.

    Args:
        value: A date, an instant, or text in ISO 8601 such as `2026-10-25`, `2026-10-25T09:00:00Z` or
            `2026-10-25 09:00:00`. Without a zone it is in UTC.
        zone: The IANA zone in which it has to have a day.

    Returns:
        A date; an instant in UTC; None when the value is neither, or outside the calendar of the zone.

    Raises:
        ValueError: There is no such zone.
    """
    place = _place(zone)
    if isinstance(value, str):
        value = _written(value.strip())
    try:
        if isinstance(value, datetime):
            moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            moment.astimezone(place)
            return moment
        if isinstance(value, date):
            datetime.combine(value, MIDNIGHT, place).astimezone(UTC)
            return value
    except OverflowError:
        pass
    return None


def _written(text: str) -> date | datetime | None:
    """Read what a text says, if anything."""
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _INSTANT.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    return None


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
        _check_weekdays(self.weekdays)
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
        whole = _aware(start).astimezone(UTC).replace(microsecond=0)
        whole += SECOND if whole < start else timedelta(0)
        local = whole.astimezone(_place(zone))
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
            if rule.falls_on(moment.astimezone(_place(zone)).date(), first):
                yield moment
    last = start - SECOND
    for day in sorted(rule.dates) or _days(first):
        found = _coming(day, at, zone) if rule.falls_on(day, first) else None
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
    start, first, at = rule.begin(start, zone)
    today = _aware(moment).astimezone(_place(zone)).date()
    if moment < start:
        return False
    if rule.interval is not None:
        return not (moment - start) % rule.interval and rule.falls_on(today, first)
    # A gap over midnight moves a time into the next day.
    return any(rule.falls_on(day, first) and _coming(day, at, zone) == moment for day in (today - DAY, today))


def first_zone_instant(day: date, at: time) -> datetime:
    """Give the first instant on Earth at which a day's clock shows a time: at UTC+14, in Kiritimati.

    Args:
        day: The day.
        at: The time of day.

    Returns:
        The instant, in UTC.

    Raises:
        ValueError: The instant is outside the years 1 to 9999.
    """
    return at_local(day, at, FIRST_ZONE)


def last_zone_instant(day: date, at: time) -> datetime:
    """Give the last instant on Earth at which a day's clock shows a time: at UTC-12, on ships.

    Args:
        day: The day.
        at: The time of day.

    Returns:
        The instant, in UTC.

    Raises:
        ValueError: The instant is outside the years 1 to 9999.
    """
    return at_local(day, at, LAST_ZONE)


def entry_moment(
    day: date, at: time, zone: str, now: datetime, if_passed: Literal["now", "next_day", "skip"]
) -> datetime | None:
    """Tell when a user enters whose entry is set to a time of a day in the user's zone.

    Args:
        day: The day.
        at: The time of day.
        zone: The user's IANA zone.
        now: The instant at which that is decided, with a zone.
        if_passed: What happens when the time has passed there: at once, the next time that it comes, or never.

    Returns:
        The instant, in UTC; None when it has passed and is skipped.

    Raises:
        ValueError: An instant without a zone, or no such zone.
    """
    moment = at_local(day, at, zone)
    if moment >= _aware(now):
        return moment
    if if_passed == "skip":
        return None
    return now.astimezone(UTC) if if_passed == "now" else next_time(now, at, zone)


def _place(name: str) -> ZoneInfo:
    """The zone of a name."""
    try:
        if name not in _NOT_PLACES:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # Not found, not a relative path, a folder of zones.
        pass
    raise ValueError(f"{name!r} is no IANA time zone: write one such as `Europe/Paris` or `UTC`")


def _aware(moment: datetime) -> datetime:
    """The instant, when it is one."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no zone, so it is no instant: give it one, such as UTC")
    return moment


def _check_weekdays(names: Collection[str]) -> None:
    for name in names:
        if name not in WEEKDAYS:
            raise ValueError(f"{name!r} is no weekday: write {', '.join(f'`{day}`' for day in WEEKDAYS)}")


def _days(first: date, shift: int = 0) -> Iterator[date]:
    """The days of the calendar from one on."""
    return map(date.fromordinal, range(first.toordinal() + shift, date.max.toordinal()))


def _instant(day: date, at: time, zone: str, *, fold: int) -> datetime:
    """The instant of a time on a day's clock; of two, the one that `fold` says."""
    place = _place(zone)
    wall = datetime.combine(day, at.replace(tzinfo=None, fold=fold), place)
    try:
        moment = wall.astimezone(UTC)
        if _clock(moment, place) == wall.replace(tzinfo=None):
            return moment
        # In a gap the two readings lie on both sides of it (PEP 495), and it ends on a whole second.
        before, after = sorted(wall.replace(fold=side).astimezone(UTC) for side in (0, 1))
    except OverflowError:
        raise ValueError(f"{day} {at} in {zone} is outside the calendar, the years 1 to 9999") from None
    seconds = range((before - EPOCH) // SECOND, (after - EPOCH) // SECOND + 1)
    passed = bisect_left(seconds, True, key=lambda s: _clock(EPOCH + s * SECOND, place) > wall.replace(tzinfo=None))
    return EPOCH + seconds[passed] * SECOND


def _clock(moment: datetime, place: ZoneInfo) -> datetime:
    """What a clock of the place shows."""
    return moment.astimezone(place).replace(tzinfo=None)


def _coming(day: date, at: time, zone: str) -> datetime | None:
    """The instant of a time on a day's clock; None when the zone skipped that whole day."""
    moment = at_local(day, at, zone)
    place = _place(zone)
    if moment.astimezone(place).date() != day and at_local(day, MIDNIGHT, zone).astimezone(place).date() != day:
        return None
    return moment
