"""Summaries of rooms, with the children of spaces, and who may see them.

Rules:
1. A summary is an entry of the published directory with the room's version, its encryption and the
   rooms whose members may join it. A space's also has its children: state events `m.space.child`
   whose `via` names at least one server and whose state key is a room ID.
2. Children are in the order of the specification: those with a valid `order` by it, then the
   others; equal ones by the time of their event, then by room ID.
3. A room shows itself to whoever may join it or read it: by its join rule, as far as its version
   has that, or its history visibility. Members and invited users see it in any case. Banned ones
   can't join.

Spec: client-server API, "Spaces", `GET /hierarchy`, "Room summaries"; MSC3266.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import (
    InvalidIdentifier,
    RoomId,
    ServerName,
    StateKey,
    parse_server_name,
)
from federation.events.room_versions import ROOM_VERSIONS, RoomVersion
from federation.limits import INTEGER_MAX
from homeserver import limits
from homeserver.rules.any_json import dump_any
from homeserver.rules.rooms import public_rooms
from homeserver.rules.rooms.public_rooms import as_room_id
from homeserver.rules.rooms.restricted_joins import allowed_rooms

NEEDED: Sequence[StateKey] = (*public_rooms.NEEDED, event_types.ENCRYPTION_KEY)
"""The state that `describe` reads, beside a space's children."""

_SPACE = "m.space"


class SpaceChild(msgspec.Struct, frozen=True):
    """A child of a space. `event` is the JSON of the stripped event with its `origin_server_ts`;
    `order` the valid one."""

    room_id: RoomId
    via: tuple[ServerName, ...]
    order: str | None
    time_ms: int
    is_suggested: bool
    event: bytes


class SummarisedRoom(msgspec.Struct, frozen=True):
    """The summary of a room. `entry` has all fields but the children, which are in order.
    `is_federated`: users of other servers may join it."""

    entry: JsonObject
    children: tuple[SpaceChild, ...] = ()
    is_federated: bool = True

    @property
    def room_id(self) -> RoomId:
        """The room's ID."""
        return RoomId(self.entry["room_id"])

    @property
    def is_space(self) -> bool:
        """Whether the room is a space."""
        return self.entry.get("room_type") == _SPACE

    @property
    def allowed_rooms(self) -> Sequence[RoomId]:
        """The rooms whose joined members may join this one."""
        allowed: Sequence[RoomId] = self.entry.get("allowed_room_ids", ())
        return allowed

    def chosen(self, *, suggested_only: bool) -> Sequence[SpaceChild]:
        """Returns the children, or the suggested ones."""
        if not suggested_only:
            return self.children
        return [child for child in self.children if child.is_suggested]

    def with_children(self, children: Iterable[SpaceChild]) -> JsonObject:
        """Returns the summary as hierarchies have it, with some of its children."""
        events = [orjson.Fragment(child.event) for child in children]
        return {**self.entry, "children_state": events}

    @property
    def bytes(self) -> int:
        """The size of the summary as JSON with all of its children, roughly."""
        return len(orjson.dumps(self.entry)) + sum(len(child.event) for child in self.children)


def is_space(create: Mapping[str, Any]) -> bool:
    """Returns whether a room is a space, from the content of its create event."""
    return create.get("type") == _SPACE


def describe(
    room_id: RoomId,
    version: RoomVersion,
    joined: int,
    contents: Mapping[StateKey, Mapping[str, Any]],
    children: Iterable[Event],
) -> SummarisedRoom:
    """Builds the summary of a room, from the contents of its state, and the m.space.child events
    of a space."""
    entry = public_rooms.describe(room_id, joined, contents)
    entry["room_version"] = version.name
    algorithm = contents.get(event_types.ENCRYPTION_KEY, {}).get("algorithm")
    if isinstance(algorithm, str) and algorithm:
        entry["encryption"] = algorithm
    if _has_join_rule(version, entry["join_rule"]):
        allowed = allowed_rooms(dict(contents.get(event_types.JOIN_RULES_KEY, {}))) or ()
        if rooms := [room for one in allowed if (room := as_room_id(one)) is not None]:
            entry["allowed_room_ids"] = rooms
    found = (_child(_stripped(event)) for event in children)
    in_space = in_order(child for child in found if child is not None)
    return SummarisedRoom(entry, in_space, public_rooms.is_federated(contents))


def _stripped(event: Event) -> JsonObject:
    return {
        "type": event.type,
        "state_key": event.state_key,
        "content": event.content,
        "sender": event.sender,
        "origin_server_ts": event.origin_server_ts,
    }


