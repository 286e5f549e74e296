"""mautrix-telegram, unmodified, with a Telegram of the test's own: both as processes.

1. The bridge's account has its authorization key from the start: Telegram's key exchange needs
   Telegram's private RSA key, so the key is put into the bridge's database, where it keeps it.
2. Rooms may be encrypted where the environment has libolm.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import struct
import subprocess
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.faults.servers import until
from tests.hostile.clients.running_server import free_port
from tests.interop.appservices.bridges import (
    PYTHON,
    ROOT,
    WAIT_S,
    BridgesUnavailable,
    ensure_bridges,
    process,
    until_said,
)
from tests.interop.appservices.person import Person

BOT = "telegrambot"
DOUBLES_TOKEN = "token-of-double-puppets"


def png(width: int, height: int) -> bytes:
    """A picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes((200, 30, 90)) * width) * height
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


AVATAR = png(8, 8)


def ensure_mautrix_telegram() -> None:
    """Make sure that it can run. Raises BridgesUnavailable."""
    ensure_bridges()
    done = subprocess.run([PYTHON, "-c", "import magic"], capture_output=True, text=True)
    if done.returncode != 0:
        raise BridgesUnavailable(f"it needs libmagic (Debian's libmagic1): {done.stderr}")


def has_olm() -> bool:
    """Whether the bridge can encrypt."""
    return subprocess.run([PYTHON, "-c", "import olm"], capture_output=True).returncode == 0


class Telegram:
    """The network, as the test commands it (`world.World`)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, name: str, /, **arguments: object) -> Any:
        """Calls something of the world, or reads one of its values."""
        self._writer.write(json.dumps([name, arguments]).encode() + b"\n")
        async with asyncio.timeout(WAIT_S):
            line = await self._reader.readline()
        assert line, f"the network ended at {name}"
        return json.loads(line)

    async def seen(self, what: str) -> list[dict[str, Any]]:
        """What the account did there, of one kind, in order."""
        return [one for one in await self.ask("seen") if one["what"] == what]

    async def until_seen(self, what: str, **fields: object) -> dict[str, Any]:
        """Waits until the account has done something."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            found[:] = [one for one in await self.seen(what) if fields.items() <= one.items()]
            return bool(found)

        await until(is_there, f"Telegram sees {what} {fields}", within_s=WAIT_S)
        return found[-1]


@asynccontextmanager
async def telegram(folder: Path, key: bytes, port: int) -> AsyncIterator[Telegram]:
    """Runs the network on a port, for the account of a key."""
    commands = free_port()
    module = "tests.interop.appservices.telegram.network"
    numbers = [str(port), str(commands)]
    async with process(folder, module, *numbers, key.hex(), AVATAR.hex()) as log:
        await until_said(log, "telegram is up")
        reader, writer = await asyncio.open_connection("127.0.0.1", commands, limit=2**24)
        try:
            yield Telegram(reader, writer)
        finally:
            writer.close()


