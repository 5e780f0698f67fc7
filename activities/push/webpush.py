"""Web Push: a message encrypted for one browser (RFC 8291), signed per push service (RFC 8292), posted once (RFC 8030).

A device's token is its subscription as the browser gives it, JSON of `endpoint` and `keys`. The endpoint is an address
that a stranger gave, so only hosts of a list are posted to, over https, and no redirect is followed.

The plaintext is JSON that the site's service worker shows: `title`, `body`, and where they are set `image`, `link`,
`badge`, `tag` (give it to `showNotification`, so that a repeat replaces what is shown) and `data`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_ece import ECEException  # type: ignore[import-untyped]
from py_vapid import Vapid02, VapidException  # type: ignore[import-untyped]
from pywebpush import WebPusher, WebPushException  # type: ignore[import-untyped]
from yarl import URL

from activities.push.http1 import Http1Client, Reply, Rule, tls_context
from activities.push.payloads import given, merged, within
from activities.push.provider import Answer, Notification, Target, Verdict
from workflows.errors import PushError

HOSTS: Final = (
    "fcm.googleapis.com",
    "updates.push.services.mozilla.com",
    "*.push.services.mozilla.com",
    "*.notify.windows.com",
    "web.push.apple.com",
    "*.push.apple.com",
)
"""The browsers' own push services."""
PAYLOAD_LIMIT: Final = 3_993
"""Most bytes before encryption: a body of 4,096 less what RFC 8291 adds."""
TOPIC_LIMIT: Final = 32
AUTH_BYTES: Final = 16
"""Length of a browser's authentication secret (RFC 8291, section 3.2)."""
LONGEST_TTL: Final = 2_419_200
VAPID_SECONDS: Final = 12 * 3_600.0
"""How long a signature is good; services take 24 hours at most."""
VAPID_RENEWED: Final = 6 * 3_600.0
"""Age at which it is replaced: Apple wants an hour between them at least."""
WORKED_SECONDS: Final = 600.0
"""A signature that a service accepted so lately is no reason for it to refuse another device."""
ORIGINS: Final = 1_000
"""Most origins whose signature is kept."""

_SENT, _DEAD, _MESSAGE = Rule(Verdict.ACCEPTED), Rule(Verdict.TOKEN_DEAD), Rule(Verdict.MESSAGE_BAD)
_CONFIG, _SOON, _LATER = Rule(Verdict.CONFIG_BAD), Rule(Verdict.RETRY, 10.0), Rule(Verdict.RETRY, 60.0)

ANSWERS: Final[Mapping[tuple[int, int | str], Rule]] = {
    (400, 101): _MESSAGE,  # keys of the encryption are missing
    (400, 108): _DEAD,  # the address names a kind of router that there is not
    (400, 110): _MESSAGE,
    (400, 111): _MESSAGE,
    (400, 112): _MESSAGE,
    (400, 113): _MESSAGE,
    (400, "UnauthorizedRegistration"): _CONFIG,  # Google's, or Windows': see `WebPush.send` for these two
    (400, "VapidPkHashMismatch"): _CONFIG,  # Apple's
    (503, 201): Rule(Verdict.RETRY, 30.0),
    (503, 202): Rule(Verdict.RETRY, 1.0),  # "immediate retry ok"
}
"""What answers mean whose status does not say it all, by Mozilla's `errno` or another service's reason."""

STATUSES: Final[Mapping[int, Rule]] = {
    200: _SENT,
    201: _SENT,
    202: _SENT,
    204: _SENT,
    301: _DEAD,  # "stop using the old URL immediately"
    400: _MESSAGE,
    401: _CONFIG,
    403: _CONFIG,
    404: _DEAD,
    406: _LATER,  # Windows' way to say that there were too many
    408: _SOON,
    410: _DEAD,
    413: _MESSAGE,
    429: _LATER,
    500: _SOON,
    502: _SOON,
    503: _SOON,
    504: Rule(Verdict.UNKNOWN),
}
"""What a status means otherwise."""


