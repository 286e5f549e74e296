"""Auth rules of `m.room.power_levels` (spec: room versions, "Authorisation rules"; rule 10 of
v12, rule 9 of v6 to v11).

Rules:
1. Levels are compared as the version reads them (`read_level`).
2. An unchanged entry is never a reason to refuse, however high it is.
3. Where the specification is silent, deployed servers decide, since a difference splits rooms.
   Power levels without a state key are refused. Before version 10, levels that can't be read as
   integers are refused once there are power levels to compare them with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import InvalidIdentifier, parse_user_id
from federation.events.room_versions import RoomVersion
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.auth.auth_state import AuthState
from federation.graph.auth.power_levels import LEVEL_DEFAULTS, Level, is_readable, read_level
from federation.limits import QUOTED_ID_CHARACTERS_MAX

_Change = tuple[str, int | None, int | None]


def check_power_levels(event: Event, state: AuthState) -> AuthFailure | None:
    """Checks rule 10, for a sender who may send power levels; returns None when allowed."""
    content, version = event.content, state.version
    if event.state_key is None:
        return AuthFailure(AuthRule.POWER_LEVEL_WITHOUT_STATE_KEY, "it has no state key")
    # 10.1 to 10.3: the levels have the right types
    failure = _check_form(content, version)
    if failure is not None:
        return failure
    # 10.4: `users` may not list creators, whose power is infinite
    users = content.get("users", {})
    if version.creators_are_privileged:
        for creator in state.power_levels.creators:
            if creator in users:
                return AuthFailure(AuthRule.POWER_LEVEL_OF_CREATOR, f"{creator} is a creator")
    # 10.5: a room's first power levels are allowed
    current = state.event(event_types.POWER_LEVELS_KEY)
    if current is None:
        return None
    level = state.power_levels.user(event.sender)
    # 10.6 to 10.8: no level above the sender's is changed, and no level is raised above it
    for failure in (
        _check_readable(current.content, content, version) if event.state_key == "" else None,
        _check_named(current.content, content, level, version),
        _check_map(current.content, content, "events", level, version),
        _check_map(current.content, content, "notifications", level, version)
        if version.notification_levels_guarded
        else None,
    ):
        if failure is not None:
            return failure
    # 10.9, 10.10: the levels of users are guarded more strictly than the others
    return _check_users(current.content, event, level, version)


def _check_form(content: Mapping[str, Any], version: RoomVersion) -> AuthFailure | None:
    if version.integer_power_levels:
        # 10.1: the named levels are integers
        for name in LEVEL_DEFAULTS:
            if name in content and type(content[name]) is not int:
                return AuthFailure(AuthRule.POWER_LEVEL_NOT_INTEGER, f"{name} is not an integer")
        # 10.2: `events` and `notifications` map to integers
        for name in ("events", "notifications"):
            levels = content.get(name, {})
            if type(levels) is not dict or not all(type(v) is int for v in levels.values()):
                return AuthFailure(
                    AuthRule.POWER_LEVEL_MAP_MALFORMED, f"{name} is not an object of integers"
                )
    # 10.3: `users` maps user IDs to integers
    users = content.get("users", {})
    if type(users) is not dict:
        return AuthFailure(AuthRule.POWER_LEVEL_USERS_MALFORMED, "users is not an object")
    for user_id, value in users.items():
        if read_level(value, version) is None:
            return AuthFailure(
                AuthRule.POWER_LEVEL_USERS_MALFORMED, f"the level of {user_id} is not an integer"
            )
        try:
            parse_user_id(user_id)
        except InvalidIdentifier as error:
            return AuthFailure(
                AuthRule.POWER_LEVEL_USERS_MALFORMED,
                f"{user_id[:QUOTED_ID_CHARACTERS_MAX]}: {error}",
            )
    return None


def _check_readable(
    old: Mapping[str, Any], new: Mapping[str, Any], version: RoomVersion
) -> AuthFailure | None:
    """Checks, before version 10, that all levels to be compared can be read as integers."""
    if version.integer_power_levels:
        return None
    guarded = ("events", "notifications") if version.notification_levels_guarded else ("events",)
    for content in (old, new):
        for name in LEVEL_DEFAULTS:
            if name in content and not is_readable(content[name]):
                return AuthFailure(AuthRule.POWER_LEVEL_UNREADABLE, f"{name} can't be read")
        for name in guarded:
            levels = content.get(name, {})
            # An empty string or list counts as an empty object.
            is_map = type(levels) is dict and all(map(is_readable, levels.values()))
            if not is_map and not (type(levels) in (str, list) and not levels):
                return AuthFailure(AuthRule.POWER_LEVEL_UNREADABLE, f"{name} can't be read")
    return None


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], version: RoomVersion
) -> Iterator[_Change]:
    """Yields the entries whose level was added, changed or removed, with both levels.

    The order follows from the two events, so that all servers and all runs cite the same entry.
    """
    # Only where all levels are integers: Python takes `True` and `1` as equal, the rules do not.
    if version.integer_power_levels and old == new:
        return
    for name in (*old, *(added for added in new if added not in old)):
        before = read_level(old.get(name), version)
        after = read_level(new.get(name), version)
        if before != after:
            yield name, before, after


def _map(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    return value if type(value) is dict else {}


def _check_named(
    old: Mapping[str, Any], new: Mapping[str, Any], level: Level, version: RoomVersion
) -> AuthFailure | None:
    """Checks rule 10.6, on changes of `users_default` and the other named levels."""
    for name in LEVEL_DEFAULTS:
        before = read_level(old.get(name), version)
        after = read_level(new.get(name), version)
        if before != after and _is_above(before, after, level):
            return AuthFailure(
                AuthRule.POWER_LEVEL_CHANGE_TOO_HIGH, f"{name}: {before} to {after} with {level}"
            )
    return None


def _is_above(before: int | None, after: int | None, level: Level) -> bool:
    return (before is not None and before > level) or (after is not None and after > level)


def _check_map(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    name: str,
    level: Level,
    version: RoomVersion,
) -> AuthFailure | None:
    """Checks rules 10.7 and 10.8, on changed entries of `events` and `notifications`."""
    for entry, before, after in _changes(_map(old, name), _map(new, name), version):
        if _is_above(before, after, level):
            return AuthFailure(
                AuthRule.POWER_LEVEL_MAP_CHANGE_TOO_HIGH,
                f"{name}.{entry[:QUOTED_ID_CHARACTERS_MAX]}: {before} to {after} with {level}",
            )
    return None


def _check_users(
    old: Mapping[str, Any], event: Event, level: Level, version: RoomVersion
) -> AuthFailure | None:
    """Checks rules 10.9 and 10.10, on changed entries of `users`."""
    changes = list(_changes(_map(old, "users"), _map(event.content, "users"), version))
    # 10.9: the level of another user may be changed only if it is below the sender's
    for user_id, before, _ in changes:
        if before is not None and user_id != event.sender and before >= level:
            return AuthFailure(
                AuthRule.POWER_LEVEL_OF_EQUAL, f"{user_id} has {before}, the sender {level}"
            )
    # 10.10: no user may get a level above the sender's
    for user_id, _, after in changes:
        if after is not None and after > level:
            return AuthFailure(
                AuthRule.POWER_LEVEL_USER_TOO_HIGH,
                f"{user_id} gets {after}, the sender has {level}",
            )
    return None
