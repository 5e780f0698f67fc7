"""The webhook: what each status means, what the receiver can check, and what is known when networks fail."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from activities.push.provider import Notification, Target, Verdict
from activities.push.webhook import STATUSES, Webhook, WebhookConfig, meaning_of
from tests.certificates import Authority, Certificate, make_authority, server_certificate
from tests.http_peer import Behaviour
from tests.webhook_peer import WebhookPeer
from workflows.errors import PushError

SECRET = "a secret of some length"  # noqa: S105  of the tests

DEAD, BAD, CONFIG, RETRY = Verdict.TOKEN_DEAD, Verdict.MESSAGE_BAD, Verdict.CONFIG_BAD, Verdict.RETRY

DOCUMENTED: dict[int, tuple[Verdict, float | None]] = {
    **dict.fromkeys((200, 201, 202, 204, 299), (Verdict.ACCEPTED, None)),
    **dict.fromkeys((301, 302, 303, 307, 308), (CONFIG, None)),
    **dict.fromkeys((401, 403), (CONFIG, None)),
    410: (DEAD, None),
    **dict.fromkeys((408, 425), (RETRY, 10)),
    429: (RETRY, 60),
    **dict.fromkeys((400, 402, 404, 405, 406, 409, 411, 413, 415, 422, 431, 451), (BAD, None)),
    **dict.fromkeys((500, 501, 502, 503, 504, 599), (RETRY, 10)),
}
"""What the specification wants of each status."""


@dataclass(frozen=True)
class Site:
    """What all peers of this file share."""

    authority: Authority
    certificate: Certificate

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[WebhookPeer]:
        async with WebhookPeer(SECRET).serving(self.certificate.context()) as peer:
            yield peer

    @asynccontextmanager
    async def client(self, url: str, *, clock: Any = time.time, **other: Any) -> AsyncIterator[Webhook]:
        config = WebhookConfig(**{"url": url, "secret": SECRET, "ca_file": self.authority.ca_file, **other})
        client = Webhook(config, clock=clock)
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    authority = make_authority(tmp_path_factory.mktemp("authority"))
    return Site(authority, server_certificate(authority))


def notification(**other: Any) -> Notification:
    push_id = other.setdefault("push_id", "5b0c4b4e-0000-4000-8000-000000000001")
    return Notification(
        **{"title": "Bonjour", "body": "Vos points expirent", "data": {"push_id": push_id, "journey": "j"}, **other}
    )


def target() -> Target:
    return Target(device_id="d1", user_id="u1", platform="ios", token="https://not-posted-to.invalid/")  # noqa: S106


async def test_each_status_has_its_outcome(site: Site) -> None:
    """Each status arrives as one outcome, after one request, with its least wait; redirects are not followed."""
    async with site.serving() as peer, site.client(f"{peer.url}/push") as webhook:
        for status, (verdict, wait) in DOCUMENTED.items():
            peer.received.clear()
            peer.next.append(Behaviour(status, b"no", {"Location": f"{peer.url}/push"}))
            answer = await webhook.send(notification(), target())
            assert (answer.verdict, answer.retry_after) == (verdict, wait), (status, answer)
            assert len(peer.received) == 1, status
            assert verdict is Verdict.ACCEPTED or answer.detail.startswith(str(status))
        for status in (425, 429, 503):
            peer.next.append(Behaviour(status, b"", {"Retry-After": "77"}))
            assert (await webhook.send(notification(), target())).retry_after == 77
    assert set(STATUSES) <= set(DOCUMENTED)
    assert {meaning_of(status).verdict for status in (100, 600, 0)} == {CONFIG}


async def test_the_receiver_can_check_what_it_gets(site: Site) -> None:
    """The body is the previewed one, signed with its instant; the key is the push's id on every try; the URL ours."""
    full = notification(subtitle="s", image="i", link="l", badge=0, overrides={"ios": {"x": {"y": 1}}, "web": {"z": 1}})
    async with site.serving() as peer, site.client(f"{peer.url}/push") as webhook:
        for _ in range(2):
            assert (await webhook.send(full, target())).verdict is Verdict.ACCEPTED
        first, second = peer.received
        assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == full.push_id
        assert json.loads(first.body) == webhook.payload(full, target())
        sent = json.loads(first.body)
        assert (sent["x"], sent["badge"], "z" in sent, "sound" in sent) == ({"y": 1}, 0, False, False)
        assert (sent["title"], sent["user_id"], sent["token"]) == ("Bonjour", "u1", target().token)
        assert abs(int(first.headers["Push-Timestamp"]) - time.time()) < 60