def meaning_of(status: int, said: Mapping[str, Any], text: str) -> Rule:
    """Tell what an answer means.

    Args:
        status: The HTTP status.
        said: The answer's JSON; empty when it has none.
        text: The answer as text.

    Returns:
        The documented meaning; where there is none, a server's error is tried later and any other refusal is final.
    """
    for (at, word), rule in ANSWERS.items():
        if at == status and (word in (said.get("errno"), said.get("reason")) or (str(word) == word and word in text)):
            return rule
    return STATUSES.get(status) or (_SOON if status >= 500 else _MESSAGE)


@dataclass(frozen=True)
class WebPushConfig:
    """Who sends.

    Attributes:
        key: The VAPID private key: PEM, or 32 bytes as base64url, as `web-push generate-vapid-keys` writes it.
        subject: Who to turn to, a `mailto:` or `https:` address.
        hosts: Hosts that subscriptions may name beside the browsers' own services: `push.example.com`,
            `*.example.com`, `127.0.0.1:8443`; with `http://` before it, without TLS.
        ca_file: Certificates to trust beside the system's.
        connections: Most connections at once.
        timeout_seconds: Most time for one request.
    """

    key: str | bytes = field(repr=False)
    subject: str
    hosts: tuple[str, ...] = ()
    ca_file: Path | str | None = None
    connections: int = 100
    timeout_seconds: float = 15.0


