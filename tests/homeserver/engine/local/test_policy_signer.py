"""Sends in rooms that use a policy server: signed first, in order, once; and check 7 of others'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.events.signatures import signature_payload
from federation.events.signing import SigningKey
from federation.graph.admission import Accepted, SoftFailed
from federation.graph.building import EventDraft
from federation.graph.policy_servers import (
    POLICY_KEY_ID,
    NotRecommended,
    PolicyServer,
    check_policy,
    recommended,
)
from federation.ports import PolicyRefusal, PolicyServerChanged
from homeserver import limits
from homeserver.app.engine import make_engine
from homeserver.engine.entries import Committed
from homeserver.engine.rooms.room import Superseded
from homeserver.engine.rooms.rooms import Room
from tests.homeserver.engine.engine_world import (
    ALICE,
    BOB,
    HS1,
    HS2,
    TickingClock,
    World,
    context_of,
    draft,
    message,
)
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables

CAROL = UserId("@carol:hs1")
KEYS = [SigningKey.generate(bytes([n]) * 32, "policy_server") for n in (7, 8)]
JOIN: dict[str, object] = {"membership": "join"}


def content(server: ServerName = HS2, key: SigningKey = KEYS[0]) -> dict[str, object]:
    """Of `m.room.policy`."""
    return {"via": server, "public_keys": {"ed25519": key.verify_key.encoded}}


POLICY = PolicyServer(HS2, KEYS[0].verify_key.encoded)


@dataclass
class Signer:
    """Signs with the key that the room names; what has a gate waits for it."""

    asked: list[Event] = field(default_factory=list)
    servers: list[ServerName] = field(default_factory=list)
    refusal: PolicyRefusal | None = None
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    def gate(self, body: str) -> asyncio.Event:
        """Makes the event with this body wait."""
        return self.gates.setdefault(body, asyncio.Event())

    async def sign(self, event: Event, policy: PolicyServer) -> Event | PolicyRefusal:
        self.asked.append(event)
        self.servers.append(policy.server)
        gate = self.gates.get(str(event.content.get("body")))
        if gate is not None:
            await gate.wait()
        if self.refusal is not None:
            return self.refusal
        [key] = [one for one in KEYS if one.verify_key.encoded == policy.public_key]
        signature = key.sign(signature_payload(event))
        made: JsonObject = {policy.server: {POLICY_KEY_ID: signature}}
        signed = recommended(event, policy, made)
        assert isinstance(signed, Event)
        return signed

    async def until_asked(self, count: int) -> None:
        """Waits until so many were asked for."""
        async with asyncio.timeout(40):
            while len(self.asked) < count:
                await asyncio.sleep(0)


@dataclass
class Guarded:
    """A world with a room that bob's server guards."""

    world: World
    signer: Signer
    room_id: RoomId

    async def send(self, what: EventDraft) -> EventId:
        return (await self.world.engine.writer.send(self.room_id, what)).event_id

    async def event(self, event_id: EventId) -> Event:
        return (await self.world.engine.rooms.events([event_id]))[event_id].event

    async def heads(self) -> list[EventId]:
        room = await self.world.room(self.room_id)
        return [head.event_id for head in room.view.heads]

    async def refused(self, what: EventDraft) -> MatrixError:
        with pytest.raises(MatrixError) as caught:
            await self.send(what)
        return caught.value


@asynccontextmanager
async def engine_world(signer: Signer) -> AsyncIterator[World]:
    """An engine over memory."""
    clock = TickingClock()
    engine = await make_engine(context_of(HS1, clock), MemoryStore(Tables()), policies=signer)
    engine.fanout.follow(engine.committer)
    task = asyncio.get_running_loop().create_task(engine.committer.run())
    try:
        yield World(engine, clock, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def guarded(more: Sequence[EventDraft] = ()) -> AsyncIterator[Guarded]:
    """ALICE, CAROL and BOB are in the room; nothing was asked for yet."""
    signer = Signer()
    async with engine_world(signer) as world:
        room_id = await world.create_room(more)
        join = await world.remote(room_id, draft("m.room.member", JOIN, BOB, sender=BOB))
        await world.engine.remote_event_writer.accept_membership(join)
        writer = world.engine.writer
        await writer.send(room_id, draft("m.room.member", JOIN, CAROL, sender=CAROL))
        await writer.send(room_id, draft("m.room.policy", content(), ""))
        assert not signer.asked
        yield Guarded(world, signer, room_id)


# --- sending --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        message("hello"),
        draft("m.room.topic", {"topic": "x"}, ""),
        draft("m.room.member", {"membership": "ban"}, "@eve:hs1"),
        draft("m.room.member", {"membership": "leave"}, CAROL, sender=CAROL),
        draft("m.room.member", JOIN, "@dave:hs1", sender=UserId("@dave:hs1")),
        draft("m.room.policy", {"x": 1}, "x"),
        draft("m.room.policy", {"x": 1}),
        EventDraft("m.room.redaction", ALICE, {}, redacts=EventId("$" + "x" * 43)),
    ],
)
async def test_what_our_users_send_is_signed_by_the_policy_server(what: EventDraft) -> None:
    async with guarded() as room:
        before = await room.heads()
        event_id = await room.send(what)
        stored = await room.event(event_id)
        assert check_policy(stored, POLICY) is None
        assert [one.event_id for one in room.signer.asked] == [event_id]
        assert list(stored.prev_events) == before
        assert await room.heads() == [event_id]


