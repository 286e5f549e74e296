"""Backups of room keys: encrypted by clients, kept by the server until a device asks for them.

Rules:
1. Keys are stored only in the current backup: a client that doesn't know of a newer one would
   encrypt for a key that the user has given up. It gets 403 M_WRONG_ROOM_KEYS_VERSION with the
   current version, and looks again.
2. Reading and deleting work on every backup that isn't deleted.
3. A whole backup is sent in pieces, read from the database as the client takes them; a key that
   changes meanwhile is sent in its old or its new form.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import orjson

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.errors import invalid_param, not_found
from homeserver.rules.encryption.key_backup import (
    BackedUpKey,
    key_json,
    parse_settings,
    parse_version,
)
from homeserver.storage.database import Database
from homeserver.storage.encryption.key_backups import (
    BackupFull,
    BackupState,
    KeyBackup,
    KeyBackupTable,
    NotCurrent,
)


class KeyBackups:
    """The backups of local users. A version is a text from a client; an unknown one is 404
    M_NOT_FOUND."""

    def __init__(self, database: Database) -> None:
        self._table = KeyBackupTable(database)

    async def create(self, user_id: UserId, body: JsonObject) -> JsonObject:
        """POST /room_keys/version. 400 if the user has too many backups."""
        version = await self._table.create(user_id, parse_settings(body))
        if version is None:
            raise invalid_param(f"More than {limits.KEY_BACKUP_VERSIONS} backups: delete old ones")
        return {"version": str(version)}

    async def info(self, user_id: UserId, version: str | None = None) -> JsonObject:
        """GET /room_keys/version, of the current backup, or of the one named."""
        if version is None:
            backup = await self._table.load(user_id)
            if backup is None:
                raise not_found("No current backup version")
        else:
            backup = await self._existing(user_id, version)
        return {
            "algorithm": backup.settings.algorithm,
            "auth_data": orjson.Fragment(backup.settings.auth_data),
            "version": str(backup.version),
            **_state_json(backup.state),
        }

    async def update(self, user_id: UserId, version: str, body: JsonObject) -> JsonObject:
        """PUT /room_keys/version/{version}: replaces `auth_data`. 400 M_INVALID_PARAM for another
        algorithm, or another version in the body."""
        settings = parse_settings(body)
        backup = await self._existing(user_id, version)
        if settings.algorithm != backup.settings.algorithm:
            raise invalid_param("Algorithm does not match")
        if body.get("version", version) != version:
            raise invalid_param("The version in the body does not match the one in the path")
        if not await self._table.set_auth_data(user_id, backup.version, settings.auth_data):
            raise _unknown()
        return {}

    async def delete(self, user_id: UserId, version: str) -> JsonObject:
        """DELETE /room_keys/version/{version}; a repeat succeeds."""
        if not await self._table.delete(user_id, _number(version)):
            raise _unknown()
        return {}

    async def store_keys(
        self, user_id: UserId, version: str, keys: Iterable[BackedUpKey]
    ) -> JsonObject:
        """PUT /room_keys/keys, all three forms. 403 M_WRONG_ROOM_KEYS_VERSION if the version isn't
        the current one."""
        try:
            stored = await self._table.store_keys(user_id, parse_version(version), list(keys))
        except BackupFull:
            raise invalid_param(
                f"More than {limits.KEY_BACKUP_KEYS} keys in a backup,"
                f" or {limits.KEY_BACKUP_BYTES} bytes in all"
            ) from None
        if isinstance(stored, NotCurrent):
            if stored.current is None:
                raise _unknown()
            raise MatrixError(
                403,
                "M_WRONG_ROOM_KEYS_VERSION",
                "Wrong backup version.",
                extra={"current_version": str(stored.current)},
            )
        return _state_json(stored)

    async def key(
        self, user_id: UserId, version: str, room_id: RoomId, session_id: str
    ) -> JsonObject:
        """GET /room_keys/keys/{roomId}/{sessionId}; 404 also for a key that isn't there."""
        backup = await self._existing(user_id, version)
        found = await self._table.load_keys(
            user_id, backup.version, room_id=room_id, session_id=session_id
        )
        if not found:
            raise not_found("Key not found.")
        return dict(key_json(found[0]))

    async def room_keys(
        self, user_id: UserId, version: str, room_id: RoomId
    ) -> AsyncIterator[bytes]:
        """GET /room_keys/keys/{roomId}: yields the JSON in pieces."""
        backup = await self._existing(user_id, version)
        opening = b'{"sessions":{'
        async for page in self._pages(user_id, backup.version, room_id):
            members = b",".join(_member(key.session_id, key_json(key)) for key in page)
            yield opening + members
            opening = b","
        yield (b"" if opening == b"," else opening) + b"}}"

    async def all_keys(self, user_id: UserId, version: str) -> AsyncIterator[bytes]:
        """GET /room_keys/keys: yields the JSON in pieces."""
        backup = await self._existing(user_id, version)
        room_id: str | None = None
        yield b'{"rooms":{'
        async for page in self._pages(user_id, backup.version, None):
            piece = bytearray()
            for key in page:
                if key.room_id == room_id:
                    piece += b","
                else:
                    piece += b"" if room_id is None else b"}},"
                    piece += orjson.dumps(key.room_id) + b':{"sessions":{'
                    room_id = key.room_id
                piece += _member(key.session_id, key_json(key))
            yield bytes(piece)
        yield b"}}" if room_id is None else b"}}}}"

    async def delete_keys(
        self,
        user_id: UserId,
        version: str,
        room_id: RoomId | None = None,
        session_id: str | None = None,
    ) -> JsonObject:
        """DELETE /room_keys/keys, all three forms; keys that aren't there are no error."""
        state = await self._table.delete_keys(
            user_id, _number(version), room_id=room_id, session_id=session_id
        )
        if state is None:
            raise _unknown()
        return _state_json(state)

    async def _existing(self, user_id: UserId, version: str) -> KeyBackup:
        backup = await self._table.load(user_id, _number(version))
        if backup is None:
            raise _unknown()
        return backup

    async def _pages(
        self, user_id: UserId, version: int, room_id: RoomId | None
    ) -> AsyncIterator[list[BackedUpKey]]:
        after = ("", "")
        while True:
            page = await self._table.load_keys(user_id, version, room_id=room_id, after=after)
            if page:
                yield page
                after = (page[-1].room_id, page[-1].session_id)
            if len(page) < limits.KEY_BACKUP_KEYS_READ_AT_ONCE:
                return


def _number(version: str) -> int:
    number = parse_version(version)
    if number is None:
        raise _unknown()
    return number


def _unknown() -> MatrixError:
    return not_found("Unknown backup version")


def _state_json(state: BackupState) -> JsonObject:
    return {"count": state.keys, "etag": str(state.etag)}


def _member(name: str, value: object) -> bytes:
    return orjson.dumps(name) + b":" + orjson.dumps(value)
