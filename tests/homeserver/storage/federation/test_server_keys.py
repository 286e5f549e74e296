"""Other servers' keys, in the database."""

from dataclasses import replace

import pytest

from federation.events.ids import KeyId, ServerName
from federation.ports import KeyStore, StoredServerKey
from homeserver import limits
from homeserver.storage.database import Database
from homeserver.storage.federation.server_keys import ServerKeyTable

B, C = ServerName("b.test"), ServerName("c.test")
K1, K2 = KeyId("ed25519:1"), KeyId("ed25519:2")


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return ServerKeyTable(database)


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


def numbered(server: ServerName, *numbers: int, expired: bool = False) -> list[StoredServerKey]:
    """Keys that are, or were, good until the time that is their number."""
    return [
        StoredServerKey(server, KeyId(f"ed25519:{n}"), "AAA", n, n if expired else None)
        for n in numbers
    ]


async def kept(keys: KeyStore, server: ServerName) -> set[int]:
    wanted = [(server, KeyId(f"ed25519:{n}")) for n in range(20)]
    return {key.valid_until_ms for key in await keys.load_keys(wanted)}


async def test_keys_of_one_server_are_bounded_and_the_oldest_go(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SERVER_KEYS_PER_SERVER", 4)
    await keys.store_keys(numbered(C, 1))
    await keys.store_keys(numbered(B, 2, 3, 4))
    await keys.store_keys(numbered(B, 9, expired=True))
    assert await kept(keys, B) == {2, 3, 4, 9}
    await keys.store_keys(numbered(B, 5))
    assert await kept(keys, B) == {2, 3, 4, 5}, "an expired one goes first"
    await keys.store_keys(numbered(B, 6, 7))
    assert await kept(keys, B) == {4, 5, 6, 7}
    assert await kept(keys, C) == {1}


async def test_all_keys_together_are_bounded_and_neighbours_have_room_left(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "SERVER_KEYS_OF_STRANGERS", 4)
    monkeypatch.setattr(limits, "SERVER_KEYS", 6)
    await keys.store_keys(numbered(C, 1, 2, 3, 4))
    assert await kept(keys, C) == {1, 2, 3, 4}
    assert not caplog.messages
    await keys.store_keys(numbered(C, 5))
    await keys.store_keys(numbered(C, 6))
    assert await kept(keys, C) == {1, 2, 3, 4}
    assert len(caplog.messages) == 1
    await keys.store_keys([*numbered(B, 1, 2), *numbered(C, 7)], neighbours=[B])
    assert (await kept(keys, B), await kept(keys, C)) == ({1, 2}, {1, 2, 3, 4})
    await keys.store_keys(numbered(B, 3), neighbours=[B])
    assert await kept(keys, B) == {1, 2}


async def test_where_there_is_no_room_known_keys_are_brought_up_to_date(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SERVER_KEYS", 1)
    await keys.store_keys(numbered(B, 1))
    (key,) = await keys.load_keys([(B, KeyId("ed25519:1"))])
    newer = replace(key, valid_until_ms=7)
    await keys.store_keys([newer, *numbered(B, 2)])
    assert await kept(keys, B) == {7}


async def test_keys_that_are_dropped_make_room(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SERVER_KEYS", 4)
    monkeypatch.setattr(limits, "SERVER_KEYS_PER_SERVER", 2)
    for n in range(1, 9):
        await keys.store_keys(numbered(B, n))
    assert await kept(keys, B) == {7, 8}
    await keys.store_keys(numbered(C, 1, 2))
    assert await kept(keys, C) == {1, 2}


async def test_what_is_stored_counts_after_a_restart(
    keys: KeyStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SERVER_KEYS", 2)
    await keys.store_keys(numbered(B, 1, 2))
    again = ServerKeyTable(database)
    await again.store_keys(numbered(B, 3))
    assert await kept(again, B) == {1, 2}
