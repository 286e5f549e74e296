"""What the published room directory says of a room, and what a search in it finds.

Rules:
1. Larger rooms come first; equal ones in the order of their IDs, so that pages don't overlap.
2. A search term is looked for in name, topic and canonical alias, whatever the case.
3. What a room's state says in a wrong type is left out.

Spec: client-server API, "Published room directory".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from federation.events.canonical_json import JsonObject
from federation.events.ids import StateKey

_TEXTS: Sequence[tuple[str, StateKey, str]] = (
    ("name", ("m.room.name", ""), "name"),
    ("topic", ("m.room.topic", ""), "topic"),
    ("canonical_alias", ("m.room.canonical_alias", ""), "alias"),
    ("avatar_url", ("m.room.avatar", ""), "url"),
    ("join_rule", ("m.room.join_rules", ""), "join_rule"),
    ("room_type", ("m.room.create", ""), "type"),
)
_GUESTS: StateKey = ("m.room.guest_access", "")
_HISTORY: StateKey = ("m.room.history_visibility", "")
NEEDED: Sequence[StateKey] = (*(key for _, key, _ in _TEXTS), _GUESTS, _HISTORY)
"""The state that `describe` reads."""

_SEARCHED = ("name", "topic", "canonical_alias")


class Search(msgspec.Struct, frozen=True):
    """What is looked for; `room_types` has None for rooms without a type."""

    generic_search_term: str | None = None
    room_types: tuple[str | None, ...] | None = None


def describe(
    room_id: str, joined: int, contents: Mapping[StateKey, Mapping[str, Any]]
) -> JsonObject:
    """The entry of a room, from the contents of its state."""
    entry: JsonObject = {
        "room_id": room_id,
        "num_joined_members": joined,
        "world_readable": _text(contents, _HISTORY, "history_visibility") == "world_readable",
        "guest_can_join": _text(contents, _GUESTS, "guest_access") == "can_join",
    }
    for name, key, field in _TEXTS:
        if (found := _text(contents, key, field)) is not None:
            entry[name] = found
    return entry


def _text(contents: Mapping[StateKey, Mapping[str, Any]], key: StateKey, field: str) -> str | None:
    found = contents.get(key, {}).get(field)
    return found if isinstance(found, str) and found else None


def matches(entry: JsonObject, search: Search) -> bool:
    """Does a search find a room?"""
    if search.room_types is not None and entry.get("room_type") not in search.room_types:
        return False
    term = (search.generic_search_term or "").casefold()
    return not term or any(term in entry.get(name, "").casefold() for name in _SEARCHED)


def order(entry: JsonObject) -> tuple[int, str]:
    """The key by which entries are sorted (rule 1)."""
    return (-entry["num_joined_members"], entry["room_id"])
