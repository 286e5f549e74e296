"""Rooms are loaded whole, and older states without loading again what is in memory."""

from __future__ import annotations

import pytest

from federation.events.ids import EventId
from federation.events.room_versions import room_version
from homeserver import limits
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import state_of
from tests.federation.graph.large_room import LEVELS, LargeRoom
from tests.homeserver.engine.large_engine_room import HERE, large_world, message


async def test_a_link_is_loaded_once_however_many_chains_lead_through_it() -> None:
    large = LargeRoom(room_version("12"), 30)
    async with large_world(large) as world:
        room = await world.room()
        parent = room.view.heads[0].event_id
        kept = [room.view]
        for kind in ("m.one", "m.two"):
            events = large.beside([lambda kind=kind: large.add(kind, "", {}, cites=(LEVELS,))])
            parent = await world.branch(events, parent)
            kept.append(room.view)
        rooms = Rooms(world.store, HERE)
        world.looks.clear()
        chains = [await rooms.loader.chain(room.row_id, view.chain[-1].row_id) for view in kept]
        assert [state_of(chain) for chain in chains] == [view.state for view in kept]
        assert all(chain[0] is chains[0][0] for chain in chains)
        assert world.looks == ["chains", "refs"] * 3
        whole, *ends = [len(chain[-1].delta) for chain in chains]
        assert whole > 30
        assert ends == [1, 2]
        world.looks.clear()
        again = await rooms.loader.chain(room.row_id, kept[1].chain[-1].row_id)
        assert again is chains[1]
        assert world.looks == []


@pytest.mark.parametrize("sent", [5, 25])
async def test_what_the_bytes_of_a_loaded_room_leave_out_is_read_from_the_store(
    sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = LargeRoom(room_version("12"), 10)
    async with large_world(large) as world:
        head = (await world.room()).view.heads[0].event_id
        start = (await world.room()).view.position
        ids: list[EventId] = []
        for number in range(sent):
            head = (await world.accept(message(large, number), [head])).event_id
            ids.append(head)
        size = max(event_entry(one).size for one in (await world.room()).ring)
        monkeypatch.setattr(limits, "ROOM_RING_BYTES", 3 * size)
        rooms = Rooms(world.store, HERE)
        room = await rooms.get(large.room_id)
        assert room is not None
        assert len(room.ring) < 5
        for count in (1, 3, min(10, sent), sent):
            part = await Reader(world.store, rooms).newest(
                room, after=start + sent - count, up_to=room.view.position, limit=100
            )
            assert [event_entry(one).event.event_id for one in part.events] == ids[-count:]
