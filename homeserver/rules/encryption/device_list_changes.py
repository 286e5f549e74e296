"""Whose devices a user must look at again: `device_lists` of a sync.

Rules:
1. A user keeps the device lists of those who are joined or invited to a room that the user is
   joined to: these are the ones to encrypt for.
2. `changed` has those of them (and the user themself) whose devices or keys changed; those who
   joined a room, or were invited to it, while the user was in it; and all of a room that the user
   joined, or in which encryption was turned on.
3. `left` has those who were joined to a room together with the user until one of the two left it,
   and whom the user doesn't keep any more. An invite that is refused, or a knock, ends nothing.
4. What happened in a room while the user wasn't joined is not told.
5. Saying too much of `changed` is harmless (a client asks once more), saying too little isn't.

Spec: client-server API, "Tracking the device list for a user", "E2E extensions to sync".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeAlias

import msgspec

from federation.events.ids import EventId, RoomId, UserId

JOIN, INVITE = "join", "invite"


class MembershipChange(msgspec.Struct, frozen=True):
    """A user's membership of a room became another one, by an event if there is one."""

    room_id: RoomId
    user_id: UserId
    membership: str | None
    former: str | None
    event_id: EventId | None = None


class EncryptionChange(msgspec.Struct, frozen=True):
    """The encryption of a room was turned on, or set anew."""

    room_id: RoomId


ListChange: TypeAlias = MembershipChange | EncryptionChange


class Candidates(msgspec.Struct, frozen=True):
    """Who may belong to `changed` and `left`. All members of the rooms in `renewed` may have
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
    """What follows from changes, in the order of the log; `is_joined` says of rooms whether the
    user is in them after all of these."""
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
    """Whether the user was in the rooms of their own changes before the first of these."""
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
    """(changed, left) of candidates, by whose device lists the user keeps now."""
    now = {user for user in changed if user == user_id or keeps(user)}
    gone = {user for user in left if user != user_id and not keeps(user)}
    return now, gone
