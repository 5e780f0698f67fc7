"""One connection: h2's state beside a transport, and the requests that are on their way over it."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

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
from h2.exceptions import H2Error

from activities.push.http2.exchange import LARGEST_ANSWER, NotSent, Request
from activities.push.http2.frames import Frames, PlainEncoder

LAST_STREAM: Final = 2**31 - 1_001
"""A connection is replaced shortly before its stream numbers run out."""


class Owner(Protocol):
    """What a connection asks of the client that opened it, and tells it."""

    streams: int
    """Most requests in flight on one connection."""
    ping_seconds: float
    """How long a connection may be silent before it is asked for a sign of life."""

    def wake(self) -> None:
        """There is room: hand out what waits."""

    def opened(self, connection: Connection) -> None:
        """It stands."""

    def answered(self) -> None:
        """An answer came."""

    def lost(self, connection: Connection) -> None:
        """It is over."""


class Connection(asyncio.Protocol):
    """One connection: h2's state beside a transport."""

    def __init__(self, client: Owner) -> None:
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
        self._h2.encoder = PlainEncoder()
        self._transport: asyncio.Transport | None = None
        self._requests: dict[int, Request] = {}
        self._unfed: dict[int, Request] = {}
        """Requests whose bodies wait for the server to open its window."""
        self._limit = 0
        self._paused = False
        self._frames = Frames()
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

    def start(self, request: Request) -> None:
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

    def give_up(self, request: Request, why: str) -> None:
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
            whole = self._frames.take(data)
            if whole:
                for event in self._h2.receive_data(whole):
                    self._react(event)
            while self._frames.farewells:  # after what came before them: an answer that is here counts
                self._go_away(self._frames.farewells.popleft())
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

    def _answered(self, request: Request) -> None:
        if request.written_at is None:
            self._cancel(request)  # it was answered before it was heard out
        else:
            self._forget(request)
        self.answers += 1
        self._client.answered()
        if request.status not in {401, 403} and request.status < 500:
            self.proven = True
        request.finish()

    def _feed(self, request: Request) -> None:
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

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.stream, None)
        self._unfed.pop(request.stream, None)

    def _cancel(self, request: Request) -> None:
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
