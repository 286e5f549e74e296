"""Joins to restricted rooms: what a join rule asks for, and which user of ours can vouch.

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
    """What a client may say of a membership: anything but who vouches for it. The event needs that
    user's server's signature, whatever the membership (room version 8, auth rule 5.2); clients copy
    the key from the event that they change."""
    return {name: value for name, value in content.items() if name != AUTHORISER}


def allowed_rooms(join_rules: JsonObject) -> Sequence[RoomId] | None:
    """The rooms of which a joined member may join, from the content of m.room.join_rules; None
    where joins aren't restricted in this way. Conditions that aren't understood are left out."""
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
    """A user among `joined` (ours) who may invite: the most powerful of those who have a level of
    their own (creators and `listed`, the keys of `users`), else any if all may; the smallest ID
    decides between equals. None where none of them may invite."""
    named = [user for user in {*power.creators, *map(UserId, listed)} if user in joined]
    able = [user for user in named if power.user(user) >= power.invite]
    if able:
        return min(able, key=lambda user: (-power.user(user), user))
    if power.users_default < power.invite:
        return None
    return min((user for user in joined if user not in named), default=None)
