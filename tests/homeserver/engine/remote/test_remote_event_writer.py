"""Events of another server: forks, soft failures, gaps, imports, handshakes, backfill."""

from __future__ import annotations

import asyncio

import pytest

from federation.errors import MatrixError
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.building import Edges, build_event
from federation.ports import JoinedRoom
from homeserver import limits
from homeserver.rules.rooms.restricted_joins import AUTHORISER
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    HS2,
    KEY_2,
    World,
    draft,
    feed_of,
    message,
    running,
)

CAROL = UserId("@carol:third.example")
JOIN = draft("m.room.member", {"membership": "join"}, BOB, sender=BOB)


async def _bob_joins(world: World, room_id: RoomId) -> Event:
    event = await world.remote(room_id, JOIN)
    await world.engine.remote_event_writer.accept_membership(event)
    return event


async def _heads(world: World, room_id: RoomId) -> list[EventId]:
    return [head.event_id for head in (await world.room(room_id)).view.heads]


async def test_remote_message_becomes_the_head_and_is_stored_once(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)
        event = await world.remote(room_id, message("hello", sender=BOB))
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
        position = world.engine.committer.position
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
        assert world.engine.committer.position == position
        assert await _heads(world, room_id) == [event.event_id]
        assert await world.bodies(room_id) == ["hello"]


async def test_fork_is_merged_by_the_next_event_of_ours(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)
        heads = await _heads(world, room_id)
        ours = await world.say(room_id, "ours")
        theirs = await world.remote(room_id, message("theirs", sender=BOB), parents=heads)
        await world.engine.remote_event_writer.accept(theirs, Accepted())
        assert set(await _heads(world, room_id)) == {ours, theirs.event_id}
        merge = await world.say(room_id, "merge")
        assert await _heads(world, room_id) == [merge]
        stored = (await world.engine.rooms.events([merge]))[merge].event
        assert set(stored.prev_events) == {ours, theirs.event_id}


