"""A recheck beside what is stored: what it changes, and the row to write."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from federation.events.event import Event
from federation.graph.admission import Accepted, Rejected, SoftFailed
from homeserver.engine.recheck.recheck import Recheck
from homeserver.engine.rooms.snapshots import StateSnapshot
from homeserver.storage.timeline.events import Refusal, StoredVerdict
from tests.homeserver.engine.engine_world import message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    Here,
    ban,
    here,
    powers,
    room_of_bob,
    topic,
)
from tests.simulation.memory_store import MemoryStore

ACCEPTED, SOFT_FAILED, REJECTED = StoredVerdict


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


async def recheck_of(
    server: Here,
    event: Event,
    verdict: StoredVerdict,
    *,
    is_state_same: bool = True,
    reason: str | None = None,
    has_after: bool = True,
) -> Recheck:
    """A recheck of a stored event, by the current state."""
    [row] = await MemoryStore(server.tables).events.by_id([event.event_id])
    view = (await server.room()).view
    before = StateSnapshot(view.state, view.chain)
    after = before if has_after else None
    refusal = Refusal(reason) if reason else None
    return Recheck(event, row, before, verdict, refusal, is_state_same, after)


async def stored(server: Here) -> dict[StoredVerdict, tuple[Event, Event]]:
    """Events by their stored verdict: a message and a topic of each."""
    graph, last = server.graph, await room_of_bob(server)
    levels = graph.add(powers({CAROL: 50}), last)
    accepted = [said := graph.add(message("m", CAROL), levels), graph.add(topic("t", CAROL), said)]
    assert await server.accept(levels, *accepted) == Accepted()
    banned = graph.add(ban(CAROL), accepted[1])
    await server.accept(banned)
    soft = [graph.add(message("late", CAROL), accepted[1]), graph.add(topic("late", CAROL), said)]
    for event in soft:
        assert isinstance(await server.accept(event), SoftFailed)
    rejected = [graph.add(message("no", CAROL), banned), graph.add(topic("no", CAROL), banned)]
    for event in rejected:
        assert isinstance(await server.accept(event), Rejected)
    return {
        ACCEPTED: (accepted[0], accepted[1]),
        SOFT_FAILED: (soft[0], soft[1]),
        REJECTED: (rejected[0], rejected[1]),
    }


async def test_what_changes_between_rejected_and_not(server: Here) -> None:
    events = await stored(server)
    for was, now, is_changed in (
        (ACCEPTED, ACCEPTED, False),
        (SOFT_FAILED, SOFT_FAILED, False),
        (REJECTED, REJECTED, False),
        (ACCEPTED, REJECTED, True),
        (SOFT_FAILED, REJECTED, True),
        (REJECTED, ACCEPTED, True),
    ):
        for event in events[was]:
            for is_state_same in (True, False):
                one = await recheck_of(server, event, now, is_state_same=is_state_same)
                case = (was, now, event.type, is_state_same)
                assert one.is_verdict_changed == is_changed, case
                assert one.is_same == (is_state_same and not is_changed), case
                assert one.is_newly_rejected == (is_changed and now == REJECTED), case
                assert one.is_newly_accepted == (is_changed and now == ACCEPTED), case
                # A message's verdict changes no state after it.
                affects = not is_state_same or (is_changed and event.is_state)
                assert one.changes_descendants == affects, case
                assert one.event_id == event.event_id
                assert one.row_id == server.row(event)["event_row_id"]


async def test_the_row_of_a_rejected_event_loses_its_place(server: Here) -> None:
    said, _ = (await stored(server))[ACCEPTED]
    one = await recheck_of(server, said, REJECTED, reason="level_too_low: x")
    row, was = one.corrected_row(), server.row(said)
    assert (row.verdict, row.reason, row.unverified) == (
        REJECTED,
        "level_too_low: x",
        False,
    )
    assert was["live_index"] is not None
    assert (row.position, row.live_index, row.gap_index) == (None, None, None)
    kept = ("event_row_id", "room_row_id", "event_id", "type", "sender", "to_federate", "json")
    assert [getattr(row, name) for name in kept] == [was[name] for name in kept]


async def test_the_row_of_an_event_with_another_state_keeps_its_place(server: Here) -> None:
    _, named = (await stored(server))[ACCEPTED]
    newer = server.graph.add(topic("newer", BOB), server.graph.events[next(iter(server.heads))])
    await server.accept(newer)
    was = server.row(named)
    assert was["replaces"] is None
    one = await recheck_of(server, named, ACCEPTED, is_state_same=False)
    row = one.corrected_row()
    number = one.before.chain[-1].row_id
    assert (row.snapshot_before, row.snapshot_after) == (number, number)
    assert number != was["snapshot_before"]
    # What it replaces is what the state before it has.
    assert row.replaces == newer.event_id
    place = (was["position"], was["live_index"], was["gap_index"])
    assert (row.position, row.live_index, row.gap_index) == place
    assert (row.verdict, row.reason) == (ACCEPTED, None)


async def test_without_a_state_after_it_the_one_before_it_stands(server: Here) -> None:
    said, _ = (await stored(server))[ACCEPTED]
    one = await recheck_of(server, said, ACCEPTED, is_state_same=False, has_after=False)
    row = one.corrected_row()
    assert row.snapshot_after == row.snapshot_before == one.before.chain[-1].row_id
    assert row.replaces is None
