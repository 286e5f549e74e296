"""State resolution: the entry points for all versions, and v2 and v2.1 (spec: room version 2 and
room version 12, "State resolution").

Rules:
1. Pure: the result follows from the states and the events alone, whatever their order.
2. Each step of the specification's algorithm is one function, named by its number. v2.1 differs in
   two places: it starts from an empty map, and adds the conflicted state subgraph.
3. An event that isn't loaded raises MissingEvent; nothing is guessed.
4. The cost grows with the conflicts between the states, not with the size of the room (`conflicts`,
   rule 1), nor with its age if the chains are kept (`auth_chains`).
5. The *auth sets* that the auth difference compares contain the state events beside their chains,
   as in the most widely deployed server; the specification, read literally, leaves them out. The
   two differ in whether an unconflicted state event that only some chains contain is replayed,
   which changes the result of about 1 in 250 small random rooms full of conflicts. Servers of a
   room must agree, so the deployed reading decides. It also saves the walk over the chains of
   unconflicted state in all but rare cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth.auth_rules import AuthState, Lookup, check_auth, create_event_id
from federation.graph.auth.power_levels import Level, PowerLevels
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.chains import (
    LoadEvent,
    MissingEvent,
    Reached,
    load_all,
    sorted_topologically,
    unreached,
)
from federation.graph.resolution.conflicts import (
    Conflict,
    IsRejected,
    Resolution,
    StateDelta,
    StateEvents,
    StateMap,
    Step,
    deltas_of,
    split,
)
from federation.graph.resolution.mainline import Mainlines
from federation.graph.resolution.state_resolution_v1 import resolve_v1

__all__ = ["MissingEvent", "Resolution", "resolve", "resolve_deltas", "resolve_steps"]


def resolve(
    version: RoomVersion,
    state_sets: Sequence[StateMap],
    *,
    event: LoadEvent,
    is_rejected: IsRejected,
    reached: Reached | None = None,
    chains: AuthChains | None = None,
) -> StateMap:
    """Resolves several whole states of one room; reads every key of each.

    *Preconditions:* at least one state; the events are valid ones of one room. Raises MissingEvent
    (with all that are known to be missing) when `event` does: load those with their auth chains
    and call again. `reached` answers from an index which events are in chains of unconflicted
    state (see `chains.Citations`); without it these chains are walked in the rare case that the
    answer matters. `chains` are the room's auth chains as earlier calls computed them; without
    them they are computed anew.
    """
    assert state_sets, "there is no state to resolve"
    first = state_sets[0]
    if all(state is first or state == first for state in state_sets[1:]):
        return first
    steps = resolve_steps(
        version,
        first,
        deltas_of(state_sets),
        event=event,
        is_rejected=is_rejected,
        reached=reached,
        chains=chains,
    )
    return steps.state


def resolve_deltas(
    version: RoomVersion,
    base: StateMap,
    deltas: Sequence[StateDelta],
    *,
    event: LoadEvent,
    is_rejected: IsRejected,
    reached: Reached | None = None,
    chains: AuthChains | None = None,
) -> StateDelta:
    """Resolves states given as changes of a base; returns the result as a change of that base.

    Each state is `base` with the entries of one delta replaced (None: removed); `base` may be any
    state that makes the deltas short: a common ancestor, or one of the states with an empty
    delta. Only `base.get` is used, unless `reached` is missing and matters. The result has the
    keys whose event differs from the base's. Otherwise as `resolve`; the time grows with the
    deltas, and with the part of their events' auth chains that `chains` doesn't know yet.
    """
    steps = resolve_steps(
        version,
        base,
        deltas,
        event=event,
        is_rejected=is_rejected,
        reached=reached,
        chains=chains,
    )
    touched = dict.fromkeys((*(key for delta in deltas for key in delta), *steps.resolved))
    changes: dict[StateKey, EventId | None] = {}
    for key in touched:
        result = steps.resolved.get(key) or steps.unconflicted.get(key)
        if result != base.get(key):
            changes[key] = result
    return changes


def resolve_steps(
    version: RoomVersion,
    base: StateMap,
    deltas: Sequence[StateDelta],
    *,
    event: LoadEvent,
    is_rejected: IsRejected,
    reached: Reached | None = None,
    chains: AuthChains | None = None,
) -> Resolution:
    """Resolves as `resolve_deltas` does; returns each step and the rule that decided it."""
    is_v1 = version.state_resolution == "v1"
    conflict = split(base, deltas, absence_conflicts=not is_v1)
    if not conflict.by_key:
        return Resolution(version.state_resolution, conflict, {})
    if is_v1:
        return resolve_v1(version, conflict, event)
    chains = AuthChains() if chains is None else chains
    replay = Replay(version, conflict.unconflicted, event, is_rejected)
    steps = _resolve_v2(version, conflict, replay, chains, reached)
    chains.trim()
    return steps


def _resolve_v2(
    version: RoomVersion,
    conflict: Conflict,
    replay: Replay,
    chains: AuthChains,
    reached: Reached | None,
) -> Resolution:
    """Runs the algorithm of v2 and v2.1, from its definitions to step 5."""
    full = full_conflicted_set(version, conflict, replay.event, chains, reached)
    power_events = step_1_order_power_events(full.events, replay, chains)
    power_steps = step_2_check_power_events(power_events, replay)
    line = step_3_order_others(full.events.difference(power_events), replay, chains.mainlines)
    other_steps = step_4_check_others(line.ordered, replay)
    return Resolution(
        version.state_resolution,
        conflict,
        step_5_put_back_unconflicted(replay, conflict),
        auth_difference=frozenset(full.auth_difference),
        subgraph=frozenset(full.subgraph),
        full_conflicted=frozenset(full.events),
        power_events=power_steps,
        sender_levels={event_id: replay.level_of(event_id) for event_id in power_events},
        power_levels=line.power_levels,
        positions=line.positions,
        others=other_steps,
    )


# --- definitions --------------------------------------------------------------------------------


def is_power_event(event: Event) -> bool:
    """Returns whether the event might remove a user's ability to act in the room: power levels,
    join rules, a kick or a ban (definition "Power events")."""
    if event.state_key is None:
        return False
    if event.type in (event_types.POWER_LEVELS, event_types.JOIN_RULES):
        return True
    return event.membership in ("leave", "ban") and event.sender != event.state_key


@dataclass(frozen=True, slots=True)
class FullConflictedSet:
    """The full conflicted set, and two of its parts; the third is the conflicted state set."""

    events: set[EventId]
    auth_difference: set[EventId]
    subgraph: set[EventId]


def full_conflicted_set(
    version: RoomVersion,
    conflict: Conflict,
    event: LoadEvent,
    chains: AuthChains,
    reached: Reached | None,
) -> FullConflictedSet:
    """Returns the conflicted events, the auth difference and, in v2.1, the conflicted state
    subgraph (definition "Full conflicted set")."""
    conflicted: set[EventId] = set().union(*conflict.sets)
    load_all(conflicted, event)
    difference = auth_difference(conflict, event, chains, reached)
    is_v2_1 = version.state_resolution == "v2.1"
    subgraph = conflicted_subgraph(conflicted, event, chains) if is_v2_1 else set()
    full = FullConflictedSet(conflicted | difference | subgraph, difference, subgraph)
    # Loads all that the steps read of these, so that one MissingEvent names everything.
    loaded = load_all(full.events, event)
    load_all({parent for found in loaded.values() for parent in found.auth_events}, event)
    return full


def auth_difference(
    conflict: Conflict, event: LoadEvent, chains: AuthChains, reached: Reached | None
) -> set[EventId]:
    """Returns the events that are in the auth sets (rule 5) of some states, but not of all,
    without the conflicted events (definition "Auth difference").

    An event on which all states agree is in all sets, with its chain. So such chains matter only
    to the candidates that the conflicted events leave.
    """
    sets = conflict.sets
    differing = chains.differing(sets, event).difference(*sets)
    load_all(differing, event)
    unconflicted = StateEvents(conflict.unconflicted, event)
    candidates = {event_id for event_id in differing if event_id not in unconflicted}
    return unreached(candidates, unconflicted, event, reached=reached)


def conflicted_subgraph(
    conflicted: set[EventId], event: LoadEvent, chains: AuthChains
) -> set[EventId]:
    """Returns the events on a path of auth events between two conflicted events, inclusive
    (room version 12, definition "Conflicted state subgraph")."""
    return chains.between(conflicted, event)


class Replay:
    """The iterative auth checks: events are applied to a state one after another; in version 2 to
    the unconflicted state, in version 2.1 to an empty one."""

    def __init__(
        self,
        version: RoomVersion,
        unconflicted: StateMap,
        event: LoadEvent,
        is_rejected: IsRejected,
    ) -> None:
        self.start = {} if version.state_resolution == "v2.1" else unconflicted
        self.applied: dict[StateKey, EventId] = {}
        self.event = event
        self._version = version
        self._is_rejected = is_rejected
        self._parsed: dict[EventId | None, PowerLevels] = {}
        self._levels: dict[EventId, Level] = {}

    def get(self, key: StateKey) -> EventId | None:
        """Returns the event of the replayed state under a key."""
        return self.applied.get(key) or self.start.get(key)

    def _own_auth_events(self, event: Event) -> dict[StateKey, Event]:
        """Returns the event's auth events that weren't rejected, by key."""
        cited: Iterable[EventId] = event.auth_events
        implied = create_event_id(event.room_id, self._version)
        if implied is not None and event.type != event_types.CREATE:
            cited = (*event.auth_events, implied)
        loaded = load_all(cited, self.event)
        return {
            found.key: found
            for event_id, found in loaded.items()
            if found.is_state and not self._is_rejected(event_id)
        }

    def lookup_for(self, event: Event) -> Lookup:
        """Returns the replayed state, completed by the event's own auth events."""
        own = self._own_auth_events(event)

        def lookup(key: StateKey) -> Event | None:
            event_id = self.get(key)
            return own.get(key) if event_id is None else self.event(event_id)

        return lookup

    def apply(self, event_ids: Iterable[EventId]) -> tuple[Step, ...]:
        """Applies in this order the events that the auth rules allow, each by the state that the
        earlier ones led to (definition "Iterative auth checks")."""
        steps = []
        for event_id in event_ids:
            event = self.event(event_id)
            state = AuthState(self._version, self.lookup_for(event), parsed=self._parsed)
            failure = check_auth(event, state)
            if failure is None and event.is_state:
                self.applied[event.key] = event_id
            steps.append(Step(event_id, failure))
        return tuple(steps)

    def level_of(self, event_id: EventId) -> Level:
        """Returns the sender's power level by the event's own auth events, not by the state."""
        level = self._levels.get(event_id)
        if level is None:
            level = self._levels[event_id] = self._sender_level(self.event(event_id))
        return level

    def _sender_level(self, event: Event) -> Level:
        own = self._own_auth_events(event)
        create, power_levels = (
            own.get(event_types.CREATE_KEY),
            own.get(event_types.POWER_LEVELS_KEY),
        )
        if create is None:
            # Levels without a create event lack the creators, so they must not be cached.
            return PowerLevels(None, power_levels, self._version).user(event.sender)
        # Without power levels the levels follow from the create event; there may be several.
        event_id = (power_levels or create).event_id
        levels = self._parsed.get(event_id)
        if levels is None:
            levels = self._parsed[event_id] = PowerLevels(create, power_levels, self._version)
        return levels.user(event.sender)


