"""A small HTTP/2 client over TLS: posts a request once and says what is known about it.

The clients that exist either send again by themselves or cannot tell what was processed from what was not; a push must
know. So there are three ends, and nothing is ever sent twice:

```
Response          the server answered
NotSent           proven: the server did not process it       connect failed, refused, above a GOAWAY, never written
OutcomeUnknown    it was written whole and no answer came     connection lost, deadline, reset
```

The protocol itself is h2's. One thing is taken from it: h2 closes a connection when it reads GOAWAY and then rejects
the answers of streams that are still in flight, so those frames are cut out before it sees them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

Header = HeaderTuple | tuple[str, str]
"""A request header, its name in lower case; a `NeverIndexedHeaderTuple` for what is secret or never comes again."""

FRAME_HEAD: Final = 9
GOAWAY: Final = 7
LARGEST_FRAME: Final = 16_384
"""What we take; the protocol's default, which we do not change (RFC 9113, 6.5.2)."""
LARGEST_ANSWER: Final = 65_536
"""Most bytes of an answer that are kept; the rest is read and dropped."""
LAST_STREAM: Final = 2**31 - 1_001
"""A connection is replaced shortly before its stream numbers run out."""
CONNECT_SHARE: Final = 0.4
"""Share of a request's time in which a connection must stand: less than half, so that those who wait hear why not."""
LONGEST_PAUSE: Final = 5.0
"""Most seconds between attempts to connect while connections bring no answer."""
RETIRE_AFTER: Final = 60.0
"""Age from which a connection may be replaced on suspicion: servers punish fast reconnecting."""


class Http2Error(Exception):
    """A request has no answer."""


class NotSent(Http2Error):
    """It is proven that the server did not process the request."""


class OutcomeUnknown(Http2Error):
    """The request was written and no answer came: the server may have processed it."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        status: The HTTP status.
        headers: By name in lower case; the last of repeated ones.
        body: At most `LARGEST_ANSWER` bytes.
        complete: Whether the answer came whole; else the connection was lost in the middle of its body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True


@dataclass(eq=False, slots=True)
class _Request:
    """One request on its way."""

    headers: Sequence[Header]
    body: bytes
    deadline: float
    answer: asyncio.Future[Response]
    timer: asyncio.TimerHandle | None = None
    connection: _Connection | None = None
    stream: int = 0
    fed: int = 0
    """Bytes of the body that were written."""
    written_at: float | None = None
    """When the last byte was written; until then the server has no whole request to process."""
    status: int = 0
    received_headers: Mapping[str, str] = field(default_factory=dict)
    received: bytearray = field(default_factory=bytearray)

    def finish(self, *, complete: bool = True) -> None:
        """Hand the answer over."""
        if not self.answer.done():
            response = Response(self.status, self.received_headers, bytes(self.received), complete)
            self.answer.set_result(response)

    def lose(self, why: str, *, unprocessed: bool = False) -> None:
        """End without a whole answer."""
        if self.answer.done():
            return
        if self.status:
            self.finish(complete=False)
        elif unprocessed or self.written_at is None:
            self.answer.set_exception(NotSent(why))
        else:
            self.answer.set_exception(OutcomeUnknown(why))


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
        self.streams: Final = streams
        self.timeout_seconds: Final = timeout_seconds
        self.ping_seconds: Final = ping_seconds
        self._context = context
        self._most = connections
        self._waiting: deque[_Request] = deque()
        self._connections: set[_Connection] = set()
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
        request = _Request(self._head(path, headers, body), body, start + seconds, loop.create_future())
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

    def opened(self, connection: _Connection) -> None:
        """Count a connection."""
        self._connections.add(connection)

    def answered(self) -> None:
        """Take note that connections are good for something."""
        self._barren = 0

    def lost(self, connection: _Connection) -> None:
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
        connection: _Connection | None = None
        try:
            if self._barren:
                await asyncio.sleep(min(LONGEST_PAUSE, 0.05 * 2 ** min(self._barren, 10)))
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self),
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

    def _expire(self, request: _Request) -> None:
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

    def _give_up(self, request: _Request, why: str) -> None:
        if request.connection is None:
            request.lose(why)
        else:
            request.connection.give_up(request, why)


class _PlainEncoder(Encoder):
    """Header compression without Huffman's code: a fifth of a token's bytes cost a fifth of a message's time."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        """Encode as it is."""
        return super().encode(headers, huffman)


