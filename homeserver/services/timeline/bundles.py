"""Aggregations: what other events say of an event, bundled with it as `unsigned.m.relations`.

Rules:
1. Bundled are the newest edit, references, and a thread's summary with its newest event, which has
   bundles of its own. Annotations aren't. State events have no bundles; a redacted event has no
   edit.
2. Only children that the reader may see count, without those of ignored users. Which events of a
   thread those are follows from the states around them: events with the same states are decided
   together.
3. All events of an answer take one statement; none, if no event of their rooms has a relation. If
   the newest child is hidden from the reader, older ones are read, within a bound.

Spec: client-server API, "Aggregations of child events", and the sections of each relation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

import msgspec
import orjson

from federation.events.ids import EventId, ServerName, UserId
from homeserver import limits
from homeserver.engine.entries import UnitLog
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.reader import END, Reader, event_entry
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.rules.sync.filters import EventFilter
from homeserver.rules.timeline.relations import (
    REFERENCE,
    REPLACEMENT,
    THREAD,
    is_edit,
    relation_of,
)
from homeserver.services.timeline.client_events import (
    Extras,
    Seen,
    Viewer,
    json_list,
    json_object,
    load_extras,
    needed,
    render,
)
from homeserver.services.timeline.visibility import Visibility
from homeserver.storage.text import escape
from homeserver.storage.timeline.events import StoredEventRow
from homeserver.storage.timeline.relations import (
    Bundled,
    ChildGroup,
    OrderSpan,
    Parent,
    RelationTable,
    Scope,
    WantedChildren,
)

IgnoredBy: TypeAlias = Callable[[UserId], Awaitable[frozenset[str]]]
"""Returns the users that a user ignores."""


class RoomEvents(NamedTuple):
    """Events of a room that a reader with this membership sees."""

    room: Room
    user_room: UserRoom | None
    events: Sequence[Seen]


class ThreadSummary(NamedTuple):
    """A thread as a reader sees it: its newest event with its bundle, the number of its events,
    and whether they spoke in it."""

    latest: Seen
    number: int
    has_spoken: bool
    inner: Bundle | None = None


class Bundle(msgspec.Struct):
    """What is bundled with one event."""

    edit: Seen | None = None
    references: Sequence[EventId] = ()
    thread: ThreadSummary | None = None


class _Reading(NamedTuple):
    """A reader of a room, and the senders whose events are hidden from them there."""

    room: Room
    user_id: UserId
    user_room: UserRoom | None
    scope: Scope
    joined_until: tuple[int, int]


class Bundles:
    """Reads and renders aggregations."""

    def __init__(
        self,
        rooms: Rooms,
        reader: Reader,
        visibility: Visibility,
        table: RelationTable,
        *,
        ignored_by: IgnoredBy,
        log: UnitLog,
        server_name: ServerName,
    ) -> None:
        self._rooms = rooms
        self._reader = reader
        self._visibility = visibility
        self._table = table
        self._ignored_by = ignored_by
        self._log = log
        self._own = ":" + server_name

    async def extras(
        self,
        viewer: Viewer,
        groups: Sequence[RoomEvents],
        bundles: Mapping[EventId, Bundle] | None = None,
    ) -> Extras:
        """Returns what rendering the events needs beside them. Unless `bundles` are given, they are
        read."""
        shown = [seen for group in groups for seen in group.events]
        extras = await load_extras(self._rooms, needed(shown), viewer)
        found = await self.rendered(viewer, groups, bundles=bundles)
        return msgspec.structs.replace(extras, bundles=found) if found else extras

    async def rendered(
        self,
        viewer: Viewer,
        groups: Sequence[RoomEvents],
        up_to: int | None = None,
        *,
        bundles: Mapping[EventId, Bundle] | None = None,
    ) -> Mapping[EventId, bytes]:
        """Returns the JSON of `m.relations` of those of the events that have one, as of a position
        of the log (None: its end)."""
        if bundles is None:
            bundles = await self.read(viewer.user_id, groups, up_to)
        return await self._render(viewer, bundles) if bundles else {}

    async def scope(self, room: Room, user_id: UserId, up_to: int | None = None) -> Scope:
        """Returns which children count for a reader of a room."""
        ignored = await self._ignored_by(user_id)
        erased = await self._rooms.erasures.hidden_senders(room, user_id)
        position = self._log.position if up_to is None else up_to
        return Scope(user_id, position, ignored | erased, self._own)

    async def read(
        self,
        user_id: UserId,
        groups: Sequence[RoomEvents],
        up_to: int | None = None,
        *,
        with_state: bool = False,
    ) -> dict[EventId, Bundle]:
        """Returns the bundles of those of the events that have one. `with_state`: of state events
        too."""
        by_hidden: dict[frozenset[str], list[tuple[_Reading, list[Seen]]]] = defaultdict(list)
        for room, user_room, events in groups:
            asked = [one for one in events if with_state or not one.entry.event.is_state]
            if not room.has_relations or not asked:
                continue
            scope = await self.scope(room, user_id, up_to)
            until = await self._visibility.joined_until(room, user_id, user_room)
            reading = _Reading(room, user_id, user_room, scope, until)
            by_hidden[frozenset(scope.hidden)].append((reading, asked))
        found: dict[EventId, Bundle] = {}
        for parts in by_hidden.values():  # one, but for readers from whom erased users are hidden
            found |= await self._read(parts, has_thread=True)
        return found

    async def related_by(
        self, user_id: UserId, group: RoomEvents, wanted: EventFilter
    ) -> list[Seen]:
        """Returns those of the events whose children a filter asks for. What was sent after the
        user's time in the room doesn't count: they would learn of it."""
        if wanted.related_by_senders is None and wanted.related_by_rel_types is None:
            return list(group.events)
        if not group.room.has_relations:
            return []
        found = await self._table.related_by(
            group.room.row_id,
            [one.entry.event.event_id for one in group.events],
            await self.scope(group.room, user_id),
            before=await self._visibility.seen_until(group.room, user_id, group.user_room),
            senders=wanted.related_by_senders,
            rel_types=wanted.related_by_rel_types,
        )
        return [one for one in group.events if one.entry.event.event_id in found]

    async def _read(
        self, parts: Sequence[tuple[_Reading, Sequence[Seen]]], *, has_thread: bool
    ) -> dict[EventId, Bundle]:
        parents = {
            one.entry.event.event_id: (reading, _parent(reading, one, has_thread=has_thread))
            for reading, events in parts
            for one in events
        }
        rows = await self._table.bundled(
            [parent for _, parent in parents.values()],
            parts[0][0].scope,
            most_references=limits.REFERENCES_BUNDLED,
        )
        found: dict[EventId, Bundle] = defaultdict(Bundle)
        for reading, events in parts:
            ids = {one.entry.event.event_id for one in events}
            own = _only(rows, ids)
            if own is not None:
                await self._add(reading, own, {one: parents[one][1] for one in ids}, found)
        return dict(found)

    async def _add(
        self,
        reading: _Reading,
        rows: Bundled,
        parents: Mapping[EventId, Parent],
        found: dict[EventId, Bundle],
    ) -> None:
        """Adds the bundles of one room's events, and of the newest events of their threads."""
        seen = await self._seen(reading, [*rows.edits.values(), *rows.latest.values()])
        groups = await self._seen_groups(reading, [*rows.counts, *rows.references])
        counts: dict[EventId, int] = defaultdict(int)
        for group in groups & set(rows.counts):
            counts[group.parent] += group.number
        older: list[Seen] = []
        for root in rows.latest:
            if root in parents and counts[root]:
                latest = seen.get(rows.latest[root].event_id)
                if latest is None:
                    latest = await self._older_in_thread(reading, rows.latest[root], root)
                    older += [] if latest is None else [latest]
                if latest is not None:
                    spoke = root in rows.participated or parents[root].sender == reading.user_id
                    found[root].thread = ThreadSummary(latest, counts[root], spoke)
        shown = [seen[row.event_id] for row in rows.latest.values() if row.event_id in seen]
        latest_ones = [_parent(reading, one, has_thread=False) for one in shown]
        parents = {**parents, **{one.event_id: one for one in latest_ones}}
        for event_id, row in rows.edits.items():
            edit = seen.get(row.event_id)
            if edit is None and event_id in parents:
                edit = await self._older_edit(reading, parents[event_id])
            if edit is not None and is_edit(edit.entry.event):
                found[event_id].edit = edit
        for group in rows.references:
            if group in groups:
                found[group.parent].references = (*found[group.parent].references, group.sample)
        if older:
            found |= await self._read([(reading, older)], has_thread=False)
        for root in rows.latest:
            thread = found[root].thread if root in found else None
            if thread is not None:
                inner = found.get(thread.latest.entry.event.event_id)
                found[root].thread = thread._replace(inner=inner)

    # Children that are hidden from the reader

    async def _seen(
        self, reading: _Reading, rows: Collection[StoredEventRow]
    ) -> dict[EventId, Seen]:
        """Returns those of the children that the reader sees, with their relations."""
        if not rows:
            return {}
        placed = [self._reader.placed(row, reading.room) for row in rows]
        placed.sort(key=lambda one: event_entry(one).order)
        seen = await self._visibility.visible(
            reading.room, reading.user_id, reading.user_room, placed
        )
        return {
            one.entry.event.event_id: one for one in seen if relation_of(one.entry.event.content)
        }

    async def _seen_groups(
        self, reading: _Reading, groups: Sequence[ChildGroup]
    ) -> set[ChildGroup]:
        """Returns the groups of children that the reader sees. Of those whose states must be read
        for that a bounded number: the others don't count."""
        asked = islice((one for one in groups if not one.is_sure), limits.GROUPS_DECIDED)
        unsure = {one.sample: one.is_earlier for one in asked}
        shown: Collection[EventId] = ()
        if unsure:
            shown = await self._visibility.seen_by_states(
                reading.room, reading.user_id, reading.user_room, unsure
            )
        return {one for one in groups if one.is_sure or one.sample in shown}

    async def _older_in_thread(
        self, reading: _Reading, newest: StoredEventRow, root: EventId
    ) -> Seen | None:
        wanted, start = WantedChildren(reading.room.row_id, root, THREAD), newest.place
        for _ in range(limits.RELATED_READS):
            span = OrderSpan(start, None, backwards=True, limit=limits.RELATED_READ)
            rows = await self._table.children(wanted, reading.scope, span)
            seen = await self._seen(reading, rows)
            for row in rows:
                if row.event_id in seen:
                    return seen[row.event_id]
            if len(rows) < limits.RELATED_READ:
                return None
            start = rows[-1].place
        return None

    async def _older_edit(self, reading: _Reading, parent: Parent) -> Seen | None:
        for page in range(limits.RELATED_READS):
            rows = await self._table.edits(
                parent,
                reading.scope,
                skip=1 + page * limits.RELATED_READ,
                limit=limits.RELATED_READ,
            )
            seen = await self._seen(reading, rows)
            for row in rows:
                if row.event_id in seen:
                    return seen[row.event_id]
            if len(rows) < limits.RELATED_READ:
                return None
        return None

    # Rendering

    async def _render(
        self, viewer: Viewer, bundles: Mapping[EventId, Bundle]
    ) -> dict[EventId, bytes]:
        """Returns the JSON of bundles. Their events are whole, whatever fields the viewer chose."""
        whole = msgspec.structs.replace(viewer, fields=None)
        threads = [one.thread for one in bundles.values() if one.thread is not None]
        inner = [one.inner for one in threads if one.inner is not None]
        shown = [one.latest for one in threads]
        shown += [one.edit for one in (*bundles.values(), *inner) if one.edit is not None]
        extras = await load_extras(self._rooms, needed(shown), whole)
        nested = {
            one.latest.entry.event.event_id: json_object(members)
            for one in threads
            if one.inner is not None and (members := _members(one.inner, whole, extras))
        }
        within = msgspec.structs.replace(extras, bundles=nested)
        found = {}
        for event_id, one in bundles.items():
            members = _members(one, whole, extras)
            if one.thread is not None:
                members.append((THREAD, _thread(one.thread, whole, within)))
            if members:
                found[event_id] = json_object(members)
        return found


