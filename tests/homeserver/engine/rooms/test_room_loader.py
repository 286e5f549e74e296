"""Older states of a room are loaded without loading again what is in memory."""

from __future__ import annotations

from federation.events.room_versions import room_version
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import state_of
from tests.federation.graph.large_room import LEVELS, LargeRoom
from tests.homeserver.engine.large_engine_room import HERE, large_world


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