async def test_a_room_gets_rid_of_its_policy_server_without_asking_it() -> None:
    async with guarded() as room:
        room.signer.refusal = PolicyRefusal("no", is_final=True)
        await room.send(draft("m.room.policy", {}, ""))
        await room.send(message("free"))
        assert not room.signer.asked


async def test_a_policy_server_that_left_the_room_is_not_asked() -> None:
    async with guarded() as room:
        await room.send(draft("m.room.member", {"membership": "leave"}, BOB))
        assert len(room.signer.asked) == 1  # about the kick
        await room.send(message("free"))
        assert len(room.signer.asked) == 1


async def test_a_room_without_policy_server_asks_nobody() -> None:
    async with engine_world(Signer(refusal=PolicyRefusal("no", is_final=True))) as world:
        room_id = await world.create_room([draft("m.room.policy", content(), "")])
        await world.say(room_id, "hello")
        assert await world.bodies(room_id) == ["hello"]


@pytest.mark.parametrize(
    ("errcode", "error", "status", "told"),
    [
        ("M_FORBIDDEN", "spam!", 403, "M_FORBIDDEN"),
        ("M_BAD_JSON", "what?", 400, "M_BAD_JSON"),
        ("M_UNKNOWN_TOKEN", "log out", 403, "M_FORBIDDEN"),
        ("M_UNRECOGNIZED", "who, me?", 403, "M_FORBIDDEN"),
        ("M_NOT_FOUND", "Unknown room", 403, "M_FORBIDDEN"),
        ("", "", 403, "M_FORBIDDEN"),
    ],
)
async def test_what_is_refused_is_discarded_and_the_client_is_told(
    errcode: str, error: str, status: int, told: str
) -> None:
    async with guarded() as room:
        before, position = await room.heads(), room.world.engine.committer.position
        room.signer.refusal = PolicyRefusal("it said so", True, errcode, error)
        refused = await room.refused(message("spam"))
        assert (refused.status, refused.errcode) == (status, told)
        assert refused.error == error or "it said so" in refused.error
        assert await room.heads() == before
        assert room.world.engine.committer.position == position
        assert not await room.world.engine.rooms.events([room.signer.asked[0].event_id])


async def test_a_policy_server_that_can_not_be_asked_is_503_and_the_send_can_be_repeated() -> None:
    async with guarded() as room:
        room.signer.refusal = PolicyRefusal("it is down", is_final=False, retry_after_s=3.5)
        with pytest.raises(MatrixError) as refused:
            await room.world.say(room.room_id, "hello", txn="1")
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "4")
        assert refused.value.extra["retry_after_ms"] == 4_000
        room.signer.refusal = None
        await room.world.say(room.room_id, "hello", txn="1")
        assert await room.world.bodies(room.room_id) == ["hello"]


async def test_what_the_room_refuses_is_not_shown_to_the_policy_server() -> None:
    async with guarded() as room:
        eve = UserId("@eve:hs1")
        assert (await room.refused(message("x", sender=eve))).errcode == "M_FORBIDDEN"
        assert not room.signer.asked


async def test_the_room_goes_on_while_the_policy_server_thinks() -> None:
    """Seen to hang when the signature was asked for under the room's lock."""
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("slow")
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(room.send(message("slow")))
            await room.signer.until_asked(1)
            fast = await room.send(message("fast", sender=CAROL))
            theirs = await room.world.remote(room.room_id, message("theirs", sender=BOB))
            signed = await room.signer.sign(theirs, POLICY)
            assert isinstance(signed, Event)
            remote_event_writer = room.world.engine.remote_event_writer
            assert await remote_event_writer.accept(signed, Accepted()) == Accepted()
            gate.set()
        assert await room.world.bodies(room.room_id) == ["fast", "theirs", "slow"]
        assert set(await room.heads()) == {theirs.event_id, slow.result()}
        merge = await room.event(await room.send(message("merge")))
        assert set(merge.prev_events) == {theirs.event_id, slow.result()}
        assert fast in theirs.prev_events


