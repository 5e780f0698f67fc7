"""Waits for segments: an event, an import or time alone ends each, at the moment at which the answer changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from activities.records.reports import explain
from tests.house import House, events_of
from tests.test_events import RUNS, branches_of, left, open_journeys
from tests.waiting import begin, look, save_wait, skip


async def test_waits_for_segments(house: House) -> None:
    """A wait ends at once when an event brings the user into a segment, and when an import does it is noticed."""
    save_wait(
        house,
        "spent: {in_segment: {event: purchase, count: {at_least: 2}}, next: came}, "
        "freed: {not_in_segment: {segment: paying}, next: late}",
        up_to="30d",
    )
    await open_journeys(house, "waiting")
    engine = house.engine
    async with house.serving(RUNS) as client:
        runs = {user: await begin(house, client, user) for user in ("u1", "u4", "u6")}
        await engine.event("u1", "purchase", client=client)
        await engine.event("u1", "purchase", client=client)
        await left(house, "waiting", "u1")
        assert await look(house, client) == 0
        house.load("users", "user_id,plan\nu4,free\n")
        assert await look(house, client) == 1
        await left(house, "waiting", "u4")
        assert branches_of(house, "waiting", "u6") == [[]]
        kinds = await events_of(client, runs["u6"].id)
        assert (kinds.count("timer_fired"), kinds.count("workflow_execution_signaled")) == (0, 0)
    assert branches_of(house, "waiting", "u1") == [["wait: spent", "came: next"]]
    assert branches_of(house, "waiting", "u4") == [["wait: freed"]]
    step = explain(house.stores.ledger.database, "waiting", "u4").runs[0].steps[0]
    assert "not in 'paying'" in step.because
    assert (step.tables or {})["users"] == house.stores.tables.version("users")


async def test_the_moment_at_which_time_ends_a_wait(house: House) -> None:
    """A wait ends at the very moment at which time alone changes the answer for its user, and looks at no other."""
    bought = datetime.now(UTC) - timedelta(days=1, hours=19)
    house.load("events", f"user_id,event,at\nu1,purchase,{bought:%Y-%m-%dT%H:%M:%SZ}\nu4,look,2026-01-01T00:00:00Z\n")
    lately = "{event: purchase, within_last: 7d}"
    save_wait(house, f"cold: {{not_in_segment: {lately}, next: came}}", up_to="30d")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        await begin(house, client, "u4")
        await left(house, "waiting", "u4")  # who never bought is out of the segment already
        await skip(client, run, timedelta(days=5, hours=4, minutes=59))
        assert branches_of(house, "waiting", "u1") == [[]]
        assert (await events_of(client, run.id)).count("timer_fired") == 0
        await skip(client, run, timedelta(minutes=2))
        await left(house, "waiting", "u1")
    step = explain(house.stores.ledger.database, "waiting", "u1").runs[0].steps[0]
    late = step.at - (bought + timedelta(days=7))
    assert timedelta() < late < timedelta(seconds=30), late


async def test_a_window_that_an_event_moves(house: House) -> None:
    """Another event moves the moment: the wait ends when the last one leaves the window, not when the first does."""
    save_wait(house, "cold: {not_in_segment: {event: purchase, within_last: 2h}, next: came}", up_to="1d")
    house.load("events", f"user_id,event,at\nu1,purchase,{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        run = await begin(house, client)
        await house.engine.event("u1", "purchase", at=datetime.now(UTC) + timedelta(minutes=90), client=client)
        await skip(client, run, timedelta(hours=3))
        assert branches_of(house, "waiting", "u1") == [[]]
        await skip(client, run, timedelta(minutes=31))
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: cold", "came: next"]]


async def test_a_user_who_is_in_the_segment_already(house: House) -> None:
    """Who is in the segment on arrival passes at once."""
    save_wait(house, "payer: {in_segment: {segment: paying}, next: came}")
    await open_journeys(house, "waiting")
    async with house.serving(RUNS) as client:
        await begin(house, client)
        await left(house, "waiting", "u1")
    assert branches_of(house, "waiting", "u1") == [["wait: payer", "came: next"]]
