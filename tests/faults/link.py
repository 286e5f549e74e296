"""The network before one server: connections that pass, are cut, or carry nothing for a while."""

from __future__ import annotations

import asyncio
from typing import Self


class Link:
    """Passes TCP connections on to a port of this machine."""

    def __init__(self, upstream: int) -> None:
        """Prepare; `upstream` is the server's own port."""
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._sides: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False
        self.port = 0

    async def __aenter__(self) -> Self:
        """Listen at a port that the system gives."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self._drop()

    def cut(self) -> None:
        """Drop all connections, and each new one, until `heal`."""
        self._is_cut = True
        self._drop()

    def stall(self) -> None:
        """Carry nothing until `heal`; connections stay."""
        self._flowing.clear()

    def heal(self) -> None:
        """Pass everything on again."""
        self._is_cut = False
        self._flowing.set()

    def _drop(self) -> None:
        for side in list(self._sides):
            side.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()  # the server is down
            return
        sides = {writer, back}
        self._sides |= sides
        try:
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            self._sides -= sides
            for side in sides:
                side.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            writer.transport.abort()
