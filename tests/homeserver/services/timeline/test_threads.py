"""Lists of a room's threads."""

from collections.abc import AsyncIterator

import pytest

from homeserver import limits
from tests.homeserver.related_world import (
    RelatedRoom,
    bundle_of,
    emptied_syncs,
    ids,
    related_room,
    relates,
)
from tests.homeserver.room_world import ALICE, BOB, CAROL
from tests.homeserver.sync_world import SyncWorld


@pytest.fixture
async def syncs(shared_database_url: str) -> AsyncIterator[SyncWorld]:
    async with emptied_syncs(shared_database_url) as world:
        yield world


async def listed(room: RelatedRoom, limit: int = 10, **query: object) -> list[str]:
    """The roots of all pages, read by ALICE."""
    found: list[str] = []
    start = None
    for _ in range(50):
        reply = await room.threads(ALICE, limit=limit, start=start, **query)
        assert reply.status == 200, reply
        assert len(reply.body["chunk"]) <= limit
        found += ids(reply.body["chunk"])
        start = reply.body.get("next_batch")
        if start is None:
            return found
    raise AssertionError("paging does not end")


async def test_threads_are_in_the_order_of_their_newest_events(syncs: SyncWorld) -> None:
    """Each once, with its summary, on pages of any size."""
    room = await related_room(syncs, BOB)
    roots = [await room.say() for _ in range(4)]
    await room.say()
    assert await listed(room) == []
    for root in (0, 1, 2, 0, 3, 1, 1):
        await room.answer(BOB, roots[root])
    for limit in (1, 2, 3, 10):
        assert await listed(room, limit) == [roots[1], roots[3], roots[0], roots[2]]
    assert await listed(room, include="participated") == [roots[one] for one in (1, 3, 0, 2)]
    assert ids((await room.threads(BOB, include="participated")).body["chunk"])
    [newest] = (await room.threads(ALICE, limit=1)).body["chunk"]
    assert bundle_of(newest)["m.thread"]["count"] == 3


async def test_only_the_threads_in_which_the_user_spoke(syncs: SyncWorld) -> None:
    """By the root, or by an event."""
    room = await related_room(syncs, BOB, CAROL)
    mine, his, hers = await room.say(ALICE), await room.say(BOB), await room.say(CAROL)
    for root, user in ((mine, BOB), (his, BOB), (hers, ALICE)):
        await room.answer(user, root)
    for limit in (1, 10):
        assert await listed(room, limit, include="participated") == [hers, mine]
        assert await listed(room, limit, include="all") == [hers, his, mine]


async def test_a_page_ends_early_after_many_threads_that_are_not_wanted(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on behind them."""
    monkeypatch.setattr(limits, "THREAD_READS", 1)
    room = await related_room(syncs, BOB)
    mine = await room.say(ALICE)
    await room.answer(BOB, mine)
    for _ in range(5):
        await room.answer(BOB, await room.say(BOB))
    reply = await room.threads(ALICE, limit=1, include="participated")
    assert (reply.body["chunk"], "next_batch" in reply.body) == ([], True)
    assert await listed(room, 1, include="participated") == [mine]
    monkeypatch.setattr(limits, "THREAD_READS", 3)
    reply = await room.threads(ALICE, limit=1, include="participated")
    assert ids(reply.body["chunk"]) == [mine]


async def test_the_root_of_an_ignored_user_is_redacted(syncs: SyncWorld) -> None:
    """Their events don't move a thread, and alone make none."""
    room = await related_room(syncs, BOB)
    his, mine = await room.say(BOB), await room.say(ALICE)
    await room.answer(ALICE, his)
    await room.answer(ALICE, mine)
    await room.answer(BOB, his)
    only_his = await room.say(ALICE)
    await room.answer(BOB, only_his)
    assert await listed(room) == [only_his, his, mine]
    await room.ignore(ALICE, BOB)
    page = (await room.threads(ALICE)).body["chunk"]
    assert ids(page) == [mine, his]
    assert [one["content"] for one in page] == [{"msgtype": "m.text", "body": "said"}, {}]
    assert bundle_of(page[1])["m.thread"]["count"] == 1


async def test_who_may_not_read_the_room_gets_403(syncs: SyncWorld) -> None:
    """One who left gets the threads of their time."""
    room = await related_room(syncs, BOB)
    first, second = await room.say(), await room.say()
    await room.answer(ALICE, first)
    await syncs.world.in_room(BOB, "POST", room.room_id, "leave")
    await room.answer(ALICE, second)
    assert await listed(room) == [second, first]
    assert ids((await room.threads(BOB)).body["chunk"]) == [first]
    reply = await room.threads(CAROL)
    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")


async def test_a_thread_at_a_state_event_is_listed(syncs: SyncWorld) -> None:
    """With its summary, which it has nowhere else."""
    room = await related_room(syncs)
    reply = await syncs.world.put_state(ALICE, room.room_id, "m.room.topic", {"topic": "t"})
    root = reply.body["event_id"]
    await room.answer(ALICE, root)
    [found] = (await room.threads()).body["chunk"]
    assert (found["event_id"], bundle_of(found)["m.thread"]["count"]) == (root, 1)


async def test_threads_without_a_root_here_and_at_related_events_are_not_listed(
    syncs: SyncWorld,
) -> None:
    room = await related_room(syncs)
    await room.say(**relates("m.thread", "$unknown"))
    assert await listed(room) == []
