"""FCM: each answer has one meaning, and what nobody documents raises nothing."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from activities.push.fcm import CODES, HTTP, STATUSES, Fcm, FcmConfig
from activities.push.provider import Notification, Target, Verdict
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

PROJECT, EMAIL = "shop-1234", "push@shop-1234.iam.gserviceaccount.com"

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
    """What all peers of FCM share in a file of tests."""

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


def make_site(folder: Path) -> Site:
    authority = make_authority(folder)
    names = ("127.0.0.1", "localhost", "fcm.googleapis.com", "oauth2.googleapis.com", "www.googleapis.com")
    return Site(authority, server_certificate(authority, *names), account_key())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("authority"))


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
