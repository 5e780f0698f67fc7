"""An operator's own receiver on loopback, written from what the webhook documents; and Pushwoosh's message API."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.http_peer import HttpPeer

OLDEST = 300


class WebhookPeer(HttpPeer):
    """A receiver that checks signatures.

    Args:
        secret: What posts are signed with.
    """

    def __init__(self, secret: str) -> None:
        super().__init__()
        self.secret = secret
        self.clock: Callable[[], float] = time.time

    def routes(self, application: web.Application) -> None:
        application.router.add_post("/push", self._push)

    async def _push(self, request: web.Request) -> web.StreamResponse:
        found = await self.note(request)
        timestamp = request.headers["Push-Timestamp"]
        over = f"{timestamp}.".encode() + found.body
        wanted = "sha256=" + hmac.new(self.secret.encode(), over, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(request.headers["Push-Signature"], wanted):
            return web.Response(status=401, text="bad signature")
        if abs(self.clock() - int(timestamp)) > OLDEST:
            return web.Response(status=401, text="too old")
        message = json.loads(found.body)
        assert request.headers["Idempotency-Key"] == message["push_id"]
        return await self.carry_out(request, message["token"], message["push_id"], {})


class PushwooshPeer(HttpPeer):
    """Pushwoosh's `createMessage`, which answers HTTP 200 whatever happens.

    Args:
        application: The application's code.
        token: The access token.
    """

    def __init__(self, application: str, token: str) -> None:
        super().__init__()
        self.application, self.token = application, token

    def routes(self, application: web.Application) -> None:
        application.router.add_post("/json/1.3/createMessage", self._create)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        found = await self.note(request)
        asked = json.loads(found.body)["request"]
        problem = self.judge(asked)
        if problem is not None:
            return web.json_response({"status_code": 210, "status_message": problem, "response": None})
        message = asked["notifications"][0]
        said = {"status_code": 200, "status_message": "OK", "response": {"Messages": ["C3F8-C3863ED4-334AD4F1"]}}
        return await self.carry_out(request, message["devices"][0], message["transactionId"], said)

    def judge(self, asked: dict[str, Any]) -> str | None:
        """Find what is wrong with a request, in Pushwoosh's words."""
        if asked.get("auth") != self.token:
            return "Account not found"
        if asked.get("application") != self.application:
            return "Application not found"
        if not asked.get("notifications"):
            return "No notifications"
        message = asked["notifications"][0]
        if message.get("send_date") != "now":
            return "Cannot parse date"
        if not isinstance(message.get("data", {}), dict):
            return "data must be key-value object"
        return None
