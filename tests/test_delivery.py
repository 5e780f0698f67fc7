"""From the run to the provider's door: each device gets a push once, each outcome is written down, nobody is lost."""

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
from activities.push.rates import Rates
from activities.records.database import BUSY_SECONDS
from activities.records.reports import list_pushes
from activities.records.rows import pushes
from tests.apns_peer import ApnsPeer, Behaviour
from tests.certificates import make_authority, private_pem, public_pem, server_certificate, signing_key
from tests.house import House
from tests.test_faults import locked_ledger
from workers.plugin import JourneysPlugin
from workflows.contracts import PUSH_QUEUE, USERS_QUEUE, Leave, Stats

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


async def test_marketing_is_not_sent_again_after_an_unknown_outcome(apple: Apple) -> None:
    """A push that was accepted and never answered stays unknown, is listed, and reaches the peer once."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    apple.peer.default = Behaviour(act="accept and swallow")
    stats = await apple.run()
    assert stats.elements["promo"].users == {"skipped: no-matching-device": 1, "unknown": 1}
    assert apple.outcomes == {"d2": "unknown"}
    assert list_pushes(apple.house.stores.ledger.database, outcome="unknown").total == 1
    assert len(apple.peer.received) == 1


async def test_transactional_is_sent_again_with_the_same_id(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transactional push whose answer never came is sent again under the same apns-id, and its answer settles it."""
    monkeypatch.setattr("activities.push.delivery.RETRY_FLOOR_SECONDS", 0.2)
    apple.save("purpose: transactional\ndevices: {attribute: app_version, at_least: 3.10.0}")
    apple.peer.next.append(Behaviour(act="accept and swallow"))
    stats = await apple.run()
    assert stats.elements["promo"].devices == {"accepted": 1}
    assert [one.headers["apns-id"] for one in apple.peer.received] == [apple.peer.received[0].headers["apns-id"]] * 2


async def test_a_claim_without_a_record_is_unknown(apple: Apple) -> None:
    """A worker that dies between the call and the record leaves a claim: the next try lists it, and sends nothing."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    plugin = JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": apple.provider})
    async with apple.house.serving(("journeys", USERS_QUEUE), plugin=plugin) as client:
        report = await apple.house.engine.start("apple", client=client)
        # The first worker's claim, written as it writes it; the worker is gone before anything else.
        async with apple.house.serving((PUSH_QUEUE,), plugin=_Dying(apple)):
            await asyncio.wait_for(_until(lambda: apple.outcomes.get("d2") == "claimed"), 20)
        async with apple.house.serving((PUSH_QUEUE,), plugin=plugin):
            stats = await apple.house.engine.result(report, client=client)
    assert stats.elements["promo"].devices == {"unknown": 1}
    assert apple.peer.received == []


@pytest.mark.parametrize("end", ["removed", "terminated"])
async def test_a_claim_of_somebody_who_is_gone_is_unknown(apple: Apple, end: str) -> None:
    """A worker dies with a push under way, and nobody asks for it again: it is listed as unknown all the same."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    ledger = apple.house.stores.ledger
    plugin = JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": apple.provider})
    async with apple.house.serving(("journeys", USERS_QUEUE), plugin=plugin) as client:
        report = await apple.house.engine.start("apple", client=client)
        async with apple.house.serving((PUSH_QUEUE,), plugin=_Dying(apple)):
            await asyncio.wait_for(_until(lambda: apple.outcomes.get("d2") == "claimed"), 20)
        if end == "terminated":
            await client.get_workflow_handle("journey/apple/user/u2").terminate()
        else:
            passages = await asyncio.to_thread(ledger.open_passages, "apple", ["u2"])
            await ledger.close(dict.fromkeys(passages.values(), Leave(exit="", reason=end)), datetime.now(UTC))
        async with apple.house.serving((PUSH_QUEUE,), plugin=plugin):
            stats = await asyncio.wait_for(apple.house.engine.result(report, client=client), 90)
            await asyncio.wait_for(_until(lambda: apple.outcomes == {"d2": "unknown"}), 30)
    assert stats.exited == {"end": 1, end: 1}
    assert apple.peer.received == []


