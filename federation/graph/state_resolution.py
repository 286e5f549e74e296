"""State resolution v2 and v2.1 (spec: room version 2 and room version 12, "State resolution").

Rules:
1. Pure: the result follows from the state sets and the events alone, whatever their order.
2. The steps stand in the spec's order and numbering. v2.1 differs in two places:
   it starts from an empty map, and adds the conflicted state subgraph.
3. What isn't loaded raises MissingEvent; nothing is guessed.
4. Cost follows the conflicted part (see `chains`, rule 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth_rules import AuthState, check_auth, create_event_id
from federation.graph.chains import (
    LoadEvent,
    MissingEvent,
    Reached,
    auth_difference,
    conflicted_subgraph,
    load_all,
    nearest_members,
    sorted_topologically,
)
from federation.graph.power_levels import PowerLevels

__all__ = ["MissingEvent", "Resolution", "resolve", "resolve_steps"]

StateMap = Mapping[StateKey, EventId]
_POWER_LEVELS: StateKey = ("m.room.power_levels", "")


@dataclass(frozen=True, slots=True)
class Step:
    """One event replayed by the iterative auth checks, and why it was left out, if it was."""

    event_id: EventId
    failure: str | None


@dataclass(frozen=True, slots=True)
class Resolution:
    """A resolved state, with what led to it."""

    state: StateMap
    unconflicted: StateMap
    full_conflicted: frozenset[EventId]
    power_events: tuple[Step, ...]
    """In the reverse topological power ordering."""
    others: tuple[Step, ...]
    """In the mainline ordering."""


def is_power_event(event: Event) -> bool:
    """Might it remove someone's ability to do something? (Definition "Power events".)"""
    if event.state_key is None:
        return False
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return event.membership in ("leave", "ban") and event.sender != event.state_key


def split_conflicts(
    state_sets: Sequence[StateMap],
) -> tuple[dict[StateKey, EventId], list[set[EventId]]]:
    """The unconflicted state map, and per state set its conflicted events."""
    # An entry is unconflicted when every set has the same event under the key.
    unconflicted = dict(state_sets[0])
    for other in state_sets[1:]:
        unconflicted = {
            key: event_id for key, event_id in unconflicted.items() if other.get(key) == event_id
        }
    conflicted = [
        {event_id for key, event_id in state.items() if key not in unconflicted}
        for state in state_sets
    ]
    return unconflicted, conflicted


def resolve(
    version: RoomVersion,
    state_sets: Sequence[StateMap],
    *,
    event: LoadEvent,
    is_rejected: Callable[[EventId], bool],
    reached: Reached | None = None,
) -> StateMap:
    """The resolution of several states of one room.

    *Preconditions:* at least one state set; the events are valid ones of one room; the version's
    algorithm is v2 or v2.1. Raises MissingEvent (with all that are known to be missing) when
    `event` does: load those with their auth chains and call again. `reached` answers from an
    index which events are in chains of unconflicted state; without it these chains are walked,
    in the rare case that the answer matters (see `chains.auth_difference`).
    """
    distinct = _distinct(state_sets)
    if len(distinct) == 1:
        return distinct[0]
    return resolve_steps(
        version, distinct, event=event, is_rejected=is_rejected, reached=reached
    ).state


def _distinct(state_sets: Sequence[StateMap]) -> list[StateMap]:
    assert state_sets, "there is no state to resolve"
    distinct: list[StateMap] = []
    for state in state_sets:
        if not any(state is other or state == other for other in distinct):
            distinct.append(state)
    return distinct


def resolve_steps(
    version: RoomVersion,
    state_sets: Sequence[StateMap],
    *,
    event: LoadEvent,
    is_rejected: Callable[[EventId], bool],
    reached: Reached | None = None,
) -> Resolution:
    """As `resolve`, with each step and the rule that decided it."""
    assert version.state_resolution != "v1", "see state_resolution_v1"
    is_v2_1 = version.state_resolution == "v2.1"
    unconflicted, conflicted = split_conflicts(state_sets)
    conflicted_events: set[EventId] = set().union(*conflicted)
    if not conflicted_events:
        return Resolution(unconflicted, unconflicted, frozenset(), (), ())
    load_all(conflicted_events, event)
    full = conflicted_events | auth_difference(
        conflicted, set(unconflicted.values()), event, reached=reached
    )
    if is_v2_1:
        full |= conflicted_subgraph(conflicted_events, event)
    replay = _Replay(version, event, is_rejected)
    # 1
    power_events = _power_ordering(full, replay)
    # 2
    replay.state = {} if is_v2_1 else dict(unconflicted)
    power_steps = replay.apply(power_events)
    # 3
    rest = full.difference(power_events)
    others = _mainline_ordering(rest, replay.state.get(_POWER_LEVELS), event)
    # 4
    other_steps = replay.apply(others)
    # 5
    state = {**replay.state, **unconflicted}
    return Resolution(state, unconflicted, frozenset(full), power_steps, other_steps)


