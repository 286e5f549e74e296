"""Auth graphs of bare events: drawn by hand, or at random, with what each event reaches."""

from __future__ import annotations

import random
from collections.abc import Mapping

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.events.room_versions import room_version
from federation.graph.resolution import chains
from federation.graph.resolution.chains import LoadEvent

V11 = room_version("11")
LEVELS: tuple[str, str | None] = ("m.room.power_levels", "")
# The last two look like power levels and aren't.
KEYS: tuple[tuple[str, str | None], ...] = (
    LEVELS,
    ("m.room.member", "@a:a"),
    ("m.room.member", "@b:b"),
    ("m.room.power_levels", None),
    ("m.room.power_levels", "x"),
)


def bare(
    event_id: EventId, auth_events: tuple[EventId, ...], key: tuple[str, str | None] = ("x", "")
) -> Event:
    """Returns an event of which nothing matters but what it cites and what it is about."""
    return Event(
        event_id=event_id,
        room_id=RoomId("!r:a"),
        type=key[0],
        sender=UserId("@a:a"),
        state_key=key[1],
        content={},
        prev_events=(),
        auth_events=auth_events,
        depth=1,
        origin_server_ts=1,
        redacts=None,
        version=V11,
        raw=b"",
    )


def graph(
    edges: Mapping[EventId, tuple[EventId, ...]], key: tuple[str, str | None] = ("x", "")
) -> LoadEvent:
    """Loads bare events, all about one thing, that cite so."""
    return chains.loader(
        {event_id: bare(event_id, cited, key) for event_id, cited in edges.items()}
    )


class RandomGraph:
    """An auth graph that grew at random: events of few keys, that cite up to four before them, the
    late ones more often, at times several of a key; forks, and many roots. With `cycles` some
    cite what comes after them, or themselves."""

    def __init__(self, seed: int, size: int, *, cycles: bool = False) -> None:
        self.random = random.Random(seed)
        self.ids = [EventId(f"${number}") for number in range(size)]
        self.random.shuffle(self.ids)
        self.events: dict[EventId, Event] = {}
        for number, event_id in enumerate(self.ids):
            reach = self.random.choice((3, 8, size))
            before = self.ids[max(0, number - reach) : number]
            cited = self.random.sample(before, min(self.random.randrange(5), len(before)))
            if cycles and self.random.random() < 0.1:
                cited.append(self.random.choice(self.ids[number:]))
            self.events[event_id] = bare(event_id, tuple(cited), self.random.choice(KEYS))
        self.reached = {event_id: self._reached(event_id) for event_id in self.ids}

    def _reached(self, event_id: EventId) -> set[EventId]:
        """Returns an event's auth chain, by the definition."""
        found: set[EventId] = set()
        left = [event_id]
        while left:
            for cited in self.events[left.pop()].auth_events:
                if cited not in found:
                    found.add(cited)
                    left.append(cited)
        return found

    def paths(self, ends: set[EventId]) -> set[EventId]:
        """Returns all events on a path from one of `ends` to another, or round to itself."""
        found: set[EventId] = set()
        for start in ends:
            for end in ends & self.reached[start]:
                found |= {start, end}
                found |= {one for one in self.reached[start] if end in self.reached[one]}
        return found

    def pick(self, count: int) -> set[EventId]:
        """Up to so many events."""
        return set(self.random.choices(self.ids, k=count))


def woven(size: int, lines: int) -> dict[EventId, Event]:
    """Events on so many lines, each citing the one before on its own and nine of others."""
    made: dict[EventId, Event] = {}
    tops: dict[int, EventId] = {}
    chance = random.Random(lines)
    for number in range(size):
        own = chance.randrange(lines)
        cited = {own, *chance.sample(range(lines), min(9, lines))} & tops.keys()
        event_id = EventId(f"$woven{number}")
        parents = tuple(tops[line] for line in sorted(cited))
        made[event_id] = bare(event_id, parents, ("m.room.member", f"@{own}:a"))
        tops[own] = event_id
    return made