class _Connection(asyncio.Protocol):
    """One connection: h2's state beside a transport."""

    def __init__(self, client: Http2Client) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the server has said how many streams it allows."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self.opened_at = loop.time()
        self.proven = False
        """Whether the server answered anything but a refusal of our credentials: until then, one stream at a time."""
        self.draining = False
        self.answers = 0
        self._client = client
        self._loop = loop
        self._h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                # Every header is ours, lower-case and in order: checking them again cost a tenth of a message.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.encoder = _PlainEncoder()
        self._transport: asyncio.Transport | None = None
        self._requests: dict[int, _Request] = {}
        self._unfed: dict[int, _Request] = {}
        """Requests whose bodies wait for the server to open its window."""
        self._limit = 0
        self._paused = False
        self._tail = b""
        """The frame that has come in part."""
        self._farewells: list[bytes] = []
        """GOAWAY frames that were cut out."""
        self._heard = loop.time()
        self._pinged_at = self._heard
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._reason = ""

    @property
    def room(self) -> int:
        """How many more requests may be written now."""
        if self.draining or self._paused or self._unfed or not self._limit:
            return 0
        return (self._limit if self.proven else 1) - len(self._requests)

    def start(self, request: _Request) -> None:
        """Write a request, as far as the server's windows allow."""
        try:
            request.stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(request.stream, request.headers)
            request.connection = self
            self._requests[request.stream] = request
            self._feed(request)
        except H2Error as error:
            self._forget(request)
            request.lose(f"cannot be written: {error}")
            self._broken(f"{error}")
            return
        if request.stream >= LAST_STREAM:
            self.drain()

    def flush(self) -> None:
        """Hand what h2 has to say to the transport."""
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def give_up(self, request: _Request, why: str) -> None:
        """Stop waiting for an answer."""
        request.lose(why)
        if self._requests.get(request.stream) is not request:
            return
        self._cancel(request)
        self._idle()
        self._client.wake()

    def suspect(self, since: float) -> None:
        """Entrust nothing more to this connection if nothing at all came since then: perhaps nobody is there."""
        if self._heard < since:
            self.drain()
            self._client.wake()

    def drain(self) -> None:
        """Write nothing more, read what is still to come, and end."""
        self.draining = True
        self._idle()

    def end(self) -> None:
        """Say good-bye and close."""
        self.draining = True
        if self._ended or self._transport is None:
            return
        self._ended = True
        try:
            self._h2.close_connection()
            self.flush()
        except H2Error:
            pass  # it is over for h2 already
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.draining = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to speak."""
        self._transport = cast(asyncio.Transport, transport)
        self._timer = self._loop.call_later(self._client.ping_seconds, self._check)
        self._client.opened(self)
        spoken = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if spoken != "h2":
            self._broken("the server does not speak HTTP/2")
            return
        self._h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        self._heard = self._loop.time()
        if self._ended:
            return
        try:
            whole = self._take_frames(data)
            if whole:
                for event in self._h2.receive_data(whole):
                    self._react(event)
            while self._farewells:  # after what came before them: an answer that is here counts
                self._go_away(self._farewells.pop(0))
        except H2Error as error:
            self._broken(f"the server breaks the protocol: {error}")
            return
        self.flush()
        self._idle()
        self._client.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every request that is still in flight."""
        if self._timer is not None:
            self._timer.cancel()
        self.draining = self._ended = True
        why = "the connection was lost" + (f": {self._reason or exc}" if self._reason or exc else "")
        if not self.ready.done():
            self.ready.set_exception(NotSent(why))
            self.ready.exception()  # nobody may be waiting any more
        for request in self._requests.values():
            request.lose(why)
        self._requests.clear()
        self._unfed.clear()
        self._client.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The transport holds enough that is not sent yet."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._paused = False
        self._client.wake()

    # Inside.

    def _take_frames(self, data: bytes) -> bytes:
        """Cut GOAWAY frames out, and keep a frame that has come in part for later."""
        buffer = self._tail + data if self._tail else data
        kept: list[bytes] = []
        begin = at = 0
        while len(buffer) - at >= FRAME_HEAD:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if size > LARGEST_FRAME:
                raise ProtocolError(f"a frame of {size} bytes")
            end = at + FRAME_HEAD + size
            if end > len(buffer):
                break
            if buffer[at + 3] == GOAWAY:
                kept.append(buffer[begin:at])
                begin = end
                self._farewells.append(buffer[at + FRAME_HEAD : end])
            at = end
        self._tail = buffer[at:]
        if not kept:
            return buffer[:at]
        return b"".join([*kept, buffer[begin:at]])

    def _go_away(self, frame: bytes) -> None:
        """The server takes no more: what is above its last stream was not processed, the rest is still answered."""
        last = int.from_bytes(frame[:4], "big") & 0x7FFF_FFFF
        code = _name_of(int.from_bytes(frame[4:8], "big"))
        word = frame[8:208].decode("utf-8", "replace")
        self._reason = f"GOAWAY {code} {word}".strip()
        self.draining = True
        for request in [each for stream, each in self._requests.items() if stream > last]:
            self._forget(request)
            request.lose(self._reason, unprocessed=True)

    def _react(self, event: Event) -> None:  # noqa: C901  one case for each thing that a server may say
        match event:
            case DataReceived(stream_id=stream, data=data, flow_controlled_length=length):
                self._h2.acknowledge_received_data(length or 0, stream or 0)
                request = self._requests.get(stream or 0)
                if request is not None and data and len(request.received) < LARGEST_ANSWER:
                    request.received += data[: LARGEST_ANSWER - len(request.received)]
            case ResponseReceived(stream_id=stream, headers=headers):
                request = self._requests.get(stream or 0)
                if request is not None:
                    read = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers or ()}
                    request.status = int(read[":status"]) if read[":status"].isdigit() else 0
                    request.received_headers = read
            case StreamEnded(stream_id=stream):
                request = self._requests.get(stream or 0)
                if request is not None:
                    self._answered(request)
            case StreamReset(stream_id=stream, error_code=code):
                request = self._requests.get(stream or 0)
                if request is not None:
                    self._forget(request)
                    refused = code == ErrorCodes.REFUSED_STREAM
                    request.lose(f"the server reset the stream: {_name_of(code or 0)}", unprocessed=refused)
            case RemoteSettingsChanged():
                self._limit = min(self._client.streams, self._h2.remote_settings.max_concurrent_streams)
                if not self.ready.done():
                    self.ready.set_result(None)
                self._feed_all()
            case WindowUpdated():
                self._feed_all()
            case _:
                pass  # acknowledgements, trailers, news that ask for nothing

    def _answered(self, request: _Request) -> None:
        if request.written_at is None:
            self._cancel(request)  # it was answered before it was heard out
        else:
            self._forget(request)
        self.answers += 1
        self._client.answered()
        if request.status not in {401, 403} and request.status < 500:
            self.proven = True
        request.finish()

    def _feed(self, request: _Request) -> None:
        """Write as much of a body as the server's windows allow."""
        stream, body = request.stream, request.body
        while request.written_at is None:
            window = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if window <= 0 and request.fed < len(body):
                self._unfed[stream] = request
                return
            part = body[request.fed : request.fed + window]
            request.fed += len(part)
            last = request.fed == len(body)
            self._h2.send_data(stream, part, end_stream=last)
            if last:
                request.written_at = self._loop.time()
        self._unfed.pop(stream, None)

    def _feed_all(self) -> None:
        for request in list(self._unfed.values()):
            self._feed(request)

    def _forget(self, request: _Request) -> None:
        self._requests.pop(request.stream, None)
        self._unfed.pop(request.stream, None)

    def _cancel(self, request: _Request) -> None:
        self._forget(request)
        try:
            self._h2.reset_stream(request.stream, ErrorCodes.CANCEL)
        except H2Error:
            return  # the stream or the connection is over for h2 already
        self.flush()

    def _idle(self) -> None:
        """End when nothing is to come any more."""
        if self.draining and not self._requests:
            self.end()

    def _broken(self, why: str) -> None:
        self._reason = why
        if not self._ended:
            self.flush()
        self.abort()

    def _check(self) -> None:
        """Ask a silent server for a sign of life; give up one that gives none."""
        seconds = self._client.ping_seconds
        self._timer = self._loop.call_later(seconds, self._check)
        if self._ended:
            return
        if self._heard < self._pinged_at:
            self._broken(f"no answer to PING within {seconds:g} s")
        elif self._loop.time() - self._heard >= seconds:
            self._pinged_at = self._loop.time()
            self._h2.ping(b"alive???")
            self.flush()


def _name_of(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error {code}"
