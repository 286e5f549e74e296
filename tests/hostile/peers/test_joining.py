"""Our users join through, and are invited by, a peer that lies.

The peer scripts a whole room; each test spoils one part of what it says.
Spec: server-server API, "Joining Rooms", "Inviting to a room", "Leaving Rooms".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.hashes import event_id_of
from federation.events.signing import SigningKey
from tests.faults.servers import until
from tests.hostile.clients.running_server import Reply
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V2, Http
from tests.hostile.peers.scripted_room import ScriptedRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def join(world: World, room: ScriptedRoom) -> Reply:
    """Alice tries to join through the peer."""
    path = f"/join/{quote(room.room_id)}?via={room.peer.name}"
    return await world.server.call("POST", path, {}, by=world.alice)


async def fails(world: World, room: ScriptedRoom) -> None:
    """The join fails as a refusal. Once it is undone where it had to be, the room is nowhere."""
    reply = await join(world, room)
    assert reply.status in (400, 403, 404, 502), reply
    assert reply.errcode.startswith("M_")
    await until(lambda: is_settled(world, room), "nothing of the join is left to do")
    assert await memberships_kept(world, room) == []
    rooms = (await world.server.sync(world.alice, full_state="true")).get("rooms", {})
    assert not [kind for kind, some in rooms.items() if room.room_id in some]
    messages = f"/rooms/{quote(room.room_id)}/messages?dir=b"
    assert (await world.server.call("GET", messages, by=world.alice)).status == 403
    await world.is_up()


async def is_settled(world: World, room: ScriptedRoom) -> bool:
    """Whether no exchange of the room is under way."""
    found = "SELECT FROM joining_intents WHERE room_id = $1"
    return not await world.server.database.fetch(found, room.room_id)


async def memberships_kept(world: World, room: ScriptedRoom) -> list[str]:
    """What the server keeps of who is what in the room."""
    found = await world.server.database.fetch(
        "SELECT m.membership FROM memberships m JOIN rooms r USING (room_row_id)"
        " WHERE r.room_id = $1",
        room.room_id,
    )
    return [row["membership"] for row in found]


async def test_a_sound_room_is_joined(world: World) -> None:
    room = ScriptedRoom(world.evil)
    room.script()
    reply = await join(world, room)
    assert (reply.status, reply.body) == (200, {"room_id": room.room_id})
    state = await world.state(room.room_id)
    assert state["m.room.name", ""]["content"] == {"name": "Trap"}


@pytest.mark.parametrize(
    "spoil",
    [
        {"room_version": "1"},
        {"room_version": "99"},
        {"room_version": None},
        {"event": None},
        {"event": []},
    ],
)
async def test_templates_of_a_wrong_shape(world: World, spoil: JsonObject) -> None:
    room = ScriptedRoom(world.evil)
    room.script(lambda path, body: {**room.template(path), **spoil})
    await fails(world, room)


@pytest.mark.parametrize(
    "spoil",
    [
        {"type": "m.room.power_levels"},
        {"sender": "@admin:here.example"},
        {"state_key": "@admin:here.example"},
        {"room_id": "!" + "A" * 43},
        {"content": {"membership": "ban"}},
        {"prev_events": "none"},
        {"auth_events": [None]},
        {"auth_events": ["$" + "A" * 43]},
        {"depth": "high"},
        {"depth": 2**60},
    ],
)
async def test_our_server_does_not_sign_what_it_did_not_ask_for(
    world: World, spoil: JsonObject
) -> None:
    room = ScriptedRoom(world.evil)

    def made(path: str, body: object) -> object:
        template = room.template(path)
        return {**template, "event": {**template["event"], **spoil}}

    def sent(event: JsonObject) -> object:
        assert event["type"] == "m.room.member"
        assert event["sender"] == event["state_key"] == world.alice.user_id
        assert event["content"]["membership"] == "join"
        assert event["room_id"] == room.room_id
        return Http(403, b'{"errcode":"M_FORBIDDEN","error":"no"}')

    room.script(made, sent)
    world.evil.asked.clear()
    await fails(world, room)


@pytest.mark.parametrize(
    "answer",
    [
        Http(500, b"oops"),
        Http(200, b""),
        Http(200, b"{"),
        Http(200, b"[]"),
        Http(200, b"null"),
        Http(200, b'{"state":1}'),
        Http(200, b'{"state":[],"auth_chain":[]}'),
        Http(200, b'{"state":[null],"auth_chain":[{}]}'),
        Http(200, b"[" * 100_000),
    ],
)
async def test_answers_to_send_join_that_are_none(world: World, answer: Http) -> None:
    room = ScriptedRoom(world.evil)
    room.script(sent=lambda event: answer)
    await fails(world, room)


def forge(room: ScriptedRoom, name: str, join_event: JsonObject) -> JsonObject:
    """The answer with one lie in it."""
    answer = room.answer(join_event)
    state = answer["state"]
    false = SigningKey.generate(b"\x55" * 32, "p1")
    if name == "no create":
        state = [event for event in state if event["type"] != "m.room.create"]
        answer["auth_chain"] = state
    elif name == "create of another room":
        state = [ScriptedRoom(room.peer).create, *state[1:]]
        answer["auth_chain"] = state
    elif name == "nothing signed":
        state = [{k: v for k, v in event.items() if k != "signatures"} for event in state]
        answer["auth_chain"] = state
    elif name == "false signatures":
        state = [room.peer.sign(event, room.version, key=false) for event in state]
        answer["auth_chain"] = state
    elif name == "create changed":
        changed = {**state[0], "content": {**state[0]["content"], "additional_creators": ["@a:b"]}}
        state = [changed, *state[1:]]
        answer["auth_chain"] = state
    elif name == "join not as we signed it":
        answer["event"] = {**join_event, "content": {"membership": "leave"}}
    return {**answer, "state": state}


@pytest.mark.parametrize(
    "name",
    ["no create", "create of another room", "nothing signed", "false signatures", "create changed"],
)
async def test_rooms_without_a_sound_root_are_not_joined(world: World, name: str) -> None:
    room = ScriptedRoom(world.evil)
    room.script(sent=lambda event: forge(room, name, event))
    await fails(world, room)


async def test_forged_state_is_left_out_of_a_room(world: World) -> None:
    """State of others' users, unsigned state, and state that its auth events don't allow."""
    room = ScriptedRoom(world.evil)
    me = room.peer.user()
    low = room.peer.user("low")
    forged = [
        room.event(type="t.alien", state_key="", sender=world.alice.user_id, content={}),
        room.event(type="t.foreign", state_key="", sender="@x:other.example", content={}),
        {**room.event(type="t.unsigned", state_key="", content={}), "signatures": {}},
        room.event(type="t.other", state_key="", content={}, room_id="!" + "A" * 43),
        room.event(type="t.stranger", state_key="", sender=low, content={}),
        room.event(type="t.unauthorised", state_key="", content={}, auth_events=[]),
        {**room.event(type="t.changed", state_key="", content={"a": 1}), "content": {"a": 2}},
    ]

    def sent(event: JsonObject) -> object:
        answer = room.answer(event)
        return {**answer, "state": [*answer["state"], *forged]}

    room.script(sent=sent)
    reply = await join(world, room)
    assert reply.status == 200, reply
    state = await world.state(room.room_id)
    kinds = {kind for kind, _ in state}
    lies = {"t.alien", "t.foreign", "t.unsigned", "t.other", "t.stranger", "t.unauthorised"}
    assert not kinds & lies
    assert state.get(("t.changed", ""), {"content": {}})["content"] == {}
    assert state["m.room.member", me]["content"]["membership"] == "join"
    await world.is_up()


async def test_a_banned_user_is_not_let_in_by_a_lie(world: World) -> None:
    """The state that the peer gives has a ban of ours; then the join isn't allowed by it."""
    room = ScriptedRoom(world.evil)
    room.add("m.room.member", world.alice.user_id, {"membership": "ban"})
    room.script()
    await fails(world, room)


