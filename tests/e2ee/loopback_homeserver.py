"""The homeserver in memory, behind HTTP on the loopback address."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from e2ee.http import Call, Unreachable
from tests.e2ee.fake_homeserver import FakeHomeserver


@asynccontextmanager
async def served(server: FakeHomeserver) -> AsyncIterator[str]:
    """Serves on a free port; yields the base URL."""

    async def answer(request: web.Request) -> web.Response:
        text = await request.text()
        call = Call(
            request.method,
            request.raw_path.partition("?")[0],
            dict(request.query),
            json.loads(text) if text else None,
            request.headers.get("Authorization", "").removeprefix("Bearer "),
        )
        try:
            response = await server.handle(call)
        except Unreachable:
            return web.Response(status=502, text="bad gateway")
        return web.json_response(response.body, status=response.status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
