"""Counts of unread notifications, from the outcomes of events.

Rules:
1. An event has a level for each user: silent, notified, or highlighted. Most users of a room have
   the same one, the usual level; only the others are named.
2. It is unread while it stands behind what its user has read: in its thread, and in the whole room
   (thread ""). What was read never goes back.
3. An event is in a thread if it has the relation `m.thread`, or one of another kind to an event
   that is in one; three relations are followed at most. All other events are in the main timeline,
   so are the roots of threads.

Spec: client-server API, "Receiving notifications", "Threaded read receipts".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

from federation.events.ids import EventId, UserId
from homeserver.rules.push.outcomes import HIGHLIGHTED, SILENT_LEVEL

MAIN: Final = "main"
"""The main timeline, as receipts call it."""

WHOLE_ROOM: Final = ""
"""What a receipt without a thread reads: all threads."""

NEVER: Final = -1
"""The place in a room's order of a user who has read nothing."""


class Count(msgspec.Struct, frozen=True):
    """Unread events that notify, and those among them that are highlighted."""

    notified: int = 0
    highlighted: int = 0

    def plus(self, other: Count) -> Count:
        """Returns the sum of two counts."""
        return Count(self.notified + other.notified, self.highlighted + other.highlighted)


NONE: Final = Count()

ThreadCounts: TypeAlias = Mapping[str, Count]
"""Counts by thread; threads without any are left out."""


class EventLevels(msgspec.Struct, frozen=True):
    """An event that notifies somebody: its place in the room (`live_index`), its thread, the usual
    level, and the users who have another one."""

    live_index: int
    event_id: EventId
    thread: str
    usual: int
    others: Mapping[UserId, int]


def tally(events: Iterable[EventLevels], user_id: UserId | None, *, after: int) -> ThreadCounts:
    """Counts events behind a place for a user; for any user who isn't named with None."""
    levels: dict[str, list[int]] = {}
    for one in events:
        if one.live_index > after:
            level = one.usual if user_id is None else one.others.get(user_id, one.usual)
            if level != SILENT_LEVEL:
                levels.setdefault(one.thread, []).append(level)
    return {thread: Count(len(found), found.count(HIGHLIGHTED)) for thread, found in levels.items()}


def unread(
    events: Iterable[EventLevels], user_id: UserId, marks: ReadMarks, *, after: int
) -> ThreadCounts:
    """Counts those events behind a place that a user has not read."""
    left = [one for one in events if one.live_index > marks.of(one.thread)]
    return tally(left, user_id, after=after)


def summed(*counts: ThreadCounts) -> ThreadCounts:
    """Returns the sum of counts, by thread."""
    total: dict[str, Count] = {}
    for one in counts:
        for thread, count in one.items():
            total[thread] = total.get(thread, NONE).plus(count)
    return {thread: count for thread, count in total.items() if count != NONE}


def whole_room(counts: ThreadCounts) -> Count:
    """Returns the count of all threads."""
    total = NONE
    for count in counts.values():
        total = total.plus(count)
    return total


class ReadMarks:
    """How far a user has read a room: by thread, the last read place. The whole room is read up to
    that of thread ""."""

    __slots__ = ("places",)

    def __init__(self, places: Mapping[str, int]) -> None:
        self.places = dict(places)

    def of(self, thread: str) -> int:
        """Returns the place up to which a thread is read."""
        return max(self.places.get(WHOLE_ROOM, NEVER), self.places.get(thread, NEVER))

    def move(self, thread: str, place: int) -> bool:
        """Moves a mark on; returns False, and changes nothing, if that was read already."""
        if place <= self.of(thread):
            return False
        self.places[thread] = place
        return True

    def copy(self) -> ReadMarks:
        """Returns marks that move on their own."""
        return ReadMarks(self.places)
