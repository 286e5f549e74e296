"""Walks over the graph that `auth_events` makes (spec: room version 2 and 12, "State
resolution", definitions).

Rules:
1. Nothing recurses: chains are as long as rooms are old.
2. An event that isn't loaded is reported with all its kind (`MissingEvents`), so that the caller
   loads many at once rather than one per attempt.
3. A walk costs as much as the chains are long. `auth_chains` answers the same questions at the
   cost of what differs, and comes here only where it can't.
4. A cycle (in room versions 1 and 2 servers choose the IDs) ends every walk. Admission accepts no
   event of one, since each would have to be accepted before itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from federation.events.event import Event
from federation.events.ids import EventId

LoadEvent = Callable[[EventId], Event]
"""Gives an event; raises MissingEvent when it isn't loaded."""


Reached = Callable[[Collection[EventId], Collection[EventId]], Collection[EventId]]
"""Of the first events, those in the auth chains of the second: asked of an index, where there is
one, since the second are all unconflicted state events of a room and the first are few."""


class MissingEvent(LookupError):
    """Events that an algorithm needs and that aren't loaded."""

    def __init__(self, event_id: EventId, event_ids: frozenset[EventId] | None = None) -> None:
        super().__init__(event_id)
        self.event_id = event_id
        self.event_ids = event_ids or frozenset({event_id})
        """All that are known to be missing; `event_id` is one of them."""


def load_all(event_ids: Iterable[EventId], event: LoadEvent) -> dict[EventId, Event]:
    """Load several events; raises one MissingEvent that names all missing ones."""
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
    """All events reached from `event_ids` by `auth_events`; these are in it only when reached.

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
    """As `AuthChains.differing`, by a walk over all of the chains."""
    auth_sets = [auth_chain(event_ids, event).union(event_ids) for event_ids in event_sets]
    return set[EventId]().union(*auth_sets) - auth_sets[0].intersection(*auth_sets[1:])


def unreached(
    candidates: Collection[EventId],
    starts: Collection[EventId],
    event: LoadEvent,
    *,
    reached: Reached | None = None,
) -> set[EventId]:
    """Those of `candidates` that are in the auth chain of none of `starts`.

    `reached` answers it where there is an index. Without it the chains are walked, until no
    candidate is left. Raises MissingEvent.
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
    """Which events of a room cite which: an index that answers `Reached`.

    It looks from the few events of the difference *up* to what cites them, so its cost follows
    the difference, where walking down from all unconflicted state follows the room.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._citing: dict[EventId, list[EventId]] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Takes in an event; each once."""
        for parent in event.auth_events:
            self._citing.setdefault(parent, []).append(event.event_id)

    def reached(self, event_ids: Collection[EventId], starts: Collection[EventId]) -> set[EventId]:
        """Those of `event_ids` that are in the auth chain of one of `starts`.

        `starts` is only asked whether it has an event, never walked. *Precondition:* every event
        of `starts`, and of its chains, was added; it is enough to have those that were stored
        after the first of `event_ids`, where an event is stored after all that it cites.
        """
        return {
            event_id
            for event_id in event_ids
            if any(citing in starts for citing in self.citing([event_id]))
        }

    def citing(self, event_ids: Iterable[EventId]) -> Iterator[EventId]:
        """Each event that has one of `event_ids` in its auth chain, found as it is asked for."""
        seen: set[EventId] = set()
        stack = list(event_ids)
        while stack:
            for citing in self._citing.get(stack.pop(), ()):
                if citing not in seen:
                    seen.add(citing)
                    stack.append(citing)
                    yield citing


def between(ends: Collection[EventId], event: LoadEvent) -> set[EventId]:
    """As `AuthChains.between`, by a walk over all of the chains, down and up again."""
    targets = set(ends)
    chain = auth_chain(targets, event)
    citing = set(Citations(map(event, chain | targets)).citing(targets))
    return (chain & targets) | (citing & chain) | (citing & targets)


def _post_order(start: Iterable[EventId], event: LoadEvent) -> Iterator[EventId]:
    """Every event reachable from `start`, itself included, after all that it reaches."""
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
    """For each of `members`, those of them that it reaches, not counting what is reached only
    through another: the edges of the graph that they form when all between them is contracted.

    As `AuthChains.nearest`, by a walk over all of the chains.
    """
    nothing: frozenset[EventId] = frozenset()
    hits: dict[EventId, frozenset[EventId]] = {}
    # Sorted, as on a cycle the order decides.
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
    """`event_ids` so that each follows those of them that it points to; ties by given order.

    Events on or behind a cycle are left out.
    """
    position = {event_id: index for index, event_id in enumerate(event_ids)}
    return sorted_topologically(position, edges, lambda event_id: position[event_id])


def sorted_topologically(
    event_ids: Collection[EventId],
    edges: Callable[[EventId], Iterable[EventId]],
    sort_key: Callable[[EventId], _K],
) -> list[EventId]:
    """The lexicographically smallest order in which each event follows those that it points to.

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
    """A `LoadEvent` over events at hand."""

    def load(event_id: EventId) -> Event:
        found = events.get(event_id)
        if found is None:
            raise MissingEvent(event_id)
        return found

    return load
