"""Walks over the auth graph, on small graphs drawn by hand."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import room_version
from federation.graph import chains
from federation.graph.chains import LoadEvent, MissingEvent

V11 = room_version("11")
A, B, C, D, E, F, G = (EventId(f"${letter}") for letter in "abcdefg")


def bare(event_id: EventId, auth_events: tuple[EventId, ...]) -> Event:
    return Event(
        event_id=event_id,
        room_id=RoomId("!r:a"),
        type="x",
        sender=UserId("@a:a"),
        state_key="",
        content={},
        prev_events=(),
        auth_events=auth_events,
        depth=1,
        origin_server_ts=1,
        redacts=None,
        version=V11,
        raw=b"",
    )


def graph(edges: Mapping[EventId, tuple[EventId, ...]]) -> LoadEvent:
    return chains.loader({event_id: bare(event_id, parents) for event_id, parents in edges.items()})


#   a <- b <- c <- d    and    a <- e <- f, with f citing b too
GRAPH = graph({A: (), B: (A,), C: (B, A), D: (C, A), E: (A,), F: (E, B)})


def test_an_auth_chain_is_all_that_is_reached() -> None:
    assert chains.auth_chain([D], GRAPH) == {C, B, A}
    assert chains.auth_chain([F], GRAPH) == {E, B, A}
    assert chains.auth_chain([A], GRAPH) == set()
    assert chains.auth_chain([C, D], GRAPH) == {C, B, A}


def test_a_walk_stops_at_what_is_known() -> None:
    assert chains.auth_chain([D], graph({D: (C,), C: (B,)}), stop={B}) == {C, B}


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
    assert len(chains.conflicted_subgraph({ids[0], ids[-1]}, load)) == 5000
    assert chains.nearest_members([ids[-1]], {ids[0]}, load) == {ids[-1]: {ids[0]}}


def test_the_auth_difference_is_what_some_have_seen_and_others_have_not() -> None:
    # c is only behind d, e only behind f; b and a are behind both.
    assert chains.auth_difference([{D}, {F}], set(), GRAPH) == {C, E}
    assert chains.auth_difference([{D}, {D}], set(), GRAPH) == set()
    assert chains.auth_difference([{D}], set(), GRAPH) == set()
    assert chains.auth_difference([{D}, set()], set(), GRAPH) == {A, B, C}


def test_what_unconflicted_state_has_seen_is_in_no_difference() -> None:
    assert chains.auth_difference([{D}, set()], {F}, GRAPH) == {C}
    assert chains.auth_difference([{D}, set()], {C}, GRAPH) == set()


def test_an_index_may_answer_what_unconflicted_state_has_seen() -> None:
    asked = []

    def reached(events: Collection[EventId], state: Collection[EventId]) -> set[EventId]:
        asked.append((set(events), set(state)))
        return {B, A}

    assert chains.auth_difference([{D}, set()], {F}, GRAPH, reached=reached) == {C}
    assert asked == [({A, B, C}, {F})]
    assert chains.auth_difference([{D}, {D}], {F}, GRAPH, reached=reached) == set()
    assert len(asked) == 1


def test_the_conflicted_subgraph_is_all_between_conflicted_events() -> None:
    assert chains.conflicted_subgraph({D, B}, GRAPH) == {D, C, B}
    assert chains.conflicted_subgraph({D, F}, GRAPH) == set()
    assert chains.conflicted_subgraph({D, F, B}, GRAPH) == {D, C, B, F}
    assert chains.conflicted_subgraph({D}, GRAPH) == set()


def test_nearest_members_are_those_not_behind_another() -> None:
    assert chains.nearest_members([D, F], {C, B, E}, GRAPH) == {D: {C}, F: {E, B}}
    assert chains.nearest_members([D], {A}, GRAPH) == {D: {A}}
    assert chains.nearest_members([A], {D}, GRAPH) == {A: frozenset()}


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
