"""The effect of single entries of the log on counts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from homeserver import limits
from homeserver.services.push.evaluator import Evaluated
from homeserver.storage.push.unread import UnreadTable
from tests.homeserver.room_world import ALICE, BOB, CAROL, DAVE
from tests.homeserver.services.push.counted_rooms import in_thread, never_by_itself, shared_room
from tests.homeserver.services.push.random_history import counted
from tests.homeserver.sync_world import SyncWorld, sync_world


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    """Yield a world of syncs."""
    async with sync_world(postgres_url) as world:
        yield world


async def test_a_message_shows_that_its_sender_has_read_its_thread(syncs: SyncWorld) -> None:
    """What is before it; a new name or topic shows nothing."""
    room_id = await shared_room(syncs, BOB)
    [root] = await syncs.say(ALICE, room_id, "one")
    await in_thread(syncs, ALICE, room_id, root)
    content = {"membership": "join", "displayname": "Bobby"}
    assert (await syncs.world.put_state(BOB, room_id, "m.room.member", content, BOB)).status == 200
    assert await counted(syncs.world, BOB, room_id) == {"main": (1, 0), root: (1, 1)}
    await syncs.say(BOB, room_id, "two")
    assert await counted(syncs.world, BOB, room_id) == {root: (1, 1)}


async def test_members_count_from_their_join_to_their_leave(syncs: SyncWorld) -> None:
    """Nothing is left of an earlier stay; invited users have no counts, but are told."""
    told: list[Evaluated] = []
    syncs.world.push.evaluator.subscribe(told.append)
    room_id = await shared_room(syncs, BOB)
    await syncs.say(ALICE, room_id, "one")
    await syncs.world.in_room(BOB, "POST", room_id, "leave")
    await syncs.world.in_room(ALICE, "POST", room_id, "invite", {"user_id": CAROL})
    await syncs.say(ALICE, room_id, "two")
    await syncs.join(room_id, BOB, CAROL)
    await syncs.say(ALICE, room_id, "three")
    assert await counted(syncs.world, BOB, room_id) == {"main": (1, 0)}
    assert await counted(syncs.world, CAROL, room_id) == {"main": (1, 0)}
    invites = [one.notified([ALICE, BOB, CAROL]) for one in told if one.others.get(CAROL)]
    assert [list(one) for one in invites] == [[CAROL]]


async def test_an_invite_by_an_ignored_user_notifies_nobody(syncs: SyncWorld) -> None:
    """Nor do their messages; their state events do."""
    told: list[Evaluated] = []
    syncs.world.push.evaluator.subscribe(told.append)
    ignored: Any = {"ignored_users": {ALICE: {}}}
    await syncs.account_data.put(BOB, "", "m.ignored_user_list", ignored)
    await syncs.world.room(invite=[BOB])
    room_id = await shared_room(syncs, BOB, CAROL)
    await syncs.say(ALICE, room_id, "one")
    tombstone = {"body": "gone", "replacement_room": room_id}
    await syncs.world.put_state(ALICE, room_id, "m.room.tombstone", tombstone)
    assert await counted(syncs.world, BOB, room_id) == {"main": (1, 1)}
    assert await counted(syncs.world, CAROL, room_id) == {"main": (2, 1)}
    assert all(BOB not in one.notified([BOB]) for one in told if one.entry.room_id != room_id)


async def test_relations_are_followed_three_times(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find the thread; an event behind more of them is of the main timeline."""
    room_id = await shared_room(syncs, BOB)
    [root] = await syncs.say(ALICE, room_id, "one")
    last = await in_thread(syncs, ALICE, room_id, root)
    for i in range(limits.PUSH_RELATIONS_FOLLOWED + 1):
        relation = {"rel_type": "m.reference", "event_id": last}
        content = {"msgtype": "m.text", "body": "more", "m.relates_to": relation}
        reply = await syncs.world.send(ALICE, room_id, content, transaction=f"hop{i}")
        last = reply.body["event_id"]
    in_it = 1 + limits.PUSH_RELATIONS_FOLLOWED
    assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0), root: (in_it, 1)}
    monkeypatch.setattr(limits, "PUSH_RELATIONS_FOLLOWED", 10)
    await in_thread(syncs, ALICE, room_id, "$of-another-room")
    assert (await counted(syncs.world, BOB, room_id))["$of-another-room"] == (1, 1)


