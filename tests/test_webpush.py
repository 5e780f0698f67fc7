"""Web Push: what each answer means, who may be posted to, and that browsers can read what is sent."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from yarl import URL

from activities.push.provider import Notification, PayloadTooLarge, Target, Verdict
from activities.push.webpush import ANSWERS, HOSTS, STATUSES, WebPush, WebPushConfig, is_allowed, topic
from tests.certificates import (
    Authority,
    Certificate,
    account_key,
    make_authority,
    private_pem,
    server_certificate,
    signing_key,
)
from tests.http_peer import Behaviour
from tests.webpush_peer import WebPushPeer, encoded, point, said
from workflows.errors import PushError

SUBJECT = "mailto:push@example.com"
PACKAGE = "web-push@3.6.7"

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


@dataclass(frozen=True)
class Site:
    """What all peers of this file share."""

    authority: Authority
    certificate: Certificate
    key: EllipticCurvePrivateKey

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[WebPushPeer]:
        async with WebPushPeer().serving(self.certificate.context()) as peer:
            yield peer

    @asynccontextmanager
    async def client(self, *peers: WebPushPeer, clock: Any = time.time, **other: Any) -> AsyncIterator[WebPush]:
        config = WebPushConfig(
            **{
                "key": private_pem(self.key),
                "subject": SUBJECT,
                "hosts": tuple(f"{host}:{peer.port}" for peer in peers for host in ("127.0.0.1", "localhost")),
                "ca_file": self.authority.ca_file,
                **other,
            }
        )
        client = WebPush(config, clock=clock)
        try:
            yield client
        finally:
            await client.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    authority = make_authority(tmp_path_factory.mktemp("authority"))
    return Site(authority, server_certificate(authority), signing_key())


def notification(**other: Any) -> Notification:
    push_id = other.setdefault("push_id", "5b0c4b4e-0000-4000-8000-000000000001")
    return Notification(
        **{"title": "Bonjour", "body": "Vos points expirent", "data": {"push_id": push_id, "journey": "j"}, **other}
    )


def target(subscription: str) -> Target:
    return Target(device_id="d1", user_id="u1", platform="web", token=subscription)


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


async def test_only_allowed_hosts_are_posted_to(site: Site) -> None:
    """An endpoint elsewhere, on another port, without TLS or with a name in it is refused unsent; so are redirects."""
    async with site.serving() as peer, site.serving() as inside, site.client(peer) as push:
        good = json.loads(peer.subscribe())
        path = URL(good["endpoint"]).path
        for endpoint in (
            f"{inside.url}{path}",
            f"http://127.0.0.1:{peer.port}{path}",
            f"https://user@127.0.0.1:{peer.port}{path}",
            f"https://127.0.0.1:{peer.port}@127.0.0.1:{inside.port}{path}",
            f"https://[::1]:{peer.port}{path}",
            f"https://fcm.googleapis.com.evil.example{path}",
            "https://fcm.googleapis.com:8443/x",
            "https://169.254.169.254/latest/meta-data",
            f"ftp://127.0.0.1:{peer.port}{path}",
        ):
            answer = await push.send(notification(), target(json.dumps({**good, "endpoint": endpoint})))
            assert answer.verdict is BAD, endpoint
            assert "is not allowed" in answer.detail
        peer.default = Behaviour(307, b"", {"Location": f"{inside.url}{path}"})
        assert (await push.send(notification(), target(json.dumps(good)))).verdict is BAD
        assert (len(peer.received), len(inside.received)) == (1, 0)


def test_the_list_of_hosts_means_what_it_says() -> None:
    """Names match whole, `*.` matches below and not the name itself, ports and http only where the list names them."""
    allowed = [
        "https://fcm.googleapis.com/fcm/send/x",
        "https://FCM.googleapis.com:443/x",
        "https://updates.push.services.mozilla.com/wpush/v2/x",
        "https://eu.push.services.mozilla.com/x",
        "https://wns2-par02p.notify.windows.com/w/?token=x",
        "https://web.push.apple.com/x",
        "https://eu.push.apple.com/x",
    ]
    refused = [
        "https://googleapis.com/x",
        "https://xfcm.googleapis.com/x",
        "https://notify.windows.com/x",
        "https://evilnotify.windows.com/x",
        "https://notify.windows.com.evil.example/x",
        "http://fcm.googleapis.com/x",
        "//fcm.googleapis.com/x",
        "fcm.googleapis.com/x",
        "https:///x",
        "https://evil.example#@fcm.googleapis.com/x",
    ]
    assert [one for one in allowed if not is_allowed(URL(one), HOSTS)] == []
    assert [one for one in refused if is_allowed(URL(one), HOSTS)] == []
    own = ("http://push.example.com", "*.example.org:8443")
    assert is_allowed(URL("http://push.example.com/x"), own)
    assert is_allowed(URL("https://a.example.org:8443/x"), own)
    assert not is_allowed(URL("https://push.example.com/x"), own)
    assert not is_allowed(URL("https://a.example.org/x"), own)


async def test_what_is_no_subscription_is_dead_and_never_sent(site: Site) -> None:
    """A token that is no subscription, or whose keys no browser made, is marked; nothing raises."""
    async with site.serving() as peer, site.client(peer) as push:
        good = json.loads(peer.subscribe())
        p256dh, auth = good["keys"]["p256dh"], good["keys"]["auth"]
        wrong: list[Any] = [None, 7, [], {}, "x", {"endpoint": good["endpoint"]}, {**good, "keys": []}]
        wrong += [
            {**good, "endpoint": each}
            for each in (
                None,
                3,
                "https://127.0.0.1:99999/x",
                "https://[::1/x",
                "https://evil.example\\@fcm.googleapis.com/x",
                [],
            )
        ]
        wrong += [{**good, "keys": {"p256dh": each, "auth": auth}} for each in (None, "", "é", "AAAA", p256dh[:-8], 5)]
        wrong += [{**good, "keys": {"p256dh": encoded(b"\4" + b"\1" * 64), "auth": auth}}]
        wrong += [{**good, "keys": {"p256dh": p256dh, "auth": each}} for each in ("", "é", None)]
        for one in wrong:
            answer = await push.send(notification(), target(json.dumps(one)))
            assert answer.verdict in (DEAD, BAD), (one, answer)
            assert "not sent" in answer.detail, one
        assert (await push.send(notification(), target("{"))).verdict is DEAD
        assert peer.received == []


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


NODE_PROGRAM = """
const push = require('web-push');
const given = JSON.parse(process.argv[2]);
const send = (subscription, vapidDetails, payload) => push.sendNotification(subscription, payload,
  { vapidDetails, TTL: 60, urgency: 'high', topic: 'abc' }).then((one) => one.statusCode, (one) => one.statusCode);
