"""Rates: the minutes that pushes keep off, the messages of each minute, and the limit that workers share."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.elements.split_test import place_of
from activities.push.delivery import PROMPT_SECONDS, DeliveryRules
from activities.push.provider import Answer, Verdict
from activities.push.rates import KeepOff, Rates
from activities.records.rows import instant, pushes
from scripts.cli import run
from tests.house import House
from workers.plugin import activities_of
from workers.providers import delivery_rules
from workers.settings import load_settings
from workflows.contracts import PUSH_QUEUE, Visit

TEN = datetime(2026, 3, 2, 10, tzinfo=UTC)
DEVICES = "device_id,user_id,platform,provider,token,opt_in\nr2,u2,ios,relay,t2,true\n"


@given(seconds=st.floats(-3_600, 3_600), place=st.floats(0, 1, exclude_max=True))
def test_nobody_is_sent_to_around_a_quarter_hour(seconds: float, place: float) -> None:
    """Within 2 minutes of a quarter hour a push waits for their end and a minute more at most; else not at all."""
    now = TEN + timedelta(seconds=seconds)
    wait = KeepOff().wait(now, place)
    to_quarter = min(seconds % 900, -seconds % 900)
    assert (wait > 0) == (to_quarter < 120) or to_quarter == 120
    if wait:
        after = (now + timedelta(seconds=wait) - TEN).total_seconds() % 900
        assert 120 - 1e-3 <= after <= 180 + 1e-3


def test_those_who_waited_come_back_on_a_ramp() -> None:
    """Of a launch at ten sharp each quarter of the first minute brings more than the one before: 1, 3, 5, 7 of 16."""
    waits = [KeepOff().wait(TEN, place_of(f"passage-{number}", "ramp")) for number in range(16_000)]
    quarters = Counter(int((wait - 120) // 15) for wait in waits)
    for quarter, share in enumerate((1, 3, 5, 7)):
        assert abs(quarters[quarter] - share * 1_000) < 150, quarters


class Relay:
    """A provider in this process that takes everything."""

    name = "relay"

    def __init__(self) -> None:
        self.taken: list[str] = []

    def payload(self, notification: Any, target: Any) -> dict[str, Any]:
        return {}

    async def send(self, notification: Any, target: Any) -> Answer:
        self.taken.append(target.device_id)
        return Answer(Verdict.ACCEPTED)

    async def close(self) -> None:
        pass


@dataclass
class Sending:
    """The push activity, called as a worker calls it."""

    house: House
    relay: Relay

    async def push(self, user_id: str, rules: DeliveryRules, settings: str = "{}", ttl: str = "28d") -> str:
        """Push to one user of a journey of one push, and give the outcome."""
        self.house.save(JOURNEY.format(settings=settings, ttl=ttl))
        digest = self.house.stores.catalogue.find("journey", "sharp").digest
        visit = Visit(
            journey="sharp",
            version=1,
            digest=digest,
            passage=f"{user_id}-{settings}-{ttl}",
            step=1,
            element="promo",
            user_id=user_id,
            now=datetime.now(UTC),
        )
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, scheduled_time=datetime.now(UTC))
        (push, *_) = activities_of(self.house.stores, {"relay": self.relay}, rules)[PUSH_QUEUE]
        return str((await environment.run(push, visit)).because)


class Clock:
    """Unix time that stands still until the test moves it, just before the end of a second.

    Who waits for the next second looks at it again every ten milliseconds.
    """

    def __init__(self) -> None:
        self.now = 2_000_000.99
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now

    async def looked_at(self, times: int = 1) -> None:
        """Return when whoever waits has looked so many times more."""
        until = self.looks + times
        async with asyncio.timeout(30):
            while self.looks < until:
                await asyncio.sleep(0.005)


def by_the_clock(house: House) -> tuple[House, Rates, Clock]:
    """Give the house with a limit of one message a second, which lives by a clock of its own."""
    clock = Clock()
    rates = Rates(house.stores.ledger.database, clock)
    rates.set_limit("relay", 1)
    return replace(house, stores=replace(house.stores, rates=rates)), rates, clock


JOURNEY = """\
journey: sharp
entries: {{start: {{kind: audience-entry, audience: {{everyone: true}}, next: promo}}}}
elements:
  promo:
    kind: push
    message: {{title: Now, body: Now, ttl: {ttl}}}
    purpose: {settings}
    next: done
  done: {{kind: exit}}
