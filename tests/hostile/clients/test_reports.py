"""Reports of events on a whole server: who isn't in the room learns nothing from them."""

from __future__ import annotations

import pytest

from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.running_server import Reply, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = {"reason": "harmful"}


async def report(scene: Scene, room_id: str, event_id: str, by: User) -> Reply:
    return await scene.server.call("POST", f"/rooms/{room_id}/report/{event_id}", BODY, by=by)


async def test_a_member_reports_what_they_see_and_nothing_else(scene: Scene) -> None:
    server, alice = scene.server, scene.alice
    state = [
        {
            "type": "m.room.history_visibility",
            "state_key": "",
            "content": {"history_visibility": "joined"},
        }
    ]
    room_id = await server.create_room(alice, preset="public_chat", initial_state=state)
    early = await server.send(alice, room_id, "early")
    carol = await server.register("carol")
    outside = await report(scene, room_id, early, carol)
    await server.ok("POST", f"/join/{room_id}", {}, by=carol)
    seen = await server.send(alice, room_id, "seen")
    assert (await report(scene, room_id, seen, carol)).status == 200
    refused = [
        outside,
        await report(scene, room_id, early, carol),
        await report(scene, room_id, "$" + "a" * 43, carol),
        await report(scene, room_id, scene.event_id, carol),
        await report(scene, "!nowhere:here.example", early, carol),
        await report(scene, scene.room_id, scene.event_id, carol),
    ]
    assert {reply.status for reply in refused} == {404}
    assert len({str(reply.body) for reply in refused}) == 1
    await server.ok("POST", f"/rooms/{room_id}/leave", {}, by=carol)
    assert (await report(scene, room_id, seen, carol)).status == 404
    stored = await server.database.fetch("SELECT event_id FROM reports")
    assert [row["event_id"] for row in stored] == [seen]
