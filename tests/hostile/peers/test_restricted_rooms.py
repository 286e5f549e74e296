"""Restricted rooms of the real server: who is let in, and what it never signs.

Spec: server-server API, "Restricted rooms".
"""

from __future__ import annotations

from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.hashes import event_id_of
from federation.events.room_versions import ROOM_VERSIONS
from tests.hostile.clients.running_server import SERVER, Reply
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, V2, now_ms

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUTHORISER = "join_authorised_via_users_server"


async def restricted(world: World, allowed: str, version: str) -> str:
    """A room of alice's that members of another may join."""
    allow = [{"type": "m.room_membership", "room_id": allowed}]
    rules = {"join_rule": "restricted", "allow": allow}
    return await world.room(
        version, initial_state=[{"type": "m.room.join_rules", "content": rules}]
    )


async def make_join(world: World, room_id: str) -> Reply:
    """Asks for a template."""
    path = f"{V1}/make_join/{quote(room_id)}/{quote(world.evil.user())}"
    return await world.evil.request("GET", f"{path}?ver=8&ver=11&ver=12")


async def send_join(world: World, room_id: str, version: str, template: JsonObject) -> Reply:
    """Signs a template and hands it in."""
    rules = ROOM_VERSIONS[version]
    event = world.evil.sign({**template, "origin_server_ts": now_ms()}, rules)
    event_id = event_id_of(event, rules)
    return await world.evil.request(
        "PUT", f"{V2}/send_join/{quote(room_id)}/{quote(event_id)}", event
    )


@pytest.mark.parametrize("version", ["8", "11", "12"])
async def test_a_member_of_the_allowed_room_is_let_in_with_two_signatures(
    world: World, version: str
) -> None:
    club = await world.room()
    room_id = await restricted(world, club, version)
    refused = await make_join(world, room_id)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    await world.evil.join(club)
    made = await make_join(world, room_id)
    assert made.body["event"]["content"][AUTHORISER] == world.alice.user_id
    answer = await send_join(world, room_id, version, made.body["event"])
    assert answer.status == 200, answer
    assert set(answer.body["event"]["signatures"]) == {world.evil.name, SERVER}
    joined = (await world.state(room_id))["m.room.member", world.evil.user()]
    assert joined["content"]["membership"] == "join"


async def test_a_join_with_a_made_up_voucher_is_not_signed(world: World) -> None:
    club = await world.room()
    room_id = await restricted(world, club, "11")
    room = await world.evil.join(club)
    made = await make_join(world, room_id)
    leave = room.event(
        type="m.room.member", state_key=world.evil.user(), content={"membership": "leave"}
    )
    assert (await world.evil.send([leave])).status == 200
    assert (await make_join(world, room_id)).status == 403
    answer = await send_join(world, room_id, "11", made.body["event"])
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert ("m.room.member", world.evil.user()) not in await world.state(room_id)


async def test_conditions_that_can_not_be_checked_send_the_peer_elsewhere(world: World) -> None:
    room_id = await restricted(world, "!club:other.example", "11")
    reply = await make_join(world, room_id)
    assert (reply.status, reply.errcode) == (400, "M_UNABLE_TO_AUTHORISE_JOIN")
