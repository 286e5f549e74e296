"""Memberships of rooms: those of local users from memory, others from the table."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from federation.events import event_types
from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from federation.events.room_versions import ROOM_VERSIONS
from homeserver import limits
from homeserver.engine.entries import EventEntry, MembershipEntry, Placed, StateChange, StateEntry
from homeserver.engine.log.committer import Committer
from homeserver.engine.store import EngineStore


class UserRoom(msgspec.Struct, frozen=True):
    """One room of a user. `stripped`: JSON array, of an invite or knock to a remote room; `via`:
    the server that took the knock."""

    membership: str
    position: int
    event_id: EventId
    sender: UserId
    forgotten: bool = False
    stripped: bytes = b""
    via: ServerName | None = None


class Memberships:
    """The rooms of users; those of local users are kept in memory once loaded."""

    def __init__(self, store: EngineStore, committer: Committer, server_name: ServerName) -> None:
        self._store = store
        self._committer = committer
        self._server_name = server_name
        self._users: OrderedDict[UserId, dict[RoomId, UserRoom]] = OrderedDict()
        self.bytes = 0
        committer.subscribe(self._published)

    async def of(self, user_id: UserId) -> Mapping[RoomId, UserRoom]:
        """Returns every room of a local user, left, banned and forgotten ones included."""
        known = self._users.get(user_id)
        if known is None:
            known = await self._load(user_id)
        self._users.move_to_end(user_id)
        return known

    def cached(self, user_id: UserId) -> Mapping[RoomId, UserRoom] | None:
        """Returns the same as `of`, if it is in memory."""
        return self._users.get(user_id)

    async def _load(self, user_id: UserId) -> dict[RoomId, UserRoom]:
        while True:
            start = self._committer.position
            found = await self._store.memberships.of_user(user_id)
            if user_id in self._users:
                return self._users[user_id]
            if start < self._committer.tail.start:
                continue  # more entries were committed in the meantime than memory holds
            loaded = {
                row.room_id: UserRoom(
                    row.membership,
                    row.position,
                    row.event_id,
                    row.sender,
                    row.forgotten,
                    row.stripped or b"",
                    row.via or None,
                )
                for row in found
            }
            self._users[user_id] = loaded
            self.bytes += sum(map(_size_of, loaded.values()))
            for placed in self._committer.tail.since(start):
                self._apply(placed, only=user_id)
            self._evict()
            return loaded

    def drop(self, user_id: UserId) -> None:
        """Drops a user's rooms from memory; the next call reads the table."""
        for room in self._users.pop(user_id, {}).values():
            self.bytes -= _size_of(room)

    def _evict(self) -> None:
        """Evicts the least recently used users; the last one stays."""
        while len(self._users) > 1 and (
            len(self._users) > limits.MEMBERSHIP_CACHE_USERS
            or self.bytes > limits.MEMBERSHIP_CACHE_BYTES
        ):
            self.drop(next(iter(self._users)))

    async def forget(self, user_id: UserId, room_id: RoomId) -> None:
        """Forgets a left room (spec: "Leaving rooms")."""
        await self._store.memberships.forget(user_id, room_id)
        known = self._users.get(user_id)
        if known is not None and room_id in known:
            known[room_id] = msgspec.structs.replace(known[room_id], forgotten=True)

    async def outside_event(self, user_id: UserId, room_id: RoomId) -> Event | None:
        """Returns the signed event of a user's membership of a room that we aren't in, if there is
        one."""
        row = await self._store.memberships.of_user_in(user_id, room_id)
        version = None if row is None else ROOM_VERSIONS.get(row.version or "")
        if row is None or version is None or not row.event:
            return None
        return load_event(row.event, version, row.event_id)

    async def sharing(self, user_id: UserId, among: Collection[UserId]) -> set[UserId]:
        """Returns those of some users, of any server, who are joined or invited to a room that the
        user is joined to."""
        return {UserId(one) for one in await self._store.memberships.sharing(user_id, list(among))}

    async def rooms_of(self, user_id: UserId) -> list[RoomId]:
        """Returns the rooms that a user of any server is joined to, as far as they are known
        here.
        """
        if server_of(user_id) == self._server_name:
            own = await self.of(user_id)
            return [room_id for room_id, room in own.items() if room.membership == "join"]
        found = await self._store.memberships.of_users([user_id], "join")
        return [row.room_id for row in found]

    async def rooms_of_all(self, user_ids: Collection[UserId]) -> Mapping[UserId, list[RoomId]]:
        """Returns the same of several users, those without rooms left out; read from the table."""
        found: dict[UserId, list[RoomId]] = {}
        for row in await self._store.memberships.of_users(list(user_ids), "join"):
            found.setdefault(UserId(row.user_id), []).append(RoomId(row.room_id))
        return found

    # Following the log

    def _published(self, batch: Sequence[Placed]) -> None:
        for placed in batch:
            self._apply(placed, only=None)

    def _apply(self, placed: Placed, *, only: UserId | None) -> None:
        entry = placed.entry
        if isinstance(entry, EventEntry):
            for change in entry.changes:
                self._change(entry.room_id, change, placed.position, entry, only)
        elif isinstance(entry, StateEntry):
            for change in entry.changes:
                self._change(entry.room_id, change, placed.position, None, only)
        elif isinstance(entry, MembershipEntry):
            self._set(
                entry.user_id,
                entry.room_id,
                UserRoom(
                    entry.membership,
                    placed.position,
                    entry.event_id,
                    entry.sender,
                    stripped=entry.stripped,
                    via=ServerName(entry.via) if entry.via else None,
                ),
                only,
            )

    def _change(
        self,
        room_id: RoomId,
        change: StateChange,
        position: int,
        entry: EventEntry | None,
        only: UserId | None,
    ) -> None:
        kind, key = change.key
        if kind != event_types.MEMBER or server_of(key) != self._server_name:
            return
        user_id = UserId(key)
        own = entry is not None and entry.event.event_id == change.event_id
        sender = entry.event.sender if own and entry is not None else user_id
        room = UserRoom(
            change.membership or "leave", position, change.event_id or EventId(""), sender
        )
        self._set(user_id, room_id, room, only)

    def _set(self, user_id: UserId, room_id: RoomId, room: UserRoom, only: UserId | None) -> None:
        if only is not None and user_id != only:
            return
        known = self._users.get(user_id)
        if known is not None:
            former = known.get(room_id)
            self.bytes += _size_of(room) - (0 if former is None else _size_of(former))
            known[room_id] = room
            self._evict()


def _size_of(room: UserRoom) -> int:
    return 400 + len(room.stripped)
