"""Invites and knocks of other servers' users that ended: whose server must hear of it."""

from __future__ import annotations

import msgspec
import pytest

from federation.events.ids import EventId
from homeserver.storage.database import Database
from homeserver.storage.rooms import state_changes, withdrawals
from homeserver.storage.rooms.state_changes import StateChangeRow
from homeserver.storage.rooms.withdrawals import OwedEventRow, merged
from homeserver.storage.timeline import events
from tests.homeserver.storage.event_rows import ROOM, placed

FAR = "@far:there"


async def end(
    database: Database,
    at: int,
    user_id: str = FAR,
    *,
    former: str | None = "invite",
    membership: str = "leave",
    **changes: object,
) -> None:
    """Write a member event of ours that ends a membership."""
    event_id = EventId(f"${at}")
    row = msgspec.structs.replace(
        placed(at, event_id, sender="@ours:here", state_key=user_id), **changes
    )
    change = StateChangeRow(ROOM, at, "m.room.member", user_id, event_id, membership, former)
    async with database.transaction() as connection:
        await events.insert(connection, [row])
        await state_changes.insert(connection, [change])


async def owed(database: Database, server: str = "there", *, after: int = 0) -> list[int]:
    async with database.connection() as connection:
        found = await withdrawals.owed(connection, server, after=after, limit=10)
    return [row.position for row in found]


@pytest.mark.parametrize("former", ["invite", "knock"])
@pytest.mark.parametrize("membership", ["leave", "ban"])
async def test_an_end_of_ours_is_owed_to_the_users_server(
    database: Database, former: str, membership: str
) -> None:
    await end(database, 3, former=former, membership=membership)
    assert await owed(database) == [3]
    assert await owed(database, "elsewhere") == []
    async with database.connection() as connection:
        assert await withdrawals.servers(connection, "here") == {"there": 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"former": "join"},  # its server was in the room: it gets the event as all do
        {"former": None},
        {"membership": "invite"},
        {"to_federate": False},
        {"sender": FAR},  # its own server sent it
        {"live_index": None, "gap_index": None},
        {"gap_index": -1},
        {"position": 9},  # released later than the change
    ],
)
async def test_nothing_else_is_owed(database: Database, changes: dict[str, object]) -> None:
    await end(database, 3, **changes)  # type: ignore[arg-type]
    assert await owed(database) == []
    async with database.connection() as connection:
        assert await withdrawals.servers(connection, "here") == {}


async def test_ends_come_in_order_past_the_cursor(database: Database) -> None:
    for position in (5, 3, 4):
        await end(database, position)
    assert await owed(database) == [3, 4, 5]
    assert await owed(database, after=3) == [4, 5]
    async with database.connection() as connection:
        found = await withdrawals.owed(connection, "there", after=0, limit=2)
    assert found == [OwedEventRow(3, b"3"), OwedEventRow(4, b"4")]


async def test_our_own_users_concern_no_server(database: Database) -> None:
    await end(database, 3, "@ours:here")
    async with database.connection() as connection:
        assert await withdrawals.servers(connection, "here") == {}


def test_lists_are_merged_by_position_and_cut_between_positions() -> None:
    one, two, twin, three = (
        OwedEventRow(1, b"1"),
        OwedEventRow(2, b"2"),
        OwedEventRow(2, b"x"),
        OwedEventRow(3, b"3"),
    )
    assert merged([one, three], [two, one], 9) == [one, two, three]
    assert merged([one, three], [two], 2) == [one, two]
    assert merged([one, two], [twin, three], 2) == [one, two, twin]
    assert merged([], [], 2) == []
