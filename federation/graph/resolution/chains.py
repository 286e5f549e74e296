"""Walks over the graph that `auth_events` forms (spec: room version 2 and 12, "State
resolution", definitions).

Rules:
1. Nothing recurses: chains are as long as rooms are old.
2. An event that isn't loaded is reported together with all other missing ones (`MissingEvent`), so
   that the caller loads many at once rather than one per attempt.
3. The cost of a walk grows with the length of the chains. `auth_chains` answers the same queries at
   a cost that grows with the difference, and walks only where it must.
4. A cycle (in room versions 1 and 2 servers choose the IDs) ends every walk. Admission accepts no
   event on a cycle, since each would have to be accepted before itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from federation.events.event import Event
from federation.events.ids import EventId

LoadEvent = Callable[[EventId], Event]
"""Returns an event; raises MissingEvent when it isn't loaded."""


Reached = Callable[[Collection[EventId], Collection[EventId]], Collection[EventId]]
"""Returns those of the first events that are in the auth chains of the second. An index answers it,
since the second are all unconflicted state events of a room and the first are few."""


class MissingEvent(LookupError):
    """The algorithm needs events that aren't loaded."""

    def __init__(self, event_id: EventId, event_ids: frozenset[EventId] | None = None) -> None:
        super().__init__(event_id)
        self.event_id = event_id
        self.event_ids = event_ids or frozenset({event_id})
        """All events known to be missing; `event_id` is one of them."""


def load_all(event_ids: Iterable[EventId], event: LoadEvent) -> dict[EventId, Event]:
    """Loads several events; raises one MissingEvent that names all missing ones."""
    found: dict[EventId, Event] = {}
    missing: set[EventId] = set()
    for event_id in event_ids:
        try:
            found[event_id] = event(event_id)
        except MissingEvent as error:
            missing |= error.event_ids
    if missing:
        raise MissingEvent(min(missing), frozenset(missing))
    return found


def auth_chain(event_ids: Iterable[EventId], event: LoadEvent) -> set[EventId]:
    """Returns all events that `event_ids` reach by `auth_events`; a start only if it is reached.

    Raises MissingEvent.
    """
    chain: set[EventId] = set()
    layer = set(event_ids)
    while layer:
        reached: set[EventId] = set()
        for found in load_all(layer, event).values():
            reached.update(found.auth_events)
        layer = reached - chain
        chain |= layer
    return chain


def differing(event_sets: Sequence[Collection[EventId]], event: LoadEvent) -> set[EventId]:
    """Returns the same as `AuthChains.differing`, by a walk over the whole chains."""
    auth_sets = [auth_chain(event_ids, event).union(event_ids) for event_ids in event_sets]
    return set[EventId]().union(*auth_sets) - auth_sets[0].intersection(*auth_sets[1:])


def unreached(
    candidates: Collection[EventId],
    starts: Collection[EventId],
    event: LoadEvent,
    *,
    reached: Reached | None = None,
) -> set[EventId]:
    """Returns those of `candidates` that are in no auth chain of `starts`.

    `reached` is the answer of an index, if there is one. Without it the chains are walked until
    no candidate is left. Raises MissingEvent.
    """
    left = set(candidates)
    if reached is not None:
        return left.difference(reached(left, starts)) if left else left
    seen: set[EventId] = set()
    layer: Collection[EventId] = starts
    while left and layer:
        cited: set[EventId] = set()
        for found in load_all(layer, event).values():
            cited.update(found.auth_events)
        layer = cited - seen
        left -= layer
        seen |= layer
    return left


class Citations:
    """An index of citations between the events of a room; it answers `Reached`.

    It walks *up* from the few events of the difference to those that cite them. So its cost grows
    with the difference, while a walk down from all unconflicted state grows with the room.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._citing: dict[EventId, list[EventId]] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Adds an event; each must be added once."""
        for parent in event.auth_events:
            self._citing.setdefault(parent, []).append(event.event_id)

    def reached(self, event_ids: Collection[EventId], starts: Collection[EventId]) -> set[EventId]:
        """Returns those of `event_ids` that are in an auth chain of `starts`.

        `starts` is only tested for events, never iterated. *Precondition:* every event of
        `starts`, and of its chains, was added. Where events are stored after all that they cite,
        those stored after the first of `event_ids` suffice.
        """
        return {
            event_id
            for event_id in event_ids
            if any(citing in starts for citing in self.citing([event_id]))
        }

    def citing(self, event_ids: Iterable[EventId]) -> Iterator[EventId]:
        """Yields the events with one of `event_ids` in their auth chains, searched lazily."""
        seen: set[EventId] = set()
        stack = list(event_ids)
        while stack:
            for citing in self._citing.get(stack.pop(), ()):
                if citing not in seen:
                    seen.add(citing)
                    stack.append(citing)
                    yield citing


