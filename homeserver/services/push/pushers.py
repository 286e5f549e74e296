"""Pushers, as clients set and read them.

Spec: client-server API, "Push Notifications", GET /pushers, POST /pushers/set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import Entry, UnitLog
from homeserver.errors import invalid_param
from homeserver.rules.push.pushers import EMAIL, PusherRequest, pusher_json
from homeserver.services.accounts.requester import Requester
from homeserver.services.accounts.tokens import unknown_token
from homeserver.storage.database import Connection, Database
from homeserver.storage.push.pushers import NotSet, PusherTable, delete_of_devices


class Pushers:
    """The pushers of local users."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        committer: UnitLog,
        has_address: Callable[[UserId, str], Awaitable[bool | None]],
        on_set: Sequence[Callable[[UserId, int], None]] = (),
    ) -> None:
        """`has_address` returns whether a user can be sent mails at an address, None if nobody can;
        `on_set` take each pusher that was set."""
        self._table, self._clock, self._has_address = PusherTable(database), clock, has_address
        self._committer, self._on_set = committer, on_set

    async def all_of(self, user_id: UserId) -> JsonObject:
        """GET /pushers."""
        return {"pushers": [pusher_json(one) for one in await self._table.load_of(user_id)]}

    async def set(self, requester: Requester, request: PusherRequest) -> JsonObject:
        """POST /pushers/set. 400 M_INVALID_PARAM if the user has too many pushers, 400
        M_THREEPID_NOT_FOUND for another's address; 401 if the device was removed meanwhile."""
        user_id = requester.user_id
        if request.pusher is None:
            await self._table.delete(user_id, [request.key])
            return {}
        if request.pusher.kind == EMAIL:
            await self._check_address(user_id, request.key.pushkey)
        stored = await self._table.set(
            user_id,
            requester.device_id,
            request.pusher,
            now_ms=self._clock.now_ms(),
            position=self._committer.position,
        )
        if stored is NotSet.FULL:
            raise invalid_param(f"More than {limits.PUSHERS_PER_USER} pushers: delete old ones")
        if isinstance(stored, NotSet):
            raise unknown_token()
        if not request.append:
            await self._table.delete_of_others(user_id, request.key)
        for on_set in self._on_set:
            on_set(user_id, stored)
        return {}

    async def _check_address(self, user_id: UserId, address: str) -> None:
        has_address = await self._has_address(user_id, address)
        if has_address is None:
            raise invalid_param("This server sends no e-mail")
        if not has_address:
            raise MatrixError(400, "M_THREEPID_NOT_FOUND", "The account doesn't have that address")

    async def on_devices_deleted(
        self, connection: Connection, user_id: UserId, device_ids: Sequence[DeviceId]
    ) -> Sequence[Entry]:
        """Deletes the pushers of devices, in the unit that deletes these."""
        await delete_of_devices(connection, user_id, device_ids)
        return ()
