"""Which servers count as neighbours: those that share a room and answer."""

from __future__ import annotations

from federation.events.ids import ServerName
from federation.transport.requests.backoff import Backoffs
from homeserver.services.federation.neighbours import Neighbours
from tests.homeserver.engine.engine_world import BOB, HS1, HS2, draft, running


async def test_a_neighbour_shares_a_room_and_answers(postgres_url: str) -> None:
    """A server that can't be reached isn't one until it answers again."""
    async with running(postgres_url) as world:
        backoffs = Backoffs(world.clock, lambda: 0.5)
        neighbours = Neighbours(HS1, world.database, backoffs)
        room_id = await world.create_room()
        assert not await neighbours.is_neighbour(HS2)
        join = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, join))
        assert await neighbours.is_neighbour(HS2)
        assert not await neighbours.is_neighbour(ServerName("elsewhere"))
        backoffs.failed(HS2, "no answer")
        assert not await neighbours.is_neighbour(HS2)
        backoffs.succeeded(HS2)
        assert await neighbours.is_neighbour(HS2)
