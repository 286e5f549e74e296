"""What an application service is told of the one-time keys of its users' devices.

Rules:
1. A transaction has the counts of the devices that get messages in it, of those whose users are in
   rooms with events in it, and of those that are new or changed. A service that uploads keys once
   it is told that there are none thus begins, and goes on after claims that no message follows.
2. Counts are told again though they are the same: a service that was told of a device before it
   had the answer that made it has let it pass.
3. The devices of its users are read as the deliveries begin, and of a user again with each change.

Spec: MSC3202.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias, TypeVar

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver.rules.appservices.audience import Audience
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.appservices.selection import Selection
from homeserver.services.encryption.keys import Keys
from homeserver.storage.accounts.devices import DeviceTable

T = TypeVar("T")
_Device: TypeAlias = tuple[UserId, DeviceId]
_ByDevice: TypeAlias = dict[UserId, dict[DeviceId, T]]


class KeyCountReader:
    """Reads the counts for one service."""

    def __init__(self, service: AppService, keys: Keys, table: DeviceTable) -> None:
        """Nothing is read before `begin`."""
        self._service, self._keys, self._table = service, keys, table
        self._devices: dict[UserId, Collection[DeviceId]] = {}

    async def begin(self, audience: Audience) -> None:
        """Reads the devices of the service's users who are in rooms."""
        await self._load(audience.users)

    async def _load(self, users: Collection[UserId]) -> None:
        if not users:
            return
        found = await self._table.load_names(users)
        for user_id in users:
            self._devices.pop(user_id, None)
            if user_id in found:
                self._devices[user_id] = tuple(found[user_id])

    async def read(
        self, audience: Audience, selection: Selection
    ) -> tuple[_ByDevice[JsonObject], _ByDevice[list[str]]]:
        """Returns the counts for a transaction, and the algorithms with an unused fallback key, by
        user and device."""
        changed = set(filter(self._service.owns_user, selection.changed_devices))
        changed.update(
            one.user_id
            for one in selection.changed_members
            if one.membership == "join" and self._service.owns_user(one.user_id)
        )
        await self._load(changed)
        counts: _ByDevice[JsonObject] = {}
        unused: _ByDevice[list[str]] = {}
        concerned = {*selection.devices, *self._concerned(audience, selection, changed)}
        for user_id, device_id in concerned:
            found = await self._keys.counts(user_id, device_id)
            counts.setdefault(user_id, {})[device_id] = dict(found.one_time)
            unused.setdefault(user_id, {})[device_id] = list(found.unused_fallback)
        return counts, unused

    def _concerned(
        self, audience: Audience, selection: Selection, changed: Collection[UserId]
    ) -> Iterator[_Device]:
        users = set(changed)
        for room_id in {one.room_id for one in selection.events}:
            users |= audience.users_among(room_id, self._devices.keys())
        for user_id in users:
            for device_id in self._devices.get(user_id, ()):
                yield user_id, device_id
