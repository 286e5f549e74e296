"""The sources of a sync in other services, as Protocols.

Positions are those of the log; `after` is exclusive, `up_to` inclusive. Content is JSON bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from federation.events.ids import DeviceId, RoomId, UserId
from homeserver.services.account_data.account_data import AccountDataSource
from homeserver.services.ephemeral.typing import TypingToken
from homeserver.storage.ephemeral.receipts import ReceiptRow


class ToDeviceSource(Protocol):
    """Messages that wait for a device."""

    async def pending(
        self, user_id: UserId, device_id: DeviceId, *, after: int, up_to: int, limit: int
    ) -> tuple[list[bytes], int]:
        """Returns the oldest `limit` messages, and the position up to which they reach."""

    def acknowledge(self, user_id: UserId, device_id: DeviceId, up_to: int) -> None:
        """Notes that the device has the messages up to a position. Cheap if there are none."""


class DeviceListSource(Protocol):
    """Changes of device lists and cross-signing keys of users whom a user shares rooms with."""

    async def changes(
        self, user_id: UserId, *, after: int, up_to: int
    ) -> tuple[Collection[UserId], Collection[UserId]]:
        """`changed` and `left`."""

    async def everybody(self, user_id: UserId) -> set[UserId]:
        """Returns all users whose devices the user keeps track of."""


class UnusedKeys(Protocol):
    """One-time keys left for each algorithm; algorithms with an unused fallback key."""

    @property
    def one_time(self) -> Mapping[str, int]: ...
    @property
    def unused_fallback(self) -> Sequence[str]: ...


class KeyCountSource(Protocol):
    """One-time keys of a device. Usually answered from memory, since every sync asks."""

    async def counts(self, user_id: UserId, device_id: DeviceId) -> UnusedKeys: ...


class ReceiptSource(Protocol):
    """The latest receipts of rooms, private ones of all users included."""

    async def since(
        self, rooms: Collection[RoomId], *, after: int, up_to: int
    ) -> Mapping[RoomId, Sequence[ReceiptRow]]: ...


class TypingSource(Protocol):
    """Typing users, in memory: a counter within a boot of the server."""

    @property
    def token(self) -> TypingToken: ...

    def since(self, room_id: RoomId, token: TypingToken | None) -> Sequence[UserId] | None:
        """Returns the typing users of a room if they changed after `token`, else None."""


@dataclass(frozen=True, slots=True)
class SyncSources:
    """All sources."""

    to_device: ToDeviceSource
    device_lists: DeviceListSource
    keys: KeyCountSource
    account_data: AccountDataSource
    receipts: ReceiptSource
    typing: TypingSource
