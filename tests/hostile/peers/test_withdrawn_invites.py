"""Invites that end: the peer's room withdraws them, or the real server's does.

Spec: server-server API, "Inviting to a room", "Transactions".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.room_versions import ROOM_VERSIONS
from tests.faults.servers import until
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.hostile.peers.test_joining import build_invite, invites, send_invite

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("version", ["3", "11", "12"])
@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_an_invite_that_its_room_withdraws_is_gone(
    world: World, version: str, membership: str
) -> None:
    room = ScriptedRoom(world.evil, join_rule="invite", version=version)
    invite = build_invite(room, world)
    reply = await send_invite(room, invite, room.state, room_version=version)
    assert reply.status == 200, reply
    assert room.room_id in await invites(world)
    end = room.event(
        type="m.room.member",
        state_key=world.alice.user_id,
        content={"membership": membership},
        prev_events=[room.id(invite)],
        auth_events=[*room.auth_events(world.evil.user()), room.id(invite)],
    )
    assert (await world.evil.send([end])).body == {"pdus": {room.id(end): {}}}
    assert room.room_id not in await invites(world)


def cosigned(world: World) -> None:
    """The peer signs invites of its users."""

    def answer(path: str, body: JsonObject) -> JsonObject:
        event = body["event"]
        made = world.evil.sign(event, ROOM_VERSIONS[body["room_version"]])["signatures"]
        return {"event": {**event, "signatures": {**event["signatures"], **made}}}

    world.evil.answers = {"/invite/": answer}


def pdus(world: World) -> list[JsonObject]:
    """What the peer got in transactions."""
    return [
        pdu
        for _, path, body in world.evil.asked
        if "/send/" in path
        for pdu in body.get("pdus", [])
    ]


@pytest.mark.parametrize("end", ["kick", "ban"])
async def test_the_peer_gets_an_invite_once_and_then_its_end(world: World, end: str) -> None:
    cosigned(world)
    world.evil.asked.clear()
    room_id = await world.room(preset="private_chat")
    target: Any = {"user_id": world.evil.user(end)}
    path = f"/rooms/{quote(room_id)}"
    await world.server.ok("POST", f"{path}/invite", target, by=world.alice)
    await world.server.ok("POST", f"{path}/{end}", target, by=world.alice)

    async def is_listed() -> bool:
        return any(pdu["room_id"] == room_id for pdu in pdus(world))

    await until(is_listed, "the peer learns that the invite is no more")
    (got,) = [pdu for pdu in pdus(world) if pdu["room_id"] == room_id]
    expected = "leave" if end == "kick" else "ban"
    assert (got["state_key"], got["content"]["membership"]) == (target["user_id"], expected)
    asked = [path for _, path, _ in world.evil.asked if "/invite/" in path]
    assert len(asked) == 1


async def test_a_server_hears_nothing_of_bans_of_users_who_never_came(world: World) -> None:
    world.evil.asked.clear()
    room_id, shared = await world.room(), await world.shared()
    target = {"user_id": world.evil.user("never")}
    await world.server.ok("POST", f"/rooms/{quote(room_id)}/ban", target, by=world.alice)
    event_id = await world.server.send(world.alice, shared.room_id, "after")

    async def has_later_event() -> bool:
        return any(shared.id(pdu) == event_id for pdu in pdus(world))

    await until(has_later_event, "a later event reaches the peer")
    assert all(pdu["room_id"] != room_id for pdu in pdus(world))
