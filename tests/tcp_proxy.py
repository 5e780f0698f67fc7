"""A proxy on loopback that passes bytes on: to have Temporal vanish and come back, or to put TLS before it."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self


class TcpProxy:
    """Listens on a free port and passes everything on to an address, until it is cut.

    Args:
        address: Host and port.
        context: Speaks TLS to clients where it is given.
    """

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._context = context
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.peers: list[object] = []
        """The certificate that each client showed, null where it showed none."""
        self.speaking = asyncio.Event()
        """Cleared, what the address answers is kept back: as a server that takes requests and gives no answers."""
        self.speaking.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the port and every connection: as a server that is gone."""
        assert self._server is not None
        self._server.close()
        for writer in [*self._writers]:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peercert"))
        host, port = self._address.rsplit(":", 1)
        back_reader, back_writer = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, back_writer}
        try:
            await asyncio.gather(_pass_on(reader, back_writer), _pass_on(back_reader, writer, self.speaking))
        finally:
            self._writers -= {writer, back_writer}
            for one in (writer, back_writer):
                one.transport.abort()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, speaking: asyncio.Event | None = None
) -> None:
    try:
        while data := await reader.read(1 << 16):
            if speaking is not None:
                await speaking.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
