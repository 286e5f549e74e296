"""Queries of other servers about local users.

Rules:
1. A server may see the devices of a local user, and claim their one-time keys, if it has a user in
   a room that the local user is joined to or knocks on. A server that has only invited the user
   (any server can), or has a user in a room that the user is invited to, sees the devices and gets
   fallback keys: so encryption to an invited user works, and no server drains one-time keys of
   strangers. (The spec defines no rule; this is the narrowest one that keeps encrypted joins
   working.)
2. A join that goes through another server is known there before it is stored here. Until then, the
   server that was asked to take the join counts as a server of the room. For other servers the
   answer waits, as it does for a server that may not see a user at all: the event that allows it
   may be on its way (`limits.KEY_QUERY_JOIN_WAIT_S`, `KEY_QUERY_WAIT_S`).
3. In queries about several users, those that the server may not see are left out, like unknown
   ones. If none is left, the query is refused: so the client is told that it failed, and asks
   again, instead of assuming that the user has no devices.
4. Profiles and aliases are public; their services answer.

Spec: server-server API, "Querying for information", "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, RoomAlias, RoomId, ServerName, UserId, server_of
from federation.ports import Clock, UserDevices
from federation.transport.joining.arrivals import Arrivals
from homeserver import limits
from homeserver.services.encryption.key_queries import KeyQueries
from homeserver.services.encryption.keys import Keys
from homeserver.services.rooms.directory import Target
from homeserver.services.rooms.room_access import MemberRooms, UserRooms
from homeserver.storage.encryption.one_time_keys import Claim

AskProfile = Callable[[UserId, str | None], Awaitable[JsonObject]]
AskDirectory = Callable[[RoomAlias], Awaitable[Target]]

_AGREED = ("join", "knock")
"""Memberships that the user chose."""
_CONCERNED = (*_AGREED, "invite")


class FederationQueries:
    """`federation.ports.UserQueries`."""

    def __init__(
        self,
        *,
        server_name: ServerName,
        rooms: MemberRooms,
        memberships: UserRooms,
        keys: Keys,
        key_queries: KeyQueries,
        clock: Clock,
        profile: AskProfile,
        directory: AskDirectory,
        arrivals: Arrivals,
    ) -> None:
        """`profile` and `directory` answer for local users and aliases; they raise MatrixError."""
        self._server_name, self._rooms, self._memberships = server_name, rooms, memberships
        self._keys, self._key_queries, self._clock = keys, key_queries, clock
        self._profile, self._directory, self._arrivals = profile, directory, arrivals

    async def profile(self, origin: ServerName, user_id: UserId, field: str | None) -> JsonObject:
        """Returns a user's profile, or one field of it."""
        if server_of(user_id) != self._server_name:
            raise MatrixError(404, "M_NOT_FOUND", "The user isn't of this server")
        return await self._profile(user_id, field)

    async def directory(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        """Returns the room of a local alias and servers that are in it."""
        if server_of(alias) != self._server_name:
            raise MatrixError(404, "M_NOT_FOUND", "The alias isn't of this server")
        target = await self._directory(alias)
        return target.room_id, target.servers

    async def devices(self, origin: ServerName, user_id: UserId) -> UserDevices:
        """Returns a user's devices; 403 if rule 1 doesn't allow it."""
        if not await self._visible(origin, [user_id]):
            raise _not_shared()
        return await self._key_queries.devices_for_server(user_id)

    async def keys_query(
        self, origin: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject:
        """Returns device and cross-signing keys of the users that the server may see."""
        visible = await self._some_visible(origin, device_keys)
        wanted = {user: ids for user, ids in device_keys.items() if user in visible}
        return await self._key_queries.query_for_server(wanted)

    async def keys_claim(
        self, origin: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject:
        """Claims keys of the users that the server may see."""
        visible = await self._some_visible(origin, one_time_keys)
        agreed = await self._seen(origin, visible, _AGREED, wait_s=0.0)
        found: JsonObject = {}
        for users, fallback_only in ((agreed, False), (visible - agreed, True)):
            claims = [
                Claim(user_id, device_id, algorithm)
                for user_id, devices in one_time_keys.items()
                if user_id in users
                for device_id, algorithm in devices.items()
                if "\0" not in device_id + algorithm
            ]
            found |= await self._keys.claim_own(claims, fallback_only=fallback_only)
        return {"one_time_keys": found}

    async def _some_visible(
        self, origin: ServerName, user_ids: Collection[UserId]
    ) -> frozenset[UserId]:
        """As `_visible`. Raises 403 if local users are queried, but none of them may be seen."""
        visible = await self._visible(origin, user_ids)
        if not visible and any(server_of(user) == self._server_name for user in user_ids):
            raise _not_shared()
        return visible

    async def _visible(self, origin: ServerName, user_ids: Collection[UserId]) -> frozenset[UserId]:
        """Returns the users that the server may see (rules 1 and 2)."""
        return await self._seen(origin, user_ids, _CONCERNED, wait_s=limits.KEY_QUERY_WAIT_S)

    async def _seen(
        self,
        origin: ServerName,
        user_ids: Collection[UserId],
        memberships: Collection[str],
        *,
        wait_s: float,
    ) -> frozenset[UserId]:
        """Returns the users for whom `_sees` holds, after a wait: `wait_s`, or longer if a join is
        in progress."""
        hidden = {user for user in user_ids if server_of(user) == self._server_name}
        visible: set[UserId] = set()
        started_s = self._clock.monotonic_s()
        while hidden:
            waited_s = self._clock.monotonic_s() - started_s
            # Read before the check: a join that ends in the meantime is seen, or checked again.
            patient = {user for user in hidden if waited_s < self._wait_s(user, wait_s)}
            visible |= {user for user in hidden if await self._sees(origin, user, memberships)}
            hidden = patient - visible
            if hidden:
                await self._clock.sleep(limits.KEY_QUERY_CHECK_S)
        return frozenset(visible)

    def _wait_s(self, user_id: UserId, otherwise_s: float) -> float:
        is_joining = self._arrivals.is_joining(user_id)
        return limits.KEY_QUERY_JOIN_WAIT_S if is_joining else otherwise_s

    async def _sees(
        self, origin: ServerName, user_id: UserId, memberships: Collection[str]
    ) -> bool:
        """Returns whether the server has a part in a room in which the user has one of some
        memberships, or that the user is joining through it."""
        if self._arrivals.has_asked(user_id, origin):
            return True
        for room_id, one in (await self._memberships.of(user_id)).items():
            if one.membership not in memberships:
                continue
            if one.membership == "invite" and server_of(one.sender) == origin:
                return True
            room = await self._rooms.get(room_id)
            if room is not None and origin in room.joined_servers:
                return True
        return False


def _not_shared() -> MatrixError:
    return MatrixError(403, "M_FORBIDDEN", "Your server shares no room with this user")
