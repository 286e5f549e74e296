"""Servers of a few lines beside which media are measured, each a process on uvloop, with aiohttp's
low-level server as Freehold uses it: without access log, routes or application.

1. `bare` moves the bytes: it reads a body to its end and drops it, and sends one from memory.
2. `plain` does what a server of files must, in the simplest way, on the event loop itself: it
   hashes a body, writes it to a file, syncs it, renames it to its hash and syncs the folder; and
   sends it by aiohttp's own `FileResponse`. It asks no token, no database and no quota.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from aiohttp import web

BYTES = 1_000_000


class Bare:
    """Moves the bytes."""

    def __init__(self) -> None:
        """Make the body that is sent."""
        self._data = os.urandom(BYTES)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer POST and GET."""
        if request.method == "GET":
            return web.Response(body=self._data)
        while await request.content.readany():
            pass
        return web.json_response({"content_uri": "mxc://bare/one"})


class Plain:
    """Keeps files in a folder."""

    def __init__(self, folder: Path) -> None:
        """Take the folder."""
        self._folder = folder

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer POST and GET."""
        if request.method == "GET":
            return web.FileResponse(self._folder / request.path.rpartition("/")[2])
        digest = hashlib.sha256()
        incoming = self._folder / "incoming"
        with incoming.open("wb", buffering=0) as file:
            while piece := await request.content.readany():
                digest.update(piece)
                file.write(piece)
            os.fsync(file.fileno())
        name = digest.hexdigest()
        incoming.rename(self._folder / name)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return web.json_response({"content_uri": f"mxc://plain/{name}"})


@contextmanager
def small_server(kind: str, port: int, folder: Path) -> Iterator[int]:
    """Run one of the servers; yields its process ID."""
    command = [sys.executable, "-m", "tests.bench.media.bare_server", kind, str(port), str(folder)]
    process = subprocess.Popen(command)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def _serve(kind: str, port: int, folder: Path) -> None:
    server = web.Server((Bare() if kind == "bare" else Plain(folder)).answer, access_log=None)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
