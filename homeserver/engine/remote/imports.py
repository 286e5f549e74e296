"""Bulk writes: outliers, the state of a join, history fetched for a gap.

Rules:
1. Only one small unit at the end is part of a group commit (design, section 5).
2. Long computations for a large room run in a thread, or in pieces with a pause after each.
3. Members of other servers are written before their join is current: until a local user is in the
   room nothing reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import immutables
import msgspec

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, UserId, server_of
from federation.graph.admission import Accepted, settle
from federation.ports import JoinedRoom
from homeserver import limits
from homeserver.engine.entries import Unit
from homeserver.engine.local.writer import Writer
from homeserver.engine.log.committer import Committer
from homeserver.engine.log.staging import ImportedMembers, Origin, StagedEvent
from homeserver.engine.recheck.due_rooms import DueRooms
from homeserver.engine.recheck.verdict_checker import VerdictChecker
from homeserver.engine.remote.chunks import Chunk, Chunks
from homeserver.engine.rooms.citations import cited_first
from homeserver.engine.rooms.redactions import Redacting, note_waiting
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Room, RoomGone, RoomView, membership_counts
from homeserver.engine.rooms.rooms import Rooms, held, retry_superseded
from homeserver.engine.rooms.snapshots import (
    StateRef,
    StateSnapshot,
    difference,
    extended,
    first_chain,
    membership_of,
    snapshot_row,
    state_of,
)
from homeserver.engine.rooms.stored import key_of, ref_of
from homeserver.engine.store import EngineStore
from homeserver.rules.timeline.relations import relation_columns
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.text import escape
from homeserver.storage.timeline.events import EventRefRow, EventRow, StoredVerdict
from homeserver.storage.timeline.fetched_history import Filled


def _row(
    event: Event, row_id: int, room_row_id: int, *, rejected: bool, redacting: Redacting | None
) -> EventRow:
    """Returns an outlier's row; `redacting`: the redaction that came before it."""
    relation = relation_columns(event if redacting is None else redacting.target)
    return EventRow(
        room_row_id=room_row_id,
        event_row_id=row_id,
        event_id=event.event_id,
        type=escape(event.type),
        state_key=None if event.state_key is None else escape(event.state_key),
        sender=event.sender,
        membership=membership_of(event),
        position=None,
        live_index=None,
        gap_index=None,
        verdict=StoredVerdict.REJECTED if rejected else StoredVerdict.ACCEPTED,
        reason="its auth events don't allow it" if rejected else None,
        rule=None,
        outlier=True,
        unverified=False,
        to_federate=False,
        snapshot_before=None,
        snapshot_after=None,
        replaces=None,
        redacted_by=None if redacting is None else redacting.redaction,
        transaction_of=None,
        json=event.raw if redacting is None else redacting.target.raw,
        relates_to=relation.relates_to,
        rel_type=relation.rel_type,
        edited_ms=relation.edited_ms,
        sent_ms=event.origin_server_ts,
    )