# --- the algorithm ------------------------------------------------------------------------------


def step_1_order_power_events(
    full: set[EventId], replay: Replay, chains: AuthChains
) -> list[EventId]:
    """Step 1: sorts the power events, and those of the full conflicted set in their auth chains,
    so that each follows its auth events (reverse topological power ordering).

    Ties: the greater power of the sender first, then the earlier time, then the smaller ID.
    """
    event = replay.event
    selected = {event_id for event_id in full if is_power_event(event(event_id))}
    if not selected:
        return []
    edges = chains.nearest(full, event)
    added = selected
    while added:
        added = {parent for event_id in added for parent in edges[event_id]} - selected
        selected |= added

    def sort_key(event_id: EventId) -> tuple[Level, int, EventId]:
        return (-replay.level_of(event_id), event(event_id).origin_server_ts, event_id)

    return sorted_topologically(selected, edges.__getitem__, sort_key)


def step_2_check_power_events(power_events: Sequence[EventId], replay: Replay) -> tuple[Step, ...]:
    """Step 2: applies the allowed ones to the state from which the replay starts."""
    return replay.apply(power_events)


@dataclass(frozen=True, slots=True)
class MainlineOrdering:
    """Events in the mainline ordering of a power levels event, with their positions."""

    ordered: list[EventId]
    power_levels: EventId | None
    positions: Mapping[EventId, int | None]


