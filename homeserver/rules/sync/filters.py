"""Filters of clients: the wanted content of a sync, or of a page of messages.

Rules:
1. A filter is checked when it is stored (or given inline) and then is a frozen value; unknown keys
   are ignored.
2. An absent list restricts nothing; an empty one lets nothing through. `not_...` wins.
3. A `*` in `types` and `not_types` stands for any characters; other lists are exact.
4. `rel_types` are the kinds of relations of the events themselves (MSC3874), `related_by_...` ask
   for events that others relate to; the answer's maker looks for these.

Spec: client-server API, "Filtering"; `definitions/sync_filter.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from homeserver import limits
from homeserver.errors import bad_json, invalid_param
from homeserver.rules.timeline.relations import relation_of


class TypePatterns(msgspec.Struct, frozen=True):
    """Event types, exact ones and those with wildcards: the parts between these."""

    exact: frozenset[str]
    globs: tuple[tuple[str, ...], ...]

    def match(self, event_type: str) -> bool:
        """Returns whether the type matches one of them."""
        return event_type in self.exact or any(_is_glob(event_type, one) for one in self.globs)


def _is_glob(text: str, parts: tuple[str, ...]) -> bool:
    """Returns whether the text has these parts in order, the first at its start and the last at its
    end. Each inner part is taken at its first match: a later one is never better, so no
    backtracking is needed."""
    first, *inner, last = parts
    if not (text.startswith(first) and text.endswith(last)):
        return False
    position, end = len(first), len(text) - len(last)
    for part in inner:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return position <= end


class EventFilter(msgspec.Struct, frozen=True):
    """The part of a filter for one kind of events."""

    limit: int | None = None
    types: TypePatterns | None = None
    not_types: TypePatterns | None = None
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False
    rel_types: frozenset[str] | None = None
    not_rel_types: frozenset[str] = frozenset()
    related_by_senders: frozenset[str] | None = None
    related_by_rel_types: frozenset[str] | None = None

    @property
    def allows_all(self) -> bool:
        """Returns True if no event of any room is excluded."""
        return (
            self.types is None
            and self.not_types is None
            and self.senders is None
            and not self.not_senders
            and self.rooms is None
            and not self.not_rooms
            and self.contains_url is None
            and self.rel_types is None
            and not self.not_rel_types
        )

    def allows_type(self, event_type: str) -> bool:
        """Returns whether events of this type may be in the answer."""
        if self.not_types is not None and self.not_types.match(event_type):
            return False
        return self.types is None or self.types.match(event_type)

    def allows_room(self, room_id: str) -> bool:
        """Returns whether this room may be in the answer."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)

    def allows_relation(self, content: Mapping[str, Any]) -> bool:
        """Returns whether an event with this content may be in the answer, by the kind of its
        relation to another one (MSC3874)."""
        if self.rel_types is None and not self.not_rel_types:
            return True
        relation = relation_of(content)
        if relation is None:
            return self.rel_types is None
        if relation.rel_type in self.not_rel_types:
            return False
        return self.rel_types is None or relation.rel_type in self.rel_types

    def allows(self, event_type: str, sender: str, has_url: bool = False) -> bool:
        """Returns whether an event may be in the answer. `has_url`: its content has the key
        `url`.
        """
        if sender in self.not_senders:
            return False
        if self.senders is not None and sender not in self.senders:
            return False
        if self.contains_url is not None and self.contains_url != has_url:
            return False
        return self.allows_type(event_type)


