"""Recurrences as Temporal Schedules: the server keeps the times, so no workflow waits for the next one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from temporalio.client import ScheduleCalendarSpec, ScheduleIntervalSpec, ScheduleRange, ScheduleSpec

from workflows.calendar import DAY, EPOCH, FIRST_ZONE, MIDNIGHT, WEEKDAYS, at_local, local_time
from workflows.recurrence import Recurrence, is_due
from workflows.scalars import duration
from workflows.triggers import LAST_YEAR, Schedule

FORESIGHT_DAYS = 30 * 366
"""How far ahead changes of clocks are looked for."""


class Translation(NamedTuple):
    """A recurrence, as the server takes it."""

    spec: ScheduleSpec
    exact: bool
    """Whether the server starts something at each occurrence and at no other time. Where not, it starts something at
    other times besides, and what is started has to ask `is_due` first."""


def schedule_spec(rule: Recurrence, start: datetime, zone: str) -> Translation:
    """Say a recurrence as the spec of a Temporal Schedule.

    The server starts nothing for times before it knows the schedule: where the first occurrence is now, whoever
    creates the schedule asks for it with `trigger_immediately`.

    Around changes of clocks the server's calendars differ from `workflows.calendar` (seen on the server, and in the
    source of its scheduler): a time in a gap does not come, one that comes twice comes twice or only the second time,
    and a weekday whose midnight is in a gap may be left out. So occurrences near a change are named one by one, and
    what the server starts too often is left to `is_due`.

    Args:
        rule: The recurrence.
        start: From when on, as for `occurrences`.
        zone: The IANA zone of days and times of day.

    Returns:
        The spec, and whether it is exact.

    Raises:
        ValueError: An instant without a zone, no such zone, or a date after the last year that the server knows.
    """
    begin, first, at = rule.begin(start, zone)
    spec = ScheduleSpec(start_at=begin, time_zone_name=zone)
    if rule.interval is not None:
        spec.intervals = [_interval(rule.interval, begin)]
        spec.skip = [_whole_days(others)] if (others := _others(rule.weekdays)) else []
        return Translation(spec, exact=True)
    if _keeps_its_clock(zone) and rule.days > 1 and not rule.weekdays:
        spec.intervals = [_interval(rule.days * DAY, at_local(first, at, zone))]
        return Translation(spec, exact=True)
    days: Iterable[date] = sorted({day for day in rule.dates if day >= first})
    weekdays: tuple[str, ...] = ()
    if rule.dates:
        spec.calendars = [_on_date(day, at) for day in days]
    else:
        # N weeks without weekdays come on the weekday of the first day.
        weekdays = rule.weekdays or ((WEEKDAYS[first.weekday()],) if rule.days % 7 == 0 else ())
        spec.calendars = [replace(_calendar(at), day_of_week=_ranges(weekdays or WEEKDAYS))]
        days = (first + number * DAY for number in range(FORESIGHT_DAYS))
    near = [
        moment
        for day in days
        if rule.falls_on(day, first) and _changes_clock(day, at, zone, midnights=bool(weekdays))
        if is_due(rule, begin, zone, moment := at_local(day, at, zone))
    ]
    # The server counts intervals from 1970, so one as long as the time since then comes once, and again past 2080.
    spec.intervals = [ScheduleIntervalSpec(every=moment - EPOCH) for moment in near]
    return Translation(spec, exact=not near and (bool(rule.dates) or rule.days in (1, 7)))


def recurrence_of(schedule: Schedule) -> Recurrence:
    """Read a schedule of a document as a recurrence.

    Args:
        schedule: Without faults.

    Returns:
        The recurrence: an interval, or days with a time.
    """
    return Recurrence(
        every=None if schedule.every is None else duration(schedule.every),
        weekdays=schedule.weekdays or (),
        dates=tuple(date.fromisoformat(day) for day in schedule.dates or ()),
        at=None if schedule.time is None else local_time(schedule.time),
    )


def counted_from(schedule: Schedule, started_at: datetime, home: str) -> tuple[datetime, str]:
    """Give where the times of a schedule are counted from.

    Args:
        schedule: Without faults.
        started_at: When its journey was started, or revised.
        home: The journey's IANA zone.

    Returns:
        An instant: of an interval the start; of days the midnight before the first of them, which is the one that it
        was where the schedule's clock is, in the users' zones where the journey is at home. And the zone in which the
        days and times are counted: in the users' zones that where each day comes first.
    """
    if recurrence_of(schedule).interval is not None:
        return started_at, home
    place, zone = (home, FIRST_ZONE) if schedule.timezone == "user" else (schedule.timezone, schedule.timezone)
    return at_local(started_at.astimezone(ZoneInfo(place)).date(), MIDNIGHT, zone), zone


def makes_up(schedule: Schedule) -> bool:
    """Whether a journey that starts makes up for a time of its first day that has passed.

    On one clock for all, `if_passed: skip` leaves nobody to enter then.
    """
    return schedule.timezone == "user" or schedule.if_passed != "skip"


def evaluated_as_of(schedule: Schedule, day: date, home: str, now: datetime) -> datetime:
    """Give the instant as of which the audience of a day is evaluated, so that "today" is that day.

    In the users' zones the first come to the day up to 26 hours before the last.

    Args:
        schedule: With a time of day.
        day: The day, on each user's calendar.
        home: The IANA zone in which the audience's calendar days are.
        now: The instant of the evaluation.

    Returns:
        The day's time where the schedule's clock is, in the users' zones where the journey is at home; the present,
        where that is later on the same day.
    """
    zone = home if schedule.timezone == "user" else schedule.timezone
    planned = at_local(day, local_time(schedule.time or "00:00"), zone)
    return now if now > planned and now.astimezone(ZoneInfo(zone)).date() == day else planned


def _interval(every: timedelta, begin: datetime) -> ScheduleIntervalSpec:
    """An interval that one of its times begins."""
    return ScheduleIntervalSpec(every=every, offset=(begin - EPOCH) % every)


def _calendar(at: time) -> ScheduleCalendarSpec:
    """Every day at a time."""
    return ScheduleCalendarSpec(
        hour=[ScheduleRange(at.hour)], minute=[ScheduleRange(at.minute)], second=[ScheduleRange(at.second)]
    )


def _on_date(day: date, at: time) -> ScheduleCalendarSpec:
    if day.year > LAST_YEAR:
        raise ValueError(f"{day} is too far: {LAST_YEAR} is the last year that Temporal's calendars know")
    return replace(
        _calendar(at),
        year=[ScheduleRange(day.year)],
        month=[ScheduleRange(day.month)],
        day_of_month=[ScheduleRange(day.day)],
    )


def _whole_days(weekdays: tuple[str, ...]) -> ScheduleCalendarSpec:
    """Every second of the weekdays."""
    return ScheduleCalendarSpec(
        hour=[ScheduleRange(0, 23)],
        minute=[ScheduleRange(0, 59)],
        second=[ScheduleRange(0, 59)],
        day_of_week=_ranges(weekdays),
    )


def _ranges(weekdays: tuple[str, ...]) -> list[ScheduleRange]:
    """Weekdays as the server counts them, from 0 for Sunday."""
    return [ScheduleRange((WEEKDAYS.index(name) + 1) % 7) for name in weekdays]


def _others(weekdays: tuple[str, ...]) -> tuple[str, ...]:
    """The weekdays that do not count."""
    return tuple(name for name in WEEKDAYS if weekdays and name not in weekdays)


def _keeps_its_clock(zone: str) -> bool:
    """Whether no law can ever change the clock of the zone."""
    return zone in ("UTC", "GMT") or zone.startswith("Etc/")


def _changes_clock(day: date, at: time, zone: str, *, midnights: bool) -> bool:
    """Whether clocks change near the time of the day, or at a midnight by which the server finds the weekday."""
    place = ZoneInfo(zone)

    def changes(wall: datetime, around: timedelta) -> bool:
        return (wall - around).utcoffset() != (wall + around).utcoffset()

    # No change is over two hours but that of a whole day (the longest is Troll's).
    if changes(datetime.combine(day, at, place), timedelta(hours=2)):
        return True
    return midnights and any(
        changes(datetime.combine(one, MIDNIGHT, place), timedelta(hours=1)) for one in (day, day + DAY)
    )