def step_3_order_others(
    event_ids: Iterable[EventId], replay: Replay, mainlines: Mainlines
) -> MainlineOrdering:
    """Step 3: sorts the remaining events by the mainline of the power levels that step 2 led to:
    events under early power levels first, then by time, then by ID (mainline ordering)."""
    event, power_levels = replay.event, replay.get(event_types.POWER_LEVELS_KEY)
    positions = {
        event_id: mainlines.position(event_id, power_levels, event) for event_id in event_ids
    }

    def sort_key(event_id: EventId) -> tuple[float, int, EventId]:
        position = positions[event_id]
        behind = float("-inf") if position is None else -position
        return (behind, event(event_id).origin_server_ts, event_id)

    return MainlineOrdering(sorted(positions, key=sort_key), power_levels, positions)


def step_4_check_others(ordered: Iterable[EventId], replay: Replay) -> tuple[Step, ...]:
    """Step 4: applies the allowed ones to the state that step 2 led to."""
    return replay.apply(ordered)


def step_5_put_back_unconflicted(replay: Replay, conflict: Conflict) -> StateMap:
    """Step 5: restores the unconflicted state over the replayed one; returns the part of the
    replay that remains beside it."""
    unconflicted = conflict.unconflicted
    return {key: found for key, found in replay.applied.items() if unconflicted.get(key) is None}
