"""Typing: who types, until when, and since when a reader knows."""

import asyncio
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.ids import RoomId, UserId
from homeserver import limits
from homeserver.services.ephemeral.typing import Typing, TypingToken
from tests.homeserver.device_world import ALICE, ANNA, BOB, ROOM, THERE, Clock, Rooms

OTHER = RoomId("!other:here.test")


class World:
    def __init__(self, boot: int = 1) -> None:
        self.rooms, self.clock = Rooms(), Clock()
        self.rooms.put(ROOM, ALICE, ANNA, BOB)
        self.woken: list[RoomId] = []
        self.announced: list[tuple[UserId, bool]] = []
        self.typing = Typing(
            rooms=self.rooms,
            clock=self.clock,
            boot=boot,
            wake_room=self.woken.append,
            announce=lambda room_id, user_id, typing: self.announced.append((user_id, typing)),
        )

    async def set(self, typing: Any = True, timeout_ms: Any = 1000) -> None:
        await self.typing.set(ALICE, ROOM, typing=typing, timeout_ms=timeout_ms)


async def test_who_types_is_told_once_for_each_change() -> None:
    world = World()
    before = world.typing.token
    assert world.typing.since(ROOM, before) is None
    await world.set()
    assert world.typing.since(ROOM, before) == (ALICE,)
    now = world.typing.token
    assert world.typing.since(ROOM, now) is None
    await world.set()
    assert world.typing.token == now, "still typing is no change"
    await world.set(typing=False)
    assert world.typing.since(ROOM, now) == ()
    assert world.woken == [ROOM, ROOM]
    assert world.announced == [(ALICE, True), (ALICE, True), (ALICE, False)]


async def test_a_new_reader_is_told_of_who_types_only() -> None:
    world = World()
    assert world.typing.since(ROOM, None) is None
    await world.set()
    assert world.typing.since(ROOM, None) == (ALICE,)
    await world.set(typing=False)
    assert world.typing.since(ROOM, None) is None


async def test_a_token_of_another_boot_neither_hides_nor_loops() -> None:
    world = World(boot=2)
    old = TypingToken(1, 99)
    assert world.typing.since(ROOM, old) is None
    await world.set()
    assert world.typing.since(ROOM, old) == (ALICE,)
    assert world.typing.since(ROOM, world.typing.token) is None


async def test_typing_ends_by_the_clock() -> None:
    world = World()
    await world.set(timeout_ms=5000)
    token = world.typing.token
    assert world.typing.expire() == 5
    world.clock.seconds += 4.9
    assert world.typing.expire() == pytest.approx(0.1)
    world.clock.seconds += 0.2
    assert world.typing.expire() is None
    assert world.typing.since(ROOM, token) == ()
    assert world.woken == [ROOM, ROOM]


async def test_a_time_out_is_cut() -> None:
    world = World()
    await world.set(timeout_ms=limits.TYPING_TIMEOUT_MS_MAX + 60_000)
    assert world.typing.expire() == limits.TYPING_TIMEOUT_MS_MAX / 1000


@pytest.mark.parametrize(("typing", "timeout_ms"), [("yes", 5), (1, 5), (True, -1), (True, "5")])
async def test_what_isnt_typing_is_refused(typing: Any, timeout_ms: Any) -> None:
    world = World()
    with pytest.raises(MatrixError, match="M_BAD_JSON"):
        await world.set(typing, timeout_ms)


async def test_only_who_is_joined_types() -> None:
    world = World()
    world.rooms.put(OTHER, ANNA)
    for room_id in (OTHER, RoomId("!none:here.test")):
        with pytest.raises(MatrixError, match="M_FORBIDDEN"):
            await world.typing.set(ALICE, room_id, typing=True, timeout_ms=5)


async def test_a_server_without_users_in_the_room_is_not_heard() -> None:
    world = World()
    await world.typing.receive(THERE, ROOM, BOB, True)
    assert world.typing.since(ROOM, None) == (BOB,)
    assert world.announced == [], "what others say isn't passed on"
    await world.typing.receive(THERE, ROOM, BOB, False)
    world.rooms.put(ROOM, ALICE)
    await world.typing.receive(THERE, ROOM, BOB, True)
    assert world.typing.since(ROOM, None) is None


async def test_typing_users_of_a_room_are_bounded() -> None:
    world = World()
    for number in range(limits.TYPING_USERS_PER_ROOM + 1):
        user_id = UserId(f"@u{number}:there.test")
        world.rooms.put(ROOM, ALICE, user_id)
        await world.typing.receive(THERE, ROOM, user_id, True)
    assert len(world.typing.since(ROOM, None) or ()) == limits.TYPING_USERS_PER_ROOM


async def test_who_left_types_no_more() -> None:
    world = World()
    await world.set()
    world.typing.stop(ROOM, ALICE)
    world.typing.stop(OTHER, ALICE)
    assert world.typing.since(ROOM, None) is None


async def test_who_says_no_time_types_for_so_long() -> None:
    world = World()
    await world.set(timeout_ms=None)
    assert world.typing.expire() == limits.TYPING_TIMEOUT_MS_DEFAULT / 1000


async def test_who_types_elsewhere_types_for_so_long() -> None:
    """Their server says that they stopped; if it doesn't, or is gone, the time ends it."""
    world = World()
    await world.typing.receive(THERE, ROOM, BOB, True)
    assert world.typing.expire() == limits.TYPING_REMOTE_MS / 1000
    world.clock.seconds += limits.TYPING_REMOTE_MS / 1000
    assert world.typing.expire() is None
    assert world.woken == [ROOM, ROOM]


@pytest.mark.parametrize(
    ("timeout_ms", "pause_s"),
    [
        (1, limits.TYPING_CHECK_S_MIN),
        (500, 0.5),
        (limits.TYPING_TIMEOUT_MS_MAX, limits.TYPING_CHECK_S_MAX),
    ],
)
async def test_the_pause_between_two_looks_has_bounds(timeout_ms: int, pause_s: float) -> None:
    world = World()
    await world.set(timeout_ms=timeout_ms)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise asyncio.CancelledError

    world.clock.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await world.typing.run()
    assert pauses == [pytest.approx(pause_s)]
