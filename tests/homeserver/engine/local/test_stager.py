"""Events are built, checked and placed from memory, each on the one staged before it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

from federation.errors import MatrixError
from federation.events.event import Event
from federation.events.ids import EventId, UserId
from federation.events.room_versions import room_version
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft
from homeserver import limits
from homeserver.engine.local.stager import Stager
from homeserver.engine.log.staging import Origin, StagedEvent
from homeserver.engine.rooms.room import NotLoaded, Room
from homeserver.engine.rooms.snapshots import StateSnapshot
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    KEY_1,
    V12,
    World,
    draft,
    in_memory,
    message,
)

JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)
ZOE = UserId("@zoe:hs1")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with in_memory() as made:
        yield made


async def room_of(world: World, *more: EventDraft) -> Room:
    """A public room of ALICE, with row numbers for what is staged in it."""
    room = await world.room(await world.create_room(more))
    await world.engine.committer.numbers.ready(200)
    return room


def stager_of(world: World) -> Stager:
    return world.engine.writer.stager


def topic(text: str, sender: UserId = ALICE) -> EventDraft:
    return draft("m.room.topic", {"topic": text}, "", sender=sender)


async def accept(world: World, room: Room, what: EventDraft, *parents: EventId) -> Event:
    """An event of the other server, on these parents or all heads."""
    event = await world.remote(room.room_id, what, parents=parents or None)
    assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
    return event


async def forked(world: World, room: Room, count: int) -> list[EventId]:
    """Makes as many heads, each a topic of BOB's."""
    joined = await accept(world, room, JOIN)
    return [
        (await accept(world, room, message(str(number), BOB), joined.event_id)).event_id
        for number in range(count)
    ]


# One on the other


