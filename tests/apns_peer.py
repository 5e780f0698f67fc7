"""An APNs server on loopback: TLS, HTTP/2, a verified provider token, and every fault the real one is known for."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import jwt
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, PingReceived, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

TOKEN_SECONDS = 3_600
PUSH_TYPES = {"alert", "background", "location", "voip", "complication", "fileprovider", "mdm", "liveactivity"}

Act = Literal["answer", "swallow", "accept and swallow", "accept and cut", "cut", "refuse", "reset", "status and cut"]


@dataclass(frozen=True)
class Behaviour:
    """What the peer does with a request that is in order.

    Attributes:
        status: The status it answers.
        reason: The reason it gives, where the status is an error.
        timestamp: Milliseconds, as a 410 has them.
        act: Something other than answering.
        delay: Seconds before doing so.
        headers: Further headers of the answer.
        body: The body, in place of the JSON that Apple would send.
    """

    status: int = 200
    reason: str = ""
    timestamp: int | None = None
    act: Act = "answer"
    delay: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def content(self) -> bytes:
        """Give the body of the answer."""
        if self.body is not None:
            return self.body
        said: dict[str, Any] = {"reason": self.reason} if self.reason else {}
        if self.timestamp is not None:
            said["timestamp"] = self.timestamp
        return json.dumps(said).encode() if said else b""


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    device: str
    headers: dict[str, str]
    body: bytes
    provider_token: str
    answered: Behaviour

    @property
    def payload(self) -> Any:
        return json.loads(self.body)


class ApnsPeer:
    """The server's memory and its instructions; `serving` runs it.

    Args:
        public_key: Of the key that signs provider tokens, PEM.
        key_id: The key's id.
        team_id: The team's id.
        topics: Bundle ids of the team.
    """

    def __init__(self, public_key: bytes, key_id: str, team_id: str, topics: set[str]) -> None:
        self.public_key, self.key_id, self.team_id, self.topics = public_key, key_id, team_id, topics
        self.clock: Callable[[], float] = time.time
        self.default = Behaviour()
        self.by_device: dict[str, Behaviour] = {}
        self.next: deque[Behaviour] = deque()
        """What to do with the next requests, one each, before anything else."""
        self.goaway_every = 0
        self.goaway: Literal["graceful", "abrupt"] = "graceful"
        self.max_streams = 100
        self.one_stream_first = False
        """Whether one stream is allowed until a valid provider token was seen on the connection."""
        self.stream_window = 65_535
        self.slow_windows = 0.0
        """Seconds after which received bytes are acknowledged; 0 for at once."""
        self.pieces = 0
        """Bytes of each piece in which answers arrive; 0 for whatever comes."""
        self.answers_pings = True
        self.silent = False
        """Whether connections are accepted and never spoken on."""
        self.deliveries: Counter[str] = Counter()
        """How often each apns-id was accepted: more than 1 is a duplicate on somebody's phone."""
        self.received: list[Received] = []
        self.provider_tokens: list[str] = []
        """Distinct ones, in the order of their coming."""
        self.connections = 0
        self.pings = 0
        self.goaways = 0
        self.most_in_flight = 0
        self.most_before_proof = 0
        """Most streams at once on a connection that had not yet shown a valid provider token."""
        self.port = 0
        self.live: set[_Served] = set()
        self._verified: dict[str, float | None] = {}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def duplicates(self) -> int:
        return sum(count - 1 for count in self.deliveries.values())

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext) -> AsyncIterator[ApnsPeer]:
        """Listen on a free port, or on the port that it had before."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Served(self), "127.0.0.1", self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for connection in list(self.live):
                connection.cut()
            await server.wait_closed()
            while self.live:
                await asyncio.sleep(0.005)

    def judge(self, headers: dict[str, str], names: list[str], body: bytes) -> Behaviour:
        """Find what is wrong with a request, as Apple does, or what to do with it."""
        path = re.fullmatch(r"/3/device/([^/]*)", headers[":path"])
        if headers[":method"] != "POST":
            return Behaviour(405, "MethodNotAllowed")
        if path is None:
            return Behaviour(404, "BadPath")
        fault = self._fault_of_token(headers)
        if fault:
            return Behaviour(403, fault)
        fault = _fault_of_headers(headers, names, path[1], self.topics)
        if fault:
            return Behaviour(400, fault)
        if not body:
            return Behaviour(400, "PayloadEmpty")
        if len(body) > 4096:
            return Behaviour(413, "PayloadTooLarge")
        if "alert" not in json.loads(body)["aps"]:
            return Behaviour(400, "PayloadEmpty")
        if self.next:
            return self.next.popleft()
        return self.by_device.get(path[1], self.default)

    def _fault_of_token(self, headers: dict[str, str]) -> str:
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            return "MissingProviderToken"
        if token not in self._verified:
            self.provider_tokens.append(token)
            self._verified[token] = self._issued_at(token)
        issued = self._verified[token]
        if issued is None or issued > self.clock() + 60:
            return "InvalidProviderToken"
        return "ExpiredProviderToken" if self.clock() - issued > TOKEN_SECONDS else ""

    def _issued_at(self, token: str) -> float | None:
        """Verify a provider token: signature, algorithm, key id, team."""
        try:
            head = jwt.get_unverified_header(token)
            checks = {"verify_iat": False, "require": ["iss", "iat"]}
            claims = jwt.decode(token, self.public_key, algorithms=["ES256"], issuer=self.team_id, options=checks)
        except jwt.PyJWTError:
            return None
        return float(claims["iat"]) if head.get("kid") == self.key_id else None


def _fault_of_headers(headers: dict[str, str], names: list[str], device: str, topics: set[str]) -> str:
    identifier, topic = headers.get("apns-id"), headers.get("apns-topic")
    checks = {
        "DuplicateHeaders": len(names) != len(set(names)),
        "MissingDeviceToken": not device,
        "BadDeviceToken": re.fullmatch(r"(?:[0-9a-fA-F]{2})+", device) is None,
        "MissingTopic": not topic,
        "TopicDisallowed": topic not in topics,
        "BadMessageId": identifier is not None and not _canonical(identifier),
        "BadPriority": headers.get("apns-priority", "10") not in {"1", "5", "10"},
        "BadExpirationDate": re.fullmatch(r"\d{1,10}", headers.get("apns-expiration", "0")) is None,
        "BadCollapseId": len(headers.get("apns-collapse-id", "").encode()) > 64,
        "InvalidPushType": headers.get("apns-push-type", "alert") not in PUSH_TYPES,
    }
    return next((reason for reason, found in checks.items() if found), "")


def _canonical(identifier: str) -> bool:
    try:
        return str(UUID(identifier)) == identifier.lower()
    except ValueError:
        return False


class _Served(asyncio.Protocol):
    """One connection."""

    def __init__(self, peer: ApnsPeer) -> None:
        self.peer = peer
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.streams: dict[int, tuple[list[tuple[str, str]], bytearray]] = {}
        """Requests that come in."""
        self.answering: set[int] = set()
        self.timers: set[asyncio.TimerHandle] = set()
        self.proven = False
        self.ended: int | None = None
        """The last stream that is processed, once GOAWAY is sent."""
        self.processed = 0
        self.highest = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.peer.connections += 1
        self.peer.live.add(self)
        if self.peer.silent:
            return
        most = 1 if self.peer.one_stream_first else self.peer.max_streams
        self.h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: most,
                SettingCodes.INITIAL_WINDOW_SIZE: self.peer.stream_window,
            },
        )
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer.live.discard(self)
        for timer in self.timers:
            timer.cancel()

    def flush(self) -> None:
        self.write(self.h2.data_to_send())

    def write(self, data: bytes) -> None:
        """Write in pieces of the size that was asked for: each is a TLS record, and arrives by itself."""
        size = self.peer.pieces or len(data) or 1
        for at in range(0, len(data), size):
            if not self.transport.is_closing():
                self.transport.write(data[at : at + size])

    def cut(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.peer.silent:
            return
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            self.flush()
            self.transport.close()
            return
        for event in events:
            self.react(event)
        self.flush()

    def react(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=stream, headers=headers):
                self.streams[stream] = (list(headers), bytearray())
                self.count()
            case DataReceived(stream_id=stream, data=part, flow_controlled_length=length):
                if stream in self.streams:
                    self.streams[stream][1].extend(part)
                self.later(self.peer.slow_windows, self.acknowledge, length, stream)
            case StreamEnded(stream_id=stream):
                self.take(stream)
            case StreamReset(stream_id=stream):
                self.streams.pop(stream, None)
                self.answering.discard(stream)
            case PingReceived():
                self.peer.pings += 1
                if not self.peer.answers_pings:
                    self.h2.clear_outbound_data_buffer()  # the acknowledgement that h2 has prepared

    def count(self) -> None:
        open_now = len(self.streams) + len(self.answering)
        self.peer.most_in_flight = max(self.peer.most_in_flight, open_now)
        if not self.proven:
            self.peer.most_before_proof = max(self.peer.most_before_proof, open_now)

    def later(self, seconds: float, do: Callable[..., None], *args: Any) -> None:
        if not seconds:
            do(*args)
            return

        def run() -> None:
            self.timers.discard(timer)
            do(*args)
            self.flush()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self.timers.add(timer)

    def acknowledge(self, length: int, stream: int) -> None:
        self.h2.acknowledge_received_data(length, stream)

    def take(self, stream: int) -> None:
        """A request is here whole."""
        listed, body = self.streams.pop(stream)
        if self.ended is not None and stream > self.ended:
            return  # it came after the good-bye: not processed, as promised
        peer, headers = self.peer, dict(listed)
        behaviour = peer.judge(headers, [name for name, _ in listed], bytes(body))
        device = headers[":path"].rpartition("/")[2]
        token = headers.get("authorization", "").partition(" ")[2]
        peer.received.append(Received(device, headers, bytes(body), token, behaviour))
        self.processed += 1
        self.highest = max(self.highest, stream)
        if behaviour.status != 403 and not self.proven:
            self.proven = True
            if peer.one_stream_first:
                self.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: peer.max_streams})
        if behaviour.act in {"answer", "accept and swallow", "accept and cut", "status and cut"} and (
            behaviour.status == 200
        ):
            peer.deliveries[headers.get("apns-id", "")] += 1
        self.answering.add(stream)
        self.later(behaviour.delay, self.act, stream, behaviour, headers.get("apns-id", ""))
        if peer.goaway_every and self.processed == peer.goaway_every:
            self.say_good_bye()

    def act(self, stream: int, behaviour: Behaviour, identifier: str) -> None:
        if stream not in self.answering:
            return  # the client has given it up
        match behaviour.act:
            case "swallow" | "accept and swallow":
                return
            case "cut" | "accept and cut":
                self.cut()
            case "refuse":
                self.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            case "reset":
                self.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
            case "status and cut":
                self.answer(stream, behaviour, identifier, whole=False)
                self.flush()
                self.transport.close()
            case "answer":
                self.answer(stream, behaviour, identifier)
        self.answering.discard(stream)
        if self.ended is not None and not self.answering:
            self.flush()
            self.transport.close()

    def answer(self, stream: int, behaviour: Behaviour, identifier: str, *, whole: bool = True) -> None:
        content = behaviour.content()
        listed = [(":status", str(behaviour.status)), ("apns-id", identifier), *behaviour.headers.items()]
        try:
            self.h2.send_headers(stream, listed, end_stream=whole and not content)
            if whole and content:
                self.h2.send_data(stream, content, end_stream=True)
        except H2Error:
            return  # the client reset the stream meanwhile, or leaves no window

    def say_good_bye(self) -> None:
        """Send GOAWAY beside h2, which would answer nothing any more after one of its own."""
        self.peer.goaways += 1
        self.ended = self.highest
        self.flush()
        farewell = GoAwayFrame(0, last_stream_id=self.highest, error_code=0, additional_data=b"")
        self.write(farewell.serialize())
        if self.peer.goaway == "abrupt":
            self.transport.close()
