"""One request and its answer: how it ends, and what is known of it then.

The clients that exist either send again by themselves or cannot tell what was processed from what was not; a push must
know. So there are three ends, and nothing is ever sent twice:

```
Response          the server answered
NotSent           proven: the server did not process it       connect failed, refused, above a GOAWAY, never written
OutcomeUnknown    it was written whole and no answer came     connection lost, deadline, reset
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hpack import HeaderTuple

if TYPE_CHECKING:
    from activities.push.http2.connection import Connection

Header = HeaderTuple | tuple[str, str]
"""A request header, its name in lower case; a `NeverIndexedHeaderTuple` for what is secret or never comes again."""

LARGEST_ANSWER: Final = 65_536
"""Most bytes of an answer that are kept; the rest is read and dropped."""


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
class Request:
    """One request on its way."""

    headers: Sequence[Header]
    body: bytes
    deadline: float
    answer: asyncio.Future[Response]
    timer: asyncio.TimerHandle | None = None
    connection: Connection | None = None
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
