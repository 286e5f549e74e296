"""Events that are nested as deeply as 64 KiB allow: they may be, but the loop doesn't read them.

Spec: server-server API, "Transactions", "Joining Rooms", "Inviting to a room"; room versions.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.events.canonical_json import JsonObject
from federation.events.hashes import event_id_of
from federation.events.room_versions import ROOM_VERSIONS
from tests.hostile.clients.running_server import Reply
from tests.hostile.loop_steps import counted_steps
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, V2
from tests.hostile.peers.scripted_room import ScriptedRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEVELS, JOINING_LEVELS = 31_000, 18_000
STEP_S = 0.030
"""Reading one such event takes more, even on a quick machine; all that is left takes a tenth."""


def nested(levels: int) -> Any:
    """A value of so many levels."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def test_a_deep_event_is_taken_and_the_loop_reads_it_nowhere(world: World) -> None:
    room = await world.shared()
    event = room.event(content={"body": "deep", "msgtype": "m.text", "deep": nested(LEVELS)})
    sent = world.evil.prepare("PUT", f"{V1}/send/deep", {"pdus": [event]})
    with counted_steps() as steps:
        reply = await sent()
    assert reply.body == {"pdus": {room.id(event): {}}}
    assert steps.longest_s < STEP_S, steps.longest
    path = f"/rooms/{quote(room.room_id)}/messages?dir=b"
    seen = (await world.server.call("GET", path, by=world.alice)).body
    assert room.id(event).encode() in seen, "too deep for the parser of this test"


async def exchange(world: World, kind: str) -> tuple[str, JsonObject]:
    """The target and the body of an exchange's second half, with a deep event."""
    evil = world.evil
    if kind == "invite":
        room = ScriptedRoom(evil, version="11")
        template: JsonObject = room.event(
            type="m.room.member",
            state_key=world.alice.user_id,
            content={"membership": "invite", "deep": nested(JOINING_LEVELS)},
        )
        room_id = room.room_id
    else:
        knocking = "knock" if kind == "knock" else "public"
        rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": knocking}}
        room_id = await world.room("11", initial_state=[rule])
        if kind == "leave":
            await evil.join(room_id)
        path = f"{V1}/make_{kind}/{quote(room_id)}/{quote(evil.user())}?ver=11"
        template = (await evil.request("GET", path)).body["event"]
        template["content"]["deep"] = nested(JOINING_LEVELS)
    event = evil.sign(template, ROOM_VERSIONS["11"])
    path = f"{quote(room_id)}/{quote(event_id_of(event, ROOM_VERSIONS['11']), safe='')}"
    if kind == "invite":
        return f"{V2}/invite/{path}", {"event": event, "room_version": "11"}
    return f"{V1 if kind == 'knock' else V2}/send_{kind}/{path}", event


@pytest.mark.parametrize("kind", ["join", "leave", "knock", "invite"])
async def test_a_deep_exchange_is_refused_before_it_is_parsed(world: World, kind: str) -> None:
    target, body = await exchange(world, kind)
    sent = world.evil.prepare("PUT", target, body)
    with counted_steps() as steps:
        reply: Reply = await sent()
    assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")
    assert steps.longest_s < STEP_S, steps.longest
    await world.is_up()
