"""What membership requests ask of a room's state, under its lock (`Writer.send`, `check`).

Rules:
1. Each check looks at the state that the event would be made on, staged events included. So equal
   requests at once end as they do one after the other.
2. The auth rules decide the rest. They would turn a kick of a departed user into an event, and the
   lifting of no ban into a kick.

Spec: client-server API, "Room membership".
"""

from __future__ import annotations

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import EventId, UserId
from homeserver import errors
from homeserver.engine.local.writer import Check
from homeserver.engine.rooms.snapshots import StateMap, StateRef


class MembershipChanged(MatrixError):
    """The member event that a request rests on is not the current one any more."""

    def __init__(self) -> None:
        super().__init__(403, "M_FORBIDDEN", "The user's membership has changed meanwhile")


def joins(user_id: UserId) -> Check:
    """For a join: nothing happens to a joined user."""

    def check(state: StateMap) -> StateRef | None:
        mine = state.get((event_types.MEMBER, user_id))
        return mine if mine is not None and mine.membership == "join" else None

    return check


def leaves(user_id: UserId) -> Check:
    """For a leave: nothing happens to a user who has left; 403 for a banned one."""

    def check(state: StateMap) -> StateRef | None:
        mine = state.get((event_types.MEMBER, user_id))
        if mine is not None and mine.membership == "ban":
            raise errors.forbidden("You are banned from this room")
        return mine if mine is not None and mine.membership == "leave" else None

    return check


def kicks(target: UserId) -> Check:
    """For a kick: 403 for a user who is neither joined nor invited and doesn't knock."""

    def check(state: StateMap) -> None:
        current = state.get((event_types.MEMBER, target))
        if current is None or current.membership not in ("join", "invite", "knock"):
            raise errors.forbidden("The user isn't in this room")

    return check


def unbans(target: UserId) -> Check:
    """For the end of a ban: 403 M_BAD_STATE for a user who isn't banned."""

    def check(state: StateMap) -> None:
        current = state.get((event_types.MEMBER, target))
        if current is None or current.membership != "ban":
            raise MatrixError(403, "M_BAD_STATE", "The user isn't banned")

    return check


def replaces(user_id: UserId, event_id: EventId) -> Check:
    """For a renewed member event: raises MembershipChanged unless it replaces the one that it was
    made from."""

    def check(state: StateMap) -> None:
        mine = state.get((event_types.MEMBER, user_id))
        if mine is None or mine.event_id != event_id:
            raise MembershipChanged

    return check


def stays(user_id: UserId) -> Check:
    """For a joined user's change of their own member event: raises MembershipChanged once they
    aren't joined any more, so that it makes no join of itself."""

    def check(state: StateMap) -> None:
        mine = state.get((event_types.MEMBER, user_id))
        if mine is None or mine.membership != "join":
            raise MembershipChanged

    return check
