"""Hostile EDUs: an origin speaks for its own users, where they are, and for nobody else.

Spec: server-server API, "EDUs" and the sections of each type.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import PeerRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ephemeral(world: World, room_id: str, event_type: str) -> list[dict[str, Any]]:
    """The contents of a room's ephemeral events of a type in an initial sync."""
    synced = await world.server.sync(world.alice)
    events = synced["rooms"]["join"][room_id]["ephemeral"]["events"]
    return [event["content"] for event in events if event["type"] == event_type]


def receipt(room: PeerRoom, user: str, event_id: str = "", **data: Any) -> dict[str, Any]:
    """An m.receipt EDU's content."""
    found: dict[str, Any] = {"event_ids": [event_id or room.head], "data": {"ts": 1, **data}}
    return {room.room_id: {"m.read": {user: found}}}


async def test_typing_of_its_own_joined_users_alone(world: World) -> None:
    room = await world.shared()
    for user in (world.alice.user_id, "@x:other.example", room.peer.user("ghost"), "nonsense", 5):
        content: dict[str, Any] = {"room_id": room.room_id, "user_id": user, "typing": True}
        await world.evil.send_edu("m.typing", content)
    assert await ephemeral(world, room.room_id, "m.typing") == []
    private = await world.server.create_room(world.alice, preset="private_chat")
    for room_id in (private, "!nowhere:here.example", None, "\0"):
        content = {"room_id": room_id, "user_id": room.peer.user(), "typing": True}
        await world.evil.send_edu("m.typing", content)
    assert await ephemeral(world, private, "m.typing") == []
    content = {"room_id": room.room_id, "user_id": room.peer.user(), "typing": True}
    await world.evil.send_edu("m.typing", content)
    assert await ephemeral(world, room.room_id, "m.typing") == [{"user_ids": [room.peer.user()]}]


async def test_a_message_ends_typing(world: World) -> None:
    room = await world.shared()
    content = {"room_id": room.room_id, "user_id": room.peer.user(), "typing": True}
    await world.evil.send_edu("m.typing", content)
    await world.evil.send([room.event(advance=True)])
    assert await ephemeral(world, room.room_id, "m.typing") == []
    path = f"/rooms/{quote(room.room_id)}/typing/{quote(world.alice.user_id)}"
    await world.server.ok("PUT", path, {"typing": True}, by=world.alice)
    assert await ephemeral(world, room.room_id, "m.typing") != []
    await world.server.send(world.alice, room.room_id, "ends-typing")
    assert await ephemeral(world, room.room_id, "m.typing") == []


async def test_receipts_of_its_own_joined_users_alone(world: World) -> None:
    room = await world.shared()
    await world.evil.send_edu("m.receipt", receipt(room, world.alice.user_id))
    await world.evil.send_edu("m.receipt", receipt(room, "@x:other.example"))
    ghosts: dict[str, Any] = {}
    for number in range(500):
        ghosts |= receipt(room, room.peer.user(f"ghost{number}"))[room.room_id]["m.read"]
    await world.evil.send_edu("m.receipt", {room.room_id: {"m.read": ghosts}})
    odd: tuple[Any, ...] = (
        {},
        {room.room_id: None},
        {"\0": {}},
        {room.room_id: {"m.read": {"": {}}}},
    )
    for content in odd:
        await world.evil.send_edu("m.receipt", content)
    me = room.peer.user()
    await world.evil.send_edu("m.receipt", receipt(room, me, "x" * 300))
    await world.evil.send_edu("m.receipt", receipt(room, me, "$a\0b"))
    await world.evil.send_edu("m.receipt", receipt(room, me, ts=2**63))
    private = await world.server.create_room(world.alice, preset="private_chat")
    await world.evil.send_edu("m.receipt", {private: receipt(room, me)[room.room_id]})
    rooms, query = [room.room_id, private], "SELECT FROM receipts WHERE room_id = ANY($1)"
    assert await world.server.database.fetch(query, rooms) == []
    await world.evil.send_edu("m.receipt", receipt(room, me))
    assert await ephemeral(world, room.room_id, "m.receipt") == [
        {room.head: {"m.read": {me: {"ts": 1}}}}
    ]


