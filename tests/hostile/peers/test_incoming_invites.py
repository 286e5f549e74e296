"""Invites that a peer sends: what the user sees of them, what they cost, what they open.

Spec: server-server API, "Inviting to a room"; client-server API, "Invite permission", "Stripped
state".
"""

from __future__ import annotations

from itertools import count
from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.signing import encode_base64
from federation.limits import INVITE_STATE_BYTES_MAX
from homeserver import limits
from tests.hostile.clients.running_server import Reply, User
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, Http
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.hostile.peers.test_joining import build_invite, invites, send_invite

pytestmark = pytest.mark.asyncio(loop_scope="module")
_names = count()


async def newcomer(world: World) -> User:
    """A user of their own for one test."""
    return await world.server.register(f"newcomer{next(_names)}")


async def invite(world: World, room: ScriptedRoom, user: User, **content: Any) -> Reply:
    """The peer invites a user."""
    wanted = {"membership": "invite", **content}
    event = build_invite(room, world, state_key=user.user_id, content=wanted)
    return await send_invite(room, event, room.state, room_version=room.version.name)


async def shown(world: World, room: ScriptedRoom, user: User) -> list[JsonObject]:
    """The invite's stripped state, as a client gets it."""
    rooms = (await world.server.sync(user)).get("rooms", {}).get("invite", {})
    return list(rooms[room.room_id]["invite_state"]["events"]) if room.room_id in rooms else []


@pytest.mark.parametrize("version", ["11", "12"])
async def test_the_invite_itself_says_what_it_is(world: World, version: str) -> None:
    room, user = ScriptedRoom(world.evil, version=version), await newcomer(world)
    content = {"is_direct": True, "reason": "hello", "displayname": "New"}
    assert (await invite(world, room, user, **content)).status == 200
    own = [one for one in await shown(world, room, user) if one["state_key"] == user.user_id]
    assert own == [
        {
            "type": "m.room.member",
            "state_key": user.user_id,
            "sender": world.evil.user(),
            "content": {"membership": "invite", **content},
        }
    ]


async def test_stripped_state_does_not_speak_for_the_invite(world: World) -> None:
    room, user = ScriptedRoom(world.evil, version="11"), await newcomer(world)
    false = {
        "type": "m.room.member",
        "state_key": user.user_id,
        "sender": "@friend:here.example",
        "content": {"membership": "invite", "is_direct": True},
    }
    room.state.append(false)
    assert (await invite(world, room, user)).status == 200
    own = [one for one in await shown(world, room, user) if one["state_key"] == user.user_id]
    assert [(one["sender"], one["content"]) for one in own] == [
        (world.evil.user(), {"membership": "invite"})
    ]


def stripped(event: JsonObject) -> JsonObject:
    """What some servers send in place of an event."""
    return {name: event[name] for name in ("type", "state_key", "sender", "content")}


async def test_a_create_event_that_is_no_state_makes_no_invite(world: World) -> None:
    """Its hash can name a room all the same."""
    room, user = ScriptedRoom(world.evil), await newcomer(world)
    fields = {name: value for name, value in room.create.items() if name != "state_key"}
    create = world.evil.sign(fields, room.version)
    room.room_id = "!" + room.id(create)[1:]
    transaction = {"origin": world.evil.name, "origin_server_ts": 1, "pdus": [create]}
    world.evil.answers = {"/event/": lambda path, body: transaction}
    event = build_invite(room, world, state_key=user.user_id, auth_events=[])
    for state in ([create], []):
        reply = await send_invite(room, event, state)
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert await shown(world, room, user) == []


def contents(events: list[JsonObject]) -> dict[tuple[str, str], JsonObject]:
    """Content by type and state key, as a client reads them; none twice."""
    found = {(one["type"], one["state_key"]): one["content"] for one in events}
    assert len(found) == len(events)
    return found


