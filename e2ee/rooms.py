"""The client's record of a room: membership, name, and events in the order of display.

Rules:
1. Positions count events as they were taken in; a gap is filled before what follows it, so they
   are in order.
2. `encrypted_from` is set once and never cleared: from there on, plaintext is not attributed.
3. An event is kept once, by its ID.
4. Events are kept as they came (ciphertext); plaintext isn't written to disk.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from e2ee.machine.changes import PendingChanges

JsonObject = dict[str, Any]
_ROOM = "client room"
_EVENT = "client event"
_SEEN = "client seen"


class ClientRoom(msgspec.Struct, frozen=True):
    """A room as this client knows it; `membership` is our own, `members` everyone's."""

    room_id: str
    membership: str = ""
    name: str = ""
    version: str = ""
    inviter: str = ""
    members: dict[str, str] = {}
    next_position: int = 0
    encrypted_from: int | None = None

    def with_membership(self, *memberships: str) -> frozenset[str]:
        """Returns the user IDs whose membership is one of these."""
        return frozenset(u for u, membership in self.members.items() if membership in memberships)


class _Event(msgspec.Struct, frozen=True):
    event: JsonObject


class _Seen(msgspec.Struct, frozen=True):
    position: int


class ClientRooms:
    """All rooms, with their events."""

    def __init__(self, pending_changes: PendingChanges) -> None:
        self._pending_changes = pending_changes
        self._rooms = pending_changes.all(_ROOM, ClientRoom)

    def all(self) -> tuple[ClientRoom, ...]:
        """Returns every room ever seen."""
        return tuple(self._rooms.values())

    def of(self, room_id: str) -> ClientRoom | None:
        """Returns the room, or None if never seen."""
        return self._rooms.get(room_id)

    def take_state(self, room_id: str, membership: str, events: Iterable[JsonObject]) -> ClientRoom:
        """Takes our membership and state events, oldest first."""
        room = self._rooms.get(room_id) or ClientRoom(room_id)
        members = dict(room.members)
        fields: dict[str, Any] = {"membership": membership}
        for event in events:
            content = event.get("content")
            content = content if isinstance(content, dict) else {}
            _take_state_event(event, content, members, fields)
        if members != room.members:
            fields["members"] = members
        return self._put(msgspec.structs.replace(room, **fields))

    def pin_encryption(self, room_id: str, position: int | None = None) -> ClientRoom:
        """Sets, once only, the position (default: the next) from which plaintext doesn't count."""
        room = self._rooms.get(room_id) or ClientRoom(room_id)
        if room.encrypted_from is not None:
            return room
        start = room.next_position if position is None else position
        return self._put(msgspec.structs.replace(room, encrypted_from=start))

    def note_inviter(self, room_id: str, inviter: str) -> None:
        """Records the inviter."""
        room = self._rooms.get(room_id) or ClientRoom(room_id)
        self._put(msgspec.structs.replace(room, inviter=inviter))

    def has_event(self, room_id: str, event_id: str) -> bool:
        """Returns whether the event is kept already."""
        return self._pending_changes.load(_SEEN, f"{room_id}\0{event_id}", _Seen) is not None

    def add_event(self, room_id: str, event: JsonObject) -> bool:
        """Keeps an event at the end; False if it is there already or has no ID."""
        event_id = event.get("event_id")
        if not isinstance(event_id, str) or self.has_event(room_id, event_id):
            return False
        room = self._rooms.get(room_id) or ClientRoom(room_id)
        position = room.next_position
        if _turns_encryption_on(event):
            room = self.pin_encryption(room_id)
        self._put_event(f"{room_id}\0{position}", {**event, "room_id": room_id})
        self._pending_changes.put(_SEEN, f"{room_id}\0{event_id}", _Seen(position))
        self._put(msgspec.structs.replace(room, next_position=position + 1))
        return True

    def events(self, room_id: str) -> Iterator[tuple[int, JsonObject]]:
        """Yields (position, event) in order, each event with its `room_id`."""
        room = self._rooms.get(room_id)
        for position in range(room.next_position if room else 0):
            kept = self._pending_changes.load(_EVENT, f"{room_id}\0{position}", _Event)
            if kept is not None:
                yield position, kept.event

    def _put_event(self, key: str, event: JsonObject) -> None:
        try:
            self._pending_changes.put(_EVENT, key, _Event(event))
        except RecursionError:  # nested past any sense: its place is kept, not its content
            names = ("type", "sender", "event_id", "room_id")
            kept = {name: event[name] for name in names if isinstance(event.get(name), str)}
            self._pending_changes.put(_EVENT, key, _Event({**kept, "content": {}}))

    def _put(self, room: ClientRoom) -> ClientRoom:
        if self._rooms.get(room.room_id) != room:
            self._rooms[room.room_id] = room
            self._pending_changes.put(_ROOM, room.room_id, room)
        return room


def _turns_encryption_on(event: JsonObject) -> bool:
    if event.get("type") != "m.room.encryption" or event.get("state_key") != "":
        return False
    content = event.get("content")
    return isinstance(content, dict) and isinstance(content.get("algorithm"), str)


def _take_state_event(
    event: JsonObject, content: JsonObject, members: dict[str, str], fields: dict[str, Any]
) -> None:
    state_key = event.get("state_key")
    match event.get("type"):
        case "m.room.member" if isinstance(state_key, str):
            membership = content.get("membership")
            members[state_key] = membership if isinstance(membership, str) else "leave"
        case "m.room.name" if state_key == "":
            name = content.get("name")
            fields["name"] = name if isinstance(name, str) else ""
        case "m.room.create" if state_key == "":
            version = content.get("room_version", "1")
            fields["version"] = version if isinstance(version, str) else ""
