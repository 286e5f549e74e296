"""Decides which redactions are applied to which events, in whatever order the two come.

Rules:
1. A redaction is applied if its sender's server is the target's too, or if the state before the
   redaction gives its sender the power. A state event redacts nothing, whatever its type.
2. A redaction whose target isn't here waits for it. So does one with unverified state, unless the
   room's current state gives the same result, since a redaction can't be undone. It is checked
   again once it is verified. Of redactions with the same effect only a few wait for a target.
3. Rejected and soft-failed redactions are never applied. Events are redacted whatever their
   verdict: outliers and rejected ones are stored, too.

Spec: room version 3, "Handling redactions"; design, "What keeps it right", 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, StateKey, server_of
from federation.events.redaction import redact_event
from federation.graph.auth.auth_rules import AuthState
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import StateMap
from homeserver.engine.store import EngineStore

_LEVELS: Sequence[StateKey] = (event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY)

_NONE: Mapping[EventId, StoredEvent] = MappingProxyType({})


class Redacting(msgspec.Struct, frozen=True):
    """A stored event that a redaction changes: its new bytes."""

    target: Event  # the redacted form
    redaction: EventId


class RedactionOutcome(msgspec.Struct, frozen=True):
    """The effect of a redaction: it is applied, or waits for an event; neither: it has none."""

    applied: tuple[Redacting, ...] = ()
    waits_for: EventId | None = None


def target_of(event: Event) -> EventId | None:
    """Returns the event that a redaction is meant for; None for any other event."""
    if event.type != event_types.REDACTION or event.is_state:
        return None
    return event.redacts


class Redactions:
    """Decides on redactions; the caller holds the room's lock."""

    def __init__(self, store: EngineStore, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms

    async def of(
        self,
        room: Room,
        by: Event,
        before: StateMap,
        *,
        is_unverified: bool,
        unstored: Mapping[EventId, StoredEvent] = _NONE,
    ) -> RedactionOutcome:
        """Returns the effect of an accepted event as a redaction. `before` is the state before it,
        unverified if `is_unverified`; `unstored` are events that are stored with it."""
        target_id = target_of(by)
        if target_id is None:
            return RedactionOutcome()
        known = unstored.get(target_id) or await self._known(room, target_id)
        if known is None:
            return RedactionOutcome(
                waits_for=target_id if await self._adds(room, by, before) else None
            )
        if known.event.room_id != room.room_id:
            return RedactionOutcome()
        states = (before, room.staged.state) if is_unverified else (before,)
        if await self._is_allowed(room, known.event, by, states):
            return RedactionOutcome((Redacting(redact_event(known.event), by.event_id),))
        return RedactionOutcome(waits_for=target_id) if is_unverified else RedactionOutcome()

    async def waiting(self, room: Room, target: EventId) -> Sequence[EventId]:
        """Returns the redactions that wait for an event. If more wait in a room than memory holds,
        the older ones are read."""
        waiting = room.awaited_targets.get(target, [])
        if not room.awaits_more:
            return waiting
        stored = await self._store.redactions.waiting_for(room.row_id, target)
        return list(dict.fromkeys((*stored, *waiting)))

    async def waiting_for(self, room: Room, target: Event) -> tuple[Redacting, ...]:
        """Returns the redactions that came before their target, and are to be applied now."""
        found = []
        for event_id in await self.waiting(room, target.event_id):
            known = await self._known(room, event_id)
            if known is None or known.rejected or known.soft_failed:
                continue
            states = await self._states_before(room, event_id)
            if await self._is_allowed(room, target, known.event, states):
                found.append(Redacting(redact_event(target), event_id))
        return tuple(found)

    async def _adds(self, room: Room, by: Event, before: StateMap) -> bool:
        """Returns whether a redaction may have an effect that those waiting for the same target
        don't. One whose sender has no power is applied only if the target is of the sender's
        server: any other one of that server does the same. One with power does what others of the
        same sender do. A few of each are kept, since not all may turn out to be allowed."""
        target = target_of(by)
        waiting = await self.waiting(room, target) if target is not None else ()
        if len(waiting) < limits.WAITING_REDACTIONS_ALIKE or by.event_id in waiting:
            return True
        levels = (await self._auth(room, before)).power_levels
        has_power = levels.user(by.sender) >= levels.redact
        alike = 0
        for event_id in waiting:
            other = await self._known(room, event_id)
            if other is None:
                continue
            if has_power:
                alike += other.event.sender == by.sender
            else:
                alike += server_of(other.event.sender) == server_of(by.sender)
        return alike < limits.WAITING_REDACTIONS_ALIKE

    async def _known(self, room: Room, event_id: EventId) -> StoredEvent | None:
        return room.staged_events.get(event_id) or (await self._rooms.events([event_id])).get(
            event_id
        )

    async def _states_before(self, room: Room, event_id: EventId) -> Sequence[StateMap]:
        """Returns the states by which a stored redaction is decided; the room's for one that isn't
        stored.
        """
        state = await self._rooms.state_before(room, event_id)
        if state is None:
            return (room.staged.state,)
        rows = await self._store.events.by_id([event_id])
        is_unverified = any(row.unverified for row in rows)
        return (state, room.staged.state) if is_unverified else (state,)

    async def _is_allowed(
        self, room: Room, target: Event, by: Event, states: Iterable[StateMap]
    ) -> bool:
        if server_of(target.sender) == server_of(by.sender):
            return True
        for state in states:
            levels = (await self._auth(room, state)).power_levels
            if levels.user(by.sender) < levels.redact:
                return False
        return True

    async def _auth(self, room: Room, state: StateMap) -> AuthState:
        ids = {key: state[key].event_id for key in _LEVELS if key in state}
        staged = {one: room.staged_events[one] for one in ids.values() if one in room.staged_events}
        known = {**await self._rooms.events(set(ids.values()) - staged.keys()), **staged}
        events = {key: known[one].event for key, one in ids.items() if one in known}
        return AuthState(room.version, events.get)


def note_waiting(room: Room, target: EventId, redaction: EventId) -> None:
    """Keeps in memory that a redaction waits for its target; past a bound the oldest target goes,
    which was stored long ago."""
    waiting = room.awaited_targets.setdefault(target, [])
    if redaction not in waiting:
        waiting.append(redaction)
    if len(room.awaited_targets) > limits.ROOM_AWAITED_TARGETS:
        del room.awaited_targets[next(iter(room.awaited_targets))]
        room.awaits_more = True
