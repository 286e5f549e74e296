"""State resolution v1, pass by pass (spec: room version 1, "State resolution")."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha1

import pytest

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.resolution.conflicts import deltas_of, split
from federation.graph.resolution.state_resolution import MissingEvent, resolve
from federation.graph.resolution.state_resolution_v1 import (
    JOIN_RULES_PASS,
    MEMBERS_PASS,
    OTHERS_PASS,
    POWER_LEVELS_PASS,
    pass_of,
    resolve_v1,
)
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, DAVE, Room, ids_of

LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")
TOPIC: StateKey = ("m.room.topic", "")
Ids = dict[StateKey, EventId]


def never(event_id: EventId) -> bool:
    return False


def room() -> Room:
    made = Room("1").open_to(BOB, CAROL, DAVE)
    made.levels(ALICE, {ALICE: 100, BOB: 50})
    return made


def fork(made: Room, *changes: Event) -> Ids:
    return ids_of({**made.state, **{event.key: event for event in changes}})


def resolved(made: Room, *states: Ids) -> Ids:
    result = dict(resolve(made.version, states, event=made.loader(), is_rejected=never))
    backwards = resolve(made.version, states[::-1], event=made.loader(), is_rejected=never)
    assert backwards == result, "the order of states must not matter"
    return result


def by_hash(*events: Event, highest: bool) -> Event:
    choose: Callable[..., Event] = max if highest else min
    return choose(events, key=lambda event: sha1(event.event_id.encode()).hexdigest())


def test_keys_are_resolved_in_passes() -> None:
    assert pass_of(LEVELS) == POWER_LEVELS_PASS
    assert pass_of(RULES) == JOIN_RULES_PASS
    assert pass_of(("m.room.member", ALICE)) == MEMBERS_PASS
    for key in (TOPIC, ("m.room.power_levels", "x"), ("m.room.create", "")):
        assert pass_of(key) == OTHERS_PASS


def test_what_only_some_states_have_is_in_the_union() -> None:
    made = room()
    topic = made.send("m.room.topic", ALICE, {}, "", keep=False)
    left = made.member(ALICE, "ban", CAROL, keep=False)
    without: Ids = {k: v for k, v in fork(made, left).items() if k != ("m.room.member", DAVE)}
    result = resolved(made, fork(made, topic, left), without)
    assert result[TOPIC] == topic.event_id
    assert ("m.room.member", DAVE) in result


def test_power_levels_are_taken_by_depth_as_long_as_each_is_allowed() -> None:
    made = room()
    first = made.levels(ALICE, {ALICE: 100, BOB: 50}, keep=False, depth=50)
    second = made.levels(ALICE, {ALICE: 100, BOB: 0}, keep=False, depth=51)
    by_bob = made.levels(BOB, {ALICE: 100, BOB: 50, CAROL: 50}, keep=False, depth=52)
    later = made.levels(ALICE, {ALICE: 100, BOB: 1}, keep=False, depth=53)
    # Bob's is refused by the second, and nothing after it is looked at.
    states = [fork(made, event) for event in (first, second, by_bob, later)]
    assert resolved(made, *states)[LEVELS] == second.event_id
    # Without the second, Bob's is allowed by the first, and the later one by his.
    assert resolved(made, *(states[0], states[2], states[3]))[LEVELS] == later.event_id


def test_of_one_depth_the_higher_hash_comes_first_so_the_lower_one_stays() -> None:
    made = room()
    several = [made.levels(ALICE, {ALICE: 100, BOB: n}, keep=False, depth=9) for n in range(4)]
    result = resolved(made, *(fork(made, event) for event in several))
    assert result[LEVELS] == by_hash(*several, highest=False).event_id


def test_join_rules_are_checked_against_the_resolved_power_levels() -> None:
    made = room()
    demotion = made.levels(ALICE, {ALICE: 100}, keep=False, depth=60)
    ours = made.join_rule(ALICE, "invite", keep=False, depth=61)
    theirs = made.join_rule(BOB, "knock", keep=False, depth=62)
    result = resolved(made, fork(made, demotion, ours), fork(made, theirs))
    assert result[LEVELS] == demotion.event_id
    assert result[RULES] == ours.event_id
    # Where Bob keeps his level his rule stays, being the deeper one.
    assert resolved(made, fork(made, ours), fork(made, theirs))[RULES] == theirs.event_id


def test_members_are_checked_against_the_resolved_join_rules_but_not_against_each_other() -> None:
    made = room()
    eve = made.member(CAROL, "leave", keep=False, depth=70)
    closed = made.join_rule(ALICE, "invite", keep=False, depth=71)
    back = made.member(CAROL, "join", keep=False, depth=72)
    key = ("m.room.member", CAROL)
    assert resolved(made, fork(made, eve), fork(made, back))[key] == back.event_id
    result = resolved(made, fork(made, eve, closed), fork(made, back))
    assert result[RULES] == closed.event_id
    assert result[key] == eve.event_id
    # Dave bans Carol and is banned himself. His membership is in conflict, so R has none of it
    # when Carol's is looked at, and he may not ban.
    made.levels(ALICE, {ALICE: 100, DAVE: 50})
    on_dave = made.member(ALICE, "ban", DAVE, keep=False, depth=80)
    on_carol = made.member(DAVE, "ban", CAROL, keep=False, depth=81)
    two = resolved(made, fork(made, on_dave), fork(made, on_carol))
    assert two[key] == made.state[key].event_id
    assert two["m.room.member", DAVE] == on_dave.event_id


def test_of_other_events_the_deepest_that_is_allowed_is_taken() -> None:
    made = room()
    topics = [
        made.send("m.room.topic", sender, {"n": depth}, "", keep=False, depth=depth)
        for sender, depth in [(ALICE, 90), (BOB, 91), (CAROL, 92)]
    ]
    # Carol's is the deepest, but not allowed.
    assert resolved(made, *(fork(made, one) for one in topics))[TOPIC] == topics[1].event_id
    demotion = made.levels(ALICE, {ALICE: 100}, keep=False)
    states = [fork(made, topics[0], demotion), fork(made, topics[1]), fork(made, topics[2])]
    assert resolved(made, *states)[TOPIC] == topics[0].event_id


def test_of_one_depth_the_lowest_hash_is_taken() -> None:
    made = room()
    topics = [
        made.send("m.room.topic", ALICE, {"n": n}, "", keep=False, depth=90) for n in range(4)
    ]
    result = resolved(made, *(fork(made, one) for one in topics))
    assert result[TOPIC] == by_hash(*topics, highest=False).event_id


def test_where_none_is_allowed_the_least_deep_is_taken() -> None:
    made = room()
    topics = [
        made.send("m.room.topic", CAROL, {"n": n}, "", keep=False, depth=n) for n in (91, 90, 92)
    ]
    result = resolved(made, *(fork(made, one) for one in topics))
    assert result[TOPIC] == topics[1].event_id


def test_the_choices_say_what_was_tried() -> None:
    made = room()
    topics = [
        made.send("m.room.topic", sender, {}, "", keep=False, depth=depth)
        for sender, depth in [(ALICE, 90), (CAROL, 92)]
    ]
    states = [fork(made, one) for one in topics]
    conflict = split(states[0], deltas_of(states), absence_conflicts=False)
    steps = resolve_v1(made.version, conflict, made.loader())
    (choice,) = steps.choices
    assert choice.key == TOPIC
    assert [step.event_id for step in choice.tried] == [topics[1].event_id, topics[0].event_id]
    assert choice.tried[0].failure is not None
    assert choice.tried[1].failure is None
    assert choice.chosen == topics[0].event_id
    assert steps.resolved == {TOPIC: topics[0].event_id}
    assert steps.algorithm == "v1"


def test_what_is_not_loaded_is_reported_all_at_once() -> None:
    made = room()
    topics = [made.send("m.room.topic", ALICE, {"t": t}, "", keep=False) for t in (1, 2)]
    states = [fork(made, topic) for topic in topics]
    for topic in topics:
        del made.events[topic.event_id]
    with pytest.raises(MissingEvent) as caught:
        resolve(made.version, states, event=made.loader(), is_rejected=never)
    assert caught.value.event_ids == {topic.event_id for topic in topics}