async def test_a_wrong_secret_or_clock_is_a_matter_of_settings(site: Site) -> None:
    """Another secret, and a clock that is an hour off, are refused by the receiver and told as wrong settings."""
    async with site.serving() as peer:
        for other in ({"secret": "another"}, {"clock": lambda: time.time() - 3_600}):
            async with site.client(f"{peer.url}/push", **other) as webhook:
                answer = await webhook.send(notification(), target())
            assert answer.verdict is CONFIG, answer
        assert peer.deliveries.total() == 0
    assert SECRET not in repr(WebhookConfig("https://x", SECRET))
    for url, secret in (
        ("", SECRET),
        ("ftp://x", SECRET),
        ("https://", SECRET),
        ("https://x:y", SECRET),
        ("https://x", ""),
    ):
        with pytest.raises(PushError, match="webhook cannot be set up"):
            Webhook(WebhookConfig(url, secret))


@pytest.mark.parametrize("act", ["accept and cut", "accept and swallow", "swallow", "cut"])
async def test_no_answer_is_unknown_and_nothing_is_sent_again(site: Site, act: Any) -> None:
    """Written and never answered: unknown, by one request, at the deadline at the latest, accepted or not."""
    async with site.serving() as peer, site.client(f"{peer.url}/push", timeout_seconds=0.6) as webhook:
        await webhook.send(notification(push_id="0"), target())  # so that the connection is a used one
        peer.next.append(Behaviour(act=act))
        answer = await webhook.send(notification(), target())
        assert answer.verdict is Verdict.UNKNOWN, answer
        await asyncio.sleep(0.2)
        assert len(peer.received) == 2
        assert peer.deliveries[notification().push_id] == ("accept" in act)


async def test_waiting_for_a_connection_in_vain_is_not_sent(site: Site) -> None:
    """A closed port, and a place among too few connections that comes too late: both proven not to be sent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with site.client(f"https://127.0.0.1:{port}/push") as webhook:
        assert (await webhook.send(notification(), target())).verdict is Verdict.NOT_SENT
    async with site.serving() as peer:
        peer.default = Behaviour(delay=0.8)
        async with site.client(f"{peer.url}/push", connections=2, timeout_seconds=1.2) as webhook:
            answers = await asyncio.gather(*(webhook.send(notification(push_id=str(n)), target()) for n in range(10)))
    assert Counter(answer.verdict for answer in answers) == {Verdict.ACCEPTED: 2, Verdict.NOT_SENT: 8}
    assert len(peer.received) == 2


async def test_a_server_that_went_away_and_came_back_costs_nothing(site: Site) -> None:
    """Kept connections that the server closed meanwhile are not written to: after a restart every push arrives."""
    peer = WebhookPeer(SECRET)
    async with peer.serving(site.certificate.context()), site.client(f"{peer.url}/push") as webhook:
        answers = [await webhook.send(notification(push_id="1"), target())]
    async with site.client(f"{peer.url}/push") as webhook:
        for number in range(2, 5):
            async with peer.serving(site.certificate.context()):
                answers.append(await webhook.send(notification(push_id=str(number)), target()))
            await asyncio.sleep(0.05)
    assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
    assert (len(peer.deliveries), peer.duplicates) == (4, 0)
