"""Pushes of a real server to a real gateway, each a process: what is owed outlives `kill -9`.

Spec: push gateway API; client-server API, "Push Notifications".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
import pytest_asyncio

from federation.events.hashes import event_id_of
from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.faults.killable_server import KillableServer, killable_server
from tests.faults.person import Person
from tests.faults.servers import until
from tests.homeserver.services.push.delivery.fake_gateway import FakeGateway, fake_gateway
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.hostile.peers.test_joining import send_invite
from tests.spec.witness import check_request

END_THOSE_THAT_WAIT = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
"""Ends the connections of a server that was killed: the database would carry out what waits."""

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def database_url(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """Return the address of the module's database; it goes with the cluster."""
    return background_loop.run(postgres_cluster.ensure_database("t_pushes"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(module_folder: Path, database_url: str) -> AsyncIterator[KillableServer]:
    """Yield the server."""
    async with killable_server(module_folder, database_url) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session of clients."""
    async with aiohttp.ClientSession() as session:
        yield session


class Listener:
    """Bob, who has a phone behind a gateway; Alice, who writes to him."""

    def __init__(self, session: aiohttp.ClientSession, url: str, gateway: FakeGateway) -> None:
        """Take a running server and a gateway."""
        self.alice, self.bob = Person(session, url), Person(session, url)
        self.gateway, self.room_id = gateway, ""
        self.seen = 0

    async def begin(self, name: str, **data: Any) -> None:
        """Make the accounts, the room and the pusher."""
        await self.alice.register(f"alice-{name}")
        await self.bob.register(f"bob-{name}")
        self.room_id = await self.alice.create_room([self.bob])
        pusher = {
            "app_id": "org.example.app",
            "pushkey": name,
            "kind": "http",
            "app_display_name": "App",
            "device_display_name": "Phone",
            "lang": "en",
            "data": {"url": self.gateway.url, **data},
        }
        await self.bob.must("POST", "/pushers/set", pusher)

    async def say(self, body: str) -> str:
        """Alice writes; the event's ID."""
        return await self.alice.send_until_answered(self.room_id, body)

    async def next(self, count: int = 1) -> list[dict[str, Any]]:
        """The next notifications that the gateway gets, held to the specification."""
        found = (await self.gateway.notifications(self.seen + count))[self.seen :]
        self.seen += len(found)
        for one in found:
            body = orjson.dumps({"notification": one})
            check_request("POST", "/_matrix/push/v1/notify", body)
        return found

    async def read(self, event_id: str) -> None:
        """Bob reads on another device."""
        path = f"/rooms/{quote(self.room_id)}/receipt/m.read/{quote(event_id)}"
        await self.bob.must("POST", path, {})


@pytest_asyncio.fixture(loop_scope="module")
async def listener(
    server: KillableServer, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Listener]:
    """Yield the two at the running server, with a gateway of their own."""
    await server.kill()
    await server.start()
    async with fake_gateway(server.authority, tmp_path) as gateway:
        yield Listener(session, server.url, gateway)


async def test_what_was_under_way_at_the_kill_is_pushed_after_the_start(
    server: KillableServer, listener: Listener
) -> None:
    """The gateway has a notification, and hasn't answered; another one is only in the log."""
    await listener.begin("killed")
    await listener.gateway.set({"hang": True})
    first = await listener.say("one")
    (told,) = await listener.next()
    assert told["event_id"] == first
    second = await listener.say("two")
    await server.kill()
    await listener.gateway.set()
    await server.start()
    again = await listener.next(2)
    assert [one["event_id"] for one in again] == [first, second]
    assert again[1]["counts"] == {"unread": 2}
    await listener.read(second)
    (badge,) = await listener.next()
    assert badge["counts"] == {"unread": 0}
    assert "event_id" not in badge
    third = await listener.say("three")
    (told,) = await listener.next()
    assert told["event_id"] == third


async def test_an_invite_to_a_room_elsewhere_that_is_only_in_the_log_is_pushed_after_the_start(
    server: KillableServer, listener: Listener
) -> None:
    """The inviting server was told that it is taken; no notification of it could be stored."""
    await listener.begin("invited")
    room = ScriptedRoom(server.peer, join_rule="invite")
    content = {"membership": "invite"}
    invite = room.event(type="m.room.member", state_key=listener.bob.user_id, content=content)
    async with server.database.transaction():
        await server.database.execute("LOCK TABLE owed_pushes IN EXCLUSIVE MODE")
        assert (await send_invite(room, invite, room.state)).status == 200
        await server.kill()
        await server.database.execute(END_THOSE_THAT_WAIT)
    event_id = event_id_of(invite, room.version)
    found = "SELECT count(*) FROM owed_pushes WHERE event_id = $1"
    assert not await server.database.fetchval(found, event_id)
    await server.start()
    (told,) = await listener.next()
    assert told["event_id"] == event_id
    assert (told["type"], told["room_id"]) == ("m.room.member", room.room_id)


async def test_a_gateway_that_fails_gets_it_later(listener: Listener) -> None:
    """Errors, garbage and rubbish are failures; the event is told once they end."""
    await listener.begin("fails", format="event_id_only")
    await listener.gateway.set({"status": 500})
    event_id = await listener.say("one")
    tries = await listener.next(2)
    await listener.gateway.set({"body": "<html>"})
    tries += await listener.next(2)
    await listener.gateway.set()
    tries += await listener.next(1)
    assert {one["event_id"] for one in tries} == {event_id}
    assert not any("content" in one for one in tries)
    second = await listener.say("two")

    async def is_told() -> bool:
        return bool((await listener.next(1))[-1]["event_id"] == second)

    await until(is_told, "the second event is told")


async def test_pushers_end_with_rejected_keys_and_with_their_device(
    server: KillableServer, listener: Listener
) -> None:
    """A gateway that rejects a key, and a log-out, leave no pusher."""

    async def is_gone() -> bool:
        found = "SELECT count(*) FROM pushers WHERE user_id = $1"
        return not int(await server.database.fetchval(found, listener.bob.user_id))

    await listener.begin("ends")
    await listener.gateway.set({"rejected": ["ends"]})
    await listener.say("one")
    await listener.next()
    await until(is_gone, "the rejected pusher is deleted")
    await listener.begin("ends-too")
    assert not await is_gone()
    await listener.bob.must("POST", "/logout", {})
    assert await is_gone()