async def test_one_users_sends_keep_their_order_and_follow_each_other() -> None:
    """Seen to fail without a turn for each sender: the first one came last."""
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("0")
        bodies = [str(n) for n in range(6)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(room.send(message(body))) for body in bodies]
            await room.signer.until_asked(1)
            for _ in range(50):
                await asyncio.sleep(0)
            gate.set()
        assert await room.world.bodies(room.room_id) == bodies
        ids = [task.result() for task in tasks]
        for earlier, later in pairwise(ids):
            assert (await room.event(later)).prev_events == (earlier,)


async def test_a_repeat_under_the_same_transaction_id_gets_the_first_ones_event() -> None:
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("once")
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(room.world.say(room.room_id, "once", txn="1")) for _ in range(3)
            ]
            await room.signer.until_asked(1)
            gate.set()
        assert len({task.result() for task in tasks}) == 1
        assert await room.world.say(room.room_id, "once", txn="1") == tasks[0].result()
        assert len(room.signer.asked) == 1
        assert await room.world.bodies(room.room_id) == ["once"]


async def test_state_that_holds_already_is_not_shown_again() -> None:
    async with guarded() as room:
        topic = draft("m.room.topic", {"topic": "x"}, "")
        first = await room.send(topic)
        assert await room.send(topic) == first
        both = await asyncio.gather(room.send(message("between")), room.send(topic))
        assert both[1] == first
        assert len(room.signer.asked) == 2


async def test_equal_state_sent_twice_at_once_is_one_event() -> None:
    async with guarded() as room:
        topic = draft("m.room.topic", {"topic": "x"}, "")
        first, second = await asyncio.gather(room.send(topic), room.send(topic))
        assert first == second


async def test_a_new_key_is_asked_for_when_it_came_in_between() -> None:
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("hello")
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(room.send(message("hello")))
            await room.signer.until_asked(1)
            await room.send(draft("m.room.policy", content(key=KEYS[1]), ""))
            gate.set()
        stored = await room.event(sending.result())
        assert check_policy(stored, PolicyServer(HS2, KEYS[1].verify_key.encoded)) is None
        assert len(room.signer.asked) == 2
        assert await room.world.bodies(room.room_id) == ["hello"]


async def test_a_policy_server_that_comes_at_the_same_moment_is_asked() -> None:
    async with guarded() as room:
        await room.send(draft("m.room.policy", {}, ""))
        on = draft("m.room.policy", content(), "")
        _, event_id = await asyncio.gather(room.send(on), room.send(message("hello")))
        assert check_policy(await room.event(event_id), POLICY) is None


async def test_who_may_not_send_any_more_once_it_is_signed_is_refused() -> None:
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("late")
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(room.refused(message("late", sender=CAROL)))
            await room.signer.until_asked(1)
            await room.send(draft("m.room.member", {"membership": "ban"}, CAROL))
            gate.set()
        assert (sending.result().status, sending.result().errcode) == (403, "M_FORBIDDEN")
        assert await room.world.bodies(room.room_id) == []


async def test_a_signed_event_whose_room_failed_is_placed_again_without_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with guarded() as room:
        writer = room.world.engine.writer
        enqueue, failures = writer.enqueue, [Superseded()]

        def fail_once(of: Room, *args: Any, **options: Any) -> asyncio.Future[Committed]:
            if not failures:
                return enqueue(of, *args, **options)
            of.discard_staged()  # as the committer does
            done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
            done.set_exception(failures.pop())
            return done

        monkeypatch.setattr(writer, "enqueue", fail_once)
        event_id = await room.send(message("hello"))
        assert not failures
        assert len(room.signer.asked) == 1
        assert await room.world.bodies(room.room_id) == ["hello"]
        assert await room.heads() == [event_id]


async def test_so_many_may_wait_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLICY_SENDS_WAITING", 2)
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("0")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(room.send(message(str(n)))) for n in range(3)]
            await room.signer.until_asked(1)
            for _ in range(50):
                await asyncio.sleep(0)
            assert (await room.refused(message("3"))).status == 503
            assert not any(task.done() for task in tasks)
            gate.set()
        assert await room.world.bodies(room.room_id) == ["0", "1", "2"]


async def test_a_wait_for_those_before_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "POLICY_TURN_S", 0.01)
    async with guarded() as room, asyncio.timeout(40):
        gate = room.signer.gate("0")
        async with asyncio.TaskGroup() as group:
            group.create_task(room.send(message("0")))
            await room.signer.until_asked(1)
            assert (await room.refused(message("1"))).status == 503
            gate.set()
        await room.send(message("2"))
        assert await room.world.bodies(room.room_id) == ["0", "2"]


