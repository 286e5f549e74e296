"""A unix socket between one server and PostgreSQL that stops, holds or cuts what passes.

It reads PostgreSQL's frames just so far as it must: the connection's application name, and when a
transaction that was asked for has ended (PostgreSQL, "Message Formats").
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

LOG_CONNECTION = b"freehold log"
_SOCKET = ".s.PGSQL.5432"


class _Passing:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.is_log = False
        self.unread = b""
        self.ended: bytes | None = None  # the last command that was completed

    def cut(self) -> None:
        """Drop both sides; what PostgreSQL has got stays with it."""
        for side in (self.client, self.server):
            if side.transport is not None:
                side.transport.abort()

    def committed(self, data: bytes) -> bool:
        """Say whether an answer of PostgreSQL tells the end of a commit."""
        self.unread += data
        is_end = False
        while len(self.unread) >= 5:
            length = 1 + int.from_bytes(self.unread[1:5], "big")
            if len(self.unread) < length:
                break
            frame, self.unread = self.unread[:length], self.unread[length:]
            if frame[:1] == b"C":
                self.ended = frame[5:-1]
            elif frame[:1] == b"s":  # the one row of a batch in one statement
                self.ended = b"row"
            elif frame[:1] == b"Z":
                is_end = is_end or (frame[5:6] == b"I" and self.ended in (b"COMMIT", b"row"))
                self.ended = None
        return is_end


class DatabaseProxy:
    """Passes connections on to a PostgreSQL's socket."""

    def __init__(self, upstream: Path) -> None:
        """Prepare; `upstream` is the folder of PostgreSQL's socket."""
        self._upstream = upstream
        self.folder = Path(tempfile.mkdtemp(prefix="fh-proxy-", dir="/tmp"))
        self._passing: set[_Passing] = set()
        self._listener: asyncio.Server | None = None
        self._all_flow = asyncio.Event()
        self._all_flow.set()
        self._cut_after_commits = 0
        self.cuts = 0

    async def start(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_unix_server(self._serve, self.folder / _SOCKET)

    async def close(self) -> None:
        """Cut everything and stop listening."""
        assert self._listener is not None
        self._listener.close()
        self.resume()
        for one in list(self._passing):
            one.cut()
        while self._passing:
            await asyncio.sleep(0.01)
        shutil.rmtree(self.folder, ignore_errors=True)

    def cut_after_commits(self, count: int) -> None:
        """Drop the log's connection after each of the next `count` commits, before its answer."""
        self._cut_after_commits = count

    def stall(self) -> None:
        """Pass nothing on, on any connection, until `resume`."""
        self._all_flow.clear()

    def hold_existing(self) -> None:
        """Pass nothing on, on the connections of now, until `resume`; new ones are served."""
        for one in self._passing:
            one.flowing.clear()

    def resume(self) -> None:
        """Pass on what was held, in order."""
        self._all_flow.set()
        for one in self._passing:
            one.flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_unix_connection(self._upstream / _SOCKET)
        except OSError:
            writer.transport.abort()
            return
        one = _Passing(writer, upstream[1])
        self._passing.add(one)
        try:
            await asyncio.gather(
                self._pump(one, reader, one.server, self._is_for_log),
                self._pump(one, upstream[0], one.client, self._is_cut),
            )
        finally:
            one.cut()
            self._passing.discard(one)

    async def _pump(
        self,
        one: _Passing,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        is_stopped: Callable[[_Passing, bytes], bool],
    ) -> None:
        """Pass bytes on until the end; `is_stopped` may cut the connection instead."""
        try:
            while data := await source.read(65_536):
                await self._all_flow.wait()
                await one.flowing.wait()
                if is_stopped(one, data):
                    one.cut()
                    return
                sink.write(data)
                await sink.drain()
            sink.write_eof()
        except OSError:
            one.cut()

    @staticmethod
    def _is_for_log(one: _Passing, data: bytes) -> bool:
        one.is_log = one.is_log or LOG_CONNECTION in data[:300]
        return False

    def _is_cut(self, one: _Passing, data: bytes) -> bool:
        if not (one.committed(data) and one.is_log and self._cut_after_commits):
            return False
        self._cut_after_commits -= 1
        self.cuts += 1
        return True
