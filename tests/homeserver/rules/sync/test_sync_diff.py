"""Which state a sync sends."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from federation.events.ids import EventId, StateKey
from homeserver.rules.sync.sync_diff import changes_summary, heroes, last, state_delta

TOPIC: StateKey = ("m.room.topic", "")
NAME: StateKey = ("m.room.name", "")


class Change(NamedTuple):
    key: StateKey
    event_id: EventId | None


class Ref(NamedTuple):
    event_id: EventId
    row_id: int
    membership: str | None = None


def change(key: StateKey, event_id: str | None) -> Change:
    return Change(key, EventId(event_id) if event_id is not None else None)


def member(user: str) -> StateKey:
    return ("m.room.member", user)


def test_a_change_in_the_gap_is_sent_and_one_in_the_timeline_is_not() -> None:
    changes = [(5, change(TOPIC, "$gap")), (9, change(NAME, "$shown"))]
    assert state_delta(changes, start=8, timeline={EventId("$shown")}) == {TOPIC: "$gap"}


def test_of_a_key_that_changed_in_the_gap_and_in_the_timeline_the_former_value_is_sent() -> None:
    changes = [
        (5, change(TOPIC, "$old")),
        (6, change(TOPIC, "$gap")),
        (9, change(TOPIC, "$shown")),
    ]
    assert state_delta(changes, start=8, timeline={EventId("$shown")}) == {TOPIC: "$gap"}


def test_a_change_by_a_merge_is_sent_wherever_it_lies() -> None:
    changes = [(9, change(TOPIC, "$elsewhere"))]
    assert state_delta(changes, start=8, timeline={EventId("$shown")}) == {TOPIC: "$elsewhere"}


def test_a_key_without_event_is_left_out() -> None:
    changes = [(5, change(TOPIC, "$old")), (6, change(TOPIC, None))]
    assert state_delta(changes, start=8, timeline=set()) == {}
    assert last(changes) == {}


keys = st.sampled_from([TOPIC, NAME, member("@a:x"), member("@b:x")])


@given(st.lists(keys, max_size=12), st.integers(0, 13))
def test_state_then_timeline_gives_what_last_gives(changed: list[StateKey], start: int) -> None:
    """Every change by its own event, the newest ones in the timeline: both ways agree."""
    changes = [(i, change(key, f"${i}")) for i, key in enumerate(changed)]
    timeline = {
        one.event_id for position, one in changes if position >= start and one.event_id is not None
    }
    state = dict(state_delta(changes, start=start, timeline=timeline))
    for position, one in changes:
        if position >= start and one.event_id is not None:
            state[one.key] = one.event_id
    assert state == last(changes)


def test_heroes_are_the_first_who_are_there() -> None:
    state = {
        member(f"@u{row_id}:x"): Ref(EventId(f"${row_id}"), row_id, membership)
        for row_id, membership in [
            (9, "join"),
            (1, "leave"),
            (4, "invite"),
            (2, "join"),
            (3, "ban"),
        ]
    }
    state[TOPIC] = Ref(EventId("$t"), 0)
    assert heroes(state, 2) == ["@u2:x", "@u4:x"]
    assert heroes(state) == ["@u2:x", "@u4:x", "@u9:x"]


def test_where_nobody_else_is_left_heroes_are_those_who_left() -> None:
    state = {
        member("@me:x"): Ref(EventId("$1"), 1, "join"),
        member("@gone:x"): Ref(EventId("$2"), 2, "leave"),
        member("@banned:x"): Ref(EventId("$3"), 3, "ban"),
    }
    assert heroes(state) == ["@me:x", "@gone:x", "@banned:x"]


def test_the_summary_follows_members_and_names() -> None:
    assert changes_summary([(1, change(member("@a:x"), "$1"))])
    assert changes_summary([(1, change(NAME, "$1"))])
    assert not changes_summary([(1, change(TOPIC, "$1"))])
