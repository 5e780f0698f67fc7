"""APNs: each answer has one meaning, and what nobody documents counts as no acceptance."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from activities.push.apns import ANSWERS, Apns, ApnsConfig, ProviderToken
from activities.push.http2 import Http2Client
from activities.push.provider import Answer, Notification, Target, Verdict
from tests.apns_peer import ApnsPeer, Behaviour
from tests.certificates import (
    Authority,
    Certificate,
    make_authority,
    private_pem,
    public_pem,
    server_certificate,
    signing_key,
)

KEY_ID, TEAM_ID, TOPIC = "ABC123DEFG", "TEAM456789", "com.example.shop"
DEVICE = "ab" * 32

DEAD, BAD, CONFIG = Verdict.TOKEN_DEAD, Verdict.MESSAGE_BAD, Verdict.CONFIG_BAD
QUARTER, THIRD = 15 * 60, 20 * 60

DOCUMENTED: dict[tuple[int, str], tuple[Verdict, float | None]] = {
    (200, ""): (Verdict.ACCEPTED, None),
    (400, "BadCollapseId"): (BAD, None),
    (400, "BadDeviceToken"): (DEAD, None),
    (400, "BadExpirationDate"): (BAD, None),
    (400, "BadMessageId"): (BAD, None),
    (400, "BadPriority"): (BAD, None),
    (400, "BadTopic"): (CONFIG, None),
    (400, "DeviceTokenNotForTopic"): (DEAD, None),
    (400, "DuplicateHeaders"): (BAD, None),
    (400, "IdleTimeout"): (Verdict.NOT_SENT, None),
    (400, "InvalidPushType"): (BAD, None),
    (400, "MissingDeviceToken"): (BAD, None),
    (400, "MissingTopic"): (CONFIG, None),
    (400, "PayloadEmpty"): (BAD, None),
    (400, "TopicDisallowed"): (CONFIG, None),
    (403, "BadCertificate"): (CONFIG, None),
    (403, "BadCertificateEnvironment"): (CONFIG, None),
    (403, "BadEnvironmentKeyIdInToken"): (CONFIG, None),
    (403, "ExpiredProviderToken"): (CONFIG, None),
    (403, "Forbidden"): (CONFIG, None),
    (403, "InvalidProviderToken"): (CONFIG, None),
    (403, "MissingProviderToken"): (CONFIG, None),
    (403, "UnrelatedKeyIdInToken"): (CONFIG, None),
    (404, "BadPath"): (BAD, None),
    (405, "MethodNotAllowed"): (BAD, None),
    (410, "ExpiredToken"): (DEAD, None),
    (410, "Unregistered"): (DEAD, None),
    (413, "PayloadTooLarge"): (BAD, None),
    (429, "TooManyProviderTokenUpdates"): (Verdict.RETRY, THIRD),
    (429, "TooManyRequests"): (Verdict.RETRY, QUARTER),
    (500, "InternalServerError"): (Verdict.RETRY, QUARTER),
    (503, "ServiceUnavailable"): (Verdict.RETRY, QUARTER),
    (503, "Shutdown"): (Verdict.RETRY, QUARTER),
}
"""Apple's tables of statuses and reasons, and the outcome that the specification wants of each."""

SEEN = {(403, "BadEnvironmentKeyInToken")}
"""What Apple was seen to answer and does not document."""


@dataclass(frozen=True)
class Site:
    """What all peers of APNs share in a file of tests."""

    authority: Authority
    certificate: Certificate
    key: EllipticCurvePrivateKey

    def peer(self) -> ApnsPeer:
        return ApnsPeer(public_pem(self.key), KEY_ID, TEAM_ID, {TOPIC})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ApnsPeer]:
        async with self.peer().serving(self.certificate.context("h2")) as peer:
            yield peer

    @asynccontextmanager
    async def client(self, peer: ApnsPeer, *, token: ProviderToken | None = None, **other: Any) -> AsyncIterator[Apns]:
        config = ApnsConfig(
            **{
                "key": private_pem(self.key),
                "key_id": KEY_ID,
                "team_id": TEAM_ID,
                "topic": TOPIC,
                "base_url": peer.url,
                "ca_file": self.authority.ca_file,
                **other,
            }
        )
        client = Apns(config, token=token)
        try:
            yield client
        finally:
            await client.close()

    @asynccontextmanager
    async def both(self, **other: Any) -> AsyncIterator[tuple[ApnsPeer, Apns]]:
        async with self.serving() as peer, self.client(peer, **other) as apns:
            yield peer, apns

    @asynccontextmanager
    async def bare(self, peer: ApnsPeer, **other: Any) -> AsyncIterator[Http2Client]:
        client = Http2Client(peer.url, self.authority.client_context(), **other)
        try:
            yield client
        finally:
            await client.close()

    def head(self) -> list[tuple[str, str]]:
        """Give the headers that a request needs, for those who post without `Apns`."""
        token = ProviderToken(private_pem(self.key), KEY_ID, TEAM_ID).current()
        return [("authorization", f"bearer {token}"), ("apns-topic", TOPIC)]


