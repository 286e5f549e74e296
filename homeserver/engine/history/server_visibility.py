"""Which events another server may have: whole, redacted, or not at all.

Rules:
1. A server may see what one of its users may see, by the state at the event; `shared` history is
   for those who joined at any point after it.
2. A server with joined users gets the rest redacted: it needs the graph. One without gets what it
   may see, and nothing else.
3. Messages of erased users are redacted for a server that came later (`erasures`).
4. The event itself says nothing of who may see it: create events and members are as private as
   messages.

Spec: client-server API, "Room history visibility"; server-server API, "Retrieving events",
"Backfilling and retrieving missing events".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, server_of
from federation.events.redaction import redact_event
from homeserver import limits
from homeserver.engine.history.moments import Around, Moments
from homeserver.engine.room import Room
from homeserver.engine.rooms import Rooms
from homeserver.engine.snapshots import Chain, StateRef, held
from homeserver.engine.store import Store
from homeserver.rules.visibility import JOINED, WORLD_READABLE, server_may_see

Order = tuple[int, int]
_MEMBER = "m.room.member"


class ServerVisibility:
    """Judges events for other servers."""

    def __init__(self, store: Store, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms
        self._moments = Moments(store, rooms)

    async def shown(
        self, room: Room, server: ServerName, events: Sequence[Event]
    ) -> dict[EventId, Event]:
        """The form in which the server gets each of the room's events, by rules 1 and 2."""
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
        """Those of the room's events at which the server had a joined user, on either side: the
        event by which the last one left is among them, and nothing after it."""
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
            key = (chain[-1].nid, event_id in later)
            if key not in verdicts:
                visibility = visibilities[chain[-1].nid]
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
        """Those of the events after which a user of the server joined."""
        if server in room.view.servers:
            return around.keys()
        if all(one in (WORLD_READABLE, JOINED) for one in visibilities.values()):
            return ()
        end = await self._end_of_stay(room, server)
        if end is None:
            return ()
        rows = await self._store.events.by_id(around.keys())
        return {row["event_id"] for row in rows if row["n"] is not None and _order(row) < end}

    async def _end_of_stay(self, room: Room, server: ServerName) -> Order | None:
        """The place of the event by which the last of the server's users left the room. A ban after
        a leave, or a new invite, leads further back."""
        newest = sorted(_Users(room, server).refs, key=lambda ref: -ref.nid)
        wanted = {ref.event_id for ref in newest[: limits.DEPARTED_USERS_SEEN]}
        ends: list[Order] = []
        for _ in range(limits.MEMBERSHIP_STEPS):
            if not wanted:
                break
            rows = await self._store.events.by_id(wanted)
            former = {one for row in rows if (one := row["replaces"]) is not None}
            known = await self._rooms.events(former)
            joins = {
                one for one in former if one in known and known[one].event.membership == "join"
            }
            ends += [
                _order(row) for row in rows if row["n"] is not None and row["replaces"] in joins
            ]
            wanted = former - joins
        return max(ends, default=None)


def _order(row: Mapping[str, int]) -> Order:
    return row["n"], row["fill"]


class _Users:
    """A server's users in the states of a room. Those of the current one are found once; an older
    state differs from it in few keys."""

    def __init__(self, room: Room, server: ServerName) -> None:
        self._server = server
        self._chain = room.view.chain
        current = {key: ref for key, ref in room.view.state.items() if self._is_own(key)}
        self._keys = frozenset(current)
        self.refs = list(current.values())

    def _is_own(self, key: StateKey) -> bool:
        return key[0] == _MEMBER and server_of(key[1]) == self._server

    def memberships(self, chain: Chain) -> set[str]:
        """Those of the server's users in the state that a chain leads to."""
        shared = {link.nid for link in self._chain}
        differing = {key for link in chain if link.nid not in shared for key in link.delta}
        keys = self._keys | {key for key in differing if self._is_own(key)}
        refs: list[StateRef | None] = [held(chain, key) for key in keys]
        return {ref.membership or "leave" for ref in refs if ref is not None}
