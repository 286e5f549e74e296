"""Guests leave rooms that are closed to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from federation.events.ids import RoomId, UserId
from homeserver.errors import unavailable
from homeserver.services.rooms.guests import GuestStays
from homeserver.services.rooms.room_access import RoomAccess
from homeserver.storage.database import Database
from tests.homeserver.room_world import ALICE, BOB, CAROL, World, room_world

CAN_JOIN, FORBIDDEN = {"guest_access": "can_join"}, {"guest_access": "forbidden"}


@dataclass
class Hotel:
    """A world in which BOB is a guest and CAROL isn't; what makes guests leave."""

    world: World
    database: Database
    refusals: int = 0
    slept: list[float] = field(default_factory=list)

    def stays(self) -> GuestStays:
        """As a process makes it."""
        made = GuestStays(
            self.database,
            RoomAccess(self.world.engine.room_context),
            leave=self.leave,
            sleep=self.sleep,
        )
        self.world.committer.subscribe(made.on_commit)
        return made

    async def leave(self, user_id: UserId, room_id: RoomId) -> None:
        """Leaves, unless a test has it refused."""
        if self.refusals:
            self.refusals -= 1
            raise unavailable("not now")
        await self.world.rooms.membership.leave(user_id, room_id)

    async def sleep(self, seconds: float) -> None:
        """Notes it."""
        self.slept.append(seconds)

    async def room(self) -> RoomId:
        """A room with both in it."""
        state = [{"type": "m.room.guest_access", "content": CAN_JOIN}]
        room_id = await self.world.room(preset="public_chat", initial_state=state)
        for user in (BOB, CAROL):
            assert (await self.world.join(user, room_id)).status == 200
        return room_id

    async def close(self, room_id: str) -> None:
        """Closes a room to guests."""
        reply = await self.world.put_state(ALICE, room_id, "m.room.guest_access", FORBIDDEN)
        assert reply.status == 200

    async def members(self, room_id: str) -> set[str]:
        """Who is joined."""
        reply = await self.world.in_room(ALICE, "GET", room_id, "joined_members")
        return set(reply.body["joined"])


@pytest.fixture
async def hotel(shared_database_url: str) -> AsyncIterator[Hotel]:
    async with room_world(shared_database_url) as world:
        database = await Database.open(shared_database_url, connections=1)
        async with database.connection() as connection:
            await connection.execute(
                "INSERT INTO accounts (user_id, is_guest, created_ms)"
                " VALUES ($1, true, 1), ($2, false, 1)",
                BOB,
                CAROL,
            )
        world.guests.add(BOB)
        yield Hotel(world, database)
        await database.close()


async def test_guests_leave_a_room_that_is_closed_to_them(hotel: Hotel) -> None:
    room_id, other = await hotel.room(), await hotel.room()
    stays = hotel.stays()
    assert await stays.work_once()
    assert await hotel.members(room_id) == {ALICE, BOB, CAROL}
    await hotel.close(room_id)
    assert await stays.work_once()
    assert await hotel.members(room_id) == {ALICE, CAROL}
    assert await hotel.members(other) == {ALICE, BOB, CAROL}


async def test_what_a_former_process_did_not_finish_is_done(hotel: Hotel) -> None:
    room_id = await hotel.room()
    await hotel.close(room_id)
    assert await hotel.stays().work_once()
    assert await hotel.members(room_id) == {ALICE, CAROL}


async def test_a_room_that_can_not_be_left_is_tried_again(hotel: Hotel) -> None:
    room_id, stays = await hotel.room(), hotel.stays()
    await hotel.close(room_id)
    hotel.refusals = 1
    assert not await stays.work_once()
    assert await hotel.members(room_id) == {ALICE, BOB, CAROL}
    assert await stays.work_once()
    assert await hotel.members(room_id) == {ALICE, CAROL}


async def test_a_guest_joins_where_guests_may_alone(hotel: Hotel) -> None:
    room_id = await hotel.world.room(preset="public_chat")
    assert (await hotel.world.join(BOB, room_id)).errcode == "M_GUEST_ACCESS_FORBIDDEN"
    assert (await hotel.world.join(CAROL, room_id)).status == 200


async def test_a_guest_joins_a_room_elsewhere_whose_server_says_so(hotel: Hotel) -> None:
    closed, there = RoomId("!closed:there.example"), RoomId("!open:there.example")
    remote = hotel.world.remote
    remote.open_to_guests = {there}
    assert (await hotel.world.join(BOB, closed)).errcode == "M_GUEST_ACCESS_FORBIDDEN"
    assert remote.asked == [("guests", closed, ("there.example",))]
    remote.asked.clear()
    reply = await hotel.world.join(BOB, there)
    # The stand-in for the other server brings no state: what was said of guests isn't borne out.
    assert [what for what, *_ in remote.asked] == ["guests", "join"]
    assert reply.status == 403
