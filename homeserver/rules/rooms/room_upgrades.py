"""Room upgrades: the events of the new room, and the power levels that close the old one.

Rules:
1. The state that the spec recommends is carried over; members are not.
2. Power levels come last: until then the upgrader may set everything, whatever level they have.
3. If creators are privileged (version 12) they are dropped from `users`; otherwise the upgrader is
   listed with at least the level that they had, 100 for a former creator.

Spec: client-server API, "Room Upgrades".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, StateKey, UserId, server_of
from federation.events.room_versions import RoomVersion
from federation.graph.auth.power_levels import LEVEL_DEFAULTS, PowerLevels, read_level
from federation.graph.building import EventDraft
from homeserver.rules.rooms.room_presets import CREATOR_LEVEL, TOMBSTONE_LEVEL_PRIVILEGED

_CARRIED = (
    event_types.SERVER_ACL,
    event_types.ENCRYPTION,
    event_types.NAME,
    event_types.AVATAR,
    event_types.TOPIC,
    event_types.GUEST_ACCESS,
    event_types.HISTORY_VISIBILITY,
    event_types.JOIN_RULES,
)

CARRIED_KEYS: Sequence[StateKey] = (
    *((name, "") for name in _CARRIED),
    event_types.CREATE_KEY,
    event_types.POWER_LEVELS_KEY,
    event_types.CANONICAL_ALIAS_KEY,
)
"""The state of the old room from which the new one is built."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An upgrade: its user and the room. `state` has the old room's events for `CARRIED_KEYS`,
    always with its create event; `member` is the content of the upgrader's join; `tombstone` the
    event that closes the old room, if its ID is known before the new room's."""

    user_id: UserId
    state: Mapping[StateKey, Event]
    old_version: RoomVersion
    version: RoomVersion
    additional_creators: Sequence[UserId]
    member: JsonObject
    tombstone: EventId | None


_LEVEL_LEAST = 50


def build_upgrade_drafts(upgrade: Upgrade) -> list[EventDraft]:
    """Returns the events of the new room, in order."""
    drafts = [
        _draft(upgrade, event_types.CREATE, _create_content(upgrade)),
        EventDraft(event_types.MEMBER, upgrade.user_id, upgrade.member, state_key=upgrade.user_id),
    ]
    drafts += [
        _draft(upgrade, name, upgrade.state[(name, "")].content)
        for name in _CARRIED
        if (name, "") in upgrade.state
    ]
    if alias := _local_alias(upgrade):
        drafts.append(_draft(upgrade, event_types.CANONICAL_ALIAS, alias))
    drafts.append(_draft(upgrade, event_types.POWER_LEVELS, _power_levels(upgrade)))
    return drafts


def build_closed_levels(power_levels: JsonObject) -> JsonObject:
    """Returns power levels that make an upgraded room read-only: sending and inviting require 50,
    or more than members have."""
    default = power_levels.get("users_default", 0)
    needed = max(_LEVEL_LEAST, (default if isinstance(default, int) else 0) + 1)

    def raised(name: str) -> int:
        level = power_levels.get(name, LEVEL_DEFAULTS[name])
        return max(level if isinstance(level, int) else 0, needed)

    return {
        **power_levels,
        "events_default": raised("events_default"),
        "invite": raised("invite"),
    }


def _create_content(upgrade: Upgrade) -> JsonObject:
    old = upgrade.state[event_types.CREATE_KEY]
    predecessor: JsonObject = {"room_id": old.room_id}
    if upgrade.tombstone is not None:
        predecessor["event_id"] = upgrade.tombstone
    content: JsonObject = {"room_version": upgrade.version.name, "predecessor": predecessor}
    for name in ("type", "m.federate"):
        if name in old.content:
            content[name] = old.content[name]
    if upgrade.version.creator_in_content:
        content["creator"] = upgrade.user_id
    if upgrade.version.additional_creators and upgrade.additional_creators:
        content["additional_creators"] = list(upgrade.additional_creators)
    return content


def _power_levels(upgrade: Upgrade) -> JsonObject:
    event = upgrade.state.get(event_types.POWER_LEVELS_KEY)
    old = {} if event is None else event.content
    content = _read(old, upgrade.old_version)
    users: dict[str, int] = dict(content.get("users", {}))
    if upgrade.version.creators_are_privileged:
        for creator in (upgrade.user_id, *upgrade.additional_creators):
            users.pop(creator, None)
        events = dict(content.get("events", {}))
        least = content.get("state_default", LEVEL_DEFAULTS["state_default"]) + 1
        tombstone = max(events.get(event_types.TOMBSTONE, 0), TOMBSTONE_LEVEL_PRIVILEGED, least)
        content["events"] = {**events, event_types.TOMBSTONE: tombstone}
    else:
        power = PowerLevels(upgrade.state[event_types.CREATE_KEY], event, upgrade.old_version)
        level = power.user(upgrade.user_id)
        users[upgrade.user_id] = level if isinstance(level, int) else CREATOR_LEVEL
        users |= {
            creator: CREATOR_LEVEL
            for creator in power.creators
            if upgrade.old_version.creators_are_privileged
        }
    content["users"] = users
    return content


def _read(old: JsonObject, version: RoomVersion) -> JsonObject:
    """Returns power levels with all levels as integers; unreadable ones are left out."""
    content = dict(old)
    for name in LEVEL_DEFAULTS:
        if name in content and (level := read_level(content[name], version)) is not None:
            content[name] = level
        else:
            content.pop(name, None)
    for name in ("users", "events", "notifications"):
        given = content.get(name)
        if isinstance(given, dict):
            read = ((key, read_level(value, version)) for key, value in given.items())
            content[name] = {key: level for key, level in read if level is not None}
        else:
            content.pop(name, None)
    return content


def _local_alias(upgrade: Upgrade) -> JsonObject | None:
    """Returns the canonical alias, if it is a local one, since local aliases move with the room."""
    event = upgrade.state.get(event_types.CANONICAL_ALIAS_KEY)
    alias = None if event is None else event.content.get("alias")
    if isinstance(alias, str) and alias.endswith(f":{server_of(upgrade.user_id)}"):
        return {"alias": alias}
    return None


def _draft(upgrade: Upgrade, event_type: str, content: JsonObject) -> EventDraft:
    return EventDraft(event_type, upgrade.user_id, content, state_key="")
