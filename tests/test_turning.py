"""When time alone changes an answer about one user: exactly then, never later, and not before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from activities.segments.clock import Clock
from activities.segments.compiler import Built, is_timeless
from activities.segments.turning import MOST_MOMENTS, TICK, OneUser
from tests.condition_oracle import Oracle
from tests.condition_tables import NOON, Tables, condition
from tests.test_compiler_properties import CONDITIONS, ZONES, quick, tables
from workflows.conditions import Condition

UNTIL = NOON + timedelta(days=90)
KINDS = {"users": {"born": "date", "seen": "instant"}, "devices": {"seen": "instant"}, "events": {"due": "date"}}


def own(made: Tables, user: str = "u1") -> OneUser:
    """Give one user's rows."""
    frames = (made.snapshot.users, made.snapshot.devices, made.snapshot.events)
    return OneUser(*(frame.filter(pl.col("user_id") == user).collect() for frame in frames))


def turn(made: Tables, text: str, zone: str = "UTC", until: datetime = UNTIL) -> datetime | None:
    """Tell when the answer about `u1` changes next, seen from noon of 15 March 2026."""
    return own(made).next_turn(condition(text), Clock(NOON, zone), made, until)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "zone", "wanted"),
    [
        # Seen on 10 March at 09:00: inside until the very same time, thirty days later.
        ("{attribute: seen, within_last: 30d}", "UTC", at("2026-04-09T09:00") + TICK),
        ("{attribute: seen, older_than: 30d}", "UTC", at("2026-04-09T09:00") + TICK),
        ("{attribute: seen, older_than: 1d}", "UTC", None),  # he is, and time makes it only longer
        ("{attribute: seen, days_ago: {exactly: 5}}", "UTC", at("2026-03-16T00:00")),
        ("{attribute: seen, days_ago: {exactly: 7}}", "UTC", at("2026-03-17T00:00")),
        # Clocks go forward in Paris on 29 March: the day begins an hour earlier in UTC from then on.
        ("{attribute: seen, days_ago: {at_least: 19}}", "Europe/Paris", at("2026-03-28T23:00")),
        ("{attribute: seen, days_ago: {at_least: 20}}", "Europe/Paris", at("2026-03-29T22:00")),
        ("{attribute: born, anniversary: {exactly: 0}}", "UTC", at("2026-03-29T00:00")),
        ("{attribute: born, anniversary: {at_most: 7}}", "Asia/Tokyo", at("2026-03-21T15:00")),
        ("{attribute: born, within_next: 30d}", "UTC", None),  # born in 1985
        # Three devices' and events' own instants.
        ("{device: seen, within_last: 7d}", "UTC", at("2026-03-15T18:00") + TICK),
        ("{event: buy, within_last: 7d}", "UTC", at("2026-03-18T12:00") + TICK),
        ("{event: buy, within_last: 7d, count: {at_least: 2}}", "UTC", at("2026-03-16T12:00") + TICK),
        ("{event: buy, where: {property: due, days_ahead: {exactly: 0}}}", "UTC", at("2026-03-20T00:00")),
        ("{event: buy, where: {property: due, within_next: 3d}}", "UTC", at("2026-03-17T00:00")),
        ("{not: {event: buy, within_last: 7d}}", "UTC", at("2026-03-18T12:00") + TICK),
        ("{event: visit, within_last: 7d}", "UTC", None),
        # Of two tests that have to be true together, the one that fails changes nothing.
        ("{all: [{attribute: seen, within_last: 30d}, {attribute: born, is_not_set: true}]}", "UTC", None),
        # A nested segment keeps its own zone; an imported one never changes.
        ("{segment: lately}", "UTC", at("2026-03-15T15:00")),
        ("{any: [{segment: vip}, {attribute: seen, within_last: 30d}]}", "UTC", None),
    ],
)
def test_the_very_moment(text: str, zone: str, wanted: datetime | None) -> None:
    """Each kind of window ends, for this user, at the moment that a calendar on the wall says; or never."""
    made = Tables(
        KINDS,
        [{"user_id": "u1", "born": datetime(1985, 3, 29).date(), "seen": at("2026-03-10T09:00")}],
        [{"device_id": "d1", "user_id": "u1", "seen": at("2026-03-08T18:00")}],
        [
            {"user_id": "u1", "event": "buy", "at": at("2026-03-09T12:00"), "due": datetime(2026, 3, 20).date()},
            {"user_id": "u1", "event": "buy", "at": at("2026-03-11T12:00")},
            {"user_id": "u2", "event": "buy", "at": at("2026-03-12T12:00")},
        ],
        {"vip": {"u1"}, "lately": Built(condition("{attribute: seen, days_ago: {at_most: 5}}"), "Asia/Tokyo")},
    )
    assert turn(made, text, zone) == wanted


def test_a_wait_that_ends_before() -> None:
    """What would change after the wait is over is not looked at."""
    made = Tables(KINDS, [{"user_id": "u1", "seen": NOON}])
    text = "{attribute: seen, within_last: 30d}"
    assert turn(made, text) == NOON + timedelta(days=30) + TICK
    assert turn(made, text, until=NOON + timedelta(days=30)) is None


def test_many_moments() -> None:
    """With very many instants in its windows an answer is looked at anew behind the first of them, never too late."""
    bought = [{"user_id": "u1", "event": "buy", "at": NOON - timedelta(minutes=minute)} for minute in range(80)]
    found = turn(Tables(KINDS, [{"user_id": "u1"}], [], bought), "{event: buy, within_last: 1d, count: {at_least: 9}}")
    oldest_first = sorted(row["at"] for row in bought)
    assert found == oldest_first[MOST_MOMENTS] + timedelta(days=1) + TICK
    few = Tables(KINDS, [{"user_id": "u1"}], [], bought[:40])
    assert (
        turn(few, "{event: buy, within_last: 1d, count: {at_least: 9}}") == bought[8]["at"] + timedelta(days=1) + TICK
    )


def test_values_at_the_ends_of_the_calendar() -> None:
    """Dates and instants that no window can leave change nothing, and break nothing."""
    rows = [{"user_id": "u1", "born": datetime(9998, 12, 31).date(), "seen": datetime(9998, 12, 31, tzinfo=UTC)}]
    made = Tables(KINDS, rows)
    for text in ("within_last: 30d", "within_next: 36525d", "older_than: 30d", "days_ahead: {exactly: 999999999}"):
        for name in ("born", "seen"):
            assert turn(made, f"{{attribute: {name}, {text}}}") is None


@hypothesis_settings(quick, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(node=CONDITIONS, made=tables(), zone=st.sampled_from(ZONES))
def test_the_judge_finds_no_other_moment(node: Condition, made: Tables, zone: str) -> None:
    """On random tables and conditions a slow judge finds the same answer at every hour before, and another one then."""
    until = NOON + timedelta(days=15)  # every value, window and zone of these tables is counted in whole hours
    found = own(made).next_turn(node, Clock(NOON, zone), made, until)
    if is_timeless(node, made):
        assert found is None
        return
    user = next(row for row in made.users if row["user_id"] == "u1")

    def holds(moment: datetime) -> bool:
        return Oracle(made.kinds, made.devices, made.events, moment, zone, made.segments).holds(node, user)

    now = holds(NOON)
    hours = (NOON + timedelta(hours=number) for number in range(1, 15 * 24 + 1))
    for moment in hours:
        if found is not None and moment >= found:
            break
        assert holds(moment) == now, moment
    if found is not None:
        assert holds(found) != now
