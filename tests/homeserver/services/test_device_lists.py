"""`device_lists` of a sync: from memory and, for readers who were away, from the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from federation.events.ids import EventId, RoomId, UserId
from federation.ports import KnownEvent
from homeserver.engine.entries import (
    DeviceListEntry,
    Entry,
    EventEntry,
    StateChange,
    StateEntry,
    Unit,
)
from homeserver.services.device_lists import DeviceLists
from homeserver.storage.database import Database
from homeserver.storage.keys import KeySignature, store_signatures
from tests.homeserver.device_world import ALICE, ANNA, BOB, ROOM, Log, Rooms

CAROL = UserId("@carol:there.test")
OTHER = RoomId("!other:here.test")


@dataclass
class FakeEvent:
    """As much of an event as matters here."""

    event_id: EventId
    membership: str


def joined(room_id: RoomId, user_id: UserId, *, before: str | None = None) -> Entry:
    event_id = EventId("$now")
    return EventEntry(
        room_id,
        cast(Any, FakeEvent(event_id, "join")),
        nid=1,
        order=(1, 0),
        client=b"{}",
        changes=(StateChange(("m.room.member", user_id), event_id, "join"),),
        replaces=None if before is None else EventId(before),
    )


def left(room_id: RoomId, user_id: UserId) -> Entry:
    return StateEntry(room_id, (StateChange(("m.room.member", user_id), EventId("$l"), "leave"),))


class World:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.log, self.rooms = Log(database), Rooms()
        self.lists = self.make()

    def make(self) -> DeviceLists:
        made = DeviceLists(
            database=self.database,
            rooms=self.rooms,
            events=self.rooms,
            shared=self.rooms,
            position=self.log.position,
        )
        self.log.followers.append(made.on_commit)
        return made

    async def after(self, *entries: Entry) -> tuple[set[UserId], set[UserId]]:
        """What a sync of Alice says after these entries."""
        before = self.log.position
        self.log.publish(entries)
        return await self.lists.changes(ALICE, after=before, upto=self.log.position)


@pytest.fixture
async def world(device_database: Database) -> World:
    return World(device_database)


async def test_changes_of_users_who_share_a_room_and_of_oneself(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    world.rooms.put(OTHER, CAROL)
    entries: Sequence[Entry] = [DeviceListEntry(user) for user in (ALICE, BOB, CAROL)]
    assert await world.after(*entries) == ({ALICE, BOB}, set())


async def test_a_signature_on_anothers_key_is_news_of_the_other_for_its_maker(
    world: World,
) -> None:
    """From memory and, for a reader from before a restart, from the database."""
    world.rooms.put(ROOM, ALICE, BOB)
    assert await world.after(DeviceListEntry(ALICE, (BOB, CAROL))) == ({ALICE, BOB}, set())
    assert await world.after(DeviceListEntry(ANNA, (BOB,))) == (set(), set())
    await world.log.submit(Unit(entries=[DeviceListEntry(ALICE, (BOB,))]))
    made = KeySignature(BOB, "master", ALICE, "ed25519:key", "signature")
    async with world.database.transaction() as connection:
        await store_signatures(connection, [made])
    restarted = world.make()
    position = world.log.position
    assert await restarted.changes(ALICE, after=position - 1, upto=position) == (
        {ALICE, BOB},
        set(),
    )


async def test_nothing_new_asks_nobody(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    await world.after(DeviceListEntry(BOB))
    await world.database.close()
    assert await world.lists.changes(ALICE, after=1, upto=1) == (set(), set())


async def test_only_the_asked_stretch_counts(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB, ANNA)
    world.log.publish([DeviceListEntry(BOB), DeviceListEntry(ANNA), DeviceListEntry(ALICE)])
    assert await world.lists.changes(ALICE, after=1, upto=2) == ({ANNA}, set())


async def test_who_joins_a_shared_room_is_news(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    assert await world.after(joined(ROOM, BOB)) == ({BOB}, set())
    assert await world.after(joined(OTHER, CAROL)) == (set(), set())


async def test_a_new_display_name_is_no_news(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    before = FakeEvent(EventId("$before"), "join")
    world.rooms.known[EventId("$before")] = KnownEvent(cast(Any, before))
    assert await world.after(joined(ROOM, BOB, before="$before")) == (set(), set())
    before.membership = "invite"
    assert await world.after(joined(ROOM, BOB, before="$before")) == ({BOB}, set())


async def test_joining_a_room_makes_its_members_news(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB, ANNA)
    assert await world.after(joined(ROOM, ALICE)) == ({ALICE, BOB, ANNA}, set())


async def test_who_left_is_left_unless_another_room_is_shared(world: World) -> None:
    world.rooms.put(ROOM, ALICE)
    assert await world.after(left(ROOM, BOB)) == (set(), {BOB})
    world.rooms.put(OTHER, ALICE, BOB)
    assert await world.after(left(ROOM, BOB)) == (set(), set())


async def test_leaving_a_room_leaves_its_members(world: World) -> None:
    world.rooms.put(ROOM, BOB, ANNA)
    world.rooms.put(OTHER, ALICE, ANNA)
    assert await world.after(left(ROOM, ALICE)) == (set(), {BOB})


async def test_many_members_are_looked_up_at_once(world: World) -> None:
    crowd = [UserId(f"@u{number}:there.test") for number in range(80)]
    world.rooms.put(ROOM, ALICE, *crowd)
    changed, gone = await world.after(joined(ROOM, ALICE))
    assert changed == {ALICE, *crowd}
    assert gone == set()


async def test_a_reader_from_before_a_restart_asks_the_database(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB, ANNA)
    for user in (BOB, CAROL):
        await world.log.submit(Unit(entries=[DeviceListEntry(user)]))
    async with world.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO rooms (room_nid, room_id, version) VALUES (1, $1, '12')", ROOM
        )
        await connection.execute(
            "INSERT INTO state_changes (room_nid, position, type, state_key, event_id, membership)"
            " VALUES (1, 3, 'm.room.member', $1, '$j', 'join'),"
            " (1, 4, 'm.room.member', $2, '$l', 'leave')",
            ANNA,
            "@gone:there.test",
        )
    world.log.position = 4
    world.lists = world.make()
    assert await world.lists.changes(ALICE, after=0, upto=4) == (
        {BOB, ANNA},
        {UserId("@gone:there.test")},
    )
    assert await world.lists.changes(ALICE, after=1, upto=2) == (set(), set())