def make_site(folder: Path) -> Site:
    authority = make_authority(folder)
    return Site(authority, server_certificate(authority), signing_key())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("apns"))


def notification(**values: Any) -> Notification:
    return Notification(**{"push_id": str(uuid4()), "title": "Merci", "body": "-20 % jusqu'à dimanche", **values})


def target(token: str = DEVICE) -> Target:
    return Target("d1", "u1", "ios", token)


async def send_many(apns: Apns, number: int, *, tries: int = 3) -> list[Answer]:
    """Send as the push activity does: what is proven not to be processed is sent again, nothing else is."""

    async def one() -> Answer:
        message = notification()
        for _ in range(tries):
            answer = await apns.send(message, target())
            if answer.verdict is not Verdict.NOT_SENT:
                break
        return answer

    return await asyncio.gather(*(one() for _ in range(number)))


def verdicts(answers: list[Answer]) -> dict[str, int]:
    return dict(Counter(answer.verdict.value for answer in answers))


async def test_every_documented_answer_has_its_outcome(site: Site) -> None:
    """Each answer that Apple documents, given by a server, becomes the one outcome that the specification names."""
    assert set(ANSWERS) - SEEN == set(DOCUMENTED)
    async with site.both() as (peer, apns):
        found = {}
        for status, reason in DOCUMENTED:
            peer.default = Behaviour(status, reason)
            answer = await apns.send(notification(), target())
            found[status, reason] = (answer.verdict, answer.retry_after)
            assert reason in answer.detail
            assert "not documented" not in answer.detail
    assert found == DOCUMENTED


@pytest.mark.parametrize(
    ("behaviour", "verdict"),
    [
        (Behaviour(400, "SomethingNew"), BAD),
        (Behaviour(403, "SomethingNew"), CONFIG),
        (Behaviour(410, "SomethingNew"), DEAD),
        (Behaviour(429, "SomethingNew"), Verdict.RETRY),
        (Behaviour(502, body=b"<html>Bad gateway</html>"), Verdict.RETRY),
        (Behaviour(404, body=b"<html>nginx</html>"), CONFIG),
        (Behaviour(302, headers={"location": "https://elsewhere"}), CONFIG),
        (Behaviour(400, body=b"[1]"), CONFIG),
    ],
)
async def test_an_answer_nobody_documents_is_safe_and_says_so(
    site: Site, behaviour: Behaviour, verdict: Verdict
) -> None:
    """An answer that is not in the table never counts as accepted, and its words are kept for people."""
    async with site.both() as (peer, apns):
        peer.default = behaviour
        answer = await apns.send(notification(), target())
    assert answer.verdict is verdict
    assert f"{behaviour.status}, an answer that is not documented" in answer.detail


async def test_a_dead_token_says_since_when(site: Site) -> None:
    """The timestamp of a 410, in milliseconds, is the instant from which the token is dead; it may be missing."""
    async with site.both() as (peer, apns):
        peer.default = Behaviour(410, "Unregistered", timestamp=1_760_000_000_123)
        dated = await apns.send(notification(), target())
        peer.default = Behaviour(410, "Unregistered")
        undated = await apns.send(notification(), target())
    assert dated.dead_since == datetime(2025, 10, 9, 8, 53, 20, 123_000, tzinfo=UTC)
    assert (undated.verdict, undated.dead_since) == (DEAD, None)


async def test_a_longer_wait_that_the_server_asks_for_is_kept(site: Site) -> None:
    """Retry-After lengthens the documented wait and never shortens it."""
    async with site.both() as (peer, apns):
        waits = []
        for asked in ("5", "4000"):
            peer.default = Behaviour(503, "ServiceUnavailable", headers={"retry-after": asked})
            waits.append((await apns.send(notification(), target())).retry_after)
    assert waits == [QUARTER, 4_000]


async def test_what_is_no_token_is_not_sent(site: Site) -> None:
    """An address that cannot be a device token is dead without a request: it could be a path of its own."""
    async with site.both() as (peer, apns):
        answers = [await apns.send(notification(), target(token)) for token in ("", "zz", "ab/../x", "abc", "ab\n")]
        assert verdicts(answers) == {"token-dead": 5}
        assert not peer.received
