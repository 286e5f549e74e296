"""Checks of membership requests against a room's state, under its lock (`Writer.send`, `check`).

Rules:
1. Each check uses the state that the event would be built on, staged events included. So concurrent
   equal requests have the same results as consecutive ones.
2. The auth rules decide the rest. Without these checks they would allow the kick of a departed
   user, and turn the unban of a user who isn't banned into a kick.

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
    """The member event that a request depends on is not the current one any more."""

    def __init__(self) -> None:
        super().__init__(403, "M_FORBIDDEN", "The user's membership has changed meanwhile")


def joins(user_id: UserId) -> Check:
    """Returns the check for a join: it finds the draft redundant for a joined user."""

    def check(state: StateMap) -> StateRef | None:
        own = state.get((event_types.MEMBER, user_id))
        return own if own is not None and own.membership == "join" else None

    return check


def leaves(user_id: UserId) -> Check:
    """Returns the check for a leave: it finds the draft redundant for a user who has left; 403 for
    a banned one.
    """

    def check(state: StateMap) -> StateRef | None:
        own = state.get((event_types.MEMBER, user_id))
        if own is not None and own.membership == "ban":
            raise errors.forbidden("You are banned from this room")
        return own if own is not None and own.membership == "leave" else None

    return check


def kicks(target: UserId) -> Check:
    """Returns the check for a kick: 403 for a user who is neither joined nor invited and doesn't
    knock.
    """

    def check(state: StateMap) -> None:
        current = state.get((event_types.MEMBER, target))
        if current is None or current.membership not in ("join", "invite", "knock"):
            raise errors.forbidden("The user isn't in this room")

    return check


def unbans(target: UserId) -> Check:
    """Returns the check for an unban: 403 M_BAD_STATE for a user who isn't banned."""

    def check(state: StateMap) -> None:
        current = state.get((event_types.MEMBER, target))
        if current is None or current.membership != "ban":
            raise MatrixError(403, "M_BAD_STATE", "The user isn't banned")

    return check


def replaces(user_id: UserId, event_id: EventId) -> Check:
    """Returns the check for a renewed member event: it raises MembershipChanged unless the event
    replaces the one that it was built from."""

    def check(state: StateMap) -> None:
        own = state.get((event_types.MEMBER, user_id))
        if own is None or own.event_id != event_id:
            raise MembershipChanged

    return check


def stays(user_id: UserId) -> Check:
    """Returns the check for a joined user's change of their own member event: it raises
    MembershipChanged once they aren't joined any more, so that the change doesn't become a join."""

    def check(state: StateMap) -> None:
        own = state.get((event_types.MEMBER, user_id))
        if own is None or own.membership != "join":
            raise MembershipChanged

    return check
