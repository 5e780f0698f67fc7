"""Wall clocks across zones and daylight-saving changes: a table of cases, and laws that hold for every instant."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.calendar import (
    WEEKDAYS,
    at_local,
    end_of_silence,
    entry_moment,
    first_zone_instant,
    last_zone_instant,
    local_time,
    next_time,
    read_moment,
    shifted_day,
    zone_or,
)

PARIS, NEW_YORK, LORD_HOWE, APIA = "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"
HAVANA, CAIRO, KATHMANDU = "America/Havana", "Africa/Cairo", "Asia/Kathmandu"
ZONES = [PARIS, NEW_YORK, LORD_HOWE, APIA, HAVANA, CAIRO, KATHMANDU, "UTC", "Antarctica/Troll", "America/St_Johns"]
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def clock(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


AT_LOCAL = [
    ("2026-01-15 10:00", PARIS, "2026-01-15 09:00"),
    ("2026-07-15 10:00", PARIS, "2026-07-15 08:00"),
    # Clocks go forward: nothing shows the time, so the first instant after the gap.
    ("2026-03-29 02:00", PARIS, "2026-03-29 01:00"),
    ("2026-03-29 02:30", PARIS, "2026-03-29 01:00"),
    ("2026-03-29 03:00", PARIS, "2026-03-29 01:00"),
    ("2026-03-08 02:59:59", NEW_YORK, "2026-03-08 07:00"),
    ("2026-10-04 02:15", LORD_HOWE, "2026-10-03 15:30"),
    ("2026-03-08 00:00", HAVANA, "2026-03-08 05:00"),
    ("2026-04-24 00:30", CAIRO, "2026-04-23 22:00"),
    ("2011-12-30 10:00", APIA, "2011-12-30 10:00"),
    # Clocks go back: the first of the two.
    ("2026-10-25 02:30", PARIS, "2026-10-25 00:30"),
    ("2026-10-25 03:00", PARIS, "2026-10-25 02:00"),
    ("2026-11-01 01:30", NEW_YORK, "2026-11-01 05:30"),
    ("2026-04-05 01:45", LORD_HOWE, "2026-04-04 14:45"),
    ("2026-11-01 00:30", HAVANA, "2026-11-01 04:30"),
    ("2026-10-29 23:30", CAIRO, "2026-10-29 20:30"),
    ("2026-03-29 02:30", KATHMANDU, "2026-03-28 20:45"),
    ("2026-03-29 02:30", "UTC", "2026-03-29 02:30"),
    ("2028-02-29 23:59:59", KATHMANDU, "2028-02-29 18:14:59"),
    ("2026-01-01 00:00", "Pacific/Kiritimati", "2025-12-31 10:00"),
]


@pytest.mark.parametrize(("wall", "zone", "expected"), AT_LOCAL)
def test_a_wall_clock_time_is_one_instant(wall: str, zone: str, expected: str) -> None:
    """In a gap it is the first instant after it, of two the first, in every zone."""
    read = datetime.fromisoformat(wall)
    assert at_local(read.date(), read.time(), zone) == instant(expected)


NEXT = [
    ("2026-01-15 08:00", "10:00", PARIS, (), "2026-01-15 09:00"),
    ("2026-01-15 09:00", "10:00", PARIS, (), "2026-01-16 09:00"),
    ("2026-03-28 09:30", "10:00", PARIS, (), "2026-03-29 08:00"),
    ("2026-03-28 09:30", "02:30", PARIS, (), "2026-03-29 01:00"),
    ("2026-10-25 00:30", "02:30", PARIS, (), "2026-10-26 01:30"),
    ("2026-10-25 01:15", "02:30", PARIS, (), "2026-10-26 01:30"),
    ("2026-03-07 23:00", "00:00", HAVANA, ("sunday",), "2026-03-08 05:00"),
    ("2026-04-05 22:00", "08:00", LORD_HOWE, ("monday", "thursday"), "2026-04-08 21:30"),
    ("2028-02-28 12:00", "12:00", "UTC", ("tuesday",), "2028-02-29 12:00"),
    # Samoa had no 30 December 2011, a Friday.
    ("2011-12-29 12:00", "10:00", APIA, (), "2011-12-29 20:00"),
    ("2011-12-29 20:00", "10:00", APIA, (), "2011-12-30 20:00"),
    ("2011-12-24 12:00", "10:00", APIA, ("friday",), "2012-01-05 20:00"),
]


@pytest.mark.parametrize(("after", "at", "zone", "weekdays", "expected"), NEXT)
def test_the_next_time(after: str, at: str, zone: str, weekdays: tuple[str, ...], expected: str) -> None:
    """The next one is after the instant, on one of the weekdays, and skips a day that the zone skipped."""
    assert next_time(instant(after), local_time(at), zone, weekdays=weekdays) == instant(expected)


def test_the_next_time_may_be_now() -> None:
    """Where it may be now, the instant itself counts, and in a gap the instant that stands for the time."""
    now = instant("2026-03-29 01:00")
    for at in (time(2, 30), time(3)):
        assert next_time(now, at, PARIS, strict=False) == now
        assert next_time(now, at, PARIS) > now + timedelta(hours=22)


SILENCE = [
    ("2026-01-15 20:59:59", "22:00", "08:00", PARIS, None),
    ("2026-01-15 21:00", "22:00", "08:00", PARIS, "2026-01-16 07:00"),
    ("2026-01-16 06:59:59", "22:00", "08:00", PARIS, "2026-01-16 07:00"),
    ("2026-01-16 07:00", "22:00", "08:00", PARIS, None),
    # A night of nine hours, and one of eleven.
    ("2026-03-28 21:00", "22:00", "08:00", PARIS, "2026-03-29 06:00"),
    ("2026-10-24 20:00", "22:00", "08:00", PARIS, "2026-10-25 07:00"),
    ("2026-01-15 11:29", "12:30", "14:00", PARIS, None),
    ("2026-01-15 12:00", "13:00", "14:00", PARIS, "2026-01-15 13:00"),
    ("2026-01-15 23:00", "00:00", "07:00", PARIS, "2026-01-16 06:00"),
    ("2026-01-15 22:59", "00:00", "07:00", PARIS, None),
    ("2026-01-15 22:59", "20:00", "00:00", PARIS, "2026-01-15 23:00"),
    # The end is in a gap, or comes twice: no clock shows a silent hour after it.
    ("2026-03-28 23:00", "22:00", "02:30", PARIS, "2026-03-29 01:00"),
    ("2026-10-25 00:15", "22:00", "02:30", PARIS, "2026-10-25 01:30"),
    ("2026-10-25 00:45", "22:00", "02:30", PARIS, "2026-10-25 01:30"),
    ("2026-10-25 01:30", "22:00", "02:30", PARIS, None),
    # The begin comes twice: silence does not stop in between.
    ("2026-10-25 01:15", "02:30", "08:00", PARIS, "2026-10-25 07:00"),
    # All of it is in a gap, and nearly a whole day in which the end comes after the next begin.
    ("2026-03-29 01:00", "02:10", "02:50", PARIS, None),
    ("2026-04-03 20:00", "01:50", "01:40", LORD_HOWE, "2026-04-05 15:10"),
    ("2011-12-30 09:30", "22:00", "08:00", APIA, "2011-12-30 18:00"),
    ("2026-03-08 04:00", "23:00", "00:00", HAVANA, "2026-03-08 05:00"),
    ("2026-01-15 16:30", "22:00", "08:00", KATHMANDU, "2026-01-16 02:15"),
]


@pytest.mark.parametrize(("now", "begin", "end", "zone", "expected"), SILENCE)
def test_silent_hours_end(now: str, begin: str, end: str, zone: str, expected: str | None) -> None:
    """Silent hours begin and end by the clock of the zone, over midnight and over changes of it."""
    found = end_of_silence(instant(now), local_time(begin), local_time(end), zone)
    assert found == (expected and instant(expected))


SHIFTED: list[tuple[date | datetime, int, str | None, str, str]] = [
    (date(2026, 3, 29), 0, None, PARIS, "2026-03-28 23:00"),
    (date(2026, 3, 29), 1, None, PARIS, "2026-03-29 22:00"),
    (date(2028, 3, 1), -1, "09:00", "UTC", "2028-02-29 09:00"),
    (date(2027, 2, 28), 1, "09:00", "UTC", "2027-03-01 09:00"),
    (date(2026, 4, 23), 1, None, CAIRO, "2026-04-23 22:00"),
    (instant("2026-03-28 09:00"), 1, None, PARIS, "2026-03-29 08:00"),
    (instant("2026-03-28 09:00"), -7, "18:30", PARIS, "2026-03-21 17:30"),
    # 23:30 in UTC is the next day in Kathmandu.
    (instant("2026-03-28 23:30"), 1, "06:00", KATHMANDU, "2026-03-30 00:15"),
    (instant("2026-10-25 01:30"), 0, None, PARIS, "2026-10-25 01:30"),
    (instant("2026-10-25 01:30"), 7, None, PARIS, "2026-11-01 01:30"),
    (instant("2011-12-29 20:00"), 1, None, APIA, "2011-12-30 10:00"),
]


@pytest.mark.parametrize(("value", "days", "at", "zone", "expected"), SHIFTED)
def test_whole_days_from_a_date(value: date | datetime, days: int, at: str | None, zone: str, expected: str) -> None:
    """Days are those of the calendar, not of 24 hours; the time of day is kept, or midnight for a date."""
    assert shifted_day(value, days, None if at is None else local_time(at), zone) == instant(expected)


READ = [
    (date(2026, 2, 28), date(2026, 2, 28)),
    ("2028-02-29", date(2028, 2, 29)),
    ("2026-02-29", None),
    (datetime(2026, 1, 2, 3, tzinfo=ZoneInfo(PARIS)), instant("2026-01-02 02:00")),
    (datetime(2026, 1, 2, 3), instant("2026-01-02 03:00")),
    ("2026-01-02T03:04:05Z", instant("2026-01-02 03:04:05")),
    ("2026-01-02T03:04:05.250+05:45", instant("2026-01-01 21:19:05.250")),
    ("2006-01-02 15:04:05", instant("2006-01-02 15:04:05")),
    (" 2006-01-02 15:04 ", instant("2006-01-02 15:04")),
    ("9999-12-31T23:30:00Z", None), ("0001-01-01", None), (date.min, None), (datetime.max.replace(tzinfo=UTC), None),
    ("20260102", None), ("2026-W01-1", None), ("soon", None), ("", None), (None, None), (20260102, None), (True, None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), READ)
def test_what_tables_and_events_hold(value: object, expected: date | datetime | None) -> None:
    """Dates, instants and their texts are read, without a zone in UTC; anything else is unreadable and no error."""
    found = read_moment(value, KATHMANDU)
    assert found == expected
    assert type(found) is type(expected)
    assert not isinstance(found, datetime) or found.tzinfo is UTC


def test_first_and_last_zone() -> None:
    """A time of day comes first in Kiritimati and last at UTC-12, 26 hours later, and nowhere outside."""
    day, at = date(2028, 2, 29), time(9)
    first, last = first_zone_instant(day, at), last_zone_instant(day, at)
    assert (first, last) == (instant("2028-02-28 19:00"), instant("2028-02-29 21:00"))
    assert all(first <= at_local(day, at, zone) <= last for zone in [*ZONES, "Pacific/Kiritimati", "Etc/GMT+12"])


def test_entering_at_a_time_of_ones_own() -> None:
    """A user enters at the time in his zone; when it has passed: now, when it comes again, or not at all."""
    day, at, now = date(2026, 3, 28), time(2, 30), instant("2026-03-28 06:00")
    assert entry_moment(day, at, NEW_YORK, now, "skip") == instant("2026-03-28 06:30")
    assert entry_moment(day, at, "UTC", instant("2026-03-28 02:30"), "skip") == instant("2026-03-28 02:30")
    assert entry_moment(day, at, PARIS, now, "now") == now
    assert entry_moment(day, at, PARIS, now, "next_day") == instant("2026-03-29 01:00")
    assert entry_moment(day, at, PARIS, now + 9 * DAY, "next_day") == instant("2026-04-07 00:30")
    assert entry_moment(day, at, PARIS, now, "skip") is None


def test_a_wrong_value_is_named() -> None:
    """Times, zones, weekdays, silent hours, recurrences and instants that are none are refused with the value."""
    for text in ("9:00", "24:00", "12:60", "noon", "12:00+01:00", ""):
        with pytest.raises(ValueError, match="is no time of day") as refused:
            local_time(text)
        assert repr(text) in str(refused.value)
    for zone in ("Mars/Base", "Europe", "../etc/passwd", "localtime", ""):
        with pytest.raises(ValueError, match="is no IANA time zone"):
            at_local(date(2026, 1, 1), time(9), zone)
        assert zone_or(zone, PARIS) == PARIS
    assert [zone_or(name, "UTC") for name in (APIA, None, 7)] == [APIA, "UTC", "UTC"]
    noon = instant("2026-01-01 12:00")
    with pytest.raises(ValueError, match="'caturday' is no weekday"):
        next_time(noon, time(9), PARIS, weekdays=["caturday"])
    with pytest.raises(ValueError, match="would never end"):
        end_of_silence(noon, time(8), time(8), PARIS)
    with pytest.raises(ValueError, match="2026-01-01T12:00:00 has no zone"):
        end_of_silence(noon.replace(tzinfo=None), time(8), time(9), PARIS)
    with pytest.raises(ValueError, match="9000000 days from 2026-01-01 is outside"):
        shifted_day(date(2026, 1, 1), 9_000_000, None, PARIS)
    with pytest.raises(ValueError, match="outside the calendar"):
        at_local(date.max, time(23), NEW_YORK)


MOMENTS = st.datetimes(datetime(1995, 1, 1), datetime(2045, 1, 1), timezones=st.just(UTC))
CHANGES = [instant(text) for _, _, text in AT_LOCAL]
# Half of them within two days of a change of clocks, where the errors are.
INSTANTS = st.one_of(MOMENTS, st.builds(lambda near, by: near + by * SECOND, st.sampled_from(CHANGES),
                                        st.integers(-200_000, 200_000)))  # fmt: skip
TIMES = st.builds(lambda minutes: time(minutes // 60, minutes % 60), st.integers(0, 1439))
PLACES = st.sampled_from(ZONES)
SOME_WEEKDAYS = st.sets(st.sampled_from(WEEKDAYS))


@given(moment=INSTANTS, at=TIMES, zone=PLACES)
def test_the_clock_reaches_the_time_then_and_not_before(moment: datetime, at: time, zone: str) -> None:
    """At the instant the clock shows the time, or has just jumped over it; in the three hours before it did not."""
    day = clock(moment, zone).date()
    found = at_local(day, at, zone)
    assert found.tzinfo is UTC
    wanted = datetime.combine(day, at)
    assert clock(found - SECOND, zone) < wanted <= clock(found, zone)
    assert all(clock(found - timedelta(minutes=minutes), zone) != wanted for minutes in range(1, 181))
    if clock(found, zone) != wanted:
        assert clock(found, zone) - clock(found - SECOND, zone) > SECOND


@given(after=INSTANTS, at=TIMES, zone=PLACES, weekdays=SOME_WEEKDAYS)
def test_the_next_time_is_after(after: datetime, at: time, zone: str, weekdays: set[str]) -> None:
    """It is after the instant, within nine days, on a weekday that counts, at the time unless that is in a gap."""
    found = next_time(after, at, zone, weekdays=weekdays)
    assert after < found <= after + timedelta(days=16 if zone == APIA else 9)
    local = clock(found, zone)
    assert local.time() == at or local - clock(found - SECOND, zone) > SECOND
    assert not weekdays or WEEKDAYS[local.weekday()] in weekdays
    assert next_time(found, at, zone, weekdays=weekdays, strict=False) == found


@given(now=INSTANTS, begin=TIMES, end=TIMES, zone=PLACES, part=st.floats(0, 0.99))
def test_after_silence_it_is_not_silent(now: datetime, begin: time, end: time, zone: str, part: float) -> None:
    """The end is outside the silent hours by function and by clock; every instant before it has the same end."""
    if begin == end:
        return

    def shows_silence(moment: datetime) -> bool:
        shown = clock(moment, zone).time()
        return begin <= shown < end if begin < end else shown >= begin or shown < end

    found = end_of_silence(now, begin, end, zone)
    if found is None:
        assert not shows_silence(now)
        return
    assert found > now
    assert found.tzinfo is UTC
    assert end_of_silence(found, begin, end, zone) is None
    assert not shows_silence(found)
    assert end_of_silence(now + (found - now) * part, begin, end, zone) == found