def _child(event: JsonObject) -> SpaceChild | None:
    room_id, content = as_room_id(event["state_key"]), event["content"]
    via = _servers(content.get("via"))
    if room_id is None or not via:
        return None
    return SpaceChild(
        room_id,
        via,
        _valid_order(content.get("order")),
        event["origin_server_ts"],
        content.get("suggested") is True,
        dump_any(event),
    )


def _servers(via: object) -> tuple[ServerName, ...]:
    found: dict[ServerName, None] = {}
    for name in via[: limits.SPACE_CHILD_SERVERS_READ] if isinstance(via, list) else ():
        try:
            found[parse_server_name(name if isinstance(name, str) else "")] = None
        except InvalidIdentifier:
            continue  # one bad name doesn't spoil the list
    return tuple(found)


def _valid_order(order: object) -> str | None:
    if not isinstance(order, str) or not 0 < len(order) <= limits.SPACE_ORDER_CHARACTERS:
        return None
    return order if all(" " <= one <= "~" for one in order) else None


def in_order(children: Iterable[SpaceChild]) -> tuple[SpaceChild, ...]:
    """Returns the children of a space in order (rule 2)."""
    return tuple(
        sorted(
            children,
            key=lambda one: (one.order is None, one.order or "", one.time_ms, one.room_id),
        )
    )


def read_summary(value: object) -> SummarisedRoom | None:
    """Returns a summary as another server gives it, reduced to what the specification has; None
    for what is none."""
    entry = public_rooms.read_entry(value)
    if entry is None or not isinstance(value, dict):
        return None
    for name in ("room_version", "encryption"):
        text = value.get(name)
        if isinstance(text, str) and text:
            entry[name] = text[: limits.REMOTE_ROOM_TEXT_CHARACTERS]
    listed = value.get("allowed_room_ids")
    if isinstance(listed, list):
        ids = [as_room_id(one) for one in listed[: limits.RESTRICTED_JOIN_ROOMS]]
        entry["allowed_room_ids"] = [one for one in ids if one is not None]
    summary = SummarisedRoom(entry)
    return SummarisedRoom(entry, _read_children(value)) if summary.is_space else summary


def _read_children(value: JsonObject) -> tuple[SpaceChild, ...]:
    events = value.get("children_state")
    found: dict[RoomId, SpaceChild] = {}
    for event in events[: limits.SPACE_CHILDREN] if isinstance(events, list) else ():
        if _is_stripped(event) and (child := _child(_reduced(event))) is not None:
            found[child.room_id] = child
    return in_order(found.values())


def _is_stripped(event: object) -> bool:
    if not isinstance(event, dict) or event.get("type") != event_types.SPACE_CHILD:
        return False
    time_ms = event.get("origin_server_ts")
    return (
        isinstance(event.get("content"), dict)
        and isinstance(event.get("sender"), str)
        and type(time_ms) is int
        and abs(time_ms) <= INTEGER_MAX
    )


def _reduced(event: JsonObject) -> JsonObject:
    return {
        name: event.get(name)
        for name in ("type", "state_key", "content", "sender", "origin_server_ts")
    }


def is_open(summary: SummarisedRoom) -> bool:
    """Returns whether anybody may see a room: it is public, or takes knocks, or can be read by the
    world (rule 3)."""
    entry = summary.entry
    rule = entry.get("join_rule", "public")
    version = ROOM_VERSIONS.get(entry.get("room_version", ""))
    may_enter = rule in _ENTERED_BY_ANYBODY and (version is None or _has_join_rule(version, rule))
    return may_enter or entry["world_readable"]


def shows_itself(
    summary: SummarisedRoom, membership: str | None, joined_rooms: Collection[RoomId]
) -> bool:
    """Returns whether a user may see a room, by their membership of it and the rooms that they are
    joined to (rule 3)."""
    if membership in ("join", "invite"):
        return True
    if membership == "ban":
        return bool(summary.entry["world_readable"])
    return is_open(summary) or any(room in joined_rooms for room in summary.allowed_rooms)


_ENTERED_BY_ANYBODY = frozenset({"public", "knock", "knock_restricted"})


def _has_join_rule(version: RoomVersion, rule: str) -> bool:
    """Returns whether a room version has a join rule; one that it lacks lets nobody in."""
    return {
        "knock": version.knock,
        "restricted": version.restricted_joins,
        "knock_restricted": version.knock_restricted,
    }.get(rule, True)
