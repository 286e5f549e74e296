"""The scope of a sync, and the plan of what it sends of each room: event IDs, before any event is
fetched.

Spec: client-server API, /sync, `rooms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver.engine.followers.memberships import UserRoom
from homeserver.rules.push.unread import ThreadCounts
from homeserver.rules.sync.filters import SyncFilter
from homeserver.services.sync.log_delta import LogDelta
from homeserver.services.sync.rooms.timelines import NOTHING, SyncTimeline


class SyncScope(msgspec.Struct, frozen=True):
    """The reader and the range of a sync. `since` is the client's position, None if it has nothing;
    `up_to` the position that the answer leads to."""

    user_id: UserId
    device_id: DeviceId
    filter: SyncFilter
    since: int | None
    up_to: int
    full_state: bool = False
    use_state_after: bool = False
    ignored: frozenset[str] = frozenset()

    @property
    def device(self) -> tuple[UserId, DeviceId]:
        """The reader's device."""
        return (self.user_id, self.device_id)


class SyncContext(msgspec.Struct, frozen=True):
    """One scan of the changes for a reader. `memberships` are their memberships. `delta` is the
    delta of the log; None if the client starts anew or is so far behind that the log wasn't
    read."""

    scope: SyncScope
    memberships: Mapping[RoomId, UserRoom]
    delta: LogDelta | None


class RoomSummary(msgspec.Struct, frozen=True):
    """A room's summary; `heroes` is None if the room has a name."""

    heroes: Sequence[UserId] | None
    joined: int
    invited: int


class RoomPlan(msgspec.Struct):
    """The planned content of a room. `is_full`: the client gets the room from scratch. `is_listed`:
    the room is in the answer even if it has no content (a membership changed, or the reader has
    read something). `unread`: counts of unread notifications."""

    room_id: RoomId
    section: str
    timeline: SyncTimeline = NOTHING
    state: list[EventId] = []
    is_full: bool = False
    summary: RoomSummary | None = None
    is_listed: bool = False
    ephemeral: list[bytes] = []
    account_data: list[bytes] = []
    unread: ThreadCounts = {}

    @property
    def is_empty(self) -> bool:
        """Returns whether there is nothing to send."""
        return not (
            self.timeline.events
            or self.timeline.limited
            or self.state
            or self.summary
            or self.ephemeral
            or self.account_data
            or self.is_listed
        )
