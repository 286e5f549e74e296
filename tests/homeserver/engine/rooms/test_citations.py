"""Which events are in the chains of what is agreed on: by the index, by a scan, and by a walk."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, StateKey, UserId
from federation.events.room_versions import room_version
from federation.graph.resolution.chains import auth_chain, loader
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.log.staging import empty_view
from homeserver.engine.rooms.citations import CitationIndex, Scan, cited_first
from homeserver.engine.rooms.room import Room

V11 = room_version("11")


def event(number: int, cites: Sequence[int] = (), *, is_state: bool = True) -> Event:
    return Event(
        event_id=EventId(f"${number}"),
        room_id=RoomId("!r:a"),
        type="m.x",
        sender=UserId("@u:a"),
        state_key=str(number % 5) if is_state else None,
        content={},
        prev_events=(),
        auth_events=tuple(EventId(f"${one}") for one in cites),
        depth=number,
        origin_server_ts=number,
        redacts=None,
        version=V11,
        raw=b"",
    )


def random_events(rng: random.Random) -> list[Event]:
    """Each cites some that came before it."""
    return [
        event(number, rng.sample(range(number), min(number, rng.randrange(4))))
        for number in range(40)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_index_and_scan_answer_as_a_walk_down_from_the_state(seed: int) -> None:
    rng = random.Random(seed)
    events = random_events(rng)
    held: dict[StateKey, EventId] = {}
    for one in rng.sample(events, 20):
        held[one.key] = one.event_id
    load = loader({one.event_id: one for one in events})
    chain = auth_chain(held.values(), load)

    def holds(key: StateKey, event_id: EventId) -> bool:
        return held.get(key) == event_id

    first = rng.randrange(40)
    index = CitationIndex(rng.sample(events[first:], len(events) - first))
    asked = [one.event_id for one in events[first:]]
    expected = {event_id for event_id in asked if event_id in chain}
    assert index.reached(asked, holds) == expected
    for single in asked:
        assert index.reached([single], holds) == expected & {single}
    scan = Scan(asked, holds)
    for start in range(first, 40, 7):
        scan.look_at(events[start : start + 7])
    assert scan.reached == expected
    assert scan.is_over == (len(expected) == len(asked))


def test_a_message_and_a_repeat_do_not_enter_the_index() -> None:
    index = CitationIndex([event(1), event(2, [1]), event(2, [1]), event(3, is_state=False)])
    assert len(index) == 2
    assert EventId("$3") not in index
    assert index.bytes == 2 * CitationIndex([event(1)]).bytes > 0


def room_of(events: Sequence[Event]) -> Room:
    room = Room(RoomId("!r:a"), 1, V11, empty_view(1))
    room.cite(events)
    return room


def test_an_index_at_its_bound_is_kept_and_one_past_it_starts_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ROOM_CITING_EVENTS", 10)
    room = room_of([event(number) for number in range(9)])
    room.stage(StoredEvent(event(9)), 9)
    assert len(room.citations) == 10
    assert room.bytes > room_of([]).bytes
    room.cite([event(10)])
    assert EventId("$9") in room.citations, "what is staged can't be read from the store"
    assert len(room.citations) == 1


def test_a_failed_batch_leaves_no_staged_row_numbers() -> None:
    room = room_of([])
    room.stage(StoredEvent(event(1)), 7)
    assert room.staged_refs[EventId("$1")].row_id == 7
    room.discard_staged()
    assert not room.staged_refs
    room.stage(StoredEvent(event(1)), 8)
    assert room.unstage(EventId("$1")) is not None
    assert not room.staged_refs


@pytest.mark.parametrize("seed", range(10))
def test_events_come_after_those_that_they_cite(seed: int) -> None:
    rng = random.Random(seed)
    events = random_events(rng)
    rng.shuffle(events)
    ordered = cited_first(events)
    assert sorted(ordered, key=lambda one: one.depth) == sorted(events, key=lambda one: one.depth)
    at = {one.event_id: index for index, one in enumerate(ordered)}
    assert all(at[cited] < at[one.event_id] for one in events for cited in one.auth_events)


def test_claimed_ids_that_cite_each_other_come_last() -> None:
    ordered = cited_first([event(1, [2]), event(2, [1]), event(3)])
    assert [one.event_id for one in ordered] == ["$3", "$1", "$2"]


def test_what_is_found_out_for_one_event_serves_the_others() -> None:
    """On a long line of events, each of which cites the one before."""
    line = [event(0), *(event(number, [number - 1]) for number in range(1, 300))]
    index = CitationIndex(line)
    for held in (None, line[-1].event_id):
        looks = 0

        def holds(key: StateKey, event_id: EventId, held: EventId | None = held) -> bool:
            nonlocal looks
            looks += 1
            return event_id == held

        ids = [one.event_id for one in line]
        assert index.reached(ids, holds) == (set() if held is None else set(ids[:-1]))
        assert looks <= 2 * len(line)
        looks = 0
        index.reached(ids[::-1], holds)
        assert looks <= 2 * len(line)
