"""Whatever happens between a provider and the ledger: counted at the peer, no marketing push arrives twice."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from activities.push.webhook import Webhook, WebhookConfig
from scripts.cli import run
from tests.house import House
from tests.http_peer import Behaviour
from tests.webhook_peer import WebhookPeer
from tests.worker_that_dies import WEBHOOK_SECRET, other_process, production_workers
from workflows.contracts import JOURNEYS_QUEUE, PUSH_QUEUE, USERS_QUEUE, Stats

Purpose = Literal["marketing", "transactional"]
USERS = [f"u{number}" for number in range(1, 7)]
DEVICES = "device_id,user_id,platform,provider,token,opt_in\n" + "".join(
    f"w{user},{user},ios,webhook,{user},true\n" for user in USERS
)
JOURNEY = """\
journey: calling
entries: {{start: {{kind: audience-entry, audience: {{everyone: true}}, next: call}}}}
elements:
  call:
    kind: push
    purpose: {purpose}
    devices: {{attribute: provider, is: webhook}}
    message: {{title: Salut, body: Bonjour}}
    next: done
  done: {{kind: exit}}
"""


@dataclass
class Calling:
    """A house whose pushes go to a receiver on loopback."""

    house: House
    peer: WebhookPeer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}/push"

    async def run(self, purpose: Purpose, *, killed: bool = False) -> Stats:
        """Run the journey to its end; with a first worker for pushes that dies at its first answer, if asked."""
        self.house.save(JOURNEY.format(purpose=purpose))
        provider = Webhook(WebhookConfig(self.url, WEBHOOK_SECRET, timeout_seconds=0.8))
        try:
            async with production_workers(self.house, (JOURNEYS_QUEUE, USERS_QUEUE)) as client:
                report = await self.house.engine.start("calling", client=client)
                if killed:
                    words = ("--queues", PUSH_QUEUE, "--webhook", self.url, "--after-answer")
                    async with other_process(self.house, *words) as first:
                        await first.killed()
                async with production_workers(self.house, (PUSH_QUEUE,), providers={"webhook": provider}):
                    return await asyncio.wait_for(self.house.engine.result(report, client=client), 50)
        finally:
            await provider.close()

    def listed(self, outcome: str) -> list[str]:
        """Ask as an operator does whose pushes had an outcome."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
            patch.setenv("JOURNEYS_HOME", str(self.house.settings.home))
            patch.setattr(sys, "argv", ["journeys", "pushes", "calling", "--outcome", outcome, "--json"])
            assert run() == 0
        return [push["user_id"] for push in json.loads(said.getvalue())["pushes"]]

    def require_once(self, stats: Stats, lost: int) -> None:
        """Hold marketing to what the design says: nothing twice, and each push without an answer is listed."""
        unknown, accepted = self.listed("unknown"), self.listed("accepted")
        assert sorted(unknown + accepted) == USERS
        assert len(unknown) >= lost > 0
        told = Counter(stats.elements["call"].devices)
        assert told == Counter({"accepted": len(accepted), "unknown": len(unknown)}), "a missing one is none"
        assert (stats.inside, stats.exited) == (0, {"end": 6})
        assert self.peer.duplicates == 0
        assert len(self.peer.received) == len(self.peer.deliveries)
        arrived = {json.loads(one.body)["user_id"] for one in self.peer.received}
        assert set(accepted) <= arrived

    def require_again(self, stats: Stats, lost: int) -> None:
        """Hold transactional pushes to theirs: all accepted in the end, what was sent again by the same key."""
        assert stats.elements["call"].devices == {"accepted": 6}
        assert self.listed("unknown") == []
        keys: dict[str, set[str]] = {}
        bodies: dict[str, set[bytes]] = {}
        for one in self.peer.received:
            keys.setdefault(user := json.loads(one.body)["user_id"], set()).add(one.headers["Idempotency-Key"])
            bodies.setdefault(user, set()).add(one.body)
        assert sorted(keys) == USERS
        assert all(len(found) == 1 for found in (*keys.values(), *bodies.values()))
        assert len(self.peer.deliveries) == 6
        assert self.peer.duplicates >= lost > 0


@pytest.fixture
async def calling(house: House) -> AsyncIterator[Calling]:
    house.load("devices", DEVICES)
    async with WebhookPeer(WEBHOOK_SECRET).serving(None) as peer:
        yield Calling(house, peer)


async def test_killed_between_answer_and_record_marketing_is_listed(calling: Calling) -> None:
    """Killed -9 with the answer in hand: no marketing push arrives twice, and each without a record is unknown."""
    calling.require_once(await calling.run("marketing", killed=True), lost=1)


async def test_killed_between_answer_and_record_transactional_is_sent_again(calling: Calling) -> None:
    """Killed -9 with the answer in hand: a transactional push is sent again, by the same key and word for word."""
    calling.require_again(await calling.run("transactional", killed=True), lost=1)


@pytest.mark.parametrize("act", ["accept and cut", "accept and swallow"])
@pytest.mark.parametrize("purpose", ["marketing", "transactional"])
async def test_accepted_and_then_nothing(
    calling: Calling, act: Any, purpose: Purpose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted and then cut, or silent: the same counts at the peer as after a kill."""
    monkeypatch.setattr("activities.push.sending.RETRY_FLOOR_SECONDS", 0.2)
    calling.peer.next.extend([Behaviour(act=act)] * 2)
    stats = await calling.run(purpose)
    require = calling.require_once if purpose == "marketing" else calling.require_again
    require(stats, lost=2)
