"""Queries to other servers about their users and aliases.

Rules:
1. A server's answer counts only for its own users; parts about others are dropped.
2. The shape of an answer is checked here; the caller checks its contents (key objects, profile
   fields).

Spec: server-server API, "Querying for information", "Device management", "End-to-end encryption".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    DeviceId,
    InvalidIdentifier,
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_room_id,
    parse_server_name,
    server_of,
)
from federation.limits import (
    HIERARCHY_ANSWER_BYTES_MAX,
    KEYS_ANSWER_BYTES_MAX,
    PUBLIC_ROOMS_ANSWER_BYTES_MAX,
    REQUEST_S_MAX,
    SERVERS_IN_ROOM_MAX,
)
from federation.listing_ports import DirectoryQuestion
from federation.ports import UserDevices
from federation.transport.requests.client import (
    FailureKind,
    FederationClient,
    FederationError,
    ServerRequest,
    build_target,
)
from federation.transport.requests.dialer import Bounds

_V1 = "/_matrix/federation/v1"
_KEYS_BOUNDS = Bounds(timeout_s=REQUEST_S_MAX, bytes_max=KEYS_ANSWER_BYTES_MAX)


class Queries:
    """Questions to other servers; all raise FederationError."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def profile(self, user_id: UserId, field: str | None = None) -> JsonObject:
        """Returns the profile of another server's user, or that one field of it."""
        query = [("user_id", str(user_id))] + ([("field", field)] if field is not None else [])
        profile = await self._client.get(
            server_of(user_id), build_target(f"{_V1}/query/profile", query=query)
        )
        return profile if field is None else {k: v for k, v in profile.items() if k == field}

    async def directory(self, alias: RoomAlias) -> tuple[RoomId, tuple[ServerName, ...]]:
        """Returns the room that an alias of another server names, and servers that are in it."""
        server = server_of(alias)
        query = [("room_alias", str(alias))]
        answer = await self._client.get(server, build_target(f"{_V1}/query/directory", query=query))
        servers = answer.get("servers")
        try:
            room_id = parse_room_id(_string(answer.get("room_id")))
            if not isinstance(servers, list):
                raise InvalidIdentifier("no servers")
        except InvalidIdentifier as error:
            raise _bad(server, str(error)) from None
        return room_id, parse_servers(servers)

    async def exchange_third_party_invite(
        self, server: ServerName, room_id: RoomId, invite: JsonObject
    ) -> None:
        """Asks the inviter's server to invite a user of ours, who owns the address that was
        invited."""
        target = build_target(f"{_V1}/exchange_third_party_invite", room_id)
        await self._client.request(ServerRequest(server, "PUT", target, invite))

    async def guests_may_join(self, server: ServerName, room_id: RoomId) -> bool:
        """Returns whether a server that is in a room says that guests may join it; of a room that
        it doesn't show to us it says nothing. Spec: server-server API, /hierarchy/{roomId}."""
        query = [("suggested_only", "true")]
        answer = await self._client.get(
            server, build_target(f"{_V1}/hierarchy", room_id, query=query)
        )
        room = answer.get("room")
        if not isinstance(room, dict) or room.get("room_id") != room_id:
            raise _bad(server, "not this room")
        return room.get("guest_can_join") is True

    async def hierarchy(
        self, server: ServerName, room_id: RoomId, *, timeout_s: float
    ) -> JsonObject:
        """Returns what a server says of a room and its children, unchecked. Spec: server-server
        API, /hierarchy/{roomId}."""
        bounds = Bounds(timeout_s=timeout_s, bytes_max=HIERARCHY_ANSWER_BYTES_MAX)
        return await self._client.get(
            server, build_target(f"{_V1}/hierarchy", room_id), bounds=bounds
        )

    async def public_rooms(
        self, server: ServerName, question: DirectoryQuestion, *, timeout_s: float
    ) -> JsonObject:
        """Returns a page of a server's published directory, unchecked. Spec: server-server API,
        "Published room directory"."""
        bounds = Bounds(timeout_s=timeout_s, bytes_max=PUBLIC_ROOMS_ANSWER_BYTES_MAX)
        path, asked = f"{_V1}/publicRooms", _directory_fields(question)
        if not question.is_search:
            query = [(name, _query_value(value)) for name, value in asked.items()]
            return await self._client.get(server, build_target(path, query=query), bounds=bounds)
        chosen: JsonObject = {}
        if question.search_term is not None:
            chosen["generic_search_term"] = question.search_term
        if question.room_types is not None:
            chosen["room_types"] = list(question.room_types)
        content = {**asked, "filter": chosen}
        return await self._client.request(ServerRequest(server, "POST", path, content, bounds))

    async def devices(self, user_id: UserId) -> UserDevices:
        """Returns all devices of another server's user."""
        server = server_of(user_id)
        request = ServerRequest(
            server,
            "GET",
            build_target(f"{_V1}/user/devices", user_id),
            bounds=_KEYS_BOUNDS,
        )
        answer = await self._client.request(request)
        stream_id, devices = answer.get("stream_id"), answer.get("devices")
        if answer.get("user_id") != user_id or not isinstance(stream_id, int):
            raise _bad(server, "not this user's devices")
        if not isinstance(devices, list) or not all(_is_device(one) for one in devices):
            raise _bad(server, "malformed devices")
        return UserDevices(
            user_id,
            stream_id,
            [_own_device(user_id, one) for one in devices],
            _own_key(user_id, answer.get("master_key")),
            _own_key(user_id, answer.get("self_signing_key")),
        )

    async def keys_query(
        self, server: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject:
        """Fetches device and cross-signing keys of the server's users: `device_keys`,
        `master_keys`, `self_signing_keys`, each by user ID, each saying whose it is."""
        asked = {user: list(devices) for user, devices in device_keys.items()}
        answer = await self._post(server, "/user/keys/query", {"device_keys": asked})
        found: JsonObject = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}
        for user in asked:
            devices = _member(answer, "device_keys", user)
            if isinstance(devices, dict):
                found["device_keys"][user] = {
                    device_id: keys
                    for device_id, keys in devices.items()
                    if isinstance(keys, dict)
                    and keys.get("user_id") == user
                    and keys.get("device_id") == device_id
                }
            for kind in ("master_keys", "self_signing_keys"):
                key = _own_key(user, _member(answer, kind, user))
                if key is not None:
                    found[kind][user] = key
        return found

    async def keys_claim(
        self, server: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject:
        """Returns one-time keys of the asked devices and algorithms alone: `one_time_keys`, by user
        ID, device ID and key ID."""
        asked = {user: dict(devices) for user, devices in one_time_keys.items()}
        answer = await self._post(server, "/user/keys/claim", {"one_time_keys": asked})
        claimed: JsonObject = {}
        for user, devices in asked.items():
            given = _member(answer, "one_time_keys", user)
            if not isinstance(given, dict):
                continue
            kept = {
                device_id: _of_algorithm(given.get(device_id), algorithm)
                for device_id, algorithm in devices.items()
            }
            claimed[user] = {device_id: keys for device_id, keys in kept.items() if keys}
        return {"one_time_keys": claimed}

    async def _post(self, server: ServerName, path: str, content: JsonObject) -> JsonObject:
        request = ServerRequest(server, "POST", f"{_V1}{path}", content, _KEYS_BOUNDS)
        return await self._client.request(request)


def _directory_fields(question: DirectoryQuestion) -> JsonObject:
    """Returns what is asked of a directory, beside the search."""
    fields: JsonObject = {
        "limit": question.limit or None,
        "since": question.since,
        "third_party_instance_id": question.instance_id,
        "include_all_networks": question.all_networks or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _query_value(value: object) -> str:
    return "true" if value is True else str(value)


def parse_servers(names: Sequence[object]) -> tuple[ServerName, ...]:
    """Returns the valid server names among `names`, each once, in order."""
    found: dict[ServerName, None] = {}
    for name in names[:SERVERS_IN_ROOM_MAX]:
        try:
            found[parse_server_name(_string(name))] = None
        except InvalidIdentifier:
            continue  # one bad name doesn't spoil the list
    return tuple(found)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidIdentifier("not a string")
    return value


def _bad(server: ServerName, detail: str) -> FederationError:
    return FederationError(server, FailureKind.BAD_JSON, detail, status=200)


def _member(answer: JsonObject, name: str, key: str) -> object:
    part = answer.get(name)
    return part.get(key) if isinstance(part, dict) else None


def _is_device(device: object) -> bool:
    return (
        isinstance(device, dict)
        and isinstance(device.get("device_id"), str)
        and isinstance(device.get("keys", {}), dict)
    )


def _own_device(user_id: UserId, device: JsonObject) -> JsonObject:
    """Returns the device, without keys that say they are another's."""
    keys = device.get("keys")
    if isinstance(keys, dict) and (
        keys.get("user_id") == user_id and keys.get("device_id") == device["device_id"]
    ):
        return device
    return {name: value for name, value in device.items() if name != "keys"}


def _own_key(user_id: str, key: object) -> JsonObject | None:
    """Returns a cross-signing key that says it is this user's, else None."""
    if isinstance(key, dict) and key.get("user_id") == user_id:
        return key if isinstance(key.get("keys"), dict) else None
    return None


def _of_algorithm(keys: object, algorithm: str) -> JsonObject:
    """Returns at most one key, of the requested algorithm."""
    if not isinstance(keys, dict):
        return {}
    for key_id, key in keys.items():
        if key_id.startswith(f"{algorithm}:"):
            return {key_id: key}
    return {}
