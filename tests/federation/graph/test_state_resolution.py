"""State resolution v2 and v2.1: each step, the problem cases that tell them apart, properties on
random rooms, and a naive second implementation as witness.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import RoomVersion
from federation.graph.auth_rules import AuthState, check_auth
from federation.graph.state_resolution import (
    MissingEvent,
    is_power_event,
    resolve,
    resolve_steps,
    split_conflicts,
)
from tests.federation.graph.resolution_oracle import Oracle
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, DAVE, Room, ids_of

StateIds = Mapping[StateKey, EventId]
LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")
TOPIC: StateKey = ("m.room.topic", "")
both = pytest.mark.parametrize("name", ["11", "12"])


def member(user: str) -> StateKey:
    return ("m.room.member", user)


def never(event_id: EventId) -> bool:
    return False


def resolved(
    room: Room, *states: StateIds, version: RoomVersion | None = None, rejected: Any = never
) -> StateIds:
    return resolve(version or room.version, states, event=room.loader(), is_rejected=rejected)


def fork(room: Room, *changes: Event) -> StateIds:
    """The room's state with some entries replaced."""
    return ids_of({**room.state, **{event.key: event for event in changes}})


def admins(room: Room, **users: int) -> dict[str, int]:
    """Users of a power levels event: the creator where one must say so, and others by name."""
    given: dict[str, int] = {} if room.version.creators_are_privileged else {ALICE: 100}
    known = {"bob": BOB, "carol": CAROL, "dave": DAVE}
    return {**given, **{known[name]: level for name, level in users.items()}}


# --- definitions --------------------------------------------------------------------------------


def test_a_key_is_unconflicted_when_all_states_have_the_same_event() -> None:
    a, b, c = EventId("$a"), EventId("$b"), EventId("$c")
    same, differs, lacking = ("same", ""), ("differs", ""), ("lacking", "")
    unconflicted, conflicted = split_conflicts(
        [
            {same: a, differs: b, lacking: c},
            {same: a, differs: c, lacking: c},
            {same: a, differs: b},
        ]
    )
    assert unconflicted == {same: a}
    assert conflicted == [{b, c}, {c}, {b}]


def test_power_events_are_those_that_may_take_something_away() -> None:
    room = Room("11").open_to(BOB)
    power = [
        room.state[LEVELS],
        room.state[RULES],
        room.member(ALICE, "leave", BOB, keep=False),
        room.member(ALICE, "ban", BOB, keep=False),
    ]
    others = [
        room.create,
        room.member(BOB, "leave", keep=False),
        room.member(BOB, "join", keep=False),
        room.member(ALICE, "invite", BOB, keep=False),
        room.send("m.room.power_levels", ALICE, {}, keep=False),
        room.send("m.room.topic", ALICE, {}, "", keep=False),
    ]
    assert all(map(is_power_event, power))
    assert not any(map(is_power_event, others))


# --- steps --------------------------------------------------------------------------------------


@both
def test_one_state_or_equal_ones_resolve_to_themselves(name: str) -> None:
    room = Room(name).open_to(BOB)
    state = ids_of(room.state)
    assert resolved(room, state) == state
    assert resolved(room, state, dict(state), state) == state


@both
def test_what_one_branch_adds_is_kept(name: str) -> None:
    room = Room(name).open_to(BOB)
    topic = room.send("m.room.topic", ALICE, {}, "", keep=False)
    assert resolved(room, ids_of(room.state), fork(room, topic)) == fork(room, topic)


@both
def test_a_ban_beats_a_concurrent_act_of_the_banned(name: str) -> None:
    room = Room(name).open_to(BOB)
    room.levels(ALICE, admins(room, bob=50))
    ban = room.member(ALICE, "ban", BOB, keep=False, ts=900)
    topic = room.send("m.room.topic", BOB, {}, "", keep=False, ts=100)
    assert resolved(room, fork(room, topic), fork(room, ban)) == fork(room, ban)


@both
def test_a_demotion_beats_a_concurrent_act_of_the_demoted(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL)
    room.levels(ALICE, admins(room, bob=50))
    demotion = room.levels(ALICE, admins(room), keep=False, ts=900)
    kick = room.member(BOB, "leave", CAROL, keep=False, ts=100)
    assert resolved(room, fork(room, kick), fork(room, demotion)) == fork(room, demotion)


