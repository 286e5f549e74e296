"""Uploads while the server is killed (kill -9), and how much memory large ones take."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from lab.server_files import toml_table
from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.faults.killable_server import KillableServer, killable_server
from tests.faults.person import Person
from tests.faults.servers import until
from tests.homeserver.s3_server import BUCKET, s3_server

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

_names = count()
MIB = 1024 * 1024
GROWTH_BYTES_MAX = 20 * MIB
PIECE = os.urandom(MIB)
LATER_S = 3 * 3600
TIMEOUT = aiohttp.ClientTimeout(total=250)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    module_folder: Path, postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop
) -> AsyncIterator[KillableServer]:
    """The server, which takes uploads of 2 GiB."""
    url = background_loop.run(postgres_cluster.ensure_database("killed_uploads"))
    async with killable_server(module_folder, url) as server:
        await server.kill()
        server.configure(f"\n[media]\nupload_bytes = {2048 * MIB}\n")
        await server.start()
        yield server


class Uploader:
    """A person with media, who knows what was acknowledged."""

    def __init__(self, session: aiohttp.ClientSession, person: Person) -> None:
        self._session, self._person = session, person
        self.acknowledged: dict[str, bytes] = {}
        """The hashes of contents by their URIs."""

    async def upload(self, data: bytes | AsyncIterator[bytes], sha256: bytes = b"") -> str | None:
        """Uploads; returns the URI, or None if there is no answer."""
        headers = {"Authorization": f"Bearer {self._person.token}"}
        url = f"{self._person.url}/_matrix/media/v3/upload"
        body = io.BytesIO(data) if isinstance(data, bytes) else data
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=TIMEOUT
            ) as answer:
                assert answer.status == 200, await answer.text()
                uri: str = (await answer.json())["content_uri"]
        except (aiohttp.ClientError, ConnectionError):
            return None
        if isinstance(data, bytes):
            sha256 = hashlib.sha256(data).digest()
        self.acknowledged[uri] = sha256
        return uri

    async def download(self, uri: str) -> bytes:
        """Returns the hash of what is downloaded."""
        headers = {"Authorization": f"Bearer {self._person.token}"}
        path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        url, found = self._person.url + path, hashlib.sha256()
        async with self._session.get(url, headers=headers, timeout=TIMEOUT) as answer:
            assert answer.status == 200, (uri, await answer.text())
            async for piece in answer.content.iter_any():
                found.update(piece)
        return found.digest()


@pytest_asyncio.fixture(loop_scope="module")
async def uploader(server: KillableServer) -> AsyncIterator[Uploader]:
    """A new person."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        person = Person(session, server.url)
        await person.register(f"u{next(_names)}")
        yield Uploader(session, person)


