"""Endpoints that answer other servers' questions about our users and aliases.

Rules:
1. Only users and aliases of this server are spoken of; asked for others: 404, or left out of a
   query for many.
2. Queries for many users are bounded; past it they are refused.

Spec: server-server API, "Querying for information", "Device management", "End-to-end encryption".
"""

from __future__ import annotations

from collections.abc import Mapping

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    DeviceId,
    InvalidIdentifier,
    ServerName,
    UserId,
    parse_room_alias,
    parse_user_id,
    server_of,
)
from federation.limits import (
    DEVICES_PER_USER_REQUEST_MAX,
    QUERY_REQUEST_BYTES_MAX,
    USERS_PER_KEYS_REQUEST_MAX,
)
from federation.ports import UserQueries
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.endpoints import Endpoints, Route
from federation.transport.routes.room_access import parse_user

_V1 = "/_matrix/federation/v1"


class UserRoutes:
    """The handlers."""

    def __init__(self, name: ServerName, users: UserQueries) -> None:
        self._name, self._users = name, users

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""
        signed, large = endpoints.signed, QUERY_REQUEST_BYTES_MAX
        return [
            ("GET", f"{_V1}/query/profile", signed("profile", self.profile)),
            ("GET", f"{_V1}/query/directory", signed("directory", self.directory)),
            ("GET", f"{_V1}/user/devices/{{userId}}", signed("devices", self.devices)),
            (
                "POST",
                f"{_V1}/user/keys/query",
                signed("user_keys_query", self.keys_query, bytes_max=large),
            ),
            (
                "POST",
                f"{_V1}/user/keys/claim",
                signed("user_keys_claim", self.keys_claim, bytes_max=large),
            ),
        ]

    async def profile(self, peer: PeerRequest) -> object:
        """GET /query/profile."""
        user_id = self._own(peer.required("user_id"))
        return await self._users.profile(peer.origin, user_id, peer.first("field"))

    async def directory(self, peer: PeerRequest) -> object:
        """GET /query/directory."""
        try:
            alias = parse_room_alias(peer.required("room_alias"))
        except InvalidIdentifier:
            raise MatrixError(400, "M_INVALID_PARAM", "not a room alias") from None
        if server_of(alias) != self._name:
            raise MatrixError(404, "M_NOT_FOUND", "Room alias not found.")
        room_id, servers = await self._users.directory(alias)
        return {"room_id": room_id, "servers": list(servers)}

    async def devices(self, peer: PeerRequest) -> object:
        """GET /user/devices/{userId}."""
        found = await self._users.devices(peer.origin, self._own(peer.params["userId"]))
        answer: JsonObject = {
            "user_id": found.user_id,
            "stream_id": found.stream_id,
            "devices": list(found.devices),
        }
        if found.master_key is not None:
            answer["master_key"] = found.master_key
        if found.self_signing_key is not None:
            answer["self_signing_key"] = found.self_signing_key
        return answer

    async def keys_query(self, peer: PeerRequest) -> object:
        """POST /user/keys/query."""
        wanted: dict[UserId, list[DeviceId]] = {}
        for user_id, devices in self._own_users(peer, "device_keys").items():
            if not isinstance(devices, list) or len(devices) > DEVICES_PER_USER_REQUEST_MAX:
                raise MatrixError(400, "M_INVALID_PARAM", "no list of devices, or too many")
            if not all(isinstance(device, str) for device in devices):
                raise MatrixError(400, "M_INVALID_PARAM", "a device ID that is not a string")
            wanted[user_id] = [DeviceId(device) for device in devices]
        return await self._users.keys_query(peer.origin, wanted)

    async def keys_claim(self, peer: PeerRequest) -> object:
        """POST /user/keys/claim."""
        wanted: dict[UserId, dict[DeviceId, str]] = {}
        for user_id, devices in self._own_users(peer, "one_time_keys").items():
            if not isinstance(devices, dict) or len(devices) > DEVICES_PER_USER_REQUEST_MAX:
                raise MatrixError(400, "M_INVALID_PARAM", "no devices, or too many")
            if not all(isinstance(algorithm, str) for algorithm in devices.values()):
                raise MatrixError(400, "M_INVALID_PARAM", "an algorithm that is not a string")
            wanted[user_id] = {DeviceId(one): algorithm for one, algorithm in devices.items()}
        return await self._users.keys_claim(peer.origin, wanted)

    def _own(self, text: str) -> UserId:
        user_id = parse_user(text)
        if server_of(user_id) != self._name:
            raise MatrixError(404, "M_NOT_FOUND", "Not a user of this server")
        return user_id

    def _own_users(self, peer: PeerRequest, name: str) -> Mapping[UserId, object]:
        asked = peer.content.get(name)
        if not isinstance(asked, dict):
            raise MatrixError(400, "M_BAD_JSON", f"{name} is not an object")
        if len(asked) > USERS_PER_KEYS_REQUEST_MAX:
            raise MatrixError(400, "M_INVALID_PARAM", "too many users")
        return {UserId(user): value for user, value in asked.items() if self._is_own(user)}

    def _is_own(self, text: str) -> bool:
        try:
            return server_of(parse_user_id(text)) == self._name
        except InvalidIdentifier:
            return False