async def test_the_room_of_two_that_became_three(syncs: SyncWorld) -> None:
    """Facts are those of the event's time: here the number of members, which a rule compares."""
    room_id = await shared_room(syncs, BOB)
    condition = {"kind": "room_member_count", "is": "2"}
    body = {"actions": ["notify", {"set_tweak": "highlight"}], "conditions": [condition]}
    path = "/pushrules/global/override/two"
    assert (await syncs.world.call(BOB, "PUT", path, body)).status == 200
    await asyncio.gather(
        syncs.say(ALICE, room_id, "one"),
        syncs.join(room_id, DAVE),
    )
    await syncs.say(ALICE, room_id, "two")
    events = (await syncs.get(BOB))["rooms"]["join"][room_id]["timeline"]["events"]
    ids = [one["content"].get("body") or one.get("state_key") for one in events]
    highlighted = 1 + (ids.index("one") < ids.index(DAVE))  # one of them is the join
    assert await counted(syncs.world, BOB, room_id) == {"main": (3, highlighted)}


async def test_a_thread_is_known_after_a_restart_though_its_message_is_gone(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redaction takes the relation away, by which one would find what its sender has read."""
    never_by_itself(monkeypatch)
    async with sync_world(postgres_url) as syncs:
        room_id = await shared_room(syncs, BOB)
        await counted(syncs.world, BOB, room_id)
        root, _ = await syncs.say(ALICE, room_id, "one", "two")
        await in_thread(syncs, ALICE, room_id, root)
        answer = await in_thread(syncs, BOB, room_id, root)
        assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}
        assert syncs.world.counting is not None
        syncs.world.counting.cancel()
        path = f"redact/{quote(answer)}/t"
        assert (await syncs.world.in_room(BOB, "PUT", room_id, path, {})).status == 200
    async with sync_world(postgres_url) as syncs:
        assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}


async def test_names_are_those_of_the_events_time(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the room, as it is read, is ahead of the log."""
    never_by_itself(monkeypatch)
    world = syncs.world
    rule = {"actions": ["notify", {"set_tweak": "highlight"}]}
    conditions = [{"kind": "contains_display_name"}]
    path = "/pushrules/global/override/name"
    body = {**rule, "conditions": conditions}
    assert (await world.call(BOB, "PUT", path, body)).status == 200
    room_id = await shared_room(syncs)

    async def rename(name: str) -> None:
        content = {"membership": "join", "displayname": name}
        assert (await world.put_state(BOB, room_id, "m.room.member", content, BOB)).status == 200

    await rename("Bobby")  # a join with a name
    await world.push.counts.settled()
    world.push.evaluator.audiences.drop(room_id)
    await syncs.say(ALICE, room_id, "Bobby?")
    await rename("Robert")
    await rename("Rob")
    await syncs.say(ALICE, room_id, "Bobby, Robert?", "Rob!")
    assert await counted(world, BOB, room_id) == {"main": (3, 2)}


async def test_who_is_ignored_later_has_notified(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the log before is evaluated before."""
    never_by_itself(monkeypatch)
    room_id = await shared_room(syncs, BOB)
    await syncs.world.push.counts.settled()
    syncs.world.push.evaluator.audiences.drop(room_id)
    await syncs.say(ALICE, room_id, "one")
    ignored: Any = {"ignored_users": {ALICE: {}}}
    await syncs.account_data.put(BOB, "", "m.ignored_user_list", ignored)
    await syncs.say(ALICE, room_id, "two")
    assert await counted(syncs.world, BOB, room_id) == {"main": (1, 0)}


async def test_what_concerns_nobody_is_not_kept(syncs: SyncWorld) -> None:
    """The only one of this server in a room is told nothing of their own messages."""
    room_id = await shared_room(syncs)
    await syncs.say(ALICE, room_id, "one")
    await syncs.join(room_id, BOB)
    await syncs.say(ALICE, room_id, "two")
    await syncs.world.push.counts.settled()
    kept = await syncs.world.database.fetch("SELECT room_id FROM push_events")
    assert len(kept) == 1
    assert await counted(syncs.world, BOB, room_id) == {"main": (1, 0)}


async def test_the_newest_event_is_read_without_a_look_at_older_ones(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was summed, and what wasn't, stands before it."""
    monkeypatch.setattr(limits, "PUSH_EVENTS_UNSUMMED", 2)
    room_id = await shared_room(syncs, BOB)
    await syncs.say(ALICE, room_id, "1", "2")
    assert await counted(syncs.world, BOB, room_id) == {"main": (2, 0)}
    looks: list[str] = []
    count = UnreadTable.count

    async def noted(table: UnreadTable, *asked: Any) -> Any:
        looks.append(asked[3])
        return await count(table, *asked)

    monkeypatch.setattr(UnreadTable, "count", noted)
    (third,) = await syncs.say(ALICE, room_id, "3")
    assert await counted(syncs.world, BOB, room_id) == {"main": (3, 0)}
    await syncs.receipts.send(BOB, room_id, "m.read", third)
    assert await counted(syncs.world, BOB, room_id) == {}
    assert looks == []
