"""FCM: what each answer means, what is known of a message when networks fail, and access tokens that block nobody."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from activities.push.fcm import CODES, HTTP, STATUSES, Fcm, FcmConfig, is_reserved
from activities.push.provider import Notification, PayloadTooLarge, Target, Verdict
from tests.certificates import (
    Authority,
    Certificate,
    account_key,
    make_authority,
    private_pem,
    public_pem,
    server_certificate,
)
from tests.fcm_peer import FcmPeer, error
from tests.http_peer import Behaviour
from workflows.errors import PushError

PROJECT, EMAIL = "shop-1234", "push@shop-1234.iam.gserviceaccount.com"
PACKAGE = "firebase-admin@13.10.0"

DEAD, BAD, CONFIG, RETRY = Verdict.TOKEN_DEAD, Verdict.MESSAGE_BAD, Verdict.CONFIG_BAD, Verdict.RETRY
AFTER = {"Retry-After": "90"}

DOCUMENTED: dict[str, tuple[Behaviour, Verdict, float | None]] = {
    "success": (Behaviour(200), Verdict.ACCEPTED, None),
    "UNREGISTERED": (error(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"), DEAD, None),
    "NOT_FOUND": (error(404, "NOT_FOUND", "Requested entity was not found."), CONFIG, None),
    "no such page": (Behaviour(404, b"<html>Error 404 (Not Found)!!1</html>"), CONFIG, None),
    "INVALID_ARGUMENT, the token": (
        error(
            400,
            "INVALID_ARGUMENT",
            "The registration token is not a valid FCM registration token",
            "INVALID_ARGUMENT",
        ),
        DEAD,
        None,
    ),
    "INVALID_ARGUMENT, the token's field": (
        error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", None, {"message.token": "Invalid"}),
        DEAD,
        None,
    ),
    "INVALID_ARGUMENT, another field": (
        error(
            400,
            "INVALID_ARGUMENT",
            "Invalid value at 'message.data[0].value'",
            "INVALID_ARGUMENT",
            {"message.data[0].value": "TYPE_STRING"},
        ),
        BAD,
        None,
    ),
    "INVALID_ARGUMENT, token and another": (
        error(400, "INVALID_ARGUMENT", "Invalid", None, {"message.token": "Invalid", "message.android.ttl": "Illegal"}),
        BAD,
        None,
    ),
    "INVALID_ARGUMENT": (error(400, "INVALID_ARGUMENT", "Message is too big.", "INVALID_ARGUMENT"), BAD, None),
    "SENDER_ID_MISMATCH": (
        error(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"),
        DEAD,
        None,
    ),
    "PERMISSION_DENIED": (error(403, "PERMISSION_DENIED", "Permission denied"), CONFIG, None),
    "UNAUTHENTICATED": (error(401, "UNAUTHENTICATED", "Invalid authentication credentials"), CONFIG, None),
    "THIRD_PARTY_AUTH_ERROR": (
        error(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR"),
        CONFIG,
        None,
    ),
    "QUOTA_EXCEEDED": (error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), RETRY, 60),
    "QUOTA_EXCEEDED, for how long": (
        replace(error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "QUOTA_EXCEEDED"), headers=AFTER),
        RETRY,
        90,
    ),
    "RESOURCE_EXHAUSTED": (error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), RETRY, 60),
    "UNAVAILABLE": (error(503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE"), RETRY, 10),
    "UNAVAILABLE, too soon": (
        replace(error(503, "UNAVAILABLE", "Unavailable", "UNAVAILABLE"), headers={"Retry-After": "1"}),
        RETRY,
        10,
    ),
    "INTERNAL": (error(500, "INTERNAL", "Internal error encountered.", "INTERNAL"), RETRY, 10),
    "UNSPECIFIED_ERROR": (error(500, "INTERNAL", "Unknown", "UNSPECIFIED_ERROR"), RETRY, 10),
    "APNS_AUTH_ERROR": (error(401, "UNAUTHENTICATED", "Auth error from APNS", "APNS_AUTH_ERROR"), CONFIG, None),
    "OUT_OF_RANGE": (error(400, "OUT_OF_RANGE", "x"), BAD, None),
    "ALREADY_EXISTS": (error(409, "ALREADY_EXISTS", "x"), BAD, None),
    "FAILED_PRECONDITION": (error(400, "FAILED_PRECONDITION", "x"), CONFIG, None),
    "UNIMPLEMENTED": (error(501, "UNIMPLEMENTED", "x"), CONFIG, None),
    "ABORTED": (error(409, "ABORTED", "x"), RETRY, 10),
    "UNKNOWN": (error(500, "UNKNOWN", "x"), RETRY, 10),
    "DATA_LOSS": (error(500, "DATA_LOSS", "x"), RETRY, 10),
    "CANCELLED": (error(499, "CANCELLED", "x"), Verdict.UNKNOWN, None),
    "HTTP 400": (Behaviour(400, b"Bad Request"), BAD, None),
    "HTTP 403": (Behaviour(403, b"Forbidden"), CONFIG, None),
    "HTTP 408": (Behaviour(408, b"Request Timeout"), RETRY, 10),
    "HTTP 413": (Behaviour(413, b"Request Entity Too Large"), BAD, None),
    "HTTP 429": (Behaviour(429, b"Too Many Requests", AFTER), RETRY, 90),
    "HTTP 504": (Behaviour(504, b"Gateway Timeout"), Verdict.UNKNOWN, None),
    "a gateway": (Behaviour(502, b"<html>That's an error.</html>"), RETRY, 10),
    "DEADLINE_EXCEEDED": (error(504, "DEADLINE_EXCEEDED", "Deadline exceeded"), Verdict.UNKNOWN, None),
}
"""Google's table of errors, and the outcome that the specification wants of each."""

