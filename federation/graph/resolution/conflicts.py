"""Conflicts between several states of a room, and their resolution as data (spec: room version 2
and room version 12, "State resolution", definitions; room version 1, "State resolution").

Rules:
1. States are given as a base and the changes of each, since persistent maps share their structure.
   Only keys that some state changes are read; nothing iterates over the base.
2. A key that only some states have is a conflict since room version 2. In version 1 it isn't, and
   the union contains it.
3. `Resolution` records each step. It is data: `explain` turns it into text and JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from federation.events.ids import EventId, StateKey
from federation.events.room_versions import StateResolution
from federation.graph.auth.auth_failures import AuthFailure
from federation.graph.auth.power_levels import Level
from federation.graph.resolution.chains import LoadEvent

StateMap = Mapping[StateKey, EventId]
StateDelta = Mapping[StateKey, EventId | None]
"""The changes of a state against a base; None where it has no event under the key."""


class Overlay(Mapping[StateKey, EventId]):
    """A base with some keys changed, without a copy of the base."""

    __slots__ = ("_base", "_own")

    def __init__(self, base: StateMap, own: StateDelta) -> None:
        self._base = base
        self._own = own

    def __getitem__(self, key: StateKey) -> EventId:
        event_id = self._own[key] if key in self._own else self._base.get(key)
        if event_id is None:
            raise KeyError(key)
        return event_id

    def __iter__(self) -> Iterator[StateKey]:
        yield from (key for key in self._base if key not in self._own)
        yield from (key for key, event_id in self._own.items() if event_id is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class StateEvents(Collection[EventId]):
    """The events of a state; an event is looked up by its key."""

    __slots__ = ("_event", "_state")

    def __init__(self, state: StateMap, event: LoadEvent) -> None:
        self._state = state
        self._event = event

    def __contains__(self, event_id: object) -> bool:
        found = self._event(event_id)  # type: ignore[arg-type]
        return found.is_state and self._state.get(found.key) == event_id

    def __iter__(self) -> Iterator[EventId]:
        return iter(self._state.values())

    def __len__(self) -> int:
        return len(self._state)


@dataclass(frozen=True, slots=True)
class Conflict:
    """The unconflicted state map, and for each conflicted key the event of each state."""

    unconflicted: StateMap
    by_key: Mapping[StateKey, tuple[EventId | None, ...]]
    sets: Sequence[set[EventId]]
    """For each state, its conflicted events."""


def split(base: StateMap, deltas: Sequence[StateDelta], *, absence_conflicts: bool) -> Conflict:
    """Splits the states, `base` changed by each delta, into agreement and conflict.

    `absence_conflicts`: whether a key that only some states have is a conflict (rule 2). The time
    grows with the size of the deltas, not with their number times the number of all keys.
    """
    setters: dict[StateKey, list[tuple[int, EventId | None]]] = {}
    for number, delta in enumerate(deltas):
        for key, event_id in delta.items():
            setters.setdefault(key, []).append((number, event_id))
    own: dict[StateKey, EventId | None] = {}
    by_key: dict[StateKey, tuple[EventId | None, ...]] = {}
    of_base: set[EventId | None] = set()
    for key, setting in setters.items():
        distinct = {event_id for _, event_id in setting}
        shared = base.get(key)
        if len(setting) < len(deltas):
            distinct.add(shared)
        if not absence_conflicts and len(distinct) == 2:
            distinct.discard(None)
        own[key] = None
        if len(distinct) == 1:
            own[key] = distinct.pop()
            continue
        values = [shared] * len(deltas)
        for number, event_id in setting:
            values[number] = event_id
        by_key[key] = tuple(values)
        of_base.add(shared)
    sets = [_conflicted(by_key, base, delta, of_base) for delta in deltas]
    return Conflict(Overlay(base, own), by_key, sets)


def _conflicted(
    by_key: Collection[StateKey],
    base: StateMap,
    delta: StateDelta,
    of_base: Collection[EventId | None],
) -> set[EventId]:
    """Returns the conflicted events of a state, given those of the base."""
    changed = [key for key in delta if key in by_key]
    found = set(of_base)
    found.difference_update([base.get(key) for key in changed])
    found.update([delta[key] for key in changed])
    found.discard(None)
    return found  # type: ignore[return-value]  # None is gone


def deltas_of(states: Sequence[StateMap]) -> list[StateDelta]:
    """Returns the changes of each state against the first, on the same keys; reads all keys."""
    first = states[0]
    keys: dict[StateKey, None] = {}
    for state in states[1:]:
        keys.update((key, None) for key, value in state.items() if first.get(key) != value)
        keys.update((key, None) for key in first if key not in state)
    return [{key: state.get(key) for key in keys} for state in states]


@dataclass(frozen=True, slots=True)
class Step:
    """One event replayed by the iterative auth checks, and the rule that refused it, if any."""

    event_id: EventId
    failure: AuthFailure | None


@dataclass(frozen=True, slots=True)
class Choice:
    """One conflicted key of version 1: its events in the order of trial, and the chosen one."""

    key: StateKey
    tried: tuple[Step, ...]
    chosen: EventId


@dataclass(frozen=True, slots=True)
class Resolution:
    """A resolved state, with the steps that led to it."""

    algorithm: StateResolution
    conflict: Conflict
    resolved: StateMap
    """The part of the result outside the unconflicted state."""
    auth_difference: frozenset[EventId] = frozenset()
    subgraph: frozenset[EventId] = frozenset()
    """v2.1: the conflicted state subgraph."""
    full_conflicted: frozenset[EventId] = frozenset()
    power_events: tuple[Step, ...] = ()
    """The power events, in the reverse topological power ordering."""
    sender_levels: Mapping[EventId, Level] = field(default_factory=dict)
    """The levels of the power events' senders, by the events' own auth events."""
    power_levels: EventId | None = None
    """The power levels after the power events; its mainline orders the other events."""
    positions: Mapping[EventId, int | None] = field(default_factory=dict)
    """The positions of the other events on the mainline; None for infinity."""
    others: tuple[Step, ...] = ()
    """The other events, in the mainline ordering."""
    choices: tuple[Choice, ...] = ()
    """v1: one choice for each conflicted key, in the order of the passes."""

    @property
    def unconflicted(self) -> StateMap:
        """The unconflicted state map."""
        return self.conflict.unconflicted

    @property
    def state(self) -> dict[StateKey, EventId]:
        """The whole result; building it reads all of the unconflicted state."""
        return {**self.conflict.unconflicted, **self.resolved}


IsRejected = Callable[[EventId], bool]
