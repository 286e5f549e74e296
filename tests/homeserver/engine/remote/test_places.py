"""Places of fetched history in room order."""

from __future__ import annotations

import random

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from homeserver.engine.remote.places import SPACING, Ends, ends_of, places_between
from tests.homeserver.engine.engine_world import message
from tests.homeserver.engine.history_world import BOB, Graph


def diamond() -> tuple[Event, Event, Event, Event]:
    graph = Graph()
    bottom = graph.begin()
    left = graph.add(message("left", BOB), bottom)
    right = graph.add(message("right", BOB), bottom)
    return bottom, left, right, graph.add(message("top", BOB), left, right)


def test_an_event_with_known_ancestors_has_both_ends() -> None:
    bottom, left, right, top = diamond()
    ends = ends_of(
        [left, right], stored={bottom.event_id: (1, 0)}, children={left.event_id: (5, 0)}
    )
    assert ends[left.event_id] == Ends((1, 0), (5, 0), is_closed=True)
    assert ends[right.event_id] == Ends((1, 0), None, is_closed=True)
    assert top.event_id not in ends


def test_one_above_a_gap_has_only_what_descends_from_it() -> None:
    bottom, left, right, top = diamond()
    children: dict[EventId, tuple[int, int]] = {top.event_id: (9, 0), right.event_id: (7, -3)}
    ends = ends_of([left, right, top], stored={}, children=children)
    assert ends[top.event_id] == Ends(None, (9, 0), is_closed=False)
    assert ends[left.event_id] == Ends(None, (9, 0), is_closed=False)
    assert ends[right.event_id] == Ends(None, (7, -3), is_closed=False), "the lowest counts"
    assert bottom.event_id not in ends


def test_the_beginning_of_a_room_is_closed_without_ancestors() -> None:
    graph = Graph()
    graph.begin()
    [create] = [one for one in graph.events.values() if not one.prev_events]
    ends = ends_of([create], stored={}, children={})
    assert ends[create.event_id] == Ends(None, None, is_closed=True)


def test_places_below_a_live_event_are_spaced() -> None:
    assert places_between((4, 0), (5, 0), 2) == [(5, -2 * SPACING), (5, -SPACING)]
    assert places_between(None, (5, -SPACING), 1) == [(5, -2 * SPACING)]


def test_places_between_two_under_one_live_event_divide_what_is_free() -> None:
    assert places_between((5, -20), (5, -10), 4) == [(5, -18), (5, -16), (5, -14), (5, -12)]
    assert places_between((5, -12), (5, -10), 1) == [(5, -11)]


def test_without_room_there_are_none() -> None:
    assert places_between((5, -12), (5, -11), 1) is None
    assert places_between((5, -20), (5, -10), 10) is None
    assert places_between((5, -21), (5, -10), 10) is not None


@pytest.mark.parametrize("seed", range(50))
def test_places_ascend_strictly_between_their_ends(seed: int) -> None:
    rng = random.Random(seed)
    n, high = rng.randrange(1, 9), -rng.randrange(0, 2**30)
    low = (n, high - rng.randrange(1, 2**24)) if rng.random() < 0.7 else (n - 1, 0)
    count = rng.randrange(1, 100)
    places = places_between(low, (n, high), count)
    if places is None:
        assert low[0] == n
        assert high - low[1] - 1 < count
        return
    assert len(places) == count
    assert [low, *places, (n, high)] == sorted({low, *places, (n, high)})


def test_a_gap_can_be_halved_about_twenty_times() -> None:
    low, high = (5, -SPACING), (5, 0)
    times = 0
    while (places := places_between(low, high, 1)) is not None:
        low = places[0]
        times += 1
    assert times == 20
