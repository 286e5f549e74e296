"""What services of devices and ephemeral data need of the engine, as Protocols.

The engine's classes fulfil them; so do the small stand-ins of tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Protocol, TypeAlias

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId
from federation.ports import KnownEvent, UserDevices
from homeserver.engine.entries import Committed, Unit
from homeserver.engine.log import Placed
from homeserver.engine.memberships import UserRoom
from homeserver.engine.rooms import Room

OnCommit: TypeAlias = Callable[[Sequence[Placed]], None]


class UnitLog(Protocol):
    """The committer."""

    @property
    def position(self) -> int: ...

    async def submit(self, unit: Unit) -> Committed: ...


class SharedRooms(Protocol):
    """Who shares rooms with whom (the engine's memberships)."""

    async def shared_users(self, user_id: UserId) -> Set[UserId]: ...

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomId]: ...

    async def share_room(self, one: UserId, other: UserId) -> bool: ...


class MemberRoom(Protocol):
    """A room's committed members, as far as they matter here."""

    @property
    def joined_local(self) -> Set[UserId]: ...

    @property
    def joined_servers(self) -> Mapping[ServerName, int]: ...

    def is_joined(self, user_id: UserId) -> bool: ...


class MemberRooms(Protocol):
    """Rooms that are known here, by ID."""

    async def get(self, room_id: RoomId) -> MemberRoom | None: ...


class UserRooms(SharedRooms, Protocol):
    """The same, with all rooms of a user of ours."""

    async def of(self, user_id: UserId) -> Mapping[RoomId, UserRoom]: ...


class StateRooms(Protocol):
    """Rooms that are known here, with their current state."""

    async def get(self, room_id: RoomId) -> Room | None: ...


class EventLookup(Protocol):
    """Events by ID."""

    async def events(self, event_ids: Collection[EventId]) -> Mapping[EventId, KnownEvent]: ...


class OwnDevices(Protocol):
    """The devices of users of ours: user to device ID to display name; a user without devices is
    left out."""

    async def __call__(
        self, user_ids: Collection[UserId]
    ) -> Mapping[UserId, Mapping[DeviceId, str | None]]: ...


class RemoteQueries(Protocol):
    """Questions to other servers; each raises FederationError. Answers speak of the asked users
    alone; what is inside of keys is not checked."""

    async def devices(self, user_id: UserId) -> UserDevices: ...

    async def keys_query(
        self, server: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject: ...

    async def keys_claim(
        self, server: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject: ...