async def test_answers_outlast_a_short_outage_of_the_ledger(apple: Apple) -> None:
    """An answer that cannot be written down for some seconds is kept meanwhile: the push is accepted, not unknown."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    apple.peer.default = Behaviour(delay=0.5)
    running = asyncio.create_task(apple.run())
    await asyncio.wait_for(_until(lambda: apple.peer.received), 20)
    with locked_ledger(apple.house):
        await asyncio.sleep(2 * BUSY_SECONDS + 0.5)
        assert apple.outcomes == {"d2": "claimed"}
    stats = await asyncio.wait_for(running, 40)
    assert stats.elements["promo"].devices == {"accepted": 1}
    assert len(apple.peer.received) == 1


def _Dying(apple: Apple) -> JourneysPlugin:
    class Silent:
        """A provider whose worker dies before the answer: the send never returns."""

        name = "apns"

        def payload(self, notification: Any, target: Any) -> dict[str, Any]:
            return {}

        async def send(self, notification: Any, target: Any) -> Any:
            await asyncio.Event().wait()

        async def close(self) -> None:
            pass

    return JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": Silent()})


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


@pytest.mark.parametrize("turn", ["pause", "removal"])
async def test_what_is_sent_again_at_once_is_asked_for_again(apple: Apple, turn: str) -> None:
    """A pause, or a removal, between two sends within one try: there is no second send."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    stores = apple.house.stores

    async def answer(_: str) -> Answer:
        if turn == "pause":
            await stores.gate.pause("apple", datetime.now(UTC))
        else:
            passages = await asyncio.to_thread(stores.ledger.open_passages, "apple", ["u2"])
            leave = Leave(exit="", reason="removed")
            await stores.ledger.close(dict.fromkeys(passages.values(), leave), datetime.now(UTC))
        return Answer(Verdict.NOT_SENT, "503")

    provider = Answering(answer)
    plugin = JourneysPlugin(stores, sandbox=True, providers={"apns": provider})
    async with apple.house.serving(plugin=plugin) as client:
        await apple.house.engine.start("apple", client=client)
        await asyncio.wait_for(_until(lambda: apple.outcomes.get("d2") in ("not-sent", "withdrawn")), 20)
        await asyncio.sleep(1)
    assert (provider.sent, apple.outcomes["d2"]) == (["d2"], "not-sent" if turn == "pause" else "withdrawn")


async def test_one_device_s_failure_is_not_the_loss_of_the_others(apple: Apple) -> None:
    """A provider that fails in an unforeseen way for one device: that one is unknown, the other's answer is kept."""
    apple.save("devices: {attribute: app_version, at_least: 3.9.0}")

    async def answer(device: str) -> Answer:
        if device == "d2":
            raise KeyError("unforeseen")
        return Answer(Verdict.ACCEPTED)

    plugin = JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": Answering(answer)})
    async with apple.house.serving(plugin=plugin) as client:
        report = await apple.house.engine.start("apple", client=client)
        stats = await asyncio.wait_for(apple.house.engine.result(report, client=client), 30)
    assert apple.outcomes == {"d2": "unknown", "d3": "accepted"}
    assert stats.elements["promo"].users == {"accepted": 1, "skipped: no-matching-device": 1}


