"""Bulk: outliers, the state that a join brings, history fetched for a gap.

Nothing of it sits in a group commit but one small unit at the end (design, section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, UserId, server_of
from federation.graph.admission import Accepted, settle
from federation.graph.chains import topological_order
from federation.ports import JoinedRoom, Refused
from homeserver.engine.committer import Committer
from homeserver.engine.room import Before, Room, RoomView, membership_counts
from homeserver.engine.rooms import Rooms
from homeserver.engine.snapshots import (
    StateMap,
    StateRef,
    difference,
    first_chain,
    membership_of,
    state_of,
)
from homeserver.engine.staging import Brought, Origin, Staged, extended, snapshot_row
from homeserver.engine.store import Store
from homeserver.engine.stored import key_of, ref_of
from homeserver.engine.writer import Writer
from homeserver.storage import events as event_rows
from homeserver.storage.database import Row
from homeserver.storage.engine_store import Filled, Gap
from homeserver.storage.events import EventRow
from homeserver.storage.snapshots import SnapshotRow
from homeserver.storage.text import escape


def _row(event: Event, nid: int, room_nid: int, *, rejected: bool) -> EventRow:
    """An outlier's row."""
    return EventRow(
        room_nid=room_nid,
        event_nid=nid,
        event_id=event.event_id,
        type=escape(event.type),
        state_key=None if event.state_key is None else escape(event.state_key),
        sender=event.sender,
        membership=membership_of(event),
        position=None,
        n=None,
        fill=None,
        verdict=event_rows.REJECTED if rejected else event_rows.ACCEPTED,
        reason="its auth events don't allow it" if rejected else None,
        outlier=True,
        unproven=False,
        to_federate=False,
        snapshot_before=None,
        snapshot_after=None,
        replaces=None,
        redacted_by=None,
        transaction_of=None,
        json=event.raw,
    )


def cited_first(events: Sequence[Event]) -> list[Event]:
    """The events so that each follows those of them that it cites as its authorisation: row numbers
    are given in this order (`resolution.citations`, rule 2). Where claimed IDs make a circle (room
    versions 1 and 2), its events come last."""
    by_id = {event.event_id: event for event in events}
    ordered = topological_order(by_id, lambda event_id: by_id[event_id].auth_events)
    left_out = by_id.keys() - set(ordered)
    return [by_id[one] for one in (*ordered, *(i for i in by_id if i in left_out))]