"""


async def test_a_push_of_the_quarter_hour_waits_and_claims_nothing(house: House) -> None:
    """Held, a marketing push leaves no row and no message; what is transactional, short-lived or the outbox's goes."""
    house.load("devices", DEVICES)
    now = datetime.now(UTC)
    # The only one of its kind in this century: 20 s ago to 40 s from now, and a long ramp after it.
    around = KeepOff(timedelta(seconds=now.timestamp() + 10), timedelta(seconds=30), timedelta(seconds=900))
    rules = DeliveryRules(keep_off=around)
    sending = Sending(house, Relay())
    with pytest.raises(ApplicationError) as held:
        await sending.push("u2", rules, "marketing")
    assert (held.value.type, held.value.non_retryable, sending.relay.taken) == ("PushHeld", False, [])
    with pytest.raises(ApplicationError) as again:
        await sending.push("u2", rules, "marketing")
    ends = [now + (one.value.next_retry_delay or timedelta(0)) for one in (held, again)]
    assert abs(ends[1] - ends[0]) < timedelta(seconds=5), "the same place in the ramp on every try"
    assert timedelta(0) < (held.value.next_retry_delay or timedelta(0)) <= timedelta(seconds=940)
    query = select(func.count()).select_from(pushes)
    assert house.stores.ledger.database.read(lambda connection: connection.execute(query).scalar()) == 0
    assert await sending.push("u2", rules, "transactional") == "1 device: 1 accepted"
    assert await sending.push("u2", rules, "marketing", ttl="30s") == "1 device: 1 accepted"
    assert await sending.push("u2", replace(rules, patience=timedelta(seconds=20)), "marketing", ttl="29s") == (
        "1 device: 1 accepted"
    )
    assert await sending.push("u2", DeliveryRules(), "marketing") == "1 device: 1 accepted"
    assert len(sending.relay.taken) == 4
    assert await sending.push("u6", rules, "marketing") == "1 device: 1 accepted", "the outbox has no such minutes"


def test_real_workers_keep_off_unless_told_otherwise(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is on when nothing is said, with 2 minutes around each quarter hour, and can be turned off."""
    assert delivery_rules(load_settings(home=tmp_path)).keep_off == KeepOff(
        timedelta(minutes=15), timedelta(minutes=2), timedelta(minutes=1)
    )
    monkeypatch.setenv("JOURNEYS_PUSH_KEEP_OFF", "false")
    assert delivery_rules(load_settings(home=tmp_path)).keep_off is None


async def test_messages_per_minute_are_told(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`push rates` counts what each provider was sent in each of ten minutes, by when it was sent and not when due."""
    house.load("devices", DEVICES)
    sending, database = Sending(house, Relay()), house.stores.ledger.database
    for ttl in ("1m", "2m", "3m", "4m", "5m"):
        await sending.push("u2", DeliveryRules(), "transactional", ttl)
    await sending.push("u6", DeliveryRules(), "marketing")
    now = datetime(2026, 3, 2, 10, 20, 30, tzinfo=UTC)
    back = {"1m": 10, "2m": 31, "3m": 100, "4m": 9 * 60 + 20, "5m": 11 * 60}

    def moved(connection: Any) -> None:
        for row in connection.execute(select(pushes)).all():
            seconds = back.get(row.passage.rpartition("-")[2], 5)
            values = {"sent_at": instant(now - timedelta(seconds=seconds)), "at": instant(now - timedelta(hours=3))}
            connection.execute(update(pushes).where(pushes.c.passage == row.passage).values(**values))

    database.write_now(moved)
    outbox, relay = Rates(database, now.timestamp).current()
    assert (outbox.provider, outbox.last_minute, outbox.minutes[0].messages) == ("outbox", 1, 1)
    assert (relay.provider, relay.per_second, relay.last_minute) == ("relay", None, 2)
    assert [one.messages for one in relay.minutes] == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1]
    assert [one.minute for one in relay.minutes[:2]] == [now.replace(second=0), now.replace(minute=19, second=0)]
    Rates(database).set_limit("relay", 50)
    monkeypatch.setenv("JOURNEYS_HOME", str(house.settings.home))
    monkeypatch.setattr(sys, "argv", ["journeys", "push", "rates", "--json"])
    assert run() == 0
    (told,) = json.loads(capsys.readouterr().out)["rates"]
    assert (told["provider"], told["per_second"], told["last_minute"], len(told["minutes"])) == ("relay", 50, 0, 10)


