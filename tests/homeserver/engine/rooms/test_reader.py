"""A room's history: the same from memory as from the store, in room order and by log position."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.admission import Accepted, Rejected
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from homeserver import limits
from homeserver.engine.entries import AccountDataEntry, Placed
from homeserver.engine.rooms.reader import BEGINNING, END, Order, Reader, event_entry
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.rooms import Rooms
from tests.homeserver.engine.engine_world import ALICE, BOB, HS1, World, draft, in_memory, message
from tests.homeserver.engine.history_world import CAROL, Here, here, room_of_bob
from tests.simulation.memory_store import MemoryStore

RING = 6
UNKNOWN = EventId("$unknown")


@dataclass
class History:
    """A room of ALICE, and what should be read of it: its events in order, with their places."""

    world: World
    room: Room
    events: list[tuple[int, Order, EventId]]

    @property
    def end(self) -> int:
        """The newest position."""
        return self.events[-1][0]

    async def readers(self) -> list[tuple[Reader, Room]]:
        """One with the newest events in memory, and one with none."""
        cold = Rooms(self.world.engine.store, HS1)
        room = await cold.get(self.room.room_id)
        assert room is not None
        room.ring.clear()
        room.ring_start = room.changes_start = room.view.position
        return [
            (self.world.engine.reader, self.room),
            (Reader(self.world.engine.store, cold), room),
        ]


@pytest.fixture
async def history(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[History]:
    """Ten events of ALICE in a room, six of them in memory. Between them in the log are those of
    another room."""
    monkeypatch.setattr(limits, "ROOM_RING_EVENTS", RING)
    async with in_memory() as world:
        other = await world.create_room()
        room_id = await world.create_room()
        for number in range(3):
            await world.say(room_id, str(number))
            await world.say(other, "elsewhere")
            topic = draft("m.room.topic", {"topic": str(number)}, "")
            await world.engine.writer.send(room_id, topic)
        log = [(one.position, event_entry(one)) for one in world.engine.committer.tail.since(0)]
        events = [
            (position, entry.order, entry.event.event_id)
            for position, entry in log
            if entry.room_id == room_id
        ]
        yield History(world, await world.room(room_id), events)


def ids(placed: Sequence[Placed]) -> list[EventId]:
    return [event_entry(one).event.event_id for one in placed]


# By log position


async def test_the_newest_events_of_a_range_are_the_same_from_memory_and_store(
    history: History,
) -> None:
    assert len(history.room.ring) == RING < len(history.events)
    for reader, room in await history.readers():
        for after in range(history.end + 2):
            for up_to in (after, after + 3, history.end, history.end + 5):
                for limit in (1, 3, 100):
                    found = await reader.newest(room, after=after, up_to=up_to, limit=limit)
                    whole = [one for one in history.events if after < one[0] <= up_to]
                    expected = whole[-limit:]
                    read = zip(
                        (one.position for one in found.events), ids(found.events), strict=True
                    )
                    assert list(read) == [(one[0], one[2]) for one in expected], (after, up_to)
                    assert found.limited == (len(whole) > limit)
                    first = expected[0][1] if expected else (room.view.live_index + 1, 0)
                    assert found.prev == first


async def test_the_place_at_a_position_is_that_of_the_newest_event_there(
    history: History,
) -> None:
    for reader, room in await history.readers():
        for position in range(history.end + 3):
            before = [order for at, order, _ in history.events if at <= position]
            expected = before[-1] if before else BEGINNING
            assert await reader.order_at(room, position) == expected, position


async def test_changes_of_state_are_the_same_from_memory_and_store(history: History) -> None:
    [(reader, room), (cold, cold_room)] = await history.readers()
    whole = await cold.changes(cold_room, after=0, up_to=history.end)
    kinds = ["create", "member", "power_levels", "join_rules", "topic", "topic", "topic"]
    assert [change.key[0] for _, change in whole] == [f"m.room.{kind}" for kind in kinds]
    _, join = whole[1]
    assert (join.key[1], join.membership, join.former) == (ALICE, "join", None)
    for after in range(history.end + 2):
        for up_to in range(after, history.end + 2):
            expected = [one for one in whole if after < one[0] <= up_to]
            assert await reader.changes(room, after=after, up_to=up_to) == expected
            assert await cold.changes(cold_room, after=after, up_to=up_to) == expected


async def test_events_read_after_a_restart_do_not_tell_what_they_changed(history: History) -> None:
    store = history.world.engine.store
    cold = Rooms(store, HS1)
    room = await cold.get(history.room.room_id)
    assert room is not None
    assert len(room.ring) > 1
    found = await Reader(store, cold).changes(room, after=room.ring_start, up_to=history.end)
    warm = history.world.engine.reader
    assert found == await warm.changes(history.room, after=room.ring_start, up_to=history.end)
    assert [change.key[0] for _, change in found][-3:] == ["m.room.topic"] * 3


# In room order


async def test_pages_lead_through_the_room_both_ways(history: History) -> None:
    events = [(order, event_id) for _, order, event_id in history.events]
    for reader, room in await history.readers():
        for start in [BEGINNING, END, *(order for order, _ in events)]:
            newer = [event_id for order, event_id in events if order > start]
            older = [event_id for order, event_id in reversed(events) if order < start]
            for limit in (1, 4, 50):
                forwards = await reader.page(room, start=start, backwards=False, limit=limit)
                backwards = await reader.page(room, start=start, backwards=True, limit=limit)
                assert ids(forwards) == newer[:limit]
                assert ids(backwards) == older[:limit]


async def test_a_page_ends_before_the_place_to_stop_at(history: History) -> None:
    [(reader, room), _] = await history.readers()
    orders = [order for _, order, _ in history.events]
    names = [event_id for _, _, event_id in history.events]
    forwards = await reader.page(room, start=orders[2], stop=orders[5], backwards=False, limit=50)
    assert ids(forwards) == names[3:5]
    backwards = await reader.page(room, start=orders[5], stop=orders[2], backwards=True, limit=50)
    assert ids(backwards) == names[3:5][::-1]
    nothing = await reader.page(room, start=orders[5], stop=orders[5], backwards=True, limit=50)
    assert nothing == []


async def test_what_is_committed_but_not_yet_published_is_not_shown(history: History) -> None:
    """The store has an event before memory is told of its commit."""
    [_, (reader, room)] = await history.readers()
    seen = room.view.position
    await history.world.say(room.room_id, "later")
    assert room.view.position == seen
    page = await reader.page(room, start=BEGINNING, backwards=False, limit=50)
    assert ids(page) == [event_id for _, _, event_id in history.events]
    newest = history.events[-1][1]
    assert await reader.page(room, start=newest, backwards=False, limit=50) == []


async def test_an_event_is_found_in_its_own_room_only(history: History) -> None:
    other = await history.world.create_room()
    elsewhere = await history.world.say(other, "elsewhere")
    wanted = [one[2] for one in history.events]
    for reader, room in await history.readers():
        found = await reader.places(room, [*wanted, UNKNOWN, elsewhere])
        assert found.keys() == set(wanted)
        for position, order, event_id in history.events:
            one = found[event_id]
            assert (one.position, event_entry(one).order) == (position, order)
            assert await reader.place(room, event_id) == one
        assert await reader.place(room, elsewhere) is None
        assert await reader.place(room, UNKNOWN) is None
        assert await reader.places(room, []) == {}


async def test_an_event_without_a_place_is_not_released(history: History) -> None:
    world, room = history.world, history.room
    join = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
    joined = await world.remote(room.room_id, join)
    writer = world.engine.remote_event_writer
    await writer.accept(joined, Accepted())
    rejected, outlier = [
        await world.remote(room.room_id, message(body, BOB)) for body in ("rejected", "outlier")
    ]
    await writer.accept(rejected, Rejected(AuthFailure(AuthRule.LEVEL_TOO_LOW, "no")))
    await writer.store_outliers([outlier], [])
    reader = world.engine.reader
    found = await reader.places(room, [one.event_id for one in (joined, rejected, outlier)])
    assert found.keys() == {joined.event_id}
    newest = await reader.newest(room, after=history.end, up_to=history.end + 9, limit=9)
    assert ids(newest.events) == [joined.event_id]


def test_a_timeline_holds_events_alone() -> None:
    with pytest.raises(AssertionError):
        event_entry(Placed(1, AccountDataEntry(ALICE, "", "m.x", b"{}")))


# Gaps and fetched history


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


async def above_gap(server: Here, last: Event) -> tuple[Event, Event]:
    """An event that isn't here, and a message of CAROL on it that is."""
    missing = server.graph.add(message("missing", BOB), last)
    said = server.graph.add(message("after a gap", CAROL), missing)
    assert await server.accept_with(said, server.graph.state_before(said)) == Accepted()
    return missing, said


