"""Firebase Cloud Messaging, HTTP v1: one request a message, a token by google-auth, one table of what answers mean.

A device's token is a registration token as it is, or `fid:` and a Firebase installation id: Google replaces the former
by the latter, application by application, and takes each in a field of its own.

Facts are Google's own: "ErrorCode", "projects.messages", "Best practices when sending FCM messages at scale"
(firebase.google.com/docs/cloud-messaging). Google's own client library is not used: it sends again by itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.auth.exceptions import GoogleAuthError
from google.oauth2.service_account import Credentials
from yarl import URL

from activities.push.access_tokens import AccessTokens
from activities.push.apns import collapse_id
from activities.push.http1 import Http1Client, Reply, Rule, cut_short, tls_context
from activities.push.payloads import given, merged, within, written
from activities.push.provider import Answer, Notification, Target, Verdict
from workflows.errors import PushError

BASE_URL: Final = "https://fcm.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
PAYLOAD_LIMIT: Final = 4_096
"""Most bytes of a message. All but the address is counted: a little that Google might take is refused, never more sent
than it takes."""
LONGEST_TTL: Final = 2_419_200
FID: Final = "fid:"
"""What stands before an installation id in a device's token."""

_DEAD, _MESSAGE, _CONFIG = Rule(Verdict.TOKEN_DEAD), Rule(Verdict.MESSAGE_BAD), Rule(Verdict.CONFIG_BAD)
_SOON, _QUOTA = Rule(Verdict.RETRY, 10.0), Rule(Verdict.RETRY, 60.0)

CODES: Final[Mapping[str, Rule]] = {
    "INVALID_ARGUMENT": _MESSAGE,  # or a token that is none: see `meaning_of`
    "UNREGISTERED": _DEAD,
    "SENDER_ID_MISMATCH": _DEAD,  # another project's token, which this one will never reach
    "QUOTA_EXCEEDED": _QUOTA,
    "UNAVAILABLE": _SOON,
    "INTERNAL": _SOON,
    "THIRD_PARTY_AUTH_ERROR": _CONFIG,  # the APNs key or the Web Push key that Firebase keeps
    "APNS_AUTH_ERROR": _CONFIG,  # its former name
}
"""What FCM's own error codes mean. UNSPECIFIED_ERROR says nothing, so the next table is asked."""

STATUSES: Final[Mapping[str, Rule]] = {
    "INVALID_ARGUMENT": _MESSAGE,
    "OUT_OF_RANGE": _MESSAGE,
    "ALREADY_EXISTS": _MESSAGE,
    "FAILED_PRECONDITION": _CONFIG,
    "UNAUTHENTICATED": _CONFIG,  # once a new access token is refused too: see `Fcm.send`
    "PERMISSION_DENIED": _CONFIG,
    "NOT_FOUND": _CONFIG,  # the project or the path: a device that is gone is UNREGISTERED
    "UNIMPLEMENTED": _CONFIG,
    "RESOURCE_EXHAUSTED": _QUOTA,
    "ABORTED": _SOON,
    "UNAVAILABLE": _SOON,
    "INTERNAL": _SOON,
    "UNKNOWN": _SOON,
    "DATA_LOSS": _SOON,
    "DEADLINE_EXCEEDED": Rule(Verdict.UNKNOWN),
    "CANCELLED": Rule(Verdict.UNKNOWN),
}
"""What Google's statuses (google.rpc.Code, all but OK) mean where no code of FCM's says more."""

HTTP: Final[Mapping[int, Rule]] = {
    400: _MESSAGE,
    408: _SOON,
    413: _MESSAGE,
    429: _QUOTA,
    504: Rule(Verdict.UNKNOWN),
}
"""What an HTTP status means where the answer is not in Google's words; others go by their hundred."""