# --- invites ------------------------------------------------------------------------------------


def build_invite(room: ScriptedRoom, world: World, **fields: Any) -> JsonObject:
    """A signed invite of alice."""
    return room.event(
        **{
            "type": "m.room.member",
            "state_key": world.alice.user_id,
            "content": {"membership": "invite"},
            "origin": room.peer.name,
            **fields,
        }
    )


async def send_invite(
    room: ScriptedRoom, event: JsonObject, state: object, **more: object
) -> Reply:
    """PUT /invite."""
    event_id = event_id_of(event, room.version)
    path = f"{V2}/invite/{quote(room.room_id)}/{quote(event_id, safe='')}"
    body = {"room_version": "12", "event": event, "invite_room_state": state, **more}
    return await room.peer.request("PUT", path, body)


async def invites(world: World) -> dict[str, Any]:
    """Alice's invites."""
    rooms: dict[str, Any] = (await world.server.sync(world.alice)).get("rooms", {})
    return dict(rooms.get("invite", {}))


async def test_a_sound_invite_is_shown_and_can_be_refused(world: World) -> None:
    room = ScriptedRoom(world.evil, join_rule="invite")
    reply = await send_invite(room, build_invite(room, world), room.state)
    assert reply.status == 200, reply
    assert "here.example" in reply.body["event"]["signatures"]
    assert room.room_id in await invites(world)
    world.evil.answers = {"/make_leave/": lambda path, body: Http(500)}
    path = f"/rooms/{quote(room.room_id)}/leave"
    await world.server.ok("POST", path, {}, by=world.alice)
    assert room.room_id not in await invites(world)


