"""A user's devices: listing, renaming and removing.

Spec: client-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver.engine.entries import DeviceListEntry, Entry, Unit
from homeserver.engine.log.committer import Committer
from homeserver.errors import not_found
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.logins import NewDevice, begin_device, check_device_name
from homeserver.storage.accounts import devices
from homeserver.storage.accounts.devices import DeviceRow, DeviceTable
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import device_lists


class Devices:
    """Reads, creates, renames and removes local devices."""

    def __init__(
        self, database: Database, committer: Committer, removal: DeviceRemoval, clock: Clock
    ) -> None:
        self._devices = DeviceTable(database)
        self._committer, self._removal, self._clock = committer, removal, clock

    async def all(self, user_id: UserId) -> list[DeviceRow]:
        """Returns all devices of a user."""
        return await self._devices.load_all(user_id)

    async def get(self, user_id: UserId, device_id: DeviceId) -> DeviceRow:
        """Returns one device. Raises 404 M_NOT_FOUND."""
        device = await self._devices.load(user_id, device_id)
        if device is None:
            raise _unknown()
        return device

    async def rename(self, user_id: UserId, device_id: DeviceId, display_name: str) -> None:
        """Renames a device; servers of other users are told. Raises 404."""
        check_device_name(display_name)

        async def work(connection: Connection) -> Sequence[Entry]:
            if not await devices.rename(connection, user_id, device_id, display_name):
                raise _unknown()
            await device_lists.touch(connection, user_id, [device_id])
            return (DeviceListEntry(user_id),)

        await self._committer.submit(Unit(work=work))

    async def create(self, user_id: UserId, device_id: DeviceId, display_name: str | None) -> bool:
        """Creates a device without an access token. Returns False, and changes nothing, if the user
        has it already. Raises 400 M_INVALID_PARAM for a bad ID or name, 403 for an ID that is a
        cross-signing key's. Spec: application service API, "Device management"."""
        NewDevice(device_id, display_name, "").check()

        async def work(connection: Connection) -> Sequence[Entry]:
            is_new = await devices.create(
                connection,
                user_id,
                device_id,
                display_name=display_name,
                now_ms=self._clock.now_ms(),
            )
            return await begin_device(connection, user_id, device_id) if is_new else ()

        made = await self._committer.submit(Unit(work=work))
        if made.entries:
            self._removal.begun(user_id, device_id)
        return bool(made.entries)

    async def remove(self, user_id: UserId, device_ids: Sequence[DeviceId]) -> None:
        """Removes devices with all their data; unknown devices are not an error."""
        await self._removal.remove(user_id, device_ids)


def _unknown() -> MatrixError:
    return not_found("The user has no such device")
