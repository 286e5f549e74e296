"""Endpoints of backups of room keys.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from homeserver.api.http.request import Request
from homeserver.api.http.response import Stream
from homeserver.api.http.routes import Route, v3
from homeserver.errors import missing_param
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.encryption import key_backup
from homeserver.services.encryption.key_backups import KeyBackups

_VERSION = v3("/room_keys/version/{version}")
_KEYS = v3("/room_keys/keys")
_ROOM = v3("/room_keys/keys/{roomId}")
_SESSION = v3("/room_keys/keys/{roomId}/{sessionId}")


class KeyBackupsApi:
    """Handlers of backups."""

    def __init__(self, backups: KeyBackups) -> None:
        self._backups = backups

    def routes(self) -> list[Route]:
        """Returns the routes of this part."""
        writes = Limit.WRITES
        return [
            Route("POST", v3("/room_keys/version"), self.create, limit=writes, suspended=True),
            Route("GET", v3("/room_keys/version"), self.current),
            Route("GET", _VERSION, self.info),
            Route("PUT", _VERSION, self.update, limit=writes, suspended=True),
            Route("DELETE", _VERSION, self.delete, limit=writes, suspended=True),
            Route("PUT", _KEYS, self.store_keys, limit=writes, suspended=True),
            Route("PUT", _ROOM, self.store_room, limit=writes, suspended=True),
            Route("PUT", _SESSION, self.store_key, limit=writes, suspended=True),
            Route("GET", _KEYS, self.all_keys),
            Route("GET", _ROOM, self.room_keys),
            Route("GET", _SESSION, self.key),
            Route("DELETE", _KEYS, self.delete_keys, limit=writes, suspended=True),
            Route("DELETE", _ROOM, self.delete_keys, limit=writes, suspended=True),
            Route("DELETE", _SESSION, self.delete_keys, limit=writes, suspended=True),
        ]

    async def create(self, request: Request) -> JsonObject:
        """POST /room_keys/version"""
        return await self._backups.create(request.requester.user_id, await request.json())

    async def current(self, request: Request) -> JsonObject:
        """GET /room_keys/version"""
        return await self._backups.info(request.requester.user_id)

    async def info(self, request: Request) -> JsonObject:
        """GET /room_keys/version/{version}"""
        return await self._backups.info(request.requester.user_id, request.params["version"])

    async def update(self, request: Request) -> JsonObject:
        """PUT /room_keys/version/{version}"""
        return await self._backups.update(
            request.requester.user_id, request.params["version"], await request.json()
        )

    async def delete(self, request: Request) -> JsonObject:
        """DELETE /room_keys/version/{version}"""
        return await self._backups.delete(request.requester.user_id, request.params["version"])

    async def store_keys(self, request: Request) -> JsonObject:
        """PUT /room_keys/keys"""
        keys = key_backup.parse_rooms(await request.json())
        return await self._backups.store_keys(request.requester.user_id, _version(request), keys)

    async def store_room(self, request: Request) -> JsonObject:
        """PUT /room_keys/keys/{roomId}"""
        keys = key_backup.parse_room(request.params["roomId"], await request.json())
        return await self._backups.store_keys(request.requester.user_id, _version(request), keys)

    async def store_key(self, request: Request) -> JsonObject:
        """PUT /room_keys/keys/{roomId}/{sessionId}"""
        params = request.params
        key = key_backup.parse_key(params["roomId"], params["sessionId"], await request.json())
        return await self._backups.store_keys(request.requester.user_id, _version(request), [key])

    async def all_keys(self, request: Request) -> Stream:
        """GET /room_keys/keys"""
        return Stream(self._backups.all_keys(request.requester.user_id, _version(request)))

    async def room_keys(self, request: Request) -> Stream:
        """GET /room_keys/keys/{roomId}"""
        room_id = RoomId(request.params["roomId"])
        return Stream(
            self._backups.room_keys(request.requester.user_id, _version(request), room_id)
        )

    async def key(self, request: Request) -> JsonObject:
        """GET /room_keys/keys/{roomId}/{sessionId}"""
        params = request.params
        return await self._backups.key(
            request.requester.user_id,
            _version(request),
            RoomId(params["roomId"]),
            params["sessionId"],
        )

    async def delete_keys(self, request: Request) -> JsonObject:
        """DELETE /room_keys/keys, /room_keys/keys/{roomId}, /room_keys/keys/{roomId}/{sessionId}"""
        room_id = request.params.get("roomId")
        return await self._backups.delete_keys(
            request.requester.user_id,
            _version(request),
            None if room_id is None else RoomId(room_id),
            request.params.get("sessionId"),
        )


def _version(request: Request) -> str:
    version = request.query.get("version")
    if version is None:
        raise missing_param("Missing parameter: version")
    return version
