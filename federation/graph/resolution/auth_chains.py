"""Auth chains as compact sets (spec: room version 2 and 12, "State resolution", definitions).

A room's auth graph consists of a few long lines: the power levels, each citing those before, the
join rules, each user's membership. So the heights that an auth chain reaches on each line describe
it, and the difference of two chains is found without a walk over what they share.

Rules:
1. An event has a *place*: a line, and a height on it, from 1. It extends the line that ends with
   an auth event of its own type and state key; without such a line it begins a new one. So each
   event of a line has all those below it in its auth chain.
2. A set that contains with each event all that it reaches (an auth chain, a union of such) is
   therefore described by the greatest height on each line: a union is a maximum, the events that
   an intersection lacks are a range, and membership takes one look-up.
3. Places are assigned on the first query and stay, since the citations of an event never change.
   The line of an event depends on the order of the queries; no answer does.
4. An event has no place if it is on a cycle (in versions 1 and 2 servers choose the IDs), if its
   chain covers more than `AUTH_CHAIN_LINES_MAX` lines (many users in turn gave power or an invite
   to the next, or forks were made to be costly), or if it cites an event without a place. Queries
   on such an event are answered by a walk (`chains`), with the same result.
5. Events that aren't loaded raise MissingEvent, a layer at a time, before places are assigned.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from federation import limits
from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.resolution import chains
from federation.graph.resolution.chains import LoadEvent, load_all
from federation.graph.resolution.mainline import Mainlines

# As measured (tests/bench/graph): an event with its place and its ID; an auth chain, and each line
# in it; a power levels event on its mainline.
_EVENT_BYTES, _CHAIN_BYTES, _ENTRY_BYTES, _LEVELS_BYTES = 350, 150, 40, 150

_Heights = Mapping[int, int]
"""By line, the greatest height in a set of events; no entry for lines without any of them."""


class _Place(msgspec.Struct, frozen=True, gc=False):
    line: int
    height: int
    chain: _Heights
    """The event's auth chain, without itself."""


class _Line(msgspec.Struct, frozen=True, gc=False):
    type: str
    state_key: str | None
    event_ids: list[EventId]

    def is_of(self, event: Event) -> bool:
        """Returns whether the event has the type and state key of those on the line."""
        return self.state_key == event.state_key and self.type == event.type