async def endless() -> AsyncIterator[bytes]:
    """A body that goes on, some MB a second, until its connection is lost."""
    while True:
        yield PIECE[: MIB // 16]
        await asyncio.sleep(0.01)


def files(folder: Path) -> dict[str, Path]:
    """The files of a part of the store, by name."""
    return {path.name: path for path in folder.rglob("*") if path.is_file()}


async def test_what_was_acknowledged_is_there_and_nothing_else_stays(
    server: KillableServer, uploader: Uploader
) -> None:
    """The server dies with uploads in each of their stages. Those that were answered are whole;
    each row has its content; what is left of the others goes with time.

    Seen to fail when the row of a content was written after the content (its file stayed for ever),
    and when a URI was told before the content was kept.
    """

    async def upload_until_it_fails(size: int) -> None:
        while await uploader.upload(os.urandom(size)) is not None:
            continue

    async with asyncio.TaskGroup() as group:
        group.create_task(uploader.upload(endless()))
        for size in (1, 1000, MIB, MIB, 3 * MIB, 3 * MIB):
            group.create_task(upload_until_it_fails(size))

        async def are_under_way() -> bool:
            is_on_its_way = bool(files(server.media_folder / "incoming"))
            return is_on_its_way and len(uploader.acknowledged) >= 20

        await until(are_under_way, "some uploads are answered, and one is on its way")
        await server.kill()
    assert files(server.media_folder / "incoming"), "one was on its way for certain"
    await server.start()
    for uri, sha256 in uploader.acknowledged.items():
        assert await uploader.download(uri) == sha256
    stored = files(server.media_folder / "blobs")
    for row in await server.database.fetch("SELECT sha256 FROM media WHERE sha256 IS NOT NULL"):
        content = stored[row["sha256"].hex()].read_bytes()
        assert hashlib.sha256(content).digest() == row["sha256"]
    await server.kill()
    server.set_clock(LATER_S)
    await server.start()

    async def is_swept() -> bool:
        rows = await server.database.fetch("SELECT sha256 FROM media WHERE sha256 IS NOT NULL")
        known = await server.database.fetch("SELECT sha256 FROM media_blobs")
        names = {row["sha256"].hex() for row in rows}
        kept = files(server.media_folder)
        return kept.keys() == names == {row["sha256"].hex() for row in known}

    await until(is_swept, "only contents that rows refer to are there")
    for uri, sha256 in uploader.acknowledged.items():
        assert await uploader.download(uri) == sha256


async def test_an_erased_users_uploads_go_and_others_stay(
    server: KillableServer, uploader: Uploader
) -> None:
    """A deactivation without erasure deletes nothing."""
    people = []
    async with aiohttp.ClientSession() as session:
        for erase in (True, False):
            person = Person(session, server.url)
            await person.register(f"e{next(_names)}")
            mine = Uploader(session, person)
            own, shared = await mine.upload(os.urandom(1000)), await mine.upload(PIECE)
            people.append((person, erase, own, shared))
        kept = await uploader.upload(PIECE)
        for person, erase, _, _ in people:
            auth = {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": person.user_id},
                "password": f"p4ss-{person.name}",
            }
            await person.must("POST", "/account/deactivate", {"auth": auth, "erase": erase})

    async def is_gone() -> bool:
        found = "SELECT NOT EXISTS (SELECT FROM media WHERE uploader = $1)"
        return bool(await server.database.fetchval(found, people[0][0].user_id))

    await until(is_gone, "the erased user's uploads are gone")
    assert kept is not None
    assert await uploader.download(kept) == hashlib.sha256(PIECE).digest()
    count = "SELECT count(*) FROM media WHERE uploader = $1"
    assert await server.database.fetchval(count, people[1][0].user_id) == 2


def memory(pid: int, field: str) -> int:
    """Return a figure of a process's memory, in bytes: VmRSS now, VmHWM at its most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def forget_most(pid: int) -> None:
    """Let the most memory be that of now (proc(5): clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def body_of(count: int) -> AsyncIterator[bytes]:
    """A body of so many pieces."""
    for _ in range(count):
        yield PIECE


async def growth(server: KillableServer, uploader: Uploader, mib: int) -> int:
    """Return by how many bytes the server grows at most while a file goes up and down again."""
    uri = await uploader.upload(PIECE)  # so that everything is loaded
    assert uri is not None
    await uploader.download(uri)
    hashed = hashlib.sha256()
    for _ in range(mib):
        hashed.update(PIECE)
    forget_most(server.pid)
    before = memory(server.pid, "VmRSS")
    uri = await uploader.upload(body_of(mib), hashed.digest())
    assert uri is not None
    assert await uploader.download(uri) == hashed.digest()
    return memory(server.pid, "VmHWM") - before


@pytest.mark.parametrize("mib", [200, pytest.param(1024, marks=pytest.mark.long)])
async def test_a_large_file_takes_little_memory(
    server: KillableServer, uploader: Uploader, mib: int
) -> None:
    """Up and down again.

    Seen to fail, with a growth of the whole file, when the pieces of the body were joined.
    """
    grown = await growth(server, uploader, mib)
    assert grown <= GROWTH_BYTES_MAX, f"{grown / MIB:.1f} MiB for {mib} MiB"


@pytest.mark.long
async def test_a_large_file_takes_little_memory_with_s3(
    server: KillableServer, uploader: Uploader
) -> None:
    """Two parts of 5 MiB are in memory at most."""
    with s3_server() as endpoint:
        await server.kill()
        table = {"bucket": BUCKET, "endpoint": endpoint, "region": "us-east-1"}
        keys = {"access_key_id": "key", "secret_access_key": "secret"}
        server.configure('store = "s3"\n' + toml_table("[media.s3]", {**table, **keys}))
        await server.start()
        grown = await growth(server, uploader, 100)
    assert grown <= GROWTH_BYTES_MAX, f"{grown / MIB:.1f} MiB"
