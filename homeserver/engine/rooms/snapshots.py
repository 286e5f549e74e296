"""State as deltas to ancestors, so that the length of a chain and the stored size grow with log n.

A snapshot has an ordinal: 0 for a room's first, one more than its parent's for each further one.
Its base is the ancestor whose ordinal lacks the lowest non-zero digit of its own (base 16): 0x136
-> 0x130 -> 0x100 -> 0. So a chain has at most as many links as the ordinal has digits, and a change
is written once for each of its levels. This module is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import immutables
import msgspec

from federation.events.event import Event
from federation.events.ids import EventId, StateKey, is_user_id
from homeserver.storage.rooms.snapshots import SnapshotRow

_BASE = 16


class StateRef(msgspec.Struct, frozen=True):
    """The entry of a state map for a key: the event, its row, a member's membership."""

    event_id: EventId
    row_id: int
    membership: str | None = None


def membership_of(event: Event) -> str | None:
    """Returns the membership that a member event gives to a user; else None.

    The state key may not be a user ID, or the membership unknown (of a rejected event): then the
    event gives no membership, and is only part of the room's state.
    """
    membership = event.membership
    if membership not in _MEMBERSHIPS or not is_user_id(event.state_key or ""):
        return None
    return membership


_MEMBERSHIPS = frozenset({"join", "invite", "leave", "ban", "knock"})

StateMap = immutables.Map[StateKey, StateRef]
Delta = Mapping[StateKey, StateRef | None]


class EventIds(Mapping[StateKey, EventId]):
    """A state by event IDs, without a walk over it: most callers need one key or a few."""

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
    """One snapshot of a chain: the entries that it adds to its base, or removes (None). `removed`
    names the events that were there, which give a stored delta its keys."""

    ordinal: int
    row_id: int
    delta: Delta
    removed: tuple[int, ...] = ()

    @property
    def added(self) -> list[int]:
        """Returns the rows of the events that it adds."""
        return [ref.row_id for ref in self.delta.values() if ref is not None]


Chain = tuple[Link, ...]
"""A snapshot with its bases, oldest first; the last is the snapshot itself."""


def base_ordinal(ordinal: int) -> int:
    """Returns the ordinal of the base; ordinal 0 has none."""
    assert ordinal > 0, "the first snapshot has no base"
    unit = 1
    while ordinal % (unit * _BASE) == 0:
        unit *= _BASE
    return ordinal - ordinal // unit % _BASE * unit


def first_chain(row_id: int, state: Mapping[StateKey, StateRef]) -> Chain:
    """Returns the chain of a room's first snapshot: a whole state."""
    return (Link(0, row_id, dict(state)),)


def extend(chain: Chain, row_id: int, change: Delta, parent: Mapping[StateKey, StateRef]) -> Chain:
    """Returns the chain of a new snapshot: `change` applied to `parent`, the state of `chain`."""
    ordinal = chain[-1].ordinal + 1
    base = base_ordinal(ordinal)
    keep = next(i for i, link in enumerate(chain) if link.ordinal == base)
    merged = _merged(chain[keep + 1 :])
    merged.update(change)
    removed = {row_id for link in chain[keep + 1 :] for row_id in link.removed}
    removed.update(
        parent[key].row_id for key, ref in change.items() if ref is None and key in parent
    )
    if not any(ref is None for ref in merged.values()):
        removed.clear()
    return (*chain[: keep + 1], Link(ordinal, row_id, merged, tuple(sorted(removed))))


def state_of(chain: Sequence[Link]) -> StateMap:
    """Returns the state that a chain leads to."""
    whole: dict[StateKey, StateRef] = {}
    for link in chain:
        for key, ref in link.delta.items():
            if ref is None:
                whole.pop(key, None)
            else:
                whole[key] = ref
    return immutables.Map(whole)


def difference(old: Mapping[StateKey, StateRef], new: Mapping[StateKey, StateRef]) -> Delta:
    """Returns the changes from `old` to `new`; by a walk over both."""
    changed: dict[StateKey, StateRef | None] = {
        key: ref for key, ref in new.items() if old.get(key) != ref
    }
    changed.update({key: None for key in old if key not in new})
    return changed


def change_between(old: Chain, new: Chain) -> Delta:
    """Returns the changes from the state of one chain of a room to that of another, as
    `difference`.

    Only the keys that a chain sets after the links that both share are read: the changes since the
    fork, rounded up to a level of the chain. Chains without a common link (a room that was left and
    joined again) are walked whole.
    """
    if old[-1].row_id == new[-1].row_id:
        return {}
    shared = 0
    while shared < min(len(old), len(new)) and old[shared].row_id == new[shared].row_id:
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
    """Returns the entries that links set, one after the other."""
    merged: dict[StateKey, StateRef | None] = {}
    for link in links:
        merged.update(link.delta)
    return merged


def held(links: Sequence[Link], key: StateKey) -> StateRef | None:
    """Returns the entry under a key in the state that a chain leads to, without building that
    state.
    """
    for link in reversed(links):
        if key in link.delta:
            return link.delta[key]
    return None


def changed(state: StateMap, change: Delta) -> StateMap:
    """Returns a state with some keys changed, sharing the rest."""
    mutation = state.mutate()
    for key, ref in change.items():
        if ref is None:
            mutation.pop(key, None)
        else:
            mutation[key] = ref
    return mutation.finish()


class StateSnapshot(msgspec.Struct, frozen=True):
    """A state (before an event, or after one) with its stored snapshot."""

    state: StateMap
    chain: Chain


def extended(
    room_row_id: int, before: StateSnapshot, change: Delta, row_id: int
) -> tuple[StateSnapshot, tuple[SnapshotRow, ...]]:
    """Returns a state with some keys changed, as a new snapshot `row_id`."""
    chain = extend(before.chain, row_id, change, before.state)
    return StateSnapshot(changed(before.state, change), chain), (snapshot_row(room_row_id, chain),)


def snapshot_row(room_row_id: int, chain: Chain, *, incomplete: bool = False) -> SnapshotRow:
    """Returns the row of a chain's last link."""
    link = chain[-1]
    base = chain[-2].row_id if len(chain) > 1 else None
    return SnapshotRow(
        room_row_id, link.row_id, base, link.ordinal, link.added, link.removed, incomplete
    )
