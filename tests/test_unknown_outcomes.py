"""A push whose answer was lost is told as unknown, and is sent again only where that was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from activities.push.provider import Answer, Verdict
from activities.records.database import BUSY_SECONDS
from activities.records.reports import list_pushes
from tests.apns_peer import Behaviour
from tests.house import House
from tests.test_delivery import DEVICES, Answering, Apple, serving_apple
from tests.test_faults import locked_ledger
from tests.worker_that_dies import until
from workers.plugin import JourneysPlugin
from workflows.contracts import PUSH_QUEUE, USERS_QUEUE, Leave


@pytest.fixture
async def apple(house: House, tmp_path: Path) -> AsyncIterator[Apple]:
    house.load("devices", DEVICES)
    async with serving_apple(house, tmp_path) as found:
        yield found


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
    monkeypatch.setattr("activities.push.sending.RETRY_FLOOR_SECONDS", 0.2)
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
            await until(lambda: apple.outcomes.get("d2") == "claimed", 20)
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
            await until(lambda: apple.outcomes.get("d2") == "claimed", 20)
        if end == "terminated":
            await client.get_workflow_handle("journey/apple/user/u2").terminate()
        else:
            passages = await asyncio.to_thread(ledger.open_passages, "apple", ["u2"])
            await ledger.close(dict.fromkeys(passages.values(), Leave(exit="", reason=end)), datetime.now(UTC))
        async with apple.house.serving((PUSH_QUEUE,), plugin=plugin):
            stats = await asyncio.wait_for(apple.house.engine.result(report, client=client), 90)
            await until(lambda: apple.outcomes == {"d2": "unknown"}, 30)
    assert stats.exited == {"end": 1, end: 1}
    assert apple.peer.received == []


async def test_answers_outlast_a_short_outage_of_the_ledger(apple: Apple) -> None:
    """An answer that cannot be written down for some seconds is kept meanwhile: the push is accepted, not unknown."""
    apple.save("devices: {attribute: app_version, at_least: 3.10.0}")
    apple.peer.default = Behaviour(delay=0.5)
    running = asyncio.create_task(apple.run())
    await until(lambda: apple.peer.received, 20)
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
