"""The part of a sync that concerns encryption, in the machine's terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RoomChanges:
    """State of one room seen in a sync, oldest first.

    `is_limited`: events are missing before what is here. `encryption`: contents of
    `m.room.encryption` events; `history_visibility`: values of that state; `memberships`: (user
    ID, membership).
    """

    room_id: str
    is_limited: bool = False
    encryption: tuple[JsonObject, ...] = ()
    history_visibility: tuple[object, ...] = ()
    memberships: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SyncChanges:
    """One sync. `is_initial`: it was made without a token, so what went before is unknown."""

    to_device: tuple[JsonObject, ...] = ()
    changed_users: tuple[str, ...] = ()
    left_users: tuple[str, ...] = ()
    one_time_key_counts: Mapping[str, int] = field(default_factory=dict)
    unused_fallback_types: list[str] | None = None
    rooms: tuple[RoomChanges, ...] = ()
    is_initial: bool = False


@dataclass(frozen=True, slots=True)
class SyncOutcome:
    """The changes by a sync: (room, session) pairs that read more than before, or were withheld."""

    new_keys: frozenset[tuple[str, str]] = frozenset()
    withheld: frozenset[tuple[str, str]] = frozenset()
    to_device: tuple[JsonObject, ...] = ()


def _dictionary(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else []
    return tuple(item for item in items if isinstance(item, str))


def read_room_changes(room_id: str, room: JsonObject) -> RoomChanges:
    """Returns the changes in one room of a `/sync` answer (`state`, then `timeline`)."""
    timeline = _dictionary(room.get("timeline"))
    encryption: list[JsonObject] = []
    visibility: list[object] = []
    memberships: list[tuple[str, str]] = []
    for event in state_events(room):
        content = _dictionary(event.get("content"))
        state_key = event.get("state_key")
        match event.get("type"):
            case "m.room.encryption" if state_key == "":
                encryption.append(content)
            case "m.room.history_visibility" if state_key == "":
                visibility.append(content.get("history_visibility"))
            case "m.room.member" if isinstance(state_key, str):
                memberships.append((state_key, str(content.get("membership"))))
    return RoomChanges(
        room_id,
        timeline.get("limited") is True,
        tuple(encryption),
        tuple(visibility),
        tuple(memberships),
    )


def state_events(room: JsonObject) -> list[JsonObject]:
    """Returns the state events of a room in a `/sync` answer, in order: `state`, then those in
    `timeline`."""
    found: list[JsonObject] = []
    for part in ("state", "timeline"):
        events = _dictionary(room.get(part)).get("events")
        for event in events if isinstance(events, list) else []:
            if isinstance(event, dict) and isinstance(event.get("state_key"), str):
                found.append(event)
    return found


def read_sync(answer: JsonObject, *, is_initial: bool) -> SyncChanges:
    """Returns the part of a `/sync` answer that the machine needs. Malformed parts count as
    absent."""
    lists = _dictionary(answer.get("device_lists"))
    rooms = _dictionary(answer.get("rooms"))
    fallback = answer.get("device_unused_fallback_key_types")
    events = _dictionary(answer.get("to_device")).get("events")
    return SyncChanges(
        to_device=tuple(e for e in events if isinstance(e, dict))
        if isinstance(events, list)
        else (),
        changed_users=_texts(lists.get("changed")),
        left_users=_texts(lists.get("left")),
        one_time_key_counts=_dictionary(answer.get("device_one_time_keys_count")),
        unused_fallback_types=list(_texts(fallback)) if isinstance(fallback, list) else None,
        rooms=tuple(
            read_room_changes(room_id, _dictionary(room))
            for part in ("join", "leave")
            for room_id, room in _dictionary(rooms.get(part)).items()
        ),
        is_initial=is_initial,
    )
