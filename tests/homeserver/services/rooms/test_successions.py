"""Tags and direct chats go with a user to the room that replaces another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from federation.events.ids import RoomId
from homeserver.services.account_data.account_data import with_successor
from tests.homeserver.room_world import ALICE, BOB, CAROL
from tests.homeserver.sync_world import SyncWorld, sync_world

TAGS = {"tags": {"m.favourite": {"order": 0.5}}}


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


async def tagged_room(syncs: SyncWorld) -> str:
    """A room of ALICE and BOB, a favourite and a direct chat for both."""
    room_id = await syncs.world.room(preset="public_chat", room_version="11")
    await syncs.join(room_id, BOB)
    for user, other in ((ALICE, BOB), (BOB, ALICE)):
        await syncs.account_data.put(user, room_id, "m.tag", TAGS)
        await syncs.account_data.put(user, "", "m.direct", {other: [room_id], "x": "odd"})
    return room_id


async def told(syncs: SyncWorld, user: Any, room_id: str) -> tuple[list[Any], dict[str, Any]]:
    """The tags of a room, and m.direct, by a first sync."""
    answer = await syncs.get(user)
    room = answer["rooms"]["join"][room_id]
    tags = [e["content"] for e in room["account_data"]["events"] if e["type"] == "m.tag"]
    [direct] = [e["content"] for e in answer["account_data"]["events"] if e["type"] == "m.direct"]
    return tags, direct


async def test_tags_and_direct_chats_are_carried_over_when_a_user_joins(syncs: SyncWorld) -> None:
    old = await tagged_room(syncs)
    reply = await syncs.world.in_room(ALICE, "POST", old, "upgrade", {"new_version": "11"})
    new = reply.body["replacement_room"]
    assert await told(syncs, ALICE, new) == ([TAGS], {BOB: [old, new], "x": "odd"})
    since = (await syncs.get(BOB))["next_batch"]
    await syncs.join(new, BOB, CAROL)
    room = (await syncs.get(BOB, since=since))["rooms"]["join"][new]
    assert [event["content"] for event in room["account_data"]["events"]] == [TAGS]
    assert (await told(syncs, BOB, new))[1] == {ALICE: [old, new], "x": "odd"}
    room = (await syncs.get(CAROL))["rooms"]["join"][new]
    assert room["account_data"]["events"] == []


async def test_what_is_set_for_the_new_room_stays(syncs: SyncWorld) -> None:
    old = await tagged_room(syncs)
    reply = await syncs.world.in_room(ALICE, "POST", old, "upgrade", {"new_version": "11"})
    new = reply.body["replacement_room"]
    other: dict[str, Any] = {"tags": {"m.lowpriority": {}}}
    await syncs.account_data.put(BOB, new, "m.tag", other)
    await syncs.join(new, BOB)
    assert (await told(syncs, BOB, new))[0] == [other]


async def test_a_room_that_only_says_so_replaces_nothing(syncs: SyncWorld) -> None:
    old = await tagged_room(syncs)
    claim = {"predecessor": {"room_id": old, "event_id": "$x"}}
    false = await syncs.world.room(CAROL, preset="public_chat", creation_content=claim)
    await syncs.join(false, BOB)
    assert await told(syncs, BOB, false) == ([], {ALICE: [old], "x": "odd"})


def test_an_odd_list_of_direct_chats_stays_as_it_is() -> None:
    old, new = RoomId("!old:x"), RoomId("!new:x")
    odd: object
    for odd in (None, [], "x", {}, {"@a:x": "odd"}, {"@a:x": ["!other:x"]}):
        assert with_successor(odd, old, new) is None
    known = {"@a:x": [old, new]}
    assert with_successor(known, old, new) is None
