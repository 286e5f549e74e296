"""Verdicts on another server's word, made again: lies, honest gaps, forks, crashes, bounds."""

from __future__ import annotations

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.admission import Accepted, Rejected
from homeserver.engine.entries import EventEntry, StateEntry
from homeserver.engine.log import Placed
from homeserver.storage.events import ACCEPTED, REJECTED
from tests.homeserver.engine.history.history_world import (
    ALICE,
    BOB,
    CAROL,
    Graph,
    Here,
    ban,
    enter,
    here,
    message,
    topic,
)


async def room_of_bob(server: Here) -> Event:
    """BOB's room with CAROL in it, which ALICE, of this server, joined with the true state; all of
    its history is here. Returns the newest event."""
    graph = server.graph
    carol = graph.add(enter(CAROL), graph.begin())
    join = await server.join(ALICE, carol)
    history = [one for one in graph.events.values() if one is not join]
    await server.backfill(*history)
    await server.prove()
    assert server.unproven == set()
    return join


def log_of(server: Here) -> list[Placed]:
    """What is committed from now on."""
    seen: list[Placed] = []
    server.engine.committer.subscribe(seen.extend)
    return seen


async def test_event_accepted_on_a_lie_is_rejected_when_the_gap_closes() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        banned = graph.add(ban(CAROL), last)
        lie = graph.before([last])
        late = graph.add(topic("carol was here", CAROL), banned, cites=lie)
        powerless = {**lie}
        assert await server.accept_with(late, powerless) != Accepted()  # she has no power anyway
        said = graph.add(message("still here", CAROL), banned, cites=lie)
        assert await server.accept_with(said, lie) == Accepted()
        assert server.row(said)["unproven"]
        await server.accept(banned)
        seen = log_of(server)
        await server.prove()
        assert server.row(said)["verdict"] == REJECTED
        assert server.row(said)["n"] is None
        assert server.unproven == set()
        server.check_current(banned)
        await server.check()
        [correction] = seen
        assert isinstance(correction.entry, StateEntry)
        [change] = correction.entry.changes
        assert (change.key, change.membership) == (("m.room.member", CAROL), "ban")
        assert server.metrics.counts["room_proofs"] >= 1


async def test_honest_gap_loses_its_marks_and_changes_nothing_else() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(topic("in the gap", BOB), last)
        said = graph.add(message("after the gap", CAROL), named)
        assert await server.accept_with(said, graph.state_before(said)) == Accepted()
        await server.accept(named)
        before, seen = server.row(said).copy(), log_of(server)
        await server.prove()
        assert server.row(said) == {**before, "unproven": False}
        assert seen == []
        server.check_current(said)
        await server.check()


async def test_event_rejected_on_a_lie_is_accepted_and_shown_when_the_gap_closes() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        levels = graph.add(_powers({CAROL: 50}), last)
        change = graph.add(topic("carol's", CAROL), levels)
        lie = graph.before([last])
        assert isinstance(await server.accept_with(change, lie), Rejected)
        await server.accept(levels)
        seen = log_of(server)
        await server.prove()
        row = server.row(change)
        assert (row["verdict"], row["reason"], row["unproven"]) == (ACCEPTED, None, False)
        [shown] = seen
        assert isinstance(shown.entry, EventEntry)
        assert shown.entry.event.event_id == change.event_id
        assert row["position"] == shown.position
        server.check_current(change)
        await server.check()


def _powers(users: dict[str, int]):  # type: ignore[no-untyped-def]
    from tests.homeserver.engine.engine_world import draft

    return draft("m.room.power_levels", {"users": users}, "", sender=BOB)
