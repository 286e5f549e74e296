"""The users whose devices a client must query again: `device_lists` of a sync.

Rules:
1. A user keeps the device lists of those who are joined or invited to a room that the user is
   joined to: these are the recipients of encrypted messages.
2. `changed` has those of them (and the user themself) whose devices or keys changed; users who
   joined a room, or were invited to it, while the user was in it; and all members of a room that
   the user joined, or in which encryption was turned on.
3. `left` has users who were joined to a room together with the user until one of the two left it,
   and whose lists the user no longer keeps. A refused invite, or a knock, doesn't end anything.
4. Changes in a room while the user wasn't joined are left out.
5. Too many users in `changed` are harmless (a client queries once more), too few aren't.

Spec: client-server API, "Tracking the device list for a user", "E2E extensions to sync".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

import msgspec

from federation.events.ids import EventId, RoomId, UserId

JOIN, INVITE = "join", "invite"


class MembershipChange(msgspec.Struct, frozen=True):
    """A change of a user's membership of a room, by an event if there is one."""

    room_id: RoomId
    user_id: UserId
    membership: str | None
    former: str | None
    event_id: EventId | None = None


class EncryptionChange(msgspec.Struct, frozen=True):
    """The encryption of a room was turned on, or changed."""

    room_id: RoomId


ListChange: TypeAlias = MembershipChange | EncryptionChange


class Candidates(msgspec.Struct, frozen=True):
    """Users who may belong to `changed` and `left`. All members of the rooms in `renewed` may have
    changed; `departures` are events by which the user left rooms, whose members of that moment may
    be left."""

    changed: frozenset[UserId]
    left: frozenset[UserId]
    renewed: frozenset[RoomId]
    departures: tuple[tuple[RoomId, EventId], ...]


def find_candidates(
    user_id: UserId,
    *,
    device_changes: Iterable[UserId],
    changes: Sequence[ListChange],
    is_joined: Callable[[RoomId], bool],
) -> Candidates:
    """Returns the candidates that follow from changes, in the order of the log; `is_joined` returns
    whether the user is in a room after all of these."""
    changed, left, renewed = set(device_changes), set[UserId](), set[RoomId]()
    departures: list[tuple[RoomId, EventId]] = []
    inside = _at_first(user_id, changes)
    for change in changes:
        room_id = change.room_id
        is_inside = inside.setdefault(room_id, is_joined(room_id))
        if isinstance(change, EncryptionChange):
            if is_inside:
                renewed.add(room_id)
        elif change.user_id == user_id:
            inside[room_id] = change.membership == JOIN
            if change.membership == JOIN:
                renewed.add(room_id)
            elif change.former == JOIN and change.event_id is not None:
                departures.append((room_id, change.event_id))
        elif is_inside and change.membership in (JOIN, INVITE):
            changed.add(change.user_id)
        elif is_inside and change.former == JOIN:
            left.add(change.user_id)
    kept = frozenset(room_id for room_id in renewed if is_joined(room_id))
    return Candidates(frozenset(changed), frozenset(left), kept, tuple(departures))


def _at_first(user_id: UserId, changes: Sequence[ListChange]) -> dict[RoomId, bool]:
    """Returns whether the user was in the rooms of their own changes before the first of these."""
    first: dict[RoomId, bool] = {}
    for change in changes:
        if isinstance(change, MembershipChange) and change.user_id == user_id:
            first.setdefault(change.room_id, change.former == JOIN)
    return first


def decide(
    user_id: UserId,
    *,
    changed: Collection[UserId],
    left: Collection[UserId],
    keeps: Callable[[UserId], bool],
) -> tuple[set[UserId], set[UserId]]:
    """Returns (changed, left) of candidates, given the users whose device lists the user now
    keeps.
    """
    now = {user for user in changed if user == user_id or keeps(user)}
    gone = {user for user in left if user != user_id and not keeps(user)}
    return now, gone
