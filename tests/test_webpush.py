"""Web Push: what each answer means, and that browsers can read what is sent."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from typing import Any

import jwt
import pytest

from activities.push.provider import PayloadTooLarge, Verdict
from activities.push.webpush import ANSWERS, STATUSES, WebPush, WebPushConfig, topic
from tests.certificates import account_key, private_pem, signing_key
from tests.http_peer import Behaviour
from tests.webpush_peer import encoded, point, said
from tests.webpush_site import SUBJECT, Site, make_site, notification, target
from workflows.errors import PushError

DEAD, BAD, CONFIG, RETRY = Verdict.TOKEN_DEAD, Verdict.MESSAGE_BAD, Verdict.CONFIG_BAD, Verdict.RETRY

DOCUMENTED: dict[str, tuple[Behaviour, Verdict, float | None]] = {
    "RFC 8030: created": (Behaviour(201), Verdict.ACCEPTED, None),
    "RFC 8030: a receipt will follow": (Behaviour(202), Verdict.ACCEPTED, None),
    "autopush 200": (Behaviour(200), Verdict.ACCEPTED, None),
    "autopush 301": (Behaviour(301, b"", {"Location": "https://127.0.0.1:1/x"}), DEAD, None),
    "autopush 400 errno 101": (said(400, 101), BAD, None),
    "autopush 400 errno 108": (said(400, 108), DEAD, None),
    "autopush 400 errno 110": (said(400, 110), BAD, None),
    "autopush 400 errno 111": (said(400, 111), BAD, None),
    "autopush 400 errno 112": (said(400, 112), BAD, None),
    "autopush 400 errno 113": (said(400, 113), BAD, None),
    "autopush 401 errno 109": (said(401, 109), CONFIG, None),
    "autopush 404 errno 102": (said(404, 102), DEAD, None),
    "autopush 410 errno 103": (said(410, 103), DEAD, None),
    "autopush 410 errno 105": (said(410, 105), DEAD, None),
    "autopush 410 errno 106": (said(410, 106), DEAD, None),
    "autopush 413 errno 104": (said(413, 104), BAD, None),
    "autopush 429 errno 201": (said(429, 201, Retry_After="127"), RETRY, 127),
    "autopush 500 errno 999": (said(500, 999), RETRY, 10),
    "autopush 502 errno 900": (said(502, 900), RETRY, 10),
    "autopush 502 errno 901": (said(502, 901), RETRY, 10),
    "autopush 502 errno 902": (said(502, 902), RETRY, 10),
    "autopush 502 errno 903": (said(502, 903), RETRY, 10),
    "autopush 503 errno 201": (said(503, 201), RETRY, 30),
    "autopush 503 errno 202": (said(503, 202), RETRY, 1),
    "Google 400": (Behaviour(400, b"UnauthorizedRegistration"), CONFIG, None),
    "Google 403": (Behaviour(403, b"permission denied: invalid JWT provided"), CONFIG, None),
    "Google 404": (Behaviour(404, b"A valid push subscription endpoint should be specified"), DEAD, None),
    "Google 410": (Behaviour(410, b"push subscription has unsubscribed or expired."), DEAD, None),
    "Google 429": (Behaviour(429, b""), RETRY, 60),
    "Apple 400 VapidPkHashMismatch": (Behaviour(400, {"reason": "VapidPkHashMismatch"}), CONFIG, None),
    "Apple 400 BadWebPushTopic": (Behaviour(400, {"reason": "BadWebPushTopic"}), BAD, None),
    "Apple 403 BadJwtToken": (Behaviour(403, {"reason": "BadJwtToken"}), CONFIG, None),
    "Apple 404": (Behaviour(404, {"reason": "BadPath"}), DEAD, None),
    "Apple 405": (Behaviour(405, {"reason": "MethodNotAllowed"}), BAD, None),
    "Apple 410": (Behaviour(410, {"reason": "Unregistered"}), DEAD, None),
    "Apple 413": (Behaviour(413, {"reason": "PayloadTooLarge"}), BAD, None),
    "Apple 429": (Behaviour(429, {"reason": "TooManyRequests"}), RETRY, 60),
    "Apple 500": (Behaviour(500, {"reason": "InternalServerError"}), RETRY, 10),
    "Apple 503": (Behaviour(503, {"reason": "ServiceUnavailable"}), RETRY, 10),
    "Windows 406": (Behaviour(406, b""), RETRY, 60),
    "a gateway out of time": (Behaviour(504, b""), Verdict.UNKNOWN, None),
}
"""What the browsers' services document, and the outcome that the specification wants of each."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


