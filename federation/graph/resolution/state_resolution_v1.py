"""State resolution v1 (spec: room version 1, "State resolution").

Rules:
1. One pass for each kind of event that the auth rules read, then one for all others. The passes
   have the specification's order; each uses the results of those before it.
2. A pass decides each key without the results of its other keys, so that the outcome doesn't
   depend on the order of keys, which the specification leaves open.
3. Where no candidate is allowed, which the specification leaves open too, the last one tried is
   taken (the lowest depth), as in deployed servers: servers of a room must agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth.auth_rules import AuthState, check_auth
from federation.graph.resolution.chains import LoadEvent, load_all
from federation.graph.resolution.conflicts import (
    Choice,
    Conflict,
    Overlay,
    Resolution,
    StateMap,
    Step,
)

POWER_LEVELS_PASS, JOIN_RULES_PASS, MEMBERS_PASS, OTHERS_PASS = 1, 2, 3, 4


def pass_of(key: StateKey) -> int:
    """Returns the pass that resolves conflicts under a key, in the specification's order."""
    if key == event_types.POWER_LEVELS_KEY:
        return POWER_LEVELS_PASS
    if key[0] == event_types.JOIN_RULES:
        return JOIN_RULES_PASS
    return MEMBERS_PASS if key[0] == event_types.MEMBER else OTHERS_PASS


def resolve_v1(version: RoomVersion, conflict: Conflict, event: LoadEvent) -> Resolution:
    """Resolves the conflicts between the states. Raises MissingEvent."""
    load_all(_candidates(conflict), event)
    resolved: dict[StateKey, EventId] = {}
    choices: list[Choice] = []
    for number in (POWER_LEVELS_PASS, JOIN_RULES_PASS, MEMBERS_PASS, OTHERS_PASS):
        before = Overlay(conflict.unconflicted, dict(resolved))
        choose = _choose_highest if number == OTHERS_PASS else _choose_by_replay
        for key in sorted(key for key in conflict.by_key if pass_of(key) == number):
            loaded = load_all(_distinct(conflict, key), event)
            choice = choose(version, key, list(loaded.values()), (before, event))
            choices.append(choice)
            resolved[key] = choice.chosen
    return Resolution("v1", conflict, resolved, choices=tuple(choices))


def _distinct(conflict: Conflict, key: StateKey) -> set[EventId]:
    return {event_id for event_id in conflict.by_key[key] if event_id is not None}


def _candidates(conflict: Conflict) -> set[EventId]:
    return {event_id for key in conflict.by_key for event_id in _distinct(conflict, key)}


def _digest(event: Event) -> int:
    """Returns `sha1(event_id)` as a number; the hash only orders events and protects nothing."""
    digest = sha1(event.event_id.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big")


_State = tuple[StateMap, LoadEvent]


def _auth_state(version: RoomVersion, state: StateMap, load: LoadEvent) -> AuthState:
    def lookup(key: StateKey) -> Event | None:
        event_id = state.get(key)
        return None if event_id is None else load(event_id)

    return AuthState(version, lookup)


def _choose_by_replay(
    version: RoomVersion, key: StateKey, events: Iterable[Event], given: _State
) -> Choice:
    """Passes 1 to 3: chooses the last event, by rising depth, up to which each is allowed by the
    one before."""
    state, load = given
    ordered = sorted(events, key=lambda event: (event.depth, -_digest(event)))
    chosen = ordered[0]
    tried = [Step(chosen.event_id, None)]
    for event in ordered[1:]:
        with_chosen = Overlay(state, {key: chosen.event_id})
        failure = check_auth(event, _auth_state(version, with_chosen, load))
        tried.append(Step(event.event_id, failure))
        if failure is not None:
            break
        chosen = event
    return Choice(key, tuple(tried), chosen.event_id)


def _choose_highest(
    version: RoomVersion, key: StateKey, events: Iterable[Event], given: _State
) -> Choice:
    """Pass 4: chooses the allowed event of the highest depth; of several, the lowest hash."""
    state, load = given
    auth_state = _auth_state(version, state, load)
    tried: list[Step] = []
    for event in sorted(events, key=lambda event: (-event.depth, _digest(event))):
        failure = check_auth(event, auth_state)
        tried.append(Step(event.event_id, failure))
        if failure is None:
            break
    return Choice(key, tuple(tried), tried[-1].event_id)
