"""Loads a cold room, and older states of a room, in a few queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar
from weakref import WeakValueDictionary

from federation.bounded_cache import ByteBoundedCache
from federation.events import event_types
from federation.events.event import load_event
from federation.events.ids import RoomId, ServerName, StateKey, UserId
from federation.events.room_versions import room_version
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, kept_client
from homeserver.engine.rooms.event_cache import EventMemory
from homeserver.engine.rooms.room import Head, Room, RoomGaps, RoomView, membership_counts
from homeserver.engine.rooms.snapshots import Chain, Link, StateRef, state_of
from homeserver.engine.rooms.stored import key_of, ref_of, transaction_of
from homeserver.engine.store import EngineStore
from homeserver.rules.any_json import load_any
from homeserver.storage.rooms.rooms import RoomRow
from homeserver.storage.rooms.snapshots import SnapshotLink
from homeserver.storage.timeline.events import HeadRow, StoredEventRow
from homeserver.storage.timeline.gaps import MissingEventRow
from homeserver.storage.timeline.rechecks import MissingParentRow
from homeserver.storage.timeline.redactions import PendingRedactionRow

R = TypeVar("R", HeadRow, StoredEventRow, PendingRedactionRow, MissingEventRow, MissingParentRow)


class RoomLoader:
    """Reads rooms from the database."""

    def __init__(self, store: EngineStore, server_name: ServerName, memory: EventMemory) -> None:
        self._store = store
        self._server_name = server_name
        self._memory = memory
        self._states: ByteBoundedCache[str, Chain] = ByteBoundedCache(
            limits.STATE_CACHE_BYTES,
            lambda chain: 200 + 150 * sum(len(link.delta) for link in chain),
        )
        # Each link is in memory once, however many chains share it, as long as one of them is.
        self._links: WeakValueDictionary[int, Link] = WeakValueDictionary()

    async def chain(self, room_row_id: int, snapshot: int) -> Chain:
        """Returns a snapshot of a room with its bases."""
        return (await self._load_chains([(room_row_id, snapshot)]))[snapshot]

    async def chains(self, room_row_id: int, snapshots: Collection[int]) -> dict[int, Chain]:
        """Returns some snapshots of a room with their bases, in one query."""
        return await self._load_chains([(room_row_id, row_id) for row_id in sorted(snapshots)])

    async def load(self, room_ids: Sequence[RoomId]) -> dict[RoomId, Room]:
        """Returns rooms by ID, in a few queries for all; rooms known only by their ID are left
        out."""
        store = self._store
        rows = await store.rooms.by_room_ids(room_ids)
        if not rows:
            return {}
        row_ids = [row.room_row_id for row in rows]
        heads = _grouped(
            await store.events.heads(
                [(row.room_row_id, row_id) for row in rows for row_id in row.heads]
            )
        )
        snapshots = {(row.room_row_id, row.snapshot_row_id) for row in rows}
        snapshots |= {
            (row_id, head.snapshot_after) for row_id, found in heads.items() for head in found
        }
        chains = await self._load_chains(sorted(snapshots))
        newest = _grouped(await store.events.newest_of_each(row_ids, limits.ROOM_LOAD_EVENTS))
        awaited = _grouped(await store.redactions.of_rooms(row_ids, limits.ROOM_AWAITED_TARGETS))
        missing = _grouped(await store.gaps.of_rooms(row_ids))
        unverified = _grouped(await store.rechecks.awaited(row_ids))
        rooms = {}
        for row in rows:
            row_id = row.room_row_id
            waiting = awaited.get(row_id, ())
            gaps = RoomGaps(
                named=[one.missing for one in missing.get(row_id, ())],
                awaited=[one.parent for one in unverified.get(row_id, ())],
                targets=[(one.target, one.redaction) for one in waiting],
                has_more_targets=len(waiting) == limits.ROOM_AWAITED_TARGETS,
            )
            view = _view(row, heads[row_id], chains)
            rooms[row.room_id] = self._room(row, view, gaps, newest.get(row_id, ()))
        return rooms

    def _room(
        self, row: RoomRow, view: RoomView, gaps: RoomGaps, newest: Sequence[StoredEventRow]
    ) -> Room:
        positions = [one.position for one in newest if one.position is not None]
        assert len(positions) == len(newest), "live events have positions"
        is_all = len(newest) < limits.ROOM_LOAD_EVENTS
        room = Room(
            row.room_id,
            row.room_row_id,
            room_version(row.version),
            view,
            joined_local=self._locals(view.state),
            gaps=gaps,
            ring_start=0 if is_all else positions[-1] - 1,
        )
        room.has_relations = row.has_relations
        for one, position in zip(reversed(newest), reversed(positions), strict=True):
            room.remember(Placed(position, self.entry_of(one, room)))
        return room

    def _locals(self, state: Mapping[StateKey, StateRef]) -> set[UserId]:
        own = ":" + self._server_name
        return {
            UserId(user)
            for (kind, user), ref in state.items()
            if kind == event_types.MEMBER and ref.membership == "join" and user.endswith(own)
        }

    async def _load_chains(self, snapshots: Sequence[tuple[int, int]]) -> dict[int, Chain]:
        """Returns chains by the number of their snapshot."""
        found, missing = self._states.split([str(row_id) for _, row_id in snapshots])
        chains = {int(row_id): chain for row_id, chain in found.items()}
        absent = set(missing)
        wanted = [one for one in snapshots if str(one[1]) in absent]
        if not wanted:
            return chains
        links = await self._store.snapshots.chains(wanted)
        known = await self._known_links(links)
        built: dict[int, list[Link]] = {}
        for link in links:
            built.setdefault(link.tip, []).append(known[link.snapshot_row_id])
        for row_id, chain in built.items():
            chains[row_id] = tuple(chain)
            self._states.put(str(row_id), chains[row_id])
        return chains

    async def _known_links(self, links: Sequence[SnapshotLink]) -> dict[int, Link]:
        """Returns links by the number of their snapshot; those that no chain in memory has are
        loaded.
        """
        known: dict[int, Link] = {}
        absent: dict[int, SnapshotLink] = {}
        for link in links:
            row_id = link.snapshot_row_id
            found = self._links.get(row_id)
            if found is None:
                absent[row_id] = link
            else:
                known[row_id] = found
        events = {
            (link.room_row_id, row_id)
            for link in absent.values()
            for row_id in (*link.added, *link.removed)
        }
        rows = await self._store.events.refs(events) if events else ()
        refs = {row.event_row_id: (key_of(row), ref_of(row)) for row in rows}
        for row_id, link in absent.items():
            known[row_id] = self._links[row_id] = _link(link, refs)
        return known

    def entry_of(self, row: StoredEventRow, room: Room) -> EventEntry:
        """Returns the log entry of a stored event of a room."""
        event_id = row.event_id
        known = self._memory.known(event_id)
        event = known.event if known else load_event(row.json, room.version, event_id)
        client = self._memory.client(event_id) or kept_client(event)
        return EventEntry(
            room_id=room.room_id,
            event=event,
            row_id=row.event_row_id,
            order=row.place,
            kept_client=client,
            transaction=transaction_of(row.transaction_of, row.sender),
            replaces=row.replaces,
            redacts=row.redacts,
            redacted_by=row.redacted_by,
            to_federate=row.to_federate,
            snapshot_after=row.state_after,
        )


def _view(row: RoomRow, heads: Sequence[HeadRow], chains: Mapping[int, Chain]) -> RoomView:
    chain = chains[row.snapshot_row_id]
    state = state_of(chain)
    joined, invited, servers = membership_counts(state)
    loaded = tuple(
        Head(
            head.event_id,
            head.event_row_id,
            load_any(head.json)["depth"],
            state if own is chain else state_of(own),
            own,
        )
        for head in heads
        for own in (chains[head.snapshot_after],)
    )
    return RoomView(state, chain, loaded, row.live_index, joined, invited, servers, row.position)


def _link(row: SnapshotLink, refs: Mapping[int, tuple[StateKey, StateRef]]) -> Link:
    delta: dict[StateKey, StateRef | None] = {refs[row_id][0]: None for row_id in row.removed}
    delta.update(refs[row_id] for row_id in row.added)
    return Link(row.ordinal, row.snapshot_row_id, delta, tuple(row.removed))


def _grouped(rows: Sequence[R]) -> dict[int, list[R]]:
    """Returns rows by their room, in order."""
    groups: dict[int, list[R]] = {}
    for row in rows:
        groups.setdefault(row.room_row_id, []).append(row)
    return groups
