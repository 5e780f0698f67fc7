"""What the HTTP peers on loopback share: TLS, instructions for what comes next, counts, and the faults of networks."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

Act = Literal["answer", "swallow", "accept and swallow", "accept and cut", "cut", "status and cut"]


@dataclass(frozen=True)
class Behaviour:
    """What a peer does with a request that is in order.

    Attributes:
        status: The status it answers; what is below 300 is accepted, and counted as delivered.
        body: The body: JSON, or bytes as they are; null for what the peer would say.
        headers: Further headers of the answer.
        act: Something other than answering.
        delay: Seconds before doing so.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    act: Act = "answer"
    delay: float = 0.0

    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Received:
    """One request as it came, and what it was found to say."""

    path: str
    headers: dict[str, str]
    body: bytes
    said: Any


class HttpPeer:
    """A server's memory and its instructions; `serving` runs it. Its subclass judges requests."""

    accepted_status = 200

    def __init__(self) -> None:
        self.default = Behaviour(self.accepted_status)
        self.next: deque[Behaviour] = deque()
        """What to do with the next requests that are in order, one each."""
        self.by_address: dict[str, Behaviour] = {}
        """What to do with those to one device."""
        self.deliveries: Counter[str] = Counter()
        """How often each push was accepted: more than 1 is a duplicate on somebody's phone."""
        self.received: list[Received] = []
        """Each request, in order or not."""
        self.port = 0
        self._closing = asyncio.Event()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def duplicates(self) -> int:
        return sum(count - 1 for count in self.deliveries.values())

    def routes(self, application: web.Application) -> None:
        """Say what is served."""
        raise NotImplementedError

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None) -> AsyncIterator[Self]:
        """Listen on a free port, or on the port that it had before."""
        self._closing = asyncio.Event()
        application = web.Application(client_max_size=1_000_000)
        self.routes(application)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self._closing.set()
            await runner.cleanup()

    async def note(self, request: web.Request, said: Any = None) -> Received:
        """Remember a request."""
        body = await request.read()
        found = Received(request.path, dict(request.headers), body, said)
        self.received.append(found)
        return found

    async def carry_out(
        self, request: web.Request, address: str, push_id: str, accepted: Any, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """Do what was instructed with a request that is in order.

        Args:
            request: The request.
            address: The device.
            push_id: What is counted.
            accepted: The body of the usual answer.
            headers: Its headers.
        """
        found = self.next.popleft() if self.next else self.by_address.get(address, self.default)
        if found.delay:
            await asyncio.sleep(found.delay)
        if found.act.startswith("accept") or (found.act == "answer" and found.status < 300):
            self.deliveries[push_id] += 1
        if found.act.endswith("swallow"):
            await self._closing.wait()
        if found.act in ("cut", "accept and cut", "swallow", "accept and swallow"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if found.act == "status and cut":
            response = web.StreamResponse(status=found.status, headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(found.content() or b"{")
            assert request.transport is not None
            request.transport.close()
            return response
        if found.body is None and found.status < 300:
            return web.json_response(accepted, status=found.status, headers={**(headers or {}), **found.headers})
        return web.Response(
            status=found.status, body=found.content(), headers={"Content-Type": "application/json", **found.headers}
        )
