"""State resolution v2 and v2.1: each step, the problem cases that tell them apart, properties on
random rooms, and a naive second implementation as witness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.events.event import Event
from federation.events.ids import EventId, StateKey, UserId
from federation.events.room_versions import RoomVersion
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.chains import Citations, loader
from federation.graph.resolution.conflicts import (
    Conflict,
    Resolution,
    StateEvents,
    deltas_of,
    split,
)
from federation.graph.resolution.mainline import mainline_of
from federation.graph.resolution.state_resolution import (
    MissingEvent,
    is_power_event,
    resolve,
    resolve_deltas,
    resolve_steps,
)
from tests.federation.graph.random_room import RandomRoom
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


def steps_of(room: Room, *states: StateIds, rejected: Any = never) -> Resolution:
    return resolve_steps(
        room.version,
        states[0],
        deltas_of(states),
        event=room.loader(),
        is_rejected=rejected,
    )


def conflict_of(states: Sequence[StateIds], *, absence_conflicts: bool = True) -> Conflict:
    return split(states[0], deltas_of(states), absence_conflicts=absence_conflicts)


def fork(room: Room, *changes: Event) -> StateIds:
    """Returns the room's state with some entries replaced."""
    return ids_of({**room.state, **{event.key: event for event in changes}})


def admins(room: Room, **users: int) -> dict[str, int]:
    """Returns users of a power levels event: the creator where one must say so, and others by
    name."""
    given: dict[str, int] = {} if room.version.creators_are_privileged else {ALICE: 100}
    known = {"bob": BOB, "carol": CAROL, "dave": DAVE}
    return {**given, **{known[name]: level for name, level in users.items()}}


# --- definitions --------------------------------------------------------------------------------


def test_a_key_is_unconflicted_when_all_states_have_the_same_event() -> None:
    a, b, c = EventId("$a"), EventId("$b"), EventId("$c")
    same, differs, lacking = ("same", ""), ("differs", ""), ("lacking", "")
    states = [
        {same: a, differs: b, lacking: c},
        {same: a, differs: c, lacking: c},
        {same: a, differs: b},
    ]
    conflict = conflict_of(states)
    assert dict(conflict.unconflicted) == {same: a}
    assert conflict.sets == [{b, c}, {c}, {b}]
    assert conflict.by_key == {differs: (b, c, b), lacking: (c, c, None)}
    in_v1 = conflict_of(states, absence_conflicts=False)
    assert dict(in_v1.unconflicted) == {same: a, lacking: c}
    assert in_v1.by_key == {differs: (b, c, b)}


def test_states_are_a_base_and_what_each_changes_of_it() -> None:
    a, b, c = EventId("$a"), EventId("$b"), EventId("$c")
    k, m, n, o = ("k", ""), ("m", ""), ("n", ""), ("o", "")
    base = {k: a, m: a, n: a}
    deltas: list[dict[StateKey, EventId | None]] = [{k: b, m: None}, {k: b, n: c, m: None, o: None}]
    conflict = split(base, deltas, absence_conflicts=True)
    assert dict(conflict.unconflicted) == {k: b}
    assert len(conflict.unconflicted) == 1
    assert conflict.by_key == {n: (a, c)}
    assert m not in conflict.unconflicted
    assert len(StateEvents(conflict.unconflicted, loader({}))) == 1
    assert list(StateEvents(conflict.unconflicted, loader({}))) == [b]
    assert conflict.sets == [{a}, {c}]


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
    steps = steps_of(room, fork(room, by_alice), fork(room, by_bob))
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
def test_an_event_off_the_mainline_stands_where_its_power_levels_join_it(name: str) -> None:
    room = Room(name).open_to(BOB)
    oldest = room.state[LEVELS]
    on_oldest = room.send("m.room.topic", ALICE, {"t": "oldest"}, "", keep=False, ts=900)
    joint = room.levels(ALICE, admins(room, bob=50))
    lost = room.levels(ALICE, admins(room, bob=70), keep=False, ts=10)
    won = room.levels(ALICE, admins(room, bob=60), keep=False, ts=50)
    on_lost = room.send(
        "m.room.topic",
        ALICE,
        {"t": "lost"},
        "",
        keep=False,
        ts=100,
        state={**room.state, LEVELS: lost},
    )
    steps = steps_of(room, fork(room, won, on_oldest), fork(room, lost, on_lost))
    assert steps.power_levels == won.event_id
    mainline = mainline_of(steps.power_levels, room.loader())
    assert mainline == (won.event_id, joint.event_id, oldest.event_id)
    assert steps.positions[on_lost.event_id] == 1
    assert steps.positions[on_oldest.event_id] == 2
    assert steps.state[TOPIC] == on_lost.event_id
    assert steps.state[LEVELS] == won.event_id


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
    steps = steps_of(room, state, dict(state))
    assert steps.state == state
    assert (steps.full_conflicted, steps.power_events, steps.others) == (frozenset(), (), ())