async def test_each_documented_answer_has_its_outcome(site: Site) -> None:
    """What push services document arrives as one outcome, after one request, with its least wait; it is quoted."""
    async with site.serving() as peer:
        device = target(peer.subscribe())
        for name, (behaviour, verdict, wait) in DOCUMENTED.items():
            async with site.client(peer) as push:
                peer.received.clear()
                peer.default = behaviour
                answer = await push.send(notification(), device)
            assert (answer.verdict, answer.retry_after) == (verdict, wait), (name, answer)
            assert len(peer.received) == 1, name
            if verdict is Verdict.ACCEPTED:
                assert answer.provider_id == f"{peer.url}/message/1"
            else:
                assert answer.detail.startswith(str(behaviour.status)), (name, answer)
    tested = {behaviour.status for behaviour, _, _ in DOCUMENTED.values()}
    assert set(STATUSES) - tested == {204, 408}, "what no push service documents"
    assert {status for status, _ in ANSWERS} <= tested


async def test_what_nobody_documents_raises_nothing(site: Site) -> None:
    """Answers that are broken or undocumented end as outcomes: a server's errors are tried later, others are final."""
    async with site.serving() as peer, site.client(peer) as push:
        device = target(peer.subscribe())
        for status in (302, 307, 402, 409, 418, 451, 505, 599):
            for body in (b"", b"null", b"\xff", b'{"errno": {"a": []}}', b"[" * 50_000):
                peer.next.append(Behaviour(status, body, {"Location": "https://127.0.0.1:1/"}))
                answer = await push.send(notification(), device)
                assert answer.verdict is (RETRY if status >= 500 else BAD)
                assert len(answer.detail) < 200


async def test_a_browser_reads_what_is_sent(site: Site) -> None:
    """What the browser decrypts is the previewed body, with TTL, urgency and topic as they must be; it is signed."""
    full = notification(
        image="https://example.com/p.png",
        link="https://example.com/points",
        badge=2,
        ttl_seconds=3_600,
        priority="normal",
        collapse_key="é" * 40,
        overrides={"web": {"requireInteraction": True, "badge": None}, "ios": {"aps": {}}},
    )
    async with site.serving() as peer, site.client(peer) as push:
        device = target(peer.subscribe(point(site.key)))
        assert (await push.send(full, device)).verdict is Verdict.ACCEPTED
        assert json.loads(peer.plaintexts[0]) == push.payload(full, device)
        assert json.loads(peer.plaintexts[0]) == {
            **{"title": "Bonjour", "body": full.body, "image": full.image, "link": full.link, "tag": "é" * 40},
            **{"data": dict(full.data), "requireInteraction": True},
        }
        headers = peer.received[0].headers
        assert (headers["TTL"], headers["Urgency"], len(headers["Topic"])) == ("3600", "normal", 32)
        await push.send(notification(ttl_seconds=0, collapse_key="a1b2"), device)
        headers = peer.received[1].headers
        assert (headers["TTL"], headers["Urgency"], headers["Topic"]) == ("0", "high", "a1b2")
        await push.send(notification(ttl_seconds=10**9), device)
        assert peer.received[2].headers["TTL"] == "2419200"
        assert "Topic" not in peer.received[2].headers
    assert topic("a" * 33) != topic("a" * 34) != "a" * 33


async def test_what_is_too_large_is_found_before_it_is_sent(site: Site) -> None:
    """3,993 bytes before encryption make 4,096 that the service takes; one more is never sent."""
    async with site.serving() as peer, site.client(peer) as push:
        device = target(peer.subscribe())
        empty = push.payload(notification(body=""), device)
        room = 3_993 - len(json.dumps(empty, separators=(",", ":")).encode())
        assert (await push.send(notification(body="x" * room), device)).verdict is Verdict.ACCEPTED
        assert len(peer.received[0].body) == 4_096
        with pytest.raises(PayloadTooLarge, match=r"3,994 bytes, and Web Push takes 3,993"):
            await push.send(notification(body="x" * (room + 1)), device)
        with pytest.raises(PayloadTooLarge):
            push.payload(notification(body="é" * room), device)
        assert len(peer.received) == 1


async def test_each_service_gets_a_signature_of_its_own_and_keeps_it_for_hours(site: Site) -> None:
    """Two origins by one sender: two signatures, each for its own; the same for six hours; never over a day long."""
    began = now = time.time()
    async with site.serving() as first, site.serving() as second, site.client(first, second, clock=lambda: now) as push:
        first.clock = second.clock = lambda: now
        devices = [target(first.subscribe()), target(second.subscribe()), target(first.subscribe())]
        made = []
        for hours in (0, 1, 5.9, 6.1, 7, 12.2, -24):  # the last: a signature of the future is not used
            now = began + hours * 3_600
            answers = [(await push.send(notification(), device)).verdict for device in devices * 2]
            assert set(answers) == {Verdict.ACCEPTED}, hours
            made.append((len(first.signatures), len(second.signatures)))
    assert made == [(1, 1), (1, 1), (1, 1), (2, 2), (2, 2), (3, 3), (4, 4)]
    for peer in (first, second):
        tokens = [one.partition("t=")[2].partition(",")[0] for one in peer.signatures]
        claims = [jwt.decode(token, options={"verify_signature": False}) for token in tokens]
        assert {(one["aud"], one["sub"]) for one in claims} == {(peer.url, SUBJECT)}