@both
def test_power_events_of_the_more_powerful_come_first(name: str) -> None:
    room = Room(name).open_to(BOB)
    room.levels(ALICE, admins(room, bob=50))
    by_alice = room.join_rule(ALICE, "invite", keep=False, ts=900)
    by_bob = room.join_rule(BOB, "knock", keep=False, ts=100)
    steps = resolve_steps(
        room.version,
        [fork(room, by_alice), fork(room, by_bob)],
        event=room.loader(),
        is_rejected=never,
    )
    assert [step.event_id for step in steps.power_events] == [by_alice.event_id, by_bob.event_id]
    assert steps.state[RULES] == by_bob.event_id  # the last one applied stays


@both
def test_power_events_of_equals_go_by_time_then_by_id(name: str) -> None:
    room = Room(name).open_to(BOB)
    rules = [room.join_rule(ALICE, rule, keep=False, ts=5) for rule in ("a", "b", "c")]
    early = room.join_rule(ALICE, "early", keep=False, ts=4)
    states = [fork(room, event) for event in (*rules, early)]
    by_id = max(event.event_id for event in rules)
    assert resolved(room, *states)[RULES] == by_id
    assert resolved(room, *reversed(states))[RULES] == by_id


@both
def test_other_events_go_by_the_mainline_before_time(name: str) -> None:
    room = Room(name).open_to(BOB)
    old_topic = room.send("m.room.topic", ALICE, {"topic": "old"}, "", keep=False, ts=900)
    before = ids_of(room.state)
    room.levels(ALICE, admins(room, bob=1))
    new_topic = room.send("m.room.topic", ALICE, {"topic": "new"}, "", keep=False, ts=100)
    state = resolved(room, {**before, TOPIC: old_topic.event_id}, fork(room, new_topic))
    assert state[TOPIC] == new_topic.event_id
    assert state[LEVELS] == room.state[LEVELS].event_id


@both
def test_other_events_of_one_mainline_position_go_by_time_then_by_id(name: str) -> None:
    room = Room(name).open_to(BOB)
    topics = [
        room.send("m.room.topic", ALICE, {"topic": text}, "", keep=False, ts=ts)
        for text, ts in [("a", 9), ("b", 9), ("c", 8)]
    ]
    state = resolved(room, *(fork(room, topic) for topic in topics))
    assert state[TOPIC] == max(topics[0].event_id, topics[1].event_id)


@both
def test_what_is_unconflicted_stays_whatever_was_replayed(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL)
    room.levels(ALICE, admins(room, bob=50))
    rejoined_after = room.member(ALICE, "leave", CAROL)
    state = resolved(
        room,
        fork(room, room.send("m.room.topic", BOB, {}, "", keep=False)),
        fork(room, room.join_rule(ALICE, "invite", keep=False)),
    )
    assert state[member(CAROL)] == rejoined_after.event_id


def test_a_rejected_auth_event_lends_no_power() -> None:
    room = Room("11").open_to(BOB)
    # Bob's promotion was rejected, but he cites it; both branches have seen it.
    promotion = room.levels(ALICE, admins(room, bob=50), keep=False)
    cited = [room.create, promotion, room.state[member(BOB)]]
    topics = [room.send("m.room.topic", BOB, {"t": t}, "", auth=cited, keep=False) for t in (1, 2)]
    without = {key: value for key, value in ids_of(room.state).items() if key != LEVELS}
    states = [{**without, TOPIC: topic.event_id} for topic in topics]
    assert resolved(room, *states)[TOPIC] == topics[1].event_id
    assert TOPIC not in resolved(room, *states, rejected={promotion.event_id}.__contains__)


@both
def test_what_is_not_loaded_is_reported_all_at_once(name: str) -> None:
    room = Room(name).open_to(BOB)
    topics = [room.send("m.room.topic", ALICE, {"t": t}, "", keep=False) for t in (1, 2)]
    states = [fork(room, topic) for topic in topics]
    for topic in topics:
        del room.events[topic.event_id]
    with pytest.raises(MissingEvent) as caught:
        resolved(room, *states)
    assert caught.value.event_ids == {topic.event_id for topic in topics}
    assert caught.value.event_id in caught.value.event_ids


def test_no_chain_of_unconflicted_state_is_walked_for_a_plain_conflict() -> None:
    room = Room("11").open_to(BOB, CAROL, DAVE)
    topics = [room.send("m.room.topic", ALICE, {"t": t}, "", keep=False) for t in (1, 2)]
    states = [fork(room, topic) for topic in topics]
    del room.events[room.state[member(DAVE)].event_id]
    assert resolved(room, *states)[TOPIC] == topics[1].event_id


