"""Receipts and read markers: received from clients and other servers, read by syncs.

Rules:
1. Only users joined to a room send receipts there, for events of that room.
2. `since` reads the newest ones from memory; for a reader further behind the database is queried.
3. m.fully_read is room account data, not a receipt.
4. A receipt of a local user doesn't go backwards: one for an older event is ignored.
5. A receipt in a thread is for an event of that thread, or its root; where relations lead to an
   event that isn't here, or that was redacted, the client is believed.

Spec: client-server API, "Receipts", "Read and unread markers".
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import msgspec
import orjson

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Entry, Placed, ReceiptEntry, Unit, UnitLog
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Rooms
from homeserver.errors import (
    forbidden,
    invalid_param,
    not_found,
)
from homeserver.rules.ephemeral.receipts import (
    FULLY_READ,
    PRIVATE,
    READ,
    parse_event_id,
    parse_remote,
    parse_thread,
)
from homeserver.rules.push.unread import MAIN
from homeserver.rules.timeline.relations import relation_of
from homeserver.services.rooms.room_access import MemberRooms
from homeserver.storage.database import Database
from homeserver.storage.ephemeral.receipts import Receipt, ReceiptTable

log = logging.getLogger(__name__)

_KINDS = frozenset({READ, PRIVATE, FULLY_READ})

OrderOf: TypeAlias = Callable[[RoomId, EventId], Awaitable[tuple[int, int] | None]]
IsInThread: TypeAlias = Callable[[RoomId, EventId, str], Awaitable[bool]]
_OwnEntry: TypeAlias = AccountDataEntry | ReceiptEntry


class _Recent(msgspec.Struct, frozen=True):
    position: int
    entry: ReceiptEntry


class EventOrders:
    """Where the events of known rooms stand in them, for `Receipts`."""

    def __init__(self, rooms: Rooms, reader: Reader) -> None:
        self._rooms, self._reader = rooms, reader

    async def order_of(self, room_id: RoomId, event_id: EventId) -> tuple[int, int] | None:
        """Returns an event's place in room order; None for an unknown room or event, or one that
        has no place."""
        room = await self._rooms.get(room_id)
        found = None if room is None else await self._reader.place(room, event_id)
        return None if found is None else event_entry(found).order

    async def is_in_thread(self, room_id: RoomId, event_id: EventId, thread: str) -> bool:
        """Returns whether an event of a room may be in a thread: a root's ID, or `main` for what is
        in none. Relations are followed as far as the specification recommends."""
        if event_id == thread:
            return True
        target = event_id
        for _ in range(1 + limits.PUSH_RELATIONS_FOLLOWED):
            known = (await self._rooms.events([target])).get(target)
            if known is None or not known.event.content:
                return True
            relation = relation_of(known.event.content)
            if relation is None or known.event.room_id != room_id:
                break
            if relation.is_thread:
                return relation.event_id == thread
            target = relation.event_id
        return thread == MAIN


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
        order_of: OrderOf,
        is_in_thread: IsInThread,
    ) -> None:
        """`position` is the log's end at the moment when `on_commit` starts to follow; `order_of`
        returns the place of a room's event in room order, None for an unknown one; `is_in_thread`
        whether one may be in a thread."""
        self._receipts, self._committer = ReceiptTable(database), committer
        self._rooms, self._clock = rooms, clock
        self._start, self._order_of, self._is_in_thread = position, order_of, is_in_thread
        self._recent: list[_Recent] = []

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            if isinstance(placed.entry, ReceiptEntry):
                self._recent.append(_Recent(placed.position, placed.entry))
        if len(self._recent) > 2 * limits.LOG_TAIL_ENTRIES:
            dropped = len(self._recent) - limits.LOG_TAIL_ENTRIES
            self._start = self._recent[dropped - 1].position
            self._recent = self._recent[dropped:]

    async def since(
        self, rooms: Collection[RoomId], *, after: int, up_to: int
    ) -> Mapping[RoomId, Sequence[ReceiptEntry | Receipt]]:
        """Returns new receipts by room, in order, including private ones of all users."""
        found: dict[RoomId, list[ReceiptEntry | Receipt]] = {}
        if after >= self._start:
            first = bisect_right(self._recent, after, key=_position)
            for recent in self._recent[first:]:
                if recent.position <= up_to and recent.entry.room_id in rooms:
                    found.setdefault(recent.entry.room_id, []).append(recent.entry)
            return found
        for row in await self._receipts.load_between(rooms, after=after, up_to=up_to):
            found.setdefault(row.room_id, []).append(row)
        return found

    async def send(
        self, user_id: UserId, room_id: RoomId, kind: str, event_id: str, *, thread: object = None
    ) -> None:
        """POST /rooms/{roomId}/receipt. 400 for an unknown kind or an event of another thread, 403
        unless joined, 404 for an event that isn't one of the room's."""
        if kind not in _KINDS:
            raise invalid_param("The receipt's type is unknown")
        entry = self._entry(user_id, room_id, kind, event_id, thread)
        await self._check_joined(user_id, room_id)
        await self._submit(user_id, room_id, [entry])

    async def set_markers(self, user_id: UserId, room_id: RoomId, markers: JsonObject) -> None:
        """POST /rooms/{roomId}/read_markers: several at once."""
        entries = [
            self._entry(user_id, room_id, kind, markers[kind], None)
            for kind in sorted(_KINDS)
            if markers.get(kind) is not None
        ]
        await self._check_joined(user_id, room_id)
        await self._submit(user_id, room_id, entries)

    async def _submit(self, user_id: UserId, room_id: RoomId, entries: Sequence[_OwnEntry]) -> None:
        """Stores the receipts that are new (rule 4)."""
        if not entries:
            return
        stored = await self._receipts.load_of_user(room_id, user_id)
        before = {(receipt.kind, receipt.thread): receipt.event_id for receipt in stored}
        news = [entry for entry in entries if await self._is_news(entry, before)]
        if news:
            await self._committer.submit(Unit(entries=news))

    async def _is_news(self, entry: _OwnEntry, before: Mapping[tuple[str, str], EventId]) -> bool:
        """Returns whether a receipt is new. Raises 404 M_NOT_FOUND for an event that isn't in the
        room, 400 M_INVALID_PARAM for one that isn't in the thread."""
        if isinstance(entry, AccountDataEntry):
            return True
        order = await self._order_of(entry.room_id, entry.event_id)
        if order is None:
            raise not_found("There is no such event in this room")
        if entry.thread and not await self._is_in_thread(
            entry.room_id, entry.event_id, entry.thread
        ):
            raise invalid_param("The event isn't in this thread")
        known = before.get((entry.kind, entry.thread))
        last = None if known is None else await self._order_of(entry.room_id, known)
        return last is None or order > last

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        """Handles an m.receipt EDU: receipts of users of `origin` in rooms that they are joined
        to."""
        entries: list[Entry] = []
        for room, by_kind in content.items():
            room_id = RoomId(room)
            found = await self._rooms.get(room_id)
            if found is None or not found.joined_local:
                continue
            users = by_kind.get(READ) if isinstance(by_kind, dict) else None
            for user, receipt in users.items() if isinstance(users, dict) else ():
                if server_of(user) != origin or not found.is_joined(UserId(user)):
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
    ) -> _OwnEntry:
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
