"""However one history is cut into live parts, gaps and absences, and whatever is fetched first: the
order, the redactions and what a reader sees are the same in the end, and the graph's."""

from __future__ import annotations

import random

import pytest

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.building import EventDraft
from federation.ports import JoinedRoom
from tests.homeserver.engine.engine_world import ALICE, V12, draft, message
from tests.homeserver.engine.history_world import BOB, Graph, Here, here
from tests.homeserver.engine.remote.test_room_order import before, gaps, order_of
from tests.homeserver.services.timeline.test_visibility import seen_by
from tests.visibility.model import Model, Verdict

SETTINGS = ("world_readable", "shared", "invited", "joined")
CHUNKS_MAX = 200


def member(membership: str) -> EventDraft:
    return draft("m.room.member", {"membership": membership}, ALICE, sender=ALICE)


def something(rng: random.Random, said: list[Event], number: int) -> EventDraft:
    """A message, a redaction of one, or another visibility."""
    kind = rng.random()
    if kind < 0.25:
        content: dict[str, object] = {"history_visibility": rng.choice(SETTINGS)}
        return draft("m.room.history_visibility", content, "", sender=BOB)
    if kind < 0.45 and said:
        target = rng.choice(said).event_id
        return EventDraft("m.room.redaction", BOB, {"redacts": target}, None, target)
    return message(str(number), BOB)


def history(rng: random.Random) -> Graph:
    """ALICE comes and goes; BOB is always there."""
    graph = Graph()
    last, said = graph.begin(), list[Event]()
    for stay in range(3):
        for membership in ("join", "leave"):
            for number in range(rng.randrange(1, 5)):
                last = graph.add(something(rng, said, number), last)
                if last.type == "m.room.message":
                    said.append(last)
            if (stay, membership) != (2, "leave"):
                last = graph.add(member(membership), last)
    return graph


def forked(rng: random.Random) -> Graph:
    """As `history`, with forks, which a membership of ALICE merges."""
    graph = Graph()
    last, said = graph.begin(), list[Event]()
    for stay in range(3):
        for membership in ("join", "leave"):
            ends = [last]
            for number in range(rng.randrange(2, 12)):
                parents = rng.sample(ends, min(len(ends), rng.choice([1, 1, 1, 2, 3])))
                event = graph.add(something(rng, said, number), *parents)
                if event.type == "m.room.message":
                    said.append(event)
                keeps_open = rng.random() < 0.45
                ends = [*(one for one in ends if keeps_open or one not in parents), event]
            is_end = (stay, membership) == (2, "leave")
            last = graph.add(message("end", BOB) if is_end else member(membership), *ends)
    return graph


async def lived(
    server: Here, truth: Graph, rng: random.Random, *, live: float = 0.6, late: float = 0.0
) -> None:
    """Hands the history in: while ALICE is in the room some of it live, some not at all; now and
    then a piece is fetched; then the rest, in pieces, in any order of gaps. `late`: how much of
    what is missing comes live after all."""
    server.graph = truth
    is_in = False
    events = truth.oracle.order
    for event in events:
        if event.sender == ALICE and event.membership == "join":
            await joined(server, event)
            is_in = True
        elif is_in and (event is events[-1] or event.sender == ALICE or rng.random() < live):
            if all(is_placed(server, parent) for parent in event.prev_events):
                await server.accept(event)
            else:
                await server.accept_with(event, truth.state_before(event))
            is_in = event.sender != ALICE
        if is_in and rng.random() < 0.3:
            await fetched(server, rng)
        named = sorted(one for region in gaps(server).values() for one in region)
        missing = [one for one in named if truth.events[one].prev_events]
        if is_in and missing and rng.random() < late:
            came = truth.events[rng.choice(missing)]
            if all(is_placed(server, parent) for parent in came.prev_events):
                await server.accept(came)
            else:
                await server.accept_with(came, truth.state_before(came))
    for _ in range(CHUNKS_MAX):
        if not await fetched(server, rng):
            break
    await server.prove()


def is_placed(server: Here, event_id: EventId) -> bool:
    row = server.tables.events.get(event_id)
    return row is not None and not row["outlier"]


async def fetched(server: Here, rng: random.Random) -> bool:
    """A piece of what is missing below one event; False where nothing is."""
    regions = gaps(server)
    if not regions:
        return False
    missing: list[EventId] = regions[rng.choice(sorted(regions))]
    await server.backfill(*before(server, missing, rng.choice([1, 2, 5, 100])))
    return True


async def joined(server: Here, event: Event) -> None:
    """A join that is in the history already, through a server that tells the truth."""
    told = server.graph.state_before(event)
    events = [server.graph.events[one] for one in told.values()]
    chain = server.graph.auth_chain([*told.values(), *event.auth_events])
    room = JoinedRoom(server.room_id, server.graph.version, event, events, chain)
    await server.engine.remote_event_writer.import_join(room)


@pytest.mark.parametrize("seed", range(20))
async def test_any_split_of_a_history_ends_the_same(seed: int) -> None:
    truth = history(random.Random(seed))
    model = Model(V12, truth.events)
    redacted = {one.redacts for one in truth.events.values() if one.type == "m.room.redaction"}
    order = [one.event_id for one in model.oracle.order]
    shown = {
        one.event_id
        for one in model.oracle.order
        if model.verdict(one, ALICE, is_joined=True) is Verdict.SHOW
    }
    for split in range(3):
        async with here() as server:
            await lived(server, truth, random.Random(f"{seed} {split}"))
            assert await order_of(server) == order
            rows = server.tables.events
            assert {one for one, row in rows.items() if row["redacted_by"]} == redacted
            assert set(await seen_by(server, ALICE)) == shown


@pytest.mark.parametrize("seed", range(40))
async def test_any_split_of_a_history_with_forks_keeps_the_graphs_order(seed: int) -> None:
    """What was fetched through one gap may have descendants that come through another."""
    truth = forked(random.Random(seed))
    model = Model(V12, truth.events)
    redacted = {one.redacts for one in truth.events.values() if one.type == "m.room.redaction"}
    shown = {
        one.event_id
        for one in model.oracle.order
        if model.verdict(one, ALICE, is_joined=True) is Verdict.SHOW
    }
    for live in (0.2, 0.4, 0.6):
        async with here() as server:
            await lived(server, truth, random.Random(f"{seed} {live}"), live=live)
            order = await order_of(server)
            assert sorted(order) == sorted(truth.events)
            place = {event_id: number for number, event_id in enumerate(order)}
            for event in truth.events.values():
                for parent in event.prev_events:
                    assert place[parent] < place[event.event_id], (event.content, event.depth)
            rows = server.tables.events
            assert {one for one, row in rows.items() if row["redacted_by"]} == redacted
            assert set(await seen_by(server, ALICE)) == shown
            await server.check()


@pytest.mark.parametrize("seed", range(10))
async def test_what_comes_live_after_its_descendants_loses_nothing(seed: int) -> None:
    """It stands where clients were told of it, and so not where the graph would have it."""
    truth = forked(random.Random(seed))
    for live in (0.2, 0.5):
        async with here() as server:
            await lived(server, truth, random.Random(f"{seed} {live}"), live=live, late=0.5)
            assert sorted(await order_of(server)) == sorted(truth.events)
            await server.check()