def test_a_power_event_that_cites_no_create_event_has_the_power_of_nobody() -> None:
    room = Room("11").open_to(BOB)
    bare = room.join_rule(ALICE, "invite", auth=[], keep=False, ts=1)
    sound = room.join_rule(ALICE, "knock", keep=False, ts=900)
    steps = steps_of(room, fork(room, bare), fork(room, sound))
    order = [step.event_id for step in steps.power_events]
    assert order.index(sound.event_id) < order.index(bare.event_id)


def test_an_event_without_a_create_event_takes_no_power_from_the_others() -> None:
    room = Room("11")
    room.member(ALICE, "join")
    sound = room.join_rule(ALICE, "knock", keep=False, ts=900)
    bare = [room.join_rule(ALICE, f"x{n}", auth=[], keep=False, ts=n) for n in range(20)]
    steps = steps_of(room, *(fork(room, event) for event in (*bare, sound)))
    assert steps.sender_levels[sound.event_id] == 100
    assert {steps.sender_levels[event.event_id] for event in bare} == {0}
    assert steps.power_events[0].event_id == sound.event_id


def test_of_two_create_events_of_one_room_each_gives_its_own_creator_the_power() -> None:
    # Up to version 11 one server can make two rooms of one ID, and lead a fork from one to the
    # other.
    first, second = Room("11"), Room("11", creator=UserId("@mallory:a"))
    rules = []
    for room, ts in ((first, 5), (second, 900)):
        creator = room.create.sender
        room.member(creator, "join")
        rules.append(room.join_rule(creator, "knock", keep=False, ts=ts))
        rules.append(room.join_rule(creator, "invite", keep=False, ts=1_000 - ts))
    first.events.update(second.events)
    steps = steps_of(first, *(fork(first, event) for event in rules))
    assert {steps.sender_levels[event.event_id] for event in rules} == {100}


def test_the_steps_say_why_an_event_was_left_out() -> None:
    room = Room("11").open_to(BOB)
    room.levels(ALICE, admins(room, bob=50))
    ban = room.member(ALICE, "ban", BOB, keep=False)
    topic = room.send("m.room.topic", BOB, {}, "", keep=False)
    steps = steps_of(room, fork(room, topic), fork(room, ban))
    (left_out,) = [step for step in steps.others if step.failure is not None]
    assert left_out.event_id == topic.event_id
    assert "sender_not_joined" in str(left_out.failure)
    assert {ban.event_id, topic.event_id} <= steps.full_conflicted
    assert steps.unconflicted[RULES] == room.state[RULES].event_id


# --- the cases of MSC4297, that tell v2 from v2.1 -----------------------------------------------


def variants(room: Room) -> tuple[RoomVersion, RoomVersion]:
    """Returns the room's version with each algorithm, so that one graph serves both."""
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


@both
def test_an_unban_is_taken_back_where_the_unbanner_was_demoted_and_a_branch_lacks_both(
    name: str,
) -> None:
    """Of the two algorithms' making, not ours: power events go by their senders' power, and only
    `auth_events` hold an order up. What a more powerful user did later comes first."""
    room = Room(name).open_to(BOB, CAROL)
    room.levels(ALICE, admins(room, bob=50))
    ban = room.member(ALICE, "ban", CAROL)
    old = ids_of(room.state)
    unban = room.member(BOB, "leave", CAROL)
    unbanned = ids_of(room.state)
    room.levels(ALICE, admins(room))
    for version in variants(room):
        oracle = Oracle(version, room.events, never)
        for states, outcome in (
            ([unbanned, old], unban),
            ([ids_of(room.state), old], ban),
            ([ids_of(room.state), unbanned], unban),
        ):
            found = resolved(room, *states, version=version)
            assert found == oracle.resolve(states)
            assert found[member(CAROL)] == outcome.event_id


