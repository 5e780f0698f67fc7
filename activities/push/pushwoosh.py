"""Pushwoosh's message API as a provider: `createMessage` to one device, by its push token or hardware id.

Pushwoosh answers HTTP 200 also where it refuses: what counts is `status_code` in the body. Facts are from its pages
"Messages API" and "Email API" (docs.pushwoosh.com) and from answers that others have written down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from yarl import URL

from activities.push.http1 import Http1Client, Reply, Rule, cut_short, tls_context
from activities.push.payloads import given, merged, written
from activities.push.provider import Answer, Notification, Target, Verdict
from workflows.errors import PushError

BASE_URL: Final = "https://api.pushwoosh.com"
PATH: Final = "/json/1.3/createMessage"
NO_CODE: Final = "CODE_NOT_AVAILABLE"
"""What stands for the message's code where Pushwoosh has none yet."""

_DEAD, _MESSAGE, _CONFIG = Rule(Verdict.TOKEN_DEAD), Rule(Verdict.MESSAGE_BAD), Rule(Verdict.CONFIG_BAD)
_SOON, _QUOTA = Rule(Verdict.RETRY, 10.0), Rule(Verdict.RETRY, 60.0)

CODES: Final[Mapping[int, Rule]] = {
    200: Rule(Verdict.ACCEPTED),
    210: _MESSAGE,  # an argument is wrong; which, the message says: see `OURS`
    400: _MESSAGE,
    401: _CONFIG,
    403: _CONFIG,
    404: _CONFIG,
    408: _SOON,
    413: _MESSAGE,
    429: _QUOTA,  # 600 requests a minute
    504: Rule(Verdict.UNKNOWN),
}
"""What a code means, be it the body's or HTTP's; others go by their hundred."""

OURS: Final = ("account not found", "application not found", "api token or application is not set", "api access")
"""Messages of code 210 that are about the account and not about the message."""


def meaning_of(code: int, message: str) -> Rule:
    """Tell what an answer means.

    Args:
        code: The body's `status_code`; the HTTP status where the body has none.
        message: The body's `status_message`.
    """
    if code == 210 and any(one in message.lower() for one in OURS):
        return _CONFIG
    return CODES.get(code) or (_SOON if code >= 500 else _MESSAGE if code >= 400 else _CONFIG)


@dataclass(frozen=True)
class PushwooshConfig:
    """One application at Pushwoosh.

    Attributes:
        application: The application's code, XXXXX-XXXXX.
        token: An API access token that may send messages.
        base_url: Where its API is; left out, its own address.
        ca_file: Certificates to trust beside the system's.
        connections: Most connections at once.
        timeout_seconds: Most time for one request.
    """

    application: str
    token: str = field(repr=False)
    base_url: str | None = None
    ca_file: Path | str | None = None
    connections: int = 20
    timeout_seconds: float = 15.0


class Pushwoosh:
    """Sends to one application's devices. Safe to use from many tasks of one event loop.

    Args:
        config: The application.
        name: How devices and settings call it.
        clock: Seconds since 1970.

    Raises:
        PushError: The CA file cannot be read.
    """

    def __init__(
        self, config: PushwooshConfig, name: str = "pushwoosh", *, clock: Callable[[], float] = time.time
    ) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        try:
            self._url = URL((config.base_url or BASE_URL).rstrip("/") + PATH)
            tls = tls_context(config.ca_file)
        except (ValueError, TypeError, OSError) as error:
            raise PushError(f"Pushwoosh cannot be set up: {error}") from None
        self._client = Http1Client(tls, connections=config.connections, timeout_seconds=config.timeout_seconds)

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give the body that would be sent, without the access token. Pushwoosh documents no limit of its own."""
        made = merged(_notification(notification, target), notification.overrides.get(target.platform, {}))
        # Whom it goes to, and by which key, is nothing that a platform's overrides may change.
        made |= {"devices": [target.token], "transactionId": notification.push_id}
        return {"request": {"application": self.config.application, "notifications": [made]}}

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Send one message once."""
        request = self.payload(notification, target)["request"]
        body = written({"request": {**request, "auth": self.config.token}})
        reply = await self._client.post(self._url, body, {"Content-Type": "application/json"})
        return reply if isinstance(reply, Answer) else self._read(reply, target)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    def _read(self, reply: Reply, target: Target) -> Answer:
        said = reply.json()
        if "status_code" not in said:
            if reply.status == 200:
                # Taken or refused, only the body says so.
                return Answer(Verdict.UNKNOWN, f"200 without a status_code: {reply.text()}")
            if not reply.complete:
                return cut_short(reply)
        code, message = said.get("status_code", reply.status), str(said.get("status_message") or reply.text())
        rule = meaning_of(code if isinstance(code, int) else 0, message)
        if rule.verdict is not Verdict.ACCEPTED:
            return rule.answer(f"{code} {message}".strip()[:300], reply, self._clock())
        found = said.get("response")
        response: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        if _mentions(response.get("UnknownDevices"), target.token):
            return Answer(Verdict.TOKEN_DEAD, "UnknownDevices")
        messages = response.get("Messages")
        if messages == []:
            return Answer(Verdict.MESSAGE_BAD, "200, and no message was made")
        first = str(messages[0]) if isinstance(messages, list) else NO_CODE
        return Answer(Verdict.ACCEPTED, provider_id=None if first == NO_CODE else first)


def _mentions(found: Any, token: str) -> bool:
    """Look for a device in `UnknownDevices`, a list or lists by application."""
    if isinstance(found, Mapping):
        return any(_mentions(each, token) for each in found.values())
    if isinstance(found, list):
        return any(_mentions(each, token) for each in found)
    return bool(found == token)


def _notification(notification: Notification, target: Target) -> dict[str, Any]:
    """Make one element of `notifications`: what all platforms share, and what the device's own takes."""
    high = notification.priority == "high"
    ttl, sound, badge, image = (
        max(notification.ttl_seconds, 0),
        notification.sound,
        notification.badge,
        notification.image,
    )
    by_platform: dict[str, dict[str, Any]] = {
        "ios": given(ios_ttl=ttl, ios_sound=sound, ios_badges=badge, ios_attachment=image),
        "android": given(
            android_gcm_ttl=ttl,
            android_sound=sound,
            android_badges=badge,
            android_banner=image,
            android_delivery_priority="high" if high else "normal",
        ),
        "web": given(chrome_gcm_ttl=ttl, chrome_image=image),
    }
    own = [target.platform] if target.platform in by_platform else list(by_platform)
    made = given(
        send_date="now",
        ignore_user_timezone=True,
        content=notification.body,
        title=notification.title,
        subtitle=notification.subtitle,
        link=notification.link,
        minimize_link=0 if notification.link else None,  # a shortened deep link does not open
        data=dict(notification.data),
    )
    for platform in own:
        made |= by_platform[platform]
    return made
