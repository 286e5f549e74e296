"""Repeats checks 4 and 5 of a stored event with a state that was resolved here.

Rules:
1. Signatures were verified when the event came, and aren't verified again. The signature of a
   restricted join's authorising server may have been invalid: a refusal for that reason stays.
2. A verdict needs all auth events: an event whose auth events aren't all stored stays undecided
   (None).

Spec: server-server API, "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.signatures import authorising_server, originating_servers
from federation.graph.admission import (
    Accepted,
    Answer,
    NeedAuthEvents,
    NeedKeys,
    NeedStateBefore,
    Rejected,
    admit_verified,
    needed_auth_events,
)
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.auth.auth_rules import AuthState
from federation.ports import StoredEvent
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import StateMap
from homeserver.engine.rooms.stored import refusal_of
from homeserver.storage.timeline.events import Refusal


class VerdictChecker:
    """Decides on events by the given states."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def check(
        self,
        room: Room,
        event: Event,
        before: StateMap,
        *,
        unstored: Mapping[EventId, StoredEvent],
    ) -> Accepted | Rejected | None:
        """Returns the verdict by `before`, the state before the event. `unstored` are events that
        aren't stored yet, or whose verdict differs from the stored one. None: undecided."""
        cited = await self._cited(needed_auth_events(event), unstored)

        def lookup(key: StateKey) -> Event | None:
            ref = before.get(key)
            if ref is None:
                return None
            found = unstored.get(ref.event_id) or room.staged_events.get(ref.event_id)
            return found.event if found else self._rooms.memory.cached_event(ref.event_id)

        return await self._rooms.loading(
            lambda: _decided(event, cited, AuthState(event.version, lookup))
        )

    async def _cited(
        self, event_ids: Collection[EventId], unstored: Mapping[EventId, StoredEvent]
    ) -> dict[EventId, StoredEvent]:
        cited = await self._rooms.events([one for one in event_ids if one not in unstored])
        cited.update((one, unstored[one]) for one in event_ids if one in unstored)
        return cited


def _decided(
    event: Event, cited: Mapping[EventId, StoredEvent], before: AuthState
) -> Accepted | Rejected | None:
    signers = originating_servers(event)
    authorising = authorising_server(event)
    if authorising is not None:
        signers |= {authorising}
    steps = admit_verified(event, signers)
    answer: Answer = None
    while True:
        try:
            need = steps.send(answer)
        except StopIteration as stop:
            return stop.value if isinstance(stop.value, Accepted | Rejected) else None
        match need:
            case NeedAuthEvents():
                answer = cited
            case NeedStateBefore():
                answer = before
            case NeedKeys():
                raise AssertionError("the signatures were verified")


def refused_by_auth_events(event: Event) -> Refusal:
    """Returns the refusal of an event that was refused in a bulk check, by signatures and
    auth events. For a join that another server authorises it isn't known whether that server had
    signed it: so it counts as unsigned, and the refusal stays."""
    text = "its auth events don't allow it"
    if authorising_server(event) is None:
        return Refusal(text)
    return refusal_of(AuthFailure(AuthRule.JOIN_UNSIGNED_BY_AUTHORISER, f"or {text}"))


def is_unsigned_join(rule: str | None) -> bool:
    """Returns whether this rule refuses a join that the authorising server hadn't signed. That
    can't be checked again, so the refusal stays."""
    return rule == AuthRule.JOIN_UNSIGNED_BY_AUTHORISER.value
