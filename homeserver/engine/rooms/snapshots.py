"""State as deltas to ancestors, so that the chain to read and the space to keep grow with log n.

A snapshot has an ordinal: 0 for a room's first, one more than its parent's for each further one.
Its base is the ancestor whose ordinal lacks the lowest non-zero digit of its own (base 16):
0x136 -> 0x130 -> 0x100 -> 0. So a chain has at most as many links as the ordinal has digits, and a
change is written once for each of its levels. This module is pure; `storage.snapshots` has the
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import immutables
import msgspec

from federation.events.event import Event
from federation.events.ids import EventId, StateKey, is_user_id

_BASE = 16


class StateRef(msgspec.Struct, frozen=True):
    """What a state map holds for a key: the event, its row, a member's membership."""

    event_id: EventId
    nid: int
    membership: str | None = None


def membership_of(event: Event) -> str | None:
    """The membership that a member event gives to a user; else None.

    The state key may be no user ID, or the membership unknown (of a rejected event): then nobody
    is a member by it, and it stands in the room's state only.
    """
    membership = event.membership
    if membership not in _MEMBERSHIPS or not is_user_id(event.state_key or ""):
        return None
    return membership


_MEMBERSHIPS = frozenset({"join", "invite", "leave", "ban", "knock"})

StateMap = immutables.Map[StateKey, StateRef]
Delta = Mapping[StateKey, StateRef | None]


class EventIds(Mapping[StateKey, EventId]):
    """A state by event IDs, without a walk over it: most who ask want one key or a few."""

    __slots__ = ("_state",)

    def __init__(self, state: StateMap) -> None:
        self._state = state

    def __getitem__(self, key: StateKey) -> EventId:
        return self._state[key].event_id

    def __iter__(self) -> Iterator[StateKey]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


class Link(msgspec.Struct, frozen=True, weakref=True):
    """One snapshot of a chain: what it adds to its base, or removes (None). `removed` names the
    events that stood there, which give a stored delta its keys."""

    ordinal: int
    nid: int
    delta: Delta
    removed: tuple[int, ...] = ()

    @property
    def added(self) -> list[int]:
        """The rows of the events that it adds."""
        return [ref.nid for ref in self.delta.values() if ref is not None]


Chain = tuple[Link, ...]
"""A snapshot with its bases, oldest first; the last is the snapshot itself."""


def base_ordinal(ordinal: int) -> int:
    """The ordinal of the base; ordinal 0 has none."""
    assert ordinal > 0, "the first snapshot has no base"
    unit = 1
    while ordinal % (unit * _BASE) == 0:
        unit *= _BASE
    return ordinal - ordinal // unit % _BASE * unit


def first_chain(nid: int, state: Mapping[StateKey, StateRef]) -> Chain:
    """The chain of a room's first snapshot: a whole state."""
    return (Link(0, nid, dict(state)),)


def extend(chain: Chain, nid: int, change: Delta, parent: Mapping[StateKey, StateRef]) -> Chain:
    """The chain of a new snapshot: `change` applied to `parent`, the state that `chain` is of."""
    ordinal = chain[-1].ordinal + 1
    base = base_ordinal(ordinal)
    keep = next(i for i, link in enumerate(chain) if link.ordinal == base)
    merged = _merged(chain[keep + 1 :])
    merged.update(change)
    removed = {nid for link in chain[keep + 1 :] for nid in link.removed}
    removed.update(parent[key].nid for key, ref in change.items() if ref is None and key in parent)
    if not any(ref is None for ref in merged.values()):
        removed.clear()
    return (*chain[: keep + 1], Link(ordinal, nid, merged, tuple(sorted(removed))))


def state_of(chain: Sequence[Link]) -> StateMap:
    """The state that a chain leads to."""
    whole: dict[StateKey, StateRef] = {}
    for link in chain:
        for key, ref in link.delta.items():
            if ref is None:
                whole.pop(key, None)
            else:
                whole[key] = ref
    return immutables.Map(whole)


def difference(old: Mapping[StateKey, StateRef], new: Mapping[StateKey, StateRef]) -> Delta:
    """What turns `old` into `new`; by a walk over both."""
    changed: dict[StateKey, StateRef | None] = {
        key: ref for key, ref in new.items() if old.get(key) != ref
    }
    changed.update({key: None for key in old if key not in new})
    return changed


def change_between(old: Chain, new: Chain) -> Delta:
    """What turns the state of one chain of a room into that of another, as `difference`.

    Only the keys that a chain sets after the links that both begin with are looked at: what was
    changed since the fork, rounded up to a level of the chain. Chains without a common link (a
    room that was left and joined again) are walked whole.
    """
    if old[-1].nid == new[-1].nid:
        return {}
    shared = 0
    while shared < min(len(old), len(new)) and old[shared].nid == new[shared].nid:
        shared += 1
    before, after = _merged(old[shared:]), _merged(new[shared:])
    change: dict[StateKey, StateRef | None] = {}
    for key, ref in after.items():
        was = before[key] if key in before else held(old[:shared], key)
        if was is not ref and was != ref:
            change[key] = ref
    for key, was in before.items():
        if key not in after and was != (ref := held(old[:shared], key)):
            change[key] = ref
    return change


def _merged(links: Sequence[Link]) -> dict[StateKey, StateRef | None]:
    """What links set, one after the other."""
    merged: dict[StateKey, StateRef | None] = {}
    for link in links:
        merged.update(link.delta)
    return merged


def held(links: Sequence[Link], key: StateKey) -> StateRef | None:
    """What the state that a chain leads to has under a key, without making that state."""
    for link in reversed(links):
        if key in link.delta:
            return link.delta[key]
    return None


def changed(state: StateMap, change: Delta) -> StateMap:
    """A state with some keys changed, sharing the rest."""
    mutation = state.mutate()
    for key, ref in change.items():
        if ref is None:
            mutation.pop(key, None)
        else:
            mutation[key] = ref
    return mutation.finish()
