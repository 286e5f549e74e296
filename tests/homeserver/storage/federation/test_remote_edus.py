"""EDUs that wait for other servers, in the database."""

import pytest

from federation.events.ids import ServerName
from homeserver.engine.entries import RemoteEduEntry
from homeserver.storage.database import Database
from homeserver.storage.federation import remote_edus
from homeserver.storage.federation.remote_edus import RemoteEduTable

B, C = ServerName("b.test"), ServerName("c.test")


@pytest.fixture
async def table(database: Database) -> RemoteEduTable:
    """Return the table with five EDUs for one server and one for another."""
    async with database.transaction() as connection:
        rows = [(at, RemoteEduEntry(B, b"\x00%d" % at)) for at in (4, 1, 3, 2, 5)]
        await remote_edus.append(connection, [*rows, (6, RemoteEduEntry(C, b"c"))])
    return RemoteEduTable(database)


async def test_the_oldest_edus_of_a_server_come_first(table: RemoteEduTable) -> None:
    found = await table.load(B, after=1, up_to=4, limit=9)
    assert found == [(2, b"\x002"), (3, b"\x003"), (4, b"\x004")]
    assert await table.load(B, after=1, up_to=4, limit=2) == found[:2]
    assert await table.load(ServerName("d.test"), after=0, up_to=9, limit=9) == []


async def test_what_a_server_has_received_is_deleted_for_it_alone(table: RemoteEduTable) -> None:
    assert sorted(await table.load_destinations()) == [B, C]
    await table.delete(B, 4)
    assert await table.load(B, after=0, up_to=9, limit=9) == [(5, b"\x005")]
    assert await table.load(C, after=0, up_to=9, limit=9) == [(6, b"c")]
    await table.delete(B, 6)
    assert await table.load_destinations() == [C]
