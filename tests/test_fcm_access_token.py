"""Access tokens of FCM: having one blocks nobody, one serves all, and a failure is shared and heals."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from activities.push.fcm import Fcm, FcmConfig
from activities.push.provider import Verdict
from tests.certificates import account_key
from tests.fcm_peer import error
from tests.http_peer import Behaviour
from tests.test_fcm import CONFIG, RETRY, Site, make_site, notification, target
from workflows.errors import PushError


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


async def test_having_a_token_blocks_nobody(site: Site) -> None:
    """While the token server takes a second, the loop's longest pause stays short, and one token serves all."""
    async with site.serving() as peer, site.client(peer) as fcm:
        peer.token_delay = 1.0
        longest, running = 0.0, True

        async def watch() -> None:
            nonlocal longest
            while running:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)

        watching = asyncio.create_task(watch())
        first = asyncio.gather(*(fcm.send(notification(push_id=str(n)), target()) for n in range(50)))
        await asyncio.sleep(0.9)
        running = False
        await watching
        answers = await first
    assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
    assert peer.token_requests == 1
    assert longest < 0.5


async def test_a_token_is_replaced_before_it_ends_and_serves_until_then(site: Site) -> None:
    """Near its end the first to ask has a new one while the others go on; a failure then is nobody's concern."""
    now = time.time()
    async with site.serving() as peer, site.client(peer, clock=lambda: now) as fcm:
        assert (await fcm.send(notification(), target())).verdict is Verdict.ACCEPTED
        now += 3_200
        assert (await fcm.send(notification(), target())).verdict is Verdict.ACCEPTED
        assert peer.token_requests == 1
        now += 150  # less than five minutes are left
        peer.token_delay, peer.token_seconds = 0.5, 7_000
        began = time.monotonic()
        sent = [asyncio.create_task(fcm.send(notification(), target())) for _ in range(20)]
        done, waiting = await asyncio.wait(sent, timeout=0.4)
        assert (len(done), len(waiting)) == (19, 1)
        await asyncio.gather(*sent)
        assert time.monotonic() - began >= 0.5
        assert peer.token_requests == 2
        now += 3_450  # 200 seconds are left
        peer.token_delay, peer.token_failure = 0.0, Behaviour(400, {"error": "temporarily_unavailable"})
        asked = peer.token_requests
        answers = await asyncio.gather(*(fcm.send(notification(), target()) for _ in range(50)))
        assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
        assert peer.token_requests - asked <= 3


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Behaviour(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}), CONFIG),
        (Behaviour(503, {"error": "temporarily_unavailable"}), RETRY),
        (Behaviour(200, b"<html>"), None),
    ],
)
async def test_a_failed_refresh_is_shared(site: Site, failure: Behaviour, verdict: Verdict | None) -> None:
    """500 messages while no token can be had: a few token requests, none to FCM, one outcome; and it heals."""
    now = time.time()
    async with site.serving() as peer, site.client(peer, clock=lambda: now) as fcm:
        peer.token_failure = failure
        answers = await asyncio.gather(*(fcm.send(notification(push_id=str(n)), target()) for n in range(500)))
        answers += [await fcm.send(notification(), target())]
        heard = {answer.verdict for answer in answers}
        assert heard == {verdict} or (verdict is None and heard <= {CONFIG, RETRY})
        assert peer.received == []
        assert 1 <= peer.token_requests <= 3, "google-auth itself tries thrice"
        peer.token_failure = None
        now += 11
        assert (await fcm.send(notification(), target())).verdict is Verdict.ACCEPTED


async def test_no_token_server_is_no_reason_to_blame_the_key(site: Site) -> None:
    """When the token server cannot be reached the push waits; nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with site.serving() as peer, site.client(peer, token_uri=f"https://127.0.0.1:{port}/token") as fcm:
        answer = await fcm.send(notification(), target())
    assert (answer.verdict, answer.retry_after) == (RETRY, 10)


async def test_a_refused_token_is_replaced_once_for_all(site: Site) -> None:
    """Tokens revoked at Google: each message is sent again once with the next one, which is asked for once."""
    async with site.serving() as peer, site.client(peer) as fcm:
        await fcm.send(notification(), target())
        peer.tokens.clear()
        answers = await asyncio.gather(*(fcm.send(notification(push_id=str(n)), target()) for n in range(60)))
        assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
        assert peer.token_requests == 2
        assert max(peer.deliveries.values()) == 1
        peer.default = error(401, "UNAUTHENTICATED", "no")
        answers = await asyncio.gather(*(fcm.send(notification(push_id=str(n)), target()) for n in range(60)))
        assert {answer.verdict for answer in answers} == {CONFIG}
        assert peer.token_requests == 2, "the one before was refused a moment ago as well"


async def test_the_wrong_key_is_told_as_such(site: Site) -> None:
    """A key that Google does not know gives CONFIG_BAD in Google's words, and the secret is in no repr."""
    async with site.serving() as peer, site.client(peer, key=account_key()) as fcm:
        answer = await fcm.send(notification(), target())
        assert answer.verdict is CONFIG
        assert "InvalidSignature" in answer.detail
        assert "PRIVATE" not in repr(fcm.config)
    for wrong in ("", "{}", "[]", '{"type": "service_account"}'):
        with pytest.raises(PushError, match="FCM cannot be set up"):
            Fcm(FcmConfig(wrong))