class Imports:
    """Writes many events of one room at once."""

    def __init__(
        self,
        store: EngineStore,
        rooms: Rooms,
        committer: Committer,
        writer: Writer,
        server_name: ServerName,
        forget_user: Callable[[UserId], None],
        *,
        resolver: StateResolver,
        checker: VerdictChecker,
        due_rooms: DueRooms,
    ) -> None:
        self._forget_user = forget_user
        self._due_rooms = due_rooms
        self._chunks = Chunks(
            store,
            rooms,
            resolver=resolver,
            redactions=writer.stager.redactions,
            checker=checker,
            take_row_id=committer.numbers.take,
            given_state=self.given_state,
        )
        self._store = store
        self._rooms = rooms
        self._committer = committer
        self._writer = writer
        self._server_name = server_name

    # Outliers

    async def store_outliers(self, events: Sequence[Event], rejected: Collection[EventId]) -> int:
        """Stores events without a place; returns the room's number. Existing ones stay.

        It holds the room's lock: an event that is staged in the meantime must not be stored under a
        second number, since its snapshots name the first."""
        if not events:
            return 0
        few = len(events) <= limits.ORDERED_AT_ONCE
        ordered = cited_first(events) if few else await asyncio.to_thread(cited_first, events)
        try:
            async with self._rooms.locked(events[0].room_id) as room:
                new = [one for one in ordered if one.event_id not in room.staged_events]
                if new:
                    await self._write_outliers(new, rejected, room)
                return room.row_id
        except RoomGone:
            return await self._write_outliers(ordered, rejected, None)

    async def _write_outliers(
        self, ordered: Sequence[Event], rejected: Collection[EventId], room: Room | None
    ) -> int:
        numbers = self._committer.numbers
        await numbers.ready(len(ordered) + 1)
        row_ids = [numbers.take() for _ in ordered]  # at once: others take some meanwhile
        first = ordered[0]
        redacted: dict[EventId, Redacting] = {}
        if room is not None:
            room.cite(ordered)
            redacted = await self._redacted(room, ordered)

        def rows(room_row_id: int) -> Iterator[EventRow]:
            for event, row_id in zip(ordered, row_ids, strict=True):
                yield _row(
                    event,
                    row_id,
                    room_row_id,
                    rejected=event.event_id in rejected,
                    redacting=redacted.get(event.event_id),
                )

        key = (numbers.take(), first.room_id, first.version.name)
        room_row_id = await self._store.history.store_outliers(key, rows)
        self._rooms.memory.stored(event.event_id for event in ordered)
        return room_row_id

    async def _redacted(self, room: Room, events: Sequence[Event]) -> dict[EventId, Redacting]:
        """Returns those of the events whose redactions came before them. The redactions still wait:
        the event may get a place later."""
        redacted = {}
        for event in events:
            if room.awaits_more or event.event_id in room.awaited_targets:
                for one in await self._writer.stager.redactions.waiting_for(room, event):
                    redacted[event.event_id] = one
        return redacted

    async def _refs(self, event_ids: Sequence[EventId]) -> dict[StateKey, StateRef]:
        return _by_key(await self._store.events.refs_by_id(event_ids))

    async def given_state(
        self, room: Room, state: Mapping[StateKey, EventId]
    ) -> tuple[StateSnapshot, tuple[SnapshotRow, ...]]:
        """Returns a state from another server as a snapshot: the current one, or one on top of
        it.
        """
        refs = await self._refs(list(state.values()))
        if len(refs) < len(state):
            raise MatrixError(503, "M_UNKNOWN", "an event of the state before is missing")
        view = room.staged
        change = difference(view.state, refs)
        before = StateSnapshot(view.state, view.chain)
        if not change:
            return before, ()
        return extended(room.row_id, before, change, self._committer.numbers.take())

    # Joins

    async def join(self, joined: JoinedRoom, known: Room | None) -> None:
        """Makes the server a member of the room, or again, with the state of the join."""
        others = {event.event_id: event for event in (*joined.auth_chain, *joined.state)}
        others.pop(joined.event.event_id, None)
        room_row_id = await self.store_outliers(list(others.values()), joined.rejected)
        rows = await self._store.events.refs_by_id(
            [event.event_id for event in joined.state if event.event_id not in joined.rejected]
        )
        await self._committer.numbers.ready(6)
        row_id, position = self._committer.numbers.take(), self._committer.position
        given = await asyncio.to_thread(
            _given_state,
            rows,
            row_id,
            (room_row_id if known is None else known.row_id, position),
            joiner=joined.event.state_key,
            own=self._server_name,
        )
        await self._store.memberships.import_members(given.remote)
        room = known or _joined_room(joined, room_row_id, given)
        if known is None:
            self._rooms.add(room)
        try:
            with held(room):
                staged = await retry_superseded(partial(self._commit_join, joined, given))
        except BaseException:
            if known is None and room.unsettled == 0 and not room.view.position:
                self._rooms.drop(room.room_id)
            raise
        if not staged.missing_parents:
            self._due_rooms.add([room.room_id])
        for user, _ in given.local:
            self._forget_user(UserId(user))

    async def _commit_join(self, joined: JoinedRoom, given: _GivenState) -> StagedEvent:
        await self._committer.numbers.ready(4)
        async with self._rooms.locked(joined.room_id) as room:
            snapshot = snapshot_row(room.row_id, given.before.chain)
            staged = await self._stage_join(room, joined.event, given.before, (snapshot,))
            done = self._writer.enqueue(
                room, [staged], imported=ImportedMembers(given.local, given.servers)
            )
        await done
        return staged

    async def _stage_join(
        self,
        room: Room,
        event: Event,
        before: StateSnapshot,
        snapshots: tuple[SnapshotRow, ...],
    ) -> StagedEvent:
        auth = room.auth_state(before.state, self._rooms.memory.cached_event)
        verdict = await self._rooms.loading(lambda: settle(event, auth))
        if not isinstance(verdict, Accepted):
            raise MatrixError(403, "M_FORBIDDEN", "the room's state doesn't allow the join")
        missing = await self._without_place(room, event.prev_events)
        origin = Origin(
            to_federate=False, unverified=True, missing_parents=missing, replaces_heads=True
        )
        return await self._writer.stager.place(room, event, before, origin, snapshots=snapshots)

    async def _without_place(self, room: Room, event_ids: Sequence[EventId]) -> tuple[EventId, ...]:
        """Returns the parents without a place. In a room that we join again some may have one: if
        all have one, the received state is verified at once."""
        known = await self._rooms.events(
            [one for one in event_ids if one not in room.staged_events]
        )
        known.update(
            (one, room.staged_events[one]) for one in event_ids if one in room.staged_events
        )
        return tuple(one for one in event_ids if one not in known or known[one].outlier)

    # History

    async def store_backfill(self, chunk: Chunk) -> None:
        """Assigns places to a chunk some of whose events are missing here."""
        if await retry_superseded(partial(self._place_chunk, chunk)):
            self._due_rooms.add([chunk.events[0].room_id])

    async def _place_chunk(self, chunk: Chunk) -> bool:
        async with self._rooms.locked(chunk.events[0].room_id) as room:
            return await self._place_under_lock(room, chunk)

    async def _place_under_lock(self, room: Room, chunk: Chunk) -> bool:
        ids = [one.event_id for one in chunk.events]
        if room.unsettled:
            await self._committer.submit(Unit())  # follows what is staged
        rows = await self._store.gaps.left_by(room.row_id, ids)
        gaps = {row.missing: row.order for row in rows}
        if not gaps:
            return False
        await self._committer.numbers.ready(4 * len(ids) + 2)
        filled, redacting = await self._chunks.place(room, chunk, gaps)
        if not filled.rows:
            return False
        await self._store.history.backfill(
            room.row_id, [row.event_id for row in filled.rows], filled
        )
        self._placed(room, chunk, filled)
        for _, target, redaction in filled.awaited:
            note_waiting(room, EventId(target), EventId(redaction))
        for one in redacting:
            self._rooms.apply_redaction(room, one.target, one.redaction)
        return True

    def _placed(self, room: Room, chunk: Chunk, filled: Filled) -> None:
        """Updates memory after the chunk is stored: its events, and the missing ones."""
        placed = {EventId(row.event_id) for row in filled.rows}
        room.has_relations |= any(row.relates_to is not None for row in filled.rows)
        self._rooms.memory.stored(placed)
        for event_id in placed:
            self._rooms.memory.forget_event(event_id)
        room.named.update(EventId(missing) for missing, _, _ in filled.gaps)
        room.awaited -= placed
        room.awaited.update(
            EventId(parent) for _, parent, _, lacks in filled.rechecks.opened if lacks
        )
        if room.watched is not None:
            room.watched += [one for one in chunk.events if one.event_id in placed]


