"""A browsers' push service on loopback: it verifies who sends (RFC 8292) and decrypts what they send (RFC 8291)."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import http_ece
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.http_peer import Behaviour, HttpPeer

LIMIT = 4_096
DAY = 86_400
URGENCIES = {"very-low", "low", "normal", "high"}


def encoded(found: bytes) -> str:
    """Write bytes as base64url, without padding."""
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Read base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def point(key: EllipticCurvePrivateKey) -> str:
    """Write a public key as browsers and VAPID do: its uncompressed point."""
    return encoded(key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def said(status: int, errno: int | None = None, **headers: str) -> Behaviour:
    """Make an error as autopush words it."""
    found = {"code": status, "errno": errno, "error": "Error", "message": "what happened"}
    return Behaviour(status, found, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Browser:
    """One subscription, with what only the browser knows."""

    key: EllipticCurvePrivateKey
    auth: bytes
    application_key: str | None


class WebPushPeer(HttpPeer):
    """The push service of some browsers."""

    accepted_status = 201

    def __init__(self) -> None:
        super().__init__()
        self.clock: Callable[[], float] = time.time
        self.browsers: dict[str, Browser] = {}
        self.plaintexts: list[bytes] = []
        self.signatures: list[str] = []
        """Distinct Authorization headers, in the order of their coming."""

    def subscribe(self, application_key: str | None = None, origin: str | None = None) -> str:
        """Subscribe a browser.

        Args:
            application_key: The only sender's public key; null for any sender that signs.
            origin: The service's origin as the browser knows it; left out, the peer's own.

        Returns:
            The subscription as the browser gives it to its site, JSON.
        """
        name = uuid4().hex
        found = Browser(generate_private_key(SECP256R1()), uuid4().bytes, application_key)
        self.browsers[name] = found
        keys = {"p256dh": point(found.key), "auth": encoded(found.auth)}
        return json.dumps({"endpoint": f"{origin or self.url}/push/{name}", "expirationTime": None, "keys": keys})

    def routes(self, application: web.Application) -> None:
        application.router.add_post("/push/{name}", self._push)

    async def _push(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        found = await self.note(request)
        if name not in self.browsers:
            return self._refuse(said(404, 102))
        wrong = self.judge(request, self.browsers[name], found.body)
        if isinstance(wrong, Behaviour):
            return self._refuse(wrong)
        self.plaintexts.append(wrong)
        try:
            push_id = json.loads(wrong)["data"]["push_id"]
        except (ValueError, KeyError, TypeError):
            push_id = name
        headers = {"Location": f"{self.url}/message/{len(self.received)}", "TTL": request.headers["TTL"]}
        return await self.carry_out(request, name, push_id, {}, headers)

    def judge(self, request: web.Request, browser: Browser, body: bytes) -> Behaviour | bytes:
        """Find what is wrong with a request, or decrypt it."""
        headers = request.headers
        refusal = self._sender(headers.get("Authorization", ""), browser, f"https://{headers['Host']}")
        if refusal is not None:
            return refusal
        if "TTL" not in headers:
            return said(400, 111)
        if not re.fullmatch(r"\d{1,7}", headers["TTL"]) or int(headers["TTL"]) > 2_592_000:
            return said(400, 112)
        if not re.fullmatch(r"[A-Za-z0-9]{1,32}", headers.get("Topic", "x")):
            return said(400, 113)
        if headers.get("Urgency", "normal") not in URGENCIES:
            return Behaviour(400, b"bad urgency")
        if len(body) > LIMIT:
            return said(413, 104)
        if headers.get("Content-Encoding") != "aes128gcm":
            return said(400, 101)
        try:
            plain: bytes = http_ece.decrypt(
                body, private_key=browser.key, auth_secret=browser.auth, version="aes128gcm"
            )
        except Exception:  # of whatever kind: what cannot be decrypted is refused
            return said(400, 110)
        return plain

    def _sender(self, authorization: str, browser: Browser, origin: str) -> Behaviour | None:
        """Verify the sender's signature: its key, whom it is for, how long it is good."""
        parts = re.fullmatch(r"vapid\s+t=([\w.-]+),\s*k=([\w-]+)", authorization)
        if parts is None:
            return said(401, 109)
        if authorization not in self.signatures:
            self.signatures.append(authorization)
        token, key = parts.groups()
        try:
            public = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), decoded(key))
            options: Any = {"require": ["aud", "exp", "sub"], "verify_exp": False}
            claims = jwt.decode(token, public, algorithms=["ES256"], audience=origin, options=options)
        except (jwt.PyJWTError, ValueError):
            return Behaviour(403, b"UnauthorizedRegistration")
        left = claims["exp"] - self.clock()
        if not 0 < left <= DAY or urlsplit(claims["sub"]).scheme not in ("mailto", "https"):
            return Behaviour(403, {"reason": "BadJwtToken"})
        if browser.application_key not in (None, key):
            return Behaviour(403, b"the key in the authorization header does not correspond to the subscription")
        return None

    @staticmethod
    def _refuse(found: Behaviour) -> web.Response:
        return web.Response(status=found.status, body=found.content(), headers=found.headers)