def meaning_of(status: int, error: Mapping[str, Any]) -> tuple[Rule, str]:
    """Tell what an error means.

    Args:
        status: The HTTP status.
        error: The value of `error` in the answer; empty when there is none.

    Returns:
        The meaning, and the word by which it was found.
    """
    details = _objects(error.get("details"))
    code = next((str(one["errorCode"]) for one in details if one.get("errorCode")), "")
    word = str(error.get("status") or "")
    if "INVALID_ARGUMENT" in (code, word) and _about_the_address(error, details, code):
        return _DEAD, "INVALID_ARGUMENT"
    if code in CODES:
        return CODES[code], code
    if word in STATUSES:
        return STATUSES[word], word
    if status in HTTP:
        return HTTP[status], ""
    return (_SOON if status >= 500 else _CONFIG), ""


def _about_the_address(error: Mapping[str, Any], details: list[Mapping[str, Any]], code: str) -> bool:
    """Tell whether an invalid argument is the device's address: FCM has one code for both."""
    fields = [str(each.get("field")) for one in details for each in _objects(one.get("fieldViolations"))]
    if fields:
        return all(name in ("message.token", "message.fid") for name in fields)
    message = str(error.get("message")).lower()
    return bool(code) and ("valid fcm registration token" in message or "valid firebase installation" in message)


