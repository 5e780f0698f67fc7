"""A push that waits for its provider arrives once or gives up in time, and holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from activities.push.delivery import DeliveryRules
from activities.push.provider import Answer, Verdict
from tests.apns_peer import Behaviour
from tests.house import House
from tests.test_delivery import DEVICES, Answering, Apple, serving_apple
from tests.worker_that_dies import until
from workers.plugin import JourneysPlugin
from workflows.contracts import Leave


@pytest.fixture
async def apple(house: House, tmp_path: Path) -> AsyncIterator[Apple]:
    house.load("devices", DEVICES)
    async with serving_apple(house, tmp_path) as found:
        yield found


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
        await until(lambda: apple.outcomes.get("d2") in ("not-sent", "withdrawn"), 20)
        await asyncio.sleep(1)
    assert (provider.sent, apple.outcomes["d2"]) == (["d2"], "not-sent" if turn == "pause" else "withdrawn")


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
    await until(lambda: apple.outcomes.get("d2") == "accepted", 20)
    assert (apple.outcomes["d3"], apple.outcomes["d8"]) == ("accepted", "not-sent")
    stats = await asyncio.wait_for(running, 40)
    assert stats.elements["promo"].devices == {"accepted": 4, "gave-up": 1}
    assert stats.elements["promo"].users == {"accepted": 2}
    assert apple.peer.duplicates == 0


async def test_who_opts_out_while_a_push_waits_gets_nothing(apple: Apple) -> None:
    """A user opts out between two tries of a push: it is withdrawn, and the user goes on without it."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")

    async def answer(_: str) -> Answer:
        return Answer(Verdict.RETRY, "429", retry_after=2.0)

    provider = Answering(answer)
    plugin = JourneysPlugin(apple.house.stores, sandbox=True, providers={"apns": provider})
    async with apple.house.serving(plugin=plugin) as client:
        report = await apple.house.engine.start("apple", client=client)
        await until(lambda: apple.outcomes.get("d2") == "throttled", 20)
        apple.house.load("devices", "device_id,user_id,platform,opt_in\nd2,u2,ios,false\n")
        stats = await asyncio.wait_for(apple.house.engine.result(report, client=client), 30)
    assert stats.elements["promo"].devices == {"withdrawn": 1}
    assert stats.elements["promo"].users == {"skipped: no-matching-device": 2}
    assert provider.sent == ["d2"]


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
    monkeypatch.setattr("activities.push.sending.BROKEN_SECONDS", 0.5)
    monkeypatch.setattr("activities.push.sending.RETRY_FLOOR_SECONDS", 0.2)
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
