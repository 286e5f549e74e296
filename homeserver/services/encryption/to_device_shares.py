"""How much of what waits for a device of ours may come from one user, or server, elsewhere.

Rules:
1. What was stored is owed to the device until it has it. So a sender whose share is full is refused
   what is new; nothing that waits is thrown away, and nobody else's share gets smaller.
2. A share belongs to one device: one that never syncs again takes nothing from the user's others.
   It is one of the sender's, within a larger one of the sender's server.
3. What waits is counted in the database when it is asked for, and kept in memory until something
   is taken or removed; a count that was read while something changed isn't kept.

Spec: server-server API, "Send-to-device messaging" (which names no bound).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

from federation.events.ids import DeviceId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.log.entries import ToDeviceEntry
from homeserver.storage.database import Database
from homeserver.storage.encryption import to_device as store

log = logging.getLogger(__name__)

_Device = tuple[UserId, DeviceId]


class _Share:
    """What waits of one sender or server: messages, and their bytes."""

    __slots__ = ("is_refused", "messages", "size")

    def __init__(self) -> None:
        self.messages = self.size = 0
        self.is_refused = False

    def has_room(self, size: int, *, messages_max: int, bytes_max: int) -> bool:
        return self.messages < messages_max and self.size + size <= bytes_max

    def add(self, messages: int, size: int) -> None:
        """Counts messages; negative numbers take them back."""
        self.messages += messages
        self.size += size


class _Waiting:
    """What waits for one device, from other servers."""

    __slots__ = ("of_sender", "of_server")

    def __init__(self) -> None:
        self.of_sender: dict[UserId, _Share] = {}
        self.of_server: dict[ServerName, _Share] = {}

    def shares(self, sender: UserId) -> tuple[_Share, _Share]:
        return (
            self.of_sender.setdefault(sender, _Share()),
            self.of_server.setdefault(server_of(sender), _Share()),
        )

    def add(self, sender: UserId, messages: int, size: int) -> None:
        for share in self.shares(sender):
            share.add(messages, size)

    def admit(self, entry: ToDeviceEntry) -> bool:
        """Counts a message, if there is room for it."""
        size = len(entry.message)
        of_sender, of_server = self.shares(entry.sender)
        if of_sender.has_room(
            size,
            messages_max=limits.TO_DEVICE_WAITING_PER_SENDER,
            bytes_max=limits.TO_DEVICE_WAITING_BYTES_PER_SENDER,
        ) and of_server.has_room(
            size,
            messages_max=limits.TO_DEVICE_WAITING_PER_SERVER,
            bytes_max=limits.TO_DEVICE_WAITING_BYTES_PER_SERVER,
        ):
            self.add(entry.sender, 1, size)
            return True
        if not of_sender.is_refused:  # once, until something is taken
            log.warning(
                "Messages of %s to %s %s are refused: too many wait that the device hasn't taken",
                entry.sender,
                entry.user_id,
                entry.device_id,
            )
        of_sender.is_refused = True
        return False


class Admitted:
    """Messages that are within their shares, and count from now on."""

    def __init__(self, counted: Sequence[tuple[_Waiting, ToDeviceEntry]]) -> None:
        self._counted = counted
        self.entries: Sequence[ToDeviceEntry] = [entry for _, entry in counted]

    def release(self) -> None:
        """They weren't stored, so they don't count."""
        for waiting, entry in self._counted:
            waiting.add(entry.sender, -1, -len(entry.message))
        self._counted = ()


class ToDeviceShares:
    """The shares of all devices of ours."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: OrderedDict[_Device, _Waiting] = OrderedDict()
        self._devices: dict[UserId, set[DeviceId]] = {}
        self._senders = 0  # in `_waiting`, of all devices
        self._changes = 0

    async def admit(self, entries: Sequence[ToDeviceEntry]) -> Admitted:
        """Those messages of users of other servers that are within their shares."""
        waiting = await self._load({(entry.user_id, entry.device_id) for entry in entries})
        kept = [one for device, one in waiting.items() if self._waiting.get(device) is one]
        before = _count_senders(kept)
        pairs = [(waiting[entry.user_id, entry.device_id], entry) for entry in entries]
        admitted = Admitted([(of, entry) for of, entry in pairs if of.admit(entry)])
        self._senders += _count_senders(kept) - before
        self._bound()
        return admitted

    def forget(self, user_id: UserId, device_id: DeviceId) -> None:
        """The device took something: what waits is counted again when it matters."""
        self._changes += 1
        self._drop((user_id, device_id))

    def forget_user(self, user_id: UserId) -> None:
        """Devices of the user may have been removed."""
        self._changes += 1
        for device_id in list(self._devices.get(user_id, ())):
            self._drop((user_id, device_id))

    async def _load(self, devices: Collection[_Device]) -> Mapping[_Device, _Waiting]:
        found = {device: self._waiting[device] for device in devices if device in self._waiting}
        loaded = {device: _Waiting() for device in devices if device not in found}
        if loaded:
            changes = self._changes
            async with self._database.connection() as connection:
                counted = await store.count_by_sender(connection, loaded)
            for device, sender, messages, size in counted:
                loaded[device].add(sender, messages, size)
            if changes == self._changes:
                self._keep(loaded)
        return found | {device: self._waiting.get(device, loaded[device]) for device in loaded}

    def _keep(self, loaded: Mapping[_Device, _Waiting]) -> None:
        for device, waiting in loaded.items():
            if device not in self._waiting:  # else it was loaded, and added to, meanwhile
                self._waiting[device] = waiting
                self._devices.setdefault(device[0], set()).add(device[1])
                self._senders += len(waiting.of_sender)

    def _bound(self) -> None:
        while self._senders > limits.TO_DEVICE_SENDERS_COUNTED and self._waiting:
            self._drop(next(iter(self._waiting)))

    def _drop(self, device: _Device) -> None:
        waiting = self._waiting.pop(device, None)
        if waiting is None:
            return
        self._senders -= len(waiting.of_sender)
        self._devices[device[0]].remove(device[1])
        if not self._devices[device[0]]:
            del self._devices[device[0]]


def _count_senders(waiting: Iterable[_Waiting]) -> int:
    return sum(len(one.of_sender) for one in waiting)
