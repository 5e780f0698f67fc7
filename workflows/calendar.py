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
from datetime import UTC, date, datetime, time, timedelta
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
            return place_of(name).key
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
    check_weekdays(weekdays)
    today = aware(after).astimezone(place_of(zone)).date()
    # From the day before: a gap over midnight moves a time into the next day.
    for day in days_from(today, -1):
        if weekdays and WEEKDAYS[day.weekday()] not in weekdays:
            continue
        moment = coming(day, at, zone)
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
    until = aware(now)
    # Where the end comes twice, the next silence may have begun.
    while (later := _end_of_one(until, begin, end, zone)) is not None:
        until = later
    return None if until == now else until


def _end_of_one(moment: datetime, begin: time, end: time, zone: str) -> datetime | None:
    """The end of the one stretch of silence around the moment."""
    today = moment.astimezone(place_of(zone)).date()
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
        local = aware(value).astimezone(place_of(zone))
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
    place = place_of(zone)
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
    if moment >= aware(now):
        return moment
    if if_passed == "skip":
        return None
    return now.astimezone(UTC) if if_passed == "now" else next_time(now, at, zone)


def place_of(name: str) -> ZoneInfo:
    """Give the zone of a name.

    Raises:
        ValueError: There is no such zone.
    """
    try:
        if name not in _NOT_PLACES:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        # Not found, not a relative path, a folder of zones.
        pass
    raise ValueError(f"{name!r} is no IANA time zone: write one such as `Europe/Paris` or `UTC`")


def aware(moment: datetime) -> datetime:
    """Give an instant back.

    Raises:
        ValueError: It has no zone, so it is no instant.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no zone, so it is no instant: give it one, such as UTC")
    return moment


def check_weekdays(names: Collection[str]) -> None:
    """Refuse what is no weekday.

    Raises:
        ValueError: A name is none.
    """
    for name in names:
        if name not in WEEKDAYS:
            raise ValueError(f"{name!r} is no weekday: write {', '.join(f'`{day}`' for day in WEEKDAYS)}")


def days_from(first: date, shift: int = 0) -> Iterator[date]:
    """Give the days of the calendar from one on, or from some days after it."""
    return map(date.fromordinal, range(first.toordinal() + shift, date.max.toordinal()))


def _instant(day: date, at: time, zone: str, *, fold: int) -> datetime:
    """The instant of a time on a day's clock; of two, the one that `fold` says."""
    place = place_of(zone)
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


def coming(day: date, at: time, zone: str) -> datetime | None:
    """Give the instant of a time on a day's clock; None when the zone skipped that whole day."""
    moment = at_local(day, at, zone)
    place = place_of(zone)
    if moment.astimezone(place).date() != day and at_local(day, MIDNIGHT, zone).astimezone(place).date() != day:
        return None
    return moment
