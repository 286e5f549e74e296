"""The presence in a sync: the reader's own, and that of those who share a room with them.

Rules:
1. A client that has nothing gets those who are there, others who has changed since. One whose token
   is of another start, or from before something was dropped, gets all that is known.
2. A user who came into a room of the reader is told of as well, and all who are in a room that the
   reader came into: offline ones too, since a client may have seen them before.
3. An answer has so many users at most; the next one goes on behind the last. Users by rule 2 are
   left out if there are too many.
4. Users that the reader ignores are left out. Presence is no reason to answer a waiting sync.

Spec: client-server API, /sync (`presence`), "Presence", "Ignoring Users".
"""

from __future__ import annotations

import asyncio
from collections.abc import Set

from federation.events import event_types
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.ephemeral.presence import OFFLINE
from homeserver.rules.sync.sync_tokens import SyncToken
from homeserver.services.ephemeral.presence_board import PresenceRecord
from homeserver.services.ephemeral.presence_view import PresenceView
from homeserver.services.sync.plans import SyncContext


class SyncPresence:
    """Makes the section `presence`."""

    def __init__(self, view: PresenceView, rooms: Rooms) -> None:
        self._view, self._board, self._rooms = view, view.board, rooms

    async def events(
        self, context: SyncContext, since: SyncToken | None
    ) -> tuple[list[bytes], int]:
        """Returns the events, and the count of changes up to which the client then has them."""
        scope, board = context.scope, self._board
        end, wanted = board.count, scope.filter.presence
        if wanted.limit == 0 or not wanted.allows_type(event_types.PRESENCE):
            return [], end
        after = 0 if since is None or self._is_behind(context, since) else since.presence
        came, rooms = (set[UserId](), set[RoomId]()) if after == 0 else _arrivals(context)
        records = board.after(after)
        if not (records or came or rooms):
            return [], end
        answer = _Answer(self._view, context, await self._view.rooms_of(scope.user_id))
        for number, record in enumerate(records, start=1):
            if since is not None or record.shown.state != OFFLINE:
                answer.add(record)
            if answer.is_full and number < len(records):
                return answer.events, record.number
            if number % limits.PRESENCE_STEP == 0:
                await asyncio.sleep(0)
        await self._add_arrivals(answer, came, rooms)
        return answer.events, end

    def _is_behind(self, context: SyncContext, since: SyncToken) -> bool:
        """Returns whether it isn't known what the client lacks."""
        board = self._board
        is_known = since.boot == board.boot and board.knows_since(since.presence)
        return not is_known or context.delta is None

    async def _add_arrivals(
        self, answer: _Answer, came: Set[UserId], new_rooms: Set[RoomId]
    ) -> None:
        """Adds those who came into the reader's rooms, and the members of their new rooms."""
        for user_id in sorted(came):
            record = self._board.get(user_id)
            if record is not None:
                answer.add(record)
        rooms = [room for one in new_rooms if (room := self._rooms.hot(one)) is not None]
        if not rooms:
            return
        for number, record in enumerate(self._board.after(0), start=1):
            if any(room.is_joined(record.user_id) for room in rooms):
                answer.add(record)
            if number % limits.PRESENCE_STEP == 0:
                await asyncio.sleep(0)


class _Answer:
    """The events of an answer in the making, each user once."""

    def __init__(self, view: PresenceView, context: SyncContext, rooms: Set[RoomId]) -> None:
        self._view, self._scope, self._rooms = view, context.scope, rooms
        self._most = limits.PRESENCE_EVENTS_PER_SYNC
        if context.scope.filter.presence.limit is not None:
            self._most = min(self._most, context.scope.filter.presence.limit)
        self._users: set[UserId] = set()
        self.events: list[bytes] = []

    @property
    def is_full(self) -> bool:
        return len(self.events) >= self._most

    def add(self, record: PresenceRecord) -> None:
        """Adds a user whom the reader may see, and wants to."""
        user_id, scope = record.user_id, self._scope
        if self.is_full or user_id in self._users or user_id in scope.ignored:
            return
        if not scope.filter.presence.allows(event_types.PRESENCE, user_id):
            return
        if self._view.is_seen(record, scope.user_id, self._rooms):
            self._users.add(user_id)
            self.events.append(self._view.event(record))


def _arrivals(context: SyncContext) -> tuple[set[UserId], set[RoomId]]:
    """Returns who came into the reader's rooms, and the reader's new rooms."""
    came, rooms = set[UserId](), set[RoomId]()
    for room_id, room in context.delta.rooms.items() if context.delta is not None else ():
        for _, change in room.changes if room.members else ():
            if change.key[0] == event_types.MEMBER and change.membership == "join":
                if change.former == "join":
                    continue
                if change.key[1] == context.scope.user_id:
                    rooms.add(room_id)
                else:
                    came.add(UserId(change.key[1]))
    return came, rooms