async def test_a_push_that_waits_for_credentials_gives_up_in_time(apple: Apple) -> None:
    """While a provider's credentials are refused, a push whose time to live ends gives up, and the user goes on."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}", ttl="1s")
    apple.peer.team_id = "SOMEBODYELSE"
    stats = await asyncio.wait_for(apple.run(), 40)
    assert stats.elements["promo"].users == {"gave-up": 1, "skipped: no-matching-device": 1}
    assert (apple.outcomes, len(apple.peer.received)) == ({"d2": "gave-up"}, 1)


async def test_a_provider_that_is_missing_holds_up_no_other(apple: Apple) -> None:
    """A device whose provider no worker has waits, and gives up in time; the user's other devices get it at once."""
    apple.house.load("devices", "device_id,user_id,platform,provider,token,opt_in\nd8,u2,android,fcm,t8,true\n")
    apple.save(ttl="2s")
    running = asyncio.create_task(apple.run())
    await asyncio.wait_for(_until(lambda: apple.outcomes.get("d2") == "accepted"), 20)
    assert (apple.outcomes["d3"], apple.outcomes["d8"]) == ("accepted", "not-sent")
    stats = await asyncio.wait_for(running, 40)
    assert stats.elements["promo"].devices == {"accepted": 4, "gave-up": 1}
    assert stats.elements["promo"].users == {"accepted": 2}
    assert apple.peer.duplicates == 0


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


async def test_who_opts_out_while_a_push_waits_gets_nothing(apple: Apple) -> None:
    """A user opts out between two tries of a push: it is withdrawn, and the user goes on without it."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")

    async def answer(_: str) -> Answer:
        return Answer(Verdict.RETRY, "429", retry_after=2.0)

    provider = Answering(answer)
    plugin = JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": provider})
    async with apple.house.serving(plugin=plugin) as client:
        report = await apple.house.engine.start("apple", client=client)
        await asyncio.wait_for(_until(lambda: apple.outcomes.get("d2") == "throttled"), 20)
        apple.house.load("devices", "device_id,user_id,platform,opt_in\nd2,u2,ios,false\n")
        stats = await asyncio.wait_for(apple.house.engine.result(report, client=client), 30)
    assert stats.elements["promo"].devices == {"withdrawn": 1}
    assert stats.elements["promo"].users == {"skipped: no-matching-device": 2}
    assert provider.sent == ["d2"]


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


async def _until(holds: Any) -> None:
    while not holds():
        await asyncio.sleep(0.05)


async def test_slow_down_is_obeyed(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A throttled push waits as long as the provider says, by the server's retry, and then arrives once."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    apple.peer.next.append(Behaviour(429, "TooManyRequests", headers={"retry-after": "1"}))
    stats = await asyncio.wait_for(apple.run(DeliveryRules(patience=timedelta(seconds=2))), 60)
    assert stats.elements["promo"].devices in ({"accepted": 1}, {"gave-up": 1})
    assert apple.peer.duplicates == 0


async def test_a_push_that_gives_up_lets_the_user_go_on(apple: Apple) -> None:
    """When the message's time to live is over, what was throttled is given up, and the user goes on."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}", ttl="1s")
    apple.peer.default = Behaviour(503, "ServiceUnavailable")
    stats = await asyncio.wait_for(apple.run(), 60)
    assert stats.elements["promo"].users == {"gave-up": 1, "skipped: no-matching-device": 1}
    assert stats.exited == {"end": 2}


async def test_wrong_credentials_are_loud_and_heal(apple: Apple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused credentials stop the provider visibly, lose no push, and all is sent when the key is right again."""
    monkeypatch.setattr("activities.push.delivery.BROKEN_SECONDS", 0.5)
    monkeypatch.setattr("activities.push.delivery.RETRY_FLOOR_SECONDS", 0.2)
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    team, apple.peer.team_id = apple.peer.team_id, "SOMEBODYELSE"
    run = asyncio.create_task(apple.run())
    await asyncio.sleep(2)
    assert not run.done()
    assert apple.outcomes == {"d2": "not-sent"}
    apple.peer.team_id = team
    apple.peer._verified.clear()  # the peer remembers what it thought of a token
    stats = await asyncio.wait_for(run, 60)
    assert stats.elements["promo"].devices == {"accepted": 1}
    assert apple.peer.duplicates == 0


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
