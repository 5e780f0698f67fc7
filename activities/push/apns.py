"""Apple's push service: HTTP/2, a provider token signed by ES256, and one table of what each answer means.

Facts are Apple's own, from "Sending notification requests to APNs", "Handling notification responses from APNs" and
"Establishing a token-based connection to APNs" (developer.apple.com/documentation/usernotifications).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hpack import NeverIndexedHeaderTuple

from activities.push.http1 import tls_context
from activities.push.http2 import Header, Http2Client, NotSent, OutcomeUnknown, Response
from activities.push.provider import Answer, Notification, PayloadTooLarge, Target, Verdict
from workflows.errors import PushError

BASE_URLS: Final = {
    "production": "https://api.push.apple.com",
    "sandbox": "https://api.sandbox.push.apple.com",
}
"""Where Apple listens, by environment."""
PAYLOAD_LIMIT: Final = 4_096
"""Most bytes of a payload, which is never compressed."""
COLLAPSE_LIMIT: Final = 64
"""Most bytes of a collapse id."""
TOKEN_SECONDS: Final = 50 * 60.0
"""Age at which a provider token is replaced: Apple refuses those older than an hour."""
TOKEN_PAUSE_SECONDS: Final = 20 * 60.0
"""Apple refuses provider tokens that are made more often than this."""
OVERRIDES: Final = "ios"
"""Whose overrides are merged into the payload."""


@dataclass(frozen=True)
class Rule:
    """What an answer means.

    Attributes:
        verdict: The meaning.
        retry_after: Least seconds before trying again.
    """

    verdict: Verdict
    retry_after: float | None = None


_DEAD = Rule(Verdict.TOKEN_DEAD)
_MESSAGE = Rule(Verdict.MESSAGE_BAD)
_CONFIG = Rule(Verdict.CONFIG_BAD)
_LATER = Rule(Verdict.RETRY, 15 * 60.0)

ANSWERS: Final[Mapping[tuple[int, str], Rule]] = {
    (200, ""): Rule(Verdict.ACCEPTED),
    (400, "BadCollapseId"): _MESSAGE,
    (400, "BadDeviceToken"): _DEAD,  # or a token of the other environment, which this account cannot reach either
    (400, "BadExpirationDate"): _MESSAGE,
    (400, "BadMessageId"): _MESSAGE,
    (400, "BadPriority"): _MESSAGE,
    (400, "BadTopic"): _CONFIG,
    (400, "DeviceTokenNotForTopic"): _DEAD,  # for this topic: another application's token
    (400, "DuplicateHeaders"): _MESSAGE,
    (400, "IdleTimeout"): Rule(Verdict.NOT_SENT),
    (400, "InvalidPushType"): _MESSAGE,
    (400, "MissingDeviceToken"): _MESSAGE,
    (400, "MissingTopic"): _CONFIG,
    (400, "PayloadEmpty"): _MESSAGE,
    (400, "TopicDisallowed"): _CONFIG,
    (403, "BadCertificate"): _CONFIG,
    (403, "BadCertificateEnvironment"): _CONFIG,
    (403, "BadEnvironmentKeyIdInToken"): _CONFIG,
    (403, "BadEnvironmentKeyInToken"): _CONFIG,  # what Apple was seen to answer where its table says the former
    (403, "ExpiredProviderToken"): _CONFIG,  # once a new token is refused too: see `Apns.send`
    (403, "Forbidden"): _CONFIG,
    (403, "InvalidProviderToken"): _CONFIG,
    (403, "MissingProviderToken"): _CONFIG,
    (403, "UnrelatedKeyIdInToken"): _CONFIG,
    (404, "BadPath"): _MESSAGE,
    (405, "MethodNotAllowed"): _MESSAGE,
    (410, "ExpiredToken"): _DEAD,
    (410, "Unregistered"): _DEAD,
    (413, "PayloadTooLarge"): _MESSAGE,
    (429, "TooManyProviderTokenUpdates"): Rule(Verdict.RETRY, TOKEN_PAUSE_SECONDS),
    (429, "TooManyRequests"): _LATER,  # this device only
    (500, "InternalServerError"): _LATER,
    (503, "ServiceUnavailable"): _LATER,
    (503, "Shutdown"): _LATER,
}
"""What every documented answer means, by status and reason."""

STATUSES: Final[Mapping[int, Rule]] = {403: _CONFIG, 410: _DEAD, 429: _LATER}
"""What a status means with a reason that Apple does not document; others go by their hundred, in `meaning_of`."""


def meaning_of(status: int, reason: str) -> Rule:
    """Tell what an answer means.

    Args:
        status: The HTTP status.
        reason: Apple's reason; empty when it gave none.

    Returns:
        The documented meaning. Where there is none, the safe one: an error of Apple's is tried later, one of ours is
        never tried again, and what no push service would say is a wrong address.
    """
    documented = ANSWERS.get((status, reason)) or STATUSES.get(status)
    if documented is not None:
        return documented
    if status >= 500:
        return _LATER
    return _MESSAGE if status >= 400 and reason else _CONFIG


@dataclass(frozen=True)
class ApnsConfig:
    """One application in one environment.

    Attributes:
        key: The signing key, a .p8 file's text.
        key_id: Apple's id of the key.
        team_id: The developer team's id.
        topic: The application's bundle id.
        environment: Where the application's tokens come from.
        base_url: Where to send; left out, Apple's address of the environment.
        ca_file: Whom to trust beside the authorities that the system trusts.
        connections: Most connections at once.
        timeout_seconds: Most time for one message.
        ping_seconds: How long a connection may be silent before it is asked for a sign of life.
    """

    key: str | bytes = field(repr=False)
    key_id: str
    team_id: str
    topic: str
    environment: Literal["production", "sandbox"] = "production"
    base_url: str | None = None
    ca_file: Path | str | None = None
    connections: int = 1
    timeout_seconds: float = 10.0
    ping_seconds: float = 30.0


class ProviderToken:
    """The signed token by which Apple knows us. Use `provider_token`: there is one of each key in a process.

    Args:
        key: The signing key, PEM.
        key_id: Apple's id of the key.
        team_id: The developer team's id.
        clock: Seconds since 1970.

    Raises:
        PushError: The key cannot be read, or is not of the kind that Apple hands out.
    """

    def __init__(self, key: bytes, key_id: str, team_id: str, clock: Callable[[], float] = time.time) -> None:
        hint = "give the whole text of the .p8 file that Apple let you download"
        try:
            loaded = load_pem_private_key(key, password=None)
        except (ValueError, TypeError) as error:
            raise PushError(f"the APNs key {key_id!r} cannot be read: {error}", hint=hint) from None
        if not isinstance(loaded, EllipticCurvePrivateKey) or not isinstance(loaded.curve, SECP256R1):
            raise PushError(f"the APNs key {key_id!r} is not a P-256 key", hint=hint)
        self._key = loaded
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._token = ""
        self._made_at = float("-inf")
        self._renewed_at = float("-inf")

    def current(self) -> str:
        """Give the token, a new one every 50 minutes; also when the clock was set back behind its making."""
        now = self._clock()
        if not 0 <= now - self._made_at < TOKEN_SECONDS:
            self._make(now)
        return self._token

    def renewed(self, refused: str) -> str | None:
        """Give another token than one that Apple calls expired.

        Args:
            refused: The token that was refused.

        Returns:
            The token that others have got meanwhile, or a new one; null when one was renewed a short while ago and is
            refused as well: then the clock is wrong, and making more would only have Apple refuse them for that.
        """
        now = self._clock()
        if refused != self._token:
            return self.current()
        if 0 <= now - self._renewed_at < TOKEN_PAUSE_SECONDS:
            return None
        self._renewed_at = now
        self._make(now)
        return self._token

    def _make(self, now: float) -> None:
        claims = {"iss": self._team_id, "iat": int(now)}
        self._token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
        self._made_at = now


@lru_cache(maxsize=64)
def provider_token(key: bytes, key_id: str, team_id: str) -> ProviderToken:
    """Give the process's one token of a key: Apple counts how often a key's tokens change."""
    return ProviderToken(key, key_id, team_id)


class Apns:
    """Sends to one application's devices. Safe to use from many tasks of one event loop.

    Args:
        config: The application.
        name: How devices and settings call it.
        clock: Seconds since 1970.
        token: The provider token; left out, the process's own of that key.

    Raises:
        PushError: The key cannot be read.
    """

    def __init__(
        self,
        config: ApnsConfig,
        name: str = "apns",
        *,
        clock: Callable[[], float] = time.time,
        token: ProviderToken | None = None,
    ) -> None:
        self.name = name
        self.config = config
        key = config.key.encode() if isinstance(config.key, str) else config.key
        self._token = token or provider_token(key, config.key_id, config.team_id)
        self._clock = clock
        self._client = Http2Client(
            config.base_url or BASE_URLS[config.environment],
            tls_context(config.ca_file),
            connections=config.connections,
            timeout_seconds=config.timeout_seconds,
            ping_seconds=config.ping_seconds,
        )

    def payload(self, notification: Notification, target: Target) -> Mapping[str, Any]:
        """Give the body that would be sent.

        Raises:
            PayloadTooLarge: It takes more than 4,096 bytes.
        """
        made = _payload(notification)
        _bytes_of(made)
        return made

    async def send(self, notification: Notification, target: Target) -> Answer:
        """Send one message once.

        A provider token that Apple calls expired is replaced and the message sent again, once: the refusal proves that
        it was not processed.

        Raises:
            PayloadTooLarge: Nothing was sent.
        """
        body = _bytes_of(_payload(notification))
        if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", target.token):
            # Apple holds bad tokens against the sender, and this one cannot be anybody's.
            return Answer(Verdict.TOKEN_DEAD, "BadDeviceToken: the token is not hexadecimal, so it was not sent")
        deadline = time.monotonic() + self.config.timeout_seconds
        headers = self._headers(notification)
        token = self._token.current()
        answer, reason = await self._post(target.token, headers, token, body, deadline)
        if reason == "ExpiredProviderToken":
            renewed = self._token.renewed(token)
            if renewed is not None:
                answer, reason = await self._post(target.token, headers, renewed, body, deadline)
        if answer.verdict is Verdict.CONFIG_BAD:
            # A mended key, a new bundle id: Apple takes note of them on new connections only.
            self._client.retire()
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    def _headers(self, notification: Notification) -> list[Header]:
        """Make the headers; what differs from message to message is kept out of the compression's memory."""
        ttl = notification.ttl_seconds
        headers: list[Header] = [
            ("apns-topic", self.config.topic),
            ("apns-push-type", "alert"),
            ("apns-priority", "10" if notification.priority == "high" else "5"),
            NeverIndexedHeaderTuple("apns-expiration", str(int(self._clock()) + ttl) if ttl > 0 else "0"),
            NeverIndexedHeaderTuple("apns-id", str(UUID(notification.push_id))),
        ]
        if notification.collapse_key:
            headers.append(NeverIndexedHeaderTuple("apns-collapse-id", collapse_id(notification.collapse_key)))
        return headers

    async def _post(
        self, device: str, headers: list[Header], token: str, body: bytes, deadline: float
    ) -> tuple[Answer, str]:
        """Post, and give the answer with Apple's reason."""
        authorization = NeverIndexedHeaderTuple("authorization", f"bearer {token}")
        left = max(0.0, deadline - time.monotonic())
        try:
            response = await self._client.post(
                f"/3/device/{device}", [*headers, authorization], body, timeout_seconds=left
            )
        except NotSent as error:
            return Answer(Verdict.NOT_SENT, str(error)), ""
        except OutcomeUnknown as error:
            return Answer(Verdict.UNKNOWN, str(error)), ""
        return _read(response)


