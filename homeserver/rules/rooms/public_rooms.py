"""The entry of a room in the published room directory, and searches in it.

Rules:
1. Larger rooms come first; equal ones in the order of their IDs, so that pages don't overlap.
2. A search term is looked for in name, topic and canonical alias, without differences of case,
   accent and width: each of its words has to be in one of them, anywhere. Of a long topic the
   beginning is searched.
3. Values of a wrong type in a room's state are left out, as are an alias and an avatar that are
   none.
4. A room without a join rule can be joined by invite alone, as the auth rules have it. It is said:
   an entry without the field stands for a public room.
5. What another server says of a room is reduced to the fields of the specification, its texts to a
   bounded length.

Spec: client-server API, "Published room directory".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, RoomId, StateKey, parse_room_id
from federation.limits import INTEGER_MAX
from homeserver import limits
from homeserver.rules.words import folded

_TEXTS: Sequence[tuple[str, StateKey, str]] = (
    ("name", event_types.NAME_KEY, "name"),
    ("topic", event_types.TOPIC_KEY, "topic"),
    ("canonical_alias", event_types.CANONICAL_ALIAS_KEY, "alias"),
    ("avatar_url", event_types.AVATAR_KEY, "url"),
    ("join_rule", event_types.JOIN_RULES_KEY, "join_rule"),
    ("room_type", event_types.CREATE_KEY, "type"),
)
_BEGINNINGS = {"canonical_alias": "#", "avatar_url": "mxc://"}
_WITHOUT_JOIN_RULE = "invite"
NEEDED: Sequence[StateKey] = (
    *(key for _, key, _ in _TEXTS),
    event_types.GUEST_ACCESS_KEY,
    event_types.HISTORY_VISIBILITY_KEY,
)
"""The state that `describe` reads."""

_SEARCHED = ("name", "topic", "canonical_alias")


class Search(msgspec.Struct, frozen=True):
    """The terms of a search; `room_types` has None for rooms without a type."""

    generic_search_term: str | None = None
    room_types: tuple[str | None, ...] | None = None


def describe(
    room_id: str, joined: int, contents: Mapping[StateKey, Mapping[str, Any]]
) -> JsonObject:
    """Builds the entry of a room, from the contents of its state."""
    entry: JsonObject = {
        "room_id": room_id,
        "num_joined_members": joined,
        "world_readable": _text(contents, event_types.HISTORY_VISIBILITY_KEY, "history_visibility")
        == "world_readable",
        "guest_can_join": _text(contents, event_types.GUEST_ACCESS_KEY, "guest_access")
        == "can_join",
    }
    for name, key, field in _TEXTS:
        if (found := _text(contents, key, field)) is not None and _may_be(name, found):
            entry[name] = found
    entry.setdefault("join_rule", _WITHOUT_JOIN_RULE)
    return entry


def _text(contents: Mapping[StateKey, Mapping[str, Any]], key: StateKey, field: str) -> str | None:
    found = contents.get(key, {}).get(field)
    return found if isinstance(found, str) and found else None


def _may_be(name: str, text: str) -> bool:
    return text.startswith(_BEGINNINGS.get(name, ""))


def is_federated(contents: Mapping[StateKey, Mapping[str, Any]]) -> bool:
    """Returns whether users of other servers may join a room, by `m.federate` of its creation."""
    return contents.get(event_types.CREATE_KEY, {}).get("m.federate") is not False


def read_entry(value: object) -> JsonObject | None:
    """Returns the entry of a room as another server gives it (rule 5); None for what is none."""
    if not isinstance(value, dict):
        return None
    room_id, joined = as_room_id(value.get("room_id")), value.get("num_joined_members")
    if room_id is None or type(joined) is not int or not 0 <= joined <= INTEGER_MAX:
        return None
    entry: JsonObject = {
        "room_id": room_id,
        "num_joined_members": joined,
        "world_readable": value.get("world_readable") is True,
        "guest_can_join": value.get("guest_can_join") is True,
    }
    for name, _, _ in _TEXTS:
        text = value.get(name)
        if isinstance(text, str) and text and _may_be(name, text):
            entry[name] = text[: limits.REMOTE_ROOM_TEXT_CHARACTERS]
    return entry


def as_room_id(value: object) -> RoomId | None:
    """Returns a room ID, or None for what isn't one."""
    if not isinstance(value, str):
        return None
    try:
        return parse_room_id(value)
    except InvalidIdentifier:
        return None


def matches(entry: JsonObject, search: Search) -> bool:
    """Returns whether a search finds a room."""
    if search.room_types is not None and entry.get("room_type") not in search.room_types:
        return False
    words = _folded(search.generic_search_term or "").split()
    texts = [_folded(entry.get(name, "")) for name in _SEARCHED] if words else []
    return all(any(word in text for text in texts) for word in words)


def _folded(text: str) -> str:
    return folded(text[: limits.ROOM_SEARCH_CHARACTERS])


def order(entry: JsonObject) -> tuple[int, str]:
    """Returns the key by which entries are sorted (rule 1)."""
    return (-entry["num_joined_members"], entry["room_id"])