def test_states_that_agree_have_no_steps() -> None:
    room = Room("11").open_to()
    state = ids_of(room.state)
    steps = resolve_steps(
        room.version, [state, dict(state)], event=room.loader(), is_rejected=never
    )
    assert steps.state == state
    assert (steps.full_conflicted, steps.power_events, steps.others) == (frozenset(), (), ())


def test_a_power_event_that_cites_no_create_event_has_the_power_of_nobody() -> None:
    room = Room("11").open_to(BOB)
    bare = room.join_rule(ALICE, "invite", auth=[], keep=False, ts=1)
    sound = room.join_rule(ALICE, "knock", keep=False, ts=900)
    steps = resolve_steps(
        room.version,
        [fork(room, bare), fork(room, sound)],
        event=room.loader(),
        is_rejected=never,
    )
    order = [step.event_id for step in steps.power_events]
    assert order.index(sound.event_id) < order.index(bare.event_id)


def test_the_steps_say_why_an_event_was_left_out() -> None:
    room = Room("11").open_to(BOB)
    room.levels(ALICE, admins(room, bob=50))
    ban = room.member(ALICE, "ban", BOB, keep=False)
    topic = room.send("m.room.topic", BOB, {}, "", keep=False)
    steps = resolve_steps(
        room.version, [fork(room, topic), fork(room, ban)], event=room.loader(), is_rejected=never
    )
    (left_out,) = [step for step in steps.others if step.failure is not None]
    assert left_out.event_id == topic.event_id
    assert "sender_not_joined" in str(left_out.failure)
    assert {ban.event_id, topic.event_id} <= steps.full_conflicted
    assert steps.unconflicted[RULES] == room.state[RULES].event_id


# --- the cases of MSC4297, that tell v2 from v2.1 -----------------------------------------------


def variants(room: Room) -> tuple[RoomVersion, RoomVersion]:
    """The room's version with each algorithm, so that one graph serves both."""
    return replace(room.version, state_resolution="v2"), replace(
        room.version, state_resolution="v2.1"
    )


@both
def test_problem_a_rules_set_by_someone_who_left_are_lost_in_v2_only(name: str) -> None:
    room = Room(name).open_to(BOB)
    stale = room.state[RULES]
    latest = room.join_rule(ALICE, "invite")
    room.member(ALICE, "leave")
    v2, v2_1 = variants(room)
    states = [ids_of(room.state), fork(room, stale)]
    assert RULES not in resolved(room, *states, version=v2)
    assert resolved(room, *states, version=v2_1)[RULES] == latest.event_id


@both
def test_problem_b_a_chain_of_promotions_is_cut_in_v2_only(name: str) -> None:
    room = Room(name).open_to(BOB, CAROL)
    extra = {"events": {"m.room.power_levels": 50}}
    stale = room.levels(ALICE, admins(room), extra=extra)
    room.levels(ALICE, admins(room, bob=50), extra=extra)
    latest = room.levels(BOB, admins(room, bob=50, carol=50), extra=extra)
    # Both branches have seen all promotions, through what was sent under the latest levels.
    room.send("m.room.topic", CAROL, {}, "")
    v2, v2_1 = variants(room)
    states = [ids_of(room.state), fork(room, stale)]
    assert resolved(room, *states, version=v2)[LEVELS] == stale.event_id
    assert resolved(room, *states, version=v2_1)[LEVELS] == latest.event_id


# --- properties on random rooms -----------------------------------------------------------------

USERS = (ALICE, BOB, CAROL, DAVE)


