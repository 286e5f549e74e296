"""What a graph of events means, worked out naively and apart from the engine: which events are
allowed, and the state before each.

Resolution is the tests' own (`tests.federation.graph.resolution_oracle`); of the code under test
only the rules for a single event against a state are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth_rules import AuthState, check_auth, check_auth_events, create_event_id
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
        self._after: dict[EventId, StateIds] = {}
        self._resolver = Oracle(version, events, self.rejected.__contains__)
        self.order = _in_order(events)
        """Parents first; what lacks a parent comes last."""
        for event in self.order:
            self._place(event)

    def _place(self, event: Event) -> None:
        if event.type != "m.room.create" and not event.prev_events:
            return
        if any(parent not in self._after for parent in event.prev_events):
            return
        if any(auth not in self.events for auth in event.auth_events):
            return
        before = self.resolved([self._after[parent] for parent in event.prev_events])
        self.before[event.event_id] = before
        reason = self._refusal(event, before)
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
        found = {key: self.events[event_id] for key, event_id in state.items()}
        return self._refusal_by(event, found)

    def _refusal_by(self, event: Event, state: Mapping[StateKey, Event]) -> str | None:
        failure = check_auth(
            event, AuthState(self.version, state.get), verified_servers=self._signers(event)
        )
        return None if failure is None else str(failure)

    def _refusal(self, event: Event, before: StateIds) -> str | None:
        if event.type == "m.room.create":
            return self._refusal_by(event, {})
        cited = [self.events[auth] for auth in event.auth_events]
        failure = check_auth_events(event, cited, self.rejected.__contains__)
        if failure is not None:
            return str(failure)
        by_key = {one.key: one for one in cited if one.is_state}
        create = create_event_id(event.room_id, self.version)
        if create is not None:
            by_key["m.room.create", ""] = self.events[create]
        return self._refusal_by(event, by_key) or self.refusal_by(event, before)


def _in_order(events: Mapping[EventId, Event]) -> list[Event]:
    """Parents first, by repeated looks; what lacks a parent goes last."""
    order: list[Event] = []
    placed: set[EventId] = set()
    left = sorted(events.values(), key=lambda one: (one.depth, one.event_id))
    while left:
        later = []
        for one in left:
            if all(parent in placed or parent not in events for parent in one.prev_events):
                order.append(one)
                placed.add(one.event_id)
            else:
                later.append(one)
        if len(later) == len(left):
            return order + later
        left = later
    return order
