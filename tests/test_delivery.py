"""From the run to the provider's door: each device that should gets a push once, and each outcome is written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from activities.life import stats_of
from activities.push.apns import Apns, ApnsConfig
from activities.push.claims import Cap
from activities.push.delivery import DeliveryRules
from activities.push.previewing import preview_push
from activities.push.provider import Answer, Verdict
from activities.records.reports import list_pushes
from activities.records.rows import pushes
from tests.apns_peer import ApnsPeer, Behaviour
from tests.certificates import make_authority, private_pem, public_pem, server_certificate, signing_key
from tests.house import House
from workers.plugin import JourneysPlugin
from workflows.contracts import Stats

TOKENS = {"d1": "a1" * 32, "d2": "b2" * 32, "d3": "c3" * 32}

DEVICES = "device_id,user_id,platform,provider,token,opt_in,last_seen,app_version\n" + "".join(
    f"{device},{user},ios,apns,{TOKENS[device]},true,{seen},{version}\n"
    for device, user, seen, version in (
        ("d1", "u1", "2026-01-01T00:00:00Z", "1.9.0"),
        ("d2", "u2", "2026-01-01T00:00:00Z", "3.10.0"),
        ("d3", "u2", "2026-02-01T00:00:00Z", "3.9.0"),
    )
)

JOURNEY = """\
journey: apple
reentry: after_exit
entries:
  start: {{kind: audience-entry, audience: {{attribute: user_id, in: [u1, u2]}}, next: promo}}
elements:
  promo:
    kind: push
{settings}
    message: {{title: Salut, body: Bonjour, ttl: {ttl}}}
    next: done
  done: {{kind: exit}}
"""


class Apple:
    """A house whose pushes go to a peer that speaks APNs."""

    def __init__(self, house: House, peer: ApnsPeer, provider: Apns) -> None:
        self.house, self.peer, self.provider = house, peer, provider

    def save(self, settings: str = "", ttl: str = "28d") -> None:
        lines = "\n".join(f"    {line}" for line in settings.splitlines())
        self.house.save(JOURNEY.format(settings=lines, ttl=ttl))

    async def run(self, rules: DeliveryRules | None = None) -> Stats:
        """Run the journey to its end."""
        plugin = JourneysPlugin(self.house.stores, sandbox=True, providers={"apns": self.provider}, rules=rules)
        async with self.house.serving(plugin=plugin) as client:
            report = await self.house.engine.start("apple", client=client)
            return await self.house.engine.result(report, client=client)

    @property
    def outcomes(self) -> dict[str, str]:
        """The newest outcome of each device."""
        found = list_pushes(self.house.stores.ledger.database).pushes
        return {push.device_id: push.outcome for push in reversed(found)}


@pytest.fixture
async def apple(house: House, tmp_path: Path) -> AsyncIterator[Apple]:
    house.load("devices", DEVICES)
    async with serving_apple(house, tmp_path) as found:
        yield found


@asynccontextmanager
async def serving_apple(house: House, folder: Path) -> AsyncIterator[Apple]:
    key, authority = signing_key(), make_authority(folder)
    peer = ApnsPeer(public_pem(key), "KEYID12345", "TEAM123456", {"com.example.shop"})
    certificate = server_certificate(authority, "127.0.0.1")
    async with peer.serving(certificate.context("h2")):
        provider = Apns(
            ApnsConfig(
                key=private_pem(key),
                key_id="KEYID12345",
                team_id="TEAM123456",
                topic="com.example.shop",
                base_url=peer.url,
                ca_file=authority.ca_file,
                timeout_seconds=1.0,
            )
        )
        try:
            yield Apple(house, peer, provider)
        finally:
            await provider.close()


async def test_each_device_gets_it_once(apple: Apple) -> None:
    """Every reachable device is sent one push that names its journey and element, and the numbers say so."""
    apple.save()
    stats = await apple.run()
    assert stats.elements["promo"].users == {"accepted": 2}
    assert stats.elements["promo"].devices == {"accepted": 4}  # three by Apple, and u1's other device by the outbox
    assert sorted(one.device for one in apple.peer.received) == sorted(TOKENS.values())
    assert apple.peer.duplicates == 0
    payload = apple.peer.received[0].payload
    assert (payload["journey"], payload["element"]) == ("apple", "promo")
    assert payload["push_id"] == apple.peer.received[0].headers["apns-id"]


async def test_a_dead_address_is_marked_until_the_device_is_seen_again(apple: Apple) -> None:
    """A 410 marks the device at once: it is reachable no more, until its row says that it was seen since."""
    apple.save()
    dead = Behaviour(410, "Unregistered", timestamp=int(time.time() * 1000))
    apple.peer.by_device = {TOKENS["d2"]: dead}
    stats = await apple.run()
    assert stats.elements["promo"].devices == {"accepted": 3, "token-dead": 1}
    assert stats.elements["promo"].users == {"accepted": 2}
    apple.peer.by_device = {}
    apple.peer.received.clear()
    await apple.run()
    assert TOKENS["d2"] not in {one.device for one in apple.peer.received}
    later = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
    apple.house.load("devices", f"device_id,user_id,platform,last_seen\nd2,u2,ios,{later}\n")
    apple.peer.received.clear()
    await apple.run()
    assert TOKENS["d2"] in {one.device for one in apple.peer.received}


class Answering:
    """A provider that answers what it is told to, and what is done at its door is done before."""

    name = "apns"

    def __init__(self, answer: Callable[[str], Awaitable[Answer]]) -> None:
        self.sent: list[str] = []
        self._answer = answer

    def payload(self, notification: Any, target: Any) -> dict[str, Any]:
        return {}

    async def send(self, notification: Any, target: Any) -> Answer:
        self.sent.append(target.device_id)
        return await self._answer(target.device_id)

    async def close(self) -> None:
        pass


async def test_whatever_a_provider_says_can_be_written_down(apple: Apple) -> None:
    """An answer with what no database holds, or far too long, is written down as well as may be."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")

    async def answer(_: str) -> Answer:
        return Answer(Verdict.MESSAGE_BAD, f"no \0 \ud800 {'x' * 5_000}")

    plugin = JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": Answering(answer)})
    async with apple.house.serving(plugin=plugin) as client:
        report = await apple.house.engine.start("apple", client=client)
        await asyncio.wait_for(apple.house.engine.result(report, client=client), 30)
    query = select(pushes.c.detail).where(pushes.c.outcome == "refused")
    said = apple.house.stores.ledger.database.read(lambda connection: connection.execute(query).scalars().all())
    assert said == [f"no \ufffd ? {'x' * 293}"]


