"""Resolving a fork costs what differs, not what the room holds."""

from __future__ import annotations

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.auth_chains import AuthChains
from federation.graph.conflicts import Overlay
from federation.graph.state_resolution import resolve, resolve_deltas
from tests.federation.graph.large_room import LEVELS, forked

VERSIONS = ["1", "2", "11", "12"]


def never(event_id: EventId) -> bool:
    return False


def loads_of(
    name: str, members: int, level_changes: int = 0, *, chains: AuthChains | None = None
) -> int:
    """How many events are asked for to resolve a fork; with chains, the second time."""
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
