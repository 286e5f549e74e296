"""The server is killed (kill -9) while it sends transactions: the service gets every event that a
client was told of, in order, each in one transaction."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import yaml

from tests.faults.servers import until
from tests.homeserver.appservice_world import AS_TOKEN, registration
from tests.homeserver.bridge_service import BridgeService, bridge_service
from tests.hostile.clients.running_server import free_port

pytestmark = pytest.mark.processes

MESSAGES_PER_LIFE = 15
LIVES = 3


class KilledServer:
    """`freehold serve`, which is killed and started again."""

    def __init__(self, folder: Path, database_url: str, *registrations: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._config = folder / "freehold.toml"
        self._log = folder / "log"
        self._config.write_text(
            f"""
server_name = "here.example"
signing_key_path = "{folder / "signing.key"}"
database.url = "{database_url}"
listeners = [{{ address = "{self.url.removeprefix("http://")}" }}]
registration = {{ enabled = true, verification = "none" }}
rate_limits.enabled = false
appservices.registrations = {json.dumps([str(one) for one in registrations])}
"""
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Starts it; returns once it answers."""
        code = "from homeserver.cli import main; main(prog_name='freehold')"
        command = [sys.executable, "-c", code, "serve", "--config", str(self._config)]
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdout=descriptor, stderr=descriptor
            )
        finally:
            os.close(descriptor)

        async def answers() -> bool:
            try:
                async with session.get(self.url + "/_matrix/client/versions") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await until(answers, "the server answers")

    async def kill(self) -> None:
        """Kills it, without a warning."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        await self._process.wait()


async def call(
    session: aiohttp.ClientSession, server: KilledServer, method: str, path: str, **more: Any
) -> Any:
    """A request that must succeed; `token` is its token."""
    headers = {"Authorization": f"Bearer {more.pop('token')}"} if "token" in more else {}
    url = f"{server.url}/_matrix/client/v3{path}"
    async with session.request(method, url, headers=headers, **more) as response:
        body = await response.json()
        assert response.status == 200, (method, path, body)
        return body


async def test_nothing_is_lost_or_reordered(postgres_url: str, tmp_path: Path) -> None:
    sent: list[str] = []
    async with bridge_service() as service, aiohttp.ClientSession() as session:
        file = tmp_path / "irc.yaml"
        file.write_text(yaml.safe_dump(registration(url=service.url)))
        server = KilledServer(tmp_path, postgres_url, file)
        await server.start(session)
        body = {"username": "alice", "password": "p", "auth": {"type": "m.login.dummy"}}
        alice = (await call(session, server, "POST", "/register", json=body))["access_token"]
        preset = {"preset": "public_chat"}
        made = await call(session, server, "POST", "/createRoom", json=preset, token=alice)
        room = quote(made["room_id"])
        await call(session, server, "POST", f"/join/{room}", json={}, token=AS_TOKEN)
        for life in range(LIVES):
            for number in range(MESSAGES_PER_LIFE):
                path = f"/rooms/{room}/send/m.room.message/{life}-{number}"
                message = {"msgtype": "m.text", "body": f"{life} {number}"}
                found = await call(session, server, "PUT", path, json=message, token=alice)
                sent.append(found["event_id"])
            await server.kill()  # in the middle of what is being sent, or before it
            await server.start(session)
        await service.until_sent(sent[-1])
        await server.kill()
    _check(service, sent)


def _check(service: BridgeService, sent: list[str]) -> None:
    bodies: dict[str, Any] = {}
    for one in service.transactions:
        assert bodies.setdefault(one.path, one.body) == one.body, "a repeat is the same"
    events = [event for body in bodies.values() for event in body["events"]]
    messages = [event["event_id"] for event in events if event["type"] == "m.room.message"]
    assert messages == sent
