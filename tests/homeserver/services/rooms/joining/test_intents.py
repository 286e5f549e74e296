"""Exchanges are finished or undone: after refusals, silence, lost answers and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from federation import limits
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from federation.graph.building import EventDraft
from federation.transport.joining.failures import JoiningUncertain
from homeserver.engine.followers.memberships import UserRoom
from homeserver.services.rooms.joining.intents import DurableJoining
from homeserver.storage.database import Database
from homeserver.storage.rooms.joining_intents import JoiningIntentTable
from tests.federation.transport.memory_ports import JumpingClock

ALICE, ROOM = UserId("@alice:here.example"), RoomId("!far:there.example")
ONE, TWO = ServerName("one.example"), ServerName("two.example")
REFUSED = MatrixError(403, "M_FORBIDDEN", "no")
DEAD = MatrixError(502, "M_UNKNOWN", "nobody answers")
LOST = JoiningUncertain(DEAD, [ONE])


@dataclass
class Others:
    """The other servers: `outcomes` are what each asking leads to; then all succeeds."""

    outcomes: list[Any] = field(default_factory=list)
    asked: list[tuple[str, tuple[ServerName, ...]]] = field(default_factory=list)
    mine: dict[RoomId, UserRoom] = field(default_factory=dict)
    drafted: int = 0
    invited: list[int] = field(default_factory=list)

    async def join(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        await self._ask("join", servers)

    async def knock(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        await self._ask("knock", servers)

    async def leave(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        await self._ask("leave", servers)

    async def guests_may_join(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        raise AssertionError("nobody is a guest here")

    async def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        raise AssertionError("it is done in two steps")

    async def draft_invite(self, room_id: RoomId, draft: EventDraft) -> JsonObject:
        self.drafted += 1
        return {"state_key": draft.state_key, "number": self.drafted}

    async def send_invite(self, room_id: RoomId, pdu: JsonObject) -> EventId:
        await self._ask("invite", [server_of(UserId(pdu["state_key"]))])
        self.invited.append(pdu["number"])
        return EventId(f"$invite{pdu['number']}")

    async def end_here(self, room_id: RoomId, user_id: UserId, former: EventId) -> bool:
        """`OutsideMemberships.end_unsigned`."""
        if former != (self.mine[room_id].event_id if room_id in self.mine else ""):
            return False
        self.now("leave", former)
        return True

    async def _ask(self, membership: str, servers: Sequence[ServerName]) -> None:
        self.asked.append((membership, tuple(servers)))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            if isinstance(outcome, asyncio.Event):
                await outcome.wait()
            else:
                raise outcome
        self.now(membership)

    def now(self, membership: str, event_id: str = "$new") -> None:
        """What alice is, as this server knows."""
        self.mine[ROOM] = UserRoom(membership, 1, EventId(event_id), ALICE)

    async def rooms_of(self, user_id: UserId) -> dict[RoomId, UserRoom]:
        """Her rooms."""
        return self.mine


@dataclass
class World:
    """The service; a new one over the same table is what a restart makes."""

    database: Database
    others: Others = field(default_factory=Others)
    clock: JumpingClock = field(default_factory=JumpingClock)

    def service(self) -> DurableJoining:
        """As a process has it."""
        return DurableJoining(
            self.database,
            self.others,
            self.others.rooms_of,
            end_here=self.others.end_here,
            clock=self.clock,
        )

    async def intents(self) -> list[str]:
        """What is stored."""
        return [one.membership for one in await JoiningIntentTable(self.database).load_all()]

    async def restarted(self) -> DurableJoining:
        """A new process, after its first look at what there is to do."""
        service = self.service()
        for intent in await JoiningIntentTable(self.database).load_all():
            service._later(intent, 0.0)
        await service.work_once()
        return service


@pytest.fixture
async def world(device_database: Database) -> World:
    """Over an empty table."""
    async with device_database.connection() as connection:
        await connection.execute("TRUNCATE joining_intents")
    return World(device_database)


async def act(service: DurableJoining, membership: str) -> None:
    """Alice asks."""
    do = {"join": service.join, "knock": service.knock, "leave": service.leave}[membership]
    await do(ROOM, ALICE, [ONE, TWO], {"membership": membership})


@pytest.mark.parametrize("membership", ["join", "knock", "leave"])
async def test_nothing_is_left_of_what_was_done_or_refused(world: World, membership: str) -> None:
    service = world.service()
    await act(service, membership)
    assert await world.intents() == []
    world.others.outcomes = [REFUSED]
    with pytest.raises(MatrixError):
        await act(service, membership)
    assert await world.intents() == []
    assert await service.work_once() is None


@pytest.mark.parametrize("membership", ["join", "knock"])
async def test_what_reached_nobody_is_over(world: World, membership: str) -> None:
    service = world.service()
    world.others.outcomes = [DEAD]
    with pytest.raises(MatrixError):
        await act(service, membership)
    assert await world.intents() == []


@pytest.mark.parametrize("membership", ["join", "knock"])
@pytest.mark.parametrize("failure", [LOST, MatrixError(503, "M_UNKNOWN", "not stored")])
async def test_what_failed_but_may_have_been_taken_is_undone(
    world: World, membership: str, failure: MatrixError
) -> None:
    service = world.service()
    world.others.outcomes = [failure, DEAD]
    with pytest.raises(MatrixError):
        await act(service, membership)
    assert await world.intents() == ["leave"]
    wait_s = await service.work_once()  # the server is down still
    assert wait_s is not None
    assert await world.intents() == ["leave"]
    world.clock.jump(wait_s)
    assert await service.work_once() is None
    to = (ONE,) if failure is LOST else (ONE, TWO)
    assert world.others.asked == [(membership, (ONE, TWO)), ("leave", to), ("leave", to)]
    assert await world.intents() == []


@pytest.mark.parametrize("failure", [LOST, MatrixError(503, "M_UNKNOWN", "not stored")])
async def test_a_failed_join_of_an_invited_user_is_finished(
    world: World, failure: MatrixError
) -> None:
    """A leave would refuse the invite. After a restart, too."""
    world.others.now("invite", "$invite")
    world.others.outcomes = [failure, DEAD]
    service = world.service()
    with pytest.raises(MatrixError):
        await act(service, "join")
    assert await world.intents() == ["join"]
    world.clock.jump(limits.JOINING_RETRY_S_MIN)
    await service.work_once()
    assert await world.intents() == ["join"]
    await world.restarted()
    assert world.others.mine[ROOM].membership == "join"
    assert [membership for membership, _ in world.others.asked] == ["join"] * 3
    assert await world.intents() == []


@pytest.mark.parametrize("since", ["leave", "invite", "ban"])
async def test_a_failed_join_of_an_invite_that_is_no_more_is_over(world: World, since: str) -> None:
    world.others.now("invite", "$invite")
    world.others.outcomes = [LOST]
    service = world.service()
    with pytest.raises(MatrixError):
        await act(service, "join")
    world.others.now(since, "$newer")
    world.clock.jump(limits.JOINING_RETRY_S_MIN)
    assert await service.work_once() is None
    assert len(world.others.asked) == 1
    assert await world.intents() == []


@pytest.mark.parametrize("membership", ["join", "knock"])
async def test_what_a_crash_left_is_finished(world: World, membership: str) -> None:
    never = asyncio.Event()
    world.others.outcomes = [never]
    task = asyncio.ensure_future(act(world.service(), membership))
    while not world.others.asked:
        await asyncio.sleep(0.01)
    assert await world.intents() == [membership], "stored before another server may sign"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.restarted()
    assert world.others.mine[ROOM].membership == membership
    assert await world.intents() == []


async def test_what_a_crash_left_and_is_refused_by_now_is_undone(world: World) -> None:
    world.others.outcomes = [asyncio.Event()]
    task = asyncio.ensure_future(act(world.service(), "join"))
    while not world.others.asked:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    world.others.outcomes = [REFUSED]
    await world.restarted()
    assert [membership for membership, _ in world.others.asked] == ["join", "join", "leave"]
    assert await world.intents() == []


async def test_a_crash_after_the_import_leaves_nothing_to_do(world: World) -> None:
    world.others.outcomes = [asyncio.Event()]
    task = asyncio.ensure_future(act(world.service(), "join"))
    while not world.others.asked:
        await asyncio.sleep(0.01)
    world.others.now("join")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.restarted()
    assert len(world.others.asked) == 1
    assert await world.intents() == []


async def test_a_leave_waits_a_short_while_and_is_told_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEAVE_WAIT_S_MAX", 0.05)
    world.others.now("invite", "$invite")
    service = world.service()
    world.others.outcomes = [asyncio.Event(), DEAD, DEAD]
    with pytest.raises(MatrixError) as caught:
        async with asyncio.timeout(20):
            await act(service, "leave")
    assert caught.value.status == 504
    world.others.now("leave", "$invite")  # it ends here by the user's word
    await service.work_once()
    assert await world.intents() == ["leave"]
    again = await world.restarted()
    assert await world.intents() == ["leave"]
    world.clock.jump(limits.JOINING_RETRY_S_MAX)
    await again.work_once()
    assert await world.intents() == []
    assert [membership for membership, _ in world.others.asked] == ["leave"] * 4


@pytest.mark.parametrize("since", ["invite", "join", "knock"])
async def test_what_came_since_is_not_left(world: World, since: str) -> None:
    world.others.now("invite", "$old")
    service = world.service()
    world.others.outcomes = [DEAD]
    with pytest.raises(MatrixError):
        await act(service, "leave")
    world.others.now(since, "$newer")
    world.clock.jump(limits.JOINING_RETRY_S_MIN)
    assert await service.work_once() is None
    assert len(world.others.asked) == 1
    assert await world.intents() == []


async def test_a_new_wish_overtakes_an_attempt_that_is_under_way(world: World) -> None:
    world.others.now("invite", "$old")
    service = world.service()
    hung = asyncio.Event()
    world.others.outcomes = [DEAD, hung]
    with pytest.raises(MatrixError):
        await act(service, "leave")
    world.clock.jump(limits.JOINING_RETRY_S_MIN)
    follower = asyncio.ensure_future(service.work_once())
    while len(world.others.asked) < 2:
        await asyncio.sleep(0.01)
    await act(service, "join")
    await follower
    assert world.others.mine[ROOM].membership == "join"
    assert await world.intents() == []
    assert await service.work_once() is None


async def test_it_is_given_up_at_last(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOINING_ATTEMPTS_MAX", 3)
    world.others.now("invite", "$old")
    service = world.service()
    world.others.outcomes = [DEAD] * 9
    with pytest.raises(MatrixError):
        await act(service, "leave")
    waits = []
    for _ in range(3):
        world.clock.jump(limits.JOINING_RETRY_S_MAX)
        waits.append(await service.work_once())
    assert waits == [limits.JOINING_RETRY_S_MIN * 2, limits.JOINING_RETRY_S_MIN * 4, None]
    assert await world.intents() == []


async def test_an_attempt_ends_and_is_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.others.now("invite", "$old")
    service = world.service()
    world.others.outcomes = [DEAD, asyncio.Event()]
    with pytest.raises(MatrixError):
        await act(service, "leave")
    world.clock.jump(limits.JOINING_RETRY_S_MIN)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "JOINING_ATTEMPT_S_MAX", 0.01)
        wait_s = await service.work_once()
    assert wait_s == limits.JOINING_RETRY_S_MIN * 2
    assert await world.intents() == ["leave"]
    world.clock.jump(wait_s)
    assert await service.work_once() is None
    assert len(world.others.asked) == 3
    assert await world.intents() == []


@pytest.mark.parametrize("at_once", [2, 5])
async def test_so_many_are_tried_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(limits, "JOINING_AT_ONCE_MAX", at_once)
    world.others.now("invite", "$old")
    service = world.service()
    gate = asyncio.Event()
    world.others.outcomes = [DEAD] * 5 + [gate] * 5
    for number in range(5):
        with pytest.raises(MatrixError):
            await service.leave(ROOM, UserId(f"@user{number}:here.example"), [ONE], {})
    world.clock.jump(limits.JOINING_RETRY_S_MIN)
    work = asyncio.ensure_future(service.work_once())
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(world.others.asked) == 5 + at_once
    gate.set()
    assert await work is None
    assert await world.intents() == []


@pytest.mark.parametrize("outcome", [REFUSED, DEAD])
async def test_a_leave_that_a_crash_left_ends_the_invite_here_whatever_others_say(
    world: World, outcome: MatrixError
) -> None:
    """They may have taken it before the crash: then they refuse a second one."""
    world.others.now("invite", "$invite")
    world.others.outcomes = [asyncio.Event()]
    task = asyncio.ensure_future(act(world.service(), "leave"))
    while not world.others.asked:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.others.mine[ROOM].membership == "invite"
    world.others.outcomes = [outcome]
    await world.restarted()
    assert world.others.mine[ROOM].membership == "leave"
    assert await world.intents() == ([] if outcome is REFUSED else ["leave"])


# --- invites -------------------------------------------------------------------------------------

BOB = UserId("@bob:there.example")


async def invite(service: DurableJoining) -> EventId:
    """Alice invites bob of another server."""
    draft = EventDraft("m.room.member", ALICE, {"membership": "invite"}, state_key=BOB)
    return await service.invite(ROOM, draft)


async def test_nothing_is_left_of_an_invite_that_was_taken_refused_or_reached_nobody(
    world: World,
) -> None:
    service = world.service()
    assert await invite(service) == "$invite1"
    for failure in (REFUSED, DEAD):
        world.others.outcomes = [failure]
        with pytest.raises(MatrixError):
            await invite(service)
        assert await world.intents() == []
    assert await service.work_once() is None
    assert world.others.invited == [1]


async def test_an_invite_that_a_crash_left_is_finished_as_the_same_event(world: World) -> None:
    world.others.outcomes = [asyncio.Event()]
    task = asyncio.ensure_future(invite(world.service()))
    while not world.others.asked:
        await asyncio.sleep(0.01)
    assert await world.intents() == ["invite"], "stored before the other server may sign"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.restarted()
    assert (world.others.invited, world.others.drafted) == ([1], 1)
    assert await world.intents() == []


@pytest.mark.parametrize("failure", [LOST, MatrixError(503, "M_UNKNOWN", "not stored")])
@pytest.mark.parametrize("again", [None, REFUSED])
async def test_an_invite_that_failed_but_may_have_been_taken_is_finished(
    world: World, failure: MatrixError, again: MatrixError | None
) -> None:
    service = world.service()
    world.others.outcomes = [failure, DEAD, again]
    with pytest.raises(MatrixError):
        await invite(service)
    for _ in range(2):
        assert await world.intents() == ["invite"]
        world.clock.jump(limits.JOINING_RETRY_S_MAX)
        await service.work_once()
    assert world.others.invited == ([1] if again is None else [])
    assert await world.intents() == []
    assert await service.work_once() is None


async def test_a_second_invite_overtakes_one_that_is_not_over(world: World) -> None:
    service = world.service()
    world.others.outcomes = [LOST]
    with pytest.raises(MatrixError):
        await invite(service)
    assert await invite(service) == "$invite2"
    world.clock.jump(limits.JOINING_RETRY_S_MAX)
    assert await service.work_once() is None
    assert world.others.invited == [2]


async def test_an_invite_is_given_up_sooner_than_a_leave(world: World) -> None:
    service = world.service()
    world.others.outcomes = [LOST, *[DEAD] * (limits.INVITE_ATTEMPTS_MAX - 1)]
    with pytest.raises(MatrixError):
        await invite(service)
    for _ in range(limits.INVITE_ATTEMPTS_MAX - 1):
        world.clock.jump(limits.JOINING_RETRY_S_MAX)
        assert await service.work_once() is not None
    assert await world.intents() == ["invite"]
    world.others.outcomes = [DEAD]
    world.clock.jump(limits.JOINING_RETRY_S_MAX)
    assert await service.work_once() is None
    assert await world.intents() == []
    assert world.others.invited == []
