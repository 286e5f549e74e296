"""Walks over the auth graph, on small graphs drawn by hand."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.ids import EventId
from federation.graph.resolution import chains
from federation.graph.resolution.chains import MissingEvent
from tests.federation.graph.auth_graph import RandomGraph, bare, graph

A, B, C, D, E, F, G = (EventId(f"${letter}") for letter in "abcdefg")


#   a <- b <- c <- d    and    a <- e <- f, with f citing b too
GRAPH = graph({A: (), B: (A,), C: (B, A), D: (C, A), E: (A,), F: (E, B)})


def test_an_auth_chain_is_all_that_is_reached() -> None:
    assert chains.auth_chain([D], GRAPH) == {C, B, A}
    assert chains.auth_chain([F], GRAPH) == {E, B, A}
    assert chains.auth_chain([A], GRAPH) == set()
    assert chains.auth_chain([C, D], GRAPH) == {C, B, A}


def test_missing_events_of_one_layer_are_reported_together() -> None:
    with pytest.raises(MissingEvent) as caught:
        chains.auth_chain([D], graph({D: (B, C)}))
    assert caught.value.event_ids == {B, C}
    with pytest.raises(MissingEvent) as single:
        GRAPH(G)
    assert single.value.event_ids == {G}


def test_a_chain_may_be_longer_than_the_stack() -> None:
    ids = [EventId(f"${number}") for number in range(5000)]
    edges: dict[EventId, tuple[EventId, ...]] = {ids[0]: ()}
    edges.update({after: (before,) for before, after in itertools.pairwise(ids)})
    load = graph(edges)
    assert len(chains.auth_chain([ids[-1]], load)) == 4999
    assert len(chains.between({ids[0], ids[-1]}, load)) == 5000
    assert chains.nearest({ids[0], ids[-1]}, load) == {ids[-1]: {ids[0]}, ids[0]: set()}


def test_events_differ_that_some_have_seen_and_others_have_not() -> None:
    # c is only behind d, e only behind f; b and a are behind both.
    assert chains.differing([{D}, {F}], GRAPH) == {C, D, E, F}
    assert chains.differing([{D}, set()], GRAPH) == {A, B, C, D}
    assert chains.differing([{D}, {C}, {C, A}], GRAPH) == {D}
    assert chains.differing([{D}, {D}], GRAPH) == chains.differing([{D}], GRAPH) == set()


def test_what_a_state_has_seen_is_reached_by_its_events() -> None:
    assert chains.unreached({A, B, C}, {F}, GRAPH) == {C}
    assert chains.unreached({A, B, C}, {C}, GRAPH) == {C}
    assert chains.unreached({A, B, C}, set(), GRAPH) == {A, B, C}
    assert chains.unreached({A, D}, {D, C}, GRAPH) == {D}


def test_a_walk_ends_when_nothing_is_left_to_find() -> None:
    assert chains.unreached({B}, {D}, graph({D: (C,), C: (B,)})) == set()
    assert chains.unreached(set(), {G}, GRAPH) == set()


def test_an_index_may_answer_what_a_state_has_seen() -> None:
    asked = []

    def reached(events: Collection[EventId], state: Collection[EventId]) -> set[EventId]:
        asked.append((set(events), set(state)))
        return {B, A}

    assert chains.unreached({A, B, C}, {F}, GRAPH, reached=reached) == {C}
    assert asked == [({A, B, C}, {F})]
    assert chains.unreached(set(), {F}, GRAPH, reached=reached) == set()
    assert len(asked) == 1


def test_between_events_is_all_on_a_path_from_one_to_another() -> None:
    assert chains.between({D, B}, GRAPH) == {D, C, B}
    assert chains.between({D, F}, GRAPH) == set()
    assert chains.between({D, F, B}, GRAPH) == {D, C, B, F}
    assert chains.between({D}, GRAPH) == set()


def test_the_nearest_are_those_not_behind_another() -> None:
    assert chains.nearest({D, F, C, B, E}, GRAPH) == {
        D: {C},
        F: {E, B},
        C: {B},
        B: set(),
        E: set(),
    }
    assert chains.nearest({D, A}, GRAPH) == {D: {A}, A: set()}


@pytest.mark.parametrize("ends", [{A, B}, {D}, {B, C, D}])
def test_a_cycle_ends_every_walk(ends: set[EventId]) -> None:
    #   a -> b -> c -> a,  d -> b
    load = graph({A: (B,), B: (C,), C: (A,), D: (B,)})
    assert chains.auth_chain(ends, load) == {A, B, C}
    assert chains.differing([ends, set()], load) == {A, B, C} | ends
    assert chains.between(ends, load) == ({A, B, C} | ends if ends != {D} else set())
    assert chains.nearest(ends, load).keys() == ends


EDGES = {D: [C], C: [B], B: [A], A: [], E: [A]}


def test_topological_order_puts_parents_first_and_keeps_the_given_order() -> None:
    assert chains.topological_order([D, E, C, A, B], EDGES.__getitem__) == [A, E, B, C, D]
    assert chains.topological_order([D, B], EDGES.__getitem__) == [D, B]  # c is outside
    assert chains.topological_order([], EDGES.__getitem__) == []


def test_a_cycle_is_left_out() -> None:
    edges = {A: [], B: [A, C], C: [B], D: [C]}
    assert chains.topological_order([A, B, C, D], edges.__getitem__) == [A]


@settings(deadline=None)
@given(st.permutations(list("abcdefghij")), st.data())
def test_each_event_follows_its_parents_in_the_smallest_way(
    names: list[str], data: st.DataObject
) -> None:
    ids = [EventId(name) for name in names]
    edges = {
        event_id: data.draw(st.lists(st.sampled_from(ids[:index]), max_size=3)) if index else []
        for index, event_id in enumerate(ids)
    }
    order = chains.sorted_topologically(set(ids), edges.__getitem__, lambda event_id: event_id)
    left = set(ids)
    for event_id in order:
        ready = [e for e in left if not left.intersection(edges[e])]
        assert event_id == min(ready)
        left.remove(event_id)
    assert not left


def test_citations_answer_which_events_are_in_chains_without_walking_the_starts() -> None:
    # A <- B, C <- D (a diamond), D <- E; F cites nothing.
    edges = {A: (), B: (A,), C: (A,), D: (B, C), E: (D,), F: ()}
    citations = chains.Citations(bare(event_id, cited) for event_id, cited in edges.items())
    assert citations.reached([A, B, F], [E]) == {A, B}
    assert citations.reached([A, D, E], [C]) == {A}
    assert citations.reached([E], [E]) == set(), "an event isn't in its own chain"
    assert citations.reached([A], [F]) == citations.reached([], [E]) == set()
    citations.add(bare(G, (F,)))
    assert citations.reached([F], [G]) == {F}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25), st.booleans())
def test_walks_find_what_the_definitions_say(seed: int, size: int, cycles: bool) -> None:
    made = RandomGraph(seed, size, cycles=cycles)
    load, reached = chains.loader(made.events), made.reached
    sets = [made.pick(made.random.randrange(1, 5)) for _ in range(3)]
    seen = [ids.union(*(reached[event_id] for event_id in ids)) for ids in sets]
    assert chains.auth_chain(sets[0], load) == set().union(*(reached[one] for one in sets[0]))
    assert chains.differing(sets, load) == seen[0].union(*seen) - seen[0].intersection(*seen)
    assert chains.unreached(sets[0], sets[1], load) == {
        event_id for event_id in sets[0] if not any(event_id in reached[one] for one in sets[1])
    }
    assert chains.between(sets[2], load) == made.paths(sets[2])
    index = chains.Citations(made.events.values())
    assert set(index.citing(sets[0])) == {one for one in made.ids if reached[one] & sets[0]}
    if not cycles:
        nearest = chains.nearest(sets[2], load)
        for member in sets[2]:
            behind = reached[member] & sets[2]
            hidden = set().union(*(reached[one] for one in behind))
            assert behind - hidden <= nearest[member] <= behind
