"""One `freehold serve` process that a test kills (kill -9), beside a scripted peer.

The peer takes an event and holds its answer until the process is dead: whatever the machine's load,
the server is killed between the other side's acceptance and its own commit.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import asyncpg
import trustme

from federation.events.canonical_json import JsonObject
from lab.processes import Child, start_child
from lab.server_files import toml_table
from lab.topology import free_ports
from tests.faults.person import Answer, Person
from tests.faults.servers import LAUNCHER, SHORTER, until
from tests.hostile.clients.running_server import SERVER
from tests.hostile.peers.scripted_peer import Http, ScriptedPeer, scripted_peer


class KillableServer:
    """The process, its files and its database; `peer` is the other server that it knows, and
    `authority` whose certificates it trusts."""

    def __init__(
        self,
        folder: Path,
        peer: ScriptedPeer,
        database: asyncpg.Connection,
        url: str,
        authority: trustme.CA,
    ) -> None:
        """Take files that are written; nothing is started. Clients come by `url`."""
        self.peer, self.database, self.url, self.authority = peer, database, url, authority
        self._folder = folder
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._child is not None, "it is up"
        return self._child.process.pid

    @property
    def media_folder(self) -> Path:
        """Where contents of media are."""
        return self._folder / "data" / "media"

    def configure(self, text: str) -> None:
        """Add tables to the configuration, for the next start."""
        with (self._folder / "server.toml").open("a") as file:
            file.write(text)

    def set_clock(self, seconds: int) -> None:
        """Put the time of day forward."""
        (self._folder / "clock").write_text(str(seconds))

    async def start(self) -> None:
        """Start the process; return when it answers."""
        assert self._child is None, "it is down"
        path, clock = self._folder / "server.toml", self._folder / "clock"
        launcher = [sys.executable, "-c", LAUNCHER, json.dumps(SHORTER), str(clock)]
        command = [*launcher, "serve", "--config", str(path)]
        child = self._child = start_child(SERVER, command, self._folder / "log")
        async with aiohttp.ClientSession() as session:
            person = Person(session, self.url)

            async def answers() -> bool:
                assert not child.has_ended, child.log_path.read_text()[-3000:]
                return (await person.call("GET", "/login")).status == 200

            await until(answers, "the server answers")

    async def kill(self) -> None:
        """Kill it, if it runs (kill -9)."""
        child, self._child = self._child, None
        if child is not None:
            child.process.kill()
            await asyncio.to_thread(child.process.wait)

    async def killed_at(self, part: str, asking: Awaitable[Answer]) -> tuple[JsonObject, Answer]:
        """Kill the server once the peer has its request at a path with `part`, which a client's
        request leads to; start it again. Returns the request's body, and what the client got."""
        reached: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        is_dead = asyncio.Event()

        async def hold(_path: str, body: JsonObject) -> Http:
            if not reached.done():
                reached.set_result(body)
            await is_dead.wait()
            return Http(500)

        sound = self.peer.answers
        self.peer.answers = {part: hold, **{key: sound[key] for key in sound if key != part}}
        task = asyncio.ensure_future(asking)

        async def is_reached() -> bool:
            return reached.done()

        await until(is_reached, f"the peer has the request {part}")
        await self.kill()
        is_dead.set()
        answer = await task
        self.peer.answers = sound
        return reached.result(), answer

    async def memberships(self, room_id: str) -> dict[str, str]:
        """Who is what in a room, as the server has stored it."""
        rows = await self.database.fetch(
            "SELECT user_id, membership FROM memberships JOIN rooms"
            " USING (room_row_id) WHERE room_id = $1",
            room_id,
        )
        return {row["user_id"]: row["membership"] for row in rows}

    async def until_settled(self) -> None:
        """Wait until no exchange is to be finished or undone."""

        async def is_settled() -> bool:
            found = "SELECT NOT EXISTS (SELECT FROM joining_intents)"
            return bool(await self.database.fetchval(found))

        await until(is_settled, "all exchanges are over")


@asynccontextmanager
async def killable_server(folder: Path, database_url: str) -> AsyncIterator[KillableServer]:
    """Run the server and its peer; both are gone after the block."""
    authority = trustme.CA()
    tls = next(free_ports(1, {1}))
    http = next(free_ports(1, {1, tls}))
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(scripted_peer("evil.example", authority, 7))
        peer.target = f"127.0.0.1:{tls}"
        _write(folder, authority, peer, database_url, (peer.target, f"127.0.0.1:{http}"))
        database = await asyncpg.connect(database_url)
        stack.push_async_callback(database.close)
        server = KillableServer(folder, peer, database, f"http://127.0.0.1:{http}", authority)
        stack.push_async_callback(server.kill)
        await server.start()
        yield server


def _write(
    folder: Path,
    authority: trustme.CA,
    peer: ScriptedPeer,
    database_url: str,
    addresses: tuple[str, str],
) -> None:
    """Write the server's certificates and its configuration."""
    made = authority.issue_cert(SERVER, "localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(0o600)
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    tls, plain = addresses
    files = {"tls_cert_path": str(folder / "cert.pem"), "tls_key_path": str(folder / "key.pem")}
    top = {
        "server_name": SERVER,
        "data_dir": str(folder / "data"),
        "signing_key_path": str(folder / "signing.key"),
        "default_room_version": "12",
    }
    parts = [
        toml_table("", {**top}),
        toml_table("[database]", {"url": database_url}),
        toml_table("[[listeners]]", {"address": tls, **files}),
        toml_table("[[listeners]]", {"address": plain}),
        toml_table("[registration]", {"enabled": True, "verification": "none"}),
        toml_table("[rate_limits]", {"enabled": False}),
        toml_table("[passwords]", {"iterations": 1, "memory_kib": 32}),
        toml_table("[federation]", {"ca_paths": (str(folder / "ca.pem"),)}),
        toml_table(
            "[push]",
            {"ca_paths": (str(folder / "ca.pem"),), "allow_private_addresses": True},
        ),
        toml_table("[federation.address_overrides]", {f'"{peer.name}"': peer.address}),
    ]
    path = folder / "server.toml"
    path.write_text("\n".join(parts))
    path.chmod(0o600)
