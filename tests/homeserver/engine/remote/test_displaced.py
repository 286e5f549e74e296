"""What was fetched first and turns out to have descendants further down moves below them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.event import Event
from homeserver import limits
from tests.homeserver.engine.engine_world import ALICE, message
from tests.homeserver.engine.history_world import BOB, Graph, Here, here
from tests.homeserver.engine.remote.test_room_order import order_of


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


def say(graph: Graph, body: str, *parents: Event) -> Event:
    return graph.add(message(body, BOB), *parents)


async def two_gaps(server: Here, ancestors: int) -> tuple[list[Event], Event, Event]:
    """A chain of missing events; `early`, here, follows on one more, which is missing too, `late`,
    here as well, on the chain's end itself, and so does what is fetched through it first."""
    graph = server.graph
    last = await server.join(ALICE, graph.begin())
    chain = [last]
    for number in range(ancestors):
        chain.append(say(graph, f"chain {number}", chain[-1]))
    between = say(graph, "between", chain[-1])
    early = say(graph, "early", between)
    await server.accept_with(early, graph.state_before(early))
    late = say(graph, "late", chain[-1], early)
    await server.accept_with(late, graph.state_before(late))
    return chain[1:], between, early


async def test_an_ancestor_moves_below_what_came_through_another_gap(server: Here) -> None:
    chain, between, early = await two_gaps(server, 3)
    # The newest of the chain is fetched for `late`, without what lies between it and `early`.
    await server.backfill(chain[-1])
    order = await order_of(server)
    assert order.index(chain[-1].event_id) > order.index(early.event_id)
    await server.backfill(chain[1], between)
    await server.backfill(chain[0])
    wanted = [*chain, between, early]
    assert (await order_of(server))[-5:-1] == [one.event_id for one in wanted][-4:]
    assert list(server.tables.gaps.values()) == [(1, 0)], "what came before the join"
    await server.prove()
    await server.check()


async def test_the_gap_below_moves_along(server: Here) -> None:
    chain, between, early = await two_gaps(server, 2)
    await server.backfill(chain[-1])
    before = server.tables.gaps[server.room_row_id, chain[0].event_id]
    await server.backfill(between)
    row = server.row(chain[-1])
    assert (row["live_index"], row["gap_index"]) < (server.row(early)["live_index"], 0)
    after = server.tables.gaps[server.room_row_id, chain[0].event_id]
    assert after == (row["live_index"], row["gap_index"]) < before


@pytest.mark.parametrize(("bound", "moves"), [(2, False), (100, True)])
async def test_so_many_ancestors_are_looked_at(
    server: Here, monkeypatch: pytest.MonkeyPatch, bound: int, moves: bool
) -> None:
    monkeypatch.setattr(limits, "HISTORY_ANCESTORS_LOOKED_AT", bound)
    chain, between, early = await two_gaps(server, 12)
    for event in reversed(chain[1:]):
        await server.backfill(event)
    await server.backfill(between)
    order = await order_of(server)
    is_below = order.index(chain[1].event_id) < order.index(early.event_id)
    assert is_below is moves
    assert sorted(order) == sorted(one for one in server.graph.events if one in order)