async def test_of_stripped_entries_in_version_12_the_create_event_is_fetched(world: World) -> None:
    room, user = ScriptedRoom(world.evil), await newcomer(world)
    create = room.create
    room.state = [stripped(event) for event in room.state]
    world.evil.answers = {"/event/": lambda path, body: Http(403)}
    event = build_invite(room, world, state_key=user.user_id, auth_events=[])
    reply = await send_invite(room, event, room.state)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")
    assert await shown(world, room, user) == []
    transaction = {"origin": world.evil.name, "origin_server_ts": 1, "pdus": [create]}
    world.evil.answers = {"/event/": lambda path, body: transaction}
    false_create = {**stripped(create), "sender": "@friend:here.example", "content": {"a": 1}}
    state = [false_create, *room.state[1:]]
    reply = await send_invite(room, event, state)
    assert reply.status == 200, reply
    found = contents(await shown(world, room, user))
    assert found["m.room.create", ""] == create["content"]
    assert found["m.room.name", ""] == {"name": "Trap"}
    assert found["m.room.join_rules", ""] == {"join_rule": "public"}
    assert ("m.room.power_levels", "") not in found, "it isn't needed to recognise the room"


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest.mark.parametrize("form", ["whole", "create alone", "stripped"])
async def test_an_invite_shows_what_the_room_is_called(
    world: World, version: str, form: str
) -> None:
    """Whether all entries are signed events, only the create event is, or none."""
    room, user = ScriptedRoom(world.evil, version=version), await newcomer(world)
    create = room.create
    room.add("m.room.encryption", "", {"algorithm": "m.megolm.v1.aes-sha2"})
    event = build_invite(room, world, state_key=user.user_id)
    if form != "whole":
        room.state = [stripped(one) for one in room.state]
    if form == "create alone":
        room.state[0] = create
    transaction = {"origin": world.evil.name, "origin_server_ts": 1, "pdus": [create]}
    world.evil.answers = {"/event/": lambda path, body: transaction}
    reply = await send_invite(room, event, room.state, room_version=version)
    assert reply.status == 200, reply
    found = contents(await shown(world, room, user))
    assert found["m.room.create", ""] == create["content"]
    assert found["m.room.name", ""] == {"name": "Trap"}
    assert found["m.room.encryption", ""] == {"algorithm": "m.megolm.v1.aes-sha2"}
    assert found["m.room.member", world.evil.user()] == {"membership": "join"}
    assert found["m.room.member", user.user_id] == {"membership": "invite"}


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 400), (60.0, 200)])
async def test_the_create_event_is_waited_for_a_short_while(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, status: int
) -> None:
    module = "federation.transport.joining.invite_states"
    monkeypatch.setattr(f"{module}.INVITE_CREATE_FETCH_S_MAX", seconds)
    room, user = ScriptedRoom(world.evil), await newcomer(world)
    transaction = {"origin": world.evil.name, "origin_server_ts": 1, "pdus": [room.create]}
    world.evil.answers = {"/event/": lambda path, body: transaction}
    event = build_invite(room, world, state_key=user.user_id, auth_events=[])
    reply = await send_invite(room, event, [stripped(one) for one in room.state])
    assert reply.status == status
    assert bool(await shown(world, room, user)) is (status == 200)


async def test_bad_entries_are_left_out_and_the_rest_is_kept(world: World) -> None:
    room, user = ScriptedRoom(world.evil), await newcomer(world)
    other = ScriptedRoom(world.evil)
    forged = {**room.event(type="m.room.topic", state_key="", content={}), "signatures": {}}
    renamed = {**stripped(forged), "type": "m.room.name", "content": {"name": "Other"}}
    vouching = {**stripped(forged), "type": "m.room.member", "state_key": "@friend:here.example"}
    bad: list[Any] = [{}, None, renamed, vouching, forged, *other.state, room.event()]
    event = build_invite(room, world, state_key=user.user_id, auth_events=[])
    reply = await send_invite(room, event, [*bad, *room.state])
    assert reply.status == 200, reply
    found = contents(await shown(world, room, user))
    assert found["m.room.name", ""] == {"name": "Trap"}, "the signed one counts"
    assert found["m.room.create", ""] == room.create["content"]
    assert ("m.room.topic", "") not in found
    assert ("m.room.member", "@friend:here.example") not in found


