"""Receipts and read markers: taken from clients and other servers, given to syncs.

Rules:
1. Only who is joined to a room sends receipts there.
2. `since` reads the newest ones from memory; a reader further behind asks the database.
3. m.fully_read is room account data, not a receipt.

Spec: client-server API, "Receipts", "Read and unread markers".
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

import msgspec
import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Entry, ReceiptEntry, Unit
from homeserver.engine.log import Placed
from homeserver.errors import MatrixError, forbidden, invalid_param
from homeserver.rules.receipts import (
    FULLY_READ,
    PRIVATE,
    READ,
    parse_event_id,
    parse_remote,
    parse_thread,
)
from homeserver.services.engine_ports import MemberRooms, UnitLog
from homeserver.storage import receipts as store
from homeserver.storage.database import Database

log = logging.getLogger(__name__)

_KINDS = frozenset({READ, PRIVATE, FULLY_READ})


class _Recent(msgspec.Struct, frozen=True):
    position: int
    entry: ReceiptEntry


class Receipts:
    """The latest receipts of rooms."""

    def __init__(
        self,
        *,
        database: Database,
        committer: UnitLog,
        rooms: MemberRooms,
        clock: Clock,
        position: int,
    ) -> None:
        """`position` is the log's end at the moment when `on_commit` starts to follow."""
        self._database, self._committer = database, committer
        self._rooms, self._clock = rooms, clock
        self._start = position
        self._recent: list[_Recent] = []

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """A follower of the log."""
        for placed in batch:
            if isinstance(placed.entry, ReceiptEntry):
                self._recent.append(_Recent(placed.position, placed.entry))
        if len(self._recent) > 2 * limits.LOG_TAIL_ENTRIES:
            dropped = len(self._recent) - limits.LOG_TAIL_ENTRIES
            self._start = self._recent[dropped - 1].position
            self._recent = self._recent[dropped:]

    async def since(
        self, rooms: Collection[RoomId], *, after: int, upto: int
    ) -> Mapping[RoomId, Sequence[ReceiptEntry | store.Receipt]]:
        """New receipts by room, in order, private ones of everyone included."""
        found: dict[RoomId, list[ReceiptEntry | store.Receipt]] = {}
        if after >= self._start:
            first = bisect_right(self._recent, after, key=_position)
            for recent in self._recent[first:]:
                if recent.position <= upto and recent.entry.room_id in rooms:
                    found.setdefault(recent.entry.room_id, []).append(recent.entry)
            return found
        async with self._database.connection() as connection:
            rows = await store.load_between(connection, rooms, after=after, upto=upto)
        for row in rows:
            found.setdefault(row.room_id, []).append(row)
        return found

    async def send(
        self, user_id: UserId, room_id: RoomId, kind: str, event_id: str, *, thread: object = None
    ) -> None:
        """POST /rooms/{roomId}/receipt. 400 for an unknown kind, 403 unless joined."""
        if kind not in _KINDS:
            raise invalid_param("The receipt's type is unknown")
        entry = self._entry(user_id, room_id, kind, event_id, thread)
        await self._check_joined(user_id, room_id)
        await self._committer.submit(Unit(entries=[entry]))

    async def set_markers(self, user_id: UserId, room_id: RoomId, markers: JsonObject) -> None:
        """POST /rooms/{roomId}/read_markers: several at once."""
        entries = [
            self._entry(user_id, room_id, kind, markers[kind], None)
            for kind in sorted(_KINDS)
            if markers.get(kind) is not None
        ]
        await self._check_joined(user_id, room_id)
        if entries:
            await self._committer.submit(Unit(entries=entries))

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        """An m.receipt EDU: receipts of users of `origin` in rooms that they are joined to."""
        entries: list[Entry] = []
        for room, by_kind in content.items():
            room_id = RoomId(room)
            found = await self._rooms.get(room_id)
            if found is None or origin not in found.joined_servers or not found.joined_local:
                continue
            users = by_kind.get(READ) if isinstance(by_kind, dict) else None
            for user, receipt in users.items() if isinstance(users, dict) else ():
                if server_of(user) != origin:
                    continue
                try:
                    event_id, thread, ts = parse_remote(receipt)
                except MatrixError as error:
                    log.info("A receipt from %s is ignored: %s", origin, error)
                    continue
                user_id = UserId(user)
                entries.append(ReceiptEntry(room_id, user_id, READ, thread, event_id, ts))
        if entries:
            await self._committer.submit(Unit(entries=entries))

    def _entry(
        self, user_id: UserId, room_id: RoomId, kind: str, event_id: object, thread: object
    ) -> Entry:
        parsed: EventId = parse_event_id(event_id)
        parsed_thread = parse_thread(thread, kind=kind)
        if kind == FULLY_READ:
            content = orjson.dumps({"event_id": parsed})
            return AccountDataEntry(user_id, room_id, FULLY_READ, content)
        now_ms = self._clock.now_ms()
        return ReceiptEntry(room_id, user_id, kind, parsed_thread, parsed, now_ms)

    async def _check_joined(self, user_id: UserId, room_id: RoomId) -> None:
        room = await self._rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            raise forbidden("You aren't joined to the room")


def _position(recent: _Recent) -> int:
    return recent.position
