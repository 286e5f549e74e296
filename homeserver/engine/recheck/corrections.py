"""The effects of changed verdicts on a room: rows, heads, current state.

Rules:
1. Heads are the accepted events that no accepted one names as a parent. A newly rejected event is
   no longer a head, and its parents may become heads again.
2. An event that was rejected and is now allowed is handled as if it arrived now: checks 6 and 7
   decide whether it is accepted, and released to clients, or soft-failed. If it is older than our
   time in the room, it affects only states.
3. An event that was accepted and is now rejected loses its place: clients that haven't received it
   never will. Its effect on the current state is undone by an entry in the log, like that of a
   merge.
4. Descendants of an event whose state after it changed are marked as unverified, and due.

Spec: server-server API, "Rejection", "Soft failure"; design, "What keeps it right", 5 to 7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.admission import Accepted, SoftFailed
from homeserver.engine.entries import StateEntry
from homeserver.engine.local.stager import Stager
from homeserver.engine.log.staging import Correction, Origin, StagedEvent, changed_view
from homeserver.engine.recheck.descendants import Descendants
from homeserver.engine.recheck.recheck import Recheck
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Head, Room
from homeserver.engine.rooms.rooms import Rooms
from homeserver.engine.rooms.snapshots import StateSnapshot
from homeserver.engine.rooms.stored import known_event, refusal_of
from homeserver.engine.store import EngineStore
from homeserver.storage.timeline.events import EventRow, RoomEventRow, StoredVerdict
from homeserver.storage.timeline.rechecks import RecheckRows

Settle = Callable[[Room, Event], Awaitable[Accepted | SoftFailed]]


class Corrections:
    """Computes the changes of rooms; the caller holds the room's lock, and nothing is staged."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        *,
        stager: Stager,
        resolver: StateResolver,
        take_row_id: Callable[[], int],
        settle: Settle,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._stager = stager
        self._resolver = resolver
        self._take_row_id = take_row_id
        self._settle = settle

    async def make(
        self, room: Room, rechecked: Sequence[Recheck], descendants: Descendants
    ) -> Correction:
        """Returns the changes, except for events that arrive now (`place`). The room's new view is
        staged.
        """
        wrong = [one for one in rechecked if not one.is_same]
        if not wrong:
            return Correction()
        marked = await self._marked(room, rechecked, descendants)
        of_room = await self._change_view(room, wrong, descendants)
        return msgspec.structs.replace(
            of_room,
            # Rows of newly accepted events are written by `place`, on top of the corrected room.
            rows=[one.corrected_row() for one in wrong if not one.is_newly_accepted],
            # Before those of the room's state, which may be deltas to them.
            snapshots=[row for one in wrong for row in one.snapshots] + [*of_room.snapshots],
            rechecks=marked,
        )

    async def _marked(
        self, room: Room, rechecked: Sequence[Recheck], descendants: Descendants
    ) -> RecheckRows:
        touched: set[EventId] = set()
        for one in rechecked:
            if one.changes_descendants:
                touched |= descendants.children(one.event_id)
            if one.is_verdict_changed:
                touched |= descendants.citing(one.event_id)
        # The events of this step have their new verdicts already.
        touched -= {one.event_id for one in rechecked}
        rechecks = RecheckRows()
        for row in await self._placed(touched):
            number = (room.row_id, row.event_row_id)
            rechecks.marked.append(number)
            rechecks.opened += [
                (room.row_id, parent, row.event_row_id, False)
                for parent in known_event(row).event.prev_events
            ]
        return rechecks

    async def _placed(self, event_ids: Collection[EventId]) -> list[RoomEventRow]:
        rows = await self._store.events.by_id(event_ids) if event_ids else ()
        return sorted((row for row in rows if not row.outlier), key=lambda row: row.event_row_id)

    # Heads and current state

    async def _change_view(
        self,
        room: Room,
        wrong: Sequence[Recheck],
        descendants: Descendants,
    ) -> Correction:
        """Returns the changes of the room itself, whose new view is staged."""
        old = room.staged
        heads = await self._heads(room, {one.event_id: one for one in wrong}, descendants)
        # The same events with the same states: the current state, which is resolved over them, is
        # the same too.
        if heads == old.heads:
            return Correction()
        branches = [StateSnapshot(head.state, head.chain) for head in heads]
        current, snapshots = await self._resolver.resolve(room, branches, self._take_row_id)
        view, changes, counts = changed_view(old, current, heads)
        ends = [(head.event_id, one) for head, one in zip(heads, branches, strict=True)]
        resolved = self._stager.resolved(ends, old.chain, current.chain, is_changed=bool(changes))
        room.staged = view
        return Correction(
            view=view,
            entry=StateEntry(room.room_id, changes) if changes else None,
            snapshots=snapshots,
            servers_joined=counts.servers_joined,
            servers_left=counts.servers_left,
            resolved=resolved if changes else None,
            cause=wrong[0].event_id if changes else None,
        )

    async def _heads(
        self, room: Room, wrong: dict[EventId, Recheck], descendants: Descendants
    ) -> tuple[Head, ...]:
        heads: list[Head] = []
        for head in room.staged.heads:
            one = wrong.get(head.event_id)
            if one is None:
                heads.append(head)
            elif not one.is_newly_rejected:
                after = one.after or one.before
                heads.append(Head(head.event_id, head.row_id, head.depth, after.state, after.chain))
        present = {head.event_id for head in heads}
        for one in wrong.values():
            if one.is_newly_rejected and one.row.live_index is not None:
                for parent in one.event.prev_events:
                    if parent not in present:
                        present.add(parent)
                        heads += await self._head_again(room, parent, wrong, descendants)
        return tuple(heads) or room.staged.heads  # the next event needs a parent

    async def _head_again(
        self,
        room: Room,
        event_id: EventId,
        wrong: dict[EventId, Recheck],
        descendants: Descendants,
    ) -> list[Head]:
        """Returns a parent of a rejected event as a head, if it is accepted and no accepted event
        names it.
        """
        rows = {
            row.event_id: row
            for row in await self._placed([event_id, *descendants.children(event_id)])
        }
        accepted = {one for one, row in rows.items() if _is_accepted(row, wrong.get(one))}
        if accepted != {event_id} or rows[event_id].live_index is None:
            return []
        row, rechecked = rows[event_id], wrong.get(event_id)
        after = rechecked.after or rechecked.before if rechecked else None
        if after is None:
            chain = await self._rooms.chain(room, row.state_after)
            after = StateSnapshot(self._rooms.state_of(room, chain), chain)
        depth = known_event(row).event.depth
        return [Head(event_id, row.event_row_id, depth, after.state, after.chain)]

    # Events that arrive now

    async def place(
        self,
        room: Room,
        rechecked: Iterable[Recheck],
        descendants: Descendants,
    ) -> tuple[list[StagedEvent], list[EventRow]]:
        """Appends the events that were rejected and are now allowed to the corrected room. Returns
        them, and the rows of those that get no place all the same."""
        staged: list[StagedEvent] = []
        rows: list[EventRow] = []
        for one in rechecked:
            if not one.is_newly_accepted:
                continue
            placed = await self._take_in(room, one, descendants)
            if isinstance(placed, EventRow):
                rows.append(placed)
            else:
                staged.append(placed)
        return staged, rows

    async def _take_in(
        self, room: Room, one: Recheck, descendants: Descendants
    ) -> StagedEvent | EventRow:
        row = one.corrected_row()
        # Older than our time in the room: it was never news here, so it gets no place.
        if one.event.depth < await self._store.events.first_depth(room.row_id):
            return row
        verdict = await self._settle(room, one.event)
        if isinstance(verdict, SoftFailed):
            return row.decided(StoredVerdict.SOFT_FAILED, refusal_of(verdict.failure))
        # `Stager.place` makes no head of an event that the room knows as another's parent.
        children = await self._placed(descendants.children(one.event_id))
        if any(_is_accepted(child, None) for child in children):
            room.named.add(one.event_id)
        origin = Origin(to_federate=False)
        return await self._stager.place(
            room, one.event, one.before, origin, row_id=one.row_id, after=one.after or one.before
        )


def _is_accepted(row: RoomEventRow, rechecked: Recheck | None) -> bool:
    verdict = row.verdict if rechecked is None else rechecked.verdict
    return verdict == StoredVerdict.ACCEPTED
