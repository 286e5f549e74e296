"""Walks that wait for their next page: whose they are, how long, and how many."""

from __future__ import annotations

from itertools import count

import immutables
import msgspec
import pytest

from federation.events.ids import RoomId, ServerName, UserId
from homeserver import limits
from homeserver.services.rooms.summaries.walks import Walk, Walks, WalkStep
from tests.homeserver.device_world import Clock

ALICE, BOB = UserId("@alice:here.example"), UserId("@bob:here.example")
ROOM = RoomId("!space:here.example")


def walk(user: UserId = ALICE, steps: int = 0) -> Walk:
    step = WalkStep(ROOM, (), 1)
    return Walk(user, ROOM, suggested_only=False, max_depth=3, stack=(step,) * steps)


class Made:
    """Walks with a clock, and tokens that differ."""

    def __init__(self) -> None:
        self.clock, numbers = Clock(), count()
        self.walks = Walks(self.clock, lambda size: next(numbers).to_bytes(size, "big"))


def test_a_walk_is_its_user_s_and_stays_for_a_time() -> None:
    made = Made()
    token = made.walks.put(walk())
    assert len(token) >= limits.HIERARCHY_TOKEN_BYTES
    assert made.walks.get(token, BOB) is None
    assert made.walks.get(token, ALICE) == walk() == made.walks.get(token, ALICE)
    made.clock.seconds += limits.HIERARCHY_TOKEN_S - 1
    assert made.walks.get(token, ALICE) is not None
    made.clock.seconds += 1
    assert made.walks.get(token, ALICE) is None


def test_a_user_has_so_many_and_takes_none_of_others() -> None:
    made = Made()
    of_bob = made.walks.put(walk(BOB))
    tokens = [made.walks.put(walk()) for _ in range(limits.HIERARCHY_WALKS_PER_USER)]
    assert all(made.walks.get(token, ALICE) for token in tokens)
    tokens.append(made.walks.put(walk()))
    assert [made.walks.get(token, ALICE) is None for token in tokens] == [
        True,
        *[False] * limits.HIERARCHY_WALKS_PER_USER,
    ]
    assert made.walks.get(of_bob, BOB) is not None


def test_walks_take_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    size = walk(steps=10).bytes
    assert size == walk().bytes + 10 * limits.HIERARCHY_STEP_BYTES
    assert walk().bytes == limits.HIERARCHY_WALK_BYTES
    named = WalkStep(ROOM, (ServerName("there.example"),) * 3, 1)
    stack = (named, named)
    more = msgspec.structs.replace(walk(), stack=stack).bytes - walk(steps=2).bytes
    assert more == 6 * len("there.example")
    seen = msgspec.structs.replace(walk(), seen=immutables.Map({ROOM: 0}))
    assert seen.bytes == walk().bytes + limits.HIERARCHY_SEEN_BYTES
    monkeypatch.setattr(limits, "HIERARCHY_WALKS_BYTES", 2 * size)
    made = Made()
    tokens = [made.walks.put(walk(user, steps=10)) for user in (ALICE, BOB)]
    assert made.walks.get(tokens[0], ALICE)
    assert made.walks.get(tokens[1], BOB)
    made.walks.put(walk(UserId("@carol:here.example"), steps=10))
    assert made.walks.get(tokens[0], ALICE) is None, "it was used longest ago"
    assert made.walks.get(tokens[1], BOB)


def test_so_many_users_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HIERARCHY_WALK_USERS", 1)
    made = Made()
    tokens = [made.walks.put(walk()) for _ in range(limits.HIERARCHY_WALKS_PER_USER)]
    made.walks.put(walk(BOB))
    made.walks.put(walk())
    assert made.walks.get(tokens[0], ALICE), "who isn't counted any more begins anew"
