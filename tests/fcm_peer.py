"""FCM on loopback: exchanges a signed assertion for an access token that ends, and checks messages as Google does."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from aiohttp import web

from tests.http_peer import Behaviour, HttpPeer

AUDIENCE = "https://oauth2.googleapis.com/token"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPES = {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
LIMIT = 4_096

STRINGS: dict[str, Any] = {"title": str, "body": str, "image": str}
FIELDS: dict[str, Any] = {
    "token": str,
    "fid": str,
    "data": {"*": str},
    "notification": STRINGS,
    "android": {
        "collapse_key": str,
        "priority": ("HIGH", "NORMAL", "high", "normal"),
        "ttl": re.compile(r"\d+(\.\d{1,9})?s"),
        "restricted_package_name": str,
        "data": {"*": str},
        "direct_boot_ok": bool,
        "notification": {
            **STRINGS,
            **{"icon": str, "color": str, "sound": str, "tag": str, "click_action": str, "channel_id": str},
            **{"ticker": str, "sticky": bool, "notification_count": int, "link": str},
        },
    },
    "apns": {"headers": {"*": str}, "payload": dict, "fcm_options": {"analytics_label": str, "image": str}},
    "webpush": {
        "headers": {"*": str},
        "data": {"*": str},
        "notification": dict,
        "fcm_options": {"link": re.compile("https://.+"), "analytics_label": str},
    },
    "fcm_options": {"analytics_label": str},
}
"""The fields of a message that this project and its foreign client use, as the reference lists them."""


def error(
    status: int, word: str, message: str, code: str | None = None, fields: Mapping[str, str] | None = None
) -> Behaviour:
    """Make an error as Google words it.

    Args:
        status: The HTTP status.
        word: The canonical status.
        message: For people.
        code: FCM's own code, as a detail of type FcmError.
        fields: Fields that are wrong, with why, as a detail of type BadRequest.
    """
    details: list[dict[str, Any]] = []
    if code is not None:
        details.append({"@type": FCM_ERROR, "errorCode": code})
    if fields is not None:
        violations = [{"field": name, "description": why} for name, why in fields.items()]
        details.append({"@type": BAD_REQUEST, "fieldViolations": violations})
    said: dict[str, Any] = {"code": status, "message": message, "status": word}
    return Behaviour(status, {"error": {**said, "details": details} if details else said})


def violations_of(found: Any, fields: Any, path: str) -> dict[str, str]:
    """List what is wrong with a value: names that there are not, and values of the wrong kind."""
    if isinstance(fields, dict):
        if not isinstance(found, dict):
            return {path: "not an object"}
        wrong: dict[str, str] = {}
        for name, value in found.items():
            kind = fields.get(name, fields.get("*"))
            below = f"{path}.{name}"
            wrong |= {below: f'Unknown name "{name}"'} if kind is None else violations_of(value, kind, below)
        return wrong
    if isinstance(fields, tuple):
        return {} if found in fields else {path: f"Invalid value {found!r}"}
    if isinstance(fields, re.Pattern):
        return {} if isinstance(found, str) and fields.fullmatch(found) else {path: f"Invalid value {found!r}"}
    return {} if type(found) is fields else {path: f"Invalid value {found!r}"}


class FcmPeer(HttpPeer):
    """FCM and Google's token server in one.

    Args:
        public_key: Of the service account, PEM.
        email: The service account.
        project: The project's id.
    """

    def __init__(self, public_key: bytes, email: str, project: str) -> None:
        super().__init__()
        self.public_key, self.email, self.project = public_key, email, project
        self.clock: Callable[[], float] = time.time
        self.token_seconds = 3_600
        self.token_delay = 0.0
        self.token_failure: Behaviour | None = None
        """What the token server answers instead of a token."""
        self.token_requests = 0
        self.tokens: dict[str, float] = {}
        """Tokens that are good, with when they end."""

    @property
    def token_uri(self) -> str:
        return f"{self.url}/token"

    def routes(self, application: web.Application) -> None:
        application.router.add_post("/token", self._token)
        application.router.add_post("/v1/projects/{project}/messages:send", self._send)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        self.token_requests += 1
        await asyncio.sleep(self.token_delay)
        if self.token_failure is not None:
            failure = self.token_failure
            headers = {"Content-Type": "application/json"}
            return web.Response(status=failure.status, body=failure.content(), headers=headers)
        form = await request.post()
        try:
            assert form["grant_type"] == GRANT
            claims = jwt.decode(
                str(form["assertion"]),
                self.public_key,
                algorithms=["RS256"],
                audience=AUDIENCE,
                issuer=self.email,
                options={"require": ["iat", "exp", "iss", "aud"]},
            )
            assert claims["exp"] - claims["iat"] <= 3_600
            assert SCOPES & set(claims["scope"].split())
        except (jwt.PyJWTError, AssertionError, KeyError) as error:
            return web.json_response({"error": "invalid_grant", "error_description": repr(error)}, status=400)
        token = f"ya29.{self.token_requests}"
        self.tokens[token] = self.clock() + self.token_seconds
        return web.json_response({"access_token": token, "expires_in": self.token_seconds, "token_type": "Bearer"})

    async def _send(self, request: web.Request) -> web.StreamResponse:
        found = await self.note(request)
        scheme, _, token = found.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or self.tokens.get(token, 0) <= self.clock():
            return self._refuse(
                error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials. Expected OAuth 2")
            )
        if request.match_info["project"] != self.project:
            return self._refuse(error(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied"))
        try:
            said = json.loads(found.body)
        except ValueError:
            return self._refuse(error(400, "INVALID_ARGUMENT", "Invalid JSON payload received."))
        wrong = self.judge(said)
        if wrong is not None:
            return self._refuse(wrong)
        message = said["message"]
        address = message.get("token") or message.get("fid")
        push_id = message.get("data", {}).get("push_id", address)
        name = f"projects/{self.project}/messages/{len(self.received)}"
        return await self.carry_out(request, address, push_id, {"name": name})

    def judge(self, said: Any) -> Behaviour | None:
        """Find what is wrong with a request, in Google's words."""
        fields = {"message": FIELDS, "validate_only": bool}
        wrong = violations_of(said, fields, "")
        if wrong:
            named = {name.lstrip("."): why for name, why in wrong.items()}
            return error(400, "INVALID_ARGUMENT", "Invalid JSON payload received.", fields=named)
        message = said.get("message", {})
        if len([name for name in ("token", "fid") if message.get(name)]) != 1:
            return error(400, "INVALID_ARGUMENT", "Recipient of the message is not set.", "INVALID_ARGUMENT")
        for name in message.get("data", {}):
            if name in ("from", "message_type") or name.startswith(("google.", "gcm.")):
                fields_wrong = {"message.data": f"Invalid data payload key: {name}"}
                return error(400, "INVALID_ARGUMENT", "Invalid data key.", "INVALID_ARGUMENT", fields_wrong)
        rest = {name: value for name, value in message.items() if name not in ("token", "fid")}
        if len(json.dumps(rest, ensure_ascii=False, separators=(",", ":")).encode()) > LIMIT:
            return error(400, "INVALID_ARGUMENT", "Message is too big.", "INVALID_ARGUMENT")
        return None

    @staticmethod
    def _refuse(found: Behaviour) -> web.Response:
        headers = {"Content-Type": "application/json", **found.headers}
        return web.Response(status=found.status, body=found.content(), headers=headers)