ERROR_CODES = {
    "UNSPECIFIED_ERROR",
    "INVALID_ARGUMENT",
    "UNREGISTERED",
    "SENDER_ID_MISMATCH",
    "QUOTA_EXCEEDED",
    "UNAVAILABLE",
    "INTERNAL",
    "THIRD_PARTY_AUTH_ERROR",
}
"""The enumeration ErrorCode of the reference."""

RPC_CODES = {
    *("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"),
    *("OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
}
"""The enumeration google.rpc.Code, which every API of Google's answers with, without OK."""


@dataclass(frozen=True)
class Site:
    """What all peers of this file share."""

    authority: Authority
    certificate: Certificate
    key: RSAPrivateKey

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FcmPeer]:
        async with FcmPeer(public_pem(self.key), EMAIL, PROJECT).serving(self.certificate.context()) as peer:
            yield peer

    def account(self, token_uri: str, key: RSAPrivateKey | None = None) -> dict[str, str]:
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": private_pem(key or self.key).decode(),
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": token_uri,
        }

    @asynccontextmanager
    async def client(
        self, peer: FcmPeer, *, key: RSAPrivateKey | None = None, clock: Any = time.time, **other: Any
    ) -> AsyncIterator[Fcm]:
        config = FcmConfig(
            **{
                "credentials": json.dumps(self.account(peer.token_uri, key)),
                "base_url": peer.url,
                "ca_file": self.authority.ca_file,
                **other,
            }
        )
        client = Fcm(config, clock=clock)
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    authority = make_authority(tmp_path_factory.mktemp("authority"))
    names = ("127.0.0.1", "localhost", "fcm.googleapis.com", "oauth2.googleapis.com", "www.googleapis.com")
    return Site(authority, server_certificate(authority, *names), account_key())


def notification(**other: Any) -> Notification:
    push_id = other.setdefault("push_id", "5b0c4b4e-0000-4000-8000-000000000001")
    return Notification(
        **{"title": "Bonjour", "body": "Vos points expirent", "data": {"push_id": push_id, "journey": "j"}, **other}
    )


def target(token: str = "f" * 22 + ":APA91b", platform: str = "android") -> Target:
    return Target(device_id="d1", user_id="u1", platform=platform, token=token)


async def test_each_documented_answer_has_its_outcome(site: Site) -> None:
    """What Google documents arrives as one outcome, after one request, with its least wait; the word is told."""
    now = time.time()
    async with site.serving() as peer, site.client(peer, clock=lambda: now) as fcm:
        for name, (behaviour, verdict, wait) in DOCUMENTED.items():
            now += 61  # so that a refused access token is replaced again
            sent, asked = len(peer.received), peer.token_requests
            peer.default = behaviour
            answer = await fcm.send(notification(), target())
            assert (answer.verdict, answer.retry_after) == (verdict, wait), (name, answer)
            refused = name == "UNAUTHENTICATED"
            assert len(peer.received) - sent == 1 + refused, name
            assert peer.token_requests - asked == (sent == 0) + refused, name
            if verdict is Verdict.ACCEPTED:
                assert answer.provider_id == f"projects/{PROJECT}/messages/1"
            else:
                word = name.split(",")[0] if name.split(",")[0] in CODES else ""
                assert answer.detail.startswith(f"{behaviour.status} {word}"), (name, answer)


