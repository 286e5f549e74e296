"""Joins to restricted rooms: the conditions of a join rule, and the local user who authorises.

Spec: client-server API, "Restricted rooms"; server-server API, "Restricted rooms".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from federation.graph.auth.power_levels import PowerLevels
from homeserver import limits

AUTHORISER = "join_authorised_via_users_server"
_RESTRICTED = frozenset({"restricted", "knock_restricted"})


def without_authoriser(content: JsonObject) -> JsonObject:
    """Returns a client's membership content without the authorising user. The key requires the
    signature of that user's server, whatever the membership (room version 8, auth rule 5.2);
    clients copy it from the event that they change."""
    return {name: value for name, value in content.items() if name != AUTHORISER}


def allowed_rooms(join_rules: JsonObject) -> Sequence[RoomId] | None:
    """Returns the rooms whose joined members may join, from the content of m.room.join_rules; None
    if joins aren't restricted in this way. Unknown conditions are left out."""
    if join_rules.get("join_rule") not in _RESTRICTED:
        return None
    conditions = join_rules.get("allow")
    if not isinstance(conditions, list):
        return ()
    return [
        RoomId(condition["room_id"])
        for condition in conditions[: limits.RESTRICTED_JOIN_ROOMS]
        if isinstance(condition, dict)
        and condition.get("type") == "m.room_membership"
        and isinstance(condition.get("room_id"), str)
    ]


def find_authorising_user(
    power: PowerLevels, listed: Collection[str], joined: Collection[UserId]
) -> UserId | None:
    """Returns a user among `joined` (local ones) who may invite: the most powerful of those who
    have a level of their own (creators and `listed`, the keys of `users`), else any if all may; the
    smallest ID decides between equals. None if none of them may invite."""
    named = [user for user in {*power.creators, *map(UserId, listed)} if user in joined]
    able = [user for user in named if power.user(user) >= power.invite]
    if able:
        return min(able, key=lambda user: (-power.user(user), user))
    if power.users_default < power.invite:
        return None
    return min((user for user in joined if user not in named), default=None)