def collapse_id(key: str) -> str:
    """Give a collapse key as Apple takes it: as it is, or a hash of it when it is too long or not plain ASCII."""
    if len(key) <= COLLAPSE_LIMIT and re.fullmatch(r"[!-~]+", key):
        return key
    return hashlib.sha256(key.encode()).hexdigest()


def _read(response: Response) -> tuple[Answer, str]:
    """Read one answer of Apple's."""
    said: dict[str, Any] = {}
    if response.body:
        try:
            parsed = json.loads(response.body)
        except ValueError:
            parsed = None
        said = parsed if isinstance(parsed, dict) else {}
    status, reason = response.status, str(said.get("reason", ""))
    if not response.complete and not reason and status != 200:
        # An error, so it was not accepted; which one, the next try will tell.
        return Answer(Verdict.NOT_SENT, f"{status}, and then the connection was lost"), ""
    rule = meaning_of(status, "" if status == 200 else reason)
    floor, asked = rule.retry_after, response.headers.get("retry-after", "")
    if floor is not None and asked.isdecimal():
        floor = max(floor, float(asked))
    answer = Answer(
        rule.verdict,
        "" if rule.verdict is Verdict.ACCEPTED else _detail(status, reason, response.body),
        retry_after=floor,
        provider_id=response.headers.get("apns-id"),
        dead_since=_instant(said.get("timestamp")) if rule.verdict is Verdict.TOKEN_DEAD else None,
    )
    return answer, reason


