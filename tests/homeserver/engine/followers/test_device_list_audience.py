"""The servers that are told of users' devices: looked up in order, and nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from federation.events.ids import EventId, RoomId, ServerName, UserId
from homeserver.engine.entries import (
    AccountDataEntry,
    DeviceListEntry,
    Placed,
    StateChange,
    StateEntry,
)
from homeserver.engine.followers.device_list_audience import DeviceListAudience, ListChange
from homeserver.storage.database import DatabaseUnavailable
from tests.homeserver.engine.engine_world import ALICE, HS1, draft
from tests.homeserver.engine.history_world import BOB, Here, enter, here, room_of_bob
from tests.simulation.memory_store import MemoryMemberships, at_once
from tests.simulation.memory_tables import Tables

ZOE = UserId("@zoe:hs1")


class Owed(MemoryMemberships):
    """Notes what is looked up; fails, or waits, when told to."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables, at_once)
        self.looks: list[str] = []
        self.fails = False
        self.gate: asyncio.Event | None = None

    async def servers_sharing(self, user_id: str, own: str) -> Sequence[str]:
        self.looks.append(user_id)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails:
            raise DatabaseUnavailable("gone")
        return await super().servers_sharing(user_id, own)

    async def servers_shown(
        self, room_id: str, user_id: str, own: str, *, position: int
    ) -> Sequence[str]:
        self.looks.append(f"{user_id} {position}")
        return await super().servers_shown(room_id, user_id, own, position=position)


class Told:
    """An audience that runs, and what it found."""

    def __init__(self, server: Here) -> None:
        self.owed = Owed(server.tables)
        self.audience = DeviceListAudience(self.owed, server.engine.rooms, HS1)
        self.found: list[tuple[ListChange, list[ServerName]]] = []
        self._task: asyncio.Task[None] | None = None

    def note_all(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            self.audience.note(placed)

    def _note(self, change: ListChange, servers: Collection[ServerName]) -> None:
        self.found.append((change, sorted(servers)))

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.ensure_future(self.audience.run(self._note))
        return self._task

    async def settle(self) -> None:
        """Lets it look up all that it can."""
        if self._task is None:
            self.start()
        for _ in range(50):
            await asyncio.sleep(0)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


@pytest.fixture
async def server() -> AsyncIterator[Here]:
    async with here() as made:
        yield made


@pytest.fixture
async def told(server: Here) -> AsyncIterator[Told]:
    made = Told(server)
    yield made
    await made.stop()


def devices(position: int, user: UserId = ALICE) -> Placed:
    return Placed(position, DeviceListEntry(user))


def joined(position: int, room_id: RoomId, user: UserId, former: str | None = None) -> Placed:
    change = StateChange(("m.room.member", user), EventId("$join"), "join", former)
    return Placed(position, StateEntry(room_id, (change,)))


# Which changes count


def test_only_changes_of_local_users_are_looked_up() -> None:
    audience = DeviceListAudience(Owed(Tables()), None, HS1)  # type: ignore[arg-type]
    room_id = RoomId("!r:hs1")
    for entry in (
        devices(5, BOB),
        devices(6, UserId("@mallory:evil.hs1")),
        joined(7, room_id, BOB),
        joined(8, room_id, ALICE, former="join"),  # a new display name
        Placed(9, StateEntry(room_id, (StateChange(("m.room.member", ALICE), None, "leave"),))),
        Placed(10, StateEntry(room_id, (StateChange(("m.room.x", ALICE), None, "join"),))),
        Placed(11, AccountDataEntry(ALICE, "", "m.x", b"{}")),
    ):
        audience.note(entry)
        assert audience.settled_upto(20) == 20, entry
    audience.note(joined(12, room_id, ALICE, former="invite"))
    assert audience.settled_upto(20) == 11
    audience.note(devices(13))
    assert audience.settled_upto(20) == 11
    assert audience.settled_upto(5) == 5


# Who is told


async def test_a_change_concerns_all_servers_that_share_a_room(server: Here, told: Told) -> None:
    last = await room_of_bob(server)
    erin = server.graph.add(enter(UserId("@erin:hs3")), last)
    await server.accept(erin)
    end = server.engine.committer.position
    told.audience.note(devices(end + 1))
    told.audience.note(devices(end + 2, ZOE))  # she is in no room
    await told.settle()
    assert told.found == [
        (ListChange(end + 1, ALICE), ["hs2", "hs3"]),
        (ListChange(end + 2, ZOE), []),
    ]
    assert told.audience.settled_upto(end + 2) == end + 2


async def test_a_join_concerns_the_servers_that_knew_nothing_of_the_user(
    server: Here, told: Told
) -> None:
    """They have received none of the changes; the others have."""
    last = await room_of_bob(server)
    await server.accept(server.graph.add(enter(UserId("@erin:hs3")), last))
    server.engine.committer.subscribe(told.note_all)
    join = server.graph.add(enter(ZOE), server.graph.events[next(iter(server.heads))])
    await server.accept(join)
    position = server.engine.committer.position
    await told.settle()
    change = ListChange(position, ZOE, server.room_id)
    assert told.found == [(change, ["hs2", "hs3"])]
    room_id, _ = await server.engine.writer.create(
        server.graph.version,
        [
            draft("m.room.create", {"room_version": "12"}, "", ZOE),
            draft("m.room.member", {"membership": "join"}, ZOE, ZOE),
        ],
    )
    await told.settle()
    assert told.found[1:] == [(ListChange(position + 2, ZOE, room_id), [])]
    assert told.owed.looks == [f"{ZOE} {position}"]  # no other server is in it: none is looked up


async def test_servers_of_a_room_that_is_not_in_memory_are_looked_up(
    server: Here, told: Told
) -> None:
    await room_of_bob(server)
    server.engine.rooms.drop(server.room_id)
    told.audience.note(joined(1, server.room_id, ZOE))
    await told.settle()
    assert told.found == [(ListChange(1, ZOE, server.room_id), ["hs2"])]


# Order and failures


async def test_changes_are_settled_one_after_the_other(server: Here, told: Told) -> None:
    await room_of_bob(server)
    told.owed.gate = asyncio.Event()
    for position in (101, 103):
        told.audience.note(devices(position))
    await told.settle()
    assert (told.found, told.audience.settled_upto(200)) == ([], 100)
    assert len(told.owed.looks) == 1
    told.owed.gate.set()
    await told.settle()
    assert [change.position for change, _ in told.found] == [101, 103]
    assert told.audience.settled_upto(200) == 200
    told.audience.note(devices(105))
    assert told.audience.settled_upto(200) == 104
    await told.settle()
    assert told.audience.settled_upto(200) == 200


async def test_a_failed_look_up_is_the_first_of_the_next_run(server: Here, told: Told) -> None:
    await room_of_bob(server)
    told.owed.fails = True
    for position in (101, 103):
        told.audience.note(devices(position))
    with pytest.raises(DatabaseUnavailable):
        await told.start()
    assert (told.found, told.audience.settled_upto(200)) == ([], 100)
    told.owed.fails = False
    told.start()
    await told.settle()
    assert [change.position for change, _ in told.found] == [101, 103]


async def test_a_run_that_is_cancelled_loses_nothing(server: Here, told: Told) -> None:
    await room_of_bob(server)
    told.owed.gate = asyncio.Event()
    told.audience.note(devices(101))
    await told.settle()
    await told.stop()
    assert told.audience.settled_upto(200) == 100
    told.owed.gate.set()
    told.start()
    await told.settle()
    assert [change.position for change, _ in told.found] == [101]