# --- properties on random rooms -----------------------------------------------------------------

SEEDS = st.integers(0, 2**32)
NAMES = st.sampled_from(["1", "2", "3", "6", "9", "10", "11", "12"])
LATER_NAMES = st.sampled_from(["2", "6", "11", "12"])


@settings(max_examples=500, deadline=None)
@given(NAMES, SEEDS, st.integers(3, 30), st.integers(2, 4))
def test_it_agrees_with_a_naive_implementation(
    name: str, seed: int, steps: int, count: int
) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(count)
    oracle = Oracle(made.room.version, made.room.events, made.rejected.__contains__)
    expected = oracle.resolve(states)
    assert made.resolve(states) == expected
    assert made.resolve(states, chains=made.chains) == expected, "with chains kept all along"
    assert made.resolve(states, chains=AuthChains(lines_max=3)) == expected, "walked, or in part"


@settings(max_examples=200, deadline=None)
@given(LATER_NAMES, SEEDS, st.integers(3, 25))
def test_the_text_to_the_letter_replays_more_only_of_what_is_unconflicted(
    name: str, seed: int, steps: int
) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(2)
    oracle = Oracle(made.room.version, made.room.events, made.rejected.__contains__)
    conflict = conflict_of(states)
    literal = oracle.auth_difference(states, with_state=False)
    ours = oracle.auth_difference(states, with_state=True)
    known = set().union(*conflict.sets)
    assert literal - ours - known <= set(conflict.unconflicted.values())
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
    unconflicted = conflict_of(made.pick(2)).unconflicted
    assert made.resolve([unconflicted]) == unconflicted


@settings(max_examples=200, deadline=None)
@given(NAMES, SEEDS, st.integers(3, 25), st.integers(2, 4), st.booleans())
def test_deltas_of_any_base_resolve_as_whole_states_do(
    name: str, seed: int, steps: int, count: int, with_index: bool
) -> None:
    made = RandomRoom(name, seed, steps)
    states = made.pick(count)
    (base,) = made.pick(1)
    deltas = deltas_of([base, *states])[1:]
    changes = resolve_deltas(
        made.room.version,
        base,
        deltas,
        event=made.room.loader(),
        is_rejected=made.rejected.__contains__,
        reached=Citations(made.room.events.values()).reached if with_index else None,
    )
    whole = {**base, **changes}
    assert {key: found for key, found in whole.items() if found is not None} == made.resolve(states)
    assert not any(base.get(key) == found for key, found in changes.items())


@pytest.mark.parametrize("name", ["2", "11", "12"])
def test_a_base_is_never_walked_when_an_index_answers(name: str) -> None:
    room = Room(name).open_to(BOB)
    before = dict(room.state)
    # The first promotion is replaced, so that it is in the auth difference alone.
    room.levels(ALICE, admins(room, bob=50))
    room.levels(BOB, admins(room, bob=50))
    topics = [
        room.send("m.room.topic", ALICE, {"t": 1}, "", keep=False),
        room.send("m.room.topic", ALICE, {"t": 2}, "", keep=False, state=before),
    ]
    deltas: list[dict[StateKey, EventId | None]] = [
        {LEVELS: room.state[LEVELS].event_id, TOPIC: topics[0].event_id},
        {TOPIC: topics[1].event_id},
    ]
    changes = resolve_deltas(
        room.version,
        Unwalkable(ids_of(before)),
        deltas,
        event=room.loader(),
        is_rejected=never,
        reached=Citations(room.events.values()).reached,
    )
    assert changes[LEVELS] == room.state[LEVELS].event_id
    assert set(changes) == {LEVELS, TOPIC}


class Unwalkable(Mapping[StateKey, EventId]):
    """A state that answers for a key and refuses to be walked."""

    def __init__(self, state: StateIds) -> None:
        self._state = state

    def __getitem__(self, key: StateKey) -> EventId:
        return self._state[key]

    def __iter__(self) -> Iterator[StateKey]:
        raise AssertionError("the base is walked")

    def __len__(self) -> int:
        raise AssertionError("the base is counted")
