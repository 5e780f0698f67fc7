"""What the adapters over HTTP/1.1 share: a request is sent once, and its end says what is known about it.

```
Reply             the server answered
Answer NOT_SENT   proven: nothing was written      no connection within its share of the time
Answer UNKNOWN    it was written, no answer came   connection lost, deadline
```

aiohttp never sends a POST again by itself (its `IDEMPOTENT_METHODS`), redirects are not followed, and neither cookies
nor the environment's proxies have a say.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from activities.push.provider import Answer, Verdict

LARGEST_ANSWER: Final = 65_536
"""Most bytes of an answer that are read."""
LONGEST_WAIT: Final = 86_400.0
"""Most seconds that an answer may ask us to wait: more is a mistake of the server's."""
CONNECT_SHARE: Final = 0.5
"""Share of a request's time in which there must be a connection, so that running out of time then proves something."""


@dataclass(frozen=True)
class Rule:
    """What an answer means.

    Attributes:
        verdict: The meaning.
        retry_after: Least seconds before trying again.
    """

    verdict: Verdict
    retry_after: float | None = None

    def answer(self, detail: str, reply: Reply, now: float, **other: Any) -> Answer:
        """Word it: a wait that the server asks for counts where it is longer than ours.

        Args:
            detail: The server's own word.
            reply: What it answered.
            now: Seconds since 1970.
            other: Further attributes of the answer.
        """
        wait = self.retry_after
        if self.verdict is Verdict.RETRY:
            wait = max(wait or 0.0, reply.retry_after(now) or 0.0) or None
        return Answer(self.verdict, detail, retry_after=wait, **other)


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: The HTTP status.
        headers: By name, in whatever case.
        body: At most `LARGEST_ANSWER` bytes.
        complete: Whether it came whole.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True

    def json(self) -> dict[str, Any]:
        """Give the body as a JSON object; an empty one when it is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def text(self) -> str:
        """Give the beginning of the body, for people."""
        return " ".join(self.body[:400].decode("utf-8", "replace").split())[:160]

    def retry_after(self, now: float) -> float | None:
        """Read `Retry-After`, seconds or an HTTP date (RFC 9110, section 10.2.3).

        Args:
            now: Seconds since 1970.

        Returns:
            Seconds to wait; null when the header is missing or makes no sense.
        """
        said = self.headers.get("Retry-After", "").strip()
        if said.isascii() and said.isdecimal():
            wait = float(said[:12])
        else:
            try:
                wait = parsedate_to_datetime(said).timestamp() - now
            except (ValueError, OverflowError, OSError):
                return None
        return min(max(wait, 0.0), LONGEST_WAIT)


def tls_context(ca_file: Path | str | None) -> ssl.SSLContext:
    """Make the context by which servers are checked.

    Args:
        ca_file: Certificates to trust beside the system's.

    Raises:
        OSError: The file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(cafile=str(ca_file))
    return context


class Http1Client:
    """One session for one adapter, made when first used. Safe to use from many tasks of one event loop.

    Args:
        tls: How servers are checked.
        connections: Most connections at once.
        timeout_seconds: Most time for one request, waiting for a connection included.
        connect_seconds: Most time of it until there is a connection; half of it at most.
        resolver: Looks names up; null for the system's way.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        connections: int = 100,
        timeout_seconds: float = 15.0,
        connect_seconds: float = 5.0,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._tls = tls
        self._resolver = resolver
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, connect=min(connect_seconds, timeout_seconds * CONNECT_SHARE)
        )
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Reply | Answer:
        """Post once.

        Args:
            url: Where to.
            body: The body.
            headers: The headers.

        Returns:
            What the server answered, or what is known when it did not.
        """
        session = self._opened()
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return await _read(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            return Answer(Verdict.NOT_SENT, f"no connection: {_said(error)}")
        except TimeoutError:
            return Answer(Verdict.UNKNOWN, "no answer in time")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(Verdict.UNKNOWN, f"the connection was lost before the answer: {_said(error)}")

    async def close(self) -> None:
        """Let go of connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls, resolver=self._resolver),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> Reply:
    """Read an answer whose status is known: what happens to its body later does not make it unknown."""
    received = bytearray()
    try:
        async for piece in response.content.iter_any():
            received += piece
            if len(received) >= LARGEST_ANSWER:
                break
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Reply(response.status, response.headers, bytes(received), complete=False)
    return Reply(response.status, response.headers, bytes(received[:LARGEST_ANSWER]))


def cut_short(reply: Reply) -> Answer:
    """Word an error of which only the beginning came: it was not accepted; the next try tells why."""
    return Answer(Verdict.NOT_SENT, f"{reply.status}, and then the connection was lost")


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
