"""Finds the state events of a room that are in the auth chains of the state that all branches agree
on.

State resolution needs this for a few events only: those of the auth difference that no branch has
in its state (`federation.graph.resolution.chains.Reached`).

Rules:
1. The search goes upwards, from an event to those that cite it: so its cost depends on the
   question, not on the room.
2. An event gets its row number after all events that it cites. So an index with every state event
   from some row on has all events that cite any of them, directly or not; it grows only at its
   ends, a whole range at a time.
3. A staged event that failed may stay in an index: no stored event cites it.
4. The index is bounded. Events beyond it are read row by row, once for each question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.resolution.chains import topological_order

_EVENT_BYTES = 550  # measured: the ID, the key, and an entry for each of four cited events

Holds = Callable[[StateKey, EventId], bool]
"""Whether all branches have this event under this key."""


class Citing(msgspec.Struct, frozen=True):
    """The part of a state event that the index needs."""

    event_id: EventId
    key: StateKey


def cited_first(events: Sequence[Event]) -> list[Event]:
    """Sorts the events so that each follows those of them that it cites as its authorisation: row
    numbers are assigned in this order (rule 2). If claimed IDs make a cycle (room versions 1 and
    2), its events come last."""
    by_id = {event.event_id: event for event in events}
    ordered = topological_order(by_id, lambda event_id: by_id[event_id].auth_events)
    left_out = by_id.keys() - set(ordered)
    return [by_id[one] for one in (*ordered, *(i for i in by_id if i in left_out))]


class CitationIndex:
    """The citations of the state events of one room from some row on."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._known: set[EventId] = set()
        self._citing: dict[EventId, list[Citing]] = {}
        self.too_long_from = -1
        """From this row on, or an earlier one, there are more events than the index may hold."""
        for event in events:
            self.add(event)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, event_id: EventId) -> bool:
        """Returns whether the event is here, and so all that cite it."""
        return event_id in self._known

    @property
    def bytes(self) -> int:
        """Returns a rough size, for the memory budget."""
        return _EVENT_BYTES * len(self._known)

    def add(self, event: Event) -> None:
        """Adds a state event that is new in the room; other events are skipped."""
        if not event.is_state or event.event_id in self._known:
            return
        self._known.add(event.event_id)
        citing = Citing(event.event_id, event.key)
        for cited in event.auth_events:
            self._citing.setdefault(cited, []).append(citing)

    def reached(self, event_ids: Collection[EventId], holds: Holds) -> set[EventId]:
        """Returns those of the events to which a chain of citations leads from an agreed event.
        *Precondition:* the events are here.

        The results for one event serve the others: each citation is followed once, except those of
        reached events.
        """
        reached: set[EventId] = set()
        unreached: set[EventId] = set()
        for event_id in event_ids:
            assert event_id in self._known, "the index has all that cite what it has, no others"
            self._look_up(event_id, holds, reached, unreached)
        return reached.intersection(event_ids)

    def _look_up(
        self, start: EventId, holds: Holds, reached: set[EventId], unreached: set[EventId]
    ) -> None:
        """Adds an event, and the events met on the way, to those reached or not reached."""
        if start in reached or start in unreached:
            return
        below: dict[EventId, EventId | None] = {start: None}  # the event that cites it
        stack = [start]
        while stack:
            event_id = stack.pop()
            for citing in self._citing.get(event_id, ()):
                met = citing.event_id
                if met in reached or holds(citing.key, met):
                    on_the_way: EventId | None = event_id
                    while on_the_way is not None:
                        reached.add(on_the_way)
                        on_the_way = below[on_the_way]
                    return
                if met not in below and met not in unreached:
                    below[met] = event_id
                    stack.append(met)
        unreached.update(below)


class Scan:
    """The same answer from a single pass over events, each after all that it cites (rule 4)."""

    def __init__(self, event_ids: Collection[EventId], holds: Holds) -> None:
        self._holds = holds
        self._leading: dict[EventId, set[EventId]] = {one: {one} for one in event_ids}
        self.reached: set[EventId] = set()

    @property
    def is_over(self) -> bool:
        """Returns whether all are found to be reached."""
        return not self._leading

    def look_at(self, events: Sequence[Event]) -> None:
        """Reads the next events."""
        for event in events:
            if event.is_state:
                self._look_at(event)

    def _look_at(self, event: Event) -> None:
        for asked, leading in list(self._leading.items()):
            if leading.isdisjoint(event.auth_events):
                continue
            if self._holds(event.key, event.event_id):
                self.reached.add(asked)
                del self._leading[asked]
            else:
                leading.add(event.event_id)
