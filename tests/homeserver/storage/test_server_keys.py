"""Other servers' keys, in the database."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from federation.events.ids import KeyId, ServerName
from federation.ports import KeyStore, StoredServerKey
from homeserver.storage.database import Database
from homeserver.storage.migrate import migrate
from homeserver.storage.server_keys import ServerKeys

B, C = ServerName("b.test"), ServerName("c.test")
K1, K2 = KeyId("ed25519:1"), KeyId("ed25519:2")


@pytest.fixture
async def keys(postgres_url: str) -> AsyncIterator[KeyStore]:
    """The store over a database with our tables."""
    database = await Database.open(postgres_url, connections=2)
    await migrate(database)
    yield ServerKeys(database)
    await database.close()


async def test_only_what_is_wanted_is_loaded(keys: KeyStore) -> None:
    b1, b2 = StoredServerKey(B, K1, "AAA", 5), StoredServerKey(B, K2, "BBB", 6, 4)
    c1 = StoredServerKey(C, K1, "CCC", 7)
    await keys.store_keys([b1, b2, c1])
    assert await keys.load_keys([]) == []
    assert await keys.load_keys([(B, K2), (C, K2)]) == [b2]
    found = await keys.load_keys([(B, K1), (C, K1)])
    assert sorted(found, key=lambda key: key.server) == [b1, c1]


async def test_the_newer_word_on_a_key_replaces_the_older(keys: KeyStore) -> None:
    first = StoredServerKey(B, K1, "AAA", 5)
    await keys.store_keys([first])
    newer = replace(first, valid_until_ms=50, expired_ms=40)
    await keys.store_keys([replace(first, valid_until_ms=9), newer])
    assert await keys.load_keys([(B, K1)]) == [newer]
    await keys.store_keys([])
    assert await keys.load_keys([(B, K1)]) == [newer]