def _detail(status: int, reason: str, body: bytes) -> str:
    """Word an answer for people; loudly where Apple documents no such thing."""
    if (status, reason) in ANSWERS:
        return f"{status} {reason}"
    return f"{status}, an answer that is not documented: {reason or body[:80].decode('utf-8', 'replace')!r}"


def _instant(milliseconds: Any) -> datetime | None:
    """Read the instant from which a token is known to be dead."""
    if not isinstance(milliseconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _payload(notification: Notification) -> dict[str, Any]:
    """Make the payload: Apple's part in `aps`, ours beside it."""
    alert = {"title": notification.title, "subtitle": notification.subtitle, "body": notification.body}
    aps: dict[str, Any] = {"alert": {name: text for name, text in alert.items() if text is not None}}
    if notification.badge is not None:
        aps["badge"] = notification.badge
    if notification.sound is not None:
        aps["sound"] = notification.sound
    ours: dict[str, Any] = dict(notification.data)
    if notification.link is not None:
        ours["link"] = notification.link
    if notification.image is not None:
        ours["image"] = notification.image
        aps["mutable-content"] = 1  # the application's service extension fetches the picture
    return _merged({**ours, "aps": aps}, notification.overrides.get(OVERRIDES, {}))


def _merged(made: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge deeply, as RFC 7396 does: a mapping into a mapping, null takes away, anything else replaces."""
    merged = dict(made)
    for name, value in overrides.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = _merged(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged


def _bytes_of(payload: Mapping[str, Any]) -> bytes:
    """Write a payload.

    Raises:
        PayloadTooLarge: It takes more than Apple takes.
    """
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > PAYLOAD_LIMIT:
        raise PayloadTooLarge(f"the message takes {len(body):,} bytes, and APNs takes {PAYLOAD_LIMIT:,}: shorten it")
    return body
