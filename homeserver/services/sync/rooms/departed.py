"""A room in a sync that the reader isn't in any more: left, kicked, banned, an invite that ended.

Rules:
1. The event that ended the membership is always sent, though history visibility may hide it (a
   refused invite, a ban from a branch on which the reader wasn't joined): it shows its sender and
   reason.
2. A reader who was joined since the client's position gets the room up to the end of that time, and
   in full if the client doesn't have the room yet. Other readers get nothing else.
3. A client that applies `state` and then `timeline` has the state that the reader last saw.

Spec: client-server API, /sync, `leave`; "Leaving rooms"; "Room history visibility".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import EventId, RoomId, StateKey
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange, kept_client
from homeserver.engine.followers.memberships import Memberships, UserRoom
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.sync import sync_diff
from homeserver.services.sync.plans import RoomPlan, SyncScope
from homeserver.services.sync.rooms.state import StateMoment, SyncState, before, settled
from homeserver.services.sync.rooms.timelines import (
    NOTHING,
    RoomReader,
    SyncTimeline,
    Timelines,
)
from homeserver.services.timeline.client_events import Seen, allows


class _Stay(msgspec.Struct, frozen=True):
    """The reader's last time in the room: the event by which it ended, its position; the cause of
    the current membership (perhaps a later ban); whether the client has the room from before (it
    was joined at `since`)."""

    event_id: EventId
    position: int
    ended: Placed
    is_known: bool


class DepartedRooms:
    """Plans rooms that the reader isn't in any more."""

    def __init__(
        self,
        rooms: Rooms,
        reader: Reader,
        memberships: Memberships,
        timelines: Timelines,
        state: SyncState,
    ) -> None:
        self._rooms = rooms
        self._memberships = memberships
        self._reader = reader
        self._timelines = timelines
        self._state = state

    async def plan(self, scope: SyncScope, room_id: RoomId, user_room: UserRoom) -> RoomPlan:
        """Plans a room in which the reader's membership ended at `user_room.position`."""
        room = await self._rooms.get(room_id)
        ended = None if room is None else await self._reader.place(room, user_room.event_id)
        if room is None or ended is None:
            return await self._outside(scope, room_id, user_room)
        changes: Sequence[tuple[int, StateChange]] = ()
        if scope.since is not None:
            changes = await self._reader.changes(
                room, after=scope.since, up_to=min(scope.up_to, user_room.position)
            )
        stay = await self._stay(scope, room, ended, changes)
        if stay is None:
            timeline = _with_end(scope, NOTHING, ended)
            plan = RoomPlan(room_id, "leave", timeline, is_listed=True)
            chosen: dict[StateKey, EventId] = {}
        else:
            plan = await self._plan_stay(scope, room, user_room, stay, ended)
            told = [one for one in changes if one[0] <= stay.position]
            chosen = await self._choose(scope, room, plan, stay, told)
        if user_room.event_id not in plan.timeline.ids or scope.use_state_after:
            chosen[(event_types.MEMBER, scope.user_id)] = user_room.event_id
        plan.state = list((await self._state.filtered(chosen, scope.filter.room.state)).values())
        return plan

    async def _outside(self, scope: SyncScope, room_id: RoomId, user_room: UserRoom) -> RoomPlan:
        """Plans a room that we aren't in, in which an invite or a knock ended."""
        plan = RoomPlan(room_id, "leave", is_listed=True)
        event = await self._memberships.outside_event(scope.user_id, room_id)
        if event is not None and event.event_id == user_room.event_id:
            entry = EventEntry(
                room_id, event, row_id=0, order=(0, 0), kept_client=kept_client(event)
            )
            plan.timeline = _with_end(scope, NOTHING, Placed(user_room.position, entry))
        return plan

    async def _plan_stay(
        self, scope: SyncScope, room: Room, user_room: UserRoom, stay: _Stay, ended: Placed
    ) -> RoomPlan:
        timeline = await self._timelines.newest(
            room,
            RoomReader(scope.user_id, user_room, scope.ignored),
            scope.filter.room.timeline,
            after=scope.since or 0 if stay.is_known else 0,
            up_to=min(scope.up_to, user_room.position),
            is_full=not stay.is_known,
        )
        timeline = _with_end(scope, timeline, ended)
        is_full = not stay.is_known or scope.full_state
        return RoomPlan(room.room_id, "leave", timeline, is_full=is_full, is_listed=True)

    async def _choose(
        self,
        scope: SyncScope,
        room: Room,
        plan: RoomPlan,
        stay: _Stay,
        told: Sequence[tuple[int, StateChange]],
    ) -> dict[StateKey, EventId]:
        """Returns the state to send; takes events that would contradict it out of the plan's
        timeline.
        """
        me: StateKey = (event_types.MEMBER, scope.user_id)
        own: dict[StateKey, EventId] = {me: event_entry(stay.ended).event.event_id}
        if not plan.is_full:
            if not scope.use_state_after:
                plan.timeline = settled(plan.timeline, {**sync_diff.last(told), **own}.get)
            return self._state.delta(scope, plan.timeline, told)
        end = StateMoment(await self._rooms.state_after(room, stay.event_id) or {}, own)
        if not scope.use_state_after:
            plan.timeline = settled(plan.timeline, end.get)
        moment = end if scope.use_state_after else before(end, plan.timeline)
        if not scope.filter.room.state.lazy_load_members:
            return self._state.whole(room, moment)
        chosen = self._state.without_members(room, moment)
        for sender in {seen.entry.event.sender for seen in plan.timeline.events}:
            event_id = moment.get((event_types.MEMBER, sender))
            if event_id is not None:
                chosen[(event_types.MEMBER, sender)] = event_id
        return chosen

    async def _stay(
        self,
        scope: SyncScope,
        room: Room,
        ended: Placed,
        changes: Sequence[tuple[int, StateChange]],
    ) -> _Stay | None:
        """Returns the reader's last time in the room, if the client is to be told of it."""
        if scope.since is None:
            return await self._last_stay(room, ended)
        own = [one for one in changes if one[1].key == (event_types.MEMBER, scope.user_id)]
        ends = [one for one in own if _is_end(one[1])]
        if not ends:
            return None
        position, change = ends[-1]
        assert change.event_id is not None, "a membership ends by an event"
        return _Stay(change.event_id, position, ended, own[0][1].former == "join")

    async def _last_stay(self, room: Room, ended: Placed) -> _Stay | None:
        placed: Placed | None = ended
        for _ in range(limits.MEMBERSHIP_STEPS):
            replaces = None if placed is None else event_entry(placed).replaces
            if placed is None or replaces is None:
                return None
            known = (await self._rooms.events([replaces])).get(replaces)
            if known is not None and known.event.membership == "join":
                event_id = event_entry(placed).event.event_id
                return _Stay(event_id, placed.position, ended, False)
            placed = await self._reader.place(room, replaces)
        return None


def _is_end(change: StateChange) -> bool:
    return change.former == "join" != change.membership and change.event_id is not None


def _with_end(scope: SyncScope, timeline: SyncTimeline, ended: Placed) -> SyncTimeline:
    """Returns the timeline with the event that ended the membership, unless the filter excludes
    it.
    """
    wanted, entry = scope.filter.room.timeline, event_entry(ended)
    if entry.event.event_id in timeline.ids or wanted.limit == 0 or not allows(wanted, entry):
        return timeline
    seen = Seen(ended, entry.event.membership)
    return msgspec.structs.replace(timeline, events=[*timeline.events, seen])