@pytest.mark.parametrize("version", ["11", "12"])
async def test_stored_state_is_bounded_and_telling_parts_come_first(
    world: World, version: str
) -> None:
    room, user = ScriptedRoom(world.evil, version=version), await newcomer(world)
    filler = {"text": "x" * (INVITE_STATE_BYTES_MAX // 4)}
    large = [
        room.event(type=f"t.{n}", state_key="", content=filler, auth_events=[]) for n in range(9)
    ]
    room.state = [*large, *room.state]
    event = build_invite(room, world, state_key=user.user_id, auth_events=[])
    reply = await send_invite(room, event, room.state, room_version=version)
    assert reply.status == 200, reply
    kinds = [one["type"] for one in await shown(world, room, user)]
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= set(kinds)
    assert 0 < sum(kind.startswith("t.") for kind in kinds) < 4


@pytest.mark.parametrize("content", [{"n": 1.5}, {"n": 2**60}])
@pytest.mark.off_spec("bodies of a false peer")
async def test_what_is_not_canonical_is_bad_json(world: World, content: JsonObject) -> None:
    room, user = ScriptedRoom(world.evil), await newcomer(world)
    event = build_invite(room, world, state_key=user.user_id)
    event["content"] = {"membership": "invite", **content}
    path = f"/_matrix/federation/v2/invite/{quote(room.room_id)}/$x"
    body = {"room_version": "12", "event": event, "invite_room_state": room.state}
    reply = await world.evil.request("PUT", path, body)
    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")
    shared = await world.room()
    for kind, version in (("join", "v2"), ("leave", "v2"), ("knock", "v1")):
        pdu = {**event, "room_id": shared}
        path = f"/_matrix/federation/{version}/send_{kind}/{quote(shared)}/$x"
        reply = await world.evil.request("PUT", path, pdu)
        assert (reply.status, reply.errcode) == (400, "M_BAD_JSON"), kind


async def test_who_takes_no_invites_gets_none(world: World) -> None:
    room, user = ScriptedRoom(world.evil), await newcomer(world)
    path = f"/user/{quote(user.user_id)}/account_data/m.invite_permission_config"
    await world.server.ok("PUT", path, {"default_action": "block"}, by=user)
    reply = await invite(world, room, user)
    assert (reply.status, reply.errcode) == (403, "M_INVITE_BLOCKED")
    assert await shown(world, room, user) == []
    await world.server.ok("PUT", path, {}, by=user)
    assert (await invite(world, room, user)).status == 200


async def test_nobody_but_users_is_invited(world: World) -> None:
    nobody = User("@nobody:here.example", "", "")
    reply = await invite(world, ScriptedRoom(world.evil), nobody)
    assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


async def test_one_server_can_not_fill_a_users_invites(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REMOTE_INVITES_PENDING_OF_SERVER", 2)
    monkeypatch.setattr(limits, "REMOTE_INVITES_PENDING", 3)
    user = await newcomer(world)
    rooms = [ScriptedRoom(peer) for peer in (world.evil,) * 3 + (world.other,) * 2]
    replies = [await invite_from(world, room, user) for room in rooms]
    assert [reply.status for reply in replies] == [200, 200, 429, 200, 429]
    assert replies[2].errcode == "M_LIMIT_EXCEEDED"
    wait_ms = limits.REMOTE_INVITES_RETRY_AFTER_S * 1000
    assert replies[2].body["retry_after_ms"] == pytest.approx(wait_ms, abs=1)
    assert (await invite_from(world, rooms[0], user)).status == 200, "again to the same room"
    await world.server.ok("POST", f"/rooms/{quote(rooms[0].room_id)}/leave", {}, by=user)
    assert (await invite_from(world, rooms[2], user)).status == 200


async def invite_from(world: World, room: ScriptedRoom, user: User) -> Reply:
    """A room's own peer invites a user."""
    event = build_invite(room, world, state_key=user.user_id)
    return await send_invite(room, event, room.state)


async def test_an_invite_alone_opens_no_one_time_keys(world: World) -> None:
    user = await newcomer(world)
    keys = {f"curve25519:{n}": encode_base64(bytes([n + 40]) * 32) for n in range(3)}
    fallback = {"curve25519:f": encode_base64(b"\x77" * 32)}
    body = {"one_time_keys": keys, "fallback_keys": fallback}
    uploaded = await world.server.call("POST", "/keys/upload", body, by=user)
    assert uploaded.status == 200, uploaded
    claim = {"one_time_keys": {user.user_id: {user.device_id: "curve25519"}}}

    async def claimed() -> set[str]:
        reply = await world.evil.request("POST", f"{V1}/user/keys/claim", claim)
        found = reply.body["one_time_keys"].get(user.user_id, {})
        return set(found.get(user.device_id, {}))

    assert (await invite(world, ScriptedRoom(world.evil), user)).status == 200
    assert [await claimed() for _ in range(4)] == [{"curve25519:f"}] * 4
    shared = await world.shared()
    await world.server.ok("POST", f"/join/{quote(shared.room_id)}", {}, by=user)
    assert await claimed() <= set(keys)


async def test_invites_stay_after_all_that(world: World) -> None:
    room = ScriptedRoom(world.evil)
    assert (await send_invite(room, build_invite(room, world), room.state)).status == 200
    assert room.room_id in await invites(world)
    await world.is_up()
