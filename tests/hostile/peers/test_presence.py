"""Hostile presence: a server speaks for its own users, to those who share a room with them, in
values that can be, and fills no memory.

Spec: server-server API, "Presence".
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from federation.limits import PRESENCE_STATUS_CHARACTERS_MAX, PRESENCE_UPDATES_PER_EDU_MAX
from tests.hostile.peers.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="module")
TABLES = {"presence": {"mode": "on"}}


def update(user: Any, presence: Any = "online", **more: Any) -> dict[str, Any]:
    """One user's update."""
    return {"user_id": user, "presence": presence, "last_active_ago": 5, **more}


async def shown(world: World) -> dict[str, dict[str, Any]]:
    """The presence of others in an initial sync."""
    synced = await world.server.sync(world.alice)
    events = synced.get("presence", {"events": []})["events"]
    return {one["sender"]: one["content"] for one in events if one["sender"] != world.alice.user_id}


async def say(world: World, *push: Any) -> None:
    """Sends presence; the last update shows that all was handled."""
    await world.evil.send_edu("m.presence", {"push": list(push)})


async def test_presence_of_its_own_users_who_share_a_room_alone(world: World) -> None:
    room = await world.shared()
    private = await world.server.register("hidden")
    others = [
        world.alice.user_id,
        private.user_id,
        "@x:other.example",
        room.peer.user("never-joined"),
        "nonsense",
        "@" + "x" * 300 + ":evil.example",
        5,
        None,
        ["@a:evil.example"],
    ]
    before = set(await shown(world))
    await say(world, *(update(user, status_msg="forged") for user in others))
    assert set(await shown(world)) == before
    await say(world, update(room.peer.user()))
    assert set(await shown(world)) == {*before, room.peer.user()}
    path = f"/presence/{quote(world.alice.user_id)}/status"
    own = await world.server.ok("GET", path, by=world.alice)
    assert "status_msg" not in own
    path = f"/presence/{quote(room.peer.user())}/status"
    assert (await world.server.call("GET", path, by=private)).status == 403


async def test_values_that_cannot_be(world: World) -> None:
    room = await world.shared()
    user = room.peer.user()
    wrong: list[Any] = [
        update(user, "dancing"),
        update(user, ["online"]),
        update(user, {"online": 1}),
        update(user, None),
        update(user, last_active_ago=-1),
        update(user, last_active_ago=True),
        update(user, last_active_ago="5"),
        update(user, last_active_ago=[5]),
        update(user, currently_active="yes"),
        update(user, currently_active=1),
        update(user, status_msg={"a": 1}),
        update(user, status_msg="x" * (PRESENCE_STATUS_CHARACTERS_MAX + 1)),
        {"user_id": user},
        {"presence": "online"},
        [user],
        user,
        None,
    ]
    await say(world, update(user, "unavailable", status_msg="before"))
    await say(world, *wrong)
    await say(world, *[update(user)] * (PRESENCE_UPDATES_PER_EDU_MAX + 1))
    odd: list[Any] = [None, {}, "x", 5, [[]]]
    for push in odd:
        await world.evil.send_edu("m.presence", {"push": push})
    content = (await shown(world))[user]
    assert (content["presence"], content["status_msg"]) == ("unavailable", "before")
    await world.is_up()


async def test_unknown_fields_are_ignored(world: World) -> None:
    room = await world.shared()
    user = room.peer.user()
    more = {"displayname": "Admin", "avatar_url": "mxc://x/y", "z": {"deep": [1] * 1000}}
    await say(world, update(user, currently_active=True, **more))
    content = (await shown(world))[user]
    content.pop("last_active_ago")
    assert content == {"presence": "online", "currently_active": True}


async def test_a_flood_of_users_and_changes_leaves_one_record(world: World) -> None:
    """1,000 strangers leave nothing, 1,000 changes of one user the last alone."""
    room = await world.shared()
    board = world.server.services.ephemeral.presence.board
    user = room.peer.user()
    await say(world, update(user))
    before = len(board)
    await say(world, *(update(f"@stranger{number}:evil.example") for number in range(1000)))
    states = ["online", "unavailable"]
    await say(world, *(update(user, states[number % 2]) for number in range(1000)))
    assert len(board) == before
    assert (await shown(world))[user]["presence"] == "unavailable"


async def test_of_many_changes_a_sync_has_the_last(world: World) -> None:
    room = await world.shared()
    since = (await world.server.sync(world.alice))["next_batch"]
    for number in range(20):
        await say(world, update(room.peer.user(), status_msg=str(number)))
    synced = await world.server.sync(world.alice, since=since)
    events = synced["presence"]["events"]
    [event] = [one for one in events if one["sender"] == room.peer.user()]
    assert event["content"]["status_msg"] == "19"
