"""A webhook: the message as JSON to one address of the operator's, signed, with a key by which repeats are told.

The receiver checks `Push-Signature`: `sha256=` and the HMAC-SHA256, in hexadecimal, over the header `Push-Timestamp`, a
dot and the body as it came, by the shared secret. It compares in constant time, refuses timestamps that are minutes
old, and keeps `Idempotency-Key` for as long as pushes are tried again: the same key is the same push.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from yarl import URL

from activities.push.http1 import Http1Client, Rule, tls_context
from activities.push.payloads import given, merged, written
from activities.push.provider import Answer, Notification, Target, Verdict
from workflows.errors import PushError

_SENT, _CONFIG, _LATER = Rule(Verdict.ACCEPTED), Rule(Verdict.CONFIG_BAD), Rule(Verdict.RETRY, 10.0)

STATUSES: Final[Mapping[int, Rule]] = {
    401: _CONFIG,
    403: _CONFIG,
    408: _LATER,
    410: Rule(Verdict.TOKEN_DEAD),
    425: _LATER,
    429: Rule(Verdict.RETRY, 60.0),
}
"""What a status means; others go by their hundred."""
HUNDREDS: Final[Mapping[int, Rule]] = {
    2: _SENT,
    3: _CONFIG,  # the address has moved, and we follow nobody
    4: Rule(Verdict.MESSAGE_BAD),
    5: _LATER,
}


def meaning_of(status: int) -> Rule:
    """Tell what a status means."""
    return STATUSES.get(status) or HUNDREDS.get(status // 100, _CONFIG)


@dataclass(frozen=True)
class WebhookConfig:
    """Where to post.

    Attributes:
        url: The address, the same for all devices.
        secret: Signs what is posted.
        ca_file: Certificates to trust beside the system's.
        connections: Most connections at once.
        timeout_seconds: Most time for one request.
    """

    url: str
    secret: str | bytes = field(repr=False)
    ca_file: Path | str | None = None
    connections: int = 100
    timeout_seconds: float = 15.0


class Webhook:
    """Posts to one address. Safe to use from many tasks of one event loop.

    Args:
        config: Where to post.
        name: How devices and settings call it.
        clock: Seconds since 1970.

    Raises:
        PushError: The address is none, the secret is empty, or the CA file cannot be read.
    """

    def __init__(self, config: WebhookConfig, name: str = "webhook", *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        self._secret = config.secret.encode() if isinstance(config.secret, str) else config.secret
        hint = "give an address such as https://example.com/push, and a secret of 32 characters or so"
        try:
            self._url = URL(config.url)
            tls = tls_context(config.ca_file)
        except (ValueError, TypeError, OSError) as error:
            raise PushError(f"the webhook cannot be set up: {error}", hint=hint) from None
        if self._url.scheme not in ("https", "http") or not self._url.host or not self._secret:
            raise PushError(f"the webhook cannot be set up: {config.url!r}, or its secret, is no use", hint=hint)
        self._client = Http1Client(tls, connections=config.connections, timeout_seconds=config.timeout_seconds)

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give the body that would be sent. There is no limit of ours."""
        made = given(
            push_id=notification.push_id,
            user_id=target.user_id,
            device_id=target.device_id,
            platform=target.platform,
            token=target.token,
            title=notification.title,
            subtitle=notification.subtitle,
            body=notification.body,
            image=notification.image,
            link=notification.link,
            data=dict(notification.data),
            badge=notification.badge,
            sound=notification.sound,
            ttl_seconds=notification.ttl_seconds,
            priority=notification.priority,
            collapse_key=notification.collapse_key,
        )
        return merged(made, notification.overrides.get(target.platform, {}))

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Send one message once."""
        body, timestamp = written(self.payload(notification, target)), str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": notification.push_id,
            "Push-Timestamp": timestamp,
            "Push-Signature": f"sha256={signature(self._secret, timestamp, body)}",
        }
        reply = await self._client.post(self._url, body, headers)
        if isinstance(reply, Answer):
            return reply
        rule = meaning_of(reply.status)
        if rule is _SENT:
            return Answer(Verdict.ACCEPTED)
        return rule.answer(f"{reply.status} {reply.text()}".strip(), reply, self._clock())

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Sign a body as it is sent at an instant."""
    return hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
