"""Power levels, parsed once (spec: m.room.power_levels; server-server API, "Definitions").

Rules:
1. Levels come from the create event and the power levels event, or are defaults where these
   have none. Without a power levels event the creator has 100.
2. Where creators are privileged (room version 12) they have infinite power.
3. Before room version 10 strings and floats are read as integers; a value that can't be
   read counts as its default (the auth rules allow it only in a room's first power levels).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from federation.events.event import Event
from federation.events.ids import UserId
from federation.events.room_versions import RoomVersion

Level = int | float
"""A power level. Infinity, the level of creators, is its only float."""

LEVEL_DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "kick": 50,
    "redact": 50,
    "invite": 0,
}
NOTIFICATION_DEFAULT: Final = 50
CREATOR_LEVEL: Final = 100
_STRING_LEVEL: Final = re.compile(r"\s*+([+-]?)(?=[0-9])0*+([0-9]{0,400}+)\s*+", re.ASCII)
"""Any number of leading zeros, then up to 400 digits: more than any level has, few enough for
`int`."""


def read_level(value: Any, version: RoomVersion) -> int | None:
    """Returns a level as the version reads it; None when the value isn't a level.

    Spec: room version 10 (integers only); room version 1 (strings and floats).
    """
    if type(value) is int:
        return value
    if version.integer_power_levels:
        return None
    if type(value) is str:
        match = _STRING_LEVEL.fullmatch(value)
        return None if match is None else int(match[1] + (match[2] or "0"))
    if type(value) is float and math.isfinite(value):
        return int(value)
    return None


def is_readable(value: Any) -> bool:
    """Returns whether the most widely deployed server reads the value as an integer before v10.

    That server reads numbers, booleans, and strings that Python's `int` accepts, such as digits
    of any script: more than the specification allows (`read_level`). Its check refuses the rest.
    """
    if type(value) is str:
        try:
            int(value)
        except ValueError:
            return False
        return True
    return isinstance(value, int | float)


def creators_of(create: Event) -> frozenset[UserId]:
    """Returns the creators: the sender (`content.creator` in old versions) and additional ones."""
    version, content = create.version, create.content
    if version.creator_in_content:
        creator = content.get("creator")
        return frozenset({UserId(creator)}) if type(creator) is str else frozenset()
    creators = {create.sender}
    if version.additional_creators:
        additional = content.get("additional_creators")
        if type(additional) is list:
            creators.update(UserId(entry) for entry in additional if type(entry) is str)
    return frozenset(creators)


def _levels(content: Mapping[str, Any], name: str, version: RoomVersion) -> dict[str, int]:
    given = content.get(name)
    if type(given) is not dict:
        return {}
    if version.integer_power_levels:
        return {key: value for key, value in given.items() if type(value) is int}
    read = ((key, read_level(value, version)) for key, value in given.items())
    return {key: level for key, level in read if level is not None}


class PowerLevels:
    """The levels in force in a room, given its create and power levels events."""

    __slots__ = (
        "_events",
        "_notifications",
        "_users",
        "ban",
        "creators",
        "events_default",
        "invite",
        "kick",
        "redact",
        "state_default",
        "users_default",
    )

    def __init__(self, create: Event | None, power_levels: Event | None, version: RoomVersion):
        content: Mapping[str, Any] = {} if power_levels is None else power_levels.content
        self.creators = frozenset() if create is None else creators_of(create)
        self._users: Mapping[str, Level] = _levels(content, "users", version)
        creator_level: Level | None = None
        if version.creators_are_privileged:
            creator_level = math.inf
        elif power_levels is None:
            creator_level = CREATOR_LEVEL
        if creator_level is not None:
            self._users = {**self._users, **dict.fromkeys(self.creators, creator_level)}
        self._events = _levels(content, "events", version)
        self._notifications = _levels(content, "notifications", version)
        for name, default in LEVEL_DEFAULTS.items():
            level = read_level(content.get(name), version)
            setattr(self, name, default if level is None else level)

    users_default: int
    events_default: int
    state_default: int
    ban: int
    kick: int
    redact: int
    invite: int
    creators: frozenset[UserId]

    def user(self, user_id: str) -> Level:
        """Returns a user's level; infinity for privileged creators."""
        return self._users.get(user_id, self.users_default)

    def event(self, event_type: str, *, is_state: bool) -> int:
        """Returns the level required to send an event of this type."""
        level = self._events.get(event_type)
        if level is not None:
            return level
        return self.state_default if is_state else self.events_default

    def notifications(self, name: str) -> int:
        """Returns the level required to notify by `name`, such as `room`."""
        return self._notifications.get(name, NOTIFICATION_DEFAULT)
