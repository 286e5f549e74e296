"""What an application service is told of the one-time keys of its users' devices.

Rules:
1. A transaction has the counts of the devices that get messages in it, of those whose users are in
   rooms with events in it, and of those that are new or changed. A service that uploads keys once
   it is told that there are none thus begins, and goes on after claims that no message follows.
2. Except for devices with messages, counts that were told since the deliveries began are left out.
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
from homeserver.storage.encryption.one_time_keys import KeyCounts

T = TypeVar("T")
_Device: TypeAlias = tuple[UserId, DeviceId]
_ByDevice: TypeAlias = dict[UserId, dict[DeviceId, T]]


class ToldCounts:
    """The counts that one service was told."""

    def __init__(self, service: AppService, keys: Keys, table: DeviceTable) -> None:
        """Nothing was told."""
        self._service, self._keys, self._table = service, keys, table
        self._devices: dict[UserId, Collection[DeviceId]] = {}
        self._told: dict[_Device, KeyCounts] = {}

    async def begin(self, audience: Audience) -> None:
        """Reads the devices of the service's users who are in rooms."""
        await self._read(audience.users)

    async def _read(self, users: Collection[UserId]) -> None:
        if not users:
            return
        found = await self._table.load_names(users)
        for user_id in users:
            former = self._devices.pop(user_id, ())
            present = found.get(user_id, {}).keys()
            for device_id in former:
                if device_id not in present:
                    self._told.pop((user_id, device_id), None)
            if present:
                self._devices[user_id] = tuple(present)

    async def untold(
        self, audience: Audience, selection: Selection
    ) -> tuple[_ByDevice[JsonObject], _ByDevice[list[str]]]:
        """Returns the counts for a transaction, and the algorithms with an unused fallback key, by
        user and device. They count as told from now on."""
        changed = set(filter(self._service.owns_user, selection.changed_devices))
        changed.update(
            one.user_id
            for one in selection.changed_members
            if one.membership == "join" and self._service.owns_user(one.user_id)
        )
        await self._read(changed)
        counts: _ByDevice[JsonObject] = {}
        unused: _ByDevice[list[str]] = {}
        for device in {*selection.devices, *self._concerned(audience, selection, changed)}:
            found = await self._keys.counts(*device)
            if device in selection.devices or self._told.get(device) != found:
                self._told[device] = found
                user_id, device_id = device
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
