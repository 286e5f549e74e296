"""Visibility of a room's events to a user.

Rules:
1. `rules.timeline.visibility` decides on the state at the event itself (`engine.rooms.moments`): it
   may lie behind a gap, or come from a branch where the reader was not joined.
2. If the reader was joined throughout, the answer comes from memory.
3. Messages of erased users are redacted for readers who joined later (`engine.rooms.erasures`).
4. If the state isn't known, the event isn't visible.
5. A redaction is seen once it was applied: clients apply each one that they get (spec: room
   version 3, "Handling redactions").

Spec: client-server API, "Room history visibility".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from federation.events import event_types
from federation.events.ids import EventId, ServerName, StateKey, UserId
from federation.events.redaction import redact_event
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, kept_client
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.reader import BEGINNING, Reader, event_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.rules.rooms.head_merges import MERGE_TYPE
from homeserver.rules.sync.sync_tokens import Order
from homeserver.rules.timeline.visibility import (
    JOINED,
    WORLD_READABLE,
    Moment,
    may_see,
    membership_of,
)
from homeserver.services.timeline.client_events import Seen

_UNKNOWN = (Moment(JOINED, "leave"), Moment(JOINED, "leave"))
_ALWAYS: Order = (2**62, 0)
_NEVER: Order = (-(2**62), 0)


class _Reading(msgspec.Struct, frozen=True):
    """A user who reads a room. `joined_until`: events before it were sent before they joined."""

    room: Room
    user_id: UserId
    joined_until: Order


class _Stay(msgspec.Struct, frozen=True):
    """A past time in a room: the event by which it ended, and the place before which it was."""

    until: Order
    ended_by: EventId


class Visibility:
    """Decides on the visibility of events to local users."""

    def __init__(self, rooms: Rooms, reader: Reader, server_name: ServerName) -> None:
        self._rooms = rooms
        self._reader = reader
        self._own = ":" + server_name

    async def is_world_readable(self, room: Room) -> bool:
        """Returns whether anyone may read what is now sent in the room."""
        return await self._reader.moments.visibility_now(room) == WORLD_READABLE

    async def visible(
        self, room: Room, user_id: UserId, user_room: UserRoom | None, events: Sequence[Placed]
    ) -> list[Seen]:
        """Returns those of `events` (of one room, oldest first in room order) that the user may
        see. `user_room` is their current membership; None if they never had one."""
        seen = await self._visible(room, user_id, user_room, events)
        shown = [one.entry.event for one in seen]
        hidden = await self._rooms.erasures.hidden_from_user(room, user_id, shown)
        if hidden:
            seen = [redacted(one) if one.entry.event.event_id in hidden else one for one in seen]
        redactions = {one.entry.redacted_by for one in seen if one.entry.redacted_by is not None}
        if not redactions:
            return seen
        placed = sorted((await self._reader.places(room, redactions)).values(), key=_order)
        known = await self._visible(room, user_id, user_room, placed)
        ids = {one.entry.event.event_id for one in known}
        return [
            one._replace(knows_redaction=one.entry.redacted_by in ids)
            if one.entry.redacted_by is not None
            else one
            for one in seen
        ]

    async def _visible(
        self, room: Room, user_id: UserId, user_room: UserRoom | None, events: Sequence[Placed]
    ) -> list[Seen]:
        events = [placed for placed in events if is_released(event_entry(placed))]
        if not events:
            return []
        if user_room is not None and user_room.membership == "join":
            quick = self._joined_throughout(room, user_room, events)
            if quick is not None:
                return quick
        ids = [event_entry(placed).event.event_id for placed in events]
        moments = await self._reader.moments.of_user(room, user_id, ids)
        joined_until = await self.joined_until(room, user_id, user_room)
        is_forgotten = user_room is not None and user_room.forgotten
        seen = []
        for placed in events:
            before, after = moments.get(event_entry(placed).event.event_id, _UNKNOWN)
            if is_forgotten:
                before, after = _as_stranger(before), _as_stranger(after)
            joined_later = _order(placed) < joined_until
            if may_see(before, after, joined_later=joined_later):
                by_invite = not may_see(
                    _uninvited(before), _uninvited(after), joined_later=joined_later
                )
                membership = _membership(placed, user_id, before, after)
                knew_state = before.membership == "join"
                seen.append(Seen(placed, membership, knew_state, by_invite=by_invite))
        return await self._with_replaced(_Reading(room, user_id, joined_until), seen)

    def _joined_throughout(
        self, room: Room, user_room: UserRoom, events: Sequence[Placed]
    ) -> list[Seen] | None:
        """Returns every event, if the user was joined at all of them: the events are newer than the
        membership, and were built here on our heads, or follow the room's current state; else None.
        """
        current = room.view.chain[-1].row_id
        for placed in events:
            entry = event_entry(placed)
            if placed.position <= user_room.position:
                return None
            is_current = entry.snapshot_after == current and not room.was_corrected
            if not is_current and not entry.event.sender.endswith(self._own):
                return None
        return [Seen(placed, "join", True) for placed in events]

    async def _with_replaced(self, reading: _Reading, seen: Sequence[Seen]) -> list[Seen]:
        """Notes for which of the events the reader may also see the one that it replaced: they were
        in the room then, the history is open to them, or it was an invite of theirs."""
        room, user_id = reading.room, reading.user_id
        replaced = {one.entry.replaces for one in seen if one.entry.replaces and not one.knew_state}
        if not replaced:
            return list(seen)
        moments = await self._reader.moments.of_user(room, user_id, replaced)
        places = await self._reader.places(room, replaced)
        known = await self._rooms.events(replaced)

        def may_see_replaced(event_id: EventId, place: Order) -> bool:
            event = known[event_id].event if event_id in known else None
            if (
                event
                and event.key == (event_types.MEMBER, user_id)
                and event.membership == "invite"
            ):
                return True
            if event_id in places:
                place = _order(places[event_id])
            before, after = moments.get(event_id, _UNKNOWN)
            return may_see(before, after, joined_later=place < reading.joined_until)

        return [
            one._replace(knew_state=may_see_replaced(one.entry.replaces, one.entry.order))
            if one.entry.replaces in replaced
            else one
            for one in seen
        ]

    async def seen_by_states(
        self,
        room: Room,
        user_id: UserId,
        user_room: UserRoom | None,
        events: Mapping[EventId, bool],
    ) -> set[EventId]:
        """Returns those of the events whose states let the user see them; each with whether it was
        sent before their time in the room ended (`joined_until`)."""
        moments = await self._reader.moments.of_user(room, user_id, events)
        is_forgotten = user_room is not None and user_room.forgotten
        seen = set()
        for event_id, is_earlier in events.items():
            before, after = moments.get(event_id, _UNKNOWN)
            if is_forgotten:
                before, after = _as_stranger(before), _as_stranger(after)
            if may_see(before, after, joined_later=is_earlier):
                seen.add(event_id)
        return seen

    async def _former_membership(self, entry: EventEntry) -> str:
        if entry.replaces is None:
            return "leave"
        known = (await self._rooms.events([entry.replaces])).get(entry.replaces)
        return membership_of(known.event.membership if known is not None else None)

    async def last_seen(
        self, room: Room, user_id: UserId, user_room: UserRoom | None
    ) -> Mapping[StateKey, StateRef]:
        """Returns the state in which the user last saw a room that they aren't in: that after the
        event by which they ceased to be joined. Empty for a user who was never joined."""
        stay = await self._stay(room, user_id, user_room)
        if stay is None:
            return {}
        return await self._rooms.state_after(room, stay.ended_by) or {}

    async def was_joined(self, room: Room, user_id: UserId, user_room: UserRoom | None) -> bool:
        """Returns whether the user is in the room, or once was (and hasn't forgotten it)."""
        if user_room is not None and user_room.membership == "join":
            return True
        return await self._stay(room, user_id, user_room) is not None

    async def seen_until(self, room: Room, user_id: UserId, user_room: UserRoom | None) -> Order:
        """Returns the place before which a reader may see events: where their last time in the room
        ended; the end for one who is joined, or in a room that anyone may read."""
        is_joined = user_room is not None and user_room.membership == "join"
        if is_joined or await self.is_world_readable(room):
            return _ALWAYS
        return await self.joined_until(room, user_id, user_room)

    async def joined_until(self, room: Room, user_id: UserId, user_room: UserRoom | None) -> Order:
        """Returns the place where the user's last time in the room ended: events before it were
        sent before they "joined at any point after"."""
        if user_room is not None and user_room.membership == "join":
            return _ALWAYS
        stay = await self._stay(room, user_id, user_room)
        return _NEVER if stay is None else stay.until

    async def _stay(self, room: Room, user_id: UserId, user_room: UserRoom | None) -> _Stay | None:
        """Returns the last time in the room of a user who isn't joined. The event that ended it may
        be on another branch, without their join before it; an invite from another server isn't in
        the room."""
        if user_room is None or user_room.forgotten:
            return None
        ended = await self._rooms.end_of_stay(room, user_id)
        if ended is not None and ended[1] is not None:
            return await self._stay_until(room, ended[0], ended[1])
        ref = room.view.state.get((event_types.MEMBER, user_id))
        event_id = ref.event_id if ref is not None else user_room.event_id
        return await self._stay_by_events(room, event_id)

    async def _stay_until(self, room: Room, position: int, event_id: EventId) -> _Stay:
        """Returns the time that ended at that position; the event there, if there is one, was sent
        after they had left.
        """
        part = await self._reader.newest(room, after=0, up_to=position, limit=1)
        if not part.events:
            return _Stay(BEGINNING, event_id)
        live_index, gap_index = _order(part.events[0])
        is_then = part.events[0].position == position
        return _Stay((live_index, gap_index) if is_then else (live_index, gap_index + 1), event_id)

    async def _stay_by_events(self, room: Room, event_id: EventId | None) -> _Stay | None:
        """Returns the same by the membership events, each with the one that it replaced: for events
        that are known from the state that another server sent."""
        for _ in range(limits.MEMBERSHIP_STEPS):
            placed = await self._reader.place(room, event_id) if event_id else None
            if placed is None or event_id is None:
                return None
            if await self._former_membership(event_entry(placed)) == "join":
                return _Stay(_order(placed), event_id)
            event_id = event_entry(placed).replaces
        return None


def redacted(seen: Seen) -> Seen:
    """Returns the event as a reader sees it who may not see what its sender wrote: the sender was
    erased before they joined, or they ignore them."""
    event = redact_event(seen.entry.event)
    entry = msgspec.structs.replace(seen.entry, event=event, kept_client=kept_client(event))
    return seen._replace(placed=msgspec.structs.replace(seen.placed, entry=entry))


def _uninvited(moment: Moment) -> Moment:
    """Returns the moment as for a user who wasn't invited."""
    return _as_stranger(moment) if moment.membership == "invite" else moment


def _as_stranger(moment: Moment) -> Moment:
    """Returns the moment as for a user who was never in the room."""
    return Moment(moment.visibility, "leave")


def is_released(entry: EventEntry) -> bool:
    """Returns whether clients may have the event at all. A redaction waits until it is applied; an
    event that only merges heads has no content for clients."""
    if entry.event.type == MERGE_TYPE and not entry.event.is_state:
        return False
    return entry.event.type != event_types.REDACTION or entry.redacts is not None


def _order(placed: Placed) -> Order:
    return event_entry(placed).order


def _membership(placed: Placed, user_id: UserId, before: Moment, after: Moment) -> str:
    event = event_entry(placed).event
    own = event.key == (event_types.MEMBER, user_id) if event.is_state else False
    return after.membership if own else before.membership