class Bridge:
    """Its files, and its process."""

    def __init__(self, folder: Path, domain: str, owner: str) -> None:
        """Nothing is written before `prepare`."""
        self.folder, self.domain, self.owner = folder, domain, owner
        self.key = secrets.token_bytes(256)
        self.telegram_port = free_port()
        self.registrations = [folder / "registration.yaml", folder / "doubles.yaml"]
        self.log = folder / "mautrix_telegram.log"
        self._running = AsyncExitStack()

    @property
    def _database(self) -> Path:
        return self.folder / "bridge.sqlite"

    @property
    def _config(self) -> Path:
        return self.folder / "config.yaml"

    def prepare(self) -> None:
        """Writes the configuration, and lets the bridge write its registration."""
        port = free_port()
        table = {
            "homeserver": {
                "address": "http://127.0.0.1",  # said when it is run
                "domain": self.domain,
                "http_retry_count": 60,
            },
            "appservice": {
                "address": f"http://127.0.0.1:{port}",
                "hostname": "127.0.0.1",
                "port": port,
                "database": f"sqlite:{self._database}",
                "bot_avatar": "",
            },
            "bridge": {
                "permissions": {self.owner: "admin"},
                "login_shared_secret_map": {self.domain: f"as_token:{DOUBLES_TOKEN}"},
                "double_puppet_server_map": {},
                "delivery_receipts": True,
                "delivery_error_reports": True,
                "incoming_bridge_error_reports": True,
                "backfill": {"normal_groups": True},
                "startup_sync": True,  # a killed bridge doesn't know how far it had read
                "encryption": {"allow": has_olm(), "appservice": True, "msc4190": True},
            },
            "telegram": {
                "api_id": 1,
                "api_hash": "hash",
                "server": {
                    "enabled": True,
                    "dc": 2,
                    "ip": "127.0.0.1",
                    "port": self.telegram_port,
                },
            },
            "logging": {
                "version": 1,
                "handlers": {"console": {"class": "logging.StreamHandler"}},
                "disable_existing_loggers": False,
                "loggers": {"telethon": {"level": "INFO"}, "aiosqlite": {"level": "INFO"}},
                "root": {"level": "DEBUG", "handlers": ["console"]},
            },
        }
        self._config.write_text(yaml.safe_dump(table))
        command = [str(PYTHON), "-m", "mautrix_telegram", "-c", str(self._config), "-g"]
        command += ["-r", str(self.registrations[0])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        self._complete()

    def _complete(self) -> None:
        """What its documentation has one write by hand."""
        own, doubles = self.registrations
        registration = yaml.safe_load(own.read_text())
        registration["org.matrix.msc3202"] = True
        own.write_text(yaml.safe_dump(registration))
        table = {
            "id": "doublepuppet",
            "url": None,
            "as_token": DOUBLES_TOKEN,
            "hs_token": secrets.token_hex(8),
            "sender_localpart": secrets.token_hex(8),
            "rate_limited": False,
            "namespaces": {"users": [{"regex": f"@.*:{self.domain}", "exclusive": False}]},
        }
        doubles.write_text(yaml.safe_dump(table))

    async def start(self, server_url: str) -> None:
        """Starts the process, and waits until it runs."""
        table = yaml.safe_load(self._config.read_text())
        table["homeserver"]["address"] = server_url
        self._config.write_text(yaml.safe_dump(table))
        running = process(self.folder, "mautrix_telegram", "-c", str(self._config))
        self.log = await self._running.enter_async_context(running)
        await until_said(self.log, "Startup actions complete")

    async def kill(self) -> None:
        """Kills the process (kill -9), and puts its log away."""
        await self._running.aclose()
        if self.log.exists():
            self.log.rename(self.folder / f"before-{time.time_ns()}.log")

    def give_key(self) -> None:
        """Gives the owner's account its authorization key; the bridge has run before."""
        row = (self.owner, 2, "127.0.0.1", self.telegram_port, self.key)
        with closing(sqlite3.connect(self._database)) as database, database:
            database.execute(
                "INSERT INTO telethon_sessions"
                " (session_id, dc_id, server_address, port, auth_key) VALUES (?, ?, ?, ?, ?)",
                row,
            )


@dataclass
class Scene:
    """A user who has logged in to Telegram over the bridge; a group's room, once it is there."""

    alice: Person
    telegram: Telegram
    bridge: Bridge
    group: str = ""

    async def room_named(self, name: str) -> str:
        """Waits until alice is in a room of a name; its ID."""
        found: list[str] = []

        async def is_there() -> bool:
            rooms: Any = (await self.alice.server.sync(self.alice.user)).get("rooms", {})
            for room_id, room in rooms.get("join", {}).items():
                events = [*room["state"]["events"], *room["timeline"]["events"]]
                if any(one["content"].get("name") == name for one in events):
                    found.append(room_id)
            return bool(found)

        await until(is_there, f"the room of {name!r} is there", within_s=WAIT_S)
        return found[-1]


async def log_in(alice: Person, bridge: Bridge, network: Telegram) -> Scene:
    """Logs in as a user does: in a room with the bridge's bot."""
    bridge.give_key()
    invites = [f"@{BOT}:{bridge.domain}"]
    control = await alice.server.create_room(alice.user, is_direct=True, invite=invites)
    for answer, said in (
        ("`login` to log in", "login"),
        ("send your phone number", "+15550001"),
        ("Please send the code here", "12345"),
    ):
        await alice.until_told(control, answer)
        await alice.say(control, said)
    await alice.until_told(control, "Successfully logged in as @alice")
    return Scene(alice, network, bridge)
