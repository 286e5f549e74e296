"""Profiles: those of local users, changed here and sent to their rooms, and those of remote users,
fetched from their server.

Rules:
1. A change is stored first, then propagated: `on_profile_changed` tells others, the last of them by
   new member events.
2. A user may change only their own profile.
3. `displayname` and `avatar_url` are texts with bounds, since they are in each member event; other
   keys follow the common namespaced grammar, and the whole is bounded by 64 KiB.
4. A client isn't told why another server couldn't be asked, only that it couldn't.

Spec: client-server API, "Profiles".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import InvalidIdentifier, ServerName, UserId, parse_user_id, server_of
from federation.transport.requests.client import FederationError
from federation.transport.requests.queries import Queries
from homeserver import limits
from homeserver.errors import (
    bad_json,
    forbidden,
    invalid_param,
    not_found,
)
from homeserver.services.accounts.requester import Requester
from homeserver.storage.accounts.profiles import ProfileTable
from homeserver.storage.database import Database

_IN_EVENTS = {
    "displayname": limits.DISPLAYNAME_CHARACTERS,
    "avatar_url": limits.AVATAR_URL_CHARACTERS,
}
_TIME_ZONE = "m.tz"
_KEY = re.compile(r"m\.tz|[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


class LocalProfiles:
    """Reads profiles of local users: for our clients, for their rooms and for other servers."""

    def __init__(self, database: Database) -> None:
        self._profiles = ProfileTable(database)

    async def get(self, user_id: UserId) -> JsonObject:
        """Returns the whole profile. Raises 404 M_NOT_FOUND."""
        stored = await self._profiles.load(user_id)
        if stored is None:
            raise not_found("There is no such user")
        return {key: orjson.loads(value) for key, value in stored.items()}

    async def query(self, user_id: UserId, key: str | None) -> JsonObject:
        """Returns one key in an object, or the whole profile for None. Raises 404 M_NOT_FOUND."""
        profile = await self.get(user_id)
        return profile if key is None else _only(profile, key)


class RemoteProfiles:
    """Fetches profiles of other servers' users from their servers."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def fetch(self, user_id: UserId, key: str | None) -> JsonObject:
        """Returns the whole profile or the one key of it. Raises 404 M_NOT_FOUND if that is the
        other server's answer, 502 if it couldn't be asked."""
        try:
            return await self._queries.profile(user_id, key)
        except FederationError as error:
            if error.status == 404:
                raise not_found("the other server doesn't know it") from error
            raise MatrixError(502, "M_UNKNOWN", f"{error.server} could not be asked") from error


class Profiles:
    """Reads profiles of all users, and changes those of local users. `fetch_remote` asks another
    server for (user, key or None) and raises MatrixError 404 or 502."""

    def __init__(
        self,
        database: Database,
        server_name: ServerName,
        *,
        on_profile_changed: Sequence[Callable[[UserId], Awaitable[None]]],
        fetch_remote: Callable[[UserId, str | None], Awaitable[JsonObject]],
    ) -> None:
        self._profiles, self._server_name = ProfileTable(database), server_name
        self._on_changed, self._fetch_remote = on_profile_changed, fetch_remote
        self._local = LocalProfiles(database)

    async def get(self, user_id: UserId) -> JsonObject:
        """Returns the whole profile. Raises 404 M_NOT_FOUND."""
        if server_of(user_id) != self._server_name:
            return await self._fetch_remote(user_id, None)
        return await self._local.get(user_id)

    async def get_key(self, user_id: UserId, key: str) -> JsonObject:
        """Returns one key in an object. Raises 404 M_NOT_FOUND."""
        if server_of(user_id) != self._server_name:
            return _only(await self._fetch_remote(user_id, key), key)
        return await self._local.query(user_id, key)

    async def set(self, requester: Requester, user_id: UserId, key: str, value: Any) -> None:
        """Sets a key of the requester's own profile, and updates the rooms. An empty `displayname`
        or `avatar_url` removes it. Raises 400 or 403."""
        _check_own(requester, user_id, key)
        _check_key(key)
        if key in _IN_EVENTS:
            if not isinstance(value, str):
                raise bad_json(f"{key} must be a text")
            if len(value) > _IN_EVENTS[key] or "\0" in value:
                raise invalid_param(f"{key} is longer than {_IN_EVENTS[key]} characters")
            if value == "":
                await self.remove(requester, user_id, key)
                return
        elif key == _TIME_ZONE and not isinstance(value, str):
            raise bad_json(f"{key} must be a text, the name of a time zone")
        fits = await self._profiles.save(
            user_id, key, orjson.dumps(value), bytes_max=limits.PROFILE_BYTES
        )
        if not fits:
            raise MatrixError(400, "M_PROFILE_TOO_LARGE", "The profile is larger than 64 KiB")
        await self._propagate(user_id, key)

    async def remove(self, requester: Requester, user_id: UserId, key: str) -> None:
        """Removes a key of the requester's own profile, and updates the rooms."""
        _check_own(requester, user_id, key)
        _check_key(key)
        await self._profiles.delete(user_id, key)
        await self._propagate(user_id, key)

    async def _propagate(self, user_id: UserId, key: str) -> None:
        if key in _IN_EVENTS:
            for on_changed in self._on_changed:
                await on_changed(user_id)


def _only(profile: JsonObject, key: str) -> JsonObject:
    if key not in profile:
        raise not_found("The profile has no such key")
    return {key: profile[key]}


def parse_target(text: str) -> UserId:
    """Returns the user ID of a profile's path. Raises 400 M_INVALID_PARAM."""
    try:
        return parse_user_id(text)
    except InvalidIdentifier as error:
        raise invalid_param(f"Not a user ID: {error}") from error


def _check_own(requester: Requester, user_id: UserId, key: str) -> None:
    if requester.user_id != user_id:
        raise forbidden("Only one's own profile can be changed")
    if requester.is_guest and key != "displayname":  # spec: "Guest Access", "Client behaviour"
        raise MatrixError(403, "M_GUEST_ACCESS_FORBIDDEN", "Guests change their name alone")


def _check_key(key: str) -> None:
    if len(key.encode()) > limits.PROFILE_KEY_BYTES:
        raise MatrixError(400, "M_KEY_TOO_LARGE", "The key is longer than 255 bytes")
    if key not in _IN_EVENTS and not _KEY.fullmatch(key):
        raise invalid_param("Not a valid key of a profile")
