"""Verdicts on another server's word, made again: lies, honest gaps, forks, crashes, bounds."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from federation.errors import MatrixError
from federation.graph.admission import Accepted, Rejected, SoftFailed
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateEntry
from homeserver.engine.log.committer import OutcomeUnknown
from homeserver.engine.rooms.reader import event_entry
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.timeline.events import StoredVerdict
from tests.homeserver.counted import counted
from tests.homeserver.engine.engine_world import ALICE, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    CommitsHeld,
    Crash,
    CrashAfter,
    Graph,
    Here,
    TurnsHeld,
    ban,
    enter,
    here,
    powers,
    room_of_bob,
    topic,
    unban,
)
from tests.simulation.memory_tables import Tables


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
        assert server.row(said)["unverified"]
        await server.accept(banned)
        seen, position = log_of(server), server.engine.committer.position
        await server.prove()
        assert server.row(said)["verdict"] == StoredVerdict.REJECTED
        assert server.row(said)["live_index"] is None
        assert server.unverified == set()
        server.check_current(banned)
        await server.check()
        [correction] = seen
        assert isinstance(correction.entry, StateEntry)
        [change] = correction.entry.changes
        assert (change.key, change.membership) == (("m.room.member", CAROL), "ban")
        room = await server.room()
        told = await server.engine.reader.changes(room, after=position, up_to=correction.position)
        assert told == [(correction.position, change)]
        assert counted(server.metrics, "rechecks") >= 1


async def test_honest_gap_loses_its_marks_and_changes_nothing_else() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(topic("in the gap", BOB), last)
        said = graph.add(message("after the gap", CAROL), named)
        assert await server.accept_with(said, graph.state_before(said)) == Accepted()
        await server.accept(named)
        before, seen = server.row(said).copy(), log_of(server)
        await server.prove()
        assert server.row(said) == {**before, "unverified": False}
        assert seen == []
        server.check_current(said)
        await server.check()


async def test_event_rejected_on_a_lie_is_accepted_and_shown_when_the_gap_closes() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        levels = graph.add(powers({CAROL: 50}), last)
        change = graph.add(topic("carol's", CAROL), levels)
        lie = graph.before([last])
        assert isinstance(await server.accept_with(change, lie), Rejected)
        await server.accept(levels)
        seen = log_of(server)
        await server.prove()
        row = server.row(change)
        assert (row["verdict"], row["reason"], row["unverified"]) == (
            StoredVerdict.ACCEPTED,
            None,
            False,
        )
        [shown] = seen
        assert isinstance(shown.entry, EventEntry)
        assert shown.entry.event.event_id == change.event_id
        assert row["position"] == shown.position
        server.check_current(change)
        await server.check()


async def test_event_that_is_allowed_after_all_but_not_now_is_soft_failed() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        levels = graph.add(powers({CAROL: 50}), last)
        change = graph.add(topic("carol's", CAROL), levels)
        assert isinstance(await server.accept_with(change, graph.before([last])), Rejected)
        revoked = graph.add(powers({}), levels)
        await server.accept(levels, revoked)
        seen = log_of(server)
        await server.prove()
        row = server.row(change)
        assert (row["verdict"], row["unverified"], row["live_index"]) == (
            StoredVerdict.SOFT_FAILED,
            False,
            None,
        )
        assert row["reason"].startswith("level_too_low")
        assert seen == []
        server.check_current(revoked)
        await server.check()


async def test_event_that_is_accepted_after_all_is_no_head_where_one_names_it() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        levels = graph.add(powers({CAROL: 50}), last)
        change = graph.add(topic("carol's", CAROL), levels)
        assert isinstance(await server.accept_with(change, graph.before([last])), Rejected)
        child = graph.add(message("on it", BOB), change)
        assert await server.accept(child) == Accepted()
        await server.accept(levels)
        await server.prove()
        assert server.row(change)["verdict"] == StoredVerdict.ACCEPTED
        server.check_current(child)
        await server.check()


async def test_all_that_descends_from_a_wrong_event_is_worked_out_again() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        promised = graph.add(powers({CAROL: 50}), last)
        await server.accept(promised)
        revoked = graph.add(powers({}), promised)
        lie = graph.before([promised])
        topics = [graph.add(topic("one", CAROL), revoked, cites=lie)]
        assert await server.accept_with(topics[0], lie) == Accepted()
        for i in range(4):
            topics.append(graph.add(topic(f"more {i}", CAROL), topics[-1], cites=lie))
            said = graph.add(message(f"said {i}", BOB), topics[-1])
            assert await server.accept(topics[-1], said) == Accepted()
            topics.append(said)
        await server.accept(revoked)
        await server.prove()
        assert server.unverified == set()
        await server.check()
        wrong = [one for one in topics if one.type == "m.room.topic"]
        assert {server.row(one)["verdict"] for one in wrong} == {StoredVerdict.REJECTED}
        assert {server.row(one)["verdict"] for one in topics if one not in wrong} == {
            StoredVerdict.ACCEPTED
        }
        room = await server.room()
        assert ("m.room.topic", "") not in room.view.state
        shown = [event_entry(placed).event for placed in room.ring]
        assert not [one for one in shown if one in wrong]


async def test_forks_inside_fetched_history_are_resolved() -> None:
    async with here() as server:
        graph = server.graph
        first = graph.add(enter(CAROL), graph.begin(BOB))
        named = graph.add(topic("bob's", BOB), first)
        banned = graph.add(ban(CAROL), first)
        forgiven = graph.add(unban(CAROL), banned)
        merged = graph.add(message("merged", BOB), named, forgiven)
        join = await server.join(ALICE, merged)
        word = graph.state_before(named)
        await server.backfill(named, banned, forgiven, merged, told={named.event_id: word})
        assert server.state(server.row(forgiven)["snapshot_before"]) == graph.before([banned])
        assert server.state(server.row(merged)["snapshot_before"]) == graph.state_before(merged)
        assert server.row(merged)["unverified"], "it descends from what rests on a word"
        rest = [one for one in graph.events.values() if one.depth <= first.depth]
        await server.backfill(*rest)
        await server.prove()
        assert server.unverified == set()
        assert not server.tables.unverified_parents
        assert not server.tables.gaps
        server.check_current(join)
        await server.check()


async def test_history_down_to_the_creation_proves_a_join_step_by_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RECHECKS_PER_STEP", 5)
    async with here() as server:
        graph = server.graph
        last = graph.begin(BOB)
        for i in range(16):
            last = graph.add(message(str(i), BOB), last)
        events = list(graph.events.values())
        join = await server.join(ALICE, last)
        held = TurnsHeld(server)
        for end in range(len(events), 0, -6):
            await server.backfill(*events[max(0, end - 6) : end])
        assert join.event_id in server.unverified
        held.watch()
        await server.prove()
        assert server.unverified == set()
        await server.check()
        assert held.most == limits.RECHECKS_PER_STEP
        assert counted(server.metrics, "rechecks") > limits.RECHECKS_PER_STEP


async def test_join_with_a_false_state_is_set_right_by_its_history() -> None:
    async with here() as server:
        graph = server.graph
        carol = graph.add(enter(CAROL), graph.begin(BOB))
        banned = graph.add(ban(CAROL), carol)
        lie = graph.before([carol])
        join = await server.join(ALICE, banned, state=lie)
        said = graph.add(message("hidden ban", CAROL), join, cites=lie)
        assert await server.accept(said) == Accepted()
        await server.backfill(*(one for one in graph.events.values() if one.depth < join.depth))
        await server.prove()
        assert server.row(said)["verdict"] == StoredVerdict.REJECTED
        server.check_current(join)
        await server.check()


async def test_false_state_of_fetched_history_does_not_replace_that_of_the_join() -> None:
    async with here() as server:
        graph = server.graph
        carol = graph.add(enter(CAROL), graph.begin(BOB))
        banned = graph.add(ban(CAROL), carol)
        said = graph.add(message("old", BOB), banned)
        join = await server.join(ALICE, said)
        lie = graph.before([carol])
        await server.backfill(said, told={said.event_id: lie})
        await server.prove()
        assert {said.event_id, join.event_id} == server.unverified
        server.check_current(join)


async def test_work_goes_on_after_a_crash_between_two_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "RECHECKS_PER_STEP", 1)
    tables, graph = Tables(), Graph()
    async with here(tables, graph) as server:
        last = await room_of_bob(server)
        promised = graph.add(powers({CAROL: 50}), last)
        await server.accept(promised)
        revoked = graph.add(powers({}), promised)
        lie = graph.before([promised])
        wrong = graph.add(topic("one", CAROL), revoked, cites=lie)
        assert await server.accept_with(wrong, lie) == Accepted()
        for i in range(6):
            wrong = graph.add(topic(f"more {i}", CAROL), wrong, cites=lie)
            assert await server.accept(wrong) == Accepted()
        await server.accept(revoked)
    boots = 0
    while tables.rechecks_due:
        boots += 1
        async with here(tables, graph) as server:
            CrashAfter(server, steps=2)
            with contextlib.suppress(Crash):
                await server.prove()
            await server.check_memory()
    assert boots > 2
    async with here(tables, graph) as server:
        assert server.unverified == set()
        server.check_current(revoked)
        await server.check()


async def test_worker_takes_up_what_a_former_process_left() -> None:
    tables, graph = Tables(), Graph()
    async with here(tables, graph) as server:
        last = await room_of_bob(server)
        named = graph.add(topic("in the gap", BOB), last)
        said = graph.add(message("after", CAROL), named)
        await server.accept_with(said, graph.state_before(said))
        await server.accept(named)
        assert server.tables.rechecks_due
    async with here(tables, graph) as server:
        worker = asyncio.get_running_loop().create_task(server.rechecks.run())
        while tables.rechecks_due:
            await asyncio.sleep(0)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        assert server.unverified == set()


async def test_repeated_event_gets_the_reason_that_is_stored() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        refused = graph.add(topic("no power", CAROL), last)
        first = await server.accept(refused)
        assert isinstance(first, Rejected)
        assert await server.accept(refused) == first


async def test_gap_that_is_filled_by_a_live_event_is_closed() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(topic("in the gap", BOB), last)
        said = graph.add(message("after", CAROL), named)
        await server.accept_with(said, graph.state_before(said))
        assert [missing for _, missing in server.tables.gaps] == [named.event_id]
        await server.accept(named)
        assert server.tables.gaps == {}
        assert (await server.room()).awaited == set()


@pytest.mark.parametrize("at_once", [True, False], ids=["one batch", "two batches"])
async def test_gap_that_is_filled_before_its_child_is_committed_is_closed(at_once: bool) -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(topic("in the gap", BOB), last)
        said = graph.add(message("after", CAROL), named)
        told = graph.state_before(said)
        await server.engine.remote_event_writer.store_outliers(graph.auth_chain(told.values()), [])
        held = CommitsHeld(server)
        if at_once:  # what is queued while a commit is on its way goes as one
            await held.begin(server.accept(graph.add(message("meanwhile", BOB), last)))
        await held.begin(server.accept_with(said, told))
        await held.begin(server.accept(named))
        await held.release()
        assert server.tables.gaps == {}
        room = await server.room()
        assert (room.awaited, room.staged_missing) == (set(), {})
        assert named.event_id not in server.heads
        assert said.event_id in server.heads
        await server.prove()
        assert server.unverified == set()
        await server.check()


async def test_what_a_staged_event_lacks_is_forgotten_with_it() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(topic("in the gap", BOB), last)
        said = graph.add(message("after", CAROL), named)
        told = graph.state_before(said)
        await server.engine.remote_event_writer.store_outliers(graph.auth_chain(told.values()), [])
        held = CommitsHeld(server)
        await held.begin(server.accept_with(said, told))
        room = await server.room()
        assert room.is_named(named.event_id)
        assert room.is_awaited(named.event_id)
        held.fails = True
        with pytest.raises(MatrixError):
            await held.release()
        assert not room.is_named(named.event_id)
        assert not room.is_awaited(named.event_id)
        await server.accept(named)
        server.check_current(named)


def cut_after_commit(server: Here) -> list[str]:
    """The line is cut once, between a commit and its answer; filled when that happens."""
    cuts: list[str] = []

    async def cut(when: str) -> None:
        if when == "after" and not cuts:
            cuts.append(when)
            raise DatabaseUnavailable("cut")

    server.engine.committer.fault = cut
    return cuts


async def test_what_a_soft_failed_event_waits_for_is_known_after_a_cut_line() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(message("in the gap", CAROL), last)
        said = graph.add(message("after", CAROL), named)
        await server.accept(graph.add(ban(CAROL), last))
        cuts = cut_after_commit(server)  # the batch has no log entries: no position tells of it
        assert isinstance(await server.accept_with(said, graph.state_before(said)), SoftFailed)
        assert cuts == ["after"]
        assert (await server.room()).awaited == {named.event_id}
        await server.accept(named)
        await server.prove()
        assert server.unverified == set()
        await server.check()


async def test_proof_is_known_to_be_stored_after_a_cut_line() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(message("in the gap", CAROL), last)
        said = graph.add(message("after", CAROL), named)
        assert await server.accept_with(said, graph.state_before(said)) == Accepted()
        await server.accept(named)
        cuts = cut_after_commit(server)
        await server.prove()
        assert cuts == ["after"]
        assert server.unverified == set()
        await server.check()


async def test_worker_is_woken_by_a_commit_that_came_late(monkeypatch: pytest.MonkeyPatch) -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        named = graph.add(message("in the gap", CAROL), last)
        said = graph.add(message("after", CAROL), named)
        await server.accept_with(said, graph.state_before(said))
        due = server.rechecks._due_rooms
        due._rooms.clear()
        held = CommitsHeld(server)
        monkeypatch.setattr(limits, "COMMIT_ANSWER_S", 0)
        with pytest.raises(OutcomeUnknown) as late:
            await server.accept(named)
        assert not due._rooms
        await held.release()
        await late.value.final
        await asyncio.sleep(0)
        assert list(due._rooms) == [server.room_id]


async def test_lie_about_fetched_history_hides_nothing_and_is_found_out() -> None:
    async with here() as server:
        graph = server.graph
        carol = graph.add(enter(CAROL), graph.begin(BOB))
        levels = graph.add(powers({CAROL: 50}), carol)
        change = graph.add(topic("carol's", CAROL), levels)
        join = await server.join(ALICE, change)
        await server.backfill(change, told={change.event_id: graph.before([carol])})
        row = server.row(change)
        assert (row["verdict"], row["unverified"]) == (StoredVerdict.ACCEPTED, True)
        seen = log_of(server)
        await server.backfill(*(one for one in graph.events.values() if one.depth < change.depth))
        await server.prove()
        assert server.unverified == set()
        assert seen == []
        server.check_current(join)
        await server.check()


async def test_fetched_event_that_is_allowed_after_all_counts_but_is_not_news() -> None:
    async with here() as server:
        graph = server.graph
        carol = graph.add(enter(CAROL), graph.begin(BOB))
        levels = graph.add(powers({CAROL: 50}), carol)
        said = graph.add(message("between", BOB), levels)
        change = graph.add(topic("carol's", CAROL), said)
        join = await server.join(ALICE, change)
        await server.backfill(said, change, told={said.event_id: graph.before([carol])})
        assert server.row(change)["verdict"] == StoredVerdict.REJECTED
        seen = log_of(server)
        await server.backfill(*(one for one in graph.events.values() if one.depth < said.depth))
        await server.prove()
        row = server.row(change)
        assert (row["verdict"], row["live_index"], row["position"]) == (
            StoredVerdict.ACCEPTED,
            None,
            None,
        )
        assert seen == []
        server.check_current(join)
        await server.check()


async def test_what_was_judged_before_a_correction_is_judged_again_at_its_place() -> None:
    async with here() as server:
        graph, last = server.graph, await room_of_bob(server)
        refused = graph.add(topic("no power", CAROL), last)
        known = graph.auth_chain(refused.auth_events)
        await server.engine.remote_event_writer.store_outliers(known, [])
        (await server.room()).was_corrected = True
        verdict = await server.engine.remote_event_writer.accept(refused, Accepted())
        assert isinstance(verdict, Rejected)
        assert server.row(refused)["verdict"] == StoredVerdict.REJECTED