async def test_a_subscription_of_another_key_is_told_from_a_wrong_key(site: Site) -> None:
    """Refused first: the key is wrong. Refused where the same signature was accepted a moment ago: that device is."""
    now = time.time()
    async with site.serving() as peer, site.client(peer, clock=lambda: now) as push:
        peer.clock = lambda: now
        ours, foreign = target(peer.subscribe(point(site.key))), target(peer.subscribe(point(signing_key())))
        assert (await push.send(notification(), foreign)).verdict is CONFIG
        assert (await push.send(notification(), ours)).verdict is Verdict.ACCEPTED
        answer = await push.send(notification(), foreign)
        assert answer.verdict is DEAD
        assert "another key" in answer.detail
        now += 601
        assert (await push.send(notification(), foreign)).verdict is CONFIG, "nothing was accepted lately"
        now += 6 * 3_600 - 700
        assert (await push.send(notification(), ours)).verdict is Verdict.ACCEPTED
        now += 200
        assert (await push.send(notification(), foreign)).verdict is CONFIG, "the signature is new"


@pytest.mark.parametrize("act", ["accept and cut", "accept and swallow", "swallow", "cut"])
async def test_no_answer_is_unknown_and_nothing_is_sent_again(site: Site, act: Any) -> None:
    """Written and never answered: unknown, by one request, at the deadline at the latest, accepted or not."""
    async with site.serving() as peer, site.client(peer, timeout_seconds=0.6) as push:
        device = target(peer.subscribe())
        await push.send(notification(push_id="0"), device)  # so that the connection is a used one
        peer.next.append(Behaviour(act=act))
        answer = await push.send(notification(), device)
        assert answer.verdict is Verdict.UNKNOWN, answer
        await asyncio.sleep(0.2)
        assert len(peer.received) == 2
        assert peer.deliveries[notification().push_id] == ("accept" in act)


async def test_no_connection_is_not_sent(site: Site) -> None:
    """A closed port, and one that never speaks TLS, are proven not to be sent."""
    async with site.serving() as peer:
        subscription = peer.subscribe()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hosts = (f"127.0.0.1:{peer.port}", f"127.0.0.1:{port}")
        async with site.client(hosts=hosts, timeout_seconds=1) as push:
            for each in (subscription, subscription.replace(str(peer.port), str(port))):
                assert (await push.send(notification(), target(each))).verdict is Verdict.NOT_SENT


async def test_keys_are_read_as_people_have_them_and_refused_at_once_otherwise(site: Site) -> None:
    """PEM and the base64url of npm's web-push sign alike; another kind of key or a bad subject is told at the start."""
    raw = encoded(site.key.private_numbers().private_value.to_bytes(32))
    async with site.serving() as peer:
        device = target(peer.subscribe(point(site.key)))
        for key in (raw, f"{raw}\n", private_pem(site.key), private_pem(site.key).decode()):
            async with site.client(peer, key=key) as push:
                assert (await push.send(notification(), device)).verdict is Verdict.ACCEPTED
                assert raw not in repr(push.config)
    for key in ("", "x", "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----", private_pem(account_key())):
        with pytest.raises(PushError, match="Web Push cannot be set up"):
            WebPush(WebPushConfig(key, SUBJECT))
    with pytest.raises(PushError):
        WebPush(WebPushConfig(raw, "somebody"))
    with pytest.raises(PushError):
        WebPush(WebPushConfig(raw, SUBJECT, ca_file="nowhere.pem"))


async def test_many_at_once_arrive_once_each(site: Site) -> None:
    """300 messages to 30 browsers over 20 connections: each decrypted once, by one signature."""
    async with site.serving() as peer, site.client(peer, connections=20) as push:
        devices = [target(peer.subscribe(point(site.key))) for _ in range(30)]
        answers = await asyncio.gather(
            *(push.send(notification(push_id=str(number)), devices[number % 30]) for number in range(300))
        )
    assert Counter(answer.verdict for answer in answers) == {Verdict.ACCEPTED: 300}
    assert (len(peer.deliveries), peer.duplicates, len(peer.signatures)) == (300, 0, 1)
