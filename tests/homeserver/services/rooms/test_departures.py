"""Deactivated users leave all that they are in, however often a room refuses, and over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.engine.followers.memberships import UserRoom
from homeserver.errors import forbidden
from homeserver.services.rooms.departures import AccountDepartures
from homeserver.storage.accounts import accounts
from homeserver.storage.database import Database
from tests.federation.transport.memory_ports import JumpingClock, until
from tests.homeserver.device_world import ALICE, ANNA


class World:
    """Users' memberships, and rooms that refuse."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, JumpingClock()
        self.memberships: dict[UserId, dict[RoomId, str]] = {}
        self.refusing: dict[RoomId, Exception] = {}
        self.tries: list[tuple[UserId, RoomId]] = []
        self.departures = self.restarted()

    def restarted(self) -> AccountDepartures:
        """What a new process has."""
        return AccountDepartures(
            self.database, self.clock, rooms_of=self.rooms_of, leave=self.leave
        )

    async def rooms_of(self, user_id: UserId) -> Mapping[RoomId, UserRoom]:
        return {
            room_id: UserRoom(membership, 1, EventId("$e"), user_id)
            for room_id, membership in self.memberships[user_id].items()
        }

    async def leave(self, user_id: UserId, room_id: RoomId) -> None:
        self.tries.append((user_id, room_id))
        if room_id in self.refusing:
            raise self.refusing[room_id]
        self.memberships[user_id][room_id] = "leave"

    async def end(self, user_id: UserId, **memberships: str) -> None:
        """Deactivates a user who is in rooms."""
        self.memberships[user_id] = {RoomId("!" + name): one for name, one in memberships.items()}
        async with self.database.connection() as connection:
            await connection.execute(
                "INSERT INTO accounts (user_id, is_guest, created_ms) VALUES ($1, false, 0)"
                " ON CONFLICT (user_id) DO UPDATE SET is_deactivated = false",
                user_id,
            )
            assert await accounts.deactivate(connection, user_id, erase=False)

    async def departing(self) -> list[UserId]:
        return await accounts.AccountTable(self.database).load_departing()

    def open_rooms(self, user_id: UserId) -> set[str]:
        return {
            room_id
            for room_id, membership in self.memberships[user_id].items()
            if membership not in ("leave", "ban")
        }


@pytest.fixture
async def world(device_database: Database) -> World:
    async with device_database.connection() as connection:
        await connection.execute("DELETE FROM departures; DELETE FROM accounts")
    return World(device_database)


async def test_rooms_invites_and_knocks_end_and_one_that_refuses_is_tried_again(
    world: World,
) -> None:
    await world.end(ALICE, a="join", b="join", c="invite", d="knock", e="ban", f="leave")
    world.refusing = {RoomId("!a"): forbidden("the policy server is away")}
    assert await world.departures.work_once() == limits.DEPARTURE_RETRY_S_MIN
    assert world.open_rooms(ALICE) == {"!a"}
    assert len(world.tries) == 4
    world.clock.jump(limits.DEPARTURE_RETRY_S_MIN)
    assert await world.departures.work_once() == 2 * limits.DEPARTURE_RETRY_S_MIN
    again = world.restarted()
    await again.work_once()
    world.refusing = {}
    world.clock.jump(limits.DEPARTURE_RETRY_S_MIN)
    assert await again.work_once() == limits.DEPARTURE_LAST_LOOK_S
    assert world.open_rooms(ALICE) == set()
    assert await world.departing() == [ALICE]


async def test_a_join_that_was_on_its_way_ends_too(world: World) -> None:
    await world.end(ALICE, a="join")
    await world.departures.work_once()
    world.memberships[ALICE][RoomId("!late")] = "join"
    world.clock.jump(limits.DEPARTURE_LAST_LOOK_S)
    await world.departures.work_once()
    assert world.open_rooms(ALICE) == set()
    world.clock.jump(limits.DEPARTURE_LAST_LOOK_S)
    assert await world.departures.work_once() == limits.DEPARTURE_RETRY_S_MAX
    assert await world.departing() == []


async def test_a_fault_with_one_room_keeps_nobody_in_others(world: World) -> None:
    await world.end(ALICE, a="join", b="join")
    await world.end(ANNA, a="join", b="join")
    world.refusing = {RoomId("!a"): ZeroDivisionError()}
    await world.departures.work_once()
    assert (world.open_rooms(ALICE), world.open_rooms(ANNA)) == ({"!a"}, {"!a"})


async def test_waits_grow_up_to_their_bound(world: World) -> None:
    await world.end(ALICE, a="join")
    world.refusing = {RoomId("!a"): forbidden("no")}
    waits = []
    for _ in range(15):
        waits.append(await world.departures.work_once())
        world.clock.jump(waits[-1])
    assert waits == sorted(waits)
    assert waits[-1] == limits.DEPARTURE_RETRY_S_MAX


async def test_who_is_deactivated_is_served_at_once(world: World) -> None:
    task = asyncio.get_running_loop().create_task(world.departures.run())
    try:
        await asyncio.sleep(0)
        await world.end(ALICE, a="join")
        world.departures.begin(ALICE)
        await until(lambda: not world.open_rooms(ALICE))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_few_users_leave_at_a_time(world: World) -> None:
    """More than that many wait for their turn."""
    users = [UserId(f"@u{n}:here.test") for n in range(limits.DEPARTURES_AT_ONCE + 2)]
    for user_id in users:
        await world.end(user_id, a="join")
    started: list[UserId] = []
    go_on = asyncio.Event()

    async def slow(user_id: UserId, room_id: RoomId) -> None:
        started.append(user_id)
        await go_on.wait()
        world.memberships[user_id][room_id] = "leave"

    departures = AccountDepartures(world.database, world.clock, rooms_of=world.rooms_of, leave=slow)
    working = asyncio.get_running_loop().create_task(departures.work_once())
    await until(lambda: len(started) == limits.DEPARTURES_AT_ONCE)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(started) == limits.DEPARTURES_AT_ONCE
    go_on.set()
    await working
    assert sorted(started) == users
