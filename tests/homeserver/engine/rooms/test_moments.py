"""The states around events that decide who sees them: each event's own, wherever it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, StateKey, UserId
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft
from homeserver.engine.rooms.moments import Moments
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.timeline.visibility import Moment, membership_of, visibility_of
from tests.homeserver.engine.engine_world import ALICE, HS1, draft, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    DAVE,
    Graph,
    Here,
    ban,
    enter,
    here,
    room_of_bob,
    unban,
)
from tests.simulation.memory_store import MemoryStore

MEMBERS = [ALICE, BOB, CAROL, DAVE]


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


def opened(visibility: object) -> EventDraft:
    return draft("m.room.history_visibility", {"history_visibility": visibility}, "", sender=BOB)


def moment_of(graph: Graph, state: Mapping[StateKey, EventId], user: UserId) -> Moment:
    """What a state of the graph says."""
    member = state.get(("m.room.member", user))
    visibility = state.get(("m.room.history_visibility", ""))
    return Moment(
        visibility_of(None if visibility is None else graph.events[visibility].content),
        membership_of(None if member is None else graph.events[member].membership),
    )


async def check(server: Here, moments: Moments, events: Sequence[Event]) -> None:
    """The moments of all users around these events are as the graph has them."""
    graph, room = server.graph, await server.room()
    oracle = graph.oracle
    for user in MEMBERS:
        found = await moments.of_user(room, user, [one.event_id for one in events])
        assert found == {
            one.event_id: (
                moment_of(graph, oracle.before[one.event_id], user),
                moment_of(graph, oracle.after(one.event_id) or {}, user),
            )
            for one in events
        }


async def test_each_event_is_judged_by_its_own_state(server: Here) -> None:
    """In fetched history, on two branches, and after their merge."""
    graph = server.graph
    begun = graph.begin(BOB, opened("world_readable"), enter(DAVE))
    closed = graph.add(opened("joined"), graph.add(message("early", BOB), begun))
    join = await server.join(ALICE, graph.add(enter(CAROL), closed))
    history = [one for one in graph.events.values() if one is not join]
    await server.backfill(*history)
    await server.prove()
    left, right = graph.add(ban(CAROL), join), graph.add(opened("invited"), join)
    branches = [left, right, graph.add(message("left", BOB), left)]
    branches.append(graph.add(message("right", CAROL), right))
    merged = graph.add(message("both", BOB), *branches[2:])
    await server.accept(*branches, merged)
    events = [*history, join, *branches, merged]
    await check(server, server.engine.reader.moments, events)
    store = MemoryStore(server.tables)
    await check(server, Moments(store, Rooms(store, HS1)), events)  # nothing is in memory
    room = await server.room()
    assert await server.engine.reader.moments.visibility_now(room) == "invited"


async def test_behind_a_gap_the_state_that_was_told_counts_until_it_is_known(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    closed = graph.add(opened("joined"), last)
    said = graph.add(message("secret", CAROL), closed)
    told = graph.before([last])  # without the change
    assert await server.accept_with(said, told) == Accepted()
    moments, room = server.engine.reader.moments, await server.room()
    there = moment_of(graph, told, ALICE)
    assert there == Moment("shared", "join")
    assert await moments.of_user(room, ALICE, [said.event_id]) == {said.event_id: (there, there)}
    await server.accept(closed)
    await server.prove()
    await check(server, moments, [closed, said])


async def test_what_has_no_place_in_the_rooms_graph_is_left_out(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    outlier = graph.add(message("outlier", BOB), last)
    await server.engine.remote_event_writer.store_outliers([outlier], [])
    own_room, _ = await server.engine.writer.create(
        graph.version,
        [
            draft("m.room.create", {"room_version": "12"}, ""),
            draft("m.room.member", {"membership": "join"}, ALICE),
        ],
    )
    elsewhere = (await server.engine.writer.send(own_room, message("elsewhere"))).event_id
    moments, room = server.engine.reader.moments, await server.room()
    asked = [outlier.event_id, elsewhere, EventId("$unknown"), last.event_id]
    assert (await moments.around(room, asked)).keys() == {last.event_id}
    assert (await moments.of_user(room, ALICE, asked)).keys() == {last.event_id}
    assert await moments.of_user(room, ALICE, []) == {}


@pytest.mark.parametrize("visibility", ["everyone", None, 5, ["joined"], {"x": "joined"}])
async def test_a_visibility_that_is_not_understood_is_shared(
    server: Here, visibility: object
) -> None:
    last = await room_of_bob(server)
    odd = server.graph.add(opened(visibility), last)
    await server.accept(odd)
    moments, room = server.engine.reader.moments, await server.room()
    assert await moments.visibility_now(room) == "shared"
    found = await moments.of_user(room, BOB, [odd.event_id])
    assert found == {odd.event_id: (Moment("shared", "join"), Moment("shared", "join"))}


async def test_a_visibility_whose_event_is_lost_hides_events(server: Here) -> None:
    last = await room_of_bob(server)
    open_to_all = server.graph.add(opened("world_readable"), last)
    await server.accept(open_to_all)
    moments, room = server.engine.reader.moments, await server.room()
    assert await moments.visibility_now(room) == "world_readable"
    del server.tables.events[open_to_all.event_id]
    server.engine.rooms.memory.forget_event(open_to_all.event_id)
    assert await moments.visibility_now(room) == "joined"


async def test_no_state_is_built_to_find_its_deciding_keys(
    server: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await room_of_bob(server)
    events = [last]
    for what in (ban(CAROL), unban(CAROL), opened("joined")):
        events.append(server.graph.add(what, events[-1]))
    await server.accept(*events[1:])

    def build(*_: object) -> object:
        raise AssertionError("a whole state is built")

    monkeypatch.setattr(Rooms, "state_of", build)
    await check(server, server.engine.reader.moments, events)
