"""Room order follows the graph, however history is cut into chunks and whatever comes first."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.rooms.reader import BEGINNING, event_entry
from tests.homeserver.engine.engine_world import ALICE, draft, message
from tests.homeserver.engine.history_world import BOB, Graph, Here, here

CHUNKS_MAX = 200


def grown(rng: random.Random, graph: Graph, last: Event, count: int) -> Event:
    """Messages after `last`, with forks that are merged again; the last of all."""
    ends = [last]
    for number in range(count):
        parents = rng.sample(ends, min(len(ends), rng.choice([1, 1, 1, 2, 3])))
        event = graph.add(message(str(number), BOB), *parents)
        keeps_open = rng.random() < 0.25
        ends = [one for one in ends if keeps_open or one not in parents]
        ends = [*ends[-4:], event]
    return graph.add(message("end", BOB), *ends)


async def order_of(server: Here) -> list[EventId]:
    room = await server.room()
    found = await server.engine.reader.page(room, start=BEGINNING, backwards=False, limit=10_000)
    return [event_entry(placed).event.event_id for placed in found]


def gaps(server: Here) -> dict[int, list[EventId]]:
    """The missing events, by the live event below which they are missing."""
    regions: dict[int, list[EventId]] = {}
    for (_, missing), (n, _) in server.tables.gaps.items():
        regions.setdefault(n, []).append(EventId(missing))
    return regions


def before(server: Here, missing: Sequence[EventId], limit: int) -> list[Event]:
    """What an honest server answers: the deepest ancestors first, parents first in the result."""
    found: dict[EventId, Event] = {}
    work = list(missing)
    while work:
        event_id = work.pop()
        row = server.tables.events.get(event_id)
        if event_id not in found and (row is None or row["outlier"]):
            found[event_id] = server.graph.events[event_id]
            work += found[event_id].prev_events
    deepest = sorted(found.values(), key=lambda one: (-one.depth, one.event_id))[:limit]
    return [one for one in server.graph.oracle.order if one in deepest]


@pytest.mark.parametrize("seed", range(25))
async def test_no_event_stands_before_an_ancestor(seed: int) -> None:
    rng = random.Random(seed)
    async with here() as server:
        graph = server.graph
        last = graph.begin()
        for absence in range(rng.choice([1, 2, 3])):
            last = await server.join(ALICE, grown(rng, graph, last, rng.randrange(1, 12)))
            if absence or rng.random() < 0.5:
                said = graph.add(message("here", BOB), last)
                await server.accept(said)
                last = said
            what = draft("m.room.member", {"membership": "leave"}, ALICE, sender=ALICE)
            last = graph.add(what, last)
            await server.accept(last)
        await server.join(ALICE, grown(rng, graph, last, rng.randrange(1, 12)))
        for _ in range(CHUNKS_MAX):
            regions = gaps(server)
            if not regions:
                break
            region = rng.choice(sorted(regions))
            await server.backfill(*before(server, regions[region], rng.choice([1, 2, 3, 5, 100])))
        order = await order_of(server)
        assert sorted(order) == sorted(graph.events)
        places = {event_id: place for place, event_id in enumerate(order)}
        for event in graph.events.values():
            for parent in event.prev_events:
                assert places[parent] < places[event.event_id], (event.content, event.depth)


async def test_where_no_room_is_left_history_goes_below_all_of_its_region() -> None:
    async with here() as server:
        graph = server.graph
        start = graph.begin()
        one = graph.add(message("one", BOB), start)
        aside = graph.add(message("aside", BOB), start)
        await server.join(ALICE, one, aside)
        await server.backfill(*[event for event in graph.oracle.order if event in (start, one)])
        start_row, one_row = server.row(start), server.row(one)
        one_row["gap_index"] = start_row["gap_index"] + 1
        gap = (server.room_row_id, aside.event_id)
        server.tables.gaps[gap] = (one_row["live_index"], one_row["gap_index"])
        await server.backfill(aside)
        fills = [
            row["gap_index"]
            for row in server.tables.events.values()
            if row["gap_index"] is not None
        ]
        assert server.row(aside)["gap_index"] == min(fills)


async def test_what_may_have_missing_descendants_further_down_goes_below_them() -> None:
    """`lower` stands below `upper` and names what is missing, which descends from `shared`."""
    async with here() as server:
        graph = server.graph
        shared = graph.add(message("shared", BOB), graph.begin())
        missing = graph.add(message("missing", BOB), shared)
        lower = graph.add(message("lower", BOB), missing)
        upper = graph.add(message("upper", BOB), shared)
        await server.join(ALICE, lower, upper)
        await server.backfill(lower)
        await server.backfill(upper)
        assert (await order_of(server))[:2] == [lower.event_id, upper.event_id]
        history = graph.oracle.order
        await server.backfill(*history[: history.index(shared) + 1])
        await server.backfill(missing)
        order = await order_of(server)
        wanted = [shared, missing, lower, upper]
        assert order[-5:-1] == [one.event_id for one in wanted]


@pytest.mark.parametrize(("not_due", "expected"), [(3, ["one", "aside"]), (2, ["aside", "one"])])
async def test_past_a_number_of_gaps_there_may_be_one_everywhere(
    monkeypatch: pytest.MonkeyPatch, not_due: int, expected: list[str]
) -> None:
    """Two events name missing ones: the join, and the first that came of history. What is known to
    lack nothing stands right below what names it, else right above what it names."""
    monkeypatch.setattr(limits, "GAPS_LOOKED_AT", not_due)
    async with here() as server:
        graph = server.graph
        start = graph.begin()
        named = {name: graph.add(message(name, BOB), start) for name in ("one", "aside")}
        await server.join(ALICE, *named.values())
        await server.backfill(
            *[event for event in graph.oracle.order if event in (start, named["one"])]
        )
        await server.backfill(named["aside"])
        order = await order_of(server)
        assert order[-3:-1] == [named[name].event_id for name in expected]
