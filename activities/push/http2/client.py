"""The client: hands requests to connections, opens and replaces those, and keeps every request's deadline."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from hpack import NeverIndexedHeaderTuple

from activities.push.http2.connection import Connection
from activities.push.http2.exchange import Header, Http2Error, NotSent, Request, Response

CONNECT_SHARE: Final = 0.4
"""Share of a request's time in which a connection must stand: less than half, so that those who wait hear why not."""
LONGEST_PAUSE: Final = 5.0
"""Most seconds between attempts to connect while connections bring no answer."""
RETIRE_AFTER: Final = 60.0
"""Age from which a connection may be replaced on suspicion: servers punish fast reconnecting."""


class Http2Client:
    """Posts requests to one server. Belongs to the event loop that it is first used in.

    Args:
        base_url: `https://host` or `https://host:port`.
        context: TLS settings; ALPN is set here.
        connections: Most connections at once. A further one is opened only when those there are full.
        streams: Most requests in flight on one connection; the server may allow fewer.
        timeout_seconds: From the call to the end of a request. A request that is not written within the first half is
            not written at all, so that none goes out with hardly any time left for its answer.
        ping_seconds: How long a connection may be silent before it is asked for a sign of life, and then again before
            it is given up.
    """

    def __init__(
        self,
        base_url: str,
        context: ssl.SSLContext,
        *,
        connections: int = 1,
        streams: int = 100,
        timeout_seconds: float = 10.0,
        ping_seconds: float = 30.0,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "https" or not parts.hostname or parts.path not in {"", "/"} or parts.query:
            raise ValueError(f"{base_url!r} is no base address: write https://host or https://host:port")
        context.set_alpn_protocols(["h2"])
        self.host: Final = parts.hostname
        self.port: Final = parts.port or 443
        self.authority: Final = parts.netloc.rpartition("@")[2]
        self.streams = streams
        self.timeout_seconds: Final = timeout_seconds
        self.ping_seconds = ping_seconds
        self._context = context
        self._most = connections
        self._waiting: deque[Request] = deque()
        self._connections: set[Connection] = set()
        self._opening: asyncio.Task[None] | None = None
        self._woken = False
        self._closed = False
        self._barren = 0
        """Connections in a row that brought no answer: the next one is opened after a pause."""
        self._trouble = ""
        """Why the last attempt to connect failed."""

    async def post(
        self, path: str, headers: Sequence[Header], body: bytes, *, timeout_seconds: float | None = None
    ) -> Response:
        """Post once.

        Args:
            path: The path; it is not remembered by header compression, for it differs from request to request.
            headers: Further headers, names in lower case.
            body: The body.
            timeout_seconds: For this request; left out, the client's.

        Returns:
            The answer, whatever its status.

        Raises:
            NotSent: It was proven not to be processed: it may be sent again.
            OutcomeUnknown: It was written and no answer came.
        """
        if self._closed:
            raise NotSent("the client is closed")
        loop = asyncio.get_running_loop()
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        start = loop.time()
        request = Request(self._head(path, headers, body), body, start + seconds, loop.create_future())
        request.timer = loop.call_at(start + seconds / 2, self._expire, request)
        self._waiting.append(request)
        self.wake()
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._give_up(request, "cancelled")
            raise
        finally:
            request.timer.cancel()

    def retire(self, older_than: float = RETIRE_AFTER) -> None:
        """Use new connections from now on: what a server knows of the old ones may be stale.

        Args:
            older_than: Seconds; younger connections are kept.
        """
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            if now - connection.opened_at >= older_than:
                connection.drain()

    async def close(self) -> None:
        """Let go of all connections. What is still in flight ends as unknown."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        self._refuse("the client was closed")
        connections = list(self._connections)
        for connection in connections:
            connection.end()
        if connections:
            _, left = await asyncio.wait([connection.closed for connection in connections], timeout=2)
            for connection in connections:
                connection.abort()
            if left:
                await asyncio.wait(left, timeout=2)

    # What connections call.

    def wake(self) -> None:
        """Hand waiting requests out soon, all that came in this turn of the loop in one write."""
        if not self._woken and self._waiting:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def opened(self, connection: Connection) -> None:
        """Count a connection."""
        self._connections.add(connection)

    def answered(self) -> None:
        """Take note that connections are good for something."""
        self._barren = 0

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if not connection.answers:
            self._barren += 1
        self.wake()

    # Inside.

    def _head(self, path: str, headers: Sequence[Header], body: bytes) -> list[Header]:
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self.authority),
            NeverIndexedHeaderTuple(":path", path),
            *headers,
            ("content-length", str(len(body))),
        ]

    def _hand_out(self) -> None:
        """Write waiting requests where there is room, and open a connection where there is none."""
        self._woken = False
        touched = set()
        while self._waiting:
            roomy = max(self._connections, key=lambda each: each.room, default=None)
            if roomy is None or roomy.room <= 0:
                break
            request = self._waiting.popleft()
            if not request.answer.done():
                roomy.start(request)
                touched.add(roomy)
        for connection in touched:
            connection.flush()
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()
        usable = [each for each in self._connections if not each.draining]
        # Not while one there still has to prove itself: it will have room for many as soon as it has.
        wanted = len(usable) < self._most and all(each.proven for each in usable)
        if self._waiting and wanted and self._opening is None and not self._closed:
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        """Open a connection, or tell everybody who waits for one why there is none."""
        why = ""
        seconds = self.timeout_seconds * CONNECT_SHARE
        connection: Connection | None = None
        try:
            if self._barren:
                await asyncio.sleep(min(LONGEST_PAUSE, 0.05 * 2 ** min(self._barren, 10)))
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self),
                    self.host,
                    self.port,
                    ssl=self._context,
                    server_hostname=self.host,
                    ssl_shutdown_timeout=1,
                )
                await connection.ready
        except TimeoutError:
            why = f"no connection to {self.authority} within {seconds:g} s"
        except (OSError, Http2Error) as error:
            why = f"no connection to {self.authority}: {error}"
        finally:
            self._opening = None
            if connection is not None and (why or self._closed):
                connection.abort()
        self._trouble = why
        if why:
            if connection is None:
                self._barren += 1  # else it is counted when it ends
            if not any(not each.draining for each in self._connections if each is not connection):
                self._refuse(why)
        self.wake()

    def _refuse(self, why: str) -> None:
        """Tell all who wait that nothing was sent."""
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.lose(why)

    def _expire(self, request: Request) -> None:
        """Half of the time is over: too late to write; or all of it: too late for an answer."""
        loop = asyncio.get_running_loop()
        if request.written_at is not None and loop.time() < request.deadline:
            request.timer = loop.call_at(request.deadline, self._expire, request)
        elif request.written_at is None:
            self._give_up(request, self._trouble or "no connection had room for it in time")
        else:
            self._give_up(request, "no answer in time")
            if request.connection is not None:
                request.connection.suspect(request.written_at)

    def _give_up(self, request: Request, why: str) -> None:
        if request.connection is None:
            request.lose(why)
        else:
            request.connection.give_up(request, why)
