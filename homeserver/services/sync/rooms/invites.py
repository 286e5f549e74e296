"""Rooms that a user is invited to, or knocks at: stripped state.

Rules:
1. For a room that this server is in, stripped state is taken from its current state; for any other
   it is the one received with the invite.
2. Only `sender`, `type`, `state_key` and `content` pass (spec 1.16: servers must prune), and the
   event of the user's own membership is always included.

Spec: client-server API, "Stripped state".
"""

from __future__ import annotations

from typing import Any

import orjson

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import RoomId, StateKey, UserId
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.any_json import load_any
from homeserver.services.timeline.client_events import json_list

STRIPPED_KEYS: tuple[StateKey, ...] = (
    event_types.CREATE_KEY,
    event_types.NAME_KEY,
    event_types.AVATAR_KEY,
    event_types.TOPIC_KEY,
    event_types.JOIN_RULES_KEY,
    event_types.CANONICAL_ALIAS_KEY,
    event_types.ENCRYPTION_KEY,
)


async def stripped_state(
    rooms: Rooms, room_id: RoomId, user_id: UserId, user_room: UserRoom
) -> bytes:
    """Returns the `invite_state` or `knock_state` of a room: a JSON object with `events`."""
    given = _pruned(user_room.stripped)
    if not given:
        given = await _from_room(rooms, room_id, user_room)
    own = (event_types.MEMBER, user_id)
    if not any((event["type"], event["state_key"]) == own for event in given):
        given.append(
            {
                "type": event_types.MEMBER,
                "state_key": user_id,
                "sender": user_room.sender,
                "content": {"membership": user_room.membership},
            }
        )
    return b'{"events":%b}' % json_list([shown for one in given if (shown := _shown(one))])


async def _from_room(rooms: Rooms, room_id: RoomId, user_room: UserRoom) -> list[JsonObject]:
    room = await rooms.get(room_id)
    if room is None:
        return []
    state = room.view.state
    ids = [ref.event_id for key in STRIPPED_KEYS if (ref := state.get(key)) is not None]
    sender = state.get((event_types.MEMBER, user_room.sender))
    if sender is not None:
        ids.append(sender.event_id)
    if user_room.event_id not in ids:
        ids.append(user_room.event_id)
    known = await rooms.events(ids)
    return [_strip(known[event_id].event) for event_id in ids if event_id in known]


def _shown(event: JsonObject) -> bytes | None:
    """Returns the JSON of one event; None if it is nested so deeply that it would break clients'
    parsers: any user can send an invite, and it must not make all syncs unreadable."""
    try:
        return orjson.dumps(event)
    except orjson.JSONEncodeError:
        return None


def _strip(event: Event) -> JsonObject:
    return {
        "type": event.type,
        "state_key": event.state_key,
        "sender": event.sender,
        "content": event.content,
    }


def _pruned(stripped: bytes) -> list[JsonObject]:
    """Returns another server's stripped state, pruned; malformed events are left out."""
    events: Any = load_any(stripped) if stripped else []
    kept: list[JsonObject] = []
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, dict) or not isinstance(event.get("content"), dict):
            continue
        if all(isinstance(event.get(name), str) for name in ("type", "state_key", "sender")):
            names = ("type", "state_key", "sender", "content")
            kept.append({name: event[name] for name in names})
    return kept