def _by_key(rows: Sequence[EventRefRow]) -> dict[StateKey, StateRef]:
    return {key_of(row): ref_of(row) for row in rows if row.state_key is not None}


class _GivenState(msgspec.Struct, frozen=True):
    """The state before a join as another server sent it. Members: without the joining user."""

    before: StateSnapshot
    counts: tuple[int, int, immutables.Map[ServerName, int]]
    local: Sequence[tuple[str, StateRef]]
    remote: Sequence[MembershipRow]
    servers: Sequence[str]


def _joined_room(joined: JoinedRoom, room_row_id: int, given: _GivenState) -> Room:
    """Returns the room before its join, which is staged next."""
    members, invited, servers = given.counts
    state, chain = given.before.state, given.before.chain
    view = RoomView(state, chain, (), 0, members, invited, servers)
    return Room(joined.room_id, room_row_id, joined.version, view)


def _given_state(
    rows: Sequence[EventRefRow],
    row_id: int,
    place: tuple[int, int],
    *,
    joiner: str | None,
    own: ServerName,
) -> _GivenState:
    """Builds the state from rows of state events; in a thread, for a large room. `row_id`: of its
    snapshot; `place`: the room's number, and the position before the join."""
    refs = _by_key(rows)
    chain = first_chain(row_id, refs)
    before = StateSnapshot(state_of(chain), chain)
    local: list[tuple[str, StateRef]] = []
    remote: list[MembershipRow] = []
    servers = set()
    room_row_id, position = place
    for (kind, user), ref in refs.items():
        if kind != event_types.MEMBER or not ref.membership or user == joiner:
            continue
        server = server_of(user)
        if ref.membership == "join":
            servers.add(server)
        if server == own:
            local.append((user, ref))
        else:
            remote.append(
                MembershipRow(room_row_id, user, ref.membership, ref.event_id, user, position)
            )
    counts = membership_counts(before.state)
    return _GivenState(before, counts, local, remote, sorted(servers))
