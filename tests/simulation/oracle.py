"""What a graph of events means, worked out naively and apart from the engine: which events are
allowed, and the state before each.

Resolution is the tests' own (`tests.federation.graph.resolution_oracle`), as are the authorisation
rules (`tests.federation.graph.auth_oracle`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey
from federation.events.room_versions import RoomVersion
from tests.federation.graph.auth_oracle import Case, Told, auth_events_refusals, refusal, told
from tests.federation.graph.resolution_oracle import Oracle

StateIds = Mapping[StateKey, EventId]
Signers = Callable[[Event], frozenset[ServerName]]
"""The servers whose signatures on an event are valid."""


class GraphOracle:
    """The meaning of a set of events. Events whose ancestors aren't all in it have none."""

    def __init__(
        self, version: RoomVersion, events: Mapping[EventId, Event], signers: Signers
    ) -> None:
        self.version, self.events, self._signers = version, events, signers
        self.before: dict[EventId, StateIds] = {}
        self.rejected: dict[EventId, str] = {}
        self._tellings: dict[EventId, Told] = {}
        self._after: dict[EventId, StateIds] = {}
        self._resolver = Oracle(version, events, self.rejected.__contains__)
        self.order = _in_order(events)
        """Parents and cited events first, whatever depths say; what lacks a parent comes last."""
        for event in self.order:
            self._place(event)

    def _place(self, event: Event) -> None:
        if event.type != "m.room.create" and not event.prev_events:
            return
        if any(auth not in self.events for auth in event.auth_events):
            return
        reason = self._refusal_by_citations(event)
        if any(parent not in self._after for parent in event.prev_events):
            if reason is not None:  # whatever the state before it was
                self.rejected[event.event_id] = reason
            return
        before = self.resolved([self._after[parent] for parent in event.prev_events])
        self.before[event.event_id] = before
        reason = reason or self.refusal_by(event, before)
        after = dict(before)
        if reason is not None:
            self.rejected[event.event_id] = reason
        elif event.is_state:
            after[event.key] = event.event_id
        self._after[event.event_id] = after

    def after(self, event_id: EventId) -> StateIds | None:
        """The state after an event; None where it can't be said."""
        return self._after.get(event_id)

    def resolved(self, states: list[StateIds]) -> StateIds:
        """Several states as one."""
        different = [one for i, one in enumerate(states) if one not in states[:i]]
        if not different:
            return {}
        return different[0] if len(different) == 1 else self._resolver.resolve(different)

    def subgraph_beyond(self, states: list[StateIds]) -> set[EventId]:
        """What only the conflicted state subgraph brings to a resolution, where there is one."""
        if self.version.state_resolution != "v2.1":
            return set()
        keys = {key for state in states for key in state}
        disputed = [key for key in keys if len({state.get(key) for state in states}) > 1]
        conflicted = {state[key] for state in states for key in disputed if key in state}
        beside = self._resolver.auth_difference(states, with_state=True)
        return self._resolver.subgraph(conflicted) - conflicted - beside

    def refusal_by(self, event: Event, state: StateIds) -> str | None:
        """Why a state doesn't allow an event; None where it does."""

        def look_up(key: StateKey) -> Told | None:
            event_id = state.get(key)
            return None if event_id is None else self._told(event_id)

        told = self._told(event.event_id)
        rule = refusal(Case(told, look_up, int(self.version.name), self._signers(event)))
        return None if rule is None else f"rule {rule}"

    def _told(self, event_id: EventId) -> Told:
        if event_id not in self._tellings:
            self._tellings[event_id] = told(event_id, self.events[event_id].raw)
        return self._tellings[event_id]

    def _refusal_by_citations(self, event: Event) -> str | None:
        cited = [self._told(auth) for auth in event.auth_events]
        version = int(self.version.name)
        broken = auth_events_refusals(
            self._told(event.event_id), cited, version, self.rejected.keys()
        )
        if broken:
            return f"rule {broken[0]}"
        by_key = {self.events[one].key: one for one in event.auth_events}
        if self.version.room_id_is_create_hash:
            by_key["m.room.create", ""] = EventId("$" + event.room_id[1:])
        return self.refusal_by(event, by_key)


def _in_order(events: Mapping[EventId, Event]) -> list[Event]:
    """Parents and cited events first, by repeated looks; what lacks a parent goes last. A liar
    cites events that are no ancestors: their verdicts count all the same."""
    order: list[Event] = []
    placed: set[EventId] = set()
    left = sorted(events.values(), key=lambda one: (one.depth, one.event_id))
    while left:
        later = []
        for one in left:
            needed = (*one.prev_events, *one.auth_events)
            if all(event_id in placed or event_id not in events for event_id in needed):
                order.append(one)
                placed.add(one.event_id)
            else:
                later.append(one)
        if len(later) == len(left):
            return order + later
        left = later
    return order
