"""Erasure: messages of deactivated local users who asked for it are redacted for later readers.

Rules:
1. A user or server that was in a room before the erasure still sees the messages; one that joins
   later, or was never in the room, gets them redacted. Stored events don't change.
2. State events stay as they are, since the room's state depends on their contents.
3. Erasures are few and held in memory: if there are none, no query is made.

Spec: client-server API, "Account deactivation" (`erase`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, UserId
from homeserver.engine.rooms.room import Room
from homeserver.engine.store import EngineStore


class Erasures:
    """Finds the events of a room that are redacted for a reader."""

    def __init__(self, store: EngineStore) -> None:
        self._store = store
        self._erased_at: Mapping[UserId, int] | None = None

    def changed(self, _user_id: UserId) -> None:
        """Notes that an account was ended: the erasures are read again."""
        self._erased_at = None

    async def hidden_from_user(
        self, room: Room, user_id: UserId, events: Iterable[Event]
    ) -> set[EventId]:
        """Returns those of the events that a user gets redacted."""
        found = await self._erased(events)
        if not found:
            return set()
        return _later_than(found, await self._store.state_changes.first_join(room.row_id, user_id))

    async def hidden_senders(self, room: Room, user_id: UserId) -> frozenset[UserId]:
        """Returns the users whose messages a user gets redacted."""
        known = await self._load()
        if not known:
            return frozenset()
        joined = await self._store.state_changes.first_join(room.row_id, user_id)
        return frozenset(user for user, at in known.items() if joined is None or joined > at)

    async def hidden_from_server(
        self, room: Room, server: ServerName, events: Iterable[Event]
    ) -> set[EventId]:
        """Returns those of the events that another server gets redacted."""
        found = await self._erased(events)
        if not found:
            return set()
        return _later_than(
            found, await self._store.memberships.server_first_joined(room.row_id, server)
        )

    async def _erased(self, events: Iterable[Event]) -> dict[EventId, int]:
        """Returns the messages of erased users, with the position of the erasure."""
        known = await self._load()
        return {
            event.event_id: known[event.sender]
            for event in events
            if event.sender in known and not event.is_state
        }

    async def _load(self) -> Mapping[UserId, int]:
        known = self._erased_at
        if known is None:
            known = self._erased_at = await self._store.erasures.load_erased()
        return known


def _later_than(erased: dict[EventId, int], joined: int | None) -> set[EventId]:
    return {
        event_id for event_id, position in erased.items() if joined is None or joined > position
    }
