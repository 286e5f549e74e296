"""`device_lists` of a sync: from memory and, for readers who were away, from the database."""

from collections.abc import Sequence

import pytest

from federation.events.ids import EventId, RoomId, UserId
from homeserver.engine.entries import DeviceListEntry, Entry, StateChange, StateEntry, Unit
from homeserver.services.encryption.device_lists import DeviceLists
from homeserver.storage.database import Database
from homeserver.storage.encryption.keys import KeySignature, store_signatures
from homeserver.storage.rooms import state_changes
from homeserver.storage.rooms.state_changes import StateChangeRow
from tests.homeserver.device_world import (
    ALICE,
    ANNA,
    BOB,
    ROOM,
    Clock,
    Log,
    Remote,
    Rooms,
    encryption_of,
    members_state,
)

CAROL = UserId("@carol:there.test")
OTHER = RoomId("!other:here.test")


GONE = UserId("@gone:there.test")


def member(
    user_id: UserId, membership: str, *, before: str | None = None, room_id: RoomId = ROOM
) -> Entry:
    """A change of membership."""
    event_id = EventId(f"${membership}-{user_id}")
    change = StateChange(("m.room.member", user_id), event_id, membership, before)
    return StateEntry(room_id, (change,))


def joined(room_id: RoomId, user_id: UserId, *, before: str | None = None) -> Entry:
    return member(user_id, "join", before=before, room_id=room_id)


def left(room_id: RoomId, user_id: UserId) -> Entry:
    return member(user_id, "leave", before="join", room_id=room_id)


class World:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.log, self.rooms = Log(database), Rooms()
        self.lists = self.make()

    def make(self) -> DeviceLists:
        made = encryption_of(self.database, self.log, self.rooms, remote=Remote(), clock=Clock())
        return made.device_lists

    async def after(self, *entries: Entry) -> tuple[set[UserId], set[UserId]]:
        """What a sync of Alice says after these entries."""
        before = self.log.position
        self.log.publish(entries)
        return await self.lists.changes(ALICE, after=before, up_to=self.log.position)


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
    assert await restarted.changes(ALICE, after=position - 1, up_to=position) == (
        {ALICE, BOB},
        set(),
    )


async def test_nothing_new_asks_nobody(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    await world.after(DeviceListEntry(BOB))
    await world.database.close()
    assert await world.lists.changes(ALICE, after=1, up_to=1) == (set(), set())


async def test_only_the_asked_stretch_counts(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB, ANNA)
    world.log.publish([DeviceListEntry(BOB), DeviceListEntry(ANNA), DeviceListEntry(ALICE)])
    assert await world.lists.changes(ALICE, after=1, up_to=2) == ({ANNA}, set())


async def test_who_joins_a_shared_room_is_news(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    assert await world.after(joined(ROOM, BOB)) == ({BOB}, set())
    assert await world.after(joined(OTHER, CAROL)) == (set(), set())


async def test_a_new_display_name_is_no_news(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB)
    assert await world.after(joined(ROOM, BOB, before="join")) == (set(), set())
    assert await world.after(joined(ROOM, BOB, before="invite")) == ({BOB}, set())


async def test_joining_a_room_makes_its_members_news(world: World) -> None:
    world.rooms.put(ROOM, ALICE, BOB, ANNA)
    assert await world.after(joined(ROOM, ALICE)) == ({ALICE, BOB, ANNA}, set())


async def test_who_left_is_left_unless_another_room_is_shared(world: World) -> None:
    world.rooms.put(ROOM, ALICE)
    assert await world.after(left(ROOM, BOB)) == (set(), {BOB})
    world.rooms.put(OTHER, ALICE, BOB)
    assert await world.after(left(ROOM, BOB)) == (set(), set())


async def test_leaving_a_room_leaves_its_members_of_that_moment(world: World) -> None:
    room = world.rooms.put(ROOM, BOB, CAROL)  # who came later
    world.rooms.put(OTHER, ALICE, ANNA)
    room.after[EventId(f"$leave-{ALICE}")] = members_state([BOB, ANNA], [GONE])
    assert await world.after(left(ROOM, ALICE)) == (set(), {BOB, GONE})


@pytest.mark.parametrize("before", ["invite", "knock", None])
async def test_who_was_not_joined_learns_nothing_of_a_rooms_members(
    world: World, before: str | None
) -> None:
    room = world.rooms.put(ROOM, BOB, CAROL)
    for membership in ("invite", "knock", "leave", "ban"):
        entry = member(ALICE, membership, before=before)
        room.after[EventId(f"${membership}-{ALICE}")] = members_state([BOB, CAROL])
        assert await world.after(entry, joined(ROOM, CAROL)) == (set(), set())


async def test_an_invited_user_is_news_and_kept_until_they_go(world: World) -> None:
    """They are encrypted for, and a device of theirs that is new counts."""
    room = world.rooms.put(ROOM, ALICE)
    room.invited = {BOB}
    assert await world.after(member(BOB, "invite")) == ({BOB}, set())
    assert await world.after(left(OTHER, BOB)) == (set(), set())
    assert await world.after(DeviceListEntry(BOB)) == ({BOB}, set())
    room.invited = set()
    assert await world.after(member(BOB, "leave", before="invite")) == (set(), set())


async def test_turning_encryption_on_makes_a_rooms_members_news(world: World) -> None:
    room = world.rooms.put(ROOM, ALICE, BOB)
    room.invited = {CAROL}
    world.rooms.put(OTHER, BOB, ANNA)
    change = StateChange(("m.room.encryption", ""), EventId("$encryption"))
    assert await world.after(StateEntry(ROOM, (change,))) == ({ALICE, BOB, CAROL}, set())
    assert await world.after(StateEntry(OTHER, (change,))) == (set(), set())


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
            "INSERT INTO rooms (room_row_id, room_id, version) VALUES (1, $1, '12')", ROOM
        )
        changes = [
            StateChangeRow(1, 3, "m.room.member", ANNA, EventId("$j"), "join", None),
            StateChangeRow(1, 4, "m.room.member", GONE, EventId("$l"), "leave", "join"),
            StateChangeRow(1, 5, "m.room.member", CAROL, EventId("$r"), "leave", "invite"),
            StateChangeRow(1, 6, "m.room.encryption", "", EventId("$e"), None, None),
        ]
        await state_changes.insert(connection, changes)
    world.log.position = 6
    world.lists = world.make()
    assert await world.lists.changes(ALICE, after=0, up_to=5) == ({BOB, ANNA}, {GONE})
    assert await world.lists.changes(ALICE, after=1, up_to=2) == (set(), set())
    everybody = {ALICE, BOB, ANNA}
    assert await world.lists.changes(ALICE, after=5, up_to=6) == (everybody, set())
