"""Pushwoosh: a 200 that refuses is a refusal, each answer has one meaning, and nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from activities.push.provider import Notification, Target, Verdict
from activities.push.pushwoosh import CODES, Pushwoosh, PushwooshConfig
from tests.certificates import Authority, Certificate, make_authority, server_certificate
from tests.http_peer import Behaviour
from tests.webhook_peer import PushwooshPeer
from workflows.errors import PushError

APPLICATION, TOKEN, DEVICE = "ABCDE-12345", "secret-token", "e5397eb5054d9d"

DEAD, BAD, CONFIG, RETRY = Verdict.TOKEN_DEAD, Verdict.MESSAGE_BAD, Verdict.CONFIG_BAD, Verdict.RETRY
CODE = "C3F8-C3863ED4-334AD4F1"


def says(code: int, message: str, response: Any = None, status: int = 200) -> Behaviour:
    return Behaviour(status, {"status_code": code, "status_message": message, "response": response})


DOCUMENTED: dict[str, tuple[Behaviour, Verdict, float | None]] = {
    "OK": (says(200, "OK", {"Messages": [CODE]}), Verdict.ACCEPTED, None),
    "OK, to devices": (says(200, "OK", {"Messages": ["CODE_NOT_AVAILABLE"]}), Verdict.ACCEPTED, None),
    "OK, another is unknown": (
        says(200, "OK", {"Messages": [CODE], "UnknownDevices": {"": ["another"]}}),
        Verdict.ACCEPTED,
        None,
    ),
    "unknown device": (
        says(200, "OK", {"Messages": ["CODE_NOT_AVAILABLE"], "UnknownDevices": {"": [DEVICE]}}),
        DEAD,
        None,
    ),
    "unknown device, as a list": (says(200, "OK", {"Messages": [CODE], "UnknownDevices": [DEVICE]}), DEAD, None),
    "nothing was made": (says(200, "OK", {"Messages": []}), BAD, None),
    "Application not found": (says(210, "Application not found"), CONFIG, None),
    "Account not found": (says(210, "Account not found"), CONFIG, None),
    "API token or application is not set": (says(210, "API token or application is not set"), CONFIG, None),
    "No notifications": (says(210, "No notifications"), BAD, None),
    "a bad argument": (says(210, "android_root_params must be key-value object"), BAD, None),
    "Cannot parse date": (says(210, "Cannot parse date"), BAD, None),
    "Token restrictions": (says(403, "Token restrictions forbid this operation"), CONFIG, None),
    "Token restrictions, by HTTP too": (says(403, "Token restrictions", status=403), CONFIG, None),
    "400 in the body": (says(400, "Bad request"), BAD, None),
    "401 in the body": (says(401, "Unauthorized"), CONFIG, None),
    "429 in the body": (says(429, "Too many requests"), RETRY, 60),
    "500 in the body": (says(500, "Internal server error"), RETRY, 10),
    "HTTP 400": (Behaviour(400, b"bad"), BAD, None),
    "HTTP 401": (Behaviour(401, b""), CONFIG, None),
    "HTTP 404": (Behaviour(404, b"no such method"), CONFIG, None),
    "HTTP 408": (Behaviour(408, b""), RETRY, 10),
    "HTTP 413": (Behaviour(413, b""), BAD, None),
    "HTTP 429": (Behaviour(429, b"", {"Retry-After": "61"}), RETRY, 61),
    "HTTP 500": (Behaviour(500, b"<html>"), RETRY, 10),
    "HTTP 503": (Behaviour(503, b""), RETRY, 10),
    "HTTP 504": (Behaviour(504, b""), Verdict.UNKNOWN, None),
    "HTTP 302": (Behaviour(302, b"", {"Location": "/"}), CONFIG, None),
    "200 of something else": (Behaviour(200, b"<html>welcome</html>"), Verdict.UNKNOWN, None),
    "200 of nothing": (Behaviour(200, b""), Verdict.UNKNOWN, None),
    "200 without its end": (Behaviour(200, b'{"status_code": 2', act="status and cut"), Verdict.UNKNOWN, None),
    "500 without its end": (Behaviour(500, b'{"status', act="status and cut"), Verdict.NOT_SENT, None),
    "a code that is none": (Behaviour(200, {"status_code": "x", "status_message": ["y"]}), CONFIG, None),
    "a response that is none": (says(200, "OK", [7]), Verdict.ACCEPTED, None),
    "messages that are none": (says(200, "OK", {"Messages": 7, "UnknownDevices": 7}), Verdict.ACCEPTED, None),
}
"""What Pushwoosh documents or was seen to answer, and the outcome that is wanted of each."""


@dataclass(frozen=True)
class Site:
    """What all peers of this file share."""

    authority: Authority
    certificate: Certificate

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[PushwooshPeer]:
        async with PushwooshPeer(APPLICATION, TOKEN).serving(self.certificate.context()) as peer:
            yield peer

    @asynccontextmanager
    async def client(self, base_url: str, **other: Any) -> AsyncIterator[Pushwoosh]:
        given = {"application": APPLICATION, "token": TOKEN, "ca_file": self.authority.ca_file, **other}
        client = Pushwoosh(PushwooshConfig(base_url=base_url, **given))
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


def target(platform: str = "android") -> Target:
    return Target(device_id="d1", user_id="u1", platform=platform, token=DEVICE)


async def test_each_documented_answer_has_its_outcome(site: Site) -> None:
    """What Pushwoosh says in HTTP or in the body arrives as one outcome, after one request, with its least wait."""
    async with site.serving() as peer, site.client(peer.url) as pushwoosh:
        for name, (behaviour, verdict, wait) in DOCUMENTED.items():
            peer.received.clear()
            peer.next.append(behaviour)
            answer = await pushwoosh.send(notification(), target())
            assert (answer.verdict, answer.retry_after) == (verdict, wait), (name, answer)
            assert len(peer.received) == 1, name
            assert answer.provider_id == (CODE if "OK" in name and name != "OK, to devices" else None), name
    said = {
        code
        for each, _, _ in DOCUMENTED.values()
        for code in (each.status, (each.body or {})["status_code"] if isinstance(each.body, dict) else 0)
    }
    assert set(CODES) <= said


@pytest.mark.parametrize("platform", ["ios", "android", "web", ""])
async def test_the_message_goes_to_one_device_with_the_pushs_id(site: Site, platform: str) -> None:
    """One device, one transaction; the token of the account is sent and never previewed; overrides change neither."""
    full = notification(
        subtitle="s",
        image="https://example.com/p.png",
        link="app://points",
        badge=1,
        ttl_seconds=60,
        overrides={"android": {"android_led": "#fff", "devices": ["all"], "transactionId": "x"}},
    )
    async with site.serving() as peer, site.client(peer.url) as pushwoosh:
        assert (await pushwoosh.send(full, target(platform))).verdict is Verdict.ACCEPTED
        sent = json.loads(peer.received[0].body)["request"]
        assert sent.pop("auth") == TOKEN
        assert {"request": sent} == pushwoosh.payload(full, target(platform))
        assert TOKEN not in repr(pushwoosh.config)
    (message,) = sent["notifications"]
    assert (message["devices"], message["transactionId"]) == ([DEVICE], full.push_id)
    assert (message["title"], message["content"], message["minimize_link"]) == ("Bonjour", full.body, 0)
    prefixes = {name.split("_")[0] for name in message} & {"ios", "android", "chrome"}
    assert prefixes == {"web": {"chrome"}, "": {"ios", "android", "chrome"}}.get(platform, {platform})
    assert ("android_led" in message) == (platform == "android")


async def test_the_wrong_account_is_a_matter_of_settings(site: Site) -> None:
    """Another token or application is refused with 200, and told as wrong settings."""
    async with site.serving() as peer:
        for other in ({"token": "another"}, {"application": "XXXXX-XXXXX"}):
            async with site.client(peer.url, **other) as pushwoosh:
                assert (await pushwoosh.send(notification(), target())).verdict is CONFIG
        assert peer.deliveries.total() == 0
    with pytest.raises(PushError, match="Pushwoosh cannot be set up"):
        Pushwoosh(PushwooshConfig(APPLICATION, TOKEN, ca_file="nowhere.pem"))


@pytest.mark.parametrize("act", ["accept and cut", "accept and swallow"])
async def test_no_answer_is_unknown_and_nothing_is_sent_again(site: Site, act: Any) -> None:
    """Accepted and never answered: unknown, by one request, at the deadline at the latest."""
    async with site.serving() as peer, site.client(peer.url, timeout_seconds=0.6) as pushwoosh:
        peer.next.append(Behaviour(act=act))
        assert (await pushwoosh.send(notification(), target())).verdict is Verdict.UNKNOWN
        await asyncio.sleep(0.2)
        assert (len(peer.received), peer.deliveries) == (1, {notification().push_id: 1})


async def test_no_connection_is_not_sent(site: Site) -> None:
    """A closed port is proven not to be sent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with site.client(f"https://127.0.0.1:{port}") as pushwoosh:
        assert (await pushwoosh.send(notification(), target())).verdict is Verdict.NOT_SENT