class RandomRoom:
    """A room that grows at random: forks, merges, and now and then a stale state, as another
    server might have claimed it."""

    def __init__(self, name: str, seed: int, steps: int) -> None:
        self.random = random.Random(seed)
        self.room = Room(name).open_to(BOB, CAROL, levels={BOB: 60, CAROL: 50})
        self.nodes: list[tuple[Event, StateIds]] = [(self.room.last, ids_of(self.room.state))]
        self.rejected: set[EventId] = set()
        for _ in range(steps):
            self.step()

    def resolve(self, states: Sequence[StateIds]) -> StateIds:
        return resolve(
            self.room.version,
            states,
            event=self.room.loader(),
            is_rejected=self.rejected.__contains__,
        )

    def step(self) -> None:
        count = self.random.choice((1, 1, 1, 2))
        recent = self.nodes[-6:]
        parents = self.random.sample(recent, min(count, len(recent)))
        state = dict(self.resolve([state for _, state in parents]))
        if self.random.random() < 0.15:
            self.make_stale(state)
        loaded = {key: self.room.events[event_id] for key, event_id in state.items()}
        event = self.act(loaded, [event for event, _ in parents])
        failure = check_auth(event, AuthState(self.room.version, loaded.get))
        if failure is None:
            state[event.key] = event.event_id
        elif self.random.random() < 0.8:
            return
        else:
            self.rejected.add(event.event_id)
        self.nodes.append((event, state))

    def make_stale(self, state: dict[StateKey, EventId]) -> None:
        _, older = self.random.choice(self.nodes)
        key = self.random.choice(sorted(older))
        state[key] = older[key]

    def act(self, state: Mapping[StateKey, Event], prev: Sequence[Event]) -> Event:
        sender, target = self.random.choice(USERS), self.random.choice(USERS)
        options: dict[str, Any] = {
            "state": state,
            "prev": prev,
            "ts": self.random.randint(1, 8),
            "keep": False,
        }
        choice = self.random.randrange(7)
        if choice == 0:
            users: dict[str, int] = {
                u: self.random.choice((0, 50, 60, 100)) for u in self.random.sample(USERS, 2)
            }
            if self.room.version.creators_are_privileged:
                users.pop(ALICE, None)
            elif self.random.random() < 0.8:
                users[ALICE] = 100
            extra = {"events": {"m.room.power_levels": self.random.choice((50, 60))}}
            return self.room.levels(sender, users, extra=extra, **options)
        if choice == 1:
            rule = self.random.choice(("public", "invite", "knock"))
            return self.room.join_rule(sender, rule, **options)
        if choice in (2, 3):
            return self.room.member(sender, self.random.choice(("join", "leave")), **options)
        if choice == 4:
            membership = self.random.choice(("ban", "leave", "invite"))
            return self.room.member(sender, membership, target, **options)
        content = {"n": self.random.randrange(3)}
        return self.room.send("m.room.topic", sender, content, "", **options)

    def pick(self, count: int) -> list[StateIds]:
        return [self.random.choice(self.nodes)[1] for _ in range(count)]


SEEDS = st.integers(0, 2**32)
NAMES = st.sampled_from(["3", "6", "9", "10", "11", "12"])


@settings(max_examples=500, deadline=None)
@given(NAMES, SEEDS, st.integers(3, 30), st.integers(2, 4))
def test_it_agrees_with_a_naive_implementation(
    name: str, seed: int, steps: int, count: int
) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(count)
    oracle = Oracle(made.room.version, made.room.events, made.rejected.__contains__)
    assert made.resolve(states) == oracle.resolve(states)


@settings(max_examples=200, deadline=None)
@given(NAMES, SEEDS, st.integers(3, 25))
def test_the_text_to_the_letter_replays_more_only_of_what_is_unconflicted(
    name: str, seed: int, steps: int
) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(2)
    oracle = Oracle(made.room.version, made.room.events, made.rejected.__contains__)
    unconflicted, conflicted = split_conflicts(states)
    literal = oracle.auth_difference(states, with_state=False)
    ours = oracle.auth_difference(states, with_state=True)
    known = set().union(*conflicted)
    assert literal - ours - known <= set(unconflicted.values())
    assert ours - literal <= known


@settings(max_examples=200, deadline=None)
@given(NAMES, SEEDS, st.integers(3, 25), st.integers(2, 4))
def test_it_depends_on_the_set_of_states_alone(
    name: str, seed: int, steps: int, count: int
) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(count)
    result = made.resolve(states)
    shuffled = [dict(sorted(state.items(), reverse=True)) for state in states]
    made.random.shuffle(shuffled)
    assert made.resolve([*shuffled, shuffled[0]]) == result


@settings(max_examples=100, deadline=None)
@given(NAMES, SEEDS, st.integers(3, 25))
def test_resolving_a_result_with_itself_changes_nothing(name: str, seed: int, steps: int) -> None:
    made = RandomRoom(name, seed, steps)
    result = made.resolve(made.pick(2))
    assert made.resolve([result, dict(result)]) == result
    unconflicted, _ = split_conflicts(made.pick(2))
    assert made.resolve([unconflicted]) == unconflicted
