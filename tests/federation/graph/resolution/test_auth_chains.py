"""Auth chains as compact sets answer as the definitions do, and forget nothing but on purpose."""

from __future__ import annotations

import gc
import itertools
import sys
import tracemalloc
from collections.abc import Collection, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import limits
from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.chains import LoadEvent, MissingEvent, loader
from tests.federation.graph.auth_graph import LEVELS, RandomGraph, bare, graph

A, B, C, D, E, F, G = (EventId(f"${letter}") for letter in "abcdefg")

#   a <- b <- c <- d    and    a <- e <- f, with f citing b too
EDGES = {A: (), B: (A,), C: (B, A), D: (C, A), E: (A,), F: (E, B)}
GRAPH = graph(EDGES)


class Counted:
    """A `LoadEvent` that remembers what was asked for."""

    def __init__(self, load: LoadEvent) -> None:
        self._load = load
        self.asked: list[EventId] = []

    def __call__(self, event_id: EventId) -> Event:
        self.asked.append(event_id)
        return self._load(event_id)


def differing_of(made: RandomGraph, sets: Sequence[set[EventId]]) -> set[EventId]:
    seen = [ids.union(*(made.reached[event_id] for event_id in ids)) for ids in sets]
    return seen[0].union(*seen) - seen[0].intersection(*seen)


def closure(
    edges: Mapping[EventId, Collection[EventId]], members: Collection[EventId]
) -> dict[EventId, set[EventId]]:
    """For each member, all that edges lead to."""
    found: dict[EventId, set[EventId]] = {}
    for member in members:
        reached: set[EventId] = set()
        left = [member]
        while left:
            new = set(edges[left.pop()]) - reached
            reached |= new
            left.extend(new)
        found[member] = reached
    return found


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from([0, 1, 2, 4, limits.AUTH_CHAIN_LINES_MAX]),
)
def test_kept_chains_answer_as_the_definitions_in_any_order_of_asking(
    seed: int, size: int, cycles: bool, lines_max: int
) -> None:
    made = RandomGraph(seed, size, cycles=cycles)
    load = loader(made.events)
    kept = AuthChains(lines_max=lines_max)
    for _ in range(6):
        sets = [made.pick(made.random.randrange(1, 6)) for _ in range(made.random.randrange(1, 5))]
        assert kept.differing(sets, load) == differing_of(made, sets)
        ends = made.pick(made.random.randrange(1, 6))
        assert kept.between(ends, load) == made.paths(ends)
        if not cycles:
            edges = kept.nearest(ends, load)
            assert closure(edges, ends) == {one: made.reached[one] & ends for one in ends}
    assert len(kept) <= size


def test_of_a_line_only_the_highest_within_reach_is_nearest() -> None:
    kept = AuthChains()
    assert kept.nearest({D, C, B, A}, GRAPH) == {D: [C], C: [B], B: [A], A: []}
    assert kept.nearest({D, A, F}, GRAPH) == {D: [A], F: [A], A: []}


def test_what_was_placed_is_not_asked_for_again() -> None:
    load = Counted(GRAPH)
    kept = AuthChains()
    assert kept.differing([{C}, {B}], load) == {C}
    assert sorted(load.asked) == [A, B, C]
    load.asked.clear()
    assert kept.differing([{C}, set()], load) == {A, B, C}
    assert kept.between({C, A}, load) == {A, B, C}
    assert load.asked == []
    assert kept.differing([{D}, {F}], load) == {C, D, E, F}
    assert sorted(load.asked) == [D, E, F]
    assert len(kept) == 6


def test_events_without_a_place_are_walked_and_the_rest_is_not() -> None:
    #   b cites two lines, and c stands on it; d on one alone
    edges = {A: (), B: (A, E), C: (B,), D: (A,), E: ()}
    load = Counted(graph(edges))
    kept = AuthChains(lines_max=1)
    assert kept.differing([{C}, {D}], load) == {B, C, D, E}
    assert len(kept) == 5
    load.asked.clear()
    assert kept.differing([{D}, {E}], load) == {A, D, E}
    assert load.asked == []
    assert kept.differing([{C}, {D}], load) == {B, C, D, E}
    assert {A, B, C, D, E} == set(load.asked)


def test_what_cites_a_wide_event_is_wide_even_where_all_it_cites_is_on_one_line() -> None:
    wide = AuthChains(lines_max=2)
    edges = {A: (), B: (), C: (), D: (A, B), E: (A, B, C), F: (E,)}
    load = Counted(graph(edges))
    wide.differing([{D}, set()], load)
    wide.differing([{F}, set()], load)
    load.asked.clear()
    assert wide.differing([{D}, set()], load) == {A, B, D}
    assert load.asked == [], "two lines are kept"
    assert wide.differing([{F}, set()], load) == {A, B, C, E, F}
    assert load.asked, "three lines are walked"


