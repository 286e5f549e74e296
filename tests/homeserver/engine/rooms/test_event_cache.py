"""Events in memory: how many, what is known of those that aren't stored, and what is looked up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import orjson
import pytest

from federation.events.ids import EventId
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft
from federation.ports import StoredEvent
from homeserver import limits
from homeserver.engine.entries import event_bytes
from homeserver.engine.rooms.event_cache import EventMemory
from homeserver.engine.rooms.room import NotLoaded
from homeserver.storage.timeline.events import RoomEventRow
from tests.homeserver.engine.engine_world import ALICE, BOB, World, draft, in_memory, message
from tests.simulation.memory_store import MemoryEvents, MemoryStore, at_once
from tests.simulation.memory_tables import Tables

UNKNOWN = EventId("$unknown")


class LookedUp(MemoryEvents):
    """Notes which events are looked up. An answer is read before `gate`, and given after it."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables, at_once)
        self.looks: list[set[str]] = []
        self.raw_looks: list[list[str]] = []
        self.gate: asyncio.Event | None = None

    async def by_id(self, event_ids: Collection[str]) -> Sequence[RoomEventRow]:
        self.looks.append(set(event_ids))
        rows = await super().by_id(event_ids)
        if self.gate is not None:
            await self.gate.wait()
        return rows

    async def raw_by_id(self, event_ids: Collection[str]) -> Mapping[EventId, bytes]:
        self.raw_looks.append(list(event_ids))
        rows = await super().raw_by_id(event_ids)
        self.looks.clear()
        return rows


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with in_memory(_noting(Tables())) as made:
        yield made


def _noting(tables: Tables) -> MemoryStore:
    store = MemoryStore(tables)
    store.events = LookedUp(tables)
    return store


def cold(world: World) -> tuple[EventMemory, LookedUp]:
    """A memory with nothing in it over the world's store, and the looks from now on."""
    looked_up = world.engine.store.events
    assert isinstance(looked_up, LookedUp)
    looked_up.looks.clear()
    return EventMemory(world.engine.store), looked_up


# Events


async def test_an_event_is_looked_up_once(world: World) -> None:
    event_id = await world.say(await world.create_room(), "hello")
    memory, looked_up = cold(world)
    assert memory.known(event_id) is None
    with pytest.raises(NotLoaded) as needed:
        memory.cached_event(event_id)
    assert needed.value.event_id == event_id
    [known] = (await memory.events([event_id])).values()
    assert known.event.content["body"] == "hello"
    assert memory.known(event_id) is known
    assert memory.cached_event(event_id) is known.event
    assert await memory.events([event_id]) == {event_id: known}
    assert looked_up.looks == [{event_id}]
    memory.forget_event(event_id)
    assert memory.known(event_id) is None
    assert list(await memory.events([event_id])) == [event_id]
    assert looked_up.looks == [{event_id}, {event_id}]


async def test_what_is_not_stored_is_known_until_it_is(world: World) -> None:
    memory, looked_up = cold(world)
    assert await memory.events([UNKNOWN]) == {}
    assert await memory.events([UNKNOWN]) == {}
    assert looked_up.looks == [{UNKNOWN}]
    memory.stored([UNKNOWN])
    assert await memory.events([UNKNOWN]) == {}
    assert await memory.events([UNKNOWN]) == {}  # as its commit may be under way
    assert looked_up.looks == [{UNKNOWN}] * 3


async def test_a_look_that_began_before_a_commit_does_not_outlast_it(world: World) -> None:
    """Its answer was read before the event was stored, and comes after."""
    room_id = await world.create_room()
    join = await world.remote(room_id, draft("m.room.member", {"membership": "join"}, BOB, BOB))
    memory, looked_up = cold(world)
    looked_up.gate = asyncio.Event()
    early = asyncio.ensure_future(memory.events([join.event_id]))
    while not looked_up.looks:
        await asyncio.sleep(0)
    gate, looked_up.gate = looked_up.gate, None
    await world.engine.remote_event_writer.accept(join, Accepted())
    memory.stored([join.event_id])
    gate.set()
    assert await early == {}
    assert list(await memory.events([join.event_id])) == [join.event_id]


