"""The bare client libraries that `scripts.bench_push` sets beside our adapters: they send, and know nothing more.

Each makes the body and the headers that its provider needs, posts, and looks at the status. None of them tells what was
processed from what was not, has a deadline of its own, survives a GOAWAY, or reads why it was refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import jwt
from google.oauth2.service_account import Credentials
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived, StreamEnded
from py_vapid import Vapid02  # type: ignore[import-untyped]
from pywebpush import webpush_async  # type: ignore[import-untyped]

from activities.push.access_tokens import AccessTokens
from activities.push.fcm import SCOPE
from activities.push.provider import Notification, Target

Send = Callable[[Notification, Target], Awaitable[bool]]
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def _session(ca_file: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=100, ssl=ssl.create_default_context(cafile=ca_file))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def _texts(notification: Notification) -> dict[str, str]:
    return {"title": notification.title, "body": notification.body}


@asynccontextmanager
async def bare_fcm(access: dict[str, Any], ca_file: str) -> AsyncIterator[Send]:
    """FCM by aiohttp."""
    account = json.loads(access["credentials"])
    credentials = Credentials.from_service_account_info(account, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    token = await AccessTokens(credentials, ssl.create_default_context(cafile=ca_file), time.time).current()
    url = f"{access['base_url']}/v1/projects/{account['project_id']}/messages:send"
    headers = {"Authorization": f"Bearer {token}", **JSON}
    async with _session(ca_file) as session:

        async def send(notification: Notification, target: Target) -> bool:
            said = {"token": target.token, "notification": _texts(notification), "data": dict(notification.data)}
            async with session.post(url, data=json.dumps({"message": said}).encode(), headers=headers) as response:
                return response.status == 200 and "name" in await response.json()

        yield send


@asynccontextmanager
async def bare_webhook(access: dict[str, Any], ca_file: str) -> AsyncIterator[Send]:
    """The webhook by aiohttp, signed."""
    secret = access["secret"].encode()
    async with _session(ca_file) as session:

        async def send(notification: Notification, target: Target) -> bool:
            said = {"push_id": notification.push_id, "token": target.token, **_texts(notification)}
            body, now = json.dumps(said).encode(), str(int(time.time()))
            signed = hmac.new(secret, now.encode() + b"." + body, hashlib.sha256).hexdigest()
            headers = {
                **JSON,
                "Idempotency-Key": notification.push_id,
                "Push-Timestamp": now,
                "Push-Signature": f"sha256={signed}",
            }
            async with session.post(access["url"], data=body, headers=headers) as response:
                await response.read()
                return response.status == 200

        yield send


@asynccontextmanager
async def bare_webpush(access: dict[str, Any], ca_file: str) -> AsyncIterator[Send]:
    """Web Push by pywebpush on one session of aiohttp."""
    vapid = Vapid02.from_pem(access["key"].encode())
    async with _session(ca_file) as session:

        async def send(notification: Notification, target: Target) -> bool:
            response = await webpush_async(
                json.loads(target.token),
                json.dumps({**_texts(notification), "data": dict(notification.data)}),
                vapid_private_key=vapid,
                vapid_claims={"sub": "mailto:push@example.com"},
                ttl=60,
                timeout=cast(Any, aiohttp.ClientTimeout(total=15)),
                aiohttp_session=session,
            )
            return bool(response.status == 201)

        yield send


class _BareH2(asyncio.Protocol):
    """h2 on a transport, one connection."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: dict[int, asyncio.Future[bool]] = {}
        self.statuses: dict[int, bool] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case ResponseReceived(stream_id=stream, headers=headers):
                    self.statuses[stream or 0] = dict(headers or ())[b":status"] == b"200"
                case DataReceived(stream_id=stream, flow_controlled_length=length):
                    self.h2.acknowledge_received_data(length or 0, stream or 0)
                case StreamEnded(stream_id=stream):
                    self.answers.pop(stream or 0).set_result(self.statuses.pop(stream or 0))
                case RemoteSettingsChanged() if not self.ready.done():
                    self.ready.set_result(None)
                case _:
                    pass
        self.transport.write(self.h2.data_to_send())

    def post(self, headers: list[tuple[str, str]], body: bytes) -> asyncio.Future[bool]:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers)
        self.h2.send_data(stream, body, end_stream=True)
        self.transport.write(self.h2.data_to_send())
        self.answers[stream] = answer = asyncio.get_running_loop().create_future()
        return answer


@asynccontextmanager
async def bare_apns(access: dict[str, Any], ca_file: str) -> AsyncIterator[Send]:
    """APNs by h2."""
    claims, head = {"iss": access["team_id"], "iat": int(time.time())}, {"kid": access["key_id"]}
    token = jwt.encode(claims, access["key"], algorithm="ES256", headers=head)
    parts = urlsplit(access["base_url"])
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    transport, connection = await loop.create_connection(_BareH2, parts.hostname, parts.port, ssl=context)
    await connection.ready

    async def send(notification: Notification, target: Target) -> bool:
        said = {"aps": {"alert": _texts(notification)}, **notification.data}
        headers = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", parts.netloc),
            (":path", f"/3/device/{target.token}"),
            ("authorization", f"bearer {token}"),
            ("apns-topic", access["topic"]),
            ("apns-push-type", "alert"),
            ("apns-id", notification.push_id),
        ]
        return await connection.post(headers, json.dumps(said).encode())

    try:
        yield send
    finally:
        transport.close()
