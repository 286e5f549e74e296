"""Mainline positions, found without walking the mainline."""

from __future__ import annotations

import itertools
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.resolution.chains import LoadEvent, loader
from federation.graph.resolution.mainline import (
    Mainlines,
    is_power_levels,
    levels_cited,
    mainline_of,
)
from tests.federation.graph.auth_graph import LEVELS, RandomGraph, bare, graph

A, B, C, D, E, F, G = (EventId(f"${letter}") for letter in "abcdefg")

#   a <- b <- c <- d    and    b <- e <- f,   all of them power levels; g stands apart
LINES = graph({A: (), B: (A,), C: (B,), D: (C,), E: (B,), F: (E,), G: ()}, LEVELS)


def naive_position(event_id: EventId, top: EventId | None, load: LoadEvent) -> int | None:
    mainline = mainline_of(top, load)
    own = mainline_of(levels_cited(event_id, load), load)
    return next((mainline.index(one) for one in own if one in mainline), None)


def test_power_levels_are_a_state_event_with_an_empty_state_key() -> None:
    assert is_power_levels(bare(A, (), LEVELS))
    others = [("m.room.power_levels", None), ("m.room.power_levels", "x"), ("m.room.topic", "")]
    assert not any(is_power_levels(bare(A, (), key)) for key in others)


def test_the_first_power_levels_event_that_is_cited_counts() -> None:
    events = [
        bare(A, ()),
        bare(B, (), LEVELS),
        bare(C, (), LEVELS),
        bare(D, (A, C, B)),
        bare(E, (A,)),
    ]
    load = loader({event.event_id: event for event in events})
    assert levels_cited(D, load) == C
    assert levels_cited(E, load) is levels_cited(A, load) is None


def test_a_mainline_leads_back_to_the_first_power_levels() -> None:
    assert mainline_of(D, LINES) == (D, C, B, A)
    assert mainline_of(F, LINES) == (F, E, B, A)
    assert mainline_of(None, LINES) == ()


def test_an_event_stands_where_what_it_cites_meets_the_mainline() -> None:
    lines = Mainlines()
    assert [lines.position(one, D, LINES) for one in (D, C, B)] == [1, 2, 3]
    assert [lines.position(one, D, LINES) for one in (F, E)] == [2, 2]
    assert [lines.position(one, F, LINES) for one in (D, C, F, B)] == [2, 2, 1, 3]


def test_an_event_that_never_meets_the_mainline_stands_at_infinity() -> None:
    lines = Mainlines()
    assert lines.position(A, D, LINES) is None, "it cites none"
    assert lines.position(D, None, LINES) is None, "there is no mainline"
    assert lines.position(A, None, LINES) is None
    assert lines.position(D, G, LINES) is None, "they never meet"


def test_a_cycle_of_power_levels_is_no_mainline() -> None:
    #   a -> b -> c -> a,  d -> b;  f -> e as it should be
    edges = {A: (B,), B: (C,), C: (A,), D: (B,), E: (), F: (E,), G: (F,)}
    load = graph(edges, LEVELS)
    for order in itertools.permutations((A, B, C, D)):
        lines = Mainlines()
        assert [lines.position(one, D, load) for one in order] == [None] * 4
        assert lines.position(D, G, load) is lines.position(G, D, load) is None
        assert lines.position(G, G, load) == 1
        assert len(lines) == 7
    assert mainline_of(A, load) == (A, B, C)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_positions_are_as_by_a_walk_in_any_order_of_asking(
    seed: int, size: int, are_all_levels: bool
) -> None:
    made = RandomGraph(seed, size)
    events = made.events
    if are_all_levels:
        events = {one: bare(one, event.auth_events, LEVELS) for one, event in events.items()}
    load, lines = loader(events), Mainlines()
    tops: list[EventId | None] = [one for one in made.ids if is_power_levels(events[one])]
    for _ in range(20):
        event_id = made.random.choice(made.ids)
        top = made.random.choice([None, *tops])
        assert lines.position(event_id, top, load) == naive_position(event_id, top, load)
    assert len(lines) <= len(tops)


def test_of_a_long_mainline_only_what_is_new_is_looked_at() -> None:
    ids = [EventId(f"${number}") for number in range(5000)]
    events = {ids[0]: bare(ids[0], (), LEVELS)}
    for before, after in itertools.pairwise(ids):
        events[after] = bare(after, (before,), LEVELS)
    asked: list[EventId] = []

    def load(event_id: EventId) -> Event:
        asked.append(event_id)
        return events[event_id]

    lines = Mainlines()
    assert lines.position(ids[1], ids[-1], load) == 4999
    asked.clear()
    assert lines.position(ids[2000], ids[4321], load) == 4321 - 1999
    assert set(asked) == {ids[2000], ids[1999]}
    assert len(lines) == 5000


class HashedId(str):
    """An ID that counts how often a table is asked for it."""

    __slots__ = ()

    hashed: ClassVar[list[int]] = [0]

    def __hash__(self) -> int:
        self.hashed[0] += 1
        return super().__hash__()


def test_a_position_far_back_takes_a_few_steps() -> None:
    ids = [EventId(HashedId(f"${number}")) for number in range(5000)]
    events = {ids[0]: bare(ids[0], (), LEVELS)}
    for before, after in itertools.pairwise(ids):
        events[after] = bare(after, (before,), LEVELS)
    load, lines = loader(events), Mainlines()
    lines.position(ids[-1], ids[-1], load)
    for back in (1, 2, 100, 2500, 4095, 4999):
        HashedId.hashed[0] = 0
        assert lines.position(ids[5000 - back], ids[-1], load) == back
        assert HashedId.hashed[0] < 200