class WebPush:
    """Sends to browsers. Safe to use from many tasks of one event loop.

    Args:
        config: Who sends.
        name: How devices and settings call it.
        clock: Seconds since 1970.

    Raises:
        PushError: The key, the subject or the CA file cannot be used.
    """

    def __init__(self, config: WebPushConfig, name: str = "webpush", *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._hosts = (*HOSTS, *config.hosts)
        self._signed: dict[str, tuple[float, str]] = {}
        self._worked: dict[str, tuple[float, str]] = {}
        try:
            self._vapid = Vapid02(private_key=_private_key(config.key))
            self._authorization("https://example.com")
            tls = tls_context(config.ca_file)
        except (ValueError, TypeError, OSError, VapidException) as error:
            hint = "give a P-256 private key, and a subject such as mailto:push@example.com"
            raise PushError(f"Web Push cannot be set up: {error}", hint=hint) from None
        self._client = Http1Client(tls, connections=config.connections, timeout_seconds=config.timeout_seconds)

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give the body that would be sent, before its encryption.

        Raises:
            PayloadTooLarge: It takes more than 3,993 bytes.
        """
        made = _plaintext(notification)
        within(made, PAYLOAD_LIMIT, "Web Push")
        return made

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Send one message once.

        A refusal of our signature means wrong keys; but where the service accepted that very signature a moment ago,
        it means a subscription that was made for another key.

        Raises:
            PayloadTooLarge: Nothing was sent.
        """
        body = within(_plaintext(notification), PAYLOAD_LIMIT, "Web Push")
        try:
            found = json.loads(target.token)
            url = URL(found["endpoint"])
            pusher = WebPusher({"endpoint": str(url), "keys": dict(found["keys"])})
            if len(pusher.auth_key) != AUTH_BYTES:
                raise ValueError(f"its secret takes {len(pusher.auth_key)} bytes")
            if not is_allowed(url, self._hosts):
                return Answer(
                    Verdict.MESSAGE_BAD, f"not sent: {url.scheme}://{url.host_port_subcomponent} is not allowed"
                )
            encrypted = pusher.encode(body)["body"]
        except (ValueError, TypeError, LookupError, ECEException, WebPushException) as error:
            return Answer(Verdict.TOKEN_DEAD, f"not sent: the token is no subscription: {error!r}"[:300])
        origin = str(url.origin())
        authorization = self._authorization(origin)
        reply = await self._client.post(url, encrypted, {**_headers(notification), "Authorization": authorization})
        if isinstance(reply, Answer):
            return reply
        answer = self._read(reply)
        if answer.verdict is Verdict.ACCEPTED:
            self._worked[origin] = self._clock(), authorization
        elif answer.verdict is Verdict.CONFIG_BAD:
            at, worked = self._worked.get(origin, (0.0, ""))
            if worked == authorization and 0 <= self._clock() - at < WORKED_SECONDS:
                return Answer(Verdict.TOKEN_DEAD, f"made for another key: {answer.detail}")
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    def _read(self, reply: Reply) -> Answer:
        text = reply.text()
        rule = meaning_of(reply.status, reply.json(), text)
        if rule.verdict is Verdict.ACCEPTED:
            return Answer(rule.verdict, provider_id=reply.headers.get("Location"))
        return rule.answer(f"{reply.status} {text}".strip(), reply, self._clock())

    def _authorization(self, origin: str) -> str:
        """Give the signature for one push service: its own, and the same for hours."""
        now = self._clock()
        made_at, header = self._signed.get(origin, (float("-inf"), ""))
        if 0 <= now - made_at < VAPID_RENEWED:
            return header
        while len(self._signed) >= ORIGINS:
            oldest = next(iter(self._signed))
            del self._signed[oldest]
            self._worked.pop(oldest, None)
        claims = {"aud": origin, "sub": self.config.subject, "exp": int(now + VAPID_SECONDS)}
        header = str(self._vapid.sign(claims)["Authorization"])
        self._signed.pop(origin, None)
        self._signed[origin] = now, header
        return header


def is_allowed(url: URL, hosts: tuple[str, ...]) -> bool:
    """Tell whether an endpoint is at one of the hosts: https and its port, unless the list says otherwise.

    Args:
        url: The endpoint, as the client will read it.
        hosts: `name`, `*.suffix`, either with a port, `http://` before it where TLS is not wanted.
    """
    if url.user is not None or url.password is not None or not url.host or ":" in url.host:
        return False
    for entry in hosts:
        scheme, _, rest = entry.rpartition("://")
        name, _, port = rest.lower().partition(":")
        scheme = scheme or "https"
        if url.scheme != scheme or url.port != int(port or (443 if scheme == "https" else 80)):
            continue
        if url.host == name or (name.startswith("*.") and url.host.endswith(name[1:]) and len(url.host) >= len(name)):
            return True
    return False


def topic(key: str) -> str:
    """Give a collapse key as a topic: as it is, or a hash of it when it is too long or not letters and digits."""
    if re.fullmatch(rf"[A-Za-z0-9]{{1,{TOPIC_LIMIT}}}", key):
        return key
    return hashlib.sha256(key.encode()).hexdigest()[:TOPIC_LIMIT]


def _plaintext(notification: Notification) -> dict[str, Any]:
    made = given(
        title=notification.title,
        body=notification.body,
        image=notification.image,
        link=notification.link,
        badge=notification.badge,
        tag=notification.collapse_key,
        data=dict(notification.data),
    )
    return merged(made, notification.overrides.get("web", {}))


def _headers(notification: Notification) -> dict[str, str]:
    headers = {
        "TTL": str(min(max(notification.ttl_seconds, 0), LONGEST_TTL)),
        "Urgency": notification.priority,
        "Content-Encoding": "aes128gcm",
        "Content-Type": "application/octet-stream",
    }
    if notification.collapse_key:
        headers["Topic"] = topic(notification.collapse_key)
    return headers


def _private_key(key: str | bytes) -> EllipticCurvePrivateKey:
    text = key.encode() if isinstance(key, str) else key
    if b"-----BEGIN" not in text:
        raw: EllipticCurvePrivateKey = Vapid02.from_raw(text.strip()).private_key
        return raw
    loaded = load_pem_private_key(text, password=None)
    if not isinstance(loaded, EllipticCurvePrivateKey) or not isinstance(loaded.curve, SECP256R1):
        raise ValueError("the key is not a P-256 key")
    return loaded
