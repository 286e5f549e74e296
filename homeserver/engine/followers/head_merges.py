"""Merges a room's forward extremities once there are many.

Each head that differs in state makes every further event more expensive: the current state is
resolved over all of them. Events of our own, which name many heads at once, merge them.

Rules:
1. The event is an `org.matrix.dummy_event`, the type that other servers use for this. Clients
   aren't shown it. It has no content, so any joined local user with the power to send it can be its
   sender.
2. It isn't sent to other servers, which merge by themselves: each would respond with one more head.
   They fetch it once a later event of ours names it.
3. If no local user may send it, nothing is merged. Then the heads are bounded
   (`staging.other_heads`).

Spec: server-server API, "PDUs" (prev_events); design, "What keeps it right", 8.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.ids import UserId
from federation.graph.auth.power_levels import PowerLevels
from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer
from homeserver.engine.recheck.due_rooms import DueRooms
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.rooms.head_merges import MERGE_TYPE, find_merging_user

log = logging.getLogger("freehold.heads")


class HeadMerges:
    """Follows the log, and merges when due."""

    def __init__(self, rooms: Rooms, writer: Writer, committer: Committer) -> None:
        self._rooms = rooms
        self._writer = writer
        self._due_rooms = DueRooms()
        committer.subscribe(self._published)

    def _published(self, batch: Sequence[Placed]) -> None:
        room_ids = {one.entry.room_id for one in batch if isinstance(one.entry, EventEntry)}
        rooms = [self._rooms.hot(room_id) for room_id in room_ids]
        if due := [one.room_id for one in rooms if one is not None and _is_due(one)]:
            self._due_rooms.add(due)

    async def run(self) -> None:
        """Merges the heads of rooms as they become due; runs under the supervisor."""
        while True:
            room_id = await self._due_rooms.next()
            room = await self._rooms.get(room_id)
            if room is not None:
                await self.merge(room)

    async def merge(self, room: Room) -> None:
        """Merges a room's heads until there are few; gives up if that fails, until the next event
        of the room."""
        for _ in range(limits.HEADS_KEPT):
            if not _is_due(room):
                return
            sender = await self._sender(room)
            if sender is None:
                return
            try:
                await self._writer.merge_heads(room.room_id, EventDraft(MERGE_TYPE, sender, {}))
            except MatrixError as error:
                log.info("the heads of %s stay: %s", room.room_id, error)
                return

    async def _sender(self, room: Room) -> UserId | None:
        found = await self._rooms.state_events(
            room.view.state, [event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY]
        )
        levels = found.get(event_types.POWER_LEVELS_KEY)
        power = PowerLevels(found.get(event_types.CREATE_KEY), levels, room.version)
        users = {} if levels is None else levels.content.get("users")
        listed = users if isinstance(users, dict) else {}
        return find_merging_user(power, listed, room.joined_local)


def _is_due(room: Room) -> bool:
    return len(room.view.heads) > limits.HEADS_UNMERGED
