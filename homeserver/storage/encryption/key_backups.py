"""Backups of room keys. Owns the tables `key_backups` and `key_backup_keys`.

Rules:
1. Versions are counted for each user and never given out twice. The highest one that isn't deleted
   is the current one; only it takes keys.
2. `etag` counts the changes of a backup's keys, and changes with them, in one transaction under a
   lock on the backup's row.
3. Which of two keys for a session is kept is decided by `rules.encryption.key_backup`.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.rules.encryption.key_backup import BackedUpKey, BackupSettings, KeyQuality
from homeserver.storage.database import Connection, Database


class BackupState(msgspec.Struct, frozen=True):
    """The number of changes of a backup's keys so far, and the number of keys."""

    etag: int
    keys: int


class KeyBackup(msgspec.Struct, frozen=True):
    """One backup, without its keys."""

    version: int
    settings: BackupSettings
    state: BackupState


class NotCurrent(msgspec.Struct, frozen=True):
    """Keys were sent to another version than the current one (None: there is none)."""

    current: int | None


class BackupFull(Exception):
    """The backup would have more keys than `KEY_BACKUP_KEYS`, or all backups of the user more bytes
    than `KEY_BACKUP_BYTES`."""


class _KnownKey(msgspec.Struct, frozen=True):
    """A stored key, without its content."""

    quality: KeyQuality
    bytes: int


_COLUMNS = "version, algorithm, auth_data, etag, keys"
_CURRENT = "SELECT max(version) FROM key_backups WHERE user_id = $1 AND NOT is_deleted"


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes all backups of a user whose account ends, without a trace."""
    await connection.execute("DELETE FROM key_backup_keys WHERE user_id = $1", user_id)
    await connection.execute("DELETE FROM key_backups WHERE user_id = $1", user_id)


class KeyBackupTable:
    """The backups of local users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, user_id: UserId, settings: BackupSettings) -> int | None:
        """Creates a backup, which is the current one from now on; returns its version. None: the
        user has `KEY_BACKUP_VERSIONS` already."""
        async with self._database.transaction() as connection:
            await _lock_user(connection, user_id)
            kept: int = await connection.fetchval(
                "SELECT count(*) FROM key_backups WHERE user_id = $1 AND NOT is_deleted", user_id
            )
            if kept >= limits.KEY_BACKUP_VERSIONS:
                return None
            version: int = await connection.fetchval(
                "INSERT INTO key_backups (user_id, version, algorithm, auth_data)"
                " SELECT $1, coalesce(max(version), 0) + 1, $2, $3 FROM key_backups"
                " WHERE user_id = $1 RETURNING version",
                user_id,
                settings.algorithm,
                settings.auth_data,
            )
            return version

    async def load(self, user_id: UserId, version: int | None = None) -> KeyBackup | None:
        """Returns a backup, the current one without `version`; None if there is none."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM key_backups WHERE user_id = $1 AND NOT is_deleted"
            " AND ($2::bigint IS NULL OR version = $2) ORDER BY version DESC LIMIT 1",
            user_id,
            version,
        )
        if row is None:
            return None
        return KeyBackup(row[0], BackupSettings(row[1], row[2]), BackupState(row[3], row[4]))

    async def set_auth_data(self, user_id: UserId, version: int, auth_data: bytes) -> bool:
        """Replaces a backup's `auth_data`; False if there is no such backup."""
        found = await self._database.fetchval(
            "UPDATE key_backups SET auth_data = $3"
            " WHERE user_id = $1 AND version = $2 AND NOT is_deleted RETURNING true",
            user_id,
            version,
            auth_data,
        )
        return bool(found)

    async def delete(self, user_id: UserId, version: int) -> bool:
        """Deletes a backup with its keys; False if there never was such a backup."""
        async with self._database.transaction() as connection:
            await _lock_user(connection, user_id)
            found = await connection.fetchval(
                "UPDATE key_backups SET is_deleted = true, auth_data = '', keys = 0,"
                " bytes = 0"
                " WHERE user_id = $1 AND version = $2 RETURNING true",
                user_id,
                version,
            )
            await connection.execute(
                "DELETE FROM key_backup_keys WHERE user_id = $1 AND version = $2", user_id, version
            )
        return bool(found)

    async def store_keys(
        self, user_id: UserId, version: int | None, keys: Sequence[BackedUpKey]
    ) -> BackupState | NotCurrent:
        """Stores those keys that are new, or better than the stored ones, in the current backup.
        Raises BackupFull, with nothing stored."""
        async with self._database.transaction() as connection:
            await _lock_user(connection, user_id)
            current: int | None = await connection.fetchval(_CURRENT, user_id)
            if current is None or current != version:
                return NotCurrent(current)
            state = await _state(connection, user_id, version)
            assert state is not None, "the current backup exists, and the user is locked"
            known = await _known(connection, user_id, version, keys)
            better = [key for key in keys if _is_better(key, known)]
            if not better:
                return state
            replaced = [known[place] for key in better if (place := _place(key)) in known]
            added = len(better) - len(replaced)
            grown = sum(len(key.session_data) for key in better) - sum(k.bytes for k in replaced)
            if state.keys + added > limits.KEY_BACKUP_KEYS:
                raise BackupFull
            if await _bytes_of_user(connection, user_id) + grown > limits.KEY_BACKUP_BYTES:
                raise BackupFull
            await _upsert(connection, user_id, version, better)
            return await _changed(connection, user_id, version, added, grown)

    async def load_keys(
        self,
        user_id: UserId,
        version: int,
        *,
        room_id: RoomId | None = None,
        session_id: str | None = None,
        after: tuple[str, str] = ("", ""),
    ) -> list[BackedUpKey]:
        """Returns keys of a backup in the order of room and session, past `after`: at most
        `KEY_BACKUP_KEYS_READ_AT_ONCE`."""
        rows = await self._database.fetch(
            "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified,"
            " session_data FROM key_backup_keys WHERE user_id = $1 AND version = $2"
            " AND ($3::text IS NULL OR room_id = $3) AND ($4::text IS NULL OR session_id = $4)"
            " AND (room_id, session_id) > ($5, $6) ORDER BY room_id, session_id LIMIT $7",
            user_id,
            version,
            room_id,
            session_id,
            *after,
            limits.KEY_BACKUP_KEYS_READ_AT_ONCE,
        )
        return [BackedUpKey(row[0], row[1], KeyQuality(*row[2:5]), row[5]) for row in rows]

    async def delete_keys(
        self,
        user_id: UserId,
        version: int,
        *,
        room_id: RoomId | None = None,
        session_id: str | None = None,
    ) -> BackupState | None:
        """Deletes one key, a room's or all keys of a backup; None if there is no such backup."""
        async with self._database.transaction() as connection:
            await _lock_user(connection, user_id)
            state = await _state(connection, user_id, version)
            if state is None:
                return None
            deleted, freed = await connection.fetchrow(
                "WITH gone AS (DELETE FROM key_backup_keys WHERE user_id = $1 AND version = $2"
                " AND ($3::text IS NULL OR room_id = $3) AND ($4::text IS NULL OR session_id = $4)"
                " RETURNING octet_length(session_data) AS size)"
                " SELECT count(*), coalesce(sum(size), 0)::bigint FROM gone",
                user_id,
                version,
                room_id,
                session_id,
            )
            if not deleted:
                return state
            return await _changed(connection, user_id, version, -deleted, -freed)