async def test_a_phone_that_was_registered_twice_gets_a_push_once(apple: Apple) -> None:
    """Two devices of one user with the same address: the one last seen gets the push, and the plan says the same."""
    apple.house.load(
        "devices",
        "device_id,user_id,platform,provider,token,opt_in,last_seen\n"
        f"d9,u2,ios,apns,{TOKENS['d2']},true,2026-03-01T00:00:00Z\n",
    )
    apple.save()
    plan = apple.house.engine.plan("apple")
    stats = await apple.run()
    assert sorted(one.device for one in apple.peer.received) == sorted(TOKENS.values())
    assert {"d3", "d9"} <= apple.outcomes.keys()
    assert "d2" not in apple.outcomes
    assert plan.pushes.devices == sum(stats.elements["promo"].devices.values()) == 4


async def test_the_frequency_cap(apple: Apple) -> None:
    """A user who had as many marketing pushes as the cap allows is skipped with that reason; `ignore` is not held."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    rules = DeliveryRules(cap=Cap(1, timedelta(days=7)))
    assert (await apple.run(rules)).elements["promo"].devices == {"accepted": 1}
    stats = await apple.run(rules)
    assert stats.elements["promo"].users["skipped: capped"] == 1
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}\nfrequency_cap: ignore")
    stats = await apple.run(rules)
    assert stats.elements["promo"].devices == {"accepted": 1}


async def test_only_the_latest_device(apple: Apple) -> None:
    """`send_to: latest` sends to the device that was last seen, and the plan says the same."""
    apple.save("send_to: latest\ndevices: {attribute: platform, is: ios}")
    plan = apple.house.engine.plan("apple")
    stats = await apple.run()
    assert {one.device for one in apple.peer.received} == {TOKENS["d1"], TOKENS["d3"]}
    assert plan.pushes.devices == sum(stats.elements["promo"].devices.values()) == 2


async def test_the_preview_is_what_is_sent(apple: Apple) -> None:
    """A preview shows the payload of each device and sends nothing; a test sends it, and no number counts it."""
    apple.save()
    stores = apple.house.stores
    saved = stores.catalogue.journey(stores.catalogue.find("journey", "apple").digest)
    providers, now = {"apns": apple.provider}, datetime.now(UTC)
    preview = await preview_push(stores, providers, saved, "promo", "u2", now)
    assert [device.device_id for device in preview.devices] == ["d2", "d3"]
    assert preview.devices[0].payload is not None
    assert preview.devices[0].payload["aps"]["alert"]["title"] == "Salut"
    assert apple.peer.received == []
    tested = await preview_push(stores, providers, saved, "promo", "u2", now, send=True)
    assert [device.answer for device in tested.devices] == ["accepted", "accepted"]
    assert len(apple.peer.received) == 2
    assert stats_of(stores, "apple").elements["promo"].devices == {}
