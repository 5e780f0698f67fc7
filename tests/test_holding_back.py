"""What holds users and pushes back: silent hours, send windows, the control group, exit criteria."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from activities.elements.split_test import place_of
from activities.life import stats_of
from activities.push.delivery import DeliveryRules
from activities.records.rows import passages
from tests.house import House
from tests.test_elements import pass_through, run_of
from workers.plugin import JourneysPlugin

PARIS, TOKYO = ZoneInfo("Europe/Paris"), ZoneInfo("Asia/Tokyo")

NIGHT = """\
journey: one
timezone: Europe/Paris
{settings}
entries:
  start: {{kind: audience-entry, audience: {{everyone: true}}, next: late}}
elements:
  late: {{kind: time-delay, time: 23:30, timezone: {zone}, next: promo}}
  promo: {{kind: push, {push}message: {{title: Hello, body: b}}, next: done}}
  done: {{kind: exit}}
"""


async def through_the_night(house: House, settings: str, *, zone: str = "Europe/Paris", push: str = "") -> None:
    house.save(NIGHT.format(settings=settings, zone=zone, push=push))
    saved = house.stores.catalogue.find("journey", "one")
    await house.stores.ledger.open_journey("one", saved.version, saved.digest, "test", datetime.now(UTC))
    async with house.serving() as client:
        assert (await pass_through(client, "u1")).exit == "done"


def outcomes(house: House) -> dict[str, int]:
    return stats_of(house.stores, "one").elements["promo"].users


async def test_a_push_waits_for_the_end_of_silent_hours(house: House) -> None:
    """A push that falls due at half past eleven at night goes out at eight in the morning, on the user's clock."""
    house.load("users", "user_id,timezone\nu1,Asia/Tokyo\n")
    silence = "silent_hours: {push: {from: 22:00, to: 08:00, then: wait}}"
    await through_the_night(house, silence, zone="user")
    step = run_of(house, "u1").steps[-1]
    assert step.at.astimezone(TOKYO).strftime("%H:%M") == "08:00"
    assert outcomes(house) == {"accepted": 1}


async def test_a_push_may_be_skipped_in_silent_hours(house: House) -> None:
    """With `then: skip` it is not sent, says so, and the user goes on that very night."""
    await through_the_night(house, "silent_hours: {push: {from: 22:00, to: 08:00, then: skip}}")
    assert run_of(house, "u1").steps[-1].at.astimezone(PARIS).strftime("%H:%M") == "23:30"
    assert outcomes(house) == {"skipped: silent-hours": 1}


async def test_a_transactional_push_knows_no_silent_hours(house: House) -> None:
    """What answers something that the user did goes out at night too."""
    silence = "silent_hours: {push: {from: 22:00, to: 08:00}}"
    await through_the_night(house, silence, push="purpose: transactional, ")
    assert run_of(house, "u1").steps[-1].at.astimezone(PARIS).strftime("%H:%M") == "23:30"
    assert outcomes(house) == {"accepted": 1}


async def test_a_send_window_spreads_by_the_run(house: House) -> None:
    """A push goes out at the place in the window that the passage's hash gives, and nowhere else."""
    await through_the_night(house, "send_window: 6h")
    delay, push = run_of(house, "u1").steps
    query = select(passages.c.passage).where(passages.c.journey == "one")
    passage = house.stores.ledger.database.read(lambda connection: connection.execute(query).scalar_one())
    expected = timedelta(hours=6) * place_of(passage, "promo")
    assert timedelta() <= push.at - delay.at - expected < timedelta(minutes=1)
    assert outcomes(house) == {"accepted": 1}


async def test_the_control_group_gets_no_marketing(house: House) -> None:
    """Users whose hash is below the percentage get no marketing push; transactional ones reach them."""
    percent = place_of("control-group", "u1") * 100 + 1
    plugin = JourneysPlugin(house.stores, rules=DeliveryRules(control_percent=percent))
    house.save(NIGHT.format(settings="", zone="UTC", push=""))
    saved = house.stores.catalogue.find("journey", "one")
    await house.stores.ledger.open_journey("one", saved.version, saved.digest, "test", datetime.now(UTC))
    async with house.serving(plugin=plugin) as client:
        await pass_through(client, "u1")
    assert outcomes(house) == {"skipped: control-group": 1}


@pytest.mark.parametrize(("user", "reason"), [("u1", "exit-criteria"), ("u3", "end")])
async def test_exit_criteria_end_a_passage_at_the_next_element(house: House, user: str, reason: str) -> None:
    """A user for whom `exit_when` is true leaves at the next element, with that reason; others go on."""
    house.save(NIGHT.format(settings="exit_when: {segment: paying}", zone="UTC", push=""))
    saved = house.stores.catalogue.find("journey", "one")
    await house.stores.ledger.open_journey("one", saved.version, saved.digest, "test", datetime.now(UTC))
    async with house.serving() as client:
        assert (await pass_through(client, user)).reason == reason
    stats = stats_of(house.stores, "one")
    assert stats.exited == {reason: 1}
    assert stats.elements["late"].left == ({"exit-criteria": 1} if reason == "exit-criteria" else {})