async def test_several_events_as_one_unit_are_each_signed() -> None:
    async with guarded() as room:
        drafts = [message("1"), draft("m.room.policy", content(), "x"), message("2")]
        sent = await room.world.engine.writer.send_all(room.room_id, drafts)
        for one in sent:
            assert check_policy(await room.event(one.event_id), POLICY) is None
        assert [one.position for one in sent] == list(range(sent[0].position, sent[0].position + 3))


async def test_a_policy_server_of_our_own_name_is_asked_like_any_other() -> None:
    """Another program may stand behind the same name; if none does, our own 404 is the refusal."""
    async with guarded() as room:
        await room.send(draft("m.room.policy", content(HS1), ""))
        stored = await room.event(await room.send(message("hello")))
        assert room.signer.servers == [HS1]
        assert check_policy(stored, PolicyServer(HS1, KEYS[0].verify_key.encoded)) is None


async def test_a_new_room_is_not_guarded_by_its_own_server() -> None:
    async with engine_world(Signer()) as world:
        with pytest.raises(MatrixError) as refused:
            await world.create_room([draft("m.room.policy", content(HS1), ""), message("x")])
        assert refused.value.errcode == "M_FORBIDDEN"
        await world.create_room([draft("m.room.policy", content(HS2), ""), message("x")])


async def test_an_invite_of_ours_is_signed_before_another_server_sees_it() -> None:
    async with guarded() as room:
        invite = await room.world.remote(room.room_id, message("of ours"))
        remote_event_writer = room.world.engine.remote_event_writer
        signed, asked = await remote_event_writer.recommended(invite)
        assert asked == POLICY
        assert check_policy(signed, POLICY) is None
        with pytest.raises(MatrixError) as refused:
            await remote_event_writer.accept_own(invite)
        assert refused.value.status == 503
        room.signer.refusal = PolicyRefusal("no", is_final=True)
        with pytest.raises(MatrixError):
            await remote_event_writer.recommended(invite)
        asked_before = len(room.signer.asked)
        assert await remote_event_writer.recommended(signed) == (signed, POLICY)
        assert len(room.signer.asked) == asked_before, "what is signed isn't shown again"
        await room.send(draft("m.room.policy", {}, ""))
        assert await remote_event_writer.recommended(invite) == (invite, None)


# --- what other servers send ----------------------------------------------------------------------


async def test_an_unsigned_event_is_not_kept_before_the_policy_server_was_asked() -> None:
    async with guarded() as room:
        remote_event_writer = room.world.engine.remote_event_writer
        event = await room.world.remote(room.room_id, message("theirs", sender=BOB))
        for asked in (None, PolicyServer(HS2, KEYS[1].verify_key.encoded)):
            with pytest.raises(PolicyServerChanged):
                await remote_event_writer.accept(event, Accepted(), asked=asked)
        assert not await room.world.engine.rooms.events([event.event_id])
        heads = await room.heads()
        verdict = await remote_event_writer.accept(event, Accepted(), asked=POLICY)
        assert isinstance(verdict, SoftFailed)
        assert isinstance(verdict.failure, NotRecommended)
        assert await room.heads() == heads
        assert (await room.world.engine.rooms.events([event.event_id]))[event.event_id].soft_failed
        for asked in (None, POLICY):  # come again, it is what it was
            again = await remote_event_writer.accept(event, Accepted(), asked=asked)
            assert isinstance(again, SoftFailed)


async def test_a_signed_event_of_another_server_is_taken_in() -> None:
    async with guarded() as room:
        event = await room.world.remote(room.room_id, message("theirs", sender=BOB))
        signed = await room.signer.sign(event, POLICY)
        assert isinstance(signed, Event)
        remote_event_writer = room.world.engine.remote_event_writer
        assert await remote_event_writer.accept(signed, Accepted()) == Accepted()
        assert (await room.event(event.event_id)).raw == signed.raw
        assert await room.world.engine.events.policy_server(room.room_id) == POLICY


async def test_an_exchange_waits_for_the_policy_server_too() -> None:
    async with guarded() as room:
        remote_event_writer = room.world.engine.remote_event_writer
        leave = draft("m.room.member", {"membership": "leave"}, BOB, sender=BOB)
        event = await room.world.remote(room.room_id, leave)
        with pytest.raises(PolicyServerChanged):
            await remote_event_writer.accept_membership(event)
        with pytest.raises(MatrixError):
            await remote_event_writer.accept_membership(event, asked=POLICY)
        other = await room.world.remote(room.room_id, leave)
        signed = await room.signer.sign(other, POLICY)
        assert isinstance(signed, Event)
        assert (await remote_event_writer.accept_membership(signed)).event == signed.raw
        assert await room.world.engine.events.policy_server(room.room_id) is None


async def test_the_policy_server_of_an_unknown_room_is_none() -> None:
    async with engine_world(Signer()) as world:
        assert await world.engine.events.policy_server(RoomId("!nowhere")) is None