async def test_a_committed_event_is_remembered_without_a_look(world: World) -> None:
    room_id = await world.create_room()
    event = await world.remote(room_id, message("x", BOB))
    memory, looked_up = cold(world)
    assert await memory.events([event.event_id]) == {}
    known = StoredEvent(event)
    memory.remember(known, b'{"a":1}')
    assert await memory.events([event.event_id]) == {event.event_id: known}
    assert await memory.client_events([event.event_id]) == {event.event_id: b'{"a":1}'}
    assert memory.client(event.event_id) == b'{"a":1}'
    assert len(looked_up.looks) == 1
    memory.forget_event(event.event_id)
    assert (memory.known(event.event_id), memory.client(event.event_id)) == (None, None)


async def test_so_many_ids_of_events_that_are_not_stored_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENT_IDS_REMEMBERED", 10)
    memory, looked_up = cold(world)
    made_up = [EventId(f"${number}") for number in range(11)]
    await memory.events(made_up[:10])
    await memory.events(made_up[:10])
    assert looked_up.looks == [set(made_up[:10])]
    await memory.events(made_up[10:])
    await memory.events(made_up)
    assert looked_up.looks[2:] == [{"$0"}]


async def test_a_bound_in_bytes_holds_for_parsed_events(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await world.create_room()
    large = [await world.say(room_id, str(number) * 30_000) for number in range(3)]
    [one] = (await world.engine.rooms.events(large[:1])).values()
    monkeypatch.setattr(limits, "EVENT_CACHE_BYTES", int(2.5 * event_bytes(one.event)))
    memory, looked_up = cold(world)
    for event_id in large:
        await memory.events([event_id])
    assert [memory.known(event_id) is None for event_id in large] == [True, False, False]
    assert len(await memory.events(large)) == 3
    assert looked_up.looks[-1] == {large[0]}


# Other forms


async def test_events_for_clients_are_json_to_splice_into(world: World) -> None:
    room_id = await world.create_room()
    sent = [await world.say(room_id, body) for body in ("one", "two")]
    memory, looked_up = cold(world)
    assert memory.client(sent[0]) is None
    found = await memory.client_events([*sent, UNKNOWN])
    assert found.keys() == set(sent)
    for event_id, client in found.items():
        assert client.endswith(b"}")
        parsed = orjson.loads(client)
        assert (parsed["event_id"], parsed["type"]) == (event_id, "m.room.message")
        assert not {"unsigned", "hashes", "signatures", "auth_events"} & parsed.keys()
    assert await memory.client_events(sent) == found
    assert looked_up.looks == [{*sent, UNKNOWN}]


async def test_a_redacted_event_is_read_anew_in_each_form(world: World) -> None:
    room_id = await world.create_room()
    event_id = await world.say(room_id, "secret")
    memory = world.engine.rooms.memory
    assert b"secret" in (await memory.client_events([event_id]))[event_id]
    redaction = EventDraft("m.room.redaction", ALICE, {"redacts": event_id}, None, event_id)
    await world.engine.writer.send(room_id, redaction)
    [known] = (await memory.events([event_id])).values()
    assert known.event.content == {}
    assert b"secret" not in (await memory.client_events([event_id]))[event_id]
    assert b"secret" not in (await memory.raw([event_id]))[event_id]


async def test_events_for_other_servers_are_read_in_pieces_and_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_READ_AT_ONCE", 2)
    room_id = await world.create_room()
    sent = [await world.say(room_id, str(number)) for number in range(6)]
    memory, looked_up = cold(world)
    [known] = (await memory.events([sent[2]])).values()
    raws = await memory.raw([*sent, UNKNOWN])
    assert raws.keys() == set(sent)
    assert raws[sent[2]] == known.event.raw
    assert [orjson.loads(raws[one])["content"]["body"] for one in sent] == list("012345")
    assert [len(one) for one in looked_up.raw_looks] == [2, 2, 2]
    assert [memory.known(one) is None for one in sent] == [True, True, False, True, True, True]


async def test_an_auth_chain_is_all_that_an_event_rests_on(world: World) -> None:
    room_id = await world.create_room()
    state = (await world.room(room_id)).view.state
    said = await world.say(room_id, "x")
    create, alice, levels, rules = (
        state[f"m.room.{kind}", key].event_id
        for kind, key in [
            ("create", ""),
            ("member", "@alice:hs1"),
            ("power_levels", ""),
            ("join_rules", ""),
        ]
    )
    memory, _ = cold(world)
    chain = await memory.auth_chain([said, rules])
    # From version 12 on the room ID stands for the create event.
    assert chain.keys() == {alice, levels}
    assert chain.keys() == (await memory.auth_chain([said])).keys() - {create}
    assert await memory.auth_chain([create]) == {}
    assert await memory.auth_chain([UNKNOWN]) == {}
