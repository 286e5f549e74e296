"""The users and devices that application services act as. Reads `accounts` and `devices`."""

from __future__ import annotations

import msgspec

from federation.events.ids import DeviceId, UserId
from homeserver.storage.database import Database


class Identity(msgspec.Struct, frozen=True):
    """An active account; `has_device` says whether the device asked for is one of its, and not a
    dehydrated one, as which nobody acts."""

    is_guest: bool
    is_locked: bool
    is_suspended: bool
    has_device: bool


class IdentityTable:
    """The accounts of users, with one device each."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, user_id: UserId, device_id: DeviceId | None) -> Identity | None:
        """Returns an active account; None if there is none."""
        row = await self._database.fetchrow(
            "SELECT is_guest, is_locked, is_suspended, EXISTS (SELECT FROM devices d"
            " WHERE d.user_id = a.user_id AND d.device_id = $2 AND d.dehydrated IS NULL)"
            " FROM accounts a WHERE user_id = $1 AND NOT is_deactivated",
            user_id,
            device_id,
        )
        return None if row is None else Identity(*row)