class Imports:
    """Writes many events of one room at once."""

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        committer: Committer,
        writer: Writer,
        server_name: ServerName,
        forget_user: Callable[[UserId], None],
    ) -> None:
        self._forget_user = forget_user
        self._store = store
        self._rooms = rooms
        self._committer = committer
        self._writer = writer
        self._server_name = server_name

    # Outliers

    async def store_outliers(self, events: Sequence[Event], rejected: Collection[EventId]) -> int:
        """Keeps events without a place; returns the room's number. Those that are here stay.

        Under the room's turn: an event that is staged meanwhile must not be stored under a second
        number, since its snapshots name the first."""
        if not events:
            return 0
        await self._committer.numbers.ready(len(events) + 1)
        room = await self._rooms.get(events[0].room_id)
        if room is None:
            return await self._write_outliers(events, rejected, None)
        room.pins += 1
        try:
            async with room.turn:
                new = [one for one in events if one.event_id not in room.staged_events]
                if new:
                    await self._write_outliers(new, rejected, room)
        finally:
            room.pins -= 1
        return room.nid

    async def _write_outliers(
        self, events: Sequence[Event], rejected: Collection[EventId], room: Room | None
    ) -> int:
        first, ordered = events[0], cited_first(events)
        if room is not None:
            room.cite(ordered)

        def rows(room_nid: int) -> list[EventRow]:
            take = self._committer.numbers.take
            return [
                _row(event, take(), room_nid, rejected=event.event_id in rejected)
                for event in ordered
            ]

        key = (self._committer.numbers.take(), first.room_id, first.version.name)
        room_nid = await self._store.events.store_outliers(key, rows)
        self._rooms.memory.stored(event.event_id for event in events)
        return room_nid

    async def _refs(self, event_ids: Sequence[EventId]) -> dict[StateKey, StateRef]:
        return _by_key(await self._store.events.refs_by_id(event_ids))

    async def given_state(
        self, room: Room, state: Mapping[StateKey, EventId]
    ) -> tuple[Before, tuple[SnapshotRow, ...]]:
        """A state that another server gave, as a snapshot: the current one, or one on top of it."""
        refs = await self._refs(list(state.values()))
        if len(refs) < len(state):
            raise Refused(503, "M_UNKNOWN", "an event of the state before is missing")
        view = room.staged
        change = difference(view.state, refs)
        before = Before(view.state, view.chain)
        if not change:
            return before, ()
        return extended(room, before, change, self._committer.numbers.take())

    # Joins

    async def join(self, joined: JoinedRoom, known: Room | None) -> None:
        """Makes a room ours, or ours again, with the state that the join brought."""
        others = {event.event_id: event for event in (*joined.auth_chain, *joined.state)}
        others.pop(joined.event.event_id, None)
        room_nid = await self.store_outliers(list(others.values()), joined.rejected)
        refs = await self._refs(
            [event.event_id for event in joined.state if event.event_id not in joined.rejected]
        )
        await self._committer.numbers.ready(6)
        room = known or self._empty_room(joined, room_nid)
        before, snapshots = self._joined_state(room, refs)
        if known is None:
            self._set_state(room, before)
            self._rooms.add(room)
        try:
            async with room.turn:
                staged = await self._stage_join(room, joined.event, before, snapshots)
                brought = _brought(refs, joined.event)
                done = self._writer.enqueue(room, [staged], brought=brought)
            await done
        except BaseException:
            if known is None and room.unsettled == 0 and not room.view.position:
                self._rooms.drop(room.room_id)
            raise
        self._forget_locals(refs)

    def _empty_room(self, joined: JoinedRoom, room_nid: int) -> Room:
        state: StateMap = state_of(())
        _, _, servers = membership_counts(state)
        view = RoomView(state, first_chain(0, {}), (), 0, 0, 0, servers)
        return Room(joined.room_id, room_nid, joined.version, view)

    def _joined_state(
        self, room: Room, refs: Mapping[StateKey, StateRef]
    ) -> tuple[Before, tuple[SnapshotRow, ...]]:
        """The given state as a first snapshot: what we had of the room doesn't matter any more."""
        chain = first_chain(self._committer.numbers.take(), refs)
        return Before(state_of(chain), chain), (snapshot_row(room, chain),)

    def _set_state(self, room: Room, before: Before) -> None:
        joined, invited, servers = membership_counts(before.state)
        view = RoomView(before.state, before.chain, (), 0, joined, invited, servers)
        room.view = room.staged = view

    async def _stage_join(
        self,
        room: Room,
        event: Event,
        before: Before,
        snapshots: tuple[SnapshotRow, ...],
    ) -> Staged:
        auth = room.auth_state(before.state, self._rooms.memory.cached_event)
        verdict = await self._writer.stager.loading(lambda: settle(event, auth))
        if not isinstance(verdict, Accepted):
            raise Refused(403, "M_FORBIDDEN", "the room's state doesn't allow the join")
        origin = Origin(to_federate=False, unproven=True)
        staged = await self._writer.stager.place(
            room, event, before, origin, snapshots=snapshots, replaces_heads=True
        )
        staged.missing_parents = event.prev_events
        return staged

    def _forget_locals(self, refs: Mapping[StateKey, StateRef]) -> None:
        """Users of ours in the given state: their rooms are read anew."""
        for (kind, user), _ in refs.items():
            if kind == "m.room.member" and server_of(user) == self._server_name:
                self._forget_user(UserId(user))

    # History

    async def store_backfill(
        self,
        room: Room,
        events: Sequence[Event],
        state_before: Mapping[StateKey, EventId],
    ) -> None:
        """Gives places below the gap that the newest of `events` (oldest first) belongs to."""
        await self._committer.numbers.ready(2 * len(events) + 2)
        ids = [one.event_id for one in events]
        stored = await self._store.events.backfill(
            room.nid, ids, list(state_before.values()), lambda gap: self._filled(room, events, gap)
        )
        if stored:
            self._rooms.memory.stored(ids)
            for event_id in ids:
                self._rooms.memory.forget_event(event_id)

    def _filled(self, room: Room, events: Sequence[Event], gap: Gap) -> Filled:
        chain = first_chain(self._committer.numbers.take(), _by_key(gap.state))
        before = Before(state_of(chain), chain)
        snapshots = [snapshot_row(room, chain)]
        nids = dict(gap.nids)
        for event in cited_first(events):
            if event.event_id not in nids:
                nids[event.event_id] = self._committer.numbers.take()
        room.cite(events)
        rows = []
        for i, event in enumerate(events):
            nid = nids[event.event_id]
            row = _row(event, nid, room.nid, rejected=False)
            row.outlier, row.unproven = False, True
            row.n, row.fill = gap.n, gap.lowest - len(events) + i
            row.snapshot_before = before.chain[-1].nid
            if event.is_state:
                ref = StateRef(event.event_id, nid, membership_of(event))
                before, written = extended(room, before, {event.key: ref}, nid)
                snapshots += written
            row.snapshot_after = before.chain[-1].nid
            rows.append(row)
        ids = {event.event_id for event in events}
        parents = [one for one in events[0].prev_events if one not in ids]
        return Filled(rows, snapshots, parents)


def _by_key(rows: Sequence[Row]) -> dict[StateKey, StateRef]:
    return {key_of(row): ref_of(row) for row in rows if row["state_key"] is not None}


def _brought(refs: Mapping[StateKey, StateRef], join: Event) -> Brought:
    """The members that the state of a join brings, and the servers in the room."""
    members = [
        (user, ref)
        for (kind, user), ref in refs.items()
        if kind == "m.room.member" and ref.membership and user != join.state_key
    ]
    servers = sorted({server_of(user) for user, ref in members if ref.membership == "join"})
    return Brought(members, servers)
