"""Syncs and history over a real engine and database: `room_world` with the services of this page.

What isn't under test is simple: keys of devices are counted as none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver.api.http.query import PageTokens
from homeserver.api.sync.sync import SyncApi
from homeserver.api.timeline.history import HistoryApi
from homeserver.clock import SystemClock
from homeserver.engine.entries import AccountDataEntry, Unit
from homeserver.engine.followers.fanout import Fanout
from homeserver.engine.log.committer import Committer
from homeserver.engine.rooms.reader import event_entry
from homeserver.services.encryption.device_lists import DeviceLists
from homeserver.services.encryption.to_device import ToDevice
from homeserver.services.ephemeral.receipts import Receipts
from homeserver.services.ephemeral.typing import Typing
from homeserver.services.sync.filters import Filters
from homeserver.services.sync.lazy_members import LazyMembers
from homeserver.services.sync.loop import Sync, SyncEngine
from homeserver.services.sync.rooms.departed import DepartedRooms
from homeserver.services.sync.rooms.joined import RoomPlanner
from homeserver.services.sync.rooms.state import SyncState
from homeserver.services.sync.rooms.timelines import Timelines
from homeserver.services.sync.sources import SyncSources
from homeserver.services.timeline.history import History
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage import logs
from homeserver.storage.account_data.account_data import AccountData, AccountDataTable
from homeserver.storage.database import Database
from homeserver.storage.engine_store import PostgresStore
from homeserver.storage.migrate import migrate
from tests.homeserver.peer import Peer, make_peer
from tests.homeserver.room_world import ALICE, HERE, Reply, World
from tests.homeserver.room_world import _world as room_services

DEV = DeviceId("DEV")


@dataclass(frozen=True)
class Counts:
    """No keys."""

    one_time: Mapping[str, int]
    unused_fallback: Sequence[str]


class NoKeys:
    """Devices without keys."""

    async def counts(self, user_id: UserId, device_id: DeviceId) -> Counts:
        """None."""
        return Counts({"signed_curve25519": 0}, ())


@dataclass(frozen=True)
class StoredAccountData:
    """Account data without rules."""

    database: Database
    committer: Committer

    async def between(self, user_id: UserId, *, after: int, up_to: int) -> list[AccountData]:
        """As the service has it."""
        return await AccountDataTable(self.database).load_between(user_id, after=after, up_to=up_to)

    async def put(self, user_id: UserId, room_id: RoomId | str, kind: str, content: object) -> None:
        """Sets an item."""
        entry = AccountDataEntry(user_id, room_id, kind, orjson.dumps(content))
        await self.committer.submit(Unit([entry]))


@dataclass
class SyncWorld:
    """The room world with syncs and history. `world.call` reaches their handlers too."""

    world: World
    sync: Sync
    history: History
    fanout: Fanout
    account_data: StoredAccountData
    receipts: Receipts
    to_device: ToDevice
    typing: Typing
    peer: Peer

    async def get(
        self, user: UserId = ALICE, *, since: str | None = None, **query: object
    ) -> dict[str, Any]:
        """The answer of a sync; it must be a good one. A dictionary as a filter is JSON."""
        reply = await self.ask(user, since=since, **query)
        assert reply.status == 200, reply
        body: dict[str, Any] = reply.body
        return body

    async def ask(
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
        owned = await logs.take_over(connection, "history")
    committer = Committer(PostgresStore(database), owned)
    running = asyncio.ensure_future(committer.run())
    try:
        yield make(room_services(database, committer), database)
    finally:
        await committer.close(10)
        await running
        await committer.disconnect()
        await database.close()


def make(world: World, database: Database) -> SyncWorld:
    """The services over a room world, as `app` joins them."""
    committer, rooms = world.committer, world.engine.rooms
    memberships, clock = world.engine.memberships, SystemClock()

    async def own_devices(
        user_ids: Collection[UserId],
    ) -> Mapping[UserId, Mapping[DeviceId, str | None]]:
        return {user_id: {DEV: None} for user_id in user_ids}

    device_lists = DeviceLists(
        database=database,
        rooms=rooms,
        shared=memberships,
        position=committer.position,
    )

    async def order_of(room_id: RoomId, event_id: EventId) -> tuple[int, int] | None:
        room = await rooms.get(room_id)
        placed = None if room is None else await world.reader.place(room, event_id)
        return None if placed is None else event_entry(placed).order

    receipts = Receipts(
        database=database,
        committer=committer,
        rooms=rooms,
        clock=clock,
        position=committer.position,
        order_of=order_of,
    )
    to_device = ToDevice(
        database=database,
        committer=committer,
        server_name=HERE,
        own_devices=own_devices,
        clock=clock,
        random_bytes=os.urandom,
    )
    stored = StoredAccountData(database, committer)
    fanout = Fanout(rooms, memberships, HERE)

    def wake_room(room_id: RoomId) -> None:
        room = rooms.hot(room_id)
        if room is not None:
            fanout.wake_room(room)

    typing = Typing(
        rooms=rooms, clock=clock, boot=77, wake_room=wake_room, announce=lambda *_: None
    )
    for follower in (device_lists.on_commit, receipts.on_commit, to_device.on_commit):
        committer.subscribe(follower)
    fanout.follow(committer)
    visibility = Visibility(rooms, world.reader, HERE)
    lazy = LazyMembers()
    timelines, state = Timelines(world.reader, visibility), SyncState(rooms)
    sync = Sync(
        SyncEngine(rooms, memberships, committer, fanout, clock),
        RoomPlanner(rooms, world.reader, timelines, state, lazy),
        DepartedRooms(rooms, world.reader, memberships, timelines, state),
        lazy,
        SyncSources(to_device, device_lists, NoKeys(), stored, receipts, typing),
    )
    world.routes += SyncApi(sync, Filters(database=database)).routes()
    history = _history(world, visibility, clock)
    peer = make_peer(world, database)
    return SyncWorld(world, sync, history, fanout, stored, receipts, to_device, typing, peer)


def _history(world: World, visibility: Visibility, clock: SystemClock) -> History:
    rooms, memberships = world.engine.rooms, world.engine.memberships
    log_history = world.committer.history
    history = History(
        rooms, world.reader, memberships, visibility, clock=clock, log_history=log_history
    )
    world.routes += HistoryApi(history, PageTokens(log_history)).routes()
    return history