@pytest.mark.parametrize(
    "other", [("m.room.member", "@b:a"), ("m.x", "@a:a"), ("m.room.member", None)]
)
def test_only_events_about_the_same_share_a_line(other: tuple[str, str | None]) -> None:
    #   a <- c <- d are about one thing, and b, about another, cites a before c does
    own = ("m.room.member", "@a:a")
    events = {A: bare(A, (), own), B: bare(B, (A,), other), C: bare(C, (A,), own)}
    events[D] = bare(D, (C,), own)
    load = Counted(loader(events))
    kept = AuthChains(lines_max=1)
    kept.differing([{B}, set()], load)
    kept.differing([{D}, set()], load)
    load.asked.clear()
    assert kept.differing([{D}, {B}], load) == {B, C, D}
    assert load.asked == [], "d's chain goes over one line"


def test_what_is_missing_is_reported_by_the_layer_and_nothing_is_half_placed() -> None:
    kept = AuthChains()
    with pytest.raises(MissingEvent) as caught:
        kept.differing([{D}, {A}], graph({D: (B, C), A: ()}))
    assert caught.value.event_ids == {B, C}
    assert len(kept) == 0
    assert kept.differing([{D}, {A}], GRAPH) == {B, C, D}


def test_an_event_that_cites_one_twice_or_itself_is_no_trouble() -> None:
    load = graph({A: (), B: (A, A), C: (C, A), D: (C,)})
    kept = AuthChains()
    assert kept.differing([{B}, set()], load) == {A, B}
    assert kept.differing([{D}, {B}], load) == {B, C, D}
    assert kept.between({C}, load) == {C}, "round to itself"
    assert kept.nearest({D, A}, load)[D] == {A}


def test_chains_may_be_longer_than_the_stack_and_are_no_wider_for_it() -> None:
    ids = [EventId(f"${number}") for number in range(5000)]
    edges: dict[EventId, tuple[EventId, ...]] = {ids[0]: ()}
    edges.update({after: (before,) for before, after in itertools.pairwise(ids)})
    load = Counted(graph(edges))
    kept = AuthChains(lines_max=1)
    assert len(kept.differing([{ids[-1]}, {ids[0]}], load)) == 4999
    load.asked.clear()
    assert len(kept.between({ids[0], ids[-1]}, load)) == 5000
    assert kept.nearest({ids[0], ids[-1]}, load) == {ids[-1]: [ids[0]], ids[0]: []}
    assert load.asked == []


@pytest.mark.parametrize("more", [0, -1])
def test_what_grew_past_the_limit_is_forgotten_when_trimmed(more: int) -> None:
    fresh = AuthChains()
    fresh.differing([{D}, {F}], GRAPH)
    kept = AuthChains(bytes_max=fresh.size_bytes + more)
    kept.differing([{D}, {F}], GRAPH)
    kept.trim()
    held = (6, fresh.size_bytes) if more == 0 else (0, 0)
    assert (len(kept), kept.size_bytes) == held
    assert kept.differing([{D}, {F}], GRAPH) == {C, D, E, F}
    kept.clear()
    assert len(kept) == 0


def test_mainlines_are_kept_and_forgotten_with_the_chains() -> None:
    lines = graph({A: (), B: (A,)}, LEVELS)
    kept = AuthChains(bytes_max=10_000)
    kept.mainlines.position(B, B, lines)
    assert (len(kept), len(kept.mainlines)) == (0, 2)
    assert kept.size_bytes > 0
    kept.trim()
    assert len(kept.mainlines) == 2
    kept.clear()
    assert (len(kept.mainlines), kept.size_bytes) == (0, 0)


@pytest.mark.parametrize("same", [True, False])
def test_the_size_it_tells_is_about_what_it_takes(same: bool) -> None:
    events = [bare(EventId(f"$levels{n}"), (), LEVELS) for n in range(50)]
    for n in range(3_000):
        # All cite the same, or each cites the one before and a few others.
        cited = [one.event_id for one in events[: 20 if same else n % 50]]
        cited += [] if same or n == 0 else [events[-1].event_id]
        key = ("m.room.member", f"@{n}:a" if same else "@a:a")
        events.append(bare(EventId(f"$member{n}"), tuple(cited), key))
    load = loader({event.event_id: event for event in events})
    starts = [event.event_id for event in events]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = AuthChains(lines_max=64)
        kept.differing([starts, ()], load)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    ids = sum(sys.getsizeof(event_id) for event_id in starts)
    assert taken < kept.size_bytes < 2 * (taken + ids)