async def test_who_opts_out_while_the_push_waits_its_turn_gets_nothing(house: House) -> None:
    """Devices are looked up again after a wait for the allowance: who opted out in it is not sent to, others are."""
    house.load("devices", DEVICES + "r6,u6,ios,relay,t6,true\nr6b,u6,ios,relay,t6b,true\n")
    house.load("devices", "device_id,user_id,platform,opt_in\nd6,u6,android,false\n")
    house, rates, clock = by_the_clock(house)
    sending = Sending(house, Relay())
    assert await rates.take("relay", 0, 2)
    pushing = []
    for user in ("u2", "u6"):
        pushing.append(asyncio.create_task(sending.push(user, DeliveryRules(), "marketing")))
        await clock.looked_at(3)
    house.load("devices", "device_id,user_id,platform,opt_in\nr2,u2,ios,false\nr6,u6,ios,false\n")
    assert sending.relay.taken == []
    await asyncio.sleep(PROMPT_SECONDS)
    clock.now += 2
    await clock.looked_at(3)  # one got his turn, the other looks on
    clock.now += 2
    said = await asyncio.gather(*pushing)
    assert said == ["no device is opted in with an address", "1 device: 1 accepted"]
    assert sending.relay.taken == ["r6b"]
    query = select(pushes.c.device_id)
    assert house.stores.ledger.database.read(lambda connection: connection.execute(query).scalars().all()) == ["r6b"]


async def test_rates_are_shared_and_ramp(house: House) -> None:
    """Two workers together take no more a second than the limit, which starts at a tenth after a quiet minute."""
    now = [1_000_000.0]
    one, two = (Rates(house.stores.ledger.database, lambda: now[0]) for _ in range(2))
    one.set_limit("apns", 100)

    async def taken() -> int:
        count = 0
        for rates in (one, two) * 100:
            count += await rates.take("apns", 0)
        return count

    assert await taken() == 10
    now[0] += 1
    assert await taken() == 11
    for _ in range(60):
        now[0] += 1
        await one.take("apns", 0)
    now[0] += 1
    assert await taken() == 100
    one.set_limit("apns", None)
    now[0] += 5
    assert await taken() == 200


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 30),
    asked=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60), st.booleans()), min_size=1, max_size=25),
)
def test_the_limit_holds_over_time_however_much_one_user_needs(
    house: House, limit: int, asked: list[tuple[float, int, bool]]
) -> None:
    """Granted whole or not at all; from any second on no more than the limit a second and one user's devices."""
    now = [2_000_000.0]
    pair = [Rates(house.stores.ledger.database, lambda: now[0]) for _ in range(2)]
    pair[0].set_limit("relay", None)
    pair[0].set_limit("relay", limit)
    granted: list[tuple[int, int]] = []

    async def ask() -> None:
        for seconds, number, other in asked:
            now[0] += seconds
            if await pair[other].take("relay", 0, number):
                granted.append((int(now[0]), number))

    asyncio.run(ask())
    assert granted[:1] == [(int(2_000_000 + asked[0][0]), asked[0][1])], "whoever comes first is not refused"
    most = max(number for _, number, _ in asked)
    for place, (start, _) in enumerate(granted):
        within = 0
        for second, number in granted[place:]:
            within += number
            assert within <= limit * (second - start + 1) + most - 1


async def test_a_user_with_more_devices_than_the_allowance(house: House) -> None:
    """Under a limit of one a second, thirty devices of a user are sent to at once, and thirty seconds pay for them."""
    rows = "".join(f"x{number},u2,ios,relay,x{number},true\n" for number in range(29))
    house.load("devices", DEVICES + rows)
    house, rates, clock = by_the_clock(house)
    assert await Sending(house, Relay()).push("u2", DeliveryRules(), "marketing") == "30 devices: 30 accepted"
    assert not await rates.take("relay", 0)
    clock.now += 29
    assert not await rates.take("relay", 0)
    clock.now += 1
    assert await rates.take("relay", 0)


