"""Visibility of events to another server: whole, redacted, or not at all.

Rules:
1. A server may see the events that one of its users may see, by the state at the event; `shared`
   history is visible to users who joined at any point after it.
2. A server with joined users gets the other events redacted, since it needs the graph. One without
   gets only the events that it may see.
3. Messages of erased users are redacted for a server that joined later (`erasures`).
4. The type of an event doesn't matter: create events and members are as private as messages.

Spec: client-server API, "Room history visibility"; server-server API, "Retrieving events",
"Backfilling and retrieving missing events".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, server_of
from federation.events.redaction import redact_event
from homeserver import limits
from homeserver.engine.rooms.moments import Around, Moments
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import Chain, StateRef, held
from homeserver.engine.store import EngineStore
from homeserver.rules.timeline.visibility import JOINED, WORLD_READABLE, server_may_see

Order = tuple[int, int]


class ServerVisibility:
    """Decides on the visibility of events to other servers."""

    def __init__(self, store: EngineStore, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms
        self._moments = Moments(store, rooms)

    async def shown(
        self, room: Room, server: ServerName, events: Sequence[Event]
    ) -> dict[EventId, Event]:
        """Returns the form in which the server gets each of the room's events, by rules 1 and 2."""
        seen = await self._seen(room, server, [event.event_id for event in events])
        hidden = await self._rooms.erasures.hidden_from_server(room, server, events)
        events = [redact_event(one) if one.event_id in hidden else one for one in events]
        if server in room.view.servers:
            return {
                event.event_id: event if event.event_id in seen else redact_event(event)
                for event in events
            }
        return {event.event_id: event for event in events if event.event_id in seen}

    async def joined_at(
        self, room: Room, server: ServerName, event_ids: Collection[EventId]
    ) -> frozenset[EventId]:
        """Returns those of the room's events at which the server had a joined user, on either side:
        they include the event by which the last one left, and nothing after it."""
        users = _Users(room, server)
        return frozenset(
            event_id
            for event_id, one in (await self._moments.around(room, event_ids)).items()
            if "join" in users.memberships(one.before) or "join" in users.memberships(one.after)
        )

    async def _seen(
        self, room: Room, server: ServerName, event_ids: Collection[EventId]
    ) -> set[EventId]:
        around = await self._moments.around(room, event_ids)
        visibilities = await self._moments.visibilities(around.values())
        later = await self._joined_later(room, server, visibilities, around)
        users = _Users(room, server)
        verdicts: dict[tuple[int, bool], bool] = {}

        def allows(event_id: EventId, chain: Chain) -> bool:
            key = (chain[-1].row_id, event_id in later)
            if key not in verdicts:
                visibility = visibilities[chain[-1].row_id]
                memberships = () if visibility == WORLD_READABLE else users.memberships(chain)
                verdicts[key] = server_may_see(visibility, memberships, joined_later=key[1])
            return verdicts[key]

        return {
            event_id
            for event_id, one in around.items()
            if allows(event_id, one.before) or allows(event_id, one.after)
        }

    async def _joined_later(
        self,
        room: Room,
        server: ServerName,
        visibilities: Mapping[int, str],
        around: Mapping[EventId, Around],
    ) -> Collection[EventId]:
        """Returns those of the events after which a user of the server joined."""
        if server in room.view.servers:
            return around.keys()
        if all(one in (WORLD_READABLE, JOINED) for one in visibilities.values()):
            return ()
        stays = await self._stays(room, server)
        if not stays:
            return ()
        rows = await self._store.events.by_id(around.keys())
        return {
            event_id
            for row in rows
            if (order := row.order) is not None
            for event_id in [row.event_id]
            if any(_is_before_end(order, around[event_id], stay) for stay in stays)
        }

    async def _stays(self, room: Room, server: ServerName) -> list[_Stay]:
        """Returns the newest departures of the server's users. A ban after a leave, or a new
        invite, leads further back."""
        refs = sorted(_Users(room, server).refs.items(), key=lambda item: -item[1].row_id)
        open_stays = {
            ref.event_id: _Stay(key, {ref.event_id})
            for key, ref in refs[: limits.DEPARTED_USERS_SEEN]
        }
        found = []
        for _ in range(limits.MEMBERSHIP_STEPS):
            if not open_stays:
                break
            rows = await self._store.events.by_id(open_stays.keys())
            former = {one for row in rows if (one := row.replaces) is not None}
            known = await self._rooms.events(former)
            further = {}
            for row in rows:
                stay, replaced = open_stays[row.event_id], row.replaces
                if replaced not in known:
                    continue
                if known[replaced].event.membership != "join":
                    stay.since.add(replaced)
                    further[replaced] = stay
                elif row.order is not None:
                    stay.until = row.order
                    found.append(stay)
            open_stays = further
        return found


@dataclass(slots=True)
class _Stay:
    """The end of a user's time in a room: their member events since, and the place of the first."""

    key: StateKey
    since: set[EventId]
    until: Order = (0, 0)


def _is_before_end(order: Order, around: Around, stay: _Stay) -> bool:
    """Returns whether an event was sent before a user left. An event that came late has a place at
    the end of the room, so its place alone isn't enough."""
    ref = held(around.before, stay.key)
    return order < stay.until and (ref is None or ref.event_id not in stay.since)


class _Users:
    """A server's users in the states of a room. Those of the current state are found once; an older
    state differs from it in few keys."""

    def __init__(self, room: Room, server: ServerName) -> None:
        self._server = server
        self._chain = room.view.chain
        current = {key: ref for key, ref in room.view.state.items() if self._is_own(key)}
        self._keys = frozenset(current)
        self.refs = current

    def _is_own(self, key: StateKey) -> bool:
        return key[0] == event_types.MEMBER and server_of(key[1]) == self._server

    def memberships(self, chain: Chain) -> set[str]:
        """Returns the memberships of the server's users in the state that a chain leads to."""
        shared = {link.row_id for link in self._chain}
        differing = {key for link in chain if link.row_id not in shared for key in link.delta}
        keys = self._keys | {key for key in differing if self._is_own(key)}
        refs: list[StateRef | None] = [held(chain, key) for key in keys]
        return {ref.membership or "leave" for ref in refs if ref is not None}
