"""Memberships of local users in rooms that this server isn't in: invites and knocks, and their ends
(`federation.ports.OutsideRooms`).

Rules:
1. Each membership is stored with its event and the room version: without the room's state, later
   events can only be checked against these.
2. Only the newest membership can be ended: a late end doesn't end a later invite.
3. The event itself decides the user's own membership, not stripped state.
4. Once a local user is joined, the room's own events decide memberships, and nothing is stored
   here.
5. A user who isn't invited and doesn't knock has nothing to end: the leave that undoes a failed
   join isn't stored, so clients don't see a room that the user was never in, and an older leave or
   ban stays.

Spec: server-server API, "Inviting to a room", "Leaving Rooms", "Knocking upon a room".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.events.room_versions import ROOM_VERSIONS
from federation.ports import OutsideMembership
from homeserver.engine.entries import MembershipEntry, Unit
from homeserver.engine.log.committer import Committer
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.store import EngineStore
from homeserver.rules.any_json import dump_any
from homeserver.storage.rooms.memberships import PlacedOutsideRow

_OPEN = ("invite", "knock", "join")
"""Memberships that can end; a join counts if other servers' events say that no local user is in the
room.
"""


class OutsideMemberships:
    """Stores these memberships; changes of a user in a room are serialised."""

    def __init__(
        self, store: EngineStore, rooms: Rooms, committer: Committer, server_name: ServerName
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._committer = committer
        self._server_name = server_name
        self._turns: WeakValueDictionary[tuple[RoomId, UserId], asyncio.Lock] = (
            WeakValueDictionary()
        )

    def _turn(self, room_id: RoomId, user_id: UserId) -> asyncio.Lock:
        return self._turns.setdefault((room_id, user_id), asyncio.Lock())

    async def _is_in(self, room_id: RoomId) -> bool:
        room = await self._rooms.get(room_id)
        return room is not None and self._server_name in room.view.servers

    async def find(self, room_id: RoomId, user_id: UserId) -> OutsideMembership | None:
        """`OutsideRooms.find`."""
        if await self._is_in(room_id):
            return None
        row = await self._store.memberships.of_user_in(user_id, room_id)
        version = None if row is None else ROOM_VERSIONS.get(row.version or "")
        if row is None or version is None:
            return None
        return OutsideMembership(row.membership, row.event_id, row.sender, version)

    async def keep(
        self, event: Event, stripped_state: Sequence[JsonObject], via: ServerName | None = None
    ) -> None:
        """`OutsideRooms.keep`."""
        user_id = UserId(str(event.state_key))
        async with self._turn(event.room_id, user_id):
            if not await self._is_in(event.room_id):  # otherwise it comes as an event of the room
                stripped = dump_any(_with_own(stripped_state, event))
                await self._commit(user_id, event, stripped, via)

    async def end(self, event: Event, former: EventId | None = None) -> bool:
        """`OutsideRooms.end`."""
        user_id = UserId(str(event.state_key))
        async with self._turn(event.room_id, user_id):
            if not await self._may_end(event.room_id, user_id, former):
                return False
            await self._commit(user_id, event, b"[]")
            return True

    async def end_unsigned(self, room_id: RoomId, user_id: UserId, former: EventId) -> bool:
        """Ends the membership of the event `former` at the user's request, without an event that
        other servers have. Returns False if it isn't the newest any more."""
        async with self._turn(room_id, user_id):
            if not await self._may_end(room_id, user_id, former):
                return False
            entry = MembershipEntry(user_id, room_id, "leave", former, user_id)
            await self._committer.submit(Unit([entry]))
            return True

    async def _may_end(self, room_id: RoomId, user_id: UserId, former: EventId | None) -> bool:
        """Returns whether there is a membership to end: that of the event `former`, or any
        (None).
        """
        if await self._is_in(room_id):
            return False
        row = await self._store.memberships.of_user_in(user_id, room_id)
        if row is None or row.membership not in _OPEN:
            return False
        return former is None or row.event_id == former

    async def _commit(
        self, user_id: UserId, event: Event, stripped: bytes, via: ServerName | None = None
    ) -> None:
        assert event.membership, "it is a membership event"
        entry = MembershipEntry(
            user_id,
            event.room_id,
            event.membership,
            event.event_id,
            event.sender,
            stripped,
            event.raw,
            event.version.name,
            via or "",
        )
        await self._committer.submit(Unit([entry]))


def outside_entry(row: PlacedOutsideRow) -> MembershipEntry:
    """Returns the entry of the log that a stored membership was written by."""
    return MembershipEntry(
        row.user_id,
        row.room_id,
        row.membership,
        row.event_id,
        row.sender,
        row.stripped or b"[]",
        row.event,
        row.version,
        row.via or "",
    )


def _with_own(stripped_state: Sequence[JsonObject], event: Event) -> list[JsonObject]:
    """Returns stripped state with the user's own membership by the event (is_direct, reason,
    name).
    """
    own: JsonObject = {
        "type": event.type,
        "state_key": event.state_key,
        "sender": event.sender,
        "content": event.content,
    }
    key = (event.type, event.state_key)
    others = [one for one in stripped_state if (one.get("type"), one.get("state_key")) != key]
    return [*others, own]
