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
from tests.homeserver.engine.history.history_world import BOB, Graph, Here, here
from tests.homeserver.engine.history.test_room_order import before, gaps, order_of
from tests.homeserver.services.test_visibility import seen_by
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


async def lived(server: Here, truth: Graph, rng: random.Random) -> None:
    """Hands the history in: while ALICE is in the room some of it live, some not at all; then the
    rest, in pieces, in any order of gaps."""
    server.graph = truth
    is_in, has_all = False, True
    events = truth.oracle.order
    for event in events:
        if event.sender == ALICE and event.membership == "join":
            await joined(server, event)
            is_in, has_all = True, True
        elif is_in and (event is events[-1] or event.sender == ALICE or rng.random() < 0.6):
            if has_all:
                await server.accept(event)
            else:
                await server.accept_with(event, truth.state_before(event))
            has_all = True
            is_in = event.sender != ALICE
        else:
            has_all = False
    for _ in range(CHUNKS_MAX):
        regions = gaps(server)
        if not regions:
            break
        missing: list[EventId] = regions[rng.choice(sorted(regions))]
        await server.backfill(*before(server, missing, rng.choice([1, 2, 5, 100])))
    await server.prove()


async def joined(server: Here, event: Event) -> None:
    """A join that is in the history already, through a server that tells the truth."""
    told = server.graph.state_before(event)
    events = [server.graph.events[one] for one in told.values()]
    chain = server.graph.auth_chain([*told.values(), *event.auth_events])
    room = JoinedRoom(server.room_id, server.graph.version, event, events, chain)
    await server.engine.residents.import_join(room)


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
