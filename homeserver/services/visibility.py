"""Which events of a room a user may see, with as few looks at old state as can be.

Rules:
1. `rules.visibility` decides on the state at the event. Where the reader was joined throughout,
   or the room is open to whoever is joined, current state answers it.
2. Otherwise state is known at one end of a list in room order and carried through it by the
   events that change it. That is exact for events that were built on our heads. For an event of
   another server in a room that isn't open, the state at that event itself is read: it may come
   from a branch where the reader was not joined.
3. What isn't known counts as not allowed.
4. A redaction is seen once it was applied: clients apply each one that they get (spec: room
   version 3, "Handling redactions").

Spec: client-server API, "Room history visibility".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.events.ids import EventId, ServerName, StateKey, UserId
from homeserver import limits
from homeserver.engine.entries import EventEntry
from homeserver.engine.log import Placed
from homeserver.engine.memberships import UserRoom
from homeserver.engine.reader import Reader, event_entry
from homeserver.engine.rooms import Room, Rooms
from homeserver.engine.snapshots import StateRef
from homeserver.rules.sync_tokens import Order
from homeserver.rules.visibility import (
    SHARED,
    VISIBILITY_KEY,
    WORLD_READABLE,
    Moment,
    is_open_to_members,
    may_see,
    membership_of,
    visibility_of,
)
from homeserver.services.client_events import Seen

REDACTION = "m.room.redaction"
_HIDDEN = Moment("joined", "leave")
_ALWAYS: Order = (2**62, 0)
_NEVER: Order = (-(2**62), 0)


class Visibility:
    """Judges events for readers of ours."""

    def __init__(self, rooms: Rooms, reader: Reader, server_name: ServerName) -> None:
        self._rooms = rooms
        self._reader = reader
        self._own = ":" + server_name

    async def is_world_readable(self, room: Room) -> bool:
        """May anyone read what is sent in the room now?"""
        return await self._visibility_in(room.view.state) == WORLD_READABLE

    async def visible(
        self, room: Room, user_id: UserId, user_room: UserRoom | None, events: Sequence[Placed]
    ) -> list[Seen]:
        """Those of `events` (of one room, oldest first in room order) that the user may see.
        `user_room` is their current membership; None when they never had one."""
        events = [placed for placed in events if is_released(event_entry(placed))]
        if not events:
            return []
        if user_room is not None and user_room.membership == "join":
            quick = await self._joined_throughout(room, user_id, user_room, events)
            if quick is not None:
                return quick
        moments = await self._moments(room, user_id, events)
        joined_until = await self._joined_until(room, user_room, moments)
        return [
            Seen(placed, _membership(placed, user_id, before, after), _knew(before))
            for placed, (before, after) in zip(events, moments, strict=True)
            if may_see(before, after, joined_later=_order(placed) < joined_until)
        ]

    async def _joined_throughout(
        self, room: Room, user_id: UserId, user_room: UserRoom, events: Sequence[Placed]
    ) -> list[Seen] | None:
        """Every event, when the user's membership is older than all of them and all of them were
        sent under a visibility that hides nothing from members; else None."""
        is_local = True
        for placed in events:
            event = event_entry(placed).event
            if placed.position <= user_room.position:
                return None
            if event.type == "m.room.history_visibility" and event.state_key == "":
                return None
            is_local = is_local and event.sender.endswith(self._own)
        if not is_local and not is_open_to_members(await self._visibility_in(room.view.state)):
            return None
        return [Seen(placed, "join", True) for placed in events]

    async def _moments(
        self, room: Room, user_id: UserId, events: Sequence[Placed]
    ) -> list[tuple[Moment, Moment]]:
        """The state before and after each event, as far as it decides."""
        member_key = ("m.room.member", user_id)
        after = await self._end(room, user_id, events[-1])
        moments: list[tuple[Moment, Moment]] = []
        for placed in reversed(events):
            entry = event_entry(placed)
            before = after
            if entry.event.state_key is not None:
                if entry.event.key == member_key:
                    after = Moment(after.visibility, membership_of(entry.event.membership))
                    before = Moment(after.visibility, await self._former_membership(entry))
                elif entry.event.key == VISIBILITY_KEY:
                    after = Moment(visibility_of(entry.event.content), after.membership)
                    before = Moment(await self._former_visibility(entry), after.membership)
            moments.append((before, after))
            after = before
        moments.reverse()
        if all(is_open_to_members(m.visibility) for pair in moments for m in pair):
            return moments
        return [
            pair
            if event_entry(placed).event.sender.endswith(self._own)
            else await self.at_event(room, user_id, event_entry(placed).event.event_id)
            for placed, pair in zip(events, moments, strict=True)
        ]

    async def at_event(
        self, room: Room, user_id: UserId, event_id: EventId
    ) -> tuple[Moment, Moment]:
        """The state before and after one event, read from its snapshots."""
        before = await self._rooms.state_before(room, event_id)
        after = await self._rooms.state_after(room, event_id)
        return await self._moment(before, user_id), await self._moment(after, user_id)

    async def _end(self, room: Room, user_id: UserId, newest: Placed) -> Moment:
        view = room.view
        if newest.position >= view.position:
            return await self._moment(view.state, user_id)
        event_id = event_entry(newest).event.event_id
        return await self._moment(await self._rooms.state_after(room, event_id), user_id)

    async def _moment(self, state: Mapping[StateKey, StateRef] | None, user_id: UserId) -> Moment:
        if state is None:
            return _HIDDEN
        ref = state.get(("m.room.member", user_id))
        membership = ref.membership if ref is not None else None
        return Moment(await self._visibility_in(state), membership_of(membership))

    async def _visibility_in(self, state: Mapping[StateKey, StateRef]) -> str:
        ref = state.get(VISIBILITY_KEY)
        if ref is None:
            return visibility_of(None)
        known = (await self._rooms.events([ref.event_id])).get(ref.event_id)
        return visibility_of(known.event.content if known is not None else None)

    async def _former_membership(self, entry: EventEntry) -> str:
        if entry.replaces is None:
            return "leave"
        known = (await self._rooms.events([entry.replaces])).get(entry.replaces)
        return membership_of(known.event.membership if known is not None else None)

    async def _former_visibility(self, entry: EventEntry) -> str:
        if entry.replaces is None:
            return visibility_of(None)
        known = (await self._rooms.events([entry.replaces])).get(entry.replaces)
        return visibility_of(known.event.content) if known is not None else _HIDDEN.visibility

    async def was_joined(self, room: Room, user_room: UserRoom | None) -> bool:
        """Is the user in the room, or were they once (and haven't forgotten it)?"""
        if user_room is None or user_room.forgotten:
            return False
        return user_room.membership == "join" or await self._end_of_stay(room, user_room) != _NEVER

    async def _joined_until(
        self,
        room: Room,
        user_room: UserRoom | None,
        moments: Sequence[tuple[Moment, Moment]],
    ) -> Order:
        """The place where the user's last time in the room ended: events before it were sent
        before they "joined at any point after". Only `shared` asks for it."""
        if user_room is None:
            return _NEVER
        if user_room.membership == "join":
            return _ALWAYS
        if not any(m.visibility == SHARED for pair in moments for m in pair):
            return _NEVER
        return await self._end_of_stay(room, user_room)

    async def _end_of_stay(self, room: Room, user_room: UserRoom) -> Order:
        event_id: EventId | None = user_room.event_id
        for _ in range(limits.MEMBERSHIP_STEPS):
            placed = await self._reader.place(room, event_id) if event_id else None
            if placed is None:
                return _NEVER
            if await self._former_membership(event_entry(placed)) == "join":
                return _order(placed)
            event_id = event_entry(placed).replaces
        return _NEVER


def is_released(entry: EventEntry) -> bool:
    """May clients have the event at all? A redaction waits until it is applied."""
    return entry.event.type != REDACTION or entry.redacts is not None


def _order(placed: Placed) -> Order:
    return event_entry(placed).order


def _knew(before: Moment) -> bool:
    return before.membership == "join" or before.visibility == WORLD_READABLE


def _membership(placed: Placed, user_id: UserId, before: Moment, after: Moment) -> str:
    event = event_entry(placed).event
    own = event.type == "m.room.member" and event.state_key == user_id
    return after.membership if own else before.membership
