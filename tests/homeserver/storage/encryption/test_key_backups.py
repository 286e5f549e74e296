"""Backups of room keys in the database, against a naive model of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.rules.encryption.key_backup import BackedUpKey, BackupSettings, KeyQuality
from homeserver.storage.database import Database
from homeserver.storage.encryption.key_backups import (
    BackupFull,
    BackupState,
    KeyBackupTable,
    NotCurrent,
    delete_all,
)

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
ROOMS = (RoomId("!a:hs1"), RoomId("!b:hs2"))
SETTINGS = BackupSettings("m.megolm_backup.v1.curve25519-aes-sha2", b'{"public_key":"x"}')


@pytest.fixture
def table(database: Database) -> KeyBackupTable:
    return KeyBackupTable(database)


def key(
    session_id: str = "s", room_id: RoomId = ROOMS[0], *, index: int = 0, data: bytes = b"{}"
) -> BackedUpKey:
    return BackedUpKey(room_id, session_id, KeyQuality(index, 0, True), data)


async def test_versions_are_counted_and_never_given_out_twice(table: KeyBackupTable) -> None:
    assert [await table.create(ALICE, SETTINGS) for _ in range(2)] == [1, 2]
    assert await table.create(BOB, SETTINGS) == 1
    assert await table.delete(ALICE, 2)
    assert await table.create(ALICE, SETTINGS) == 3


async def test_versions_created_at_once_differ(table: KeyBackupTable) -> None:
    made = await asyncio.gather(*(table.create(ALICE, SETTINGS) for _ in range(3)))
    assert sorted(one or 0 for one in made) == [1, 2, 3]


async def test_the_newest_that_is_not_deleted_is_current(table: KeyBackupTable) -> None:
    assert await table.load(ALICE) is None
    await table.create(ALICE, SETTINGS)
    await table.create(ALICE, BackupSettings("other", b"{}"))
    current = await table.load(ALICE)
    assert current is not None
    assert (current.version, current.settings.algorithm) == (2, "other")
    await table.delete(ALICE, 2)
    current = await table.load(ALICE)
    assert current is not None
    assert (current.version, current.settings, current.state) == (1, SETTINGS, BackupState(0, 0))
    assert await table.load(ALICE, 2) is None
    assert await table.load(BOB) is None


async def test_a_repeated_deletion_succeeds_and_an_unknown_one_fails(
    table: KeyBackupTable,
) -> None:
    await table.create(ALICE, SETTINGS)
    assert not await table.delete(ALICE, 2)
    assert not await table.delete(BOB, 1)
    assert await table.delete(ALICE, 1)
    assert await table.delete(ALICE, 1)


async def test_auth_data_is_replaced(table: KeyBackupTable) -> None:
    await table.create(ALICE, SETTINGS)
    assert await table.set_auth_data(ALICE, 1, b'{"signatures":{}}')
    changed = await table.load(ALICE)
    assert changed is not None
    assert changed.settings.auth_data == b'{"signatures":{}}'
    await table.delete(ALICE, 1)
    assert not await table.set_auth_data(ALICE, 1, b"{}")


async def test_keys_go_to_the_current_backup_alone(table: KeyBackupTable) -> None:
    assert await table.store_keys(ALICE, 1, [key()]) == NotCurrent(None)
    await table.create(ALICE, SETTINGS)
    await table.create(ALICE, SETTINGS)
    assert await table.store_keys(ALICE, 1, [key()]) == NotCurrent(2)
    assert await table.store_keys(ALICE, 3, [key()]) == NotCurrent(2)
    assert await table.store_keys(ALICE, None, [key()]) == NotCurrent(2)
    assert await table.store_keys(ALICE, 2, [key()]) == BackupState(1, 1)
    assert await table.load_keys(ALICE, 1) == []


async def test_only_changes_raise_the_etag(table: KeyBackupTable) -> None:
    await table.create(ALICE, SETTINGS)
    first = await table.store_keys(ALICE, 1, [key(index=5), key("t")])
    assert first == BackupState(1, 2)
    assert await table.store_keys(ALICE, 1, [key(index=5), key(index=6)]) == first
    assert await table.store_keys(ALICE, 1, []) == first
    assert await table.store_keys(ALICE, 1, [key(index=4)]) == BackupState(2, 2)
    assert await table.delete_keys(ALICE, 1, room_id=ROOMS[1]) == BackupState(2, 2)
    assert await table.delete_keys(ALICE, 1, room_id=ROOMS[0], session_id="t") == BackupState(3, 1)
    assert await table.delete_keys(ALICE, 9) is None


async def test_what_is_of_others_stays(table: KeyBackupTable, database: Database) -> None:
    for user_id in (ALICE, BOB):
        await table.create(user_id, SETTINGS)
        await table.store_keys(user_id, 1, [key(), key("t", ROOMS[1])])
    await table.delete_keys(ALICE, 1, room_id=ROOMS[0])
    assert [one.session_id for one in await table.load_keys(ALICE, 1)] == ["t"]
    await table.delete(ALICE, 1)
    assert await table.load_keys(ALICE, 1) == []
    assert len(await table.load_keys(BOB, 1)) == 2
    async with database.transaction() as connection:
        await delete_all(connection, BOB)
    assert await table.load_keys(BOB, 1) == []
    assert await table.create(BOB, SETTINGS) == 1


async def test_a_backup_is_read_in_pages(
    table: KeyBackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEY_BACKUP_KEYS_READ_AT_ONCE", 2)
    await table.create(ALICE, SETTINGS)
    wanted = [(room, f"s{number}") for room in ROOMS for number in range(3)]
    await table.store_keys(ALICE, 1, [key(session, room) for room, session in wanted])
    after, found = ("", ""), []
    while page := await table.load_keys(ALICE, 1, after=after):
        assert len(page) <= 2
        found += [(one.room_id, one.session_id) for one in page]
        after = (page[-1].room_id, page[-1].session_id)
    assert found == wanted


async def test_a_backup_has_a_number_of_keys(
    table: KeyBackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEY_BACKUP_KEYS", 2)
    await table.create(ALICE, SETTINGS)
    assert await table.store_keys(ALICE, 1, [key("a"), key("b")]) == BackupState(1, 2)
    with pytest.raises(BackupFull):
        await table.store_keys(ALICE, 1, [key("a", index=0), key("c")])
    assert [one.session_id for one in await table.load_keys(ALICE, 1)] == ["a", "b"]
    assert await table.store_keys(ALICE, 1, [key("a", index=9)]) == BackupState(1, 2)


async def test_a_user_has_a_number_of_bytes_in_all_backups(
    table: KeyBackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise twenty backups of the largest keys would fill the disk for everybody."""
    monkeypatch.setattr(limits, "KEY_BACKUP_BYTES", 10)
    await table.create(ALICE, SETTINGS)
    assert await table.store_keys(ALICE, 1, [key("a", data=b"123456")]) == BackupState(1, 1)
    await table.create(ALICE, SETTINGS)
    assert await table.store_keys(ALICE, 2, [key("a", index=5, data=b"1234")]) == BackupState(1, 1)
    with pytest.raises(BackupFull):
        await table.store_keys(ALICE, 2, [key("b", data=b"1")])
    with pytest.raises(BackupFull):
        await table.store_keys(ALICE, 2, [key("a", index=1, data=b"12345")])
    assert await table.store_keys(ALICE, 2, [key("a", index=1, data=b"12")]) == BackupState(2, 1)
    assert await table.store_keys(ALICE, 2, [key("b", data=b"12")]) == BackupState(3, 2)
    await table.delete_keys(ALICE, 2, session_id="b")
    assert await table.store_keys(ALICE, 2, [key("c", data=b"12")]) == BackupState(5, 2)
    await table.delete(ALICE, 1)
    assert await table.store_keys(ALICE, 2, [key("d", data=b"123456")]) == BackupState(6, 3)
    await table.create(BOB, SETTINGS)
    assert await table.store_keys(BOB, 1, [key("a", data=b"1234567890")]) == BackupState(1, 1)


