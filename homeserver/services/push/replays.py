"""Reads a stretch of the log again from the tables, after a restart.

Of receipts only the newest are stored: older ones would have no effect beside them. Of a user's
memberships of a room that this server isn't in the newest is stored: an invite that was withdrawn
or answered notifies nobody any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import RoomId
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, ReceiptEntry, StateChange, StateEntry
from homeserver.engine.remote.outside_memberships import outside_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.stored import key_of
from homeserver.engine.store import EngineStore
from homeserver.storage.database import Database
from homeserver.storage.ephemeral.receipts import ReceiptTable
from homeserver.storage.push.unread import UnreadTable
from homeserver.storage.rooms.memberships import MembershipTable


class LogReplay:
    """Rebuilds the entries that counts and pushes depend on: events, changes of state, receipts,
    and invites to rooms elsewhere."""

    def __init__(self, database: Database, rooms: Rooms, store: EngineStore) -> None:
        self._table, self._receipts = UnreadTable(database), ReceiptTable(database)
        self._memberships = MembershipTable(database)
        self._rooms, self._store = rooms, store

    async def between(self, after: int, up_to: int) -> list[Placed]:
        """Returns the entries with after < position <= up_to, in order."""
        found: list[Placed] = []
        room_ids = await self._table.changed_rooms(after)
        for room_id in room_ids:
            room = await self._rooms.get(room_id)
            if room is not None:
                found += await self._of_room(room, after, up_to)
        found += await self._of_receipts(room_ids, after, up_to)
        for row in await self._memberships.outside_between(after, up_to):
            found.append(Placed(row.position, outside_entry(row)))
        return sorted(found, key=lambda placed: placed.position)

    async def _of_room(self, room: Room, after: int, up_to: int) -> list[Placed]:
        changes: dict[int, list[StateChange]] = {}
        for row in await self._store.state_changes.between(room.row_id, after=after, up_to=up_to):
            change = StateChange(key_of(row), row.event_id, row.membership, row.former)
            changes.setdefault(row.position, []).append(change)
        rows = await self._store.events.newest(
            room.row_id, after=after, up_to=up_to, limit=limits.PUSH_REPLAYED_EVENTS
        )
        found: list[Placed] = []
        for event in rows:
            assert event.position is not None, "it is in the log"
            entry: EventEntry = msgspec.structs.replace(
                self._rooms.loader.entry_of(event, room),
                changes=tuple(changes.pop(event.position, ())),
            )
            found.append(Placed(event.position, entry))
        return found + [
            Placed(position, StateEntry(room.room_id, tuple(alone)))
            for position, alone in changes.items()
        ]

    async def _of_receipts(
        self, room_ids: Sequence[RoomId], after: int, up_to: int
    ) -> list[Placed]:
        rows = await self._receipts.load_between(room_ids, after=after, up_to=up_to)
        return [
            Placed(
                row.position,
                ReceiptEntry(row.room_id, row.user_id, row.kind, row.thread, row.event_id, row.ts),
            )
            for row in rows
        ]
