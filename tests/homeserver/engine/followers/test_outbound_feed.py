"""What another server is owed is owed until it is taken, from memory and from the tables alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import orjson
import pytest

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, UserId
from federation.ports import Owed
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, RemoteEduEntry, Unit
from homeserver.engine.followers.outbound_feed import FeedDestinations, LogFeed
from homeserver.storage.federation.destinations import DestinationTable
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    HS2,
    World,
    draft,
    feed_of,
    running,
)

CAROL, DAVE = UserId("@carol:hs1"), UserId("@dave:hs3")
JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)


@dataclass
class Shared:
    """A room of ALICE and BOB, and the feed as HS2 sees it."""

    world: World
    feed: LogFeed
    room_id: RoomId

    @property
    def end(self) -> int:
        return self.world.engine.committer.position

    async def change(self, user_id: UserId) -> int:
        """A change of a user's devices; returns its position once it is looked up."""
        committed = await self.world.engine.committer.submit(Unit([DeviceListEntry(user_id)]))
        await self.settled()
        return committed.last

    async def tell(self, number: int) -> int:
        """A message to a device of HS2."""
        edu = orjson.dumps(_to_device(number))
        committed = await self.world.engine.committer.submit(Unit([RemoteEduEntry(HS2, edu)]))
        return committed.last

    async def settled(self) -> None:
        """All lists are looked up."""
        async with asyncio.timeout(30):
            while self.feed._audience.settled_upto(self.end) < self.end:
                await asyncio.sleep(0)

    async def all_owed(
        self, after: int, *, latest: bool = False, feed: LogFeed | None = None
    ) -> Owed:
        """All that HS2 is given, portion by portion, until nothing is left."""
        feed = feed or self.feed
        pdus: list[bytes] = []
        edus: list[JsonObject] = []
        for _ in range(1000):
            if latest:
                owed = await feed.latest_of_each_room(HS2, after, limit=5)
            else:
                owed = await feed.owed(HS2, after, pdu_limit=50, edu_limit=100)
            assert owed.up_to >= after
            pdus += owed.pdus
            edus += owed.edus
            after = owed.up_to
            if not owed.more:
                return Owed(pdus, edus, after)
        raise AssertionError("the feed never comes to an end")

    async def after_restart(self, after: int) -> Owed:
        """What a feed gives that knows the tables alone."""
        return await self.all_owed(after, feed=feed_of(self.world))

    async def join(self, user_id: UserId, room_id: RoomId) -> int:
        """A user of ours joins; returns the position, once it is looked up."""
        await self.world.engine.writer.send(
            room_id, draft("m.room.member", {"membership": "join"}, user_id, sender=user_id)
        )
        await self.settled()
        return self.end


def _to_device(number: int) -> JsonObject:
    return {"edu_type": "m.direct_to_device", "content": {"message_id": str(number)}}


def numbers(owed: Owed) -> list[int]:
    """The numbers of messages to devices."""
    return [
        int(edu["content"]["message_id"])
        for edu in owed.edus
        if edu["edu_type"] == "m.direct_to_device"
    ]


def lists(owed: Owed) -> list[int | UserId]:
    """Positions of changes of device lists; users whose whole list it is."""
    return [
        edu["content"].get("position") or edu["content"]["joined"]
        for edu in owed.edus
        if edu["edu_type"] == "m.device_list_update"
    ]


def bodies(owed: Owed) -> list[str]:
    """The texts of messages among the events."""
    contents = [orjson.loads(pdu)["content"] for pdu in owed.pdus]
    return [content["body"] for content in contents if "body" in content]


@asynccontextmanager
async def shared(url: str) -> AsyncIterator[Shared]:
    async with running(url) as world:
        feed = feed_of(world)
        lookups = asyncio.get_running_loop().create_task(feed.run())
        room_id = await world.create_room()
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, JOIN))
        try:
            yield Shared(world, feed, room_id)
        finally:
            lookups.cancel()


async def test_a_long_outage_cuts_events_alone(postgres_url: str) -> None:
    async with shared(postgres_url) as one:
        before = one.end
        changes = []
        for number in range(20):
            await one.world.say(one.room_id, f"text {number}")
            await one.tell(number)
            changes.append(await one.change(ALICE))
        owed = await one.all_owed(before, latest=True)
        assert numbers(owed) == list(range(20))
        assert lists(owed) == changes
        assert bodies(owed) == ["text 19"]
        assert owed.up_to == one.end


