"""The event that merges forward extremities, and its sender."""

from __future__ import annotations

from collections.abc import Collection

from federation.events.ids import UserId
from federation.graph.auth.power_levels import PowerLevels

MERGE_TYPE = "org.matrix.dummy_event"
"""The type that other servers use, too; clients need not know such an event."""


def find_merging_user(
    power: PowerLevels, listed: Collection[str], joined: Collection[UserId]
) -> UserId | None:
    """Returns a user among `joined` (local ones) who may send the event: any without a level of
    their own, if that is enough; else the least powerful of those who may. The smallest ID decides
    between equals. None if none of them may."""
    needed = power.event(MERGE_TYPE, is_state=False)
    named = [user for user in {*power.creators, *map(UserId, listed)} if user in joined]
    if power.users_default >= needed:
        unnamed = min((user for user in joined if user not in named), default=None)
        if unnamed is not None:
            return unnamed
    able = [user for user in named if power.user(user) >= needed]
    return min(able, key=lambda user: (power.user(user), user), default=None)