class RoomFilter(msgspec.Struct, frozen=True):
    """The part of a filter for rooms."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    timeline: EventFilter = EventFilter()
    state: EventFilter = EventFilter()
    ephemeral: EventFilter = EventFilter()
    account_data: EventFilter = EventFilter()

    def allows_room(self, room_id: str) -> bool:
        """Returns whether this room may be in the answer at all."""
        return room_id not in self.not_rooms and (self.rooms is None or room_id in self.rooms)


class SyncFilter(msgspec.Struct, frozen=True):
    """A whole filter. `event_fields` are paths, each a tuple of keys; None for all fields."""

    room: RoomFilter = RoomFilter()
    account_data: EventFilter = EventFilter()
    presence: EventFilter = EventFilter()
    event_fields: tuple[tuple[str, ...], ...] | None = None
    event_format: str = "client"


NO_FILTER = SyncFilter()


def parse_filter(value: JsonObject) -> SyncFilter:
    """Parses a filter; raises MatrixError (400 M_BAD_JSON, M_INVALID_PARAM)."""
    event_format = value.get("event_format", "client")
    if event_format not in ("client", "federation"):
        raise invalid_param("event_format must be client or federation")
    fields = _strings(value, "event_fields")
    return SyncFilter(
        room=_parse_room_filter(_object(value, "room")),
        account_data=parse_event_filter(_object(value, "account_data")),
        presence=parse_event_filter(_object(value, "presence")),
        event_fields=None if fields is None else tuple(split_path(field) for field in fields),
        event_format=event_format,
    )


def parse_event_filter(value: JsonObject) -> EventFilter:
    """Parses a RoomEventFilter (also the `filter` parameter of /messages); raises as
    `parse_filter`.
    """
    return EventFilter(
        limit=_limit(value),
        types=_patterns(value, "types"),
        not_types=_patterns(value, "not_types"),
        senders=_identifiers(value, "senders", "@"),
        not_senders=_identifiers(value, "not_senders", "@") or frozenset(),
        rooms=_identifiers(value, "rooms", "!"),
        not_rooms=_identifiers(value, "not_rooms", "!") or frozenset(),
        contains_url=_flag(value, "contains_url"),
        lazy_load_members=_flag(value, "lazy_load_members") or False,
        include_redundant_members=_flag(value, "include_redundant_members") or False,
        unread_thread_notifications=_flag(value, "unread_thread_notifications") or False,
        rel_types=_kinds(value, "rel_types"),
        not_rel_types=_kinds(value, "not_rel_types") or frozenset(),
        related_by_senders=_identifiers(value, "related_by_senders", "@"),
        related_by_rel_types=_kinds(value, "related_by_rel_types"),
    )


def _parse_room_filter(value: JsonObject) -> RoomFilter:
    return RoomFilter(
        rooms=_identifiers(value, "rooms", "!"),
        not_rooms=_identifiers(value, "not_rooms", "!") or frozenset(),
        include_leave=_flag(value, "include_leave") or False,
        timeline=parse_event_filter(_object(value, "timeline")),
        state=parse_event_filter(_object(value, "state")),
        ephemeral=parse_event_filter(_object(value, "ephemeral")),
        account_data=parse_event_filter(_object(value, "account_data")),
    )


def split_path(path: str) -> tuple[str, ...]:
    """Returns the keys of a dot-separated path (spec appendices): a backslash escapes `.` and
    itself.
    """
    keys, key, position = [], "", 0
    while position < len(path):
        char = path[position]
        following = path[position + 1 : position + 2]
        if char == "\\" and following and following in ".\\":
            key += following
            position += 1
        elif char == ".":
            keys.append(key)
            key = ""
        else:
            key += char
        position += 1
    return (*keys, key)


def select_fields(event: JsonObject, paths: tuple[tuple[str, ...], ...]) -> JsonObject:
    """Returns a copy of `event` with only the fields that `paths` name."""
    selected: JsonObject = {}
    for path in paths:
        _copy_path(event, selected, path)
    return selected


def _copy_path(source: JsonObject, target: JsonObject, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        below = source.get(key)
        if not isinstance(below, dict):
            return
        into = target.get(key)
        if into is below:  # A shorter path selected all of it.
            return
        if into is None:
            into = target[key] = {}
        source, target = below, into
    if path[-1] in source:
        target[path[-1]] = source[path[-1]]


def _object(value: JsonObject, key: str) -> JsonObject:
    found = value.get(key, {})
    if not isinstance(found, dict):
        raise bad_json(f"{key} must be an object")
    return found


def _flag(value: JsonObject, key: str) -> bool | None:
    found = value.get(key)
    if found is not None and not isinstance(found, bool):
        raise bad_json(f"{key} must be a boolean")
    return found


def _limit(value: JsonObject) -> int | None:
    found = value.get("limit")
    if found is None:
        return None
    if not isinstance(found, int) or isinstance(found, bool):
        raise bad_json("limit must be an integer")
    if found < 0:
        raise invalid_param("limit must not be negative")
    return min(found, limits.FILTER_LIMIT_EVENTS)


def _strings(value: JsonObject, key: str) -> list[str] | None:
    found: Any = value.get(key)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise bad_json(f"{key} must be a list of strings")
    _check_size(key, found)
    return found


def _check_size(key: str, found: list[str]) -> None:
    problem: Callable[[str], MatrixError] = invalid_param
    if len(found) > limits.FILTER_LIST_ITEMS:
        raise problem(f"{key} has more than {limits.FILTER_LIST_ITEMS} items")
    if any(len(item) > limits.FILTER_ITEM_CHARACTERS for item in found):
        raise problem(f"{key} has an item of more than {limits.FILTER_ITEM_CHARACTERS} characters")


def _identifiers(value: JsonObject, key: str, sigil: str) -> frozenset[str] | None:
    found = _strings(value, key)
    if found is None:
        return None
    for item in found:
        if not item.startswith(sigil):
            raise invalid_param(f"{key} must have identifiers that start with {sigil}")
    return frozenset(found)


def _kinds(value: JsonObject, key: str) -> frozenset[str] | None:
    """Parses a list of kinds of relations, under its own name or that of MSC3874."""
    found = _strings(value, key)
    if found is None:
        found = _strings(value, f"org.matrix.msc3874.{key}")
    return None if found is None else frozenset(found)


def _patterns(value: JsonObject, key: str) -> TypePatterns | None:
    """Parses a list of types; an empty list matches nothing."""
    found = _strings(value, key)
    if found is None:
        return None
    globs = {item for item in found if "*" in item}
    if len(globs) > limits.FILTER_PATTERNS:
        raise invalid_param(f"{key} has more than {limits.FILTER_PATTERNS} items with wildcards")
    if any(item.count("*") > limits.FILTER_WILDCARDS for item in globs):
        raise invalid_param(f"{key} has an item with more than {limits.FILTER_WILDCARDS} wildcards")
    parts = tuple(tuple(item.split("*")) for item in sorted(globs))
    return TypePatterns(frozenset(found) - globs, parts)
