"""Visibility of an event: `m.room.history_visibility` against a membership, at the event.

Rules:
1. The state at the event counts, before it or after it: so an event that changes the visibility, or
   the reader's own membership, is seen if either side allows it.
2. `shared` shows the event to users who joined at any point after it.
3. A visibility that isn't set or not understood is `shared`; a membership that isn't set or not
   understood is `leave`.

Spec: client-server API, "Room history visibility", "Server behaviour"; the same for all versions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

WORLD_READABLE, SHARED, INVITED, JOINED = "world_readable", "shared", "invited", "joined"

_VISIBILITIES = frozenset((WORLD_READABLE, SHARED, INVITED, JOINED))
_MEMBERSHIPS = frozenset(("join", "invite", "leave", "ban", "knock"))


class Moment(msgspec.Struct, frozen=True):
    """The part of a room's state that decides, on one side of an event."""

    visibility: str
    membership: str


def visibility_of(content: Mapping[str, Any] | None) -> str:
    """Returns the visibility that the content of an m.room.history_visibility event sets (None: no
    event in the state)."""
    value = content.get("history_visibility") if content is not None else None
    return value if isinstance(value, str) and value in _VISIBILITIES else SHARED


def membership_of(membership: object) -> str:
    """Returns the effective membership: an invalid one counts as `leave`."""
    known = isinstance(membership, str) and membership in _MEMBERSHIPS
    return str(membership) if known else "leave"


def may_see(before: Moment, after: Moment, *, joined_later: bool) -> bool:
    """Returns whether a user may see an event with this state before and after it. `joined_later`:
    whether they joined at any point after it was sent."""
    return _allows(before, joined_later) or (after != before and _allows(after, joined_later))


def _allows(moment: Moment, joined_later: bool) -> bool:
    visibility, membership = moment.visibility, moment.membership
    return (
        visibility == WORLD_READABLE  # 1
        or membership == "join"  # 2
        or (visibility == SHARED and joined_later)  # 3
        or (visibility == INVITED and membership == "invite")  # 4
    )  # 5: otherwise, deny


def server_may_see(visibility: str, memberships: Collection[str], *, joined_later: bool) -> bool:
    """Returns whether a server may see an event with this state on one side of it. `memberships`
    are those of its users there; `joined_later`: whether one of them joined at any point after the
    event was sent."""
    return any(
        _allows(Moment(visibility, membership), joined_later)
        for membership in ("leave", *memberships)
    )