async def test_after_a_long_outage_all_heads_are_sent(postgres_url: str) -> None:
    async with shared(postgres_url) as one:
        before = one.end
        (fork,) = (await one.world.room(one.room_id)).view.heads
        await one.world.say(one.room_id, "in between")
        ours = await one.world.say(one.room_id, "ours")
        join = draft("m.room.member", {"membership": "join"}, DAVE, sender=DAVE)
        beside = await one.world.remote(one.room_id, join, parents=[fork.event_id])
        await one.world.engine.remote_event_writer.accept_membership(beside)
        heads = {head.event_id for head in (await one.world.room(one.room_id)).view.heads}
        assert heads == {ours, beside.event_id}
        owed = await one.all_owed(before, latest=True)
        assert bodies(owed) == ["ours"]
        assert beside.raw in owed.pdus


@pytest.mark.parametrize("latest", [False, True])
async def test_heads_beside_a_servers_join_are_owed_to_it_after_a_restart_too(
    postgres_url: str, latest: bool
) -> None:
    """It got the state from before its join, and nobody else sends it what stands beside that."""
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        one = Shared(world, feed_of(world), room_id)
        join = await world.remote(room_id, JOIN)
        await world.say(room_id, "beside the join")
        await world.engine.remote_event_writer.accept_membership(join)
        for feed in (one.feed, feed_of(world)):
            owed = await one.all_owed(one.end - 1, feed=feed, latest=latest)
            assert bodies(owed) == ["beside the join"]
        assert bodies(await one.all_owed(one.end, feed=feed_of(world), latest=latest)) == []


async def test_a_server_that_was_thrown_out_while_it_was_away_learns_of_it(
    postgres_url: str,
) -> None:
    async with shared(postgres_url) as one:
        before = one.end
        await one.world.say(one.room_id, "before")
        ban = draft("m.room.member", {"membership": "ban"}, BOB)
        await one.world.engine.writer.send(one.room_id, ban)
        await one.world.say(one.room_id, "after")
        owed = await one.all_owed(before, latest=True)
        assert [orjson.loads(pdu)["content"] for pdu in owed.pdus] == [{"membership": "ban"}]


