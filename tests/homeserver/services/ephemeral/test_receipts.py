"""Receipts and read markers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.ids import EventId, RoomId
from federation.graph.building import EventDraft
from homeserver.engine.entries import AccountDataEntry
from homeserver.services.ephemeral.receipts import EventOrders, Receipts
from homeserver.services.sync.ephemeral import receipt_events
from homeserver.storage.database import Database
from tests.homeserver.device_world import ALICE, ANNA, BOB, ROOM, THERE, Clock, Log, Rooms
from tests.homeserver.engine import engine_world, history_world

OTHER = RoomId("!other:here.test")


class World:
    def __init__(self, database: Database) -> None:
        self.database, self.log, self.rooms = database, Log(database), Rooms()
        self.clock = Clock()
        self.rooms.put(ROOM, ALICE, ANNA, BOB)
        self.rooms.put(OTHER, ANNA)
        self.receipts = self.make()

    def make(self) -> Receipts:
        made = Receipts(
            database=self.database,
            committer=self.log,
            rooms=self.rooms,
            clock=self.clock,
            position=self.log.position,
            order_of=self.order_of,
            is_in_thread=self.is_in_thread,
        )
        self.log.followers.append(made.on_commit)
        return made

    async def order_of(self, room_id: str, event_id: str) -> tuple[int, int] | None:
        """Events stand in the order of their names."""
        return None if event_id == "$unknown" else (ord(event_id[1]), 0)

    async def is_in_thread(self, _room_id: str, event_id: str, thread: str) -> bool:
        """$t is in the thread of $root, all others in none."""
        return thread == ("$root" if event_id == "$t" else "main")

    async def content(self, *, after: int = 0, viewer: Any = ANNA) -> Any:
        found = await self.receipts.since([ROOM], after=after, up_to=self.log.position)
        events = receipt_events(found.get(ROOM, ()), viewer)
        return orjson.loads(events[0])["content"] if events else {}


@pytest.fixture
async def world(device_database: Database) -> World:
    return World(device_database)


def remote(user: str, event_id: str = "$b", **data: Any) -> Any:
    return {ROOM: {"m.read": {user: {"event_ids": [event_id], "data": {"ts": 5, **data}}}}}


async def test_a_receipt_is_read_from_memory_and_after_a_restart_too(world: World) -> None:
    await world.receipts.send(ALICE, ROOM, "m.read", "$a")
    await world.receipts.send(ALICE, ROOM, "m.read", "$b", thread="main")
    expected = {
        "$a": {"m.read": {ALICE: {"ts": 1_000_000}}},
        "$b": {"m.read": {ALICE: {"ts": 1_000_000, "thread_id": "main"}}},
    }
    assert await world.content() == expected
    assert await world.content(after=1) == {"$b": expected["$b"]}
    world.receipts = world.make()
    assert await world.content() == expected
    assert await world.content(after=1) == {"$b": expected["$b"]}


async def test_the_latest_of_a_thread_replaces_the_one_before(world: World) -> None:
    await world.receipts.send(ALICE, ROOM, "m.read", "$a")
    await world.receipts.send(ALICE, ROOM, "m.read", "$b")
    world.receipts = world.make()
    assert list(await world.content()) == ["$b"]


async def test_private_receipts_are_for_their_user_alone(world: World) -> None:
    await world.receipts.send(ALICE, ROOM, "m.read.private", "$a")
    assert await world.content(viewer=ANNA) == {}
    assert list(await world.content(viewer=ALICE)) == ["$a"]


@pytest.mark.parametrize(
    ("kind", "event_id", "thread"),
    [
        ("m.unknown", "$a", None),
        ("m.read", "a", None),
        ("m.read", "$a\0", None),
        ("m.read", "$" + "a" * 255, None),
        ("m.read", "$a", ""),
        ("m.read", "$a", "thread"),
        ("m.read", "$a", 5),
        ("m.fully_read", "$a", "main"),
    ],
)
async def test_what_isnt_a_receipt_is_refused(
    world: World, kind: str, event_id: str, thread: Any
) -> None:
    with pytest.raises(MatrixError) as caught:
        await world.receipts.send(ALICE, ROOM, kind, event_id, thread=thread)
    assert caught.value.status == 400
    assert world.log.position == 0


async def test_only_who_is_joined_sends_receipts(world: World) -> None:
    for room_id in (OTHER, RoomId("!none:here.test")):
        with pytest.raises(MatrixError, match="M_FORBIDDEN"):
            await world.receipts.send(ALICE, room_id, "m.read", "$a")


async def test_read_markers_set_several_at_once(world: World) -> None:
    markers = {"m.fully_read": "$a", "m.read": "$b", "m.read.private": "$c"}
    await world.receipts.set_markers(ALICE, ROOM, markers)
    (marker,) = world.log.of_kind(AccountDataEntry)
    assert (marker.room_id, marker.type) == (ROOM, "m.fully_read")
    assert orjson.loads(marker.content) == {"event_id": "$a"}
    assert sorted(await world.content(viewer=ALICE)) == ["$b", "$c"]
    with pytest.raises(MatrixError):
        await world.receipts.set_markers(ALICE, ROOM, {"m.read": 5})


async def test_a_server_speaks_for_its_own_users_in_its_rooms(world: World) -> None:
    await world.receipts.receive(THERE, remote(BOB))
    await world.receipts.receive(THERE, remote(ALICE))
    await world.receipts.receive(THERE, {OTHER: remote(BOB)[ROOM]})
    wrong: list[Any] = [remote(BOB, "x"), remote(BOB, ts=-1), remote(BOB, thread_id=5), {ROOM: []}]
    for bad in wrong:
        await world.receipts.receive(THERE, bad)
    assert await world.content() == {"$b": {"m.read": {BOB: {"ts": 5}}}}
    assert world.log.position == 1


async def test_a_receipt_does_not_go_backwards(world: World) -> None:
    await world.receipts.send(ALICE, ROOM, "m.read", "$b")
    for older in ("$a", "$b"):
        await world.receipts.send(ALICE, ROOM, "m.read", older)
    assert world.log.position == 1
    await world.receipts.send(ALICE, ROOM, "m.read", "$a", thread="main")
    await world.receipts.set_markers(ALICE, ROOM, {"m.read": "$a", "m.fully_read": "$a"})
    assert world.log.position == 3, "each thread has its own; the marker is free to move"
    await world.receipts.send(ALICE, ROOM, "m.read", "$c")
    content = await world.content()
    assert content["$c"] == {"m.read": {ALICE: {"ts": 1_000_000}}}


async def test_a_receipt_is_for_an_event_of_the_room(world: World) -> None:
    with pytest.raises(MatrixError) as caught:
        await world.receipts.send(ALICE, ROOM, "m.read", "$unknown")
    assert (caught.value.status, caught.value.errcode) == (404, "M_NOT_FOUND")
    assert world.log.position == 0


async def test_users_of_others_who_are_not_joined_are_not_heard(world: World) -> None:
    await world.receipts.receive(THERE, remote(f"@ghost:{THERE}"))
    assert world.log.position == 0


async def test_a_receipt_in_a_thread_is_for_an_event_of_it(world: World) -> None:
    for event_id, thread in (("$t", "main"), ("$a", "$root")):
        with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
            await world.receipts.send(ALICE, ROOM, "m.read", event_id, thread=thread)
    assert world.log.position == 0
    right: list[tuple[str, object]] = [("$t", "$root"), ("$a", "main"), ("$a", None), ("$t", None)]
    for event_id, in_thread in right:
        await world.receipts.send(ALICE, ROOM, "m.read", event_id, thread=in_thread)
    assert world.log.position == 4


def related(body: str, target: str, kind: str) -> EventDraft:
    """A message with a relation."""
    draft = engine_world.message(body, history_world.BOB)
    return replace(
        draft,
        content={**draft.content, "m.relates_to": {"rel_type": kind, "event_id": target}},
    )


async def test_events_are_in_a_thread_by_their_relations() -> None:
    """Those of relations too, for three hops; a root is in its thread, and in the main timeline."""
    async with history_world.here() as server:
        graph, engine = server.graph, server.engine
        last = await server.join(engine_world.ALICE, graph.begin(history_world.BOB))
        said: list[EventId] = []
        drafts: list[Callable[[], EventDraft]] = [
            lambda: engine_world.message("root", history_world.BOB),
            lambda: related("in it", said[0], "m.thread"),
            *(lambda: related("of the last", said[-1], "m.annotation") for _ in range(4)),
            lambda: related("of the root", said[0], "m.replace"),
            lambda: related("of nothing", "$unknown", "m.reference"),
            lambda: EventDraft("m.room.message", history_world.BOB, {}),
        ]
        for make in drafts:
            last = graph.add(make(), last)
            await server.accept(last)
            said.append(last.event_id)
        orders = EventOrders(engine.rooms, engine.reader)

        async def is_in(number: int, thread: str) -> bool:
            return await orders.is_in_thread(server.room_id, said[number], thread)

        root = said[0]
        assert [await is_in(n, root) for n in range(7)] == [True] * 5 + [False, False]
        assert [await is_in(n, "main") for n in range(7)] == [True, *[False] * 4, True, True]
        for thread in ("main", root, "$other"):
            assert await is_in(7, thread), "nobody here knows"
            assert await is_in(8, thread), "as after a redaction"
        assert not await is_in(1, "$other")


async def test_the_order_of_events_is_that_of_their_room() -> None:
    """An event without a place in room order, or of an unknown room, has none."""
    async with history_world.here() as server:
        graph, engine = server.graph, server.engine
        created = graph.begin(history_world.BOB)
        joined = await server.join(engine_world.ALICE, created)
        said = graph.add(engine_world.message("hello", history_world.BOB), joined)
        await server.accept(said)
        orders = EventOrders(engine.rooms, engine.reader)
        first = await orders.order_of(server.room_id, joined.event_id)
        second = await orders.order_of(server.room_id, said.event_id)
        assert first is not None
        assert second is not None
        assert first < second
        assert await orders.order_of(server.room_id, created.event_id) is None, "an outlier"
        assert await orders.order_of(server.room_id, EventId("$unknown")) is None
        assert await orders.order_of(RoomId("!unknown:hs2"), said.event_id) is None
