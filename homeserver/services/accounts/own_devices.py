"""The names of local devices, for services that need no more of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeAlias

from federation.events.ids import DeviceId, UserId
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.database import Database

OwnDevices: TypeAlias = Callable[
    [Collection[UserId]], Awaitable[Mapping[UserId, Mapping[DeviceId, str | None]]]
]
"""Returns the devices of some local users, as `OwnDeviceNames`."""


class OwnDeviceNames:
    """User to device ID to display name; users without devices and unknown users are left out."""

    def __init__(self, database: Database) -> None:
        self._devices = DeviceTable(database)

    async def __call__(
        self, user_ids: Collection[UserId]
    ) -> Mapping[UserId, Mapping[DeviceId, str | None]]:
        """Returns all devices of some users."""
        if not user_ids:
            return {}
        return await self._devices.load_names(user_ids)
