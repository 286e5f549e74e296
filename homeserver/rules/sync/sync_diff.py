"""The part of a room's state that a sync sends, from changes of current state in log order.

Rules:
1. With `since`, `state` has the last value of each key that changed between `since` and the
   timeline's start. A change without an event in the timeline (a merge) is sent too, whatever its
   position, since nothing else would tell the client.
2. `state_after` has the last value of each changed key at the end, in the timeline or not.
3. The removal of a key's event can't be expressed to a client, so it is left out.

Spec: client-server API, "Syncing"; /sync, `state`, `state_after`, RoomSummary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Protocol

from federation.events import event_types
from federation.events.ids import EventId, StateKey, UserId

HEROES = 5
"""Members that name a room without a name (spec: `m.heroes`)."""


class Member(Protocol):
    """An entry of current state: the event, its number (increasing), a membership."""

    @property
    def event_id(self) -> EventId: ...
    @property
    def row_id(self) -> int: ...
    @property
    def membership(self) -> str | None: ...


class Change(Protocol):
    """A key of current state that has another event, or none any more."""

    @property
    def key(self) -> StateKey: ...
    @property
    def event_id(self) -> EventId | None: ...


def state_delta(
    changes: Sequence[tuple[int, Change]], *, start: int, timeline: Collection[EventId]
) -> dict[StateKey, EventId]:
    """Returns the `state` of an incremental sync. `changes` are those after `since`, in order;
    `start` is the position of the timeline's first event (or past the end), `timeline` has its
    events."""
    delta: dict[StateKey, EventId] = {}
    for position, change in changes:
        if change.event_id is None:
            delta.pop(change.key, None)
        elif position < start or change.event_id not in timeline:
            delta[change.key] = change.event_id
    return delta


def last(changes: Sequence[tuple[int, Change]]) -> dict[StateKey, EventId]:
    """Returns the last value of each changed key that has one: `state_after` of an incremental
    sync.
    """
    values = {change.key: change.event_id for _, change in changes}
    return {key: event_id for key, event_id in values.items() if event_id is not None}


def heroes(state: Mapping[StateKey, Member], count: int = HEROES + 1) -> list[UserId]:
    """Returns the first `count` members of a room by the order in which their membership came:
    joined or invited ones, or if there are none, those who left. One more than is sent, since the
    reader is left out."""
    present: list[tuple[int, str]] = []
    gone: list[tuple[int, str]] = []
    for key, ref in state.items():
        if key[0] == event_types.MEMBER:
            there = ref.membership == "join" or ref.membership == "invite"
            (present if there else gone).append((ref.row_id, key[1]))
    chosen = nsmallest(count, present)
    if len(chosen) < 2:
        chosen += nsmallest(count - len(chosen), gone)
    return [UserId(user_id) for _, user_id in chosen]


def changes_summary(changes: Iterable[tuple[int, Change]]) -> bool:
    """Returns whether any of these changes concerns a room's summary."""
    return any(
        change.key[0] in (event_types.MEMBER, event_types.NAME, event_types.CANONICAL_ALIAS)
        for _, change in changes
    )