def between(ends: Collection[EventId], event: LoadEvent) -> set[EventId]:
    """Returns the same as `AuthChains.between`, by a walk over the whole chains, down and up."""
    targets = set(ends)
    chain = auth_chain(targets, event)
    citing = set(Citations(map(event, chain | targets)).citing(targets))
    return (chain & targets) | (citing & chain) | (citing & targets)


def _post_order(start: Iterable[EventId], event: LoadEvent) -> Iterator[EventId]:
    """Yields every event reachable from `start`, inclusive, each after all that it reaches."""
    done: set[EventId] = set()
    for root in start:
        stack: list[tuple[EventId, bool]] = [(root, False)]
        while stack:
            event_id, expanded = stack.pop()
            if expanded:
                yield event_id
                continue
            if event_id in done:
                continue
            done.add(event_id)
            stack.append((event_id, True))
            stack.extend((p, False) for p in event(event_id).auth_events if p not in done)


def nearest(members: Collection[EventId], event: LoadEvent) -> dict[EventId, frozenset[EventId]]:
    """Returns for each of `members` those that it reaches without passing another member: the
    edges of their graph after the events between them are contracted.

    Answers the same query as `AuthChains.nearest`, by a walk over the whole chains.
    """
    nothing: frozenset[EventId] = frozenset()
    hits: dict[EventId, frozenset[EventId]] = {}
    # Sorted, since the order decides on a cycle.
    for event_id in _post_order(sorted(members), event):
        found: set[EventId] = set()
        for parent in event(event_id).auth_events:
            if parent in members:
                found.add(parent)
            else:
                found |= hits.get(parent, nothing)
        hits[event_id] = frozenset(found) if found else nothing
    return {event_id: hits[event_id] for event_id in members}


class Comparable(Protocol):
    """A sort key."""

    def __lt__(self, other: Any, /) -> bool: ...


_K = TypeVar("_K", bound=Comparable)


def topological_order(
    event_ids: Iterable[EventId],
    edges: Callable[[EventId], Iterable[EventId]],
) -> list[EventId]:
    """Sorts `event_ids` so that each follows those that it points to; ties keep the given order.

    Events on or behind a cycle are left out.
    """
    position = {event_id: index for index, event_id in enumerate(event_ids)}
    return sorted_topologically(position, edges, lambda event_id: position[event_id])


def sorted_topologically(
    event_ids: Collection[EventId],
    edges: Callable[[EventId], Iterable[EventId]],
    sort_key: Callable[[EventId], _K],
) -> list[EventId]:
    """Returns the lexicographically smallest order that puts each event after those it points to.

    Kahn's algorithm with a heap: among all candidates the smallest `sort_key` comes next. Edges
    to events outside of `event_ids` are ignored. Spec: "Reverse topological power ordering".
    """
    waiting: dict[EventId, int] = {}
    followers: dict[EventId, list[EventId]] = {}
    for event_id in event_ids:
        parents = {parent for parent in edges(event_id) if parent in event_ids}
        waiting[event_id] = len(parents)
        for parent in parents:
            followers.setdefault(parent, []).append(event_id)
    ready = [(sort_key(event_id), event_id) for event_id, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: list[EventId] = []
    while ready:
        _, event_id = heapq.heappop(ready)
        order.append(event_id)
        for follower in followers.get(event_id, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, (sort_key(follower), follower))
    return order


def loader(events: Mapping[EventId, Event]) -> LoadEvent:
    """Returns a `LoadEvent` over loaded events."""

    def load(event_id: EventId) -> Event:
        found = events.get(event_id)
        if found is None:
            raise MissingEvent(event_id)
        return found

    return load
