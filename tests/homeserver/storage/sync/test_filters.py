"""Filters in the database: equal ones are stored once, and a user has so many of them."""

import asyncio

import pytest

from federation.events.ids import UserId
from homeserver.storage.database import Database
from homeserver.storage.sync.filters import FilterTable

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")


@pytest.fixture
def table(database: Database) -> FilterTable:
    return FilterTable(database)


async def test_each_user_s_filters_have_numbers_of_their_own(table: FilterTable) -> None:
    contents = (b"{}", b'{"a":"\\u0000"}')
    assert [await table.store(ALICE, one, at_most=9) for one in contents] == [0, 1]
    assert await table.store(BOB, b'{"b":1}', at_most=9) == 0
    found = [await table.load(ALICE, number) for number in (0, 1, 2)]
    assert found == [*contents, None]
    assert [await table.load(BOB, number) for number in (0, 1)] == [b'{"b":1}', None]


async def test_an_equal_filter_keeps_its_number_even_at_the_bound(table: FilterTable) -> None:
    assert [await table.store(ALICE, one, at_most=2) for one in (b"a", b"b", b"a")] == [0, 1, 0]
    assert await table.store(ALICE, b"c", at_most=2) is None
    assert await table.store(ALICE, b"b", at_most=2) == 1
    assert await table.store(ALICE, b"c", at_most=3) == 2
    assert await table.load(ALICE, 2) == b"c"
    assert await table.store(BOB, b"c", at_most=1) == 0, "each user has a bound of their own"


async def test_concurrent_requests_store_no_filter_twice(table: FilterTable) -> None:
    contents = [b"a", b"b", b"a", b"b", b"a", b"c"]
    numbers = await asyncio.gather(*(table.store(ALICE, one, at_most=3) for one in contents))
    assert {number for number in numbers if number is not None} == {0, 1, 2}
    for content, number in zip(contents, numbers, strict=True):
        assert number is not None
        assert await table.load(ALICE, number) == content
