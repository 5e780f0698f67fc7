"""Two things that are taken from h2, whose the protocol is otherwise: GOAWAY frames and Huffman's code.

h2 closes a connection when it reads GOAWAY and then rejects the answers of streams that are still in flight, so those
frames are cut out before it sees them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from h2.exceptions import ProtocolError
from hpack import Encoder

FRAME_HEAD: Final = 9
GOAWAY: Final = 7
LARGEST_FRAME: Final = 16_384
"""What we take; the protocol's default, which we do not change (RFC 9113, 6.5.2)."""


class Frames:
    """Bytes as they come, cut into whole frames.

    Attributes:
        farewells: The payloads of GOAWAY frames that were cut out, in their order.
    """

    def __init__(self) -> None:
        self.farewells: deque[bytes] = deque()
        self._tail = b""

    def take(self, data: bytes) -> bytes:
        """Cut GOAWAY frames out, and keep a frame that has come in part for later.

        Args:
            data: What came.

        Returns:
            Whole frames, for h2.

        Raises:
            ProtocolError: A frame is larger than we take.
        """
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
                self.farewells.append(buffer[at + FRAME_HEAD : end])
            at = end
        self._tail = buffer[at:]
        if not kept:
            return buffer[:at]
        return b"".join([*kept, buffer[begin:at]])


class PlainEncoder(Encoder):
    """Header compression without Huffman's code: a fifth of a token's bytes cost a fifth of a message's time."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        """Encode as it is."""
        return super().encode(headers, huffman)