def test_no_documented_answer_is_left_out() -> None:
    """Google's two enumerations are the adapter's tables, and each entry of these has its outcome in the test's."""
    assert set(CODES) - {"APNS_AUTH_ERROR"} == ERROR_CODES - {"UNSPECIFIED_ERROR"}  # it says nothing by itself
    assert set(STATUSES) == RPC_CODES
    assert {name.split(",")[0] for name in DOCUMENTED} >= ERROR_CODES | RPC_CODES | set(CODES)
    assert {behaviour.status for behaviour, _, _ in DOCUMENTED.values()} >= set(HTTP)


async def test_what_nobody_documents_raises_nothing(site: Site) -> None:
    """Answers that are broken or of another server end as outcomes: none raises, and only an FCM's 200 is accepted."""
    bodies: list[Any] = [b"", b"null", b"[]", b'{"error": 7}', b"\xff\xfe", {"error": {"details": 7, "status": ["x"]}}]
    bodies += [{"error": {"details": [7, {"errorCode": {"a": 1}}, {"fieldViolations": {"a": 1}}], "message": 3}}]
    bodies += [{"error": {"status": "INVALID_ARGUMENT", "details": [{"fieldViolations": [4]}]}}, b"[" * 60_000]
    async with site.serving() as peer, site.client(peer) as fcm:
        for status in (200, 204, 302, 400, 404, 409, 418, 429, 499, 500, 599):
            for body in bodies:
                peer.next.append(Behaviour(status, body))
                answer = await fcm.send(notification(), target())
                assert answer.verdict is not Verdict.ACCEPTED
                worded = isinstance(body, dict) and body["error"].get("status") == "INVALID_ARGUMENT"
                assert (answer.verdict is RETRY) == (status in (429, 500, 599) and not worded), answer
    assert not peer.next


async def test_a_date_says_how_long_to_wait(site: Site) -> None:
    """Retry-After as an HTTP date counts from now; one in the past, or that is none, leaves the documented wait."""
    now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    waits = {
        format_datetime(now + timedelta(seconds=200), usegmt=True): 200,
        format_datetime(now - timedelta(days=2), usegmt=True): 60,
        "soon": 60,
        "": 60,
        "9" * 400: 86_400,
        "-5": 60,
    }
    async with site.serving() as peer, site.client(peer, clock=now.timestamp) as fcm:
        for said, wanted in waits.items():
            peer.next.append(replace(error(429, "RESOURCE_EXHAUSTED", "x"), headers={"Retry-After": said}))
            assert (await fcm.send(notification(), target())).retry_after == wanted, said


async def test_what_is_sent_is_valid_for_every_platform(site: Site) -> None:
    """Everything a push can say arrives in the fields that the reference lists, with that platform's block only."""
    full = notification(
        subtitle="Sous-titre",
        image="https://example.com/p.png",
        link="https://example.com/points",
        badge=3,
        sound="chime",
        ttl_seconds=3_600,
        collapse_key="é" * 40,
        overrides={
            "android": {"notification": {"channel_id": "offers"}, "restricted_package_name": "com.example"},
            "ios": {"aps": {"sound": None, "category": "OFFER"}},
            "web": {"requireInteraction": True},
        },
    )
    every, now = {"android", "apns", "webpush"}, time.time()
    async with site.serving() as peer, site.client(peer, clock=lambda: now) as fcm:
        for platform in ("android", "ios", "web", "", "tizen"):
            answer = await fcm.send(full, target(platform=platform))
            sent = json.loads(peer.received[-1].body)["message"]
            assert sent == fcm.payload(full, target(platform=platform))["message"]
            assert answer.verdict is Verdict.ACCEPTED, answer
            blocks = {"android": {"android"}, "ios": {"apns"}, "web": {"webpush"}}.get(platform, every)
            assert blocks == every & set(sent)
            assert sent["notification"] == {"title": "Bonjour", "body": full.body, "image": full.image}
            assert sent["data"] == {"push_id": full.push_id, "journey": "j", "link": full.link}
            if "android" in blocks:
                android = sent["android"]
                shown = {"tag": "é" * 40, "sound": "chime", "notification_count": 3, "channel_id": "offers"}
                assert android == {
                    **{"priority": "HIGH", "ttl": "3600s", "collapse_key": "é" * 40, "notification": shown},
                    "restricted_package_name": "com.example",
                }
            if "apns" in blocks:
                aps = sent["apns"]["payload"]["aps"]
                assert aps["alert"] == {"title": "Bonjour", "subtitle": "Sous-titre", "body": full.body}
                assert ("sound" in aps, aps["category"], aps["badge"], aps["mutable-content"]) == (False, "OFFER", 3, 1)
                assert len(sent["apns"]["headers"]["apns-collapse-id"]) == 64
                assert int(sent["apns"]["headers"]["apns-expiration"]) == int(now) + 3_600
            if "webpush" in blocks:
                assert sent["webpush"]["notification"] == {"tag": "é" * 40, "requireInteraction": True}
                assert sent["webpush"]["fcm_options"] == {"link": full.link}
                assert sent["webpush"]["headers"] == {"TTL": "3600", "Urgency": "high"}