async def test_messages_to_devices_in_its_own_name_alone(world: World) -> None:
    device = world.alice.device_id
    since = (await world.server.sync(world.alice))["next_batch"]

    def message(sender: object, number: object, content: object = None) -> dict[str, Any]:
        body = {"a": 1} if content is None else content
        messages = {world.alice.user_id: {device: body}}
        return {"sender": sender, "type": "t", "message_id": number, "messages": messages}

    deep: Any = 1
    for _ in range(3000):
        deep = {"a": deep}
    for wrong in (
        message(world.alice.user_id, "1"),
        message("@x:other.example", "2"),
        message(None, "3"),
        message(world.evil.user(), "x" * 300),
        message(world.evil.user(), 5),
        {**message(world.evil.user(), "6"), "messages": [1]},
        {**message(world.evil.user(), "7"), "type": "x" * 300},
        {**message(world.evil.user(), "8"), "messages": {"@x:other.example": {"*": {}}}},
        {**message(world.evil.user(), "9"), "messages": {world.alice.user_id: {"NONE": {}}}},
        message(world.evil.user(), "10", "text"),
        message(world.evil.user(), "11", {"deep": deep}),
        message(world.evil.user(), "12", {"long": "x" * 70_000}),
    ):
        await world.evil.send_edu("m.direct_to_device", wrong)
    synced = await world.server.sync(world.alice, since=since)
    assert synced.get("to_device", {"events": []})["events"] == []
    right = message(world.evil.user(), "right", {"nul\0": "\0"})
    for _ in range(2):  # what comes twice is given once
        await world.evil.send_edu("m.direct_to_device", right)
    synced = await world.server.sync(world.alice, since=since)
    assert synced["to_device"]["events"] == [
        {"type": "t", "sender": world.evil.user(), "content": {"nul\0": "\0"}}
    ]


@pytest.mark.parametrize("edu_type", ["m.device_list_update", "m.signing_key_update"])
async def test_device_lists_of_its_own_users_alone(world: World, edu_type: str) -> None:
    room = await world.shared()
    since = (await world.server.sync(world.alice))["next_batch"]
    others = [world.alice.user_id, "@x:other.example", "nonsense"]
    for user in (*others, None, room.peer.user("\0")):
        content: dict[str, Any] = {
            "user_id": user,
            "device_id": "D",
            "stream_id": 1,
            "prev_id": [],
            "keys": {"user_id": user, "device_id": "D", "algorithms": [], "keys": {}},
            "master_key": {"user_id": user, "usage": ["master"], "keys": {"ed25519:A": "A"}},
        }
        await world.evil.send_edu(edu_type, content)
    wrong: tuple[dict[str, Any], ...] = (
        {"device_id": "D" * 300},
        {"device_id": None},
        {"stream_id": "1"},
        {"stream_id": 2**60},
        {"prev_id": [None]},
        {"keys": []},
        {"master_key": []},
    )
    for odd in wrong:
        content = {"user_id": room.peer.user(), "device_id": "D", "stream_id": 1, **odd}
        await world.evil.send_edu(edu_type, content)
    synced = await world.server.sync(world.alice, since=since)
    changed = synced.get("device_lists", {}).get("changed", [])
    assert set(changed) <= {room.peer.user()}
    users, query = [*others, room.peer.user()], "SELECT FROM remote_devices WHERE user_id = ANY($1)"
    assert await world.server.database.fetch(query, users) == []
    await world.is_up()


async def stored(world: World) -> list[int]:
    """How many rows the tables have that EDUs alone write to, when they come."""
    tables = ("receipts", "to_device_messages", "remote_to_device_seen")
    counts = [f"SELECT count(*) FROM {table}" for table in tables]
    return [await world.server.database.fetchval(count) for count in counts]


async def test_edus_that_are_none(world: World) -> None:
    before = await stored(world)
    odd: list[Any] = [
        None,
        1,
        [],
        {},
        {"edu_type": 1, "content": {}},
        {"edu_type": "m.typing"},
        {"edu_type": "m.typing", "content": []},
        {"edu_type": "m.presence", "content": {"push": [None, {}, {"user_id": 1}]}},
        {"edu_type": "\0", "content": {}},
        {"edu_type": "m.unknown", "content": {"a": "x" * 50_000}},
    ]
    assert (await world.evil.send(edus=odd)).body == {"pdus": {}}
    assert await stored(world) == before
    await world.is_up()
