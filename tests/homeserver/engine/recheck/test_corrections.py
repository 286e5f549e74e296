"""What changed verdicts do to a room: its rows, its heads, its current state; nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from homeserver.engine.entries import StateEntry
from homeserver.engine.log.staging import Correction, StagedEvent
from homeserver.engine.recheck.corrections import Corrections
from homeserver.engine.recheck.descendants import Descendants
from homeserver.engine.recheck.recheck import Recheck
from homeserver.engine.rooms.resolver import StateResolver
from homeserver.engine.rooms.room import Room
from homeserver.engine.rooms.snapshots import StateSnapshot
from homeserver.storage.timeline.events import Refusal, StoredVerdict
from tests.homeserver.engine.engine_world import ALICE, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    DAVE,
    Here,
    ban,
    enter,
    here,
    powers,
    room_of_bob,
    topic,
)
from tests.simulation.memory_store import MemoryStore

ACCEPTED, SOFT_FAILED, REJECTED = StoredVerdict

TOPIC = ("m.room.topic", "")
ERIN = UserId("@erin:hs3")


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


class Correcting:
    """Computes the corrections of a server's room, without storing any of them."""

    def __init__(self, server: Here) -> None:
        self.server = server
        self.store = MemoryStore(server.tables)
        self.settled: list[EventId] = []
        self.verdict: Accepted | SoftFailed = Accepted()
        engine = server.engine
        self._corrections = Corrections(
            self.store,
            engine.rooms,
            stager=engine.writer.stager,
            resolver=StateResolver(self.store, engine.rooms),
            take_row_id=engine.committer.numbers.take,
            settle=self._settle,
        )

    async def _settle(self, room: Room, event: Event) -> Accepted | SoftFailed:
        self.settled.append(event.event_id)
        return self.verdict

    async def recheck(
        self, event: Event, verdict: StoredVerdict, *, before: StateSnapshot | None = None
    ) -> Recheck:
        """A recheck of an event: with another state before it, or the stored one."""
        [row] = await self.store.events.by_id([event.event_id])
        stored = await self.state(self.server.row(event)["snapshot_before"])
        return Recheck(
            event,
            row,
            before or stored,
            verdict,
            Refusal("level_too_low: x", "level_too_low") if verdict == REJECTED else None,
            is_state_same=before is None,
            after=before,
        )

    async def state(self, snapshot: int) -> StateSnapshot:
        """A stored state."""
        rooms, room = self.server.engine.rooms, await self.server.room()
        chain = await rooms.chain(room, snapshot)
        return StateSnapshot(rooms.state_of(room, chain), chain)

    async def make(self, *rechecked: Recheck) -> tuple[Correction, list[StagedEvent]]:
        """The correction, and the events that arrive now; then the room is as before."""
        engine = self.server.engine
        room = await self.server.room()
        descendants = Descendants(self.store, room)
        await descendants.read([one.event_id for one in rechecked])
        await engine.committer.numbers.ready(50)
        async with engine.rooms.locked(self.server.room_id):
            correction = await self._corrections.make(room, rechecked, descendants)
            staged, unplaced = await self._corrections.place(room, rechecked, descendants)
            if unplaced:
                correction = msgspec.structs.replace(correction, rows=[*correction.rows, *unplaced])
            assert correction.view is None or staged or room.staged is correction.view
        room.watched = None
        room.named.clear()
        assert room.staged is room.view
        return correction, staged


def heads(correction: Correction) -> list[EventId]:
    assert correction.view is not None
    return [head.event_id for head in correction.view.heads]


def ids(events: Sequence[Event]) -> list[EventId]:
    return [one.event_id for one in events]


# Heads and current state


async def test_right_verdicts_change_nothing(server: Here) -> None:
    last = await room_of_bob(server)
    correcting = Correcting(server)
    right = await correcting.recheck(last, ACCEPTED)
    correction, staged = await correcting.make(right)
    assert correction == Correction()
    assert staged == []
    assert correction == (await correcting.make())[0]


