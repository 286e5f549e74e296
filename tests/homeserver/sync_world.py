"""Syncs and history over a real engine and database: `room_world` with all that syncs read.

Each user has one device; nobody uploaded keys, and no other server can be asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

import orjson

from federation.events.ids import DeviceId, UserId
from federation.transport.requests.queries import Queries
from homeserver.api.http.routes import table
from homeserver.app.domains.encryption import make_encryption
from homeserver.app.domains.ephemeral import PresenceServices, make_ephemeral
from homeserver.app.domains.sync import make_sync, sync_routes
from homeserver.engine.followers.fanout import Fanout
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.encryption.to_device import ToDevice
from homeserver.services.ephemeral.receipts import Receipts
from homeserver.services.ephemeral.typing import Typing
from homeserver.services.sync.extras import SyncSources
from homeserver.services.sync.filters import Filters
from homeserver.services.sync.loop import Sync
from homeserver.services.timeline.history import History
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from tests.homeserver.peer import Peer
from tests.homeserver.presence_world import UP
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE, Reply, World, world_over

DEV = DeviceId("DEV")
_DEVICES = """
INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms, last_seen_address)
SELECT user_id, $2, 0, 0, '' FROM unnest($1::text[]) AS user_id ON CONFLICT DO NOTHING
"""


@dataclass
class SyncWorld:
    """The room world with syncs and history. `world.call` reaches their handlers too."""

    world: World
    sync: Sync
    history: History
    fanout: Fanout
    account_data: AccountDataService
    receipts: Receipts
    to_device: ToDevice
    typing: Typing
    presence: PresenceServices
    peer: Peer

    async def get(
        self, user: UserId = ALICE, *, since: str | None = None, **query: object
    ) -> dict[str, Any]:
        """The answer of a sync; it must be a good one. A dictionary as a filter is JSON."""
        reply = await self.scope(user, since=since, **query)
        assert reply.status == 200, reply
        body: dict[str, Any] = reply.body
        return body

    async def scope(
        self, user: UserId = ALICE, *, since: str | None = None, **query: object
    ) -> Reply:
        """The reply of a sync."""
        parameters = {"since": since, **query}
        return await self.world.call(user, "GET", "/sync", query=encoded(parameters))

    async def page(self, user: UserId, room_id: str, **query: object) -> Reply:
        """A page of messages; `start` is `from`."""
        query["from"] = query.pop("start", None)
        return await self.world.in_room(user, "GET", room_id, "messages", query=encoded(query))

    async def say(self, user: UserId, room_id: str, *bodies: str) -> list[str]:
        """Sends messages; their event IDs."""
        sent = []
        for body in bodies:
            content = {"msgtype": "m.text", "body": body}
            reply = await self.world.send(user, room_id, content, transaction=quote(f"say-{body}"))
            assert reply.status == 200, reply
            sent.append(str(reply.body["event_id"]))
        return sent

    async def join(self, room_id: str, *users: UserId) -> None:
        """Has users join."""
        for user in users:
            reply = await self.world.join(user, room_id)
            assert reply.status == 200, reply


def encoded(query: Mapping[str, object]) -> str:
    """A query string; None is left out, dictionaries are JSON."""
    pairs = {}
    for name, value in query.items():
        if isinstance(value, dict):
            pairs[name] = orjson.dumps(value).decode()
        elif isinstance(value, bool):
            pairs[name] = "true" if value else "false"
        elif value is not None:
            pairs[name] = str(value)
    return urlencode(pairs)


def bodies(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The bodies of the messages among events."""
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


def types(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The types of events."""
    return [event["type"] for event in events]


@asynccontextmanager
async def sync_world(url: str) -> AsyncIterator[SyncWorld]:
    """The world over a database, empty or as a world before it left it."""
    database = await Database.open(url, connections=3)
    await migrate(database)
    async with database.connection() as connection:
        await connection.execute(_DEVICES, [ALICE, BOB, CAROL, DAVE], DEV)
    async with world_over(database) as world:
        yield _with_syncs(world)


def _with_syncs(world: World) -> SyncWorld:
    """The services over a room world."""
    engine, database = world.engine, world.database
    encryption = make_encryption(engine, database, Queries(cast(Any, None)))
    ephemeral = make_ephemeral(engine, database, lambda _servers, _edu: None, UP)
    engine.fanout.follow(engine.committer)
    sources = SyncSources(
        encryption.to_device,
        encryption.device_lists,
        encryption.keys,
        world.account_data,
        ephemeral.receipts,
        ephemeral.typing,
        ephemeral.presence.own,
        ephemeral.presence.view,
        world.push.counts,
    )
    sync = make_sync(engine, world.timeline, sources)
    world.routes += table(sync_routes(sync, Filters(database=database)))
    return SyncWorld(
        world,
        sync,
        world.timeline.history,
        engine.fanout,
        world.account_data,
        ephemeral.receipts,
        encryption.to_device,
        ephemeral.typing,
        ephemeral.presence,
        Peer(world),
    )