@pytest.mark.parametrize("late", [False, True])
async def test_what_does_not_fit_into_memory_is_owed_all_the_same(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """With `late`, a change of devices that is looked up after newer messages is one too many."""
    monkeypatch.setattr(limits, "OWED_IN_MEMORY", 10)
    async with shared(postgres_url) as one:
        before, expected = one.end, []
        hold = asyncio.Event()
        sharing = one.world.engine.store.memberships.servers_sharing

        async def held(user_id: str, own: str) -> Sequence[str]:
            await hold.wait()
            return await sharing(user_id, own)

        monkeypatch.setattr(one.world.engine.store.memberships, "servers_sharing", held)
        if not late:
            hold.set()
        count = limits.OWED_IN_MEMORY if late else 25
        for number in range(count):
            if number % limits.OWED_IN_MEMORY == 0:
                await one.world.engine.committer.submit(Unit([DeviceListEntry(ALICE)]))
                expected.append(one.end)
            await one.tell(number)
        hold.set()
        await one.settled()
        owed = await one.all_owed(before)
        assert numbers(owed) == list(range(count))
        assert lists(owed) == expected


@pytest.mark.parametrize("bound", ["OWED_BYTES_PER_DESTINATION", "OWED_BYTES_IN_ALL"])
async def test_what_takes_too_much_memory_is_owed_all_the_same(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    async with shared(postgres_url) as one:
        before = one.end
        await one.tell(0)
        queue = one.feed._queue(HS2)
        size = queue.bytes
        monkeypatch.setattr(limits, bound, 3 * size + 50)
        for number in range(1, 3):
            await one.tell(number)
        assert len(queue.items) == 3
        await one.tell(3)
        assert (len(queue.items), queue.bytes, one.feed._memory.bytes) == (0, 0, 0)
        await one.tell(4)
        assert numbers(await one.all_owed(before)) == list(range(5))
        queue.taken(one.end)
        assert (queue.bytes, one.feed._memory.bytes) == (0, 0), "what was taken takes no space"


async def test_who_had_to_wait_for_a_list_to_be_looked_up_is_told_when_it_is(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(postgres_url) as world:
        feed = feed_of(world)
        one = Shared(world, feed, await world.create_room())
        before = one.end
        await world.engine.committer.submit(Unit([DeviceListEntry(CAROL)]))  # of no concern to HS2
        await one.tell(1)
        assert not (await feed.owed(HS2, before, pdu_limit=50, edu_limit=100)).edus
        told: list[ServerName] = []
        feed.subscribe(told.extend)
        lookups = asyncio.get_running_loop().create_task(feed.run())
        await one.settled()
        lookups.cancel()
        assert set(told) == {HS2}
        assert numbers(await one.all_owed(before)) == [1]


async def test_more_heads_for_a_newcomer_than_a_transaction_takes_come_to_an_end(
    postgres_url: str,
) -> None:
    async with shared(postgres_url) as one:
        queue = one.feed._queue(HS2)
        before = queue.start = one.end
        last = await one.tell(1)
        item = queue.items.pop()
        queue.items.extend([item] * 130)
        first = await one.feed.owed(HS2, before, pdu_limit=50, edu_limit=100)
        assert first.up_to == last
        assert len(first.edus) == 130


async def test_stored_messages_are_forgotten_once_the_cursor_is_past_them(
    postgres_url: str,
) -> None:
    async with shared(postgres_url) as one:
        store = one.world.engine.store.owed
        destinations = FeedDestinations(
            store, DestinationTable(one.world.database), one.world.engine.committer, one.feed
        )
        before = one.end
        last = await one.tell(1)
        await one.all_owed(before)
        known = await destinations.load_destination(HS2)
        for cursor, waiting in ((before, [HS2]), (last, [])):
            await destinations.save_destination(replace(known, cursor=cursor))
            assert (await store.lagging(HS1))[1] == waiting


# Device lists


async def test_a_change_of_devices_makes_a_restarted_server_serve_the_destination(
    postgres_url: str,
) -> None:
    """Nothing else happens in the room after it."""
    async with shared(postgres_url) as one:
        destinations = FeedDestinations(
            one.world.engine.store.owed,
            DestinationTable(one.world.database),
            one.world.engine.committer,
            one.feed,
        )
        known = await destinations.load_destination(HS2)
        await destinations.save_destination(replace(known, cursor=one.end))
        assert await destinations.lagging() == []
        before = one.end
        changed = await one.change(ALICE)
        assert [found.server for found in await destinations.lagging()] == [HS2]
        assert lists(await one.after_restart(before)) == [changed]


async def test_changes_from_before_a_server_came_are_not_owed_to_it(postgres_url: str) -> None:
    """It asks for the lists of those whom it finds in the room, as they are."""
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        one = Shared(world, feed_of(world), room_id)
        for _ in range(3):
            await world.engine.committer.submit(Unit([DeviceListEntry(ALICE)]))
        await world.engine.remote_event_writer.accept_membership(await world.remote(room_id, JOIN))
        await world.engine.committer.submit(Unit([DeviceListEntry(ALICE)]))
        assert lists(await one.after_restart(-1)) == [one.end]


async def test_a_join_shows_the_whole_list_to_servers_that_had_no_updates_before(
    postgres_url: str,
) -> None:
    async with shared(postgres_url) as one:
        before = one.end
        await one.join(CAROL, one.room_id)
        again = draft(
            "m.room.member", {"membership": "join", "displayname": "C"}, CAROL, sender=CAROL
        )
        await one.world.engine.writer.send(one.room_id, again)
        other = await one.world.create_room()
        second = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
        await one.world.engine.remote_event_writer.accept_membership(
            await one.world.remote(other, second)
        )
        await one.join(CAROL, other)
        for owed in (await one.all_owed(before), await one.after_restart(before)):
            assert lists(owed) == [CAROL]


async def test_a_join_that_ended_shows_nothing_and_the_next_one_does(postgres_url: str) -> None:
    async with shared(postgres_url) as one:
        before = one.end
        await one.join(CAROL, one.room_id)
        leave = draft("m.room.member", {"membership": "leave"}, CAROL, sender=CAROL)
        await one.world.engine.writer.send(one.room_id, leave)
        assert lists(await one.after_restart(before)) == []
        await one.join(CAROL, one.room_id)
        assert CAROL in lists(await one.all_owed(before))
        assert CAROL in lists(await one.after_restart(before))


async def test_a_room_of_our_own_users_shows_no_list(postgres_url: str) -> None:
    async with shared(postgres_url) as one:
        before, room_id = one.end, await one.world.create_room()
        await one.join(CAROL, room_id)
        assert lists(await one.all_owed(before)) == []
        assert lists(await one.after_restart(before)) == []


async def test_of_what_is_not_worth_keeping_the_newest_waits(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PASSING_EDUS", 2)
    async with shared(postgres_url) as one:
        feed = feed_of(one.world)
        for number in range(3):
            feed.forward([HS2], {"edu_type": "m.typing", "content": {"number": number}})
        owed = await one.all_owed(one.end, feed=feed)
    assert [edu["content"]["number"] for edu in owed.edus] == [1, 2]
