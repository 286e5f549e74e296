"""Figures: the CPU of uploading and downloading files of 1 MB, beside that of a bare aiohttp server
which moves the same bytes: reads a body and drops it, or sends one that it has in memory.

Both are processes of their own, asked by the same client; counted is what the process used, user
and system together. The database's process isn't counted.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.faults.killable_server import killable_server
from tests.faults.person import Person
from tests.hostile.clients.running_server import free_port

pytestmark = [pytest.mark.bench, pytest.mark.asyncio(loop_scope="module")]

BYTES = 1_000_000
TIMES = 200
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BARE = """
import sys
import uvloop
from aiohttp import web

DATA = bytes(int(sys.argv[2]))

async def up(request):
    while await request.content.readany():
        pass
    return web.json_response({})

async def down(request):
    return web.Response(body=DATA)

app = web.Application()
app.add_routes([web.post("/", up), web.get("/", down)])
uvloop.install()
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


def cpu_s(pid: int) -> float:
    """Return the CPU that a process has used, of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def cost_ms(pid: int, ask: Callable[[], Awaitable[None]]) -> float:
    """Return the CPU milliseconds of one request, once everything is warm."""
    for _ in range(20):
        await ask()
    before = cpu_s(pid)
    for _ in range(TIMES):
        await ask()
    return 1000 * (cpu_s(pid) - before) / TIMES


@pytest.fixture(scope="module")
def bare() -> Iterator[tuple[int, str]]:
    """The bare server: its process and its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port), str(BYTES)])
    yield process.pid, f"http://127.0.0.1:{port}/"
    process.kill()
    process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of both."""
    async with aiohttp.ClientSession() as session:
        yield session


async def until_it_answers(session: aiohttp.ClientSession, url: str) -> None:
    """Wait for the bare server's start."""
    while True:
        try:
            async with session.get(url):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)


async def test_moving_a_megabyte(
    bare: tuple[int, str],
    session: aiohttp.ClientSession,
    tmp_path: Path,
    postgres_cluster: EmbeddedCluster,
    background_loop: BackgroundLoop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database_url = background_loop.run(postgres_cluster.ensure_database("moving"))
    tmp_path.chmod(0o711)
    data = os.urandom(BYTES)
    bare_pid, bare_url = bare
    async with killable_server(tmp_path, database_url) as server:
        person = Person(session, server.url)
        await person.register("mover")
        headers = {"Authorization": f"Bearer {person.token}"}
        uris: list[str] = []

        async def post(url: str) -> None:
            async with session.post(url, data=data, headers=headers) as answer:
                assert answer.status == 200
                body = await answer.json()
                uris.append(body.get("content_uri", ""))

        async def get(url: str) -> None:
            async with session.get(url, headers=headers) as answer:
                assert answer.status == 200
                assert len(await answer.read()) == BYTES

        await until_it_answers(session, bare_url)
        bare_up = await cost_ms(bare_pid, lambda: post(bare_url))
        up = await cost_ms(server.pid, lambda: post(f"{server.url}/_matrix/media/v3/upload"))
        path = f"/_matrix/client/v1/media/download/{uris[-1].removeprefix('mxc://')}"
        bare_down = await cost_ms(bare_pid, lambda: get(bare_url))
        down = await cost_ms(server.pid, lambda: get(f"{server.url}{path}"))
    with capsys.disabled():
        print(  # noqa: T201
            f"\nupload of 1 MB: {up:.2f} ms of CPU, bare aiohttp {bare_up:.2f}"
            f" ({up / bare_up:.1f} times)"
            f"\ndownload of 1 MB: {down:.2f} ms of CPU, bare aiohttp {bare_down:.2f}"
            f" ({down / bare_down:.1f} times)"
        )
