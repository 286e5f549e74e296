"""Events by time, for servers in the room alone."""

from __future__ import annotations

import pytest

from federation.limits import EVENTS_BY_TIME_SERVED_MAX
from federation.transport.routes import rooms
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import PeerRoom, ScriptedPeer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(peer: ScriptedPeer, room_id: str, query: str) -> tuple[int, str]:
    """Status, and the event's ID or the code of the error."""
    path = f"/_matrix/federation/v1/timestamp_to_event/{room_id}?{query}"
    reply = await peer.request("GET", path)
    return reply.status, reply.body.get("event_id") or reply.errcode


async def joined(world: World) -> tuple[PeerRoom, str]:
    """A room that the peer is in, and the ID of the newest event."""
    room = await world.shared()
    return room, await world.server.send(world.alice, room.room_id, "newest")


async def test_a_server_in_the_room_finds_events_in_both_directions(world: World) -> None:
    room, newest = await joined(world)
    assert await ask(world.evil, room.room_id, f"dir=b&ts={2**50}") == (200, newest)
    status, oldest = await ask(world.evil, room.room_id, "dir=f&ts=0")
    assert status == 200
    assert (await world.state(room.room_id))["m.room.create", ""]["event_id"] == oldest
    assert await ask(world.evil, room.room_id, "dir=b&ts=0") == (404, "M_NOT_FOUND")
    assert await ask(world.evil, room.room_id, f"dir=f&ts={2**50}") == (404, "M_NOT_FOUND")


async def test_what_the_server_may_not_see_is_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_id = await world.room(
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ]
    )
    hidden = await world.server.send(world.alice, room_id, "hidden")
    room = await world.evil.join(room_id)
    hidden_ms = next(
        event["origin_server_ts"]
        for event in await world.seen(room_id)
        if event["event_id"] == hidden
    )
    status, found = await ask(world.evil, room.room_id, f"dir=f&ts={hidden_ms}")
    assert (status, found == hidden) == (200, False)
    assert EVENTS_BY_TIME_SERVED_MAX > 1
    monkeypatch.setattr(rooms, "EVENTS_BY_TIME_SERVED_MAX", 1)
    assert (await ask(world.evil, room.room_id, f"dir=f&ts={hidden_ms}"))[0] == 404


async def test_others_find_nothing(world: World) -> None:
    room, _ = await joined(world)
    assert await ask(world.other, room.room_id, "dir=f&ts=0") == (403, "M_FORBIDDEN")
    assert await ask(world.evil, "!unknown:here.example", "dir=f&ts=0") == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    "query",
    ["x=1", "dir=f", "ts=0", "dir=x&ts=0", "dir=f&ts=-1", "dir=f&ts=1.5", "dir=f&ts=" + "9" * 17],
)
async def test_bad_requests_are_refused(world: World, query: str) -> None:
    room, _ = await joined(world)
    status, _ = await ask(world.evil, room.room_id, query)
    assert status == 400