async def test_missing_events_are_told_from_the_nearest_on(server: Here) -> None:
    last = await room_of_bob(server)
    one, above_one = await above_gap(server, last)
    two, above_two = await above_gap(server, above_one)
    reader, room = server.engine.reader, await server.room()
    places = await reader.places(room, [above_one.event_id, above_two.event_id])
    lower, upper = (event_entry(places[it.event_id]).order for it in (above_one, above_two))
    assert lower < upper
    assert await reader.gaps(room, END) == [two.event_id, one.event_id]
    assert await reader.gaps(room, END, limit=1) == [two.event_id]
    assert await reader.gaps(room, upper) == [two.event_id, one.event_id]
    assert await reader.gaps(room, lower) == [one.event_id]
    assert await reader.gaps(room, (lower[0], lower[1] - 1)) == []
    assert await reader.gap_places(room, END, 5) == [upper, lower]
    assert await reader.gap_places(room, lower, 5) == [lower]
    assert await reader.gap_places(room, BEGINNING, 5, backwards=False) == [lower, upper]
    assert await reader.gap_places(room, upper, 5, backwards=False) == [upper]
    found = await reader.at_places(room, [upper, lower, (upper[0] + 1, 0), (lower[0], -1)])
    assert [event.event_id for event in found] == [above_two.event_id, above_one.event_id]


