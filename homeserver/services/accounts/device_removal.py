"""Removal of devices: rows, tokens, keys and waiting messages in one unit of the log.

Rules:
1. The device's row and its access tokens go in the same unit as what the hooks delete; the hooks
   return the log's entries (a changed device list). Either all of it is removed, or nothing.
2. Tokens and transaction IDs are dropped from memory right after the commit, before the request is
   answered.

Spec: client-server API, "Device Management", "Relationship between access tokens and devices".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from federation.events.ids import DeviceId, UserId
from homeserver.engine.entries import Entry, Unit
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.transactions import Transactions
from homeserver.services.accounts.tokens import Tokens
from homeserver.storage.accounts import devices
from homeserver.storage.database import Connection
from homeserver.storage.timeline import transactions

OnDevicesDeleted: TypeAlias = Callable[
    [Connection, UserId, Sequence[DeviceId]], Awaitable[Sequence[Entry]]
]
"""Deletes the other data of devices, inside the unit; returns entries for the log."""


class DeviceRemoval:
    """Removes local devices."""

    def __init__(
        self,
        committer: Committer,
        tokens: Tokens,
        on_devices_deleted: Sequence[OnDevicesDeleted],
        *,
        sends: Transactions,
    ) -> None:
        self._committer, self._tokens, self._sends = committer, tokens, sends
        self._hooks = on_devices_deleted

    async def remove(
        self,
        user_id: UserId,
        device_ids: Sequence[DeviceId] | None,
        *,
        spare: DeviceId | None = None,
        keeps_dehydrated: bool = False,
        first: Callable[[Connection], Awaitable[Sequence[Entry]]] | None = None,
    ) -> None:
        """Ends devices (None: all but `spare`; with `keeps_dehydrated` all that somebody is logged
        in with). `first` runs before, in the same unit."""
        removed: list[DeviceId] = []

        async def work(connection: Connection) -> Sequence[Entry]:
            entries = list(await first(connection)) if first else []
            removed[:] = await devices.delete(
                connection, user_id, device_ids, spare=spare, keeps_dehydrated=keeps_dehydrated
            )
            return entries + await self._delete_data(connection, user_id, removed)

        try:
            await self._committer.submit(Unit(work=work))
        finally:
            # Also when the outcome is unknown: a dropped entry only has to be read once more.
            self._tokens.forget(user_id, device_ids)
            self._sends.forget(user_id, removed)

    async def replace(
        self, connection: Connection, user_id: UserId, device_id: DeviceId
    ) -> Sequence[Entry]:
        """Ends a device without access tokens within a unit of the caller, who calls `begun` for it
        afterwards; returns entries for the log."""
        removed = await devices.delete(connection, user_id, [device_id])
        return await self._delete_data(connection, user_id, removed)

    async def _delete_data(
        self, connection: Connection, user_id: UserId, removed: Sequence[DeviceId]
    ) -> list[Entry]:
        entries: list[Entry] = []
        if removed:
            await transactions.delete_devices(connection, user_id, removed)
            for hook in self._hooks:
                entries += await hook(connection, user_id, removed)
        return entries

    def begun(self, user_id: UserId, device_id: DeviceId) -> None:
        """Drops the transaction IDs of a former device with the ID of a new one."""
        self._sends.forget(user_id, [device_id])
