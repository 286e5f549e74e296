"""Member events that clients write themselves never need another server's signature: sent on
without it they'd be rejected by all others, with all that their user says afterwards.

Spec: room version 8, authorization rules, 5.2; client-server API, setRoomStateWithKey, createRoom.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_room import ScriptedRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUTHORISER = "join_authorised_via_users_server"


async def put(world: World, room_id: str, user_id: str, content: JsonObject) -> JsonObject:
    """Alice writes a member event; what the room has then."""
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user_id)}"
    await world.server.ok("PUT", path, content, by=world.alice)
    found: JsonObject = (await world.state(room_id))["m.room.member", user_id]["content"]
    return found


@pytest.mark.parametrize("version", ["8", "11", "12"])
@pytest.mark.parametrize("voucher", ["of the peer", "own", 7])
async def test_a_client_does_not_say_who_vouches(
    world: World, version: str, voucher: object
) -> None:
    names = {"of the peer": world.evil.user("voucher"), "own": world.alice.user_id}
    vouching = {AUTHORISER: names.get(str(voucher), voucher)}
    room_id = await world.room(version)
    me, bob = world.alice.user_id, f"@voucherless{version}:here.example"
    nick: Any = {"displayname": "Ali"}
    kept = await put(world, room_id, me, {"membership": "join", **nick, **vouching})
    assert kept == {"membership": "join", **nick}
    for membership in ("ban", "leave"):
        kept = await put(world, room_id, bob, {"membership": membership, **vouching})
        assert kept == {"membership": membership}


@pytest.mark.parametrize("version", ["8", "12"])
async def test_a_room_does_not_begin_with_a_voucher_for_its_creator(
    world: World, version: str
) -> None:
    content = {"membership": "join", AUTHORISER: world.evil.user()}
    mine = {"type": "m.room.member", "state_key": world.alice.user_id, "content": content}
    room_id = await world.room(version, initial_state=[mine])
    kept = (await world.state(room_id))["m.room.member", world.alice.user_id]
    assert kept["content"] == {"membership": "join"}


async def test_an_invite_to_the_peer_names_no_voucher(world: World) -> None:
    room_id = await world.room("11")
    sent: list[JsonObject] = []

    def refuse(path: str, body: JsonObject) -> object:
        sent.append(body["event"]["content"])
        return {}

    world.evil.answers = {"/invite/": refuse}
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(world.evil.user())}"
    content = {"membership": "invite", AUTHORISER: world.evil.user()}
    await world.server.call("PUT", path, content, by=world.alice)
    assert sent == [{"membership": "invite"}]


@pytest.mark.parametrize("membership", ["join", "knock"])
async def test_who_enters_a_room_elsewhere_names_no_voucher(world: World, membership: str) -> None:
    rule = "public" if membership == "join" else "knock"
    room = ScriptedRoom(world.evil, version="11", join_rule=rule)
    room.script()
    world.evil.asked.clear()
    path = f"/rooms/{quote(room.room_id)}/state/m.room.member/{quote(world.alice.user_id)}"
    content = {"membership": membership, AUTHORISER: world.evil.user()}
    await world.server.call("PUT", path, content, by=world.alice)
    (sent,) = [body["content"] for _, path, body in world.evil.asked if "/send_" in path]
    assert (sent["membership"], AUTHORISER in sent) == (membership, False)
