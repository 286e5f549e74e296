"""Figures: the CPU of uploading and downloading files of 1 MB, beside that of the small servers of
`bare_server`, and of SHA-256 and the disk alone, which no server can save.

All are processes of their own, asked by the same client in turns, forwards and backwards (A B C C B
A), so that what the machine does besides falls on each. Counted is what the process used, of all
threads, user and system together, by the scheduler's own clock. The database's process isn't
counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from statistics import median

import aiohttp
import pytest
import pytest_asyncio

from local_postgres import EmbeddedCluster
from tests.bench.media.bare_server import BYTES, small_server
from tests.conftest import BackgroundLoop
from tests.faults.killable_server import killable_server
from tests.faults.person import Person
from tests.hostile.clients.running_server import free_port

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
TIMES, ROUNDS = 100, 3


class Served:
    """One server: its process, and what it costs."""

    def __init__(self, name: str, pid: int, up: str, down: str, token: str = "") -> None:
        """Take the addresses of uploads, and of downloads without the file."""
        self.name, self._pid, self._up, self._down = name, pid, up, down
        self._headers = {"Authorization": f"Bearer {token}"}
        self._file = ""
        self.costs: dict[str, list[float]] = {"upload": [], "download": []}

    async def upload(self, session: aiohttp.ClientSession, data: bytes) -> None:
        """Upload once, a content that wasn't there before."""
        new = os.urandom(16) + data[16:]
        async with session.post(self._up, data=new, headers=self._headers) as answer:
            assert answer.status == 200
            self._file = (await answer.json())["content_uri"]

    async def download(self, session: aiohttp.ClientSession, data: bytes) -> None:
        """Download once what was uploaded last."""
        url = f"{self._down}{self._file.removeprefix('mxc://')}"
        async with session.get(url, headers=self._headers) as answer:
            assert answer.status == 200
            assert len(await answer.read()) == len(data)

    async def measure(self, session: aiohttp.ClientSession, data: bytes) -> None:
        """Keep the CPU milliseconds of an upload and of a download, once everything is warm."""
        for kind, ask in (("upload", self.upload), ("download", self.download)):
            for _ in range(10):
                await ask(session, data)
            before = _cpu_ms(self._pid)
            for _ in range(TIMES):
                await ask(session, data)
            self.costs[kind].append((_cpu_ms(self._pid) - before) / TIMES)

    def cost(self, kind: str) -> float:
        """The cost of one request in milliseconds."""
        return median(self.costs[kind])


def _cpu_ms(pid: int) -> float:
    """Return the CPU that a process has used, of the threads that it has."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6


def _alone_ms(folder: Path, data: bytes) -> tuple[float, float]:
    """Return the CPU of hashing some bytes, and of a new file of them that survives a crash."""
    numbers = count()

    def keep() -> None:
        file = os.open(folder / "incoming", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(file, data)
        os.fsync(file)
        os.close(file)
        (folder / "incoming").rename(folder / f"kept-{next(numbers)}")
        above = os.open(folder, os.O_RDONLY)
        os.fsync(above)
        os.close(above)

    return _own_ms(lambda: hashlib.sha256(data).digest()), _own_ms(keep)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _own_ms(work: Callable[[], object]) -> float:
    before = time.thread_time()
    for _ in range(TIMES):
        work()
    return 1000 * (time.thread_time() - before) / TIMES


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The client of all."""
    async with aiohttp.ClientSession() as session:
        yield session


async def _until_it_answers(session: aiohttp.ClientSession, url: str) -> None:
    while True:
        try:
            async with session.get(url):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)


async def test_moving_a_megabyte(
    session: aiohttp.ClientSession,
    tmp_path: Path,
    postgres_cluster: EmbeddedCluster,
    background_loop: BackgroundLoop,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database_url = background_loop.run(postgres_cluster.ensure_database("moving"))
    tmp_path.chmod(0o711)
    folder, own = (_made(tmp_path / name) for name in ("plain", "own"))
    alone: list[tuple[float, float]] = []
    ports = free_port(), free_port()
    bare_url, plain_url = (f"http://127.0.0.1:{port}/" for port in ports)
    data = os.urandom(BYTES)
    with (
        small_server("bare", ports[0], folder) as bare_pid,
        small_server("plain", ports[1], folder) as plain_pid,
    ):
        async with killable_server(own, database_url) as server:
            person = Person(session, server.url)
            await person.register("mover")
            for url in (bare_url, plain_url):
                await _until_it_answers(session, url)
            media, client = (f"{server.url}/_matrix/{one}" for one in ("media/v3", "client/v1"))
            path = f"{client}/media/download/"
            bare = Served("bare", bare_pid, bare_url, bare_url)
            plain = Served("plain", plain_pid, plain_url, plain_url)
            ours = Served("ours", server.pid, f"{media}/upload", path, person.token)
            for number in range(ROUNDS):
                for one in (bare, plain, ours, ours, plain, bare):
                    await one.measure(session, data)
                alone.append(_alone_ms(_made(tmp_path / f"alone-{number}"), data))
            hashed, kept = (median(one) for one in zip(*alone, strict=True))
    with capsys.disabled():
        print(  # noqa: T201
            f"\nof 1 MB alone: SHA-256 {hashed:.2f} ms of CPU, a synced file {kept:.2f}"
        )
        for kind, must in (("upload", hashed + kept), ("download", 0.0)):
            cost, base = ours.cost(kind), bare.cost(kind)
            print(  # noqa: T201
                f"{kind} of 1 MB: {cost:.2f} ms, {cost - must:.2f} without those"
                f" ({(cost - must) / base:.1f} times bare aiohttp's {base:.2f});"
                f" a plain server of files {plain.cost(kind):.2f} (ratio"
                f" {cost / plain.cost(kind):.2f})"
            )
