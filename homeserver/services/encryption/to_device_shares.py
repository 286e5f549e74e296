"""Bounds on the messages of one remote user or server that wait for a local device.

Rules:
1. A stored message is kept until the device has received it. If a sender's share is full, new
   messages are refused; waiting ones are never dropped, and other senders' shares stay the same.
2. Each device has its own shares: one that never syncs again takes nothing from the user's other
   devices. A sender's share lies within a larger one of the sender's server.
3. Waiting messages are counted in the database on demand, and the count stays in memory until
   messages are delivered or removed; a count that was read during a change isn't kept.

Spec: server-server API, "Send-to-device messaging" (which defines no bound).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

from federation.events.ids import DeviceId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.entries import ToDeviceEntry
from homeserver.storage.database import Database
from homeserver.storage.encryption.to_device import ToDeviceTable

log = logging.getLogger(__name__)

_Device = tuple[UserId, DeviceId]


class _Share:
    """The waiting messages of one sender or server: their number and bytes."""

    __slots__ = ("is_refused", "messages", "size")

    def __init__(self) -> None:
        self.messages = self.size = 0
        self.is_refused = False

    def has_room(self, size: int, *, messages_max: int, bytes_max: int) -> bool:
        return self.messages < messages_max and self.size + size <= bytes_max

    def add(self, messages: int, size: int) -> None:
        """Counts messages; negative numbers subtract."""
        self.messages += messages
        self.size += size


class _Waiting:
    """The waiting messages for one device, from other servers."""

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
        """Counts a message; returns False if the share has no room for it."""
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
        if not of_sender.is_refused:  # Once, until messages are delivered.
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
        """Takes messages that weren't stored out of the count."""
        for waiting, entry in self._counted:
            waiting.add(entry.sender, -1, -len(entry.message))
        self._counted = ()


class ToDeviceShares:
    """The shares of all local devices."""

    def __init__(self, database: Database) -> None:
        self._messages = ToDeviceTable(database)
        self._waiting: OrderedDict[_Device, _Waiting] = OrderedDict()
        self._devices: dict[UserId, set[DeviceId]] = {}
        self._senders = 0  # entries in `_waiting`, of all devices
        self._changes = 0

    async def admit(self, entries: Sequence[ToDeviceEntry]) -> Admitted:
        """Returns the messages of remote users that are within their shares."""
        waiting = await self._load({(entry.user_id, entry.device_id) for entry in entries})
        kept = [one for device, one in waiting.items() if self._waiting.get(device) is one]
        before = _count_senders(kept)
        pairs = [(waiting[entry.user_id, entry.device_id], entry) for entry in entries]
        admitted = Admitted([(of, entry) for of, entry in pairs if of.admit(entry)])
        self._senders += _count_senders(kept) - before
        self._bound()
        return admitted

    def forget(self, user_id: UserId, device_id: DeviceId) -> None:
        """Drops the count after a delivery; it is read again on demand."""
        self._changes += 1
        self._drop((user_id, device_id))

    def forget_user(self, user_id: UserId) -> None:
        """Drops the counts of a user whose devices may have been removed."""
        self._changes += 1
        for device_id in list(self._devices.get(user_id, ())):
            self._drop((user_id, device_id))

    async def _load(self, devices: Collection[_Device]) -> Mapping[_Device, _Waiting]:
        found = {device: self._waiting[device] for device in devices if device in self._waiting}
        loaded = {device: _Waiting() for device in devices if device not in found}
        if loaded:
            changes = self._changes
            for one in await self._messages.count_by_sender(loaded):
                loaded[one.user_id, one.device_id].add(one.sender, one.messages, one.bytes)
            if changes == self._changes:
                self._keep(loaded)
        return found | {device: self._waiting.get(device, loaded[device]) for device in loaded}

    def _keep(self, loaded: Mapping[_Device, _Waiting]) -> None:
        for device, waiting in loaded.items():
            if device not in self._waiting:  # otherwise loaded and changed already
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
