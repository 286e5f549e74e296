"""What the real server says in exchanges, held to the specification's schemas: its templates and
answers as the resident, and the bodies that it sends when its users come to a peer's room.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving
Rooms" (joins-v1.yaml, joins-v2.yaml, knocks.yaml, invites-v2.yaml, leaving-v1.yaml,
leaving-v2.yaml).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.hashes import event_id_of
from federation.events.room_versions import ROOM_VERSIONS
from tests.hostile.clients.running_server import SERVER, User
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, V2, now_ms
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.spec.spec_files import body_errors, needs_spec, response_errors

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_spec]
VERSIONS = ["1", "2", "3", "10", "11", "12"]


async def template(world: World, membership: str, room_id: str, user: str) -> JsonObject:
    """A template, which fits its schema, and is filled in by nobody but the resident."""
    query = "&".join(f"ver={name}" for name in ROOM_VERSIONS)
    path = f"{V1}/make_{membership}"
    reply = await world.evil.request("GET", f"{path}/{quote(room_id)}/{quote(user)}?{query}")
    assert reply.status == 200, reply
    assert response_errors("GET", f"{path}/{{r}}/{{u}}", 200, reply.body) == []
    event: JsonObject = reply.body["event"]
    assert event["origin"] == SERVER
    assert abs(event["origin_server_ts"] - now_ms()) < 600_000
    return event


async def sent(world: World, membership: str, room_id: str, event: JsonObject, version: str) -> Any:
    """Signs a template just as it came, hands it in; the answer, which fits its schema."""
    rules = ROOM_VERSIONS[version]
    event = {**event, "origin": world.evil.name}
    if not rules.event_ids_are_hashes:
        event["event_id"] = f"${membership}{now_ms()}:{world.evil.name}"
    event = world.evil.sign(event, rules)
    base = V1 if membership == "knock" else V2
    path = f"{base}/send_{membership}"
    event_id = event_id_of(event, rules)
    target = f"{path}/{quote(room_id)}/{quote(event_id, safe='')}"
    reply = await world.evil.request("PUT", target, event)
    assert reply.status == 200, reply
    assert response_errors("PUT", f"{path}/{{r}}/{{e}}", 200, reply.body) == []
    return reply.body


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_template_is_signed_as_it_comes_and_taken_back(world: World, version: str) -> None:
    room_id = await world.room(version)
    user = world.evil.user()
    event = await template(world, "join", room_id, user)
    await sent(world, "join", room_id, event, version)
    joined = (await world.state(room_id))["m.room.member", user]
    assert joined["content"]["membership"] == "join"
    event = await template(world, "leave", room_id, user)
    await sent(world, "leave", room_id, event, version)
    left = (await world.state(room_id))["m.room.member", user]
    assert left["content"]["membership"] == "leave"


@pytest.mark.parametrize("version", ["7", "11", "12"])
async def test_a_knock_is_made_of_a_template_as_it_comes(world: World, version: str) -> None:
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = await world.room(version, initial_state=[rules])
    event = await template(world, "knock", room_id, world.evil.user())
    await sent(world, "knock", room_id, event, version)
    knocked = (await world.state(room_id))["m.room.member", world.evil.user()]
    assert knocked["content"]["membership"] == "knock"


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_has_what_its_schema_requires(world: World, version: str) -> None:
    room_id = await world.room(version)
    rules = ROOM_VERSIONS[version]

    def cosigned(path: str, body: JsonObject) -> JsonObject:
        signed = world.evil.sign(body["event"], rules)
        both = {**body["event"]["signatures"], **signed["signatures"]}
        return {"event": {**signed, "signatures": both}}

    world.evil.answers = {"/invite/": cosigned}
    world.evil.asked.clear()
    await world.server.ok(
        "POST",
        f"/rooms/{quote(room_id)}/invite",
        {"user_id": world.evil.user()},
        by=world.alice,
    )
    (body,) = [body for method, path, body in world.evil.asked if "/v2/invite/" in path]
    assert body_errors("PUT", f"{V2}/invite/{{r}}/{{e}}", body) == []
    assert body["event"]["origin"] == SERVER


async def bodies_of(
    world: World, room: ScriptedRoom, method: str, path: str, by: User
) -> list[JsonObject]:
    """What the peer gets when a client of the real server asks for something."""
    world.evil.asked.clear()
    await world.server.ok(method, path, {}, by=by)
    return [body for sent, path, body in world.evil.asked if "/send_" in path]


@pytest.mark.parametrize("version", ["3", "7", "10", "11", "12"])
async def test_a_join_that_we_send_has_what_its_schema_requires(world: World, version: str) -> None:
    room = ScriptedRoom(world.evil, version=version)
    room.script()
    path = f"/join/{quote(room.room_id)}?via={world.evil.name}"
    (body,) = await bodies_of(world, room, "POST", path, world.alice)
    assert body_errors("PUT", f"{V2}/send_join/{{r}}/{{e}}", body) == []
    assert body["origin"] == SERVER


@pytest.mark.parametrize("version", ["7", "11"])
async def test_a_knock_and_its_withdrawal_have_what_their_schemas_require(
    world: World, version: str
) -> None:
    room = ScriptedRoom(world.evil, version=version, join_rule="knock")
    room.script()
    path = f"/knock/{quote(room.room_id)}?via={world.evil.name}"
    (knock,) = await bodies_of(world, room, "POST", path, world.alice)
    assert body_errors("PUT", f"{V1}/send_knock/{{r}}/{{e}}", knock) == []
    room.state.append(knock)
    path = f"/rooms/{quote(room.room_id)}/leave"
    (leave,) = await bodies_of(world, room, "POST", path, world.alice)
    assert body_errors("PUT", f"{V2}/send_leave/{{r}}/{{e}}", leave) == []
    assert (knock["origin"], leave["origin"]) == (SERVER, SERVER)