async def test_a_user_has_a_number_of_backups(
    table: KeyBackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEY_BACKUP_VERSIONS", 2)
    assert [await table.create(ALICE, SETTINGS) for _ in range(3)] == [1, 2, None]
    await table.delete(ALICE, 1)
    assert await table.create(ALICE, SETTINGS) == 3


async def test_uploads_at_once_count_each_key_once(table: KeyBackupTable) -> None:
    await table.create(ALICE, SETTINGS)
    uploads = [[key(f"s{number}"), key("shared", index=number)] for number in range(4)]
    await asyncio.gather(*(table.store_keys(ALICE, 1, keys) for keys in uploads))
    backup = await table.load(ALICE)
    assert backup is not None
    stored = await table.load_keys(ALICE, 1)
    assert backup.state.keys == len(stored) == 5
    assert [one.quality.first_message_index for one in stored if one.session_id == "shared"] == [0]


def random_uploads(random: Random) -> Iterator[list[BackedUpKey]]:
    """Yield uploads of a few sessions, with every kind of quality; the data tells them apart."""
    for number in range(60):
        sessions = random.sample(["s1", "s2", "s3"], random.randrange(4))
        yield [
            BackedUpKey(
                random.choice(ROOMS),
                session,
                KeyQuality(random.randrange(3), random.randrange(3), random.random() < 0.5),
                b'{"upload":%d}' % number,
            )
            for session in sessions
        ]


@pytest.mark.parametrize("seed", range(3))
async def test_random_uploads_end_as_the_naive_model_says(table: KeyBackupTable, seed: int) -> None:
    """The model: the specification's three rules, one key after another, in a dictionary."""
    random = Random(seed)
    model: dict[tuple[str, str], BackedUpKey] = {}
    etag = 0
    await table.create(ALICE, SETTINGS)
    for upload in random_uploads(random):
        is_changed = False
        for new in upload:
            old = model.get((new.room_id, new.session_id))
            if old is None or _model_replaces(new.quality, old.quality):
                model[new.room_id, new.session_id] = new
                is_changed = True
        etag += is_changed
        assert await table.store_keys(ALICE, 1, upload) == BackupState(etag, len(model))
        if random.random() < 0.2:
            room_id = random.choice(ROOMS)
            gone = [place for place in model if place[0] == room_id]
            for place in gone:
                del model[place]
            etag += bool(gone)
            deleted = await table.delete_keys(ALICE, 1, room_id=room_id)
            assert deleted == BackupState(etag, len(model))
    assert await table.load_keys(ALICE, 1) == [model[place] for place in sorted(model)]


def _model_replaces(new: KeyQuality, old: KeyQuality) -> bool:
    if new.is_verified != old.is_verified:
        return new.is_verified
    if new.first_message_index != old.first_message_index:
        return new.first_message_index < old.first_message_index
    return new.forwarded_count < old.forwarded_count