async def test_users_with_two_devices_all_get_their_turn(house: House) -> None:
    """Under a limit far below what is asked for, every message that is allowed is sent, to one user after another."""
    users = [f"v{number}" for number in range(8)]
    house.load("users", "user_id\n" + "".join(f"{user}\n" for user in users))
    rows = "".join(f"{user}{one},{user},ios,relay,{user}{one},true\n" for user in users for one in "ab")
    house.load("devices", DEVICES + rows)
    house, _, clock = by_the_clock(house)
    sending = Sending(house, Relay())
    pushes = asyncio.gather(*(sending.push(user, DeliveryRules(), "marketing") for user in users))
    for turn in range(1, len(users) + 1):
        async with asyncio.timeout(30):
            while len(sending.relay.taken) < 2 * turn:
                await asyncio.sleep(0.005)
        if turn < len(users):
            await clock.looked_at(3)
            clock.now += 1
            await clock.looked_at(3)
        assert len(sending.relay.taken) == 2 * turn, "two seconds pay for two devices"
        assert all(f"{one[:-1]}{other}" in sending.relay.taken for one in sending.relay.taken for other in "ab")
        clock.now += 1
    assert set(await pushes) == {"2 devices: 2 accepted"}


async def test_a_device_that_comes_while_the_push_waits_its_turn(house: House) -> None:
    """No turn was waited for on behalf of a device that is new: the push goes to those that it was taken for."""
    house.load("devices", DEVICES)
    house, rates, clock = by_the_clock(house)
    assert await rates.take("relay", 0, 2)
    sending = Sending(house, Relay())
    pushing = asyncio.create_task(sending.push("u2", DeliveryRules(), "marketing"))
    await clock.looked_at(3)
    house.load("devices", DEVICES + "new,u2,ios,relay,new,true\n")
    await asyncio.sleep(PROMPT_SECONDS)
    clock.now += 2
    assert await pushing == "1 device: 1 accepted"
    assert sending.relay.taken == ["r2"]


async def test_a_worker_whose_clock_is_behind_gets_its_share(house: House) -> None:
    """Two workers whose clocks are two seconds apart share the allowance of the one ahead, and no more than it."""
    now = [3_000_000.0]
    database = house.stores.ledger.database
    ahead, behind = Rates(database, lambda: now[0]), Rates(database, lambda: now[0] - 2)
    ahead.set_limit("relay", 100)
    taken = Counter[str]()
    for second in range(120):
        for _ in range(60):
            for name, rates in (("ahead", ahead), ("behind", behind)):
                taken[name] += await rates.take("relay", 0) and second >= 60
        now[0] += 1
    assert min(taken.values()) > 2_400
    assert 5_800 <= taken.total() <= 6_100


async def test_a_clock_that_was_set_back_stops_nobody(house: House) -> None:
    """After the clock went back ten minutes, messages are granted from the first second on, as after a quiet minute."""
    now = [3_000_000.0]
    rates = Rates(house.stores.ledger.database, lambda: now[0])
    rates.set_limit("relay", 100)
    assert await rates.take("relay", 0, 500)
    now[0] -= 600
    assert [await rates.take("relay", 0) for _ in range(20)].count(True) == 10


@pytest.mark.parametrize("borrowed", [5_000, 20_000])
async def test_a_long_debt_is_paid_at_the_full_rate(house: House, borrowed: int) -> None:
    """Whatever was borrowed is paid in as many seconds as the limit takes for it, and no ramp begins in between."""
    now = [3_000_000.0]
    rates = Rates(house.stores.ledger.database, lambda: now[0])
    rates.set_limit("relay", 100)
    for _ in range(61):
        assert await rates.take("relay", 0)
        now[0] += 1
    assert await rates.take("relay", 0, borrowed)
    rates.set_limit("relay", 100)  # as it was: the debt stays
    waited = 0
    while not await rates.take("relay", 0):
        now[0] += 1
        waited += 1
    assert borrowed / 100 - 2 <= waited <= borrowed / 100
    assert sum([await rates.take("relay", 0) for _ in range(200)]) >= 90
