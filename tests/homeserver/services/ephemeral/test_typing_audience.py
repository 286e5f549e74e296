"""Who is told that somebody types."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, RoomId, ServerName
from homeserver.services.ephemeral.typing_audience import TypingAudience
from tests.homeserver.engine.engine_world import ALICE, HS1, HS2
from tests.homeserver.engine.history_world import BOB, Here, here

PHONE = DeviceId("PHONE")
UNKNOWN = RoomId("!unknown:hs1")


class Sent:
    """The EDUs that were handed over, each with its servers."""

    def __init__(self) -> None:
        self.edus: list[tuple[set[ServerName], JsonObject]] = []

    def forward(self, servers: Collection[ServerName], edu: JsonObject) -> None:
        """Takes an EDU."""
        self.edus.append((set(servers), edu))


async def shared_room(server: Here) -> TypingAudience:
    """BOB's room, in which ALICE is; the syncs of nobody else."""
    graph = server.graph
    last = graph.begin(BOB)
    await server.join(ALICE, last)
    engine = server.engine
    return TypingAudience(engine.rooms, engine.fanout, Sent().forward)


async def test_syncs_of_the_room_are_woken_and_no_others() -> None:
    async with here() as server:
        audience = await shared_room(server)
        waiter = server.engine.fanout.waiter(ALICE, PHONE)
        audience.wake(UNKNOWN)
        assert not await waiter.wait(0)
        audience.wake(server.room_id)
        for _ in range(3):  # syncs are woken by the loop, in slices
            await asyncio.sleep(0)
        assert await waiter.wait(5)


async def test_all_servers_of_the_room_are_told_by_the_edu_of_the_specification() -> None:
    async with here() as server:
        await shared_room(server)
        sent = Sent()
        audience = TypingAudience(server.engine.rooms, server.engine.fanout, sent.forward)
        audience.announce(server.room_id, ALICE, True)
        audience.announce(server.room_id, ALICE, False)
        servers = {HS1, HS2}
        content = {"room_id": server.room_id, "user_id": ALICE}
        assert sent.edus == [
            (servers, {"edu_type": "m.typing", "content": {**content, "typing": True}}),
            (servers, {"edu_type": "m.typing", "content": {**content, "typing": False}}),
        ]


async def test_a_room_that_is_not_in_memory_has_no_audience() -> None:
    async with here() as server:
        sent = Sent()
        audience = TypingAudience(server.engine.rooms, server.engine.fanout, sent.forward)
        audience.announce(UNKNOWN, ALICE, True)
        assert sent.edus == []
