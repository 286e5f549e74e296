"""Snapshots as deltas: what differs between two states is read off their chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import immutables
from hypothesis import given
from hypothesis import strategies as st

from federation.events.ids import EventId, StateKey
from homeserver.engine.rooms.snapshots import (
    Chain,
    Delta,
    Link,
    StateMap,
    StateRef,
    change_between,
    changed,
    difference,
    extend,
    first_chain,
    state_of,
)

KEYS: Sequence[StateKey] = [("m.x", str(number)) for number in range(8)]
State = tuple[StateMap, Chain]


def ref(number: int) -> StateRef:
    return StateRef(EventId(f"${number}"), number)


class History:
    """States of a room, each made from an earlier one."""

    def __init__(self, first: Mapping[StateKey, StateRef]) -> None:
        self.row_id = 1000
        self.states: list[State] = [(immutables.Map(first), first_chain(self.row_id, first))]

    def step(self, parent: int, changes: Mapping[int, int | None]) -> None:
        """One more state; `changes` are event numbers by the index of their key."""
        state, chain = self.states[parent % len(self.states)]
        self.row_id += 1
        change: Delta = {
            KEYS[key]: None if number is None else ref(number) for key, number in changes.items()
        }
        self.states.append((changed(state, change), extend(chain, self.row_id, change, state)))


CHANGES = st.dictionaries(
    st.integers(0, len(KEYS) - 1), st.none() | st.integers(0, 20), min_size=0, max_size=3
)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A room whose state forks, also after many changes in a row: past a level of the chain."""
    first = draw(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 20).map(ref)))
    history = History(first)
    for _ in range(draw(st.integers(0, 40))):
        history.step(-1, draw(CHANGES))
    for _ in range(draw(st.integers(0, 20))):
        history.step(draw(st.integers(0, 60)), draw(CHANGES))
    return history


@given(histories(), st.data())
def test_what_differs_is_read_off_the_chains(history: History, data: st.DataObject) -> None:
    index = st.integers(0, len(history.states) - 1)
    for _ in range(5):
        old, new = history.states[data.draw(index)], history.states[data.draw(index)]
        assert change_between(old[1], new[1]) == difference(old[0], new[0])


@given(histories())
def test_a_chain_leads_to_its_state(history: History) -> None:
    for state, chain in history.states:
        assert state_of(chain) == state


@given(histories(), histories())
def test_chains_without_a_common_link_are_compared_whole(one: History, two: History) -> None:
    old, (new, chain) = one.states[-1], two.states[-1]
    apart = tuple(
        Link(link.ordinal, link.row_id + 10_000, link.delta, link.removed) for link in chain
    )
    assert change_between(old[1], apart) == difference(old[0], new)


def test_only_the_keys_that_were_set_since_the_fork_are_looked_at() -> None:
    class Counted(dict[StateKey, StateRef | None]):
        walked = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            Counted.walked += 1
            return super().__iter__()

    whole = Counted({("m.room.member", str(number)): ref(number) for number in range(1000)})
    base: Chain = (Link(0, 1, whole),)
    state = state_of(base)
    Counted.walked = 0
    one = extend(base, 2, {KEYS[0]: ref(1)}, state)
    two = extend(base, 3, {KEYS[1]: ref(2)}, state)
    assert change_between(one, two) == {KEYS[0]: None, KEYS[1]: ref(2)}
    assert Counted.walked == 0
