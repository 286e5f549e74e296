"""Walks over the graph that `auth_events` makes (spec: room version 2 and 12, "State
resolution", definitions).

Rules:
1. Nothing recurses: chains are as long as rooms are old.
2. An event that isn't loaded is reported with all its kind (`MissingEvents`), so that the caller
   loads many at once rather than one per attempt.
3. The *auth sets* that the auth difference compares hold the state events themselves beside their
   chains, as the most widely deployed server has it; the text, read to the letter, leaves them
   out. The two differ in whether an unconflicted state event that only some chains hold is
   replayed too, which changes the result of about 1 in 250 small random rooms full of conflicts.
   Rooms must agree with what is deployed; and the chains of unconflicted state need no walk in
   all but rare cases.
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


def auth_chain(
    event_ids: Iterable[EventId], event: LoadEvent, *, stop: Collection[EventId] = frozenset()
) -> set[EventId]:
    """All events reached from `event_ids` by `auth_events`; these are in it only when reached.

    Events of `stop` are included when reached, but not walked through. Raises MissingEvent.
    """
    chain: set[EventId] = set()
    layer = set(event_ids)
    while layer:
        loaded = load_all(layer, event)
        reached: set[EventId] = set()
        for found in loaded.values():
            reached.update(found.auth_events)
        reached -= chain
        chain |= reached
        layer = reached.difference(stop) if stop else reached
    return chain


def auth_difference(
    conflicted: Sequence[Collection[EventId]],
    unconflicted: Collection[EventId],
    event: LoadEvent,
    *,
    reached: Reached | None = None,
) -> set[EventId]:
    """The events beside the states' own that are in some of their auth sets, but not in all.

    `conflicted`: per state, its conflicted events, which belong to the full conflicted set
    anyway and are left out; `unconflicted`: the events of all states (rule 3 above). The chains
    of `unconflicted` are walked only while there are events left that they decide; with
    `reached` they aren't walked at all.
    """
    auth_sets = [auth_chain(ids, event) | set(ids) for ids in conflicted]
    if len(auth_sets) < 2:
        return set()
    everywhere = auth_sets[0].intersection(*auth_sets[1:])
    candidates = auth_sets[0].union(*auth_sets[1:]) - everywhere
    candidates.difference_update(*conflicted)
    candidates = {event_id for event_id in candidates if event_id not in unconflicted}
    if not candidates:
        return candidates
    if reached is not None:
        return candidates.difference(reached(candidates, unconflicted))
    return _without_reached(candidates, unconflicted, event)


def _without_reached(
    candidates: set[EventId], start: Collection[EventId], event: LoadEvent
) -> set[EventId]:
    """Those of `candidates` that no chain of `start` reaches; ends when none is left."""
    seen: set[EventId] = set(start)
    layer: set[EventId] = seen.copy()
    while layer and candidates:
        reached: set[EventId] = set()
        for found in load_all(layer, event).values():
            reached.update(found.auth_events)
        reached -= seen
        candidates -= reached
        seen |= reached
        layer = reached
    return candidates


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
        return {event_id for event_id in event_ids if self._leads_to(event_id, starts)}

    def _leads_to(self, event_id: EventId, starts: Collection[EventId]) -> bool:
        seen: set[EventId] = set()
        stack = [event_id]
        while stack:
            for citing in self._citing.get(stack.pop(), ()):
                if citing in starts:
                    return True
                if citing not in seen:
                    seen.add(citing)
                    stack.append(citing)
        return False


def conflicted_subgraph(conflicted: Collection[EventId], event: LoadEvent) -> set[EventId]:
    """All events on a path of `auth_events` between two conflicted ones, ends included.

    Spec: room version 12, "Conflicted state subgraph". Raises MissingEvent.
    """
    targets = set(conflicted)
    chain = auth_chain(targets, event)
    # An event is on such a path when it is reached from one (it is in the chain, or conflicted
    # itself) and reaches one.
    leads: dict[EventId, bool] = {}
    for event_id in _post_order(targets, event):
        leads[event_id] = any(
            parent in targets or leads.get(parent, False) for parent in event(event_id).auth_events
        )
    between = {event_id for event_id in chain if leads.get(event_id) or event_id in targets}
    ends = {event_id for event_id in targets if leads.get(event_id)}
    return between | ends


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


def nearest_members(
    start: Collection[EventId], members: Collection[EventId], event: LoadEvent
) -> dict[EventId, frozenset[EventId]]:
    """For each event of `start`, the events of `members` that it reaches, not counting what is
    reached only through another member.

    The edges of the graph that `members` form when everything between them is contracted.
    """
    nothing: frozenset[EventId] = frozenset()
    hits: dict[EventId, frozenset[EventId]] = {}
    for event_id in _post_order(start, event):
        found: set[EventId] = set()
        for parent in event(event_id).auth_events:
            if parent in members:
                found.add(parent)
            else:
                found |= hits.get(parent, nothing)
        hits[event_id] = frozenset(found) if found else nothing
    return {event_id: hits[event_id] for event_id in start}


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
