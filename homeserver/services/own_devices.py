"""The names of devices of users of ours, for services that need no more of them."""

from __future__ import annotations

from collections.abc import Mapping

from federation.events.ids import DeviceId, UserId
from homeserver.storage import devices
from homeserver.storage.database import Database


class OwnDeviceNames:
    """Device ID to display name; empty for a user without devices, or unknown here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, user_id: UserId) -> Mapping[DeviceId, str | None]:
        """All devices of a user."""
        async with self._database.connection() as connection:
            found = await devices.load_all(connection, user_id)
        return {device.device_id: device.display_name for device in found}
