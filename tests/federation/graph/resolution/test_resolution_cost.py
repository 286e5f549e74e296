"""Resolving a fork costs what differs, not what the room holds."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.conflicts import Overlay, split
from federation.graph.resolution.state_resolution import resolve, resolve_deltas
from tests.federation.graph.large_room import LEVELS, forked

VERSIONS = ["1", "2", "11", "12"]


def never(event_id: EventId) -> bool:
    return False


def loads_of(
    name: str, members: int, level_changes: int = 0, *, chains: AuthChains | None = None
) -> int:
    """Returns how many events are asked for to resolve a fork; with chains, the second time."""
    room, deltas = forked(name, members, level_changes)
    loads = 0
    load = room.load

    def counting(event_id: EventId) -> Event:
        nonlocal loads
        loads += 1
        return load(event_id)

    for _ in range(1 if chains is None else 2):
        loads = 0
        resolve_deltas(
            room.version,
            room.base,
            deltas,
            event=counting,
            is_rejected=never,
            reached=room.citations.reached,
            chains=chains,
        )
    return loads


@pytest.mark.parametrize("name", VERSIONS)
def test_as_many_events_are_looked_at_in_a_room_of_2000_as_in_one_of_10(name: str) -> None:
    assert loads_of(name, 10) == loads_of(name, 2_000) < 2_000


@pytest.mark.parametrize("name", VERSIONS)
def test_as_many_events_are_looked_at_after_5000_changes_of_power_levels_as_after_50(
    name: str,
) -> None:
    after_50 = loads_of(name, 10, 50, chains=AuthChains())
    assert loads_of(name, 10, 5_000, chains=AuthChains()) == after_50 < 500


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("with_index", [True, False])
def test_a_large_rooms_fork_resolves_as_its_whole_states_do(name: str, with_index: bool) -> None:
    room, deltas = forked(name, 50)
    changes = resolve_deltas(
        room.version,
        room.base,
        deltas,
        event=room.load,
        is_rejected=never,
        reached=room.citations.reached if with_index else None,
    )
    states = [dict(Overlay(room.base, delta)) for delta in deltas]
    expected = resolve(room.version, states, event=room.load, is_rejected=never)
    assert dict(Overlay(room.base, changes)) == expected
    assert changes[LEVELS] == deltas[0][LEVELS]


class CountedState(dict[StateKey, EventId]):
    """A state that counts the looks at it."""

    looks = 0

    def get(self, key: StateKey, default: Any = None) -> Any:
        """As in a dict."""
        self.looks += 1
        return super().get(key, default)


def test_states_that_differ_in_a_key_each_are_split_by_looking_at_each_key_a_few_times() -> None:
    base = CountedState({("m.room.create", ""): EventId("$create")})
    deltas: list[dict[StateKey, EventId | None]] = [
        {("m.x", str(number)): EventId(f"${number}")} for number in range(100)
    ]
    conflict = split(base, deltas, absence_conflicts=True)
    assert conflict.sets == [{EventId(f"${number}")} for number in range(100)]
    assert all(len(values) == 100 for values in conflict.by_key.values())
    assert base.looks <= 300
