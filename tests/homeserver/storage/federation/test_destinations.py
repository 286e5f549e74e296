"""Cursors and back-off of destinations, in the database."""

from collections.abc import AsyncIterator

import pytest

from federation.events.ids import ServerName
from federation.ports import Destination, DestinationStore
from homeserver.storage.database import Database
from homeserver.storage.federation.destinations import Destinations
from homeserver.storage.migrate import migrate

B, C = ServerName("b.test"), ServerName("c.test")


@pytest.fixture
async def destinations(postgres_url: str) -> AsyncIterator[DestinationStore]:
    """The store over a database with our tables."""
    database = await Database.open(postgres_url, connections=2)
    await migrate(database)
    yield Destinations(database)
    await database.close()


async def test_an_unknown_destination_was_never_owed_anything(
    destinations: DestinationStore,
) -> None:
    assert await destinations.load_destination(B) == Destination(B, -1)
    assert await destinations.lagging() == []


async def test_what_is_saved_is_loaded(destinations: DestinationStore) -> None:
    failing = Destination(B, 2**40, 10, 20, 30, "certificate: no")
    for one in (failing, Destination(C, 5)):
        await destinations.save_destination(one)
        assert await destinations.load_destination(one.server) == one
    assert await destinations.lagging() == [failing, Destination(C, 5)]
    await destinations.save_destination(Destination(B, 2**40))
    assert await destinations.load_destination(B) == Destination(B, 2**40)


async def test_a_cursor_never_goes_back(destinations: DestinationStore) -> None:
    await destinations.save_destination(Destination(B, 9))
    await destinations.save_destination(Destination(B, 3, last_error="late"))
    assert await destinations.load_destination(B) == Destination(B, 9, last_error="late")