async def _lock_user(connection: Connection, user_id: UserId) -> None:
    """Serialises the changes of a user's backups until the end of the transaction."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('key backup ' || $1, 4))", user_id
    )


async def _state(connection: Connection, user_id: UserId, version: int) -> BackupState | None:
    row = await connection.fetchrow(
        "SELECT etag, keys FROM key_backups"
        " WHERE user_id = $1 AND version = $2 AND NOT is_deleted FOR UPDATE",
        user_id,
        version,
    )
    return None if row is None else BackupState(*row)


async def _bytes_of_user(connection: Connection, user_id: UserId) -> int:
    total: int = await connection.fetchval(
        "SELECT coalesce(sum(bytes), 0)::bigint FROM key_backups WHERE user_id = $1", user_id
    )
    return total


async def _known(
    connection: Connection, user_id: UserId, version: int, keys: Sequence[BackedUpKey]
) -> dict[tuple[str, str], _KnownKey]:
    rows = await connection.fetch(
        "SELECT room_id, session_id, first_message_index, forwarded_count, is_verified,"
        " octet_length(session_data)"
        " FROM key_backup_keys JOIN unnest($3::text[], $4::text[]) AS u (room_id, session_id)"
        " USING (room_id, session_id) WHERE user_id = $1 AND version = $2",
        user_id,
        version,
        [key.room_id for key in keys],
        [key.session_id for key in keys],
    )
    return {(row[0], row[1]): _KnownKey(KeyQuality(*row[2:5]), row[5]) for row in rows}


def _place(key: BackedUpKey) -> tuple[str, str]:
    return key.room_id, key.session_id


def _is_better(key: BackedUpKey, known: dict[tuple[str, str], _KnownKey]) -> bool:
    stored = known.get(_place(key))
    return stored is None or key.quality.is_better_than(stored.quality)


async def _upsert(
    connection: Connection, user_id: UserId, version: int, keys: Sequence[BackedUpKey]
) -> None:
    await connection.execute(
        "INSERT INTO key_backup_keys (user_id, version, room_id, session_id, first_message_index,"
        " forwarded_count, is_verified, session_data) SELECT $1, $2, * FROM unnest($3::text[],"
        " $4::text[], $5::bigint[], $6::bigint[], $7::boolean[], $8::bytea[])"
        " ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE SET"
        " first_message_index = excluded.first_message_index,"
        " forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified,"
        " session_data = excluded.session_data",
        user_id,
        version,
        [key.room_id for key in keys],
        [key.session_id for key in keys],
        [key.quality.first_message_index for key in keys],
        [key.quality.forwarded_count for key in keys],
        [key.quality.is_verified for key in keys],
        [key.session_data for key in keys],
    )


async def _changed(
    connection: Connection, user_id: UserId, version: int, added: int, grown: int
) -> BackupState:
    """Stores a change of `added` keys and `grown` bytes; returns the state after it."""
    row = await connection.fetchrow(
        "UPDATE key_backups SET etag = etag + 1, keys = keys + $3, bytes = bytes + $4"
        " WHERE user_id = $1 AND version = $2 RETURNING etag, keys",
        user_id,
        version,
        added,
        grown,
    )
    assert row is not None, "the backup is locked"
    return BackupState(*row)
