"""The user directory in the database: who is visible to whom, and what is kept."""

from __future__ import annotations

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.rules.rooms.user_search import DirectoryUser, parse_term
from homeserver.storage.database import Database
from homeserver.storage.rooms.user_directory import JoinedMember, UserDirectoryTable

READER, ANNA, BERT = (UserId(f"@{name}:hs1") for name in ("reader", "anna", "bert"))
ONE, TWO = RoomId("!one:hs1"), RoomId("!two:hs1")


@pytest.fixture
async def table(database: Database) -> UserDirectoryTable:
    """Return the table with two rooms that nobody is in, and everybody stored."""
    for number, room_id in enumerate((ONE, TWO)):
        await database.execute("INSERT INTO rooms VALUES ($1, $2, '11')", number, room_id)
    made = UserDirectoryTable(database)
    await made.store([DirectoryUser(READER), DirectoryUser(ANNA, "Anna A."), DirectoryUser(BERT)])
    return made


async def enter(database: Database, user_id: UserId, room: int, membership: str = "join") -> None:
    await database.execute(
        "INSERT INTO memberships (room_row_id, user_id, membership, event_id, sender, position)"
        " VALUES ($1, $2, $3, $4, $2, 1) ON CONFLICT (room_row_id, user_id)"
        " DO UPDATE SET membership = excluded.membership",
        room,
        user_id,
        membership,
        f"${room}{user_id}",
    )


async def found(table: UserDirectoryTable, term: str = "@") -> list[str]:
    return sorted(one.user_id for one in await table.search(READER, parse_term(term)))


async def test_a_shared_room_makes_visible(table: UserDirectoryTable, database: Database) -> None:
    await enter(database, READER, 0)
    await enter(database, ANNA, 0)
    await enter(database, BERT, 1)
    assert await found(table) == [ANNA]
    assert await found(table, "ann") == [ANNA]
    assert await found(table, "bert") == []


@pytest.mark.parametrize(
    ("reader", "other"), [("leave", "join"), ("join", "leave"), ("invite", "join"), ("join", "ban")]
)
async def test_both_must_be_joined(
    table: UserDirectoryTable, database: Database, reader: str, other: str
) -> None:
    await enter(database, READER, 0, reader)
    await enter(database, ANNA, 0, other)
    assert await found(table) == []


async def test_a_public_room_makes_visible(table: UserDirectoryTable, database: Database) -> None:
    await enter(database, ANNA, 0)
    await enter(database, BERT, 1)
    await table.set_room(ONE, is_public=True)
    await table.set_room(TWO, is_public=False)
    assert await found(table) == [ANNA]
    await table.set_room(ONE, is_public=False)
    assert await found(table) == []
    await table.set_room(TWO, is_public=True)
    assert await found(table) == [BERT]
    await table.drop_room(TWO)
    assert await found(table) == []


async def test_the_last_name_is_kept(table: UserDirectoryTable, database: Database) -> None:
    await enter(database, ANNA, 0)
    await table.set_room(ONE, is_public=True)
    renamed = DirectoryUser(ANNA, "Änne 🦀", "mxc://hs1/a")
    await table.store([renamed])
    assert await table.search(READER, parse_term("anne")) == [renamed]
    assert await table.search(READER, parse_term("🦀")) == [renamed]
    assert await table.search(READER, parse_term("anna")) == [renamed]  # by the localpart
    await table.store([])


async def test_departed_users_go_once_they_are_nowhere(
    table: UserDirectoryTable, database: Database
) -> None:
    await enter(database, ANNA, 0)
    await enter(database, BERT, 0, "leave")
    await table.remove_departed([ANNA, BERT])
    rows = await database.fetch("SELECT user_id FROM user_directory ORDER BY user_id")
    assert [row[0] for row in rows] == [ANNA, READER]


async def test_unknown_rooms_are_those_not_recorded(table: UserDirectoryTable) -> None:
    await table.set_room(ONE, is_public=True)
    assert await table.unknown_rooms([ONE, TWO, RoomId("!nowhere:hs1")]) == [TWO]
    await table.set_room(RoomId("!nowhere:hs1"), is_public=True)  # no such room: nothing


async def test_changed_rooms_are_those_after_the_position(
    table: UserDirectoryTable, database: Database
) -> None:
    for number, position in ((0, 5), (1, 9)):
        await database.execute(
            "INSERT INTO room_heads (room_row_id, heads, snapshot_row_id, live_index, position)"
            " VALUES ($1, '{}', 1, 1, $2)",
            number,
            position,
        )
    assert sorted(await table.changed_rooms()) == [ONE, TWO]
    await table.store_position(5)
    assert await table.changed_rooms() == [TWO]
    await table.store_position(9)
    await table.store_position(7)  # never back
    assert await table.changed_rooms() == []


async def test_members_come_in_pages(
    table: UserDirectoryTable, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "USER_DIRECTORY_MEMBERS_READ", 2)
    for number, user_id in enumerate((ANNA, BERT, READER)):
        await enter(database, user_id, 0)
        await database.execute(
            "INSERT INTO events (room_row_id, event_row_id, event_id, type, state_key, sender,"
            " verdict, outlier, unverified, to_federate, json)"
            " VALUES (0, $1, $2, 'm.room.member', $3, $3, 0, true, false, false, $4)",
            number,
            f"$0{user_id}",
            user_id,
            b"{}",
        )
    await enter(database, BERT, 1)
    page = await table.members(ONE, after="")
    assert page == [JoinedMember(ANNA, b"{}"), JoinedMember(BERT, b"{}")]
    assert await table.members(ONE, after=BERT) == [JoinedMember(READER, b"{}")]
    assert await table.members(ONE, after=READER) == []