async def test_a_rejected_head_gives_way_to_its_parent(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    named = graph.add(topic("x", BOB), last)
    erin = graph.add(enter(ERIN), named)
    await server.accept(named, erin)
    correcting = Correcting(server)
    wrong = await correcting.recheck(erin, REJECTED)
    correction, staged = await correcting.make(wrong)
    assert (heads(correction), staged) == ([named.event_id], [])
    view = correction.view
    assert view is not None
    assert {key: ref.event_id for key, ref in view.state.items()} == graph.before([named])
    assert view.live_index == (await server.room()).view.live_index  # its place stays taken
    assert isinstance(correction.entry, StateEntry)
    [change] = correction.entry.changes
    assert (change.key, change.event_id, change.former) == (("m.room.member", ERIN), None, "join")
    assert (correction.servers_left, correction.servers_joined) == (["hs3"], [])
    assert correction.cause == erin.event_id
    [row] = correction.rows
    assert (row.event_id, row.verdict, row.live_index) == (
        erin.event_id,
        REJECTED,
        None,
    )


async def test_a_parent_that_another_accepted_event_names_is_no_head(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    left, right = graph.add(message("left", BOB), last), graph.add(topic("right", BOB), last)
    await server.accept(left, right)
    correcting = Correcting(server)
    correction, _ = await correcting.make(await correcting.recheck(right, REJECTED))
    assert heads(correction) == [left.event_id]
    assert correction.view is not None
    assert TOPIC not in correction.view.state
    both = [await correcting.recheck(one, REJECTED) for one in (left, right)]
    correction, _ = await correcting.make(*both)
    assert heads(correction) == [last.event_id]


async def test_a_row_of_rejected_heads_goes_at_once(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    chain = [graph.add(topic("0", BOB), last)]
    for number in range(1, 4):
        chain.append(graph.add(topic(str(number), BOB), chain[-1]))
    await server.accept(*chain)
    correcting = Correcting(server)
    wrong = [await correcting.recheck(one, REJECTED) for one in chain]
    correction, _ = await correcting.make(*wrong)
    assert heads(correction) == [last.event_id]
    assert [row.event_id for row in correction.rows] == ids(chain)
    # What is built on one in the middle stays until its own verdict is made, in another step.
    correction, _ = await correcting.make(wrong[1])
    assert set(heads(correction)) == {chain[0].event_id, chain[3].event_id}
    number = server.row(chain[2])["event_row_id"]
    assert correction.rechecks.marked == [(server.room_row_id, number)]


async def test_a_room_keeps_a_head_for_its_next_event(server: Here) -> None:
    """The parents of the last head have no place here."""
    join = await server.join(ALICE, server.graph.begin())
    correcting = Correcting(server)
    correction, _ = await correcting.make(await correcting.recheck(join, REJECTED))
    assert correction.view is None
    assert [row.verdict for row in correction.rows] == [REJECTED]
    assert server.heads == {join.event_id}


async def test_a_head_with_another_state_brings_it_along(server: Here) -> None:
    """Its verdict is right; the state before it wasn't."""
    graph, last = server.graph, await room_of_bob(server)
    named = graph.add(topic("x", BOB), last)
    said = graph.add(message("y", BOB), named)
    await server.accept(named, said)
    correcting = Correcting(server)
    truth = await correcting.state(server.row(named)["snapshot_before"])
    correction, _ = await correcting.make(await correcting.recheck(said, ACCEPTED, before=truth))
    assert heads(correction) == [said.event_id]
    assert correction.view is not None
    assert correction.view.state == truth.state
    assert isinstance(correction.entry, StateEntry)
    assert [(one.key, one.event_id) for one in correction.entry.changes] == [(TOPIC, None)]
    [row] = correction.rows
    assert row.snapshot_before == row.snapshot_after == truth.chain[-1].row_id
    assert row.live_index == server.row(said)["live_index"]


async def test_a_correction_without_a_change_of_state_is_no_news(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    said = graph.add(message("x", BOB), last)
    await server.accept(said)
    correcting = Correcting(server)
    correction, _ = await correcting.make(await correcting.recheck(said, REJECTED))
    assert heads(correction) == [last.event_id]
    assert (correction.entry, correction.cause, correction.resolved) == (None, None, None)


# Descendants


async def test_what_a_changed_state_reaches_is_marked_and_waits_for_its_parents(
    server: Here,
) -> None:
    graph, last = server.graph, await room_of_bob(server)
    named, beside = graph.add(topic("x", BOB), last), graph.add(message("b", BOB), last)
    child = graph.add(message("child", CAROL), named, beside)
    grandchild = graph.add(message("grandchild", CAROL), child)
    await server.accept(named, beside, child, grandchild)
    correcting = Correcting(server)
    correction, _ = await correcting.make(await correcting.recheck(named, REJECTED))
    room, number = server.room_row_id, server.row(child)["event_row_id"]
    rechecks = correction.rechecks
    assert rechecks.marked == [(room, number)]
    assert rechecks.opened == [(room, one, number, False) for one in child.prev_events]
    # An event of the same step has its new verdict already.
    wrong = [await correcting.recheck(one, REJECTED) for one in (named, child)]
    correction, _ = await correcting.make(*wrong)
    assert correction.rechecks.marked == []


async def test_what_cites_an_event_with_another_verdict_is_marked(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    levels = graph.add(powers({CAROL: 50}), last)
    between = graph.add(message("between", BOB), levels)
    citing = graph.add(topic("carol's", CAROL), between)
    await server.accept(levels, between, citing)
    correcting = Correcting(server)
    correction, _ = await correcting.make(await correcting.recheck(levels, REJECTED))
    numbers = {server.row(one)["event_row_id"] for one in (between, citing)}
    assert {number for _, number in correction.rechecks.marked} == numbers


async def test_a_messages_verdict_marks_no_child(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    said = graph.add(message("x", BOB), last)
    await server.accept(said, graph.add(message("child", BOB), said))
    correcting = Correcting(server)
    correction, _ = await correcting.make(await correcting.recheck(said, REJECTED))
    assert correction.rechecks.marked == []
    assert correction.entry is None


# Events that arrive now


async def rejected_message(server: Here) -> Event:
    """A message of DAVE that was rejected, on the newest event; he wasn't in the room."""
    graph, last = server.graph, await room_of_bob(server)
    event = graph.add(message("x", DAVE), last)
    assert isinstance(await server.accept(event), Rejected)
    return event


async def test_an_event_that_is_allowed_after_all_arrives_now(server: Here) -> None:
    event = await rejected_message(server)
    correcting = Correcting(server)
    correction, [staged] = await correcting.make(await correcting.recheck(event, ACCEPTED))
    assert correcting.settled == [event.event_id]
    assert (correction.rows, correction.view) == ([], None)  # the staged event has its row
    row, view = staged.row, staged.view
    assert view is not None
    assert (row.event_row_id, row.verdict) == (
        server.row(event)["event_row_id"],
        ACCEPTED,
    )
    assert (row.live_index, row.to_federate, row.unverified) == (view.live_index, False, False)
    assert view.heads[-1].event_id == event.event_id
    assert staged.entry is not None


async def test_what_the_present_forbids_is_soft_failed(server: Here) -> None:
    event = await rejected_message(server)
    correcting = Correcting(server)
    failure = AuthFailure(AuthRule.SENDER_NOT_JOINED, "now")
    correcting.verdict = SoftFailed(failure)
    correction, staged = await correcting.make(await correcting.recheck(event, ACCEPTED))
    [row] = correction.rows
    assert (row.verdict, row.reason, row.live_index) == (
        SOFT_FAILED,
        str(failure),
        None,
    )
    assert staged == []


async def test_what_is_older_than_our_time_in_the_room_affects_only_states(server: Here) -> None:
    graph = server.graph
    begun = graph.begin()
    early = graph.add(message("early", DAVE), begun)
    later = [graph.add(enter(CAROL), begun)]
    join = await server.join(ALICE, later[0])
    history = [one for one in graph.events.values() if one not in (join, early)]
    await server.backfill(*history)
    await server.prove()
    assert isinstance(await server.accept(early), Rejected)
    correcting = Correcting(server)
    correction, staged = await correcting.make(await correcting.recheck(early, ACCEPTED))
    assert (staged, correcting.settled) == ([], [])
    [row] = correction.rows
    assert (row.verdict, row.live_index) == (ACCEPTED, None)


async def test_an_event_with_accepted_children_is_no_head(server: Here) -> None:
    event = await rejected_message(server)
    child = server.graph.add(message("child", BOB), event)
    assert await server.accept(child) == Accepted()
    correcting = Correcting(server)
    _, [staged] = await correcting.make(await correcting.recheck(event, ACCEPTED))
    assert staged.view is not None
    assert event.event_id not in {head.event_id for head in staged.view.heads}


async def test_an_event_whose_children_are_refused_too_is_a_head(server: Here) -> None:
    event = await rejected_message(server)
    child = server.graph.add(message("child", DAVE), event)
    assert isinstance(await server.accept(child), Rejected)
    last = server.graph.events[event.prev_events[0]]
    beside = server.graph.add(message("beside", BOB), last)
    assert await server.accept(beside) == Accepted()
    correcting = Correcting(server)
    _, [staged] = await correcting.make(await correcting.recheck(event, ACCEPTED))
    assert staged.view is not None
    assert [head.event_id for head in staged.view.heads] == [beside.event_id, event.event_id]


async def test_what_arrives_now_stands_on_the_corrected_room(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    banned = graph.add(ban(CAROL), last)
    said = graph.add(message("x", CAROL), banned)
    await server.accept(banned)
    assert isinstance(await server.accept(said), Rejected)
    correcting = Correcting(server)
    wrong = await correcting.recheck(banned, REJECTED)
    truth = await correcting.state(server.row(banned)["snapshot_before"])
    allowed = await correcting.recheck(said, ACCEPTED, before=truth)
    correction, [staged] = await correcting.make(wrong, allowed)
    assert heads(correction) == [last.event_id]
    assert staged.view is not None
    assert staged.view.state["m.room.member", CAROL].membership == "join"
    assert [head.event_id for head in staged.view.heads] == [last.event_id, said.event_id]