async def test_several_missing_parents_of_an_event_are_one_place(server: Here) -> None:
    last = await room_of_bob(server)
    parents = [server.graph.add(message(str(number), CAROL), last) for number in range(3)]
    said = server.graph.add(message("on all of them", CAROL), *parents)
    assert await server.accept_with(said, server.graph.state_before(said)) == Accepted()
    reader, room = server.engine.reader, await server.room()
    assert set(await reader.gaps(room, END)) == {one.event_id for one in parents}
    [place] = await reader.gap_places(room, END, 5)
    assert [one.event_id for one in await reader.at_places(room, [place])] == [said.event_id]


async def test_fetched_history_has_a_place_and_no_position(server: Here) -> None:
    last = await room_of_bob(server)
    missing, said = await above_gap(server, last)
    end = server.engine.committer.position
    await server.backfill(missing)
    reader, room = server.engine.reader, await server.room()
    places = await reader.places(room, [missing.event_id, said.event_id])
    below, above = places[missing.event_id], places[said.event_id]
    assert (below.position, above.position) == (-1, end)
    assert event_entry(below).order < event_entry(above).order
    page = await reader.page(room, start=END, backwards=True, limit=2)
    assert ids(page) == [said.event_id, missing.event_id]
    store = MemoryStore(server.tables)
    cold = Rooms(store, HS1)
    cold_room = await cold.get(server.room_id)
    assert cold_room is not None
    for again, of in ((reader, room), (Reader(store, cold), cold_room)):
        whole = await again.page(of, start=BEGINNING, backwards=False, limit=99)
        assert ids(whole)[-2:] == [missing.event_id, said.event_id]
        newest = await again.newest(of, after=0, up_to=end, limit=99)
        assert missing.event_id not in ids(newest.events)  # it is no news to a client
