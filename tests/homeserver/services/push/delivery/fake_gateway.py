"""A push gateway as a process of its own: takes notifications, and misbehaves as it is told.

1. `python fake_gateway.py CERTIFICATE KEY` serves HTTPS on one port and its control on another, on
   loopback; it prints both. It ends with its standard input.
2. `FakeGateway` is the test's end: it sets the mode, and waits for what was received.
3. A mode holds for the push keys that it names, or for all: a status, a body, headers, keys that
   are rejected, an answer that never comes (`hang`), a connection that is cut (`cut`), and any
   bytes instead of HTTP (`raw`).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import trustme
from aiohttp import web

WAIT_S = 60
PATH = "/_matrix/push/v1/notify"


class _Gateway:
    """The process's end."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.modes: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.changed = asyncio.Condition()

    async def notify(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._notify(request)
        finally:
            self.at_once -= 1

    async def _notify(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        received = {"host": request.host, "target": request.path_qs, "body": body}
        async with self.changed:
            self.received.append(received)
            self.changed.notify_all()
        keys = {one["pushkey"] for one in body["notification"]["devices"]}
        mode = next((one for one in self.modes if not one.get("keys") or keys & {*one["keys"]}), {})
        if mode.get("hang"):
            await asyncio.sleep(3600)
        if mode.get("cut") or mode.get("raw"):
            assert request.transport is not None
            request.transport.write(mode.get("raw", "").encode())
            request.transport.close()
        text = mode.get("body") or json.dumps({"rejected": mode.get("rejected", [])})
        text *= mode.get("times", 1)
        return web.Response(
            status=mode.get("status", 200),
            text=text,
            content_type="application/json",
            headers=mode.get("headers"),
        )

    async def set_modes(self, request: web.Request) -> web.Response:
        self.modes = await request.json()
        return web.json_response({})

    async def shown(self, request: web.Request) -> web.Response:
        """Everything received so far, once it is so many."""
        async with self.changed:
            count = int(request.query["count"])
            await self.changed.wait_for(lambda: len(self.received) >= count)
            return web.json_response({"received": self.received, "most_at_once": self.most_at_once})


async def _listening(routes: list[web.RouteDef], tls: ssl.SSLContext | None) -> int:
    app = web.Application(client_max_size=1 << 22)
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    port: int = runner.addresses[0][1]
    return port


async def _main(certificate: str, key: str) -> None:
    gateway = _Gateway()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    port = await _listening([web.post(PATH, gateway.notify)], tls)
    control = await _listening(
        [web.put("/modes", gateway.set_modes), web.get("/received", gateway.shown)], None
    )
    sys.stdout.write(f"{port} {control}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


class FakeGateway:
    """The test's end of a running gateway."""

    def __init__(self, port: int, control: int, session: aiohttp.ClientSession) -> None:
        self.port, self._session = port, session
        self._control = f"http://127.0.0.1:{control}"
        self.url = f"https://localhost:{port}{PATH}"

    async def set(self, *modes: dict[str, Any]) -> None:
        """Sets how it answers; the first mode that fits a push key counts."""
        async with self._session.put(f"{self._control}/modes", json=modes) as response:
            assert response.status == 200

    async def requests(self, count: int) -> list[dict[str, Any]]:
        """Everything received, once it is at least so many requests."""
        return list((await self._shown(count))["received"])

    async def most_at_once(self) -> int:
        """The largest number of requests that were under way at once."""
        return int((await self._shown(0))["most_at_once"])

    async def notifications(self, count: int) -> list[dict[str, Any]]:
        """The notifications of the requests."""
        return [one["body"]["notification"] for one in await self.requests(count)]

    async def _shown(self, count: int) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        url = f"{self._control}/received?count={count}"
        async with self._session.get(url, timeout=timeout) as response:
            found: dict[str, Any] = await response.json()
            return found


@asynccontextmanager
async def fake_gateway(authority: trustme.CA, folder: Path) -> AsyncIterator[FakeGateway]:
    """Runs a gateway; its certificate is for localhost."""
    made = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "gateway.pem", folder / "gateway.key"
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(certificate),
        str(key),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port, control = (await asyncio.wait_for(process.stdout.readline(), WAIT_S)).split()
        async with aiohttp.ClientSession() as session:
            yield FakeGateway(int(port), int(control), session)
    finally:
        process.stdin.close()
        process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
