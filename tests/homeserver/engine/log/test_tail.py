"""The newest part of the log: positions without gaps, the oldest entries gone first."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from homeserver.engine.entries import AccountDataEntry, Placed, entry_bytes
from homeserver.engine.log.tail import LogTail
from tests.homeserver.engine.engine_world import ALICE


def placed(first: int, count: int, size: int = 10) -> list[Placed]:
    return [
        Placed(position, AccountDataEntry(ALICE, "", f"m.{position}", b"x" * size))
        for position in range(first, first + count)
    ]


def positions(entries: Sequence[Placed]) -> list[int]:
    return [one.position for one in entries]


def test_the_entries_after_a_position_come_oldest_first() -> None:
    tail = LogTail(100, 50, 10**6)
    assert positions(tail.since(100)) == []
    batch = placed(101, 3)
    tail.append(batch)
    tail.append(placed(104, 1))
    assert positions(tail.since(100)) == [101, 102, 103, 104]
    assert positions(tail.since(102)) == [103, 104]
    assert positions(tail.since(103)) == [104]
    assert positions(tail.since(104)) == []
    assert positions(tail.since(110)) == []  # a cursor that is ahead
    assert tail.since(100)[0] is batch[0]
    assert (tail.start, tail.end) == (100, 104)


@pytest.mark.parametrize("position", [100, 102, 99])
def test_a_batch_that_does_not_follow_is_refused(position: int) -> None:
    tail = LogTail(99, 50, 10**6)
    tail.append(placed(100, 1))
    with pytest.raises(AssertionError):
        tail.append(placed(position, 1))
    assert positions(tail.since(99)) == [100]


def test_what_the_tail_has_let_go_is_not_answered_for() -> None:
    tail = LogTail(0, 3, 10**6)
    tail.append(placed(1, 5))
    assert (tail.start, tail.end) == (2, 5)
    assert positions(tail.since(2)) == [3, 4, 5]
    with pytest.raises(AssertionError):
        tail.since(1)


def test_one_entry_past_the_bound_is_not_kept() -> None:
    [large] = placed(1, 1, size=5_000)
    tail = LogTail(0, 10, entry_bytes(large.entry) - 1)
    tail.append([large])
    assert (tail.start, tail.end, tail.bytes) == (1, 1, 0)
    assert positions(tail.since(1)) == []
    tail.append(placed(2, 2))
    assert positions(tail.since(1)) == [2, 3]


@pytest.mark.parametrize("seed", range(10))
def test_the_bounds_hold_after_each_batch(seed: int) -> None:
    chance = random.Random(seed)
    entries_max, bytes_max = chance.randint(1, 10), chance.randint(600, 20_000)
    tail, all_placed = LogTail(7, entries_max, bytes_max), list[Placed]()
    for _ in range(40):
        batch = placed(8 + len(all_placed), chance.randint(0, 6), chance.randint(0, 3_000))
        all_placed += batch
        tail.append(batch)
        kept = tail.since(tail.start)
        assert list(kept) == all_placed[len(all_placed) - len(kept) :]
        assert tail.end == 7 + len(all_placed) == tail.start + len(kept)
        assert tail.bytes == sum(entry_bytes(one.entry) for one in kept) <= bytes_max
        assert len(kept) <= entries_max
        for position in range(tail.start, tail.end + 1):
            assert positions(tail.since(position)) == list(range(position + 1, tail.end + 1))
