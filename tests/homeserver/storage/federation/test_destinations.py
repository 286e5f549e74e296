"""Cursors and back-off of destinations, in the database."""

import pytest

from federation.events.ids import ServerName
from federation.ports import Destination, DestinationStore
from homeserver.storage.database import Database
from homeserver.storage.federation.destinations import DestinationTable

B, C = ServerName("b.test"), ServerName("c.test")


@pytest.fixture
def destinations(database: Database) -> DestinationStore:
    return DestinationTable(database)


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


async def test_those_in_back_off_come_first_and_the_earliest_of_them(
    destinations: DestinationStore,
) -> None:
    names = [ServerName(f"{name}.test") for name in "abcd"]
    for name, retry_at_ms in zip(names, (None, 20, 10, None), strict=True):
        await destinations.save_destination(Destination(name, 1, retry_at_ms=retry_at_ms))
    found = [one.server for one in await destinations.lagging()]
    assert found == [names[2], names[1], names[0], names[3]]


async def test_a_cursor_never_goes_back(destinations: DestinationStore) -> None:
    await destinations.save_destination(Destination(B, 9))
    await destinations.save_destination(Destination(B, 3, last_error="late"))
    assert await destinations.load_destination(B) == Destination(B, 9, last_error="late")