async def test_each_event_builds_on_the_one_staged_before_it(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    [head] = room.view.heads
    position = world.engine.committer.position
    async with world.engine.rooms.locked(room.room_id):
        named = await stager.stage_draft(room, topic("one"), None)
        said = await stager.stage_draft(room, message("x"), None)
        renamed = await stager.stage_draft(room, topic("two"), None)
        events = [named.event, said.event, renamed.event]
        assert [event.prev_events for event in events] == [
            (head.event_id,),
            (named.event.event_id,),
            (said.event.event_id,),
        ]
        assert [event.depth - head.depth for event in events] == [1, 2, 3]
        assert renamed.row.replaces == named.event.event_id
        for staged in (named, renamed):
            assert [one.snapshot_row_id for one in staged.snapshots] == [staged.row.snapshot_after]
        assert room.staged.state["m.room.topic", ""].event_id == renamed.event.event_id
        assert room.staged_events.keys() == {event.event_id for event in events}
        for event in events:
            assert event.sender == ALICE
            assert event.room_id == room.room_id
    assert world.engine.committer.position == position  # nothing was committed
    assert room.staged is room.view


async def test_what_is_staged_decides_on_the_next_event(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    async with world.engine.rooms.locked(room.room_id):
        with pytest.raises(MatrixError) as refused:
            await stager.stage_draft(room, message("x", ZOE), None)
        assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
        assert "sender_not_joined" in refused.value.error
        assert room.staged is room.view  # a refused one leaves nothing
        join = draft("m.room.member", {"membership": "join"}, ZOE, sender=ZOE)
        await stager.stage_draft(room, join, None)
        staged = await stager.stage_draft(room, message("x", ZOE), None)
        assert staged.event.auth_events
        cited = {stager.cited(room, one).key for one in staged.event.auth_events}
        assert ("m.room.member", ZOE) in cited


async def test_events_that_are_out_of_memory_are_loaded(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    memory = world.engine.rooms.memory
    state = {ref.event_id for ref in room.view.state.values()}
    for event_id in state:
        memory.forget_event(event_id)
    room.forget_auth()
    with pytest.raises(NotLoaded):
        stager.cited(room, next(iter(state)))
    async with world.engine.rooms.locked(room.room_id):
        staged = await stager.stage_draft(room, topic("x"), None)
    assert all(memory.known(one) for one in staged.event.auth_events)


@pytest.mark.parametrize(
    ("content", "status", "errcode"),
    [
        ({"body": "x" * 70_000}, 413, "M_TOO_LARGE"),
        ({"body": 1.5}, 400, "M_BAD_JSON"),
        ({"body": 2**60}, 400, "M_BAD_JSON"),
    ],
)
async def test_what_is_no_event_of_the_version_is_refused(
    world: World, content: dict[str, object], status: int, errcode: str
) -> None:
    room, stager = await room_of(world), stager_of(world)
    async with world.engine.rooms.locked(room.room_id):
        with pytest.raises(MatrixError) as refused:
            await stager.stage_draft(room, draft("m.room.message", content), None)
        assert (refused.value.status, refused.value.errcode) == (status, errcode)
        assert room.staged is room.view


async def test_an_event_of_ours_is_signed_by_us(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    built = await stager.build(room, message("x"))
    signatures = orjson.loads(built.event.raw)["signatures"]
    assert {server: list(keys) for server, keys in signatures.items()} == {HS1: [KEY_1.key_id]}


# Times


async def test_a_draft_has_its_own_time_or_that_of_now(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    given = EventDraft("m.room.message", ALICE, {"body": "x"}, None, None, 5)
    assert stager.time_of(given) == 5
    before = world.clock.now
    assert stager.time_of(message("x")) == before + 1
    assert (await stager.build(room, given)).event.origin_server_ts == 5
    assert (await stager.build(room, message("x"))).event.origin_server_ts > before


async def test_a_state_event_is_later_than_the_one_of_ours_that_it_replaces(
    world: World,
) -> None:
    """Resolution goes by these times; the clock may have been put back."""
    room, stager = await room_of(world), stager_of(world)
    first = await world.engine.writer.send(room.room_id, topic("one"))
    known = (await world.engine.rooms.events([first.event_id]))[first.event_id]
    world.clock.now -= 1_000_000
    time_ms = known.event.origin_server_ts
    assert (await stager.build(room, topic("two"))).event.origin_server_ts == time_ms + 1
    assert (await stager.build(room, message("x"))).event.origin_server_ts < time_ms
    other_key = draft("m.room.name", {"name": "x"}, "")
    assert (await stager.build(room, other_key)).event.origin_server_ts < time_ms
    world.clock.now += 3_000_000
    levels = draft("m.room.power_levels", {"users": {BOB: 50}}, "")
    await world.engine.writer.send(room.room_id, levels)
    await accept(world, room, JOIN)
    theirs = await accept(world, room, topic("theirs", BOB))
    world.clock.now -= 1_000_000
    # Another server's clock doesn't bind ours.
    own = (await stager.build(room, topic("three"))).event
    assert own.origin_server_ts < theirs.origin_server_ts


# Built, not placed


async def test_an_event_is_built_on_the_committed_room_and_placed_later(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    [head] = room.view.heads
    async with world.engine.rooms.locked(room.room_id):
        await stager.stage_draft(room, message("staged"), None)
        staged = room.staged
        built = await stager.build(room, topic("x"))
        assert room.staged is staged
        assert built.event.prev_events == (head.event_id,)
        assert built.event.event_id not in room.staged_events
        assert (built.before.state, built.corrections) == (room.view.state, room.corrections)
        placed = await stager.place_made(room, built, None)
        # It is a branch beside what was staged in the meantime.
        assert len(room.staged.heads) == 2
        assert placed.row.to_federate
        assert room.staged.state["m.room.topic", ""].event_id == built.event.event_id


# Many heads


async def test_an_event_names_so_many_heads_and_a_merge_more(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    heads = await forked(world, room, limits.HEADS_PER_MERGE + 3)
    async with world.engine.rooms.locked(room.room_id):
        said = await stager.stage_draft(room, message("x"), None)
        assert list(said.event.prev_events) == heads[-limits.HEADS_PER_EVENT :]
        left = [head.event_id for head in room.staged.heads]
        assert left == [*heads[: -limits.HEADS_PER_EVENT], said.event.event_id]
    async with world.engine.rooms.locked(room.room_id):
        merge = await stager.stage_merge(room, message("merge"))
        assert list(merge.event.prev_events) == heads[-limits.HEADS_PER_MERGE :]
        assert not merge.row.to_federate
        assert said.row.to_federate


async def test_the_state_before_an_event_is_that_of_the_heads_it_names(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    levels = draft("m.room.power_levels", {"users": {BOB: 50}}, "")
    await world.engine.writer.send(room.room_id, levels)
    joined = await accept(world, room, JOIN)
    named = await accept(world, room, topic("theirs", BOB), joined.event_id)
    for number in range(limits.HEADS_PER_EVENT):
        await accept(world, room, message(str(number), BOB), joined.event_id)
    assert room.view.state["m.room.topic", ""].event_id == named.event_id
    built = await stager.build(room, topic("ours"))
    assert len(built.event.prev_events) == limits.HEADS_PER_EVENT
    assert named.event_id not in built.event.prev_events
    assert ("m.room.topic", "") not in built.before.state
    assert [event_id for event_id, _ in built.parents] == list(built.event.prev_events)
    async with world.engine.rooms.locked(room.room_id):
        staged = await stager.place_made(room, built, None)
        assert staged.row.replaces is None
        assert [head.event_id for head in room.staged.heads] == [
            named.event_id,
            built.event.event_id,
        ]
    merged = await world.engine.writer.send(room.room_id, message("x"))
    assert [head.event_id for head in room.view.heads] == [named.event_id, merged.event_id]


# Placing


async def placed(world: World, room: Room, event: Event, **options: object) -> StagedEvent:
    """Places an event of the other server on the current state."""
    current = StateSnapshot(room.staged.state, room.staged.chain)
    return await stager_of(world).place(
        room,
        event,
        current,
        Origin(to_federate=False),
        **options,  # type: ignore[arg-type]
    )


async def test_an_event_that_an_accepted_one_names_is_no_head_and_changes_no_state(
    world: World,
) -> None:
    room = await room_of(world)
    await accept(world, room, JOIN)
    [parent] = [head.event_id for head in room.view.heads]
    child = await accept(world, room, message("child", BOB))
    late = await world.remote(room.room_id, message("late", BOB), parents=[parent])
    async with world.engine.rooms.locked(room.room_id):
        room.named.add(late.event_id)
        staged = await placed(world, room, late)
        assert [head.event_id for head in room.staged.heads] == [child.event_id]
        assert staged.row.live_index == room.staged.live_index
    room.named.clear()


async def test_a_given_state_and_number_are_used(world: World) -> None:
    room = await room_of(world)
    await accept(world, room, JOIN)
    event = await world.remote(room.room_id, message("x", BOB))
    async with world.engine.rooms.locked(room.room_id):
        left = world.engine.committer.numbers.left
        after = StateSnapshot(room.staged.state, room.staged.chain)
        staged = await placed(world, room, event, row_id=9_999, after=after)
        assert staged.row.event_row_id == 9_999
        assert world.engine.committer.numbers.left == left
        assert room.after.get(event.event_id) is after


async def test_a_rejoin_replaces_all_heads_and_their_state(world: World) -> None:
    room = await room_of(world)
    await accept(world, room, JOIN)
    told = StateSnapshot(room.view.state, room.view.chain)
    await world.engine.writer.send(room.room_id, topic("forgotten"))
    event = await world.remote(room.room_id, message("x", BOB), parents=[EventId("$far away")])
    async with world.engine.rooms.locked(room.room_id):
        await stager_of(world).place(
            room, event, told, Origin(to_federate=False, replaces_heads=True)
        )
        assert [head.event_id for head in room.staged.heads] == [event.event_id]
        assert room.staged.state == told.state


async def test_a_resolution_is_recorded_if_it_changed_other_state(world: World) -> None:
    room, stager = await room_of(world), stager_of(world)
    await world.engine.writer.send(room.room_id, topic("x"))
    one, other = room.view.chain, room.view.chain[:1]
    states = [StateSnapshot(room.view.state, chain) for chain in (one, other)]
    branches = [(EventId("$a"), states[0]), (EventId("$b"), states[1])]
    record = stager.resolved(branches, other, one, is_changed=True)
    assert record is not None
    assert (record.state_before, record.state_after) == (other[-1].row_id, one[-1].row_id)
    assert record.branches == (("$a", one[-1].row_id), ("$b", other[-1].row_id))
    assert stager.resolved(branches, other, one, is_changed=False) is None
    assert stager.resolved(branches[:1], other, one, is_changed=True) is None
    same = [branches[0], (EventId("$c"), states[0])]
    assert stager.resolved(same, other, one, is_changed=True) is None  # nothing was resolved


# A new room


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_a_room_begins_with_its_create_event(world: World, version: str) -> None:
    await world.engine.committer.numbers.ready(10)
    content: dict[str, object] = {"room_version": version}
    if version in ("1", "6"):
        content["creator"] = ALICE
    room, staged = stager_of(world).new_room(
        room_version(version), draft("m.room.create", content, "")
    )
    event = staged.event
    assert room.room_id == event.room_id
    assert (event.prev_events, event.auth_events, event.depth) == ((), (), 1)
    if version == "12":
        assert room.room_id[1:] == event.event_id[1:]
    else:
        assert room.room_id.endswith(":hs1")
    assert [head.event_id for head in room.staged.heads] == [event.event_id]
    assert room.view.heads == ()
    assert (staged.row.live_index, staged.row.to_federate) == (1, True)
    assert len({room.row_id, staged.row.event_row_id, room.view.chain[0].row_id}) == 3
    assert [one.snapshot_row_id for one in staged.snapshots] == [
        room.view.chain[0].row_id,
        staged.row.event_row_id,
    ]


async def test_a_room_id_may_be_made_ahead(world: World) -> None:
    await world.engine.committer.numbers.ready(10)
    stager = stager_of(world)
    room_id = stager.make_room_id()
    assert room_id != stager.make_room_id()
    create = draft("m.room.create", {"room_version": "11"}, "")
    room, _ = stager.new_room(room_version("11"), create, room_id)
    assert room.room_id == room_id
    create = draft("m.room.create", {"room_version": "12"}, "")
    with pytest.raises(MatrixError):  # of this version the event gives the ID
        stager.new_room(V12, create, room_id)


async def test_a_create_event_that_the_rules_refuse_makes_no_room(world: World) -> None:
    await world.engine.committer.numbers.ready(10)
    content: dict[str, object] = {"room_version": "12", "additional_creators": ["no user"]}
    with pytest.raises(MatrixError) as refused:
        stager_of(world).new_room(V12, draft("m.room.create", content, ""))
    assert (refused.value.status, refused.value.errcode) == (400, "M_BAD_JSON")