async def test_installation_ids_and_tokens_go_by_their_own_fields(site: Site) -> None:
    """`fid:` before an id sends to an installation; everything else is a registration token, colons and all."""
    async with site.serving() as peer, site.client(peer) as fcm:
        for token in ("fid:cXy_1-", "cXy_1-:APA91b", "fidelity"):
            assert (await fcm.send(notification(), target(token))).verdict is Verdict.ACCEPTED
    sent = [json.loads(one.body)["message"] for one in peer.received]
    assert [(one.get("fid"), one.get("token")) for one in sent] == [
        ("cXy_1-", None),
        (None, "cXy_1-:APA91b"),
        (None, "fidelity"),
    ]


async def test_what_fcm_would_refuse_is_found_before_it_is_sent(site: Site) -> None:
    """A message of 4,096 bytes is taken by the peer; one byte more, or a reserved name of data, is never sent."""
    async with site.serving() as peer, site.client(peer) as fcm:
        room = 4_096 - len(
            json.dumps(
                {**fcm.payload(notification(body=""), target())["message"], "token": 0}, separators=(",", ":")
            ).encode()
        )
        room += len('"token":0,')
        assert (await fcm.send(notification(body="x" * room), target())).verdict is Verdict.ACCEPTED
        with pytest.raises(PayloadTooLarge, match=r"4,097 bytes, and FCM takes 4,096"):
            await fcm.send(notification(body="x" * (room + 1)), target())
        with pytest.raises(PayloadTooLarge):
            fcm.payload(notification(body="é" * room), target())
        for name in ("from", "message_type", "google.x", "gcm.y"):
            answer = await fcm.send(notification(data={name: "1"}), target())
            assert answer.verdict is BAD
            assert name in answer.detail
        assert len(peer.received) == 1
    assert [name for name in ("fro", "gcm", "google", "link") if is_reserved(name)] == []


@pytest.mark.parametrize("act", ["accept and cut", "accept and swallow", "swallow", "cut"])
async def test_no_answer_is_unknown_and_nothing_is_sent_again(site: Site, act: Any) -> None:
    """Written and never answered: unknown, by one request, at the deadline at the latest, accepted or not."""
    async with site.serving() as peer, site.client(peer, timeout_seconds=0.6) as fcm:
        await fcm.send(notification(push_id="0"), target())  # so that the connection is a used one
        peer.next.append(Behaviour(act=act))
        began = time.monotonic()
        answer = await fcm.send(notification(), target())
        assert answer.verdict is Verdict.UNKNOWN, answer
        assert time.monotonic() - began < 3
        await asyncio.sleep(0.3)
        assert len(peer.received) == 2
        assert peer.deliveries[notification().push_id] == ("accept" in act)


async def test_an_answer_cut_in_its_body_is_what_its_status_says(site: Site) -> None:
    """200 and then silence is accepted; an error of which the body is lost was not sent, and may be sent again."""
    async with site.serving() as peer, site.client(peer) as fcm:
        heard = []
        for status in (200, 404, 503):
            peer.next.append(Behaviour(status, act="status and cut"))
            heard.append((await fcm.send(notification(), target())).verdict)
    assert heard == [Verdict.ACCEPTED, Verdict.NOT_SENT, Verdict.NOT_SENT]


async def test_no_connection_is_not_sent(site: Site) -> None:
    """A closed port, a silent one, an unknown name, and a certificate of others: all proven not to be sent."""
    free, silent = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    other = make_authority(site.authority.folder / "other")
    with silent:
        async with site.serving() as peer:
            addresses = [
                {"base_url": f"https://127.0.0.1:{port}"},
                {"base_url": f"https://127.0.0.1:{silent.getsockname()[1]}"},
                {"base_url": "https://fcm.invalid"},
                {"base_url": "https://127.0.0.1:bad"},
            ]
            for address in addresses[:3]:
                async with site.client(peer, timeout_seconds=1, **address) as fcm:
                    assert (await fcm.send(notification(), target())).verdict is Verdict.NOT_SENT, address
            with pytest.raises(PushError):
                Fcm(FcmConfig(json.dumps(site.account(peer.token_uri)), **addresses[3]))
            async with site.client(peer) as fcm:
                await fcm.send(notification(), target())
                certificate = server_certificate(other, name="strange")
                async with (
                    FcmPeer(b"", EMAIL, PROJECT).serving(certificate.context()) as stranger,
                    site.client(peer, base_url=stranger.url) as trusting_no_stranger,
                ):
                    answer = await trusting_no_stranger.send(notification(), target())
                assert answer.verdict is Verdict.NOT_SENT
                assert stranger.received == []


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


