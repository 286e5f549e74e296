"""Fetched history: which states its events get, which are refused, what is left open."""

from __future__ import annotations

import pytest

from federation.events.redaction import redact_event
from homeserver.engine.remote.places import SPACING
from homeserver.storage.timeline.events import StoredVerdict
from tests.homeserver.engine.engine_world import ALICE, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    ban,
    enter,
    here,
    powers,
    topic,
    unban,
)


async def test_event_that_its_state_refuses_is_kept_without_a_place() -> None:
    async with here() as server:
        graph = server.graph
        carol = graph.add(enter(CAROL), graph.begin(BOB))
        joined = graph.before([carol])
        banned = graph.add(ban(CAROL), carol)
        refused = graph.add(message("banned", CAROL), banned, cites=joined)
        last = graph.add(message("on", BOB), refused)
        join = await server.join(ALICE, last)
        await server.backfill(*(one for one in graph.events.values() if one is not join))
        row = server.row(refused)
        assert (row["verdict"], row["live_index"], row["outlier"]) == (
            StoredVerdict.REJECTED,
            None,
            False,
        )
        assert row["reason"].startswith("sender_not_joined")
        assert row["snapshot_before"] == row["snapshot_after"]
        fills = [
            row["gap_index"]
            for row in server.tables.events.values()
            if row["gap_index"] is not None
        ]
        assert sorted(fills) == [-SPACING * i for i in reversed(range(len(fills)))]
        await server.prove()
        assert server.unverified == set()
        server.check_current(join)
        await server.check()


async def test_event_that_its_auth_events_refuse_stays_refused() -> None:
    async with here() as server:
        graph = server.graph
        last = graph.add(message("first", BOB), graph.begin(BOB))
        join = await server.join(ALICE, last)
        history = [one for one in graph.events.values() if one is not join]
        for event in history:
            chain = graph.auth_chain(event.auth_events)
            await server.engine.remote_event_writer.store_outliers(chain, [])
        await server.engine.remote_event_writer.store_backfill(
            history, {}, rejected={last.event_id}
        )
        assert server.row(last)["verdict"] == StoredVerdict.REJECTED
        assert server.row(join)["verdict"] == StoredVerdict.ACCEPTED


async def test_open_end_without_a_word_of_its_own_is_placed_and_verified_later() -> None:
    async with here() as server:
        graph = server.graph
        first = graph.add(enter(CAROL), graph.begin(BOB))
        left = graph.add(powers({CAROL: 50}), first)
        right = graph.add(topic("bob's", BOB), first)
        on_left = graph.add(topic("carol's", CAROL), left)
        on_right = graph.add(message("right", BOB), right)
        merged = graph.add(message("merged", BOB), on_left, on_right)
        join = await server.join(ALICE, merged)
        remote_event_writer = server.engine.remote_event_writer
        word = graph.state_before(on_left)
        for event in (on_left, on_right, merged):
            await remote_event_writer.store_outliers(graph.auth_chain(event.auth_events), [])
        await remote_event_writer.store_outliers(graph.auth_chain(word.values()), [])
        chunk = [on_left, on_right, merged]
        await remote_event_writer.store_backfill(chunk, {on_left.event_id: word})
        ids = {one.event_id for one in (*chunk, join)}
        assert server.unverified == ids
        assert {missing for _, missing in server.tables.gaps} == {left.event_id, right.event_id}
        rest = [one for one in graph.events.values() if one.event_id not in ids]
        await server.backfill(*rest)
        await server.prove()
        assert server.unverified == set()
        server.check_current(join)
        await server.check()


async def test_history_that_comes_again_changes_nothing() -> None:
    async with here() as server:
        graph = server.graph
        carol = graph.add(enter(CAROL), graph.begin(BOB))
        forgiven = graph.add(unban(CAROL), graph.add(ban(CAROL), carol))
        join = await server.join(ALICE, forgiven)
        history = [one for one in graph.events.values() if one is not join]
        await server.backfill(*history)
        await server.prove()
        before = server.tables.copy()
        await server.backfill(*history)
        await server.prove()
        assert server.tables.events == before.events
        assert server.tables.snapshots == before.snapshots


async def test_two_parts_of_history_join_without_a_gap() -> None:
    async with here() as server:
        graph = server.graph
        last = graph.begin(BOB)
        for i in range(6):
            last = graph.add(topic(str(i), BOB), last)
        join = await server.join(ALICE, last)
        events = [one for one in graph.events.values() if one is not join]
        await server.backfill(*events[5:])
        await server.backfill(*events[:7])
        orders = [(server.row(one)["live_index"], server.row(one)["gap_index"]) for one in events]
        assert orders == sorted(orders)
        assert not server.tables.gaps
        await server.prove()
        assert server.unverified == set()
        await server.check()


@pytest.mark.parametrize("way", ["history", "live"])
async def test_a_redacted_copy_takes_nothing_from_what_is_stored(way: str) -> None:
    """Other servers cut history to what we may see; the state that a join brought was whole."""
    async with here() as server:
        graph = server.graph
        known = graph.add(topic("known", BOB), graph.begin())
        join = await server.join(ALICE, known)
        copy = redact_event(known)
        assert copy.content == {}
        if way == "history":
            await server.backfill(*[one for one in graph.oracle.order if one not in (known, join)])
            await server.backfill(copy)
        else:
            await server.accept_with(copy, graph.state_before(known))
        assert server.row(known)["live_index"] is not None
        stored = (await server.engine.rooms.events([known.event_id]))[known.event_id].event
        assert stored.raw == known.raw == server.row(known)["json"]