async def test_hostile_stripped_state(world: World) -> None:
    before = set(await invites(world))
    deep: Any = 1
    for _ in range(3000):
        deep = {"a": deep}
    states: tuple[Any, ...] = (
        None,
        {},
        "x",
        [],
        [None],
        [{}] * 101,
        [{"type": "m.room.create", "state_key": "", "sender": "@a:b", "content": {}}],
    )
    for state in states:
        room = ScriptedRoom(world.evil)
        reply = await send_invite(room, build_invite(room, world), state)
        assert reply.status == 400, (state, reply)
    extras: tuple[dict[str, Any], ...] = (
        {"type": "m.room.name", "state_key": "", "content": {"name": "x" * 60_000}},
        {"type": "m.room.name", "state_key": "", "content": {"name": {"a": [1]}}},
        {"type": "m.room.topic", "state_key": "", "content": {"deep": deep}},
        {"type": "t\0", "state_key": "\0", "content": {"\0": "\0"}},
    )
    for extra in extras:
        room = ScriptedRoom(world.evil)
        state = [*room.state, room.event(**extra)]
        reply = await send_invite(room, build_invite(room, world), state)
        assert reply.status in (200, 400), (extra, reply)
        shown = await invites(world)
        assert (room.room_id in shown) == (reply.status == 200)
    assert before <= set(await invites(world))
    await world.is_up()


async def test_false_invites(world: World) -> None:
    before = set(await invites(world))
    room = ScriptedRoom(world.evil)
    false = SigningKey.generate(b"\x55" * 32, "p1")
    wrong = (
        build_invite(room, world, sender="@x:other.example"),
        build_invite(room, world, sender=world.alice.user_id),
        build_invite(room, world, state_key="@x:other.example"),
        build_invite(room, world, content={"membership": "join"}),
        build_invite(room, world, content={"membership": "ban"}),
        build_invite(room, world, type="m.room.name"),
        build_invite(room, world, room_id="!" + "A" * 43),
        room.peer.sign(build_invite(room, world), room.version, key=false),
        {**build_invite(room, world), "content": {"membership": "invite", "changed": True}},
    )
    for event in wrong:
        reply = await send_invite(room, event, room.state)
        assert reply.status in (400, 403), (event, reply)
    for version in ("99", None, 12, "1"):
        reply = await send_invite(room, build_invite(room, world), room.state, room_version=version)
        assert reply.status == 400, (version, reply)
    assert set(await invites(world)) == before
