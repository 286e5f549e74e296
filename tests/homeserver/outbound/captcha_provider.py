"""A provider of captchas in a process of its own: `solved` is the answer of who solved one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs

from aiohttp import web

_ROOT = Path(__file__).parents[3]
_WAIT_S = 60
SECRET = "the secret key"


@asynccontextmanager
async def captcha_provider() -> AsyncIterator[str]:
    """Runs one; its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, stdout=asyncio.subprocess.PIPE, cwd=_ROOT
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), _WAIT_S))
        yield f"http://127.0.0.1:{port}/siteverify"
    finally:
        process.kill()
        await process.wait()


async def _verify(request: web.BaseRequest) -> web.Response:
    form = {name: values[0] for name, values in parse_qs(await request.text()).items()}
    if form["response"] == "garbage":
        return web.Response(text="<html>")
    if form["response"] == "large":
        return web.Response(body=b'"' + b"x" * 1_000_000 + b'"')
    if form["response"] == "odd":
        return web.json_response([True])
    if form["response"] == "truthy":
        return web.json_response({"success": "yes"})
    is_solved = form["secret"] == SECRET and form["response"] == "solved"
    return web.json_response({"success": is_solved})


async def _serve() -> None:
    runner = web.ServerRunner(web.Server(_verify))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - its answer to the test
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
