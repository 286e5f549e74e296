"""Checks 4 and 5 again, by a state that was resolved here: nothing is guessed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import immutables
import pytest

from federation.events.event import Event
from federation.events.ids import UserId
from federation.graph.admission import Accepted, Rejected
from federation.graph.auth.auth_failures import AuthFailure, AuthRule
from federation.ports import StoredEvent
from homeserver.engine.recheck.verdict_checker import (
    VerdictChecker,
    is_unsigned_join,
    refused_by_auth_events,
)
from homeserver.engine.rooms.snapshots import StateMap, StateRef
from homeserver.engine.rooms.stored import refusal_of
from homeserver.storage.timeline.events import StoredVerdict
from tests.homeserver.engine.engine_world import ALICE, draft, message
from tests.homeserver.engine.history_world import (
    BOB,
    CAROL,
    DAVE,
    Here,
    State,
    ban,
    enter,
    here,
    powers,
    room_of_bob,
    topic,
)

ERIN = UserId("@erin:hs3")


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


def state_map(state: State) -> StateMap:
    return immutables.Map({key: StateRef(event_id, 0) for key, event_id in state.items()})


async def check(
    server: Here, event: Event, before: State, unstored: Collection[StoredEvent] = ()
) -> Accepted | Rejected | None:
    return await VerdictChecker(server.engine.rooms).check(
        await server.room(),
        event,
        state_map(before),
        unstored={one.event.event_id: one for one in unstored},
    )


def rule_of(verdict: Accepted | Rejected | None) -> AuthRule:
    assert isinstance(verdict, Rejected)
    assert isinstance(verdict.failure, AuthFailure)
    return verdict.failure.rule


# By the state before


async def test_the_given_state_decides_not_the_stored_one(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    levels = graph.add(powers({CAROL: 50}), last)
    without = graph.before([last])
    await server.accept(levels)
    named = graph.add(topic("carol's", CAROL), levels)
    assert await check(server, named, graph.before([levels])) == Accepted()
    assert rule_of(await check(server, named, without)) == AuthRule.LEVEL_TOO_LOW
    nobody = {key: one for key, one in without.items() if key[0] != "m.room.member"}
    assert rule_of(await check(server, named, nobody)) == AuthRule.SENDER_NOT_JOINED


async def test_a_state_whose_events_are_out_of_memory_is_loaded(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    levels = graph.add(powers({CAROL: 50}), last)
    await server.accept(levels)
    said = graph.add(message("x", CAROL), levels, cites=graph.before([last]))  # not the levels
    for event_id in graph.events:
        server.engine.rooms.memory.forget_event(event_id)
    assert await check(server, said, graph.before([levels])) == Accepted()


async def test_staged_events_and_those_of_the_same_step_are_looked_up_first(server: Here) -> None:
    """They are in no store yet."""
    graph, last = server.graph, await room_of_bob(server)
    join = graph.add(enter(DAVE), last)
    said = graph.add(message("x", DAVE), join)
    before = graph.before([join])
    given = [StoredEvent(join)]
    assert await check(server, said, before, given) == Accepted()
    room = await server.room()
    room.stage(StoredEvent(join), 900)
    assert await check(server, said, before) is None  # what it cites isn't stored
    room.unstage(join.event_id)
    await server.accept(join)
    banned = graph.add(ban(DAVE), join)
    room.stage(StoredEvent(banned), 901)
    now_banned = {**before, ("m.room.member", DAVE): banned.event_id}
    assert rule_of(await check(server, said, now_banned)) == AuthRule.SENDER_NOT_JOINED


async def test_a_create_event_needs_no_state(server: Here) -> None:
    await room_of_bob(server)
    create = next(iter(server.graph.events.values()))
    assert await check(server, create, {}) == Accepted()


# By the auth events


async def test_what_cites_an_event_that_is_not_stored_stays_undecided(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    join = graph.add(enter(DAVE), last)
    said = graph.add(message("x", DAVE), join)
    before = graph.before([last])  # by this state it would be refused
    assert await check(server, said, before) is None
    await server.engine.remote_event_writer.store_outliers([join], [])
    assert rule_of(await check(server, said, before)) == AuthRule.SENDER_NOT_JOINED
    assert await check(server, said, graph.before([join])) == Accepted()


async def test_the_verdict_of_what_it_cites_is_that_of_this_step(server: Here) -> None:
    """An event cites one whose stored verdict has turned out wrong."""
    graph, last = server.graph, await room_of_bob(server)
    join = next(one for one in graph.events.values() if one.key == ("m.room.member", CAROL))
    said, before = graph.add(message("x", CAROL), last), graph.before([last])
    assert await check(server, said, before) == Accepted()
    wrong = StoredEvent(join, rejected=True)
    assert rule_of(await check(server, said, before, [wrong])) == AuthRule.AUTH_EVENT_REJECTED
    banned = graph.add(ban(DAVE), last)
    late = graph.add(enter(DAVE), banned)
    await server.accept(banned)
    assert isinstance(await server.accept(late), Rejected)
    after = graph.add(message("y", DAVE), late, cites={**before, late.key: late.event_id})
    with_dave = {**before, late.key: late.event_id}
    assert rule_of(await check(server, after, with_dave)) == AuthRule.AUTH_EVENT_REJECTED
    assert await check(server, after, with_dave, [StoredEvent(late)]) == Accepted()


async def test_an_event_that_its_own_auth_events_refuse_is_refused_by_any_state(
    server: Here,
) -> None:
    graph, last = server.graph, await room_of_bob(server)
    before = graph.before([last])
    nobody = {key: one for key, one in before.items() if key != ("m.room.member", CAROL)}
    said = graph.add(message("x", CAROL), last, cites=nobody)
    assert rule_of(await check(server, said, before)) == AuthRule.SENDER_NOT_JOINED


# Signatures


async def test_signatures_are_not_verified_again(server: Here) -> None:
    """Neither that of the sender's server, nor that of the server that authorises a join."""
    graph, last = server.graph, await room_of_bob(server)
    signed_by_another = graph.add(enter(ERIN), last)
    assert await check(server, signed_by_another, graph.before([last])) == Accepted()
    allow: dict[str, object] = {"join_rule": "restricted", "allow": []}
    rules = graph.add(draft("m.room.join_rules", allow, "", BOB), last)
    await server.accept(rules)
    content: dict[str, object] = {
        "membership": "join",
        "join_authorised_via_users_server": ALICE,
    }
    authorised = graph.add(draft("m.room.member", content, ERIN, ERIN), rules)
    assert await check(server, authorised, graph.before([rules])) == Accepted()
    in_bulk = refused_by_auth_events(authorised)
    assert is_unsigned_join(in_bulk.rule)
    assert in_bulk.reason == "join_unsigned_by_authoriser: or its auth events don't allow it"
    plain = refused_by_auth_events(signed_by_another)
    assert (plain.reason, plain.rule) == ("its auth events don't allow it", None)


@pytest.mark.parametrize("rule", [*AuthRule, None])
def test_only_a_join_that_was_unsigned_stays_refused(rule: AuthRule | None) -> None:
    is_unsigned = rule is AuthRule.JOIN_UNSIGNED_BY_AUTHORISER
    assert is_unsigned_join(rule.value if rule else None) is is_unsigned


async def test_a_refused_event_is_stored_with_the_rule_that_refused_it(server: Here) -> None:
    graph, last = server.graph, await room_of_bob(server)
    failure = AuthFailure(AuthRule.JOIN_UNSIGNED_BY_AUTHORISER, "not signed by hs3")
    writer, join = server.engine.remote_event_writer, graph.add(enter(ERIN), last)
    assert await writer.accept(join, Rejected(failure)) == Rejected(failure)
    [row] = await server.engine.store.events.by_id([join.event_id])
    assert (row.verdict, row.refusal) == (StoredVerdict.REJECTED, refusal_of(failure))
    assert (row.reason, row.rule) == (str(failure), "join_unsigned_by_authoriser")
