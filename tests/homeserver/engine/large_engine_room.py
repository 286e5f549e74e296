"""Rooms of many members in an engine over the store in memory, as after a join, without signing;
and a fork in them (`tests.federation.graph.large_room`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName
from federation.graph.admission import Accepted
from homeserver.app.engine import Engine, make_engine
from homeserver.engine.local.policy_signer import NoPolicyServer
from homeserver.engine.rooms.citations import cited_first
from homeserver.engine.rooms.room import Room
from homeserver.metrics import ServerMetrics
from homeserver.storage.batches import CommitRows
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline.events import EventRow, StoredVerdict
from tests.federation.graph.large_room import LEVELS, LargeRoom
from tests.homeserver.engine.engine_world import TickingClock, context_of
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables

HERE = ServerName("a")
ROOM_NID = 1


def with_parents(event: Event, parents: Sequence[EventId]) -> Event:
    """The event after these parents, with the JSON that it is stored as."""
    pdu: dict[str, Any] = {
        "type": event.type,
        "sender": event.sender,
        "content": event.content,
        "prev_events": _references(event, parents),
        "auth_events": _references(event, event.auth_events),
        "depth": event.depth,
        "origin_server_ts": event.origin_server_ts,
        "room_id": event.room_id,
        "state_key": event.state_key,
    }
    if event.state_key is None:
        del pdu["state_key"]
    return msgspec.structs.replace(event, prev_events=tuple(parents), raw=orjson.dumps(pdu))


def _references(event: Event, cited: Sequence[EventId]) -> list[object]:
    if event.version.event_ids_are_hashes:
        return list(cited)
    return [[event_id, {"sha256": ""}] for event_id in cited]


def stored(room: LargeRoom) -> Tables:
    """The tables of a server that joined the room: its state, the newest event as the head."""
    tables = Tables()
    events = cited_first([with_parents(one, one.prev_events) for one in room.settled])
    row_ids = {one.event_id: 100 + i for i, one in enumerate(events)}
    tables.next_row_id = 100 + 2 * len(events)
    first = 2
    state = [row_ids[event_id] for event_id in room.base.values()]
    rows = [_row(one, row_ids[one.event_id]) for one in events]
    newest = rows[-1] = msgspec.structs.replace(
        rows[-1], outlier=False, position=1, snapshot_before=first, snapshot_after=first
    ).at((1, 0))
    commit = CommitRows(0, 0, 1)
    commit.rooms = [(ROOM_NID, room.room_id, room.version.name)]
    commit.events = rows
    commit.snapshots = [SnapshotRow(ROOM_NID, first, None, 0, state, ())]
    commit.heads = [(ROOM_NID, [newest.event_row_id], first, 1, 1)]
    tables.apply(commit, plain=False)
    return tables


def _row(event: Event, row_id: int) -> EventRow:
    return EventRow(
        room_row_id=ROOM_NID,
        event_row_id=row_id,
        event_id=event.event_id,
        type=event.type,
        state_key=event.state_key,
        sender=event.sender,
        membership=event.membership,
        position=None,
        live_index=None,
        gap_index=None,
        verdict=StoredVerdict.ACCEPTED,
        reason=None,
        rule=None,
        outlier=True,
        unverified=False,
        to_federate=False,
        snapshot_before=None,
        snapshot_after=None,
        replaces=None,
        redacted_by=None,
        transaction_of=None,
        json=event.raw,
    )


def message(large: LargeRoom, number: int) -> Event:
    """A message of the admin, without parents as yet."""
    [event] = large.beside(
        [lambda: large.add("m.room.message", "", {"body": str(number)}, cites=(LEVELS,))]
    )
    return msgspec.structs.replace(event, state_key=None)


@dataclass
class LargeWorld:
    """An engine with one large room."""

    engine: Engine
    store: MemoryStore
    tables: Tables
    large: LargeRoom
    metrics: ServerMetrics
    looks: list[str]
    """The looks at the store, by method."""

    async def room(self) -> Room:
        """The hot room."""
        room = await self.engine.rooms.get(RoomId(self.large.room_id))
        assert room is not None
        return room

    async def accept(self, event: Event, parents: Sequence[EventId]) -> Event:
        """Hands in an event of another server."""
        event = with_parents(event, parents)
        verdict = await self.engine.remote_event_writer.accept(event, Accepted())
        assert verdict == Accepted(), verdict
        return event

    async def branch(self, events: Sequence[Event], parent: EventId) -> EventId:
        """Hands in events that follow each other; returns the last one's ID."""
        for event in events:
            parent = (await self.accept(event, [parent])).event_id
        return parent


@asynccontextmanager
async def large_world(large: LargeRoom, tables: Tables | None = None) -> AsyncIterator[LargeWorld]:
    """An engine that runs over the room's tables."""
    tables = tables or stored(large)
    store, looks = MemoryStore(tables), list[str]()
    for table in (store.events, store.gaps, store.redactions, store.rooms, store.snapshots):
        _record_looks(table, looks)
    _record_looks(store.state_changes, looks)
    metrics = ServerMetrics()
    context = context_of(HERE, TickingClock(), metrics)
    engine = await make_engine(context, store, policies=NoPolicyServer())
    task = asyncio.get_running_loop().create_task(engine.committer.run())
    try:
        yield LargeWorld(engine, store, tables, large, metrics, looks)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _record_looks(part: object, looks: list[str]) -> None:
    """Has each public method of a part of the store note its name."""
    for name in dir(type(part)):
        if not name.startswith("_"):
            setattr(part, name, _noting(getattr(part, name), name, looks))


def _noting(method: Any, name: str, looks: list[str]) -> Any:
    async def noted(*args: Any, **options: Any) -> Any:
        looks.append(name)
        return await method(*args, **options)

    return noted