class _Replay:
    """The iterative auth checks: a state, and events applied to it one after another."""

    def __init__(
        self, version: RoomVersion, event: LoadEvent, is_rejected: Callable[[EventId], bool]
    ) -> None:
        self.state: dict[StateKey, EventId] = {}
        self.event = event
        self._version = version
        self._is_rejected = is_rejected
        self._parsed: dict[EventId | None, PowerLevels] = {}

    def _own_auth_events(self, event: Event) -> dict[StateKey, Event]:
        """The event's auth events that weren't rejected, by key."""
        cited: Iterable[EventId] = event.auth_events
        implied = create_event_id(event.room_id, self._version)
        if implied is not None and event.type != "m.room.create":
            cited = (*event.auth_events, implied)
        loaded = load_all(cited, self.event)
        return {
            found.key: found
            for event_id, found in loaded.items()
            if found.is_state and not self._is_rejected(event_id)
        }

    def auth_state(self, event: Event) -> AuthState:
        """The replayed state, filled up with the event's own auth events."""
        own = self._own_auth_events(event)
        state, load = self.state, self.event

        def lookup(key: StateKey) -> Event | None:
            event_id = state.get(key)
            return own.get(key) if event_id is None else load(event_id)

        return AuthState(self._version, lookup, parsed=self._parsed)

    def apply(self, event_ids: Iterable[EventId]) -> tuple[Step, ...]:
        """Apply what the auth rules allow, in this order; the rest is passed over."""
        steps = []
        for event_id in event_ids:
            event = self.event(event_id)
            failure = check_auth(event, self.auth_state(event))
            if failure is None and event.is_state:
                self.state[event.key] = event_id
            steps.append(Step(event_id, None if failure is None else str(failure)))
        return tuple(steps)

    def sender_level(self, event: Event) -> int | float:
        """The sender's power "when looking at their respective `auth_events`"."""
        own = self._own_auth_events(event)
        power_levels = own.get(_POWER_LEVELS)
        event_id = None if power_levels is None else power_levels.event_id
        levels = self._parsed.get(event_id)
        if levels is None:
            create = own.get(("m.room.create", ""))
            levels = PowerLevels(create, power_levels, self._version)
            if create is not None:
                self._parsed[event_id] = levels
        return levels.user(event.sender)


def _power_ordering(full: set[EventId], replay: _Replay) -> list[EventId]:
    """Step 1: the power events of the full conflicted set and what of it authorises them, in the
    reverse topological power ordering."""
    event = replay.event
    selected = {event_id for event_id in full if is_power_event(event(event_id))}
    if not selected:
        return []
    edges = nearest_members(full, full, event)
    added = selected
    while added:
        added = {parent for event_id in added for parent in edges[event_id]} - selected
        selected |= added

    def sort_key(event_id: EventId) -> tuple[int | float, int, EventId]:
        found = event(event_id)
        return (-replay.sender_level(found), found.origin_server_ts, event_id)

    return sorted_topologically(selected, edges.__getitem__, sort_key)


def _levels_in_auth_events(event_id: EventId, event: LoadEvent) -> EventId | None:
    """The power levels event that an event cites, if any."""
    for parent in event(event_id).auth_events:
        found = event(parent)
        if found.type == "m.room.power_levels" and found.state_key == "":
            return parent
    return None


def _mainline_ordering(
    event_ids: Iterable[EventId], power_levels: EventId | None, event: LoadEvent
) -> list[EventId]:
    """Step 3: from the event based on the earliest power levels to that on the latest."""
    # The mainline, from P0 back; the position is the index, infinity behind its end.
    positions: dict[EventId | None, float] = {None: float("inf")}
    current, index = power_levels, 0
    while current is not None and current not in positions:
        positions[current] = index
        current, index = _levels_in_auth_events(current, event), index + 1

    def position(event_id: EventId) -> float:
        passed: list[EventId] = []
        nearest = _levels_in_auth_events(event_id, event)
        while nearest not in positions:
            assert nearest is not None, "None has a position"
            passed.append(nearest)
            nearest = _levels_in_auth_events(nearest, event)
        positions.update(dict.fromkeys(passed, positions[nearest]))
        return positions[nearest]

    def sort_key(event_id: EventId) -> tuple[float, int, EventId]:
        return (-position(event_id), event(event_id).origin_server_ts, event_id)

    return sorted(event_ids, key=sort_key)
