"""Joined rooms in a sync: planned for all rooms before any event is fetched.

Rules:
1. A plan names events by ID; the bytes of all plans' events are then fetched in one call.
2. A room that was joined since the client's position is sent in full.
3. A client that applies `state` and then `timeline` has the room's state as it is.

Spec: client-server API, /sync, `rooms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import EventId, StateKey, UserId
from homeserver.engine.entries import StateChange
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.reader import Reader
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.sync import sync_diff
from homeserver.services.sync.lazy_members import LazyMembers
from homeserver.services.sync.log_delta import RoomDelta
from homeserver.services.sync.plans import RoomPlan, RoomSummary, SyncScope
from homeserver.services.sync.rooms.state import StateMoment, SyncState, before, settled
from homeserver.services.sync.rooms.timelines import RoomReader, SyncTimeline, Timelines


class _Facts(msgspec.Struct, frozen=True):
    """The facts about a joined room that are found before its state is chosen."""

    timeline: SyncTimeline
    changes: Sequence[tuple[int, StateChange]]
    is_full: bool
    summary: RoomSummary | None


class RoomPlanner:
    """Plans joined rooms."""

    def __init__(
        self,
        rooms: Rooms,
        reader: Reader,
        timelines: Timelines,
        state: SyncState,
        lazy_members: LazyMembers,
    ) -> None:
        self._rooms = rooms
        self._reader = reader
        self._timelines = timelines
        self._state = state
        self._lazy = lazy_members

    async def joined(
        self, scope: SyncScope, room: Room, user_room: UserRoom, delta: RoomDelta | None
    ) -> RoomPlan:
        """Plans a room that the reader is in. `delta` is the delta of the log since `scope.since`;
        None if the log wasn't read."""
        is_new = scope.since is None or await self._is_newly_joined(scope, room, user_room)
        is_full = is_new or scope.full_state
        timeline = await self._timelines.newest(
            room,
            RoomReader(scope.user_id, user_room, scope.ignored),
            scope.filter.room.timeline,
            after=0 if is_new or scope.since is None else scope.since,
            up_to=scope.up_to,
            is_full=is_new,
        )
        changes = [] if is_full else await self._changes(scope, room, delta)
        if not scope.use_state_after:
            final = (
                self._state.at(room, scope.up_to).get if is_full else sync_diff.last(changes).get
            )
            timeline = settled(timeline, final)
        summary = None
        if is_full or sync_diff.changes_summary(changes):
            summary = await self._summary(room, scope.user_id)
        facts = _Facts(timeline, changes, is_full, summary)
        chosen = self._choose(scope, room, facts)
        if scope.filter.room.state.lazy_load_members:
            await self._add_lazy(scope, room, facts, chosen)
        state = await self._state.filtered(chosen, scope.filter.room.state)
        return RoomPlan(
            room.room_id, "join", timeline, list(state.values()), is_full, summary, is_listed=is_new
        )

    # State

    async def _changes(
        self, scope: SyncScope, room: Room, delta: RoomDelta | None
    ) -> Sequence[tuple[int, StateChange]]:
        if delta is not None:
            return [one for one in delta.changes if one[0] <= scope.up_to]
        return await self._reader.changes(room, after=scope.since or 0, up_to=scope.up_to)

    def _choose(self, scope: SyncScope, room: Room, facts: _Facts) -> dict[StateKey, EventId]:
        if not facts.is_full:
            if not facts.changes:
                return {}
            return self._state.delta(scope, facts.timeline, facts.changes)
        moment = self._moment(scope, room, facts.timeline)
        if scope.filter.room.state.lazy_load_members:
            return self._state.without_members(room, moment)
        return self._state.whole(room, moment)

    def _moment(self, scope: SyncScope, room: Room, timeline: SyncTimeline) -> StateMoment:
        if scope.use_state_after:
            return self._state.at(room, scope.up_to)
        return before(self._state.at(room, scope.up_to), timeline)

    async def _add_lazy(
        self, scope: SyncScope, room: Room, facts: _Facts, chosen: dict[StateKey, EventId]
    ) -> None:
        """Adds to `chosen` the members that lazy loading asks for and the client lacks."""
        members = {seen.entry.event.sender for seen in facts.timeline.events}
        if facts.summary is not None and facts.summary.heroes:
            members.update(facts.summary.heroes)
        if facts.is_full:
            members.add(scope.user_id)
        moment = self._moment(scope, room, facts.timeline)
        for member in members:
            key = (event_types.MEMBER, member)
            event_id = moment.get(key)
            if event_id is None or key in chosen:
                continue
            is_own = facts.is_full and member == scope.user_id
            if is_own or not self._is_redundant(scope, room, member, event_id):
                chosen[key] = event_id
        self._remember(scope, room, facts.timeline, chosen)

    def _is_redundant(self, scope: SyncScope, room: Room, member: str, event_id: EventId) -> bool:
        if scope.filter.room.state.include_redundant_members or scope.since is None:
            return False
        key = (room.room_id, member)
        return self._lazy.has(scope.device, key, event_id, since=scope.since)

    def _remember(
        self,
        scope: SyncScope,
        room: Room,
        timeline: SyncTimeline,
        chosen: Mapping[StateKey, EventId],
    ) -> None:
        sent = [
            ((room.room_id, key[1]), event_id)
            for key, event_id in chosen.items()
            if key[0] == event_types.MEMBER
        ]
        for seen in timeline.events:
            event = seen.entry.event
            if event.type == event_types.MEMBER and event.state_key is not None:
                sent.append(((room.room_id, event.state_key), event.event_id))
        if sent:
            self._lazy.remember(scope.device, sent, position=scope.up_to)

    # Membership and summary

    async def _is_newly_joined(self, scope: SyncScope, room: Room, user_room: UserRoom) -> bool:
        """Returns whether the reader wasn't in the room at their position."""
        since = scope.since or 0
        if user_room.position <= since:
            return False
        changes = await self._reader.changes(room, after=since, up_to=user_room.position)
        key = (event_types.MEMBER, scope.user_id)
        first = next((change for _, change in changes if change.key == key), None)
        if first is None or first.event_id is None:
            return True
        placed = await self._reader.place(room, first.event_id)
        replaces = placed.entry.replaces if placed is not None else None  # type: ignore[union-attr]
        if replaces is None:
            return True
        known = (await self._rooms.events([replaces])).get(replaces)
        return known is None or known.event.membership != "join"

    async def _summary(self, room: Room, user_id: UserId) -> RoomSummary:
        view = room.view
        if await self._state.is_named(room):
            return RoomSummary(None, view.joined, view.invited)
        others = [hero for hero in self._state.heroes(room) if hero != user_id]
        return RoomSummary(others[: sync_diff.HEROES], view.joined, view.invited)
