"""What other servers are owed, over the tables themselves."""

from __future__ import annotations

from typing import Any

import pytest

from federation.events.ids import ServerName
from homeserver.engine.entries import RemoteEduEntry
from homeserver.storage.database import Database
from homeserver.storage.federation import remote_edus
from homeserver.storage.federation.owed import OwedData
from homeserver.storage.timeline import events
from tests.homeserver.storage.event_rows import OTHER, ROOM, placed

OWN, FAR = "here", "there"


@pytest.fixture
async def owed(database: Database) -> OwedData:
    """Return the data, with two rooms whose events are ours: ROOM's 1 to 4, OTHER's 5."""
    for row_id, heads, position in ((ROOM, [4], 4), (OTHER, [5], 5)):
        await database.execute("INSERT INTO rooms VALUES ($1, $2, '11')", row_id, f"!{row_id}")
        await database.execute(
            "INSERT INTO room_heads (room_row_id, heads, snapshot_row_id, live_index, position)"
            " VALUES ($1, $2, 1, $3, $3)",
            row_id,
            heads,
            position,
        )
    rows = [placed(number, f"${number}", sender=f"@u:{OWN}") for number in (1, 2, 3, 4)]
    rows.append(placed(5, "$5", OTHER, sender=f"@u:{OWN}"))
    async with database.transaction() as connection:
        await events.insert(connection, rows)
    return OwedData(database)


async def stay(
    database: Database, joined: int, left: int | None = None, room: int = ROOM, server: str = FAR
) -> None:
    await database.execute(
        "INSERT INTO room_servers (room_row_id, server, joined_position, left_position)"
        " VALUES ($1, $2, $3, $4)",
        room,
        server,
        joined,
        left,
    )


def edu(position: int, content: bytes, server: str = FAR) -> tuple[int, RemoteEduEntry]:
    return position, RemoteEduEntry(ServerName(server), content)


async def positions(owed: OwedData, **more: Any) -> list[int]:
    given = {"after": 0, "up_to": 9, "limit": 9, **more}
    found = await owed.owed(FAR, OWN, **given)
    return [row.position for row in found.events]


async def test_events_of_a_stay_are_owed(database: Database, owed: OwedData) -> None:
    assert await positions(owed) == []
    await stay(database, 1, 3)
    assert await positions(owed) == [1, 2, 3]  # the third made it leave
    assert await positions(owed, after=2) == [3]
    assert await positions(owed, limit=2) == [1, 2]


async def test_a_join_is_given_the_heads_beside_it(database: Database, owed: OwedData) -> None:
    """It was told the state before its join; what stood beside it would be missed."""
    await database.execute("UPDATE room_heads SET heads = '{2,4}' WHERE room_row_id = $1", ROOM)
    await stay(database, 3)
    found = await owed.owed(FAR, OWN, after=0, up_to=9, limit=9)
    assert sorted((row.position, row.json) for row in found.events) == [
        (3, b"2"),
        (3, b"3"),
        (4, b"4"),
    ]


async def test_its_own_events_and_others_rooms_are_not_owed(
    database: Database, owed: OwedData
) -> None:
    await stay(database, 1)
    await stay(database, 1, room=OTHER, server="a third")
    await database.execute("UPDATE events SET sender = '@x:there' WHERE event_id = '$2'")
    await database.execute("UPDATE events SET to_federate = false WHERE event_id = '$3'")
    assert await positions(owed) == [1, 4]


async def test_the_latest_are_those_that_lead_to_all_others(
    database: Database, owed: OwedData
) -> None:
    await stay(database, 1)
    await stay(database, 1, room=OTHER)
    assert await positions(owed, latest=True) == [4, 5]
    await database.execute("UPDATE room_heads SET heads = '{2,4}' WHERE room_row_id = $1", ROOM)
    assert await positions(owed, latest=True) == [2, 4, 5]
    await database.execute("UPDATE room_servers SET left_position = 3 WHERE room_row_id = $1", ROOM)
    assert await positions(owed, latest=True, after=3) == [5]


async def test_edus_wait_until_they_are_received(database: Database, owed: OwedData) -> None:
    async with database.transaction() as connection:
        await remote_edus.append(connection, [edu(3, b"{}"), edu(4, b"[]"), edu(4, b"x", "x")])
    found = await owed.owed(FAR, OWN, after=0, up_to=3, limit=9)
    assert found.edus == [(3, b"{}")]
    await owed.forget_edus(FAR, 3)
    found = await owed.owed(FAR, OWN, after=0, up_to=9, limit=9)
    assert found.edus == [(4, b"[]")]


async def test_lagging_servers_are_those_of_rooms_and_of_edus(
    database: Database, owed: OwedData
) -> None:
    await stay(database, 1)
    await stay(database, 1, 2, room=OTHER, server="gone")
    async with database.transaction() as connection:
        await remote_edus.append(connection, [edu(4, b"x", "only edus")])
    newest, waiting = await owed.lagging(OWN)
    assert newest[FAR] == 4
    assert set(newest) == {FAR, "gone"}
    assert list(waiting) == ["only edus"]
