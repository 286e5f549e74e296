"""Loads a cold room, and older states of a room, in a few queries."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from federation.events.event import load_event
from federation.events.ids import EventId, RoomId, ServerName, StateKey, UserId
from federation.events.room_versions import room_version
from homeserver import limits
from homeserver.engine.entries import EventEntry
from homeserver.engine.event_memory import ByteBoundedCache, EventMemory
from homeserver.engine.log import Placed
from homeserver.engine.room import Head, Room, RoomView, membership_counts
from homeserver.engine.snapshots import Chain, Link, StateRef, state_of
from homeserver.engine.stored import client_json, key_of, ref_of, transaction_of
from homeserver.storage import events as event_rows
from homeserver.storage import redactions as redaction_rows
from homeserver.storage import rooms as room_rows
from homeserver.storage import snapshots as snapshot_rows
from homeserver.storage.database import Connection, Database, Row


class RoomLoader:
    """Reads rooms from the database."""

    def __init__(self, database: Database, server_name: ServerName, memory: EventMemory) -> None:
        self._database = database
        self._server_name = server_name
        self._memory = memory
        self._states: ByteBoundedCache[Chain] = ByteBoundedCache(
            limits.STATE_CACHE_BYTES,
            lambda chain: 200 + 150 * sum(len(link.delta) for link in chain),
        )

    async def chain(self, room_nid: int, snapshot: int) -> Chain:
        """A snapshot of a room with its bases."""
        async with self._database.connection() as connection:
            return await self._load_chain(connection, room_nid, snapshot)

    async def load(self, room_id: RoomId) -> Room | None:
        """The room; None for one that we know nothing of but its ID."""
        async with self._database.connection() as connection:
            row = await room_rows.by_room_id(connection, room_id)
            if row is None or row["snapshot_nid"] is None:
                return None
            nid = row["room_nid"]
            chain = await self._load_chain(connection, nid, row["snapshot_nid"])
            heads = await self._load_heads(connection, nid, row["heads"], chain)
            newest = await event_rows.newest(
                connection, nid, after=0, upto=row["position"], limit=limits.ROOM_LOAD_EVENTS
            )
            awaited = await redaction_rows.awaited(connection, nid)
        version = room_version(row["version"])
        state = state_of(chain)
        joined, invited, servers = membership_counts(state)
        view = RoomView(state, chain, heads, row["n"], joined, invited, servers, row["position"])
        room = Room(room_id, nid, version, view)
        room.joined_local = self._locals(state)
        for one in reversed(newest):
            room.remember(Placed(one["position"], self.entry_of(one, room)))
        room.awaited_targets = {EventId(k): EventId(v) for k, v in awaited.items()}
        room.ring_start = newest[-1]["position"] - 1 if newest else row["position"]
        return room

    def _locals(self, state: Mapping[StateKey, StateRef]) -> set[UserId]:
        own = ":" + self._server_name
        return {
            UserId(user)
            for (kind, user), ref in state.items()
            if kind == "m.room.member" and ref.membership == "join" and user.endswith(own)
        }

    async def _load_heads(
        self, connection: Connection, nid: int, heads: list[int], current: Chain
    ) -> tuple[Head, ...]:
        rows = await event_rows.heads(connection, nid, heads)
        loaded = []
        for row in rows:
            chain = current
            if row["snapshot_after"] != current[-1].nid:
                chain = await self._load_chain(connection, nid, row["snapshot_after"])
            depth = orjson.loads(row["json"])["depth"]
            loaded.append(Head(row["event_id"], row["event_nid"], depth, state_of(chain), chain))
        return tuple(loaded)

    async def _load_chain(self, connection: Connection, room_nid: int, snapshot: int) -> Chain:
        cached = self._states.get(str(snapshot))
        if cached is not None:
            return cached
        links = await snapshot_rows.chain(connection, room_nid, snapshot)
        nids = {nid for link in links for nid in (*link["added"], *link["removed"])}
        refs = {
            row["event_nid"]: (key_of(row), ref_of(row))
            for row in await event_rows.refs(connection, room_nid, nids)
        }
        chain = tuple(
            Link(
                link["ordinal"],
                link["snapshot_nid"],
                {refs[nid][0]: None for nid in link["removed"]}
                | {refs[nid][0]: refs[nid][1] for nid in link["added"]},
                tuple(link["removed"]),
            )
            for link in links
        )
        self._states.put(str(snapshot), chain)
        return chain

    def entry_of(self, row: Row, room: Room) -> EventEntry:
        """The log entry of a stored event of a room."""
        event_id = row["event_id"]
        known = self._memory.known(event_id)
        event = known.event if known else load_event(row["json"], room.version, event_id)
        client = self._memory.client(event_id) or client_json(event)
        return EventEntry(
            room_id=room.room_id,
            event=event,
            nid=row["event_nid"],
            order=(row["n"], row["fill"]),
            client=client,
            transaction=transaction_of(row["transaction_of"], row["sender"]),
            replaces=row["replaces"],
            redacted_by=row["redacted_by"],
            to_federate=row["to_federate"],
        )
