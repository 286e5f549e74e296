"""State resolution a second time, naively and straight from the definitions of the specification
(room versions 1, 2 and 12), as a witness for the real one: sets and recursion, no care for speed,
nothing shared with it. Its authorisation rules are those of `auth_oracle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import RoomVersion
from tests.federation.graph.auth_oracle import Case, Told, refusal, told, user_level

States = Sequence[Mapping[StateKey, EventId]]
LEVELS: StateKey = ("m.room.power_levels", "")


class Oracle:
    """One resolution over a known graph."""

    def __init__(
        self,
        version: RoomVersion,
        events: Mapping[EventId, Event],
        rejected: Callable[[EventId], bool],
    ) -> None:
        self.version = version
        self.events = events
        self.rejected = rejected
        self.chains: dict[EventId, frozenset[EventId]] = {}
        self.tellings: dict[EventId, Told] = {}

    def auth_chain(self, event_id: EventId) -> frozenset[EventId]:
        if event_id not in self.chains:
            parents = self.events[event_id].auth_events
            chain = set(parents).union(*(self.auth_chain(parent) for parent in parents))
            self.chains[event_id] = frozenset(chain)
        return self.chains[event_id]

    def auth_difference(self, states: States, *, with_state: bool) -> set[EventId]:
        """`with_state`: the states' own events count as seen by them, as deployed servers do."""
        full_chains = []
        for state in states:
            chain: set[EventId] = set(state.values()) if with_state else set()
            full_chains.append(chain.union(*map(self.auth_chain, state.values())))
        return set.union(*full_chains).difference(
            {e for e in full_chains[0] if all(e in chain for chain in full_chains)}
        )

    def subgraph(self, conflicted: set[EventId]) -> set[EventId]:
        found: set[EventId] = set()
        for start in conflicted:
            for end in conflicted & self.auth_chain(start):
                between = {e for e in self.auth_chain(start) if end in self.auth_chain(e)}
                found |= {start, end} | between
        return found

    def is_power_event(self, event_id: EventId) -> bool:
        event = self.events[event_id]
        if event.state_key is None:
            return False
        if event.type in {"m.room.power_levels", "m.room.join_rules"}:
            return True
        return (
            event.type == "m.room.member"
            and event.content.get("membership") in {"leave", "ban"}
            and event.sender != event.state_key
        )

    def told(self, event_id: EventId) -> Told:
        if event_id not in self.tellings:
            self.tellings[event_id] = told(event_id, self.events[event_id].raw)
        return self.tellings[event_id]

    def case(self, event_id: EventId, state: Mapping[StateKey, EventId]) -> Case:
        by_key = {key: self.told(found) for key, found in state.items()}
        return Case(self.told(event_id), by_key.get, int(self.version.name))

    def cited(self, event_id: EventId) -> dict[StateKey, EventId]:
        event = self.events[event_id]
        cited = [e for e in event.auth_events if not self.rejected(e)]
        if self.version.room_id_is_create_hash and event.type != "m.room.create":
            cited.append(EventId("$" + event.room_id[1:]))
        return {self.events[e].key: e for e in cited}

    def power_key(self, event_id: EventId) -> tuple[float, int, EventId]:
        event = self.events[event_id]
        level = user_level(self.case(event_id, self.cited(event_id)), event.sender)
        return (-level, event.origin_server_ts, event_id)

    def power_ordering(self, events: set[EventId]) -> list[EventId]:
        left, order = set(events), []
        while left:
            candidates = [e for e in left if not self.auth_chain(e) & left]
            smallest = min(candidates, key=self.power_key)
            order.append(smallest)
            left.remove(smallest)
        return order

    def power_levels_cited(self, event_id: EventId) -> EventId | None:
        for parent in self.events[event_id].auth_events:
            if self.events[parent].key == LEVELS:
                return parent
        return None

    def line(self, event_id: EventId | None) -> list[EventId]:
        return [] if event_id is None else [event_id, *self.line(self.power_levels_cited(event_id))]

    def mainline_ordering(self, events: set[EventId], top: EventId | None) -> list[EventId]:
        mainline = self.line(top)

        def key(event_id: EventId) -> tuple[float, int, EventId]:
            own = self.line(event_id)[1:]
            position = next((mainline.index(e) for e in own if e in mainline), float("inf"))
            return (-position, self.events[event_id].origin_server_ts, event_id)

        return sorted(events, key=key)

    def iterative_auth_checks(
        self, start: Mapping[StateKey, EventId], order: Sequence[EventId]
    ) -> dict[StateKey, EventId]:
        state = dict(start)
        for event_id in order:
            if self.allowed(event_id, {**self.cited(event_id), **state}):
                state[self.events[event_id].key] = event_id
        return state

    def allowed(self, event_id: EventId, state: Mapping[StateKey, EventId]) -> bool:
        return refusal(self.case(event_id, state)) is None

    def resolve_v1(self, states: States) -> dict[StateKey, EventId]:
        """Room version 1, "State resolution"; each key by itself within a pass."""
        values = {key: {s[key] for s in states if key in s} for s in states for key in s}
        result = {key: next(iter(ids)) for key, ids in values.items() if len(ids) == 1}

        def rank(event_id: EventId) -> tuple[int, str]:
            return (self.events[event_id].depth, sha1(event_id.encode()).hexdigest())

        for kind in ("m.room.power_levels", "m.room.join_rules", "m.room.member", None):
            found: dict[StateKey, EventId] = {}
            for key in values.keys() - result.keys():
                if kind is not None and key[0] != kind:
                    continue
                by_hash = sorted(values[key], key=lambda e: rank(e)[1], reverse=kind is not None)
                order = sorted(by_hash, key=lambda e: rank(e)[0], reverse=kind is None)
                if kind is None:
                    passing = [e for e in order if self.allowed(e, result)]
                    found[key] = (passing or order[-1:])[0]
                    continue
                found[key] = order[0]
                for event_id in order[1:]:
                    if not self.allowed(event_id, {**result, key: found[key]}):
                        break
                    found[key] = event_id
            result.update(found)
        return result

    def resolve(self, states: States, *, with_state: bool = True) -> dict[StateKey, EventId]:
        if self.version.state_resolution == "v1":
            return self.resolve_v1(states)
        keys = {key for state in states for key in state}
        unconflicted = {
            key: states[0][key]
            for key in keys
            if all(key in state and state[key] == states[0].get(key) for state in states)
        }
        conflicted = {
            event_id
            for state in states
            for key, event_id in state.items()
            if key not in unconflicted
        }
        full = conflicted | self.auth_difference(states, with_state=with_state)
        is_v2_1 = self.version.state_resolution == "v2.1"
        if is_v2_1:
            full |= self.subgraph(conflicted)
        power = {e for e in full if self.is_power_event(e)}
        power |= {e for p in power for e in self.auth_chain(p) if e in full}
        start: dict[StateKey, EventId] = {} if is_v2_1 else unconflicted
        partial = self.iterative_auth_checks(start, self.power_ordering(power))
        rest = self.mainline_ordering(full - power, partial.get(LEVELS))
        return {**self.iterative_auth_checks(partial, rest), **unconflicted}