(async () => {
  const heard = [];
  for (const one of given.subscriptions) heard.push(await send(one, given.right, given.payload));
  heard.push(await send(given.subscriptions[0], given.wrong, given.payload));
  heard.push(await send(given.subscriptions[0], given.right, 'x'.repeat(5000)));
  console.log(JSON.stringify(heard));
})();
"""


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a foreign Web Push client, from npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip(f"LEFT OUT: node and npm are not installed, so {PACKAGE} did not check the Web Push peer")
    folder = tmp_path_factory.mktemp("node")
    words = ["install", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", PACKAGE]
    try:
        done = subprocess.run([npm, *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"LEFT OUT: npm did not install {PACKAGE} within 60 s, so it did not check the Web Push peer")
    if done.returncode:
        pytest.skip(f"LEFT OUT: npm cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "send.js").write_text(NODE_PROGRAM)
    return folder


async def test_a_foreign_client_agrees_with_the_peer(site: Site, node_folder: Path) -> None:
    """The peer as npm's web-push meets it: decrypted and signed as ours is; a strange key, a gone browser refused."""

    def details(key: EllipticCurvePrivateKey) -> dict[str, str]:
        private = encoded(key.private_numbers().private_value.to_bytes(32))
        return {"subject": SUBJECT, "publicKey": point(key), "privateKey": private}

    async with site.serving() as peer:
        subscriptions = [json.loads(peer.subscribe(point(site.key))) for _ in range(4)]
        names = [URL(one["endpoint"]).name for one in subscriptions]
        peer.by_address = {names[1]: said(410, 106), names[2]: said(429, 201)}
        del peer.browsers[names[3]]
        payload = json.dumps({"title": "é", "data": {"push_id": "1"}})
        given = {"subscriptions": subscriptions, "payload": payload}
        given |= {"right": details(site.key), "wrong": details(signing_key())}
        words = ["node", "--use-openssl-ca", "send.js", json.dumps(given)]
        environment = {
            "PATH": str(Path(shutil.which("node") or "").parent),
            "SSL_CERT_FILE": str(site.authority.ca_file),
        }
        program = await asyncio.create_subprocess_exec(*words, cwd=node_folder, env=environment, stdout=-1, stderr=-1)
        out, noise = await asyncio.wait_for(program.communicate(), 30)
        assert program.returncode == 0, noise.decode()
    assert json.loads(out) == [201, 410, 429, 404, 403, 413]
    assert peer.deliveries == {"1": 1}
    assert json.loads(peer.plaintexts[0]) == json.loads(payload)
