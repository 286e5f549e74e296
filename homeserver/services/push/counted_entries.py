"""The effect of one entry of the log on counts, and on what users have read.

Rules:
1. Receipts (with or without thread, public or private) and a user's own messages move what they
   have read, in the order of the log; never back.
2. A user counts from their join on; who leaves has no counts.
3. A changed rule or list of ignored users concerns later events only.
4. An entry that isn't applied to its end, for the database is away, has changed nothing but the
   audience of its room: that is to be dropped, and the entry applied again.

Spec: client-server API, "Receiving notifications", "Marking notifications as read".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.events import event_types
from federation.events.ids import RoomId, ServerName, UserId, server_of
from homeserver.engine.entries import (
    AccountDataEntry,
    Entry,
    EventEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    StateEntry,
)
from homeserver.engine.followers.memberships import Memberships
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.account_data.ignored_users import IGNORED_USER_LIST
from homeserver.rules.push.unread import MAIN, WHOLE_ROOM, ReadMarks
from homeserver.rules.rooms.head_merges import MERGE_TYPE
from homeserver.rules.timeline.relations import RELATES_TO
from homeserver.services.push.evaluator import Evaluator, levels_of
from homeserver.services.push.push_rules import PUSH_RULES
from homeserver.services.push.replays import LogReplay
from homeserver.services.push.user_states import UserStates
from homeserver.storage.push.unread import RoomState

_RULES = (PUSH_RULES, IGNORED_USER_LIST)


@dataclass(frozen=True, slots=True)
class CountedRooms:
    """The rooms that counts are made from. `end` is the log's end as the follower begins."""

    rooms: Rooms
    reader: Reader
    memberships: Memberships
    replay: LogReplay
    server_name: ServerName
    end: int


class CountedEntries:
    """Applies entries to the states of users."""

    def __init__(self, counted: CountedRooms, evaluator: Evaluator, states: UserStates) -> None:
        self._counted, self._evaluator, self._states = counted, evaluator, states

    async def apply(self, placed: Placed, ahead: Sequence[Placed]) -> bool:
        """Applies an entry; `ahead` are it and all behind it that rooms may have seen. Returns
        whether its effect is to be stored now, since the log may not tell it again."""
        entry = placed.entry
        match entry:
            case EventEntry():
                return await self._apply_event(placed, entry, ahead)
            case StateEntry():
                await self._apply_changes(entry, await self._place_at(entry.room_id, placed))
            case ReceiptEntry():
                await self._apply_receipt(entry)
            case MembershipEntry(membership="invite"):
                evaluated = await self._evaluator.evaluate(placed, ())
                if evaluated is not None:
                    self._evaluator.tell(evaluated)
            case AccountDataEntry(room_id="", type=kind) if kind in _RULES:
                rooms = await self._counted.memberships.rooms_of(entry.user_id)
                await self._evaluator.audiences.changed(entry.user_id, rooms)
                return True  # what was before had the former rules
            case _:
                pass
        return False

    async def _apply_event(
        self, placed: Placed, entry: EventEntry, ahead: Sequence[Placed]
    ) -> bool:
        evaluated = await self._evaluator.evaluate(placed, ahead)
        levels = None if evaluated is None else levels_of(evaluated, entry)
        event, place = entry.event, entry.order[0]
        thread, state = MAIN if levels is None else levels.thread, None
        if self._is_own(event.sender) and _is_message(entry):
            thread = await self._evaluator.thread_of(event)
            state = await self._states.read((entry.room_id, event.sender), thread, place)
        if evaluated is not None:
            self._evaluator.tell(evaluated)
        if entry.changes:
            await self._apply_changes(entry, place)
        if levels is not None:
            self._states.add(entry.room_id, levels)
        if state is not None:
            self._states.set((entry.room_id, event.sender), state)
        if entry.redacts is not None:
            self._states.redact(entry.room_id, entry.redacts)
        return thread != MAIN  # a redaction would take the relation from the log

    async def _apply_changes(self, entry: EventEntry | StateEntry, place: int) -> None:
        await self._evaluator.audiences.apply(entry)
        for change in entry.changes:
            kind, name = change.key
            if kind != event_types.MEMBER or not self._is_own(name):
                continue
            key = (entry.room_id, UserId(name))
            if change.membership == "join" and change.former != "join":
                marks = ReadMarks({WHOLE_ROOM: place})
                self._states.set(key, RoomState(marks, {}, place, {WHOLE_ROOM}, is_new=True))
            elif change.membership != "join" and change.former == "join":
                self._states.forget(key)

    async def _apply_receipt(self, entry: ReceiptEntry) -> None:
        room = await self._counted.rooms.get(entry.room_id) if self._is_own(entry.user_id) else None
        if room is None:
            return
        placed = await self._counted.reader.place(room, entry.event_id)
        if placed is None:
            return
        live_index, gap_index = event_entry(placed).order
        place = live_index if gap_index >= 0 else live_index - 1  # fetched history comes before it
        key = (entry.room_id, entry.user_id)
        state = await self._states.read(key, entry.thread, place)
        if state is not None:
            self._states.set(key, state)

    async def _place_at(self, room_id: RoomId, placed: Placed) -> int:
        """Returns the place of the newest event of a room at an entry of its own."""
        room = await self._counted.rooms.get(room_id)
        return (
            -1 if room is None else (await self._counted.reader.order_at(room, placed.position))[0]
        )

    def _is_own(self, user_id: str) -> bool:
        return server_of(user_id) == self._counted.server_name


def is_lasting(entry: Entry) -> bool:
    """Returns whether the log may not tell the effect of an entry again after a restart: redactions
    take relations away, and rules are those of the end."""
    match entry:
        case EventEntry():
            return entry.redacts is not None or RELATES_TO in entry.event.content
        case AccountDataEntry(room_id=""):
            return True
    return False


def _is_message(entry: EventEntry) -> bool:
    """Returns whether an event shows that its sender has read what is before it: not a redaction,
    nor what their client or this server sends by itself."""
    return not entry.event.is_state and entry.event.type not in (event_types.REDACTION, MERGE_TYPE)
