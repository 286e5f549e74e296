"""One server's engine over a real database, and a second server's hand for remote events."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId
from federation.events.room_versions import room_version
from federation.events.signing import SigningKey
from federation.graph.building import Edges, EventDraft, build_event
from federation.ports import Clock
from homeserver.app.context import ServerContext
from homeserver.app.engine import Engine, make_engine
from homeserver.engine.entries import TransactionKey
from homeserver.engine.followers.outbound_feed import LogFeed
from homeserver.engine.local.policy_signer import NoPolicyServer
from homeserver.engine.rooms.rooms import Room
from homeserver.engine.store import EngineStore
from homeserver.metrics import ServerMetrics
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from homeserver.storage.postgres_store import PostgresStore
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables

HS1, HS2 = ServerName("hs1"), ServerName("hs2")
ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs2")
KEY_1 = SigningKey.generate(bytes([1]) * 32, "one")
KEY_2 = SigningKey.generate(bytes([2]) * 32, "two")
V12 = room_version("12")


@dataclass
class TickingClock:
    """Each look is a millisecond later."""

    now: int = 1_700_000_000_000

    def now_ms(self) -> int:
        self.now += 1
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def draft(
    kind: str, content: dict[str, object], state_key: str | None = None, sender: UserId = ALICE
) -> EventDraft:
    """What somebody says."""
    return EventDraft(kind, sender, content, state_key)


def message(body: str, sender: UserId = ALICE) -> EventDraft:
    """A text message."""
    return draft("m.room.message", {"msgtype": "m.text", "body": body}, sender=sender)


def context_of(
    name: ServerName, clock: Clock, metrics: ServerMetrics | None = None
) -> ServerContext:
    """What every part of a server under test may use."""
    return ServerContext(name, KEY_1, clock, metrics or ServerMetrics(), os.urandom)


@dataclass
class World:
    """An engine that runs, and what tests do with it."""

    engine: Engine
    clock: TickingClock
    task: asyncio.Task[None]
    stored_in: Database | None = None
    sent: list[EventId] = field(default_factory=list)

    @property
    def database(self) -> Database:
        """The database of a world that has one."""
        assert self.stored_in is not None, "the engine is over a store in memory"
        return self.stored_in

    async def create_room(self, more: Sequence[EventDraft] = ()) -> RoomId:
        """A public room of ALICE."""
        room_id, _ = await self.engine.writer.create(
            V12,
            [
                draft("m.room.create", {"room_version": "12"}, ""),
                draft("m.room.member", {"membership": "join"}, ALICE),
                draft("m.room.power_levels", {"users": {}}, ""),
                draft("m.room.join_rules", {"join_rule": "public"}, ""),
                *more,
            ],
        )
        return room_id

    async def say(self, room_id: RoomId, body: str, txn: str | None = None) -> EventId:
        """A message of ALICE."""
        key = TransactionKey(ALICE, "DEVICE", "/send", txn) if txn else None  # type: ignore[arg-type]
        sent = await self.engine.writer.send(room_id, message(body), transaction=key)
        return sent.event_id

    async def room(self, room_id: RoomId) -> Room:
        """The hot room."""
        room = await self.engine.rooms.get(room_id)
        assert room is not None
        return room

    async def remote(
        self, room_id: RoomId, what: EventDraft, *, parents: Sequence[EventId] | None = None
    ) -> Event:
        """An event of the other server on the room's heads, or on `parents`."""
        room = await self.room(room_id)
        state = room.view.state
        keys: list[StateKey] = [("m.room.power_levels", ""), ("m.room.member", what.sender)]
        if what.type == "m.room.member":
            keys += [("m.room.join_rules", "")]
            if what.state_key != what.sender:
                keys += [("m.room.member", what.state_key or "")]
        heads = parents or [head.event_id for head in room.view.heads]
        return build_event(
            what,
            version=room.version,
            room_id=room_id,
            edges=Edges(
                heads,
                [state[key].event_id for key in keys if key in state],
                max(head.depth for head in room.view.heads) + 1,
            ),
            now_ms=self.clock.now_ms(),
            server_name=HS2,
            key=KEY_2,
        )

    async def bodies(self, room_id: RoomId) -> list[str]:
        """All messages of the room as stored, in room order."""
        room = await self.room(room_id)
        placed = await self.engine.reader.page(
            room, start=(0, -(2**53)), backwards=False, limit=10_000
        )
        return [
            one.entry.event.content["body"]  # type: ignore[union-attr]
            for one in placed
            if one.entry.event.type == "m.room.message"  # type: ignore[union-attr]
        ]


class PlainListEdus:
    """`DeviceListEdus` that say where they come from."""

    async def changes(self, positions: Sequence[int]) -> list[JsonObject]:
        return [_list_edu(position=position) for position in positions]

    async def whole_lists(self, users: Sequence[UserId]) -> list[JsonObject]:
        return [_list_edu(joined=user_id) for user_id in users]


def _list_edu(**content: object) -> JsonObject:
    return {"edu_type": "m.device_list_update", "content": content}


def feed_of(world: World) -> LogFeed:
    """What other servers are owed, followed from now on."""
    engine = world.engine
    return LogFeed(
        engine.store,
        engine.committer,
        engine.rooms,
        server_name=HS1,
        device_list_edus=PlainListEdus(),
    )


@asynccontextmanager
async def running(url: str) -> AsyncIterator[World]:
    """A server's engine; at the end of the block it is gone as by `kill -9`: nothing is flushed."""
    database = await Database.open(url, connections=4)
    try:
        await migrate(database)
        async with _committing(PostgresStore(database), database) as world:
            yield world
    finally:
        await database.close()


@asynccontextmanager
async def in_memory(store: MemoryStore | None = None) -> AsyncIterator[World]:
    """The same over a store in memory; there is no database."""
    async with _committing(store or MemoryStore(Tables()), cast(Database, None)) as world:
        yield world


@asynccontextmanager
async def _committing(store: EngineStore, database: Database) -> AsyncIterator[World]:
    clock = TickingClock()
    engine = await make_engine(context_of(HS1, clock), store, policies=NoPolicyServer())
    engine.fanout.follow(engine.committer)
    task = asyncio.get_running_loop().create_task(engine.committer.run())
    try:
        yield World(engine, clock, task, database)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.committer.disconnect()
