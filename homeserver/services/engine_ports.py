"""The parts of the engine that services of devices and ephemeral data need, as Protocols.

The engine's classes implement them; so do the small fakes of tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Protocol, TypeAlias

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, StateKey, UserId
from federation.ports import UserDevices
from homeserver.engine.entries import Committed, Placed, Unit
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.rooms import Room
from homeserver.engine.rooms.snapshots import StateRef

OnCommit: TypeAlias = Callable[[Sequence[Placed]], None]


class UnitLog(Protocol):
    """The committer."""

    @property
    def position(self) -> int: ...

    async def submit(self, unit: Unit) -> Committed: ...


class SharedRooms(Protocol):
    """Users who share rooms (the engine's memberships)."""

    async def sharing(self, user_id: UserId, among: Collection[UserId]) -> Set[UserId]:
        """Returns those of some users who are joined or invited to a room that the user is joined
        to.
        """

    async def rooms_of(self, user_id: UserId) -> Sequence[RoomId]: ...


class MemberRoom(Protocol):
    """A room's committed members, as far as services need them."""

    @property
    def joined_local(self) -> Set[UserId]: ...

    @property
    def joined_servers(self) -> Mapping[ServerName, int]: ...

    def is_joined(self, user_id: UserId) -> bool: ...


class MemberRooms(Protocol):
    """Known rooms, by ID."""

    async def get(self, room_id: RoomId) -> MemberRoom | None: ...


class UserRooms(SharedRooms, Protocol):
    """Known rooms, by ID and by local user."""

    async def of(self, user_id: UserId) -> Mapping[RoomId, UserRoom]: ...


class StateRooms(Protocol):
    """Known rooms, with their current state and the state after an event."""

    async def get(self, room_id: RoomId) -> Room | None: ...

    async def state_after(
        self, room: Room, event_id: EventId
    ) -> Mapping[StateKey, StateRef] | None: ...


class OwnDevices(Protocol):
    """The devices of local users: user to device ID to display name; users without devices are left
    out."""

    async def __call__(
        self, user_ids: Collection[UserId]
    ) -> Mapping[UserId, Mapping[DeviceId, str | None]]: ...


class RemoteQueries(Protocol):
    """Queries to other servers; each raises FederationError. Answers contain only the queried
    users; the keys in them are not checked."""

    async def devices(self, user_id: UserId) -> UserDevices: ...

    async def keys_query(
        self, server: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject: ...

    async def keys_claim(
        self, server: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject: ...