async def test_state_of_a_fork_is_resolved_and_the_same_after_a_restart(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room(
            [draft("m.room.power_levels", {"users": {BOB: 50}, "events_default": 0}, "")]
        )
        await _bob_joins(world, room_id)
        heads = await _heads(world, room_id)
        await world.engine.writer.send(room_id, draft("m.room.name", {"name": "ours"}, ""))
        theirs = await world.remote(
            room_id, draft("m.room.topic", {"topic": "theirs"}, "", sender=BOB), parents=heads
        )
        await world.engine.remote_event_writer.accept(theirs, Accepted())
        state = dict((await world.room(room_id)).view.state)
        assert ("m.room.name", "") in state
        assert state["m.room.topic", ""].event_id == theirs.event_id
    async with running(postgres_url) as world:
        room = await world.room(room_id)
        assert dict(room.view.state) == state
        assert len(room.view.heads) == 2
        await world.say(room_id, "merge")
        assert dict((await world.room(room_id)).view.state) == state


async def test_event_allowed_by_its_own_state_but_not_now_is_soft_failed(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)
        before = await world.remote(room_id, message("late", sender=BOB))
        ban = draft("m.room.member", {"membership": "ban"}, BOB)
        await world.engine.writer.send(room_id, ban)
        verdict = await world.engine.remote_event_writer.accept(before, Accepted())
        assert isinstance(verdict, SoftFailed)
        assert await world.bodies(room_id) == []
        assert before.event_id not in await _heads(world, room_id)
        known = (await world.engine.rooms.events([before.event_id]))[before.event_id]
        assert known.soft_failed


async def test_exchange_is_refused_where_the_room_does_not_allow_it(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room([draft("m.room.join_rules", {"join_rule": "invite"}, "")])
        event = await world.remote(room_id, JOIN)
        with pytest.raises(MatrixError) as refused:
            await world.engine.remote_event_writer.accept_membership(event)
        assert refused.value.status == 403
        assert HS2 not in (await world.room(room_id)).view.servers


async def test_join_imports_the_room_with_its_state(
    postgres_url: str, second_postgres_url: str
) -> None:
    async with running(postgres_url) as one, running(second_postgres_url) as two:
        room_id = await one.create_room([draft("m.room.name", {"name": "n"}, "")])
        await one.say(room_id, "before")
        room = await one.room(room_id)
        join = await one.remote(room_id, JOIN)
        await one.engine.remote_event_writer.accept_membership(join)
        state = await one.engine.rooms.state_before(room, join.event_id)
        assert state is not None
        known = await one.engine.rooms.events([ref.event_id for ref in state.values()])
        chain = await one.engine.rooms.memory.auth_chain(list(known))
        await two.engine.remote_event_writer.import_join(
            JoinedRoom(
                room_id,
                room.version,
                join,
                [one.event for one in known.values()],
                [one.event for one in chain.values()],
            )
        )
        theirs = await two.room(room_id)
        assert set(theirs.view.state) == set(room.view.state)
        assert theirs.view.servers == room.view.servers
        assert await _heads(two, room_id) == [join.event_id]
        assert set(await two.engine.reader.gaps(theirs, (5, 0))) == set(join.prev_events)
        event = await one.remote(room_id, message("new", sender=BOB))
        await two.engine.remote_event_writer.accept(event, Accepted())
        assert await two.bodies(room_id) == ["new"]


async def test_two_users_of_ours_may_join_a_new_room_at_once(
    postgres_url: str, second_postgres_url: str
) -> None:
    async with running(postgres_url) as one, running(second_postgres_url) as two:
        room_id = await one.create_room()
        room, users = await one.room(room_id), [BOB, UserId("@bill:hs2")]
        joins = []
        for user in users:
            join = await one.remote(
                room_id, draft("m.room.member", {"membership": "join"}, user, sender=user)
            )
            await one.engine.remote_event_writer.accept_membership(join)
            state = await one.engine.rooms.state_before(room, join.event_id)
            assert state is not None
            known = await one.engine.rooms.events([ref.event_id for ref in state.values()])
            events = [found.event for found in known.values()]
            joins.append(JoinedRoom(room_id, room.version, join, events, []))
        async with asyncio.TaskGroup() as group:
            for joined in joins:
                group.create_task(two.engine.remote_event_writer.import_join(joined))
        theirs = await two.room(room_id)
        assert all(theirs.is_joined(user) for user in users)


async def test_a_resident_gives_the_state_and_its_auth_chain(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_READ_AT_ONCE", 2)
    async with running(postgres_url) as world:
        room_id = await world.create_room(
            [draft("m.room.member", {"membership": "join", "displayname": "A"}, ALICE)]
        )
    async with running(postgres_url) as world:
        room = await world.room(room_id)
        before = dict(room.view.state)
        join = await world.remote(room_id, JOIN)
        answer = await world.engine.remote_event_writer.accept_membership(join)
        ids = [ref.event_id for ref in before.values()]
        current = await world.engine.events.current_state_ids(room_id)
        assert [current[key] for key in before] == ids
        assert len(current) == len(before) + 1 == len(set(current))
        assert current.get(("m.room.topic", "")) is None
        state = await world.engine.rooms.events(ids)
        assert list(answer.state) == [state[one].event.raw for one in ids]
        chain = await world.engine.events.auth_chain([*ids, join.event_id])
        assert sorted(answer.auth_chain) == sorted(one.raw for one in chain.values())
        assert len(chain.keys() - state.keys()) == 1, "the first join, which another replaced"
        assert answer.event == join.raw


async def test_backfilled_history_gets_places_before_what_was_there(
    postgres_url: str, second_postgres_url: str
) -> None:
    async with running(postgres_url) as one, running(second_postgres_url) as two:
        room_id = await one.create_room()
        old = [await one.say(room_id, f"old {i}") for i in range(3)]
        room = await one.room(room_id)
        join = await one.remote(room_id, JOIN)
        await one.engine.remote_event_writer.accept_membership(join)
        state = await one.engine.rooms.state_before(room, join.event_id)
        assert state is not None
        known = await one.engine.rooms.events([ref.event_id for ref in state.values()])
        events = [one.event for one in known.values()]
        await two.engine.remote_event_writer.import_join(
            JoinedRoom(room_id, room.version, join, events, [])
        )
        history = await one.engine.rooms.events(old)
        ids = {key: ref.event_id for key, ref in state.items()}
        position = two.engine.committer.position
        chunk = [history[i].event for i in old]
        await two.engine.remote_event_writer.store_backfill(chunk, {old[0]: ids})
        assert two.engine.committer.position == position
        assert await two.bodies(room_id) == ["old 0", "old 1", "old 2"]
        theirs = await two.room(room_id)
        page = await two.engine.reader.page(theirs, start=(9, 0), backwards=True, limit=10)
        kinds = [placed.entry.event.event_id for placed in page]  # type: ignore[union-attr]
        assert kinds == [join.event_id, *reversed(old)]


async def test_an_event_that_fills_a_gap_is_no_head(
    postgres_url: str, second_postgres_url: str
) -> None:
    async with running(postgres_url) as one, running(second_postgres_url) as two:
        room_id = await one.create_room()
        old = [await one.say(room_id, f"old {i}") for i in range(3)]
        room = await one.room(room_id)
        join = await one.remote(room_id, JOIN)
        await one.engine.remote_event_writer.accept_membership(join)
        state = await one.engine.rooms.state_before(room, join.event_id)
        assert state is not None
        known = await one.engine.rooms.events([ref.event_id for ref in state.values()])
        events = [one.event for one in known.values()]
        await two.engine.remote_event_writer.import_join(
            JoinedRoom(room_id, room.version, join, events, [])
        )
        history = [known.event for known in (await one.engine.rooms.events(old)).values()]
        ids = {key: ref.event_id for key, ref in state.items()}
        first, *rest = sorted(history, key=lambda one: one.depth)
        await two.engine.remote_event_writer.store_backfill(rest, {rest[0].event_id: ids})
        await two.engine.remote_event_writer.accept_with_state(first, Accepted(), ids)
        assert await _heads(two, room_id) == [join.event_id]
        parent = await one.remote(room_id, message("parent", sender=BOB))
        await one.engine.remote_event_writer.accept(parent, Accepted())
        child = await one.remote(room_id, message("child", sender=BOB))
        after = {**ids, ("m.room.member", str(BOB)): join.event_id}
        await two.engine.remote_event_writer.accept_with_state(child, Accepted(), after)
        await two.engine.remote_event_writer.accept(parent, Accepted())
        assert child.event_id in await _heads(two, room_id)
        assert parent.event_id not in await _heads(two, room_id)


async def test_redaction_empties_its_target_everywhere(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        target = await world.say(room_id, "secret")
        redaction = draft("m.room.redaction", {"redacts": target})
        await world.engine.writer.send(
            room_id, type(redaction)(redaction.type, ALICE, {}, None, target)
        )
        assert b"secret" not in (await world.engine.rooms.client_events([target]))[target]
        room = await world.room(room_id)
        ring = [placed.entry.client for placed in room.ring]  # type: ignore[union-attr]
        assert not any(b"secret" in client for client in ring)
    async with running(postgres_url) as world:
        assert b"secret" not in (await world.engine.rooms.client_events([target]))[target]
        assert HS1 in (await world.room(room_id)).view.servers


async def test_server_that_joins_beside_another_event_is_owed_that_event(
    postgres_url: str,
) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        feed = feed_of(world)
        join = await world.remote(room_id, JOIN)
        beside = await world.say(room_id, "beside the join")
        await world.engine.remote_event_writer.accept_membership(join)
        position = world.engine.committer.position
        owed = await feed.owed(HS2, position - 1, pdu_limit=50, edu_limit=100)
        known = await world.engine.rooms.events([beside])
        assert list(owed.pdus) == [known[beside].event.raw]


async def test_fork_of_messages_keeps_both_heads_over_a_restart(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)
        heads = await _heads(world, room_id)
        ours = await world.say(room_id, "ours")
        theirs = await world.remote(room_id, message("theirs", sender=BOB), parents=heads)
        await world.engine.remote_event_writer.accept(theirs, Accepted())
    async with running(postgres_url) as world:
        assert set(await _heads(world, room_id)) == {ours, theirs.event_id}


async def test_message_that_was_kept_as_an_outlier_gets_its_place(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)
        event = await world.remote(room_id, message("early", sender=BOB))
        await world.engine.remote_event_writer.store_outliers([event], [])
        assert await world.engine.remote_event_writer.accept(event, Accepted()) == Accepted()
        assert await world.bodies(room_id) == ["early"]


async def test_event_without_parents_can_not_begin_the_room_anew(postgres_url: str) -> None:
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)
        room = await world.room(room_id)
        create = room.view.state["m.room.create", ""].event_id
        known = (await world.engine.rooms.events([create]))[create].event
        assert await world.engine.remote_event_writer.accept(known, Accepted()) == Accepted()
        orphan = build_event(
            message("no parents", sender=BOB),
            version=room.version,
            room_id=room_id,
            edges=Edges([], [], 1),
            now_ms=world.clock.now_ms(),
            server_name=HS2,
            key=KEY_2,
        )
        verdict = await world.engine.remote_event_writer.accept(orphan, Accepted())
        assert isinstance(verdict, Rejected)
        assert (await world.room(room_id)).view == room.view


async def test_first_depth_is_that_of_our_own_join(
    postgres_url: str, second_postgres_url: str
) -> None:
    async with running(postgres_url) as one, running(second_postgres_url) as two:
        room_id = await one.create_room()
        await one.say(room_id, "before")
        join = await one.remote(room_id, JOIN)
        await one.engine.remote_event_writer.accept_membership(join)
        room = await one.room(room_id)
        state = await one.engine.rooms.state_before(room, join.event_id)
        assert state is not None
        known = await one.engine.rooms.events([ref.event_id for ref in state.values()])
        events = [one.event for one in known.values()]
        await two.engine.remote_event_writer.import_join(
            JoinedRoom(room_id, room.version, join, events, [])
        )
        assert await one.engine.events.first_depth(room_id) == 1
        assert await two.engine.events.first_depth(room_id) == join.depth


async def test_an_event_of_ours_needs_no_signature_but_ours(postgres_url: str) -> None:
    """A draft that names who vouches, wherever it comes from: ours may, others can't."""
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        join = draft("m.room.member", {"membership": "join", AUTHORISER: BOB}, ALICE)
        with pytest.raises(MatrixError, match="not signed by") as refusal:
            await world.engine.writer.send(room_id, join)
        assert refusal.value.errcode == "M_FORBIDDEN"
        invite = draft("m.room.member", {"membership": "invite", AUTHORISER: CAROL}, BOB)
        with pytest.raises(MatrixError, match="not signed by"):
            await world.engine.remote_event_writer.template(invite, room_id)
        join = draft("m.room.member", {"membership": "join", AUTHORISER: ALICE}, ALICE)
        await world.engine.writer.send(room_id, join)


async def test_a_clock_that_was_put_back_does_not_undo_a_join(postgres_url: str) -> None:
    """Room version 2's resolution orders by the events' own times: a leave that claims to be later
    than the join after it would win over that wherever a fork makes the two compete."""
    dave, hour_ms = UserId("@dave:hs1"), 3_600_000
    async with running(postgres_url) as world:
        room_id = await world.create_room()
        await _bob_joins(world, room_id)

        async def becomes(membership: str) -> None:
            what = draft("m.room.member", {"membership": membership}, dave, sender=dave)
            await world.engine.writer.send(room_id, what)

        await becomes("join")
        world.clock.now += hour_ms
        await becomes("leave")
        world.clock.now -= hour_ms
        parents = await _heads(world, room_id)
        await becomes("join")
        fork = await world.remote(room_id, message("beside", sender=BOB), parents=parents)
        assert isinstance(await world.engine.remote_event_writer.accept(fork, Accepted()), Accepted)
        await world.say(room_id, "on both")
        room = await world.room(room_id)
        assert room.view.state[("m.room.member", dave)].membership == "join"
