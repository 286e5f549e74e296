"""Joins and leaves that were begun, in the database."""

import msgspec
import pytest

from federation.events.ids import EventId, RoomId, ServerName, UserId
from homeserver.storage.database import Database
from homeserver.storage.rooms.joining_intents import Intent, JoiningIntentTable

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
ROOM, OTHER = RoomId("!room:hs2"), RoomId("!other:hs2")
JOIN = Intent(
    ALICE,
    ROOM,
    "join",
    EventId("$invite"),
    (ServerName("hs3"), ServerName("hs2")),
    {"reason": "\0\U0001f600", "n": [2**62, -1.5, None]},
    attempts=3,
)


@pytest.fixture
def table(database: Database) -> JoiningIntentTable:
    return JoiningIntentTable(database)


async def test_an_intent_is_read_as_it_was_written(table: JoiningIntentTable) -> None:
    assert await table.load(*JOIN.key) is None
    await table.save(JOIN)
    assert await table.load(*JOIN.key) == JOIN
    assert await table.load_all() == [JOIN]


async def test_a_later_intent_of_a_user_in_a_room_replaces_the_former(
    table: JoiningIntentTable,
) -> None:
    leave = Intent(ALICE, ROOM, "leave", EventId(""), (), {})
    others = [
        msgspec.structs.replace(JOIN, user_id=BOB),
        msgspec.structs.replace(JOIN, room_id=OTHER),
    ]
    for intent in (JOIN, *others, leave):
        await table.save(intent)
    assert await table.load(*JOIN.key) == leave
    assert sorted(await table.load_all(), key=lambda one: one.key) == sorted(
        [leave, *others], key=lambda one: one.key
    )


async def test_an_intent_is_deleted_for_one_user_in_one_room(table: JoiningIntentTable) -> None:
    for user_id, room_id in ((ALICE, ROOM), (ALICE, OTHER), (BOB, ROOM)):
        await table.save(msgspec.structs.replace(JOIN, user_id=user_id, room_id=room_id))
    for _ in range(2):
        await table.delete(ALICE, ROOM)
    assert {one.key for one in await table.load_all()} == {(ALICE, OTHER), (BOB, ROOM)}
