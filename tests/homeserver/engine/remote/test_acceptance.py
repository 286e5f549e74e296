"""Single events of other servers: the last check under the lock, the verdict that is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import orjson
import pytest

from federation.errors import MatrixError
from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, ServerName
from federation.events.room_versions import room_version
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.graph.building import Edges, EventDraft, build_event
from federation.graph.policy_servers import NotRecommended, PolicyServer
from federation.ports import PolicyServerChanged
from homeserver import limits
from homeserver.engine.entries import Placed
from homeserver.engine.rooms.room import Room
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.timeline.events import StoredVerdict
from tests.homeserver.engine.engine_world import ALICE, HS2, KEY_2, World, draft, in_memory, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    DAVE,
    CommitsHeld,
    Here,
    ban,
    enter,
    here,
    powers,
    room_of_bob,
    topic,
)

ACCEPTED, SOFT_FAILED, REJECTED = StoredVerdict

REFUSAL = Rejected(AuthFailure(AuthRule.LEVEL_TOO_LOW, "as admission says"))


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


def told(server: Here) -> list[Placed]:
    """What followers hear from now on."""
    heard: list[Placed] = []
    server.engine.committer.subscribe(heard.extend)
    return heard


async def is_known(server: Here, event: Event) -> bool:
    stored = event.event_id in server.tables.events
    in_memory = bool(await server.engine.rooms.events([event.event_id]))
    assert stored == in_memory
    return stored


# The last check


async def test_an_allowed_event_is_staged_like_a_local_one(server: Here) -> None:
    last, heard = await room_of_bob(server), told(server)
    said = server.graph.add(message("x", BOB), last)
    accept = server.engine.remote_event_writer.accept
    assert await accept(said, Accepted()) == Accepted()
    row = server.row(said)
    assert (row["verdict"], row["outlier"], row["unverified"]) == (
        ACCEPTED,
        False,
        False,
    )
    assert not row["to_federate"]  # its own server does that
    assert [one.position for one in heard] == [row["position"]]
    server.check_current(said)


@pytest.mark.parametrize("what", [message("late", CAROL), topic("late", CAROL)])
async def test_what_the_present_forbids_is_stored_and_shown_to_nobody(
    server: Here, what: object
) -> None:
    """The caller found it allowed by the state before it; she has been banned since."""
    graph, last = server.graph, await room_of_bob(server)
    await server.accept(graph.add(ban(CAROL), last))
    heads, heard = server.heads, told(server)
    late = graph.add(what, last)  # type: ignore[arg-type]
    accept = server.engine.remote_event_writer.accept
    verdict = await accept(late, Accepted())
    assert isinstance(verdict, SoftFailed)
    row = server.row(late)
    assert (row["verdict"], row["reason"]) == (SOFT_FAILED, str(verdict.failure))
    assert (row["live_index"], row["position"], row["outlier"]) == (None, None, False)
    assert (server.heads, heard) == (heads, [])
    assert await server.engine.reader.place(await server.room(), late.event_id) is None
    # Its place in the graph is known: events may name it as their parent.
    child = graph.add(message("child", BOB), late)
    assert await accept(child, Accepted()) == Accepted()
    assert server.state(server.row(child)["snapshot_before"]) == graph.state_before(late) | (
        {late.key: late.event_id} if late.is_state else {}
    )


async def test_a_rejected_event_stays_rejected_whatever_the_present_allows(server: Here) -> None:
    last, heard = await room_of_bob(server), told(server)
    said = server.graph.add(topic("x", BOB), last)
    verdict = await server.engine.remote_event_writer.accept(said, REFUSAL)
    assert verdict == REFUSAL
    row = server.row(said)
    assert (row["verdict"], row["reason"]) == (REJECTED, str(REFUSAL.failure))
    assert row["snapshot_after"] == row["snapshot_before"]
    assert (row["live_index"], heard, server.heads) == (None, [], {last.event_id})


async def test_an_event_of_an_unknown_room_is_not_found(server: Here) -> None:
    await room_of_bob(server)
    said = server.graph.add(message("x", BOB), next(iter(server.graph.events.values())))
    elsewhere = msgspec.structs.replace(said, room_id=RoomId("!unknown:hs2"))
    with pytest.raises(MatrixError) as refused:
        await server.engine.remote_event_writer.accept(elsewhere, Accepted())
    assert refused.value.status == 404
    assert not await is_known(server, said)


async def test_an_event_without_parents_can_only_be_the_create_event(server: Here) -> None:
    await room_of_bob(server)
    create = next(iter(server.graph.events.values()))
    accept = server.engine.remote_event_writer.accept
    assert await accept(create, Accepted()) == Accepted()
    second = msgspec.structs.replace(
        server.graph.add(topic("x", BOB), create), prev_events=(), event_id=EventId("$second")
    )
    verdict = await accept(second, Accepted())
    assert isinstance(verdict, Rejected)
    assert not await is_known(server, second)


async def test_an_event_whose_parent_is_not_here_waits_for_it(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    missing = graph.add(message("missing", BOB), last)
    child = graph.add(message("child", BOB), missing, last)
    accept = server.engine.remote_event_writer.accept
    with pytest.raises(MatrixError) as refused:
        await accept(child, Accepted())
    assert refused.value.status == 503
    assert not await is_known(server, child)
    room = await server.room()
    assert room.staged is room.view
    assert await server.engine.remote_event_writer.states_after(room, child.prev_events) is None
    await accept(missing, Accepted())
    assert await accept(child, Accepted()) == Accepted()


# Repeats


@pytest.mark.parametrize("kind", ["accepted", "soft-failed", "rejected"])
async def test_a_repeat_has_the_verdict_of_the_first(server: Here, kind: str) -> None:
    graph, last = server.graph, await room_of_bob(server)
    if kind == "soft-failed":
        await server.accept(graph.add(ban(CAROL), last))
    said = graph.add(message("x", CAROL), last)
    accept = server.engine.remote_event_writer.accept
    first = await accept(said, REFUSAL if kind == "rejected" else Accepted())
    row, position = dict(server.row(said)), server.engine.committer.position
    server.engine.rooms.memory.forget_event(said.event_id)
    other = Accepted() if kind == "rejected" else REFUSAL
    assert await accept(said, other) == first
    assert (server.row(said), server.engine.committer.position) == (row, position)


async def test_a_repeat_waits_for_the_commit_of_the_first(server: Here) -> None:
    last = await room_of_bob(server)
    said = server.graph.add(message("x", BOB), last)
    held, accept = CommitsHeld(server), server.engine.remote_event_writer.accept
    await held.begin(accept(said, Accepted()))
    repeat = asyncio.ensure_future(accept(said, REFUSAL))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not repeat.done()
    await held.release()
    assert await repeat == Accepted()
    assert server.row(said)["verdict"] == ACCEPTED


async def test_a_repeat_of_one_that_fails_takes_its_place(server: Here) -> None:
    last = await room_of_bob(server)
    said = server.graph.add(message("x", BOB), last)
    accept, room = server.engine.remote_event_writer.accept, await server.room()
    go_on = asyncio.Event()

    async def fail_once(when: str) -> None:
        if when == "before" and not go_on.is_set():
            await go_on.wait()
            raise DatabaseUnavailable("gone")

    server.engine.committer.fault = fail_once
    first = asyncio.ensure_future(accept(said, Accepted()))
    while not room.unsettled:
        await asyncio.sleep(0)
    repeat = asyncio.ensure_future(accept(said, Accepted()))
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(MatrixError) as failed:
        await first
    assert failed.value.status == 503
    assert await repeat == Accepted()
    server.check_current(said)


# Outliers and gaps


async def test_an_outlier_gets_its_place_in_the_form_that_is_stored(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    said = graph.add(message("x", BOB), last)
    await server.engine.remote_event_writer.store_outliers([said], [])
    number = server.row(said)["event_row_id"]
    received = msgspec.structs.replace(said, raw=b'{"another": "form"}')
    accept = server.engine.remote_event_writer.accept
    assert await accept(received, Accepted()) == Accepted()
    row = server.row(said)
    assert (row["event_row_id"], row["json"], row["outlier"]) == (number, said.raw, False)
    server.check_current(said)
    known = (await server.engine.rooms.events([said.event_id]))[said.event_id]
    assert (known.outlier, known.event.raw) == (False, said.raw)


async def test_an_event_on_a_told_state_is_unverified_and_has_a_gap_below(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    missing = graph.add(message("missing", BOB), last)
    above = graph.add(message("above", CAROL), missing, last)
    writer = server.engine.remote_event_writer
    state = graph.state_before(above)
    assert await writer.accept_with_state(above, Accepted(), state) == Accepted()
    row = server.row(above)
    assert row["unverified"]
    assert server.state(row["snapshot_before"]) == state
    gaps = {event_id for _, event_id in server.tables.gaps}
    assert gaps == {missing.event_id}
    room = await server.room()
    assert room.is_named(missing.event_id)
    assert await writer.accept(missing, Accepted()) == Accepted()
    assert missing.event_id not in server.heads  # an accepted event names it
    assert above.event_id in server.heads
    await server.prove()
    assert server.unverified == set()
    await server.check()


@pytest.mark.parametrize("is_refused", [True, False])
async def test_what_fills_a_gap_makes_the_events_above_it_due(
    server: Here, is_refused: bool
) -> None:
    """Whatever its verdict: the worker is woken by the commit."""
    graph, last = server.graph, await room_of_bob(server)
    missing = graph.add(message("missing", DAVE if is_refused else BOB), last)
    above = graph.add(message("above", CAROL), missing)
    writer = server.engine.remote_event_writer
    await writer.accept_with_state(above, Accepted(), graph.state_before(above))
    worker = asyncio.ensure_future(server.rechecks.run())
    try:
        for _ in range(50):
            await asyncio.sleep(0)
        assert server.unverified == {above.event_id}
        await writer.accept(missing, REFUSAL if is_refused else Accepted())
        while server.unverified:
            await asyncio.sleep(0)
            assert not worker.done()
    finally:
        worker.cancel()
        await asyncio.wait([worker])
    assert server.row(missing)["verdict"] == (REJECTED if is_refused else ACCEPTED)


# Failed commits and cancelled callers


async def test_an_event_is_staged_again_a_bounded_number_of_times(
    server: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, last = server.graph, await room_of_bob(server)
    said = graph.add(message("x", BOB), last)
    room, engine = await server.room(), server.engine
    tries = 0
    settle_by = engine.writer.event_signer.policy_of

    async def fail_meanwhile(*arguments: object) -> PolicyServer | None:
        nonlocal tries
        tries += 1
        if tries <= bound:
            room.discard_staged()  # a batch that it is staged on has failed
        return await settle_by(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.writer.event_signer, "policy_of", fail_meanwhile)
    bound = limits.STAGING_TRIES
    with pytest.raises(MatrixError) as refused:
        await engine.remote_event_writer.accept(said, Accepted())
    assert (refused.value.status, tries) == (503, limits.STAGING_TRIES)
    assert not await is_known(server, said)
    tries, bound = 0, limits.STAGING_TRIES - 1
    assert await engine.remote_event_writer.accept(said, Accepted()) == Accepted()
    server.check_current(said)


async def test_a_cancelled_hand_in_is_taken_back_or_committed_whole(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    said = graph.add(message("x", BOB), last)
    accept, room = server.engine.remote_event_writer.accept, await server.room()
    async with server.engine.rooms.locked(server.room_id):
        waiting = asyncio.ensure_future(accept(said, Accepted()))
        while room.holders < 2:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert (room.holders, room.staged is room.view) == (0, True)
    assert not await is_known(server, said)
    held = CommitsHeld(server)
    queued = asyncio.ensure_future(accept(said, Accepted()))
    while not room.unsettled:
        await asyncio.sleep(0)
    queued.cancel()
    await asyncio.wait([queued])
    await held.release()
    later = graph.add(message("later", BOB), said)
    assert await accept(later, Accepted()) == Accepted()
    server.check_current(later)
    assert (room.staged is room.view, room.staged_events) == (True, {})


# Policy servers


async def test_an_event_that_the_policy_server_was_not_asked_about_is_not_stored(
    server: Here,
) -> None:
    graph, last = server.graph, await room_of_bob(server)
    key = "A" * 43
    content: dict[str, object] = {"via": "hs2", "public_keys": {"ed25519": key}}
    policy = graph.add(draft("m.room.policy", content, "", BOB), last)
    accept = server.engine.remote_event_writer.accept
    assert await accept(policy, Accepted()) == Accepted()
    said = graph.add(message("spam", CAROL), policy)
    for asked in (None, PolicyServer(ServerName("hs3"), key), PolicyServer(ServerName("hs2"), "B")):
        with pytest.raises(PolicyServerChanged):
            await accept(said, Accepted(), asked=asked)
        assert not await is_known(server, said)
    room = await server.room()
    assert room.staged is room.view
    # It was asked, and has not signed.
    verdict = await accept(said, Accepted(), asked=PolicyServer(ServerName("hs2"), key))
    assert isinstance(verdict, SoftFailed)
    assert isinstance(verdict.failure, NotRecommended)
    assert server.row(said)["verdict"] == SOFT_FAILED
    server.engine.rooms.memory.forget_event(said.event_id)
    repeated = await accept(said, Accepted())  # the stored verdict needs no question
    assert isinstance(repeated, SoftFailed)
    assert isinstance(repeated.failure, NotRecommended)
    # The rules come before the policy.
    refused = graph.add(message("x", DAVE), policy)
    assert await accept(refused, REFUSAL) == REFUSAL


# The states after events


async def test_the_states_after_events_are_those_of_the_graph(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    left, right = graph.add(topic("left", BOB), last), graph.add(ban(CAROL), last)
    await server.accept(left, right)
    room, writer = await server.room(), server.engine.remote_event_writer
    oracle = graph.oracle
    for parents in ([left], [right], [last], [left, last], [right, left, last]):
        event_ids = [one.event_id for one in parents]
        branches = await writer.states_after(room, event_ids)
        assert branches is not None
        assert [{k: r.event_id for k, r in one.state.items()} for one in branches] == [
            dict(oracle.after(one) or {}) for one in event_ids
        ]
    both = await writer.states_after(room, [right.event_id, left.event_id])
    assert both is not None
    [current] = both  # all heads: the current state
    assert current.state is room.view.state
    assert await writer.states_after(room, [left.event_id, EventId("$unknown")]) is None
    outlier = graph.add(message("x", BOB), last)
    await writer.store_outliers([outlier], [])
    assert await writer.states_after(room, [outlier.event_id]) is None


# Verdicts made again


async def test_in_a_room_with_corrected_verdicts_an_earlier_decision_is_made_again(
    server: Here,
) -> None:
    """The caller decided by a state that has turned out wrong since."""
    graph, last = server.graph, await room_of_bob(server)
    levels = graph.add(powers({CAROL: 50}), last)
    await server.accept(levels)
    allowed = graph.add(topic("carol's", CAROL), levels)
    refused = graph.add(topic("x", CAROL), last)
    accept, room = server.engine.remote_event_writer.accept, await server.room()
    room.was_corrected = True
    assert await accept(allowed, REFUSAL) == Accepted()
    assert isinstance(await accept(refused, Accepted()), Rejected)
    unsigned = Rejected(AuthFailure(AuthRule.JOIN_UNSIGNED_BY_AUTHORISER, "not signed by hs3"))
    join = graph.add(enter(DAVE), allowed)
    assert await accept(join, unsigned) == unsigned  # that can't be checked again
    told = graph.add(topic("told", CAROL), allowed)
    missing = graph.before([allowed])
    verdict = await server.engine.remote_event_writer.accept_with_state(told, REFUSAL, missing)
    assert verdict == REFUSAL  # its own recheck comes with the truth


# Room versions 1 and 2, where a server chooses its events' IDs


V2 = room_version("2")


async def _room_of_both(world: World) -> Room:
    """A room of version 2 with ALICE and BOB in it."""
    content: dict[str, object] = {"room_version": "2", "creator": ALICE}
    room_id, _ = await world.engine.writer.create(
        V2,
        [
            draft("m.room.create", content, ""),
            draft("m.room.member", {"membership": "join"}, ALICE),
            draft("m.room.join_rules", {"join_rule": "public"}, ""),
        ],
    )
    room = await world.room(room_id)
    join = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
    joined = await _remote(world, room, join)
    assert await world.engine.remote_event_writer.accept(joined, Accepted()) == Accepted()
    return room


async def _remote(
    world: World, room: Room, what: EventDraft, parents: list[EventId] | None = None
) -> Event:
    """An event of the other server, on the room's heads or others."""
    state = room.view.state
    parents = parents or [head.event_id for head in room.view.heads]
    keys = [("m.room.create", ""), ("m.room.join_rules", ""), ("m.room.member", BOB)]
    cited = [state[key].event_id for key in keys if key in state]
    if what.type != "m.room.member":
        cited.remove(state["m.room.join_rules", ""].event_id)
    known = await world.engine.rooms.events([*parents, *cited])
    return build_event(
        what,
        version=V2,
        room_id=room.room_id,
        edges=Edges(
            parents,
            cited,
            max(head.depth for head in room.view.heads) + 1,
            cited=lambda event_id: known[event_id].event,
        ),
        now_ms=world.clock.now_ms(),
        server_name=HS2,
        key=KEY_2,
    )


@pytest.mark.parametrize("is_outlier", [True, False])
async def test_the_event_of_another_room_with_the_same_id_does_not_come_in(
    is_outlier: bool,
) -> None:
    async with in_memory() as world:
        here_room, there = await _room_of_both(world), await _room_of_both(world)
        writer = world.engine.remote_event_writer
        heads = [head.event_id for head in here_room.view.heads]
        smuggled = await _remote(world, there, message("of the other room", BOB), heads)
        if is_outlier:
            await writer.store_outliers([smuggled], [])
        else:
            smuggled = await _remote(world, there, message("of the other room", BOB))
            assert await writer.accept(smuggled, Accepted()) == Accepted()
        pdu = orjson.loads((await _remote(world, here_room, message("harmless", BOB))).raw)
        pdu["event_id"] = smuggled.event_id
        twin = load_event(orjson.dumps(pdu), V2, smuggled.event_id)
        await writer.accept(twin, Accepted())
        assert await world.bodies(here_room.room_id) == []
        assert [head.event_id for head in here_room.view.heads] == heads
        said = await world.say(here_room.room_id, "goes on")
        assert await world.bodies(here_room.room_id) == ["goes on"]
        assert [head.event_id for head in here_room.view.heads] == [said]