class AuthChains:
    """The auth chains of one room's events, computed on the first query and kept.

    An object may serve a single call, or be kept for as long as the room is in use; nothing else
    may use it during a call. `event` of the methods gives the room's events, rejected ones too;
    it isn't called again for events with a place, nor for those that they reach. Each event in a
    query, or in the chain of one, takes 300 to 600 bytes; more where chains cover many lines.
    """

    def __init__(
        self,
        *,
        bytes_max: int = limits.AUTH_CHAINS_BYTES_MAX,
        lines_max: int = limits.AUTH_CHAIN_LINES_MAX,
    ) -> None:
        self._bytes_max = bytes_max
        self._lines_max = lines_max
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._places: dict[EventId, _Place] = {}
        self._without_place: set[EventId] = set()
        self._lines: list[_Line] = []
        self._chains: dict[tuple[EventId, ...], _Heights] = {}
        self._entries = 0
        self.mainlines = Mainlines()
        """The mainlines of the same room, kept and forgotten with the chains."""

    def trim(self) -> None:
        """Forgets everything if it takes more than `bytes_max`; to be called between uses."""
        if self.size_bytes > self._bytes_max:
            self.clear()

    @property
    def size_bytes(self) -> int:
        """The approximate size in memory, including the event IDs."""
        chains_bytes = len(self._chains) * _CHAIN_BYTES + self._entries * _ENTRY_BYTES
        return len(self) * _EVENT_BYTES + chains_bytes + len(self.mainlines) * _LEVELS_BYTES

    def __len__(self) -> int:
        """Returns the number of known events."""
        return len(self._places) + len(self._without_place)

    def __contains__(self, event_id: EventId) -> bool:
        """Returns whether the event is known, with all of its chain."""
        return event_id in self._places or event_id in self._without_place

    # --- queries --------------------------------------------------------------------------------

    def differing(
        self, event_sets: Sequence[Collection[EventId]], event: LoadEvent
    ) -> set[EventId]:
        """Returns the events that are in some of the sets or their auth chains, but not in all.

        "In" means for each set: an event of it, or of the chain of one. Raises MissingEvent.
        """
        if self._placed(set().union(*event_sets), event) is None:
            return chains.differing(event_sets, event)
        lowest: dict[int, int] = {}
        highest: dict[int, int] = {}
        having: dict[int, int] = {}  # the number of sets with events of a line
        for event_ids in event_sets:
            for line, height in self._reached(event_ids).items():
                lowest[line] = min(height, lowest.get(line, height))
                highest[line] = max(height, highest.get(line, height))
                having[line] = having.get(line, 0) + 1
        found: set[EventId] = set()
        for line, height in highest.items():
            shared = lowest[line] if having[line] == len(event_sets) else 0
            found.update(self._lines[line].event_ids[shared:height])
        return found

    def between(self, ends: Collection[EventId], event: LoadEvent) -> set[EventId]:
        """Returns all events on a path of `auth_events` from one of `ends` to another, inclusive.

        Raises MissingEvent.
        """
        placed = self._placed(ends, event)
        if placed is None:
            return chains.between(ends, event)
        lowest: dict[int, int] = {}
        reached: dict[int, int] = {}
        for place in placed.values():
            lowest[place.line] = min(place.height, lowest.get(place.line, place.height))
            _raise(reached, place.chain)
        found = {
            end
            for end, place in placed.items()
            if place.height <= reached.get(place.line, 0) or _meets(place.chain, lowest)
        }
        for line, height in reached.items():
            event_ids = self._lines[line].event_ids
            # An event above one that reaches an end reaches it, too.
            first = bisect_left(
                range(height), True, key=lambda i: _meets(self._places[event_ids[i]].chain, lowest)
            )
            found.update(event_ids[first:height])
        return found

    def nearest(
        self, members: Collection[EventId], event: LoadEvent
    ) -> Mapping[EventId, Collection[EventId]]:
        """Returns for each of `members` those in its auth chain, without some that are also in
        the chain of another of these: edges that suffice to sort by, and to find the rest.

        Raises MissingEvent.
        """
        placed = self._placed(members, event)
        if placed is None:
            return chains.nearest(members, event)
        heights: dict[int, list[int]] = {}
        for place in sorted(placed.values(), key=lambda place: place.height):
            heights.setdefault(place.line, []).append(place.height)
        edges: dict[EventId, list[EventId]] = {}
        for member, place in placed.items():
            # On each line the highest member in the chain; those below it are in its own chain.
            within = (
                (line, bisect_right(heights[line], height))
                for line, height in place.chain.items()
                if line in heights
            )
            edges[member] = [
                self._lines[line].event_ids[heights[line][count - 1] - 1]
                for line, count in within
                if count
            ]
        return edges

    # --- places ---------------------------------------------------------------------------------

    def _placed(
        self, event_ids: Collection[EventId], event: LoadEvent
    ) -> dict[EventId, _Place] | None:
        """Returns the places of events, assigned now if new; None if one can't have a place."""
        new = self._load_new(event_ids, event)
        self._place_all(new)
        if not self._without_place.isdisjoint(event_ids):
            return None
        return {event_id: self._places[event_id] for event_id in event_ids}

    def _load_new(self, event_ids: Collection[EventId], event: LoadEvent) -> dict[EventId, Event]:
        """Loads those of the events, and of their chains, that aren't known yet."""
        new: dict[EventId, Event] = {}
        layer = {event_id for event_id in event_ids if event_id not in self}
        while layer:
            loaded = load_all(layer, event)
            new.update(loaded)
            cited = {parent for found in loaded.values() for parent in found.auth_events}
            layer = {parent for parent in cited if parent not in new and parent not in self}
        return new

    def _place_all(self, new: Mapping[EventId, Event]) -> None:
        """Assigns places to events, to each after all that it cites."""
        stack = list(new)  # the last loaded events are mostly the deepest; they come first
        begun: set[EventId] = set()
        while stack:
            event_id = stack[-1]
            if event_id in self:
                stack.pop()
                continue
            if event_id not in begun:
                begun.add(event_id)
                stack.extend(p for p in new[event_id].auth_events if p not in self)
            if stack[-1] == event_id:
                # All cited events have been placed, except on a cycle.
                self._place(new[event_id])

    def _place(self, event: Event) -> None:
        """Assigns a place to an event if all cited events have one."""
        parents = [self._places[p] for p in event.auth_events if p in self._places]
        has_all = len(parents) == len(event.auth_events)
        chain = self._chain_of(event, parents) if has_all else None
        if chain is None:
            self._without_place.add(event.event_id)
            return
        line = self._line_for(event, parents)
        event_ids = self._lines[line].event_ids
        event_ids.append(event.event_id)
        self._places[event.event_id] = _Place(line, len(event_ids), chain)

    def _chain_of(self, event: Event, parents: Sequence[_Place]) -> _Heights | None:
        """Returns an auth chain, shared by events with the same citations; None if too wide."""
        chain = self._chains.get(event.auth_events)
        if chain is None:
            chain = _chain_over(parents)
            if len(chain) > self._lines_max:
                return None
            self._chains[event.auth_events] = chain
            self._entries += len(chain)
        return chain

    def _line_for(self, event: Event, parents: Iterable[_Place]) -> int:
        """Returns the line for an event: that of a cited event (rule 1), or a new one."""
        for place in parents:
            line = self._lines[place.line]
            if place.height == len(line.event_ids) and line.is_of(event):
                return place.line
        self._lines.append(_Line(event.type, event.state_key, []))
        return len(self._lines) - 1

    def _reached(self, event_ids: Iterable[EventId]) -> _Heights:
        """Returns the set of the events and their chains."""
        return _chain_over(self._places[event_id] for event_id in event_ids)


def _chain_over(places: Iterable[_Place]) -> _Heights:
    """Returns the set of the events and their chains: the chain of an event that cites them."""
    union: dict[int, int] = {}
    for place in places:
        # An event in the union adds nothing: its chain is in the union, too.
        if union.get(place.line, 0) < place.height:
            _raise(union, place.chain)
            union[place.line] = place.height
    return union


def _raise(heights: dict[int, int], others: _Heights) -> None:
    """Changes the first set into the union of both."""
    if not heights:
        heights.update(others)
        return
    for line, height in others.items():
        if heights.get(line, 0) < height:
            heights[line] = height


def _meets(chain: _Heights, lowest: _Heights) -> bool:
    """Returns whether a chain has any of the events whose lowest height on each line is given."""
    if len(chain) < len(lowest):
        return any(height >= lowest.get(line, height + 1) for line, height in chain.items())
    return any(chain.get(line, 0) >= height for line, height in lowest.items())
