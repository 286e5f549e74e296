"""Which rooms an application service is told of, at one position of the log.

It is told of a room as long as one of its users is joined, or if the room's ID or a local alias of
it is in its namespaces. Memberships are applied in the order of the log, so that events are judged
by the memberships of their time, however far behind the service is.

Spec: application service API, "Registration" (namespaces).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set

from federation.events.ids import RoomAlias, RoomId, UserId
from homeserver.rules.appservices.registrations import AppService


class Audience:
    """The rooms of a service's users."""

    def __init__(self, service: AppService, joined: Iterable[tuple[RoomId, UserId]] = ()) -> None:
        self._service = service
        self._joined: dict[RoomId, set[UserId]] = {}
        self._aliased: set[RoomId] = set()
        for room_id, user_id in joined:
            self.apply(room_id, user_id, "join")

    def apply(self, room_id: RoomId, user_id: UserId, membership: str | None) -> None:
        """Notes the new membership of a user."""
        if not self._service.owns_user(user_id):
            return
        users = self._joined.setdefault(room_id, set())
        if membership == "join":
            users.add(user_id)
        else:
            users.discard(user_id)
        if not users:
            del self._joined[room_id]

    @property
    def rooms(self) -> Collection[RoomId]:
        """The rooms that its users are joined to, and those with an alias of its namespaces."""
        return self._joined.keys() | self._aliased

    def note_aliases(
        self, rooms: Collection[RoomId], aliases: Iterable[tuple[RoomId, RoomAlias]]
    ) -> None:
        """Notes the present local aliases of rooms, in place of those that were noted before."""
        known = self._service.aliases
        self._aliased.difference_update(rooms)
        self._aliased.update(room_id for room_id, alias in aliases if known.has(alias))

    def has_room(self, room_id: RoomId) -> bool:
        """Returns whether the service is told of a room."""
        if room_id in self._joined or room_id in self._aliased:
            return True
        return self._service.rooms.has(room_id)

    def has_users_in(self, room_ids: Collection[RoomId]) -> bool:
        """Returns whether one of the service's users is joined to one of these rooms."""
        return any(room_id in self._joined for room_id in room_ids)

    @property
    def users(self) -> frozenset[UserId]:
        """Its users who are joined to any room."""
        return frozenset().union(*self._joined.values())

    def users_among(self, room_id: RoomId, users: Set[UserId]) -> Set[UserId]:
        """Returns those of some users who are the service's, and joined to a room."""
        return users & self._joined.get(room_id, set())

    def users_in(self, room_id: RoomId) -> frozenset[UserId]:
        """Returns the service's users who are joined to a room."""
        return frozenset(self._joined.get(room_id, ()))