def _objects(found: Any) -> list[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


@dataclass(frozen=True)
class FcmConfig:
    """One Firebase project.

    Attributes:
        credentials: The service account, the text of the JSON file that Firebase hands out.
        project: The project's id; left out, the service account's own.
        base_url: Where to send; left out, Google's address.
        token_uri: Where access tokens are had; left out, what the service account says.
        ca_file: Certificates to trust beside the system's.
        connections: Most connections at once.
        timeout_seconds: Most time for one request; Google asks for 10 at least.
    """

    credentials: str | bytes = field(repr=False)
    project: str | None = None
    base_url: str | None = None
    token_uri: str | None = None
    ca_file: Path | str | None = None
    connections: int = 100
    timeout_seconds: float = 15.0


class Fcm:
    """Sends to one project's devices. Safe to use from many tasks of one event loop.

    Args:
        config: The project.
        name: How devices and settings call it.
        clock: Seconds since 1970.

    Raises:
        PushError: The service account or the CA file cannot be read.
    """

    def __init__(self, config: FcmConfig, name: str = "fcm", *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.config = config
        self._clock = clock
        try:
            account = dict(json.loads(config.credentials))
            if config.token_uri is not None:
                account["token_uri"] = config.token_uri
            credentials = Credentials.from_service_account_info(account, scopes=[SCOPE])  # type: ignore[no-untyped-call]
            project = config.project or account["project_id"]
            self._url = URL(f"{(config.base_url or BASE_URL).rstrip('/')}/v1/projects/{project}/messages:send")
            tls = tls_context(config.ca_file)
        except (ValueError, TypeError, KeyError, OSError, GoogleAuthError) as error:
            hint = "give the JSON file of a service account: Firebase console, project settings, service accounts"
            raise PushError(f"FCM cannot be set up: {error}", hint=hint) from None
        self._tokens = AccessTokens(credentials, tls, clock)
        self._client = Http1Client(tls, connections=config.connections, timeout_seconds=config.timeout_seconds)

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give the body that would be sent.

        Raises:
            PayloadTooLarge: It takes more than 4,096 bytes.
        """
        made = _message(notification, target, self._clock())
        within(made, PAYLOAD_LIMIT, "FCM")
        token = target.token
        address = {"fid": token.removeprefix(FID)} if token.startswith(FID) else {"token": token}
        return {"message": {**address, **made}}

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Send one message once.

        An access token that FCM refuses is replaced and the message sent again, once: the refusal proves that it was
        not processed.

        Raises:
            PayloadTooLarge: Nothing was sent.
        """
        body = written(self.payload(notification, target))
        if reserved := sorted(name for name in notification.data if is_reserved(name)):
            return Answer(Verdict.MESSAGE_BAD, f"FCM keeps these names of data for itself: {', '.join(reserved)}")
        token = await self._tokens.current()
        if isinstance(token, Answer):
            return token
        answer, refused = await self._post(body, token)
        if refused:
            other = await self._tokens.another(token)
            if isinstance(other, Answer):
                return other
            if other is not None:
                answer, _ = await self._post(body, other)
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    async def _post(self, body: bytes, token: str) -> tuple[Answer, bool]:
        """Post, and tell whether the access token was refused."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        reply = await self._client.post(self._url, body, headers)
        if isinstance(reply, Answer):
            return reply, False
        answer, word = self._read(reply)
        return answer, word == "UNAUTHENTICATED" or (reply.status == 401 and not word)

    def _read(self, reply: Reply) -> tuple[Answer, str]:
        """Read an answer, and give the word that decided."""
        said = reply.json()
        if reply.status == 200 and (said.get("name") or not reply.complete):
            return Answer(Verdict.ACCEPTED, provider_id=str(said["name"]) if "name" in said else None), ""
        if not reply.complete:
            return cut_short(reply), "cut"
        error = said.get("error")
        rule, word = meaning_of(reply.status, error if isinstance(error, Mapping) else {})
        told = error.get("message") if isinstance(error, Mapping) else None
        detail = f"{reply.status} {word}: {told or reply.text() or 'no word of FCM'}"[:300]
        return rule.answer(detail, reply, self._clock()), word


def is_reserved(name: str) -> bool:
    """Tell whether FCM keeps a name of data for itself."""
    return name in ("from", "message_type") or name.startswith(("google.", "gcm."))


def _message(notification: Notification, target: Target, now: float) -> dict[str, Any]:
    """Make the message without its address: for a platform that is known, with that platform's block only."""
    made: dict[str, Any] = {
        "notification": given(title=notification.title, body=notification.body, image=notification.image),
        "data": {**given(link=notification.link), **notification.data},
    }
    for platform, (block, at, make) in _BLOCKS.items():
        if target.platform not in _BLOCKS or target.platform == platform:
            overrides: Mapping[str, Any] = notification.overrides.get(platform, {})
            made[block] = merged(make(notification, now), {at: overrides} if at else overrides)
    return given(**made)


def _android(notification: Notification, now: float) -> dict[str, Any]:
    key = notification.collapse_key
    shown = given(tag=key, sound=notification.sound, notification_count=notification.badge)
    return given(
        priority="HIGH" if notification.priority == "high" else "NORMAL",
        ttl=f"{_ttl(notification)}s",
        collapse_key=key,
        notification=shown,
    )


def _apns(notification: Notification, now: float) -> dict[str, Any]:
    key, ttl = notification.collapse_key, _ttl(notification)
    alert = given(title=notification.title, subtitle=notification.subtitle, body=notification.body)
    image = notification.image
    aps = given(badge=notification.badge, sound=notification.sound, **{"mutable-content": 1 if image else None})
    headers = {
        "apns-priority": "10" if notification.priority == "high" else "5",
        "apns-expiration": str(int(now) + ttl) if ttl else "0",
        **({"apns-collapse-id": collapse_id(key)} if key else {}),
    }
    return given(headers=headers, payload={"aps": {"alert": alert, **aps}}, fcm_options=given(image=image))


def _webpush(notification: Notification, now: float) -> dict[str, Any]:
    link = notification.link or ""
    return given(
        headers={"TTL": str(_ttl(notification)), "Urgency": notification.priority},
        notification=given(tag=notification.collapse_key),
        fcm_options=given(link=link if link.startswith("https://") else None),  # FCM refuses any other
    )


_BLOCKS: Final[Mapping[str, tuple[str, str, Callable[[Notification, float], dict[str, Any]]]]] = {
    "android": ("android", "", _android),
    "ios": ("apns", "payload", _apns),
    "web": ("webpush", "notification", _webpush),
}
"""Each platform's block of a message, where in it the platform's overrides go, and what makes it."""


def _ttl(notification: Notification) -> int:
    return min(max(notification.ttl_seconds, 0), LONGEST_TTL)