def _parent(reading: _Reading, seen: Seen, *, has_thread: bool) -> Parent:
    event, room = seen.entry.event, reading.room
    relation = relation_of(event.content)
    is_replacement = relation is not None and relation.rel_type == REPLACEMENT
    user_room = reading.user_room
    is_joined = user_room is not None and user_room.membership == "join"
    return Parent(
        room_row_id=room.row_id,
        event_id=event.event_id,
        sender=event.sender,
        type=escape(event.type),
        has_edits=not (is_replacement or event.is_state or seen.entry.redacted_by is not None),
        has_thread=has_thread and relation is None,
        sure_after=user_room.position if is_joined and user_room is not None else END[0],
        snapshot=-1 if room.was_corrected else room.view.chain[-1].row_id,
        joined_until=reading.joined_until,
    )


def _only(rows: Bundled, parents: Collection[EventId]) -> Bundled | None:
    """Returns the part that concerns some parents, and the newest events of their threads."""
    latest = {one: row for one, row in rows.latest.items() if one in parents}
    every = {*parents, *(row.event_id for row in latest.values())}
    own = Bundled(
        {one: row for one, row in rows.edits.items() if one in every},
        latest,
        [one for one in rows.counts if one.parent in parents],
        [one for one in rows.references if one.parent in every],
        rows.participated,
    )
    return own if own.edits or own.latest or own.references else None


def _members(bundle: Bundle, viewer: Viewer, extras: Extras) -> list[tuple[str, bytes]]:
    members = []
    if bundle.edit is not None:
        members.append((REPLACEMENT, render(bundle.edit, viewer, extras)))
    if bundle.references:
        chunk = [b'{"event_id":%b}' % orjson.dumps(one) for one in bundle.references]
        members.append((REFERENCE, b'{"chunk":%b}' % json_list(chunk)))
    return members


def _thread(thread: ThreadSummary, viewer: Viewer, extras: Extras) -> bytes:
    return b'{"latest_event":%b,"count":%d,"current_user_participated":%b}' % (
        render(thread.latest, viewer, extras),
        thread.number,
        b"true" if thread.has_spoken else b"false",
    )
