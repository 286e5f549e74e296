"""The states around events, as far as they decide visibility.

Rules:
1. The state at an event is that of its own snapshots, whatever its place: behind a gap, on a
   branch, in fetched history. It is never taken from a neighbour.
2. Single keys are looked up in a snapshot's chain; the whole state isn't built.

Spec: client-server API, "Room history visibility".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from federation.events import event_types
from federation.events.ids import EventId, UserId
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import Chain, StateRef, held
from homeserver.engine.store import EngineStore
from homeserver.rules.timeline.visibility import (
    JOINED,
    Moment,
    membership_of,
    visibility_of,
)


class Around(msgspec.Struct, frozen=True):
    """The states before and after one event."""

    before: Chain
    after: Chain


class Moments:
    """Reads the deciding keys of states."""

    def __init__(self, store: EngineStore, rooms: Rooms) -> None:
        self._store = store
        self._rooms = rooms

    async def around(self, room: Room, event_ids: Collection[EventId]) -> dict[EventId, Around]:
        """Returns the states around those of the events that have a known place in the room's
        graph.
        """
        rows = await self._store.events.snapshots_around(room.row_id, event_ids)
        wanted = {one for row in rows for one in (row.snapshot_before, row.snapshot_after)}
        chains = await self._rooms.chains(room, wanted)
        return {
            row.event_id: Around(chains[row.snapshot_before], chains[row.snapshot_after])
            for row in rows
        }

    async def visibility_now(self, room: Room) -> str:
        """Returns the history visibility by current state."""
        chain = room.view.chain
        return (await self.visibilities([Around(chain, chain)]))[chain[-1].row_id]

    async def visibilities(self, around: Collection[Around]) -> Mapping[int, str]:
        """Returns the history visibility of each of these states, by the number of the snapshot. An
        unknown one hides events."""
        chains = {chain[-1].row_id: chain for one in around for chain in (one.before, one.after)}
        refs = {
            row_id: held(chain, event_types.HISTORY_VISIBILITY_KEY)
            for row_id, chain in chains.items()
        }
        known = await self._rooms.events({ref.event_id for ref in refs.values() if ref})

        def visibility(ref: StateRef | None) -> str:
            if ref is None:
                return visibility_of(None)
            event = known.get(ref.event_id)
            return JOINED if event is None else visibility_of(event.event.content)

        return {row_id: visibility(ref) for row_id, ref in refs.items()}

    async def of_user(
        self, room: Room, user_id: UserId, event_ids: Collection[EventId]
    ) -> dict[EventId, tuple[Moment, Moment]]:
        """Returns the deciding state for a user, before and after each of the events; events
        without a known place are left out."""
        around = await self.around(room, event_ids)
        visibilities = await self.visibilities(around.values())

        def moment(chain: Chain) -> Moment:
            ref = held(chain, (event_types.MEMBER, user_id))
            membership = membership_of(ref.membership if ref is not None else None)
            return Moment(visibilities[chain[-1].row_id], membership)

        return {
            event_id: (moment(one.before), moment(one.after)) for event_id, one in around.items()
        }
