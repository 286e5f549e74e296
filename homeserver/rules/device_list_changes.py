"""Whose devices a user must look at again: `device_lists` of a sync.

Rules:
1. `changed` has users who share a room with the user now (and the user themself) and whose devices
   or keys changed, or who share a room newly: they joined one of the user's rooms, or the user
   joined theirs.
2. `left` has users who shared a room before and share none now.
3. Saying too much is harmless (a client asks once more), saying too little isn't.

Spec: client-server API, "Tracking the device list for a user".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import msgspec

from federation.events.ids import RoomId, UserId

JOIN = "join"


class MembershipChange(msgspec.Struct, frozen=True):
    """A user's membership of a room became another one."""

    room_id: RoomId
    user_id: UserId
    membership: str | None


class Candidates(msgspec.Struct, frozen=True):
    """Who may belong to `changed` and `left`; `joined` and `departed` are rooms that the user
    joined or left, whose members count too."""

    changed: frozenset[UserId]
    left: frozenset[UserId]
    joined: frozenset[RoomId]
    departed: frozenset[RoomId]


def find_candidates(
    user_id: UserId,
    *,
    device_changes: Iterable[UserId],
    membership_changes: Iterable[MembershipChange],
    is_joined: Callable[[RoomId], bool],
) -> Candidates:
    """What follows from changes in the log alone; `is_joined` says of rooms whether the user is in
    them now."""
    changed, left = set(device_changes), set[UserId]()
    joined, departed = set[RoomId](), set[RoomId]()
    for change in membership_changes:
        if change.user_id == user_id:
            (joined if change.membership == JOIN else departed).add(change.room_id)
        elif is_joined(change.room_id):
            (changed if change.membership == JOIN else left).add(change.user_id)
    return Candidates(
        frozenset(changed), frozenset(left), frozenset(joined), frozenset(departed - joined)
    )


def decide(
    user_id: UserId,
    *,
    changed: Collection[UserId],
    left: Collection[UserId],
    shares: Callable[[UserId], bool],
) -> tuple[set[UserId], set[UserId]]:
    """(changed, left) of candidates, by who shares a room with the user now."""
    now = {user for user in changed if user == user_id or shares(user)}
    gone = {user for user in left if user != user_id and not shares(user)}
    return now, gone
