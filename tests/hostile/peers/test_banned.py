"""What a server whose only user was banned may still read: up to the ban, and no further.

Spec: server-server API, "Backfilling and retrieving missing events", "Retrieving events".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.clients.running_server import Reply
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, PeerRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Asking:
    """Questions about one room."""

    def __init__(self, world: World, room_id: str) -> None:
        self.world, self.room = world, quote(room_id)

    async def about(self, event_id: str) -> dict[str, Reply]:
        """All questions that name an event."""
        one = quote(event_id)
        paths = {
            "state": f"state/{self.room}?event_id={one}",
            "state_ids": f"state_ids/{self.room}?event_id={one}",
            "event_auth": f"event_auth/{self.room}/{one}",
            "backfill": f"backfill/{self.room}?v={one}&limit=100",
            "event": f"event/{one}",
        }
        found = {
            name: await self.world.evil.request("GET", f"{V1}/{path}")
            for name, path in paths.items()
        }
        content = {"latest_events": [event_id], "earliest_events": [], "limit": 20, "min_depth": 0}
        path = f"{V1}/get_missing_events/{self.room}"
        return {**found, "missing": await self.world.evil.request("POST", path, content)}


async def put_out(world: World, room: PeerRoom, how: str) -> str:
    """Alice kicks or bans the peer's user; the ID of that event."""
    path = f"/rooms/{quote(room.room_id)}/{how}"
    user = world.evil.user()
    await world.server.ok("POST", path, {"user_id": user}, by=world.alice)
    state = f"/rooms/{quote(room.room_id)}/state/m.room.member/{quote(user)}?format=event"
    found: dict[str, Any] = await world.server.ok("GET", state, by=world.alice)
    return str(found["event_id"])


@pytest.mark.parametrize("how", ["kick", "ban"])
@pytest.mark.parametrize("visibility", ["joined", "shared"])
async def test_a_server_learns_how_it_was_put_out(world: World, how: str, visibility: str) -> None:
    state = [
        {
            "type": "m.room.history_visibility",
            "state_key": "",
            "content": {"history_visibility": visibility},
        }
    ]
    room_id = await world.room(initial_state=state)
    early = await world.server.send(world.alice, room_id, "early", "early")
    room = await world.evil.join(room_id)
    missed = await world.server.send(world.alice, room_id, "missed", "missed")
    end = await put_out(world, room, how)
    later = await world.server.send(world.alice, room_id, "later", "later")
    asking = Asking(world, room_id)
    for event_id in (missed, end):
        replies = await asking.about(event_id)
        assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(
            replies, 200
        )
    texts = str([replies["missing"].body, replies["backfill"].body])
    assert "missed" in texts
    assert ("'early'" in texts) == (visibility == "shared")
    refused = await asking.about(later)
    assert refused.pop("event").status == 404
    assert {reply.status for reply in refused.values()} == {403}
    assert early
    # IDs that it may not ask about don't ride along with one that it may
    content = {"latest_events": [later, end], "earliest_events": [], "limit": 20}
    path = f"{V1}/get_missing_events/{quote(room_id)}"
    answer = await world.evil.request("POST", path, content)
    assert answer.status == 200
    assert "'later'" not in str(answer.body)
    assert "m.room.member" in str(answer.body)


async def test_a_server_that_was_never_there_learns_nothing(world: World) -> None:
    room_id = await world.room()
    event_id = await world.server.send(world.alice, room_id, "private", "private")
    replies = await Asking(world, room_id).about(event_id)
    assert replies.pop("event").status == 404
    assert {reply.status for reply in replies.values()} == {403}
