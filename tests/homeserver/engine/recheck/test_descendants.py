"""Children and citing events, read page by page, with what is staged in the meantime."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.admission import Rejected
from homeserver import limits
from homeserver.engine.recheck.descendants import Descendants
from tests.homeserver.engine.engine_world import message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    Here,
    ban,
    here,
    room_of_bob,
    topic,
    unban,
)
from tests.simulation.memory_store import MemoryStore


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


async def descendants_of(server: Here) -> Descendants:
    return Descendants(MemoryStore(server.tables), await server.room())


def children(server: Here, event: Event) -> set[EventId]:
    """The events of the graph that name it as their parent."""
    events = server.graph.events.values()
    return {one.event_id for one in events if event.event_id in one.prev_events}


def citing(server: Here, event: Event) -> set[EventId]:
    """The events of the graph that cite it."""
    events = server.graph.events.values()
    return {one.event_id for one in events if event.event_id in one.auth_events}


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_all_edges_are_found_however_they_are_paged(
    server: Here, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(limits, "RECHECK_SCAN_EVENTS", page)
    graph, last = server.graph, await room_of_bob(server)
    left, right = graph.add(message("left", CAROL), last), graph.add(topic("right", BOB), last)
    await server.accept(left, right, graph.add(message("both", BOB), left, right))
    found = await descendants_of(server)
    events = list(graph.events.values())
    await found.read([one.event_id for one in events])
    for event in events:
        assert found.children(event.event_id) == children(server, event), event.type
        assert found.citing(event.event_id) == citing(server, event), event.type
    assert found.children(EventId("$unknown")) == found.citing(EventId("$unknown")) == set()


async def test_it_answers_for_what_was_read(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    create, join = list(graph.events.values())[:2]
    found = await descendants_of(server)
    assert not found.covers([])
    await found.read([])
    assert found.covers([])
    assert not found.covers([join.event_id])
    assert found.citing(join.event_id) == set()
    await found.read([join.event_id])
    assert found.covers([join.event_id])
    assert not found.covers([join.event_id, last.event_id])
    assert found.citing(join.event_id) == citing(server, join) != set()
    assert found.children(create.event_id) == {join.event_id}


async def test_events_without_a_place_have_no_edges(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    outlier = graph.add(message("outlier", BOB), last)
    await server.engine.remote_event_writer.store_outliers([outlier], [])
    banned = graph.add(ban(CAROL), last)
    rejected = graph.add(message("rejected", CAROL), banned)
    await server.accept(banned)
    assert isinstance(await server.accept(rejected), Rejected)
    found = await descendants_of(server)
    await found.read([])
    assert found.children(last.event_id) == {banned.event_id}
    assert found.children(banned.event_id) == {rejected.event_id}  # it may be allowed after all


async def test_what_is_staged_since_the_reading_began_is_added_under_the_lock(
    server: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page is read without the lock: an event may be staged behind the page it would be on."""
    monkeypatch.setattr(limits, "RECHECK_SCAN_EVENTS", 2)
    graph, last = server.graph, await room_of_bob(server)
    join = next(one for one in graph.events.values() if one.state_key == CAROL)
    banned = graph.add(ban(CAROL), last)
    allowed = graph.add(unban(CAROL), banned)
    room, found = await server.room(), await descendants_of(server)
    await found.read([join.event_id, banned.event_id])
    await server.accept(banned, allowed)
    assert found.children(last.event_id) == set()
    found.catch_up()
    found.catch_up()
    assert found.children(last.event_id) == {banned.event_id}
    assert found.children(banned.event_id) == {allowed.event_id}
    assert found.citing(join.event_id) == citing(server, join)
    assert found.citing(banned.event_id) == {allowed.event_id}
    await found.read([])  # what was noted is kept
    assert [one.event_id for one in room.watched or ()] == [banned.event_id, allowed.event_id]


async def test_an_event_that_comes_between_two_pages_is_not_lost(
    server: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECHECK_SCAN_EVENTS", 3)
    graph, last = server.graph, await room_of_bob(server)
    store = MemoryStore(server.tables)
    pages, with_place = 0, store.events.with_place
    late: list[Event] = []

    async def page(room_row_id: int, *, after: int, limit: int) -> object:
        nonlocal pages
        rows = await with_place(room_row_id, after=after, limit=limit)
        pages += 1
        if pages <= 4:
            late.append(graph.add(message(str(pages), BOB), late[-1] if late else last))
            await server.accept(late[-1])
        return rows

    monkeypatch.setattr(store.events, "with_place", page)
    found = Descendants(store, await server.room())
    await found.read([])
    assert pages >= 3
    found.catch_up()
    for event in graph.events.values():
        assert found.children(event.event_id) == children(server, event)
