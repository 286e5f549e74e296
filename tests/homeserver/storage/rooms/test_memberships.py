"""Servers in rooms, in the database."""

from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from homeserver.storage.rooms.memberships import servers_joined, servers_left, shares_room


async def test_servers_share_a_room_while_both_are_in_it(postgres_url: str) -> None:
    database = await Database.open(postgres_url, connections=1)
    await migrate(database)
    async with database.connection() as connection:
        came = [(1, "us.test", 1), (1, "a.test", 2), (2, "us.test", 3), (2, "b.test", 4)]
        await servers_joined(connection, [*came, (3, "c.test", 5)])
        servers = [f"{name}.test" for name in "abc"]
        found = [await shares_room(connection, "us.test", server) for server in servers]
        assert found == [True, True, False]
        await servers_left(connection, [(1, "a.test", 6), (2, "us.test", 7)])
        found = [await shares_room(connection, "us.test", server) for server in servers]
        assert found == [False, False, False]
    await database.close()
