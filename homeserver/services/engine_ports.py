"""What services of devices and ephemeral data need of the engine, as Protocols.

The engine's classes fulfil them; so do the small stand-ins of tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Protocol, TypeAlias

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, StateKey, UserId
from federation.ports import UserDevices
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.log.entries import Committed, Unit
from homeserver.engine.log.tail import Placed
from homeserver.engine.rooms.rooms import Room
from homeserver.engine.rooms.snapshots import StateRef

OnCommit: TypeAlias = Callable[[Sequence[Placed]], None]


class UnitLog(Protocol):
    """The committer."""

    @property
    def position(self) -> int: ...

    async def submit(self, unit: Unit) -> Committed: ...


class SharedRooms(Protocol):
    """Who shares rooms with whom (the engine's memberships)."""

    async def sharing(self, user_id: UserId, among: Collection[UserId]) -> Set[UserId]:
        """Those of some users who are joined or invited to a room that the user is joined to."""

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomId]: ...


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
    """Rooms that are known here, with their current state and that after an event."""

    async def get(self, room_id: RoomId) -> Room | None: ...

    async def state_after(
        self, room: Room, event_id: EventId
    ) -> Mapping[StateKey, StateRef] | None: ...


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
