"""What a user sees of a room at which they knock, by what the peer says of it.

Spec: server-server API, "Knocking upon a room" (knocks.yaml); client-server API, "Stripped state".
"""

from __future__ import annotations

from itertools import count
from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.limits import INVITE_STATE_BYTES_MAX
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import Http
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.hostile.peers.test_incoming_invites import contents, stripped

pytestmark = pytest.mark.asyncio(loop_scope="module")
_names = count()


async def knocked(
    world: World, room: ScriptedRoom, state: list[Any], *, create: JsonObject | None = None
) -> dict[tuple[str, str], JsonObject]:
    """A new user knocks; what their client is shown. The peer gives `create` when it is asked."""
    user = await world.server.register(f"knocker{next(_names)}")
    room.script()
    world.evil.answers["/send_knock/"] = lambda path, body: {"knock_room_state": state}
    transaction = {"origin": world.evil.name, "origin_server_ts": 1, "pdus": [create]}
    world.evil.answers["/event/"] = lambda path, body: Http(403) if create is None else transaction
    path = f"/knock/{quote(room.room_id)}?via={world.evil.name}"
    await world.server.ok("POST", path, {}, by=user)
    shown = (await world.server.sync(user))["rooms"]["knock"][room.room_id]
    found = contents(shown["knock_state"]["events"])
    own = found.pop(("m.room.member", user.user_id))
    assert own["membership"] == "knock"
    return found


@pytest.mark.parametrize("version", ["10", "11", "12"])
@pytest.mark.parametrize("form", ["whole", "create alone", "stripped"])
async def test_a_knock_shows_what_the_room_is_called(world: World, version: str, form: str) -> None:
    room = ScriptedRoom(world.evil, version=version, join_rule="knock")
    state = room.state if form == "whole" else [stripped(one) for one in room.state]
    if form == "create alone":
        state[0] = room.create
    found = await knocked(world, room, state, create=room.create)
    assert found["m.room.create", ""] == room.create["content"]
    assert found["m.room.name", ""] == {"name": "Trap"}
    assert found["m.room.join_rules", ""] == {"join_rule": "knock"}


async def test_a_create_event_that_can_not_be_had_or_is_false_is_not_shown(world: World) -> None:
    """The knock was taken all the same."""
    room = ScriptedRoom(world.evil, join_rule="knock")
    state = [{**stripped(room.create), "content": {"type": "m.space"}}, *room.state[3:]]
    for create in (None, ScriptedRoom(world.evil).create):
        found = await knocked(world, room, state, create=create)
        assert ("m.room.create", "") not in found
        assert found["m.room.name", ""] == {"name": "Trap"}


@pytest.mark.parametrize("version", ["11", "12"])
async def test_improperly_signed_entries_are_not_shown(world: World, version: str) -> None:
    room = ScriptedRoom(world.evil, version=version, join_rule="knock")
    forged = {**room.event(type="m.room.topic", state_key="", content={}), "signatures": {}}
    changed = {**room.event(type="m.room.avatar", state_key="", content={}), "content": {"url": 1}}
    found = await knocked(world, room, [forged, changed, *room.state])
    assert found["m.room.name", ""] == {"name": "Trap"}
    assert not {("m.room.topic", ""), ("m.room.avatar", "")} & found.keys()


@pytest.mark.parametrize("version", ["11", "12"])
async def test_what_is_kept_is_bounded_and_telling_parts_come_first(
    world: World, version: str
) -> None:
    room = ScriptedRoom(world.evil, version=version, join_rule="knock")
    filler = {"text": "x" * (INVITE_STATE_BYTES_MAX // 4)}
    large = [
        room.event(type=f"t.{n}", state_key="", content=filler, auth_events=[]) for n in range(9)
    ]
    found = await knocked(world, room, [*large, *room.state])
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= {kind for kind, _ in found}
    assert 0 < sum(kind.startswith("t.") for kind, _ in found) < 4