async def test_many_at_once_arrive_once_each(site: Site) -> None:
    """500 messages over 20 connections: each accepted once."""
    async with site.serving() as peer, site.client(peer, connections=20) as fcm:
        answers = await asyncio.gather(*(fcm.send(notification(push_id=str(n)), target()) for n in range(500)))
    assert Counter(answer.verdict for answer in answers) == {Verdict.ACCEPTED: 500}
    assert (len(peer.deliveries), peer.duplicates) == (500, 0)


NODE_PROGRAM = """
const tls = require('tls'), https = require('https');
const given = JSON.parse(process.argv[2]);
const admin = require('firebase-admin');
// Whatever Google's client is told to reach, it reaches the peer: under Google's names, with the peer's certificate.
class Redirected extends https.Agent {
  createConnection(options, done) {
    return tls.connect({ host: '127.0.0.1', port: given.port, servername: options.host, ca: given.ca }, done);
  }
}
const httpAgent = new Redirected({ keepAlive: false });
https.globalAgent = httpAgent;
const make = (account, name) => admin.initializeApp(
  { credential: admin.credential.cert(account, httpAgent), projectId: account.project_id, httpAgent }, name);
const send = (app, message) => app.messaging().send(message).then((id) => ['', id], (error) => [error.code, '']);
(async () => {
  const app = make(given.account, 'right');
  const heard = [];
  for (const message of given.messages) heard.push(await send(app, message));
  const wrong = await send(make(given.stranger, 'wrong'), given.messages[0]);
  console.log(JSON.stringify({ heard, wrong }));
  process.exit(0);
})();
"""


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Google's own client for Node, from npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip(f"LEFT OUT: node and npm are not installed, so {PACKAGE} did not check the FCM peer")
    folder = tmp_path_factory.mktemp("node")
    words = ["install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "--omit=optional", PACKAGE]
    try:
        done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"LEFT OUT: npm did not install {PACKAGE} within 60 s, so it did not check the FCM peer")
    if done.returncode:
        pytest.skip(f"LEFT OUT: npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "send.js").write_text(NODE_PROGRAM)
    return folder


async def test_a_foreign_client_agrees_with_the_peer(site: Site, node_folder: Path) -> None:
    """The peer as Google's own client hears it: our payload is valid to it, each error is the error that it names."""
    named = {
        "UNREGISTERED": "messaging/registration-token-not-registered",
        "SENDER_ID_MISMATCH": "messaging/mismatched-credential",
        "INVALID_ARGUMENT": "messaging/invalid-argument",
        "THIRD_PARTY_AUTH_ERROR": "messaging/third-party-auth-error",
        "QUOTA_EXCEEDED": "messaging/message-rate-exceeded",
    }
    async with site.serving() as peer, site.client(peer) as fcm:
        peer.by_address = {name: DOCUMENTED[name][0] for name in named}
        full = notification(image="https://example.com/p.png", link="https://example.com/", badge=1, collapse_key="k")
        ours = fcm.payload(full, target("good", "ios"))["message"]
        ours["apns"]["payload"] = {"aps": {"alert": {"title": "t"}, "badge": 1}}
        messages = [ours, *({**ours, "token": name} for name in named)]
        given = {
            "port": peer.port,
            "ca": site.authority.ca_file.read_text(),
            "account": site.account("https://oauth2.googleapis.com/token"),
            "stranger": site.account("https://oauth2.googleapis.com/token", account_key()),
            "messages": messages,
        }
        program = await asyncio.create_subprocess_exec(
            "node", "send.js", json.dumps(given), cwd=node_folder, stdout=-1, stderr=-1
        )
        out, noise = await asyncio.wait_for(program.communicate(), 40)
        assert program.returncode == 0, noise.decode()
        found = json.loads(out.splitlines()[-1])
    assert found["heard"][0] == ["", f"projects/{PROJECT}/messages/1"]
    assert [code for code, _ in found["heard"][1:]] == list(named.values())
    assert found["wrong"][0] == "app/invalid-credential"
    assert peer.deliveries.total() == 1
