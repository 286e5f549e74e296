"""Finds the part of a stretch of the log that concerns one reader: in memory, in one pass.

Rules:
1. Only the log's tail is read; for a reader further behind the stores are queried instead.
2. Only the rooms of events are taken from the log: the events themselves are read from the room,
   where redactions have been applied.
3. In a room that the reader has left, nothing after their leave concerns them.

Spec: client-server API, "Syncing"; design, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import DeviceId, RoomId, UserId
from homeserver.engine.entries import (
    AccountDataEntry,
    DeviceListEntry,
    EventEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    StateChange,
    StateEntry,
    ToDeviceEntry,
)
from homeserver.engine.followers.memberships import UserRoom
from homeserver.rules.ephemeral.receipts import PRIVATE


class RoomDelta(msgspec.Struct):
    """The changes in one room. `events`: whether there are timeline events. `members`: whether a
    member's state changed, or the encryption for them."""

    events: bool = False
    members: bool = False
    changes: list[tuple[int, StateChange]] = []
    receipts: list[ReceiptEntry] = []
    account_data: dict[str, bytes] = {}


class LogDelta(msgspec.Struct):
    """The changes for one reader. `device_users` are users whose device list changed, whether the
    reader shares a room with them or not."""

    rooms: dict[RoomId, RoomDelta] = {}
    account_data: dict[str, bytes] = {}
    to_device: bool = False
    device_users: set[UserId] = set()

    @property
    def concerns_members(self) -> bool:
        """Returns whether a membership or the encryption changed in a room of the reader."""
        return any(delta.members for delta in self.rooms.values())

    def __bool__(self) -> bool:
        return bool(self.rooms or self.account_data or self.to_device or self.device_users)


def scan(
    entries: Sequence[Placed],
    user_id: UserId,
    device_id: DeviceId,
    rooms: Mapping[RoomId, UserRoom],
) -> LogDelta:
    """Scans `entries`; `rooms` are the user's current memberships."""
    delta = LogDelta()
    for placed in entries:
        entry = placed.entry
        if isinstance(entry, (EventEntry, StateEntry)):
            user_room = rooms.get(entry.room_id)
            if user_room is not None and _concerns(user_room, placed.position):
                _note_change(_room(delta, entry.room_id), placed)
        elif isinstance(entry, ReceiptEntry):
            _note_receipt(delta, entry, user_id, rooms)
        else:
            _note_own(delta, entry, user_id, device_id)
    return delta


def _concerns(user_room: UserRoom, position: int) -> bool:
    if user_room.forgotten:
        return False
    return user_room.membership == "join" or position <= user_room.position


def _room(delta: LogDelta, room_id: RoomId) -> RoomDelta:
    found = delta.rooms.get(room_id)
    if found is None:
        found = delta.rooms[room_id] = RoomDelta()
    return found


def _note_change(room: RoomDelta, placed: Placed) -> None:
    entry = placed.entry
    assert isinstance(entry, EventEntry | StateEntry)
    if isinstance(entry, EventEntry):
        room.events = True
    for change in entry.changes:
        room.changes.append((placed.position, change))
        if change.key[0] in (event_types.MEMBER, event_types.ENCRYPTION):
            room.members = True


def _note_receipt(
    delta: LogDelta, entry: ReceiptEntry, user_id: UserId, rooms: Mapping[RoomId, UserRoom]
) -> None:
    user_room = rooms.get(entry.room_id)
    if user_room is None or user_room.membership != "join":
        return
    if entry.kind == PRIVATE and entry.user_id != user_id:
        return
    _room(delta, entry.room_id).receipts.append(entry)


def _note_own(delta: LogDelta, entry: object, user_id: UserId, device_id: DeviceId) -> None:
    if isinstance(entry, DeviceListEntry):
        delta.device_users.add(entry.user_id)
    elif isinstance(entry, ToDeviceEntry):
        if entry.user_id == user_id and entry.device_id == device_id:
            delta.to_device = True
    elif isinstance(entry, AccountDataEntry):
        if entry.user_id != user_id:
            return
        if entry.room_id:
            _room(delta, RoomId(entry.room_id)).account_data[entry.type] = entry.content
        else:
            delta.account_data[entry.type] = entry.content
    elif isinstance(entry, MembershipEntry) and entry.user_id == user_id:
        room = _room(delta, entry.room_id)
        room.events = room.members = True
