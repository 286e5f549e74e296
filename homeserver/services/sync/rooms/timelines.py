"""The timeline of one room in a sync: the newest events that the reader may see and asked for.

Rules:
1. If a filter excludes events, or they are hidden from the reader, more are read, within a bound;
   the events in between still count as sent, and `prev_batch` lies before all events that were
   read.
2. `limited` says that there are more events before: more than were requested, or, if the client
   knows nothing of the room yet, history that is missing here.
3. A timeline never hides a gap: if a parent of an event is missing here (an outage, a time out of
   the room), the timeline begins at that event and is limited.
4. A redaction that came before its target is sent with it.

Spec: client-server API, /sync, `timeline`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, StateKey, UserId
from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.engine.followers.memberships import UserRoom
from homeserver.engine.rooms.reader import Reader, event_entry
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.sync.filters import EventFilter
from homeserver.rules.sync.sync_tokens import Point, just_after, just_before
from homeserver.services.timeline.bundles import Bundles, RoomEvents
from homeserver.services.timeline.client_events import Seen, allows
from homeserver.services.timeline.visibility import Visibility


class RoomReader(msgspec.Struct, frozen=True):
    """The reader of a room, with their membership, and the users they ignore."""

    user_id: UserId
    user_room: UserRoom
    ignored: frozenset[str] = frozenset()


class SyncTimeline(msgspec.Struct, frozen=True):
    """The timeline for a reader. `read` has all events that were read, oldest first."""

    events: list[Seen]
    read: Sequence[Placed]
    limited: bool
    prev: Point | None

    @property
    def start(self) -> int | None:
        """Returns the position of the first event, if there is one."""
        return self.events[0].placed.position if self.events else None

    @property
    def ids(self) -> set[EventId]:
        """Returns the events that the reader gets."""
        return {seen.entry.event.event_id for seen in self.events}

    def without(self, keys: Collection[StateKey]) -> SyncTimeline:
        """Returns the timeline without state events of some keys. The part left out before the
        first event is found by paging backwards."""
        kept = [
            one
            for one in self.events
            if one.entry.event.state_key is None or one.entry.event.key not in keys
        ]
        prev = self.prev
        if self.events and prev == just_before(self.events[0].entry.order):
            last = self.events[-1].entry.order
            prev = just_before(kept[0].entry.order) if kept else just_after(last)
        return msgspec.structs.replace(self, events=kept, prev=prev)


NOTHING = SyncTimeline([], (), False, None)


class Timelines:
    """Reads timelines."""

    def __init__(self, reader: Reader, visibility: Visibility, bundles: Bundles) -> None:
        self._reader = reader
        self._visibility = visibility
        self._bundles = bundles

    async def newest(
        self,
        room: Room,
        reader: RoomReader,
        wanted: EventFilter,
        *,
        after: int,
        up_to: int,
        is_full: bool,
    ) -> SyncTimeline:
        """Returns the events with after < position <= up_to. `is_full`: the client knows nothing of
        the room yet, so that missing history makes the timeline limited."""
        limit = limits.SYNC_TIMELINE_EVENTS if wanted.limit is None else wanted.limit
        to_read = max(1, limit)
        while True:
            part = await self._reader.newest(room, after=after, up_to=up_to, limit=to_read)
            read = await self._behind_gap(room, part.events)
            seen = await self._visibility.visible(room, reader.user_id, reader.user_room, read)
            seen = [one for one in seen if _is_wanted(one, wanted, reader.ignored)]
            group = RoomEvents(room, reader.user_room, seen)
            seen = await self._bundles.related_by(reader.user_id, group, wanted)
            is_whole_read = not part.limited or read is not part.events
            if len(seen) >= limit or is_whole_read or to_read >= limits.SYNC_TIMELINE_READ:
                break
            to_read = min(to_read * limits.SYNC_TIMELINE_READ_TIMES, limits.SYNC_TIMELINE_READ)
        is_cut = len(seen) > limit
        kept = seen[len(seen) - limit :] if is_cut else seen
        limited = part.limited or is_cut or read is not part.events
        if is_full and read and not limited:
            limited = event_entry(read[0]).event.type != event_types.CREATE
        prev = self._prev(kept, read, is_cut)
        return SyncTimeline(
            await self._with_waiting(room, reader, wanted, kept), read, limited, prev
        )

    async def _with_waiting(
        self, room: Room, reader: RoomReader, wanted: EventFilter, kept: list[Seen]
    ) -> list[Seen]:
        """Returns `kept` with the redactions that came before their targets, each after its target:
        until then they were not sent (spec: room version 3, "Handling redactions")."""
        shown = {seen.entry.event.event_id for seen in kept}
        early = [one for one in kept if one.entry.redacted_by not in (None, *shown)]
        if not early:
            return kept
        behind: dict[EventId, Seen] = {}
        for seen in early:
            assert seen.entry.redacted_by is not None, "it was redacted"
            by = await self._reader.place(room, seen.entry.redacted_by)
            if by is None or event_entry(by).order > seen.entry.order:
                continue  # after the target: sent at its own position
            for one in await self._visibility.visible(room, reader.user_id, reader.user_room, [by]):
                if allows(wanted, one.entry):
                    behind[seen.entry.event.event_id] = one
        result: list[Seen] = []
        for seen in kept:
            result.append(seen)
            if seen.entry.event.event_id in behind:
                result.append(behind[seen.entry.event.event_id])
        return result

    async def _behind_gap(self, room: Room, events: Sequence[Placed]) -> Sequence[Placed]:
        """Returns `events` from the newest one that has a missing parent; the same list if none
        has. Only an event with no parent among the others is checked."""
        ids = {event_entry(placed).event.event_id for placed in events}
        if all(_follows(room, event_entry(placed).event, ids) for placed in events):
            return events
        missing = set(
            await self._reader.gaps(room, just_after(event_entry(events[-1]).order).before)
        )
        for index in range(len(events) - 1, -1, -1):
            if not missing.isdisjoint(event_entry(events[index]).event.prev_events):
                return list(events[index:])
        return events

    def _prev(self, kept: Sequence[Seen], read: Sequence[Placed], is_cut: bool) -> Point | None:
        if kept and is_cut:
            return just_before(kept[0].entry.order)
        if is_cut:
            return just_after(event_entry(read[-1]).order)
        return just_before(event_entry(read[0]).order) if read else None


def _is_wanted(seen: Seen, wanted: EventFilter, ignored: frozenset[str]) -> bool:
    return (wanted.allows_all or allows(wanted, seen.entry)) and not _is_ignored(seen, ignored)


def _is_ignored(seen: Seen, ignored: frozenset[str]) -> bool:
    event = seen.entry.event
    return event.state_key is None and event.sender in ignored


def _follows(room: Room, event: Event, ids: Collection[EventId]) -> bool:
    previous = event.prev_events
    if not previous or any(event_id in ids for event_id in previous):
        return True
    return any(event_entry(placed).event.event_id in previous for placed in reversed(room.ring))
