"""Policy servers are asked for what others send, and for what goes through us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from federation import limits
from federation.causes import Cause, CauseKind, caused_by
from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.event import Event, parse_pdu
from federation.events.ids import RoomId, ServerName, UserId
from federation.events.signatures import signatures_of, signed_parts
from federation.graph.admission import Accepted, Dropped, DropReason, Rejected, SoftFailed
from federation.graph.policy_servers import POLICY_KEY_ID, PolicyServer, check_policy
from federation.ports import PolicyRefusal
from federation.transport.inbound import policy_servers
from federation.transport.inbound.gap_filler import NotAtHand, Undecided
from federation.transport.inbound.policy_servers import PolicyAnswer, PolicyServers
from federation.transport.joining.joining import MembershipRequest
from federation.transport.requests.dialer import Bounds
from federation.transport.scheduling import scheduler
from federation.transport.scheduling.scheduler import SHARES
from tests.federation.transport.loopback import Loopback, Peer, loopback, transaction
from tests.federation.transport.memory_ports import until
from tests.federation.transport.policy_app import SIGN_PATH, Mood, PolicyApp


@dataclass
class Guarded:
    """A room of two servers that a third one guards."""

    net: Loopback
    a: Peer
    b: Peer
    app: PolicyApp
    room_id: RoomId
    bob: UserId

    def says(self, body: str, peer: Peer | None = None, user: UserId | None = None) -> Event:
        """Returns an unsigned message of bob's, as of a server that doesn't ask."""
        return (peer or self.b).rooms.send(
            self.room_id, user or self.bob, "m.room.message", {"body": body}
        )

    async def sent(self, *events: Event) -> None:
        """A transaction of b's."""
        pdus = [canonical_json.decode(event.raw) for event in events]
        txn_id = events[0].event_id
        await self.a.inbox.receive(self.b.name, txn_id, transaction({"pdus": pdus}))

    def verdict(self, event: Event) -> object:
        """Returns what became of an event at a."""
        return self.a.rooms.verdicts.get(event.event_id)

    async def decided(self, event: Event) -> object:
        """As `verdict`, once there is one."""
        await until(lambda: event.event_id in self.a.rooms.verdicts)
        return self.verdict(event)


async def guarded_room(net: Loopback, *, policy_name: str = "p.test") -> Guarded:
    a, b = await net.peer("a.test"), await net.peer("b.test")
    p = net.peers.get(policy_name) or await net.peer(policy_name)
    app = PolicyApp(policy_name)
    p.lies[SIGN_PATH] = app.handle
    alice = a.user("alice")
    room_id = a.rooms.create_room(alice)
    bob = await b.join(a, room_id)
    if p not in (a, b):
        await p.join(a, room_id, "guard")
    event = a.rooms.send(room_id, alice, "m.room.policy", app.content, state_key="")
    for known in list(a.rooms.events.values()):
        if known.event.event_id not in b.rooms.events:
            await b.rooms.accept(known.event, Accepted(), asked=app.policy)
    assert event.event_id in b.rooms.before
    return Guarded(net, a, b, app, room_id, bob)


@asynccontextmanager
async def guarded(*, policy_name: str = "p.test") -> AsyncIterator[Guarded]:
    """Runs the servers as long as the block lasts."""
    async with loopback() as net:
        yield await guarded_room(net, policy_name=policy_name)


# --- events of other servers ----------------------------------------------------------------------


async def test_an_event_that_bears_the_signature_is_taken_in_without_asking() -> None:
    async with guarded() as room:
        event = room.says("hello")
        signed = await room.b.policies.sign(event, room.app.policy)
        assert isinstance(signed, Event)
        room.app.asked.clear()
        assert await room.a.filler.accept_at_hand(signed_parts(signed)) == Accepted()
        assert not room.app.asked


async def test_an_event_without_the_signature_is_shown_first_and_keeps_what_it_got() -> None:
    async with guarded() as room:
        event = room.says("hello")
        with pytest.raises(NotAtHand):
            await room.a.filler.accept_at_hand(signed_parts(event))
        assert await room.a.filler.settle(event, room.b.name) == Accepted()
        [pdu] = room.app.asked
        assert canonical_json.encode(pdu) == event.raw
        assert room.app.origins == [room.a.name]
        stored = room.a.rooms.events[event.event_id].event
        assert stored.event_id == event.event_id
        assert check_policy(stored, room.app.policy) is None
        assert signatures_of(stored)[room.b.name] == signatures_of(event)[room.b.name]


async def test_a_transaction_with_unsigned_events_is_decided_in_order() -> None:
    async with guarded() as room:
        events = [room.says(body) for body in ("one", "spam", "two")]
        await room.sent(*events)
        assert await room.decided(events[2]) == Accepted()
        assert room.verdict(events[0]) == Accepted()
        assert isinstance(room.verdict(events[1]), SoftFailed)


async def test_what_is_refused_is_soft_failed_and_never_asked_about_again() -> None:
    async with guarded() as room:
        event = room.says("spam")
        verdict = await room.a.filler.settle(event, room.b.name)
        assert isinstance(verdict, SoftFailed)
        assert str(verdict.failure).startswith("not_recommended")
        assert len(room.app.asked) == 1
        room.app.mood = Mood.STALLS  # it would be noticed
        await room.sent(event)
        assert len(room.app.asked) == 1


async def test_the_policy_event_itself_is_shown_to_nobody() -> None:
    async with guarded() as room:
        alice = room.a.user("alice")
        levels = {"users": {alice: 100, room.bob: 100}}
        change = room.a.rooms.send(room.room_id, alice, "m.room.power_levels", levels, state_key="")
        await room.b.rooms.accept(change, Accepted(), asked=room.app.policy)
        # the stand-in for b's room knows of no check 7 when it sends
        room.b.rooms.head_ids[room.room_id] = [change.event_id]
        off = room.b.rooms.send(room.room_id, room.bob, "m.room.policy", {}, state_key="")
        assert await room.a.filler.accept_at_hand(signed_parts(off)) == Accepted()
        free = room.says("spam")
        assert await room.a.filler.accept_at_hand(signed_parts(free)) == Accepted()
        assert not room.app.asked


async def test_what_the_auth_rules_refuse_is_not_shown() -> None:
    async with guarded() as room:
        stranger = room.says("x", user=room.b.user("stranger"))
        assert isinstance(await room.a.filler.settle(stranger, room.b.name), Rejected)
        assert not room.app.asked


@pytest.mark.parametrize("mood", [Mood.WRONG_KEY, Mood.EMPTY, Mood.NO_POLICY_SERVER])
async def test_a_word_that_is_no_recommendation_is_final(mood: Mood) -> None:
    async with guarded() as room:
        room.app.mood = mood
        event = room.says("hello")
        assert isinstance(await room.a.filler.settle(event, room.b.name), SoftFailed)


@pytest.mark.parametrize(
    "mood",
    [
        Mood.DOWN,
        Mood.BUSY,
        Mood.DISTRUSTS_US,
        Mood.GARBAGE,
        Mood.NO_OBJECT,
        Mood.TOO_LARGE,
    ],
)
async def test_an_event_waits_for_a_policy_server_that_can_not_be_asked(mood: Mood) -> None:
    async with guarded() as room:
        room.app.mood = mood
        event = room.says("hello")
        assert isinstance(await room.a.filler.settle(event, room.b.name), Undecided)
        room.net.clock.jump(limits.POLICY_HOLD_S_MAX - 1)
        assert isinstance(await room.a.filler.settle(event, room.b.name), Undecided)
        room.app.mood = Mood.RECOMMENDS
        room.net.clock.jump(0.9)
        assert isinstance(await room.a.filler.settle(event, room.b.name), Undecided)  # a pause
        assert event.event_id not in room.a.rooms.before


async def test_an_event_does_not_wait_for_ever() -> None:
    async with guarded() as room:
        room.app.mood = Mood.DOWN
        event = room.says("hello")
        assert isinstance(await room.a.filler.settle(event, room.b.name), Undecided)
        room.net.clock.jump(limits.POLICY_HOLD_S_MAX)
        assert isinstance(await room.a.filler.settle(event, room.b.name), SoftFailed)


async def test_it_is_bounded_of_how_many_events_the_wait_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policy_servers, "POLICY_HELD_MAX", 2)
    async with guarded() as room:
        room.app.mood = Mood.DOWN
        events = [room.says(str(i)) for i in range(3)]
        for event in events:
            assert isinstance(await room.a.recommendations.ask(event), PolicyRefusal)
        room.net.clock.jump(limits.POLICY_HOLD_S_MAX)
        for event in events[1:]:
            assert await room.a.recommendations.ask(event) == PolicyAnswer(event, room.app.policy)
        assert isinstance(await room.a.recommendations.ask(events[0]), PolicyRefusal)


async def test_an_event_that_waits_is_taken_in_once_the_policy_server_is_back() -> None:
    async with guarded() as room:
        room.app.mood = Mood.DOWN
        event = room.says("hello")
        await room.sent(event)
        await until(lambda: len(room.app.asked) == 1)
        room.app.mood = Mood.RECOMMENDS
        decided = asyncio.ensure_future(room.decided(event))
        while not decided.done():  # the first attempt may still be on its way
            room.net.clock.jump(limits.INBOX_RETRY_S_MIN + limits.POLICY_PAUSE_S_MIN)
            room.a.inbox.on_server_seen(room.app.name)
            await asyncio.wait([decided], timeout=0.1)
        assert await decided == Accepted()


async def test_a_policy_server_that_changes_under_the_event_is_asked_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with guarded() as room:
        event = room.says("hello")
        old = room.app.policy
        with monkeypatch.context() as patch:
            patch.setattr(room.a.recommendations, "lacking", _nothing)  # it changed just after
            outcome = await room.a.filler.settle(event, room.b.name)
            assert isinstance(outcome, Undecided)
        room.app.key = room.app.other_key
        content = room.app.content
        room.a.rooms.send(
            room.room_id, room.a.user("alice"), "m.room.policy", content, state_key=""
        )
        by_old = await PolicyServers(
            room.a.client, clock=room.net.clock, metrics=room.a.metrics
        ).sign(event, old)
        assert isinstance(by_old, PolicyRefusal)  # the key in the old event is out of date
        assert await room.a.filler.settle(event, room.b.name) == Accepted()


async def _nothing(event: Event) -> None:
    return None


async def test_a_gap_is_shown_event_by_event() -> None:
    async with guarded() as room:
        events = [room.says(body) for body in ("one", "spam", "two")]
        assert await room.a.filler.settle(events[2], room.b.name) == Accepted()
        assert room.verdict(events[0]) == Accepted()
        assert isinstance(room.verdict(events[1]), SoftFailed)
        assert len(room.app.asked) == 3


# --- requests -------------------------------------------------------------------------------------


async def test_its_word_is_remembered_for_a_while() -> None:
    async with guarded() as room:
        good, bad = room.says("hello"), room.says("spam")
        for _ in range(2):
            assert isinstance(await room.a.policies.sign(good, room.app.policy), Event)
            refusal = await room.a.policies.sign(bad, room.app.policy)
            assert isinstance(refusal, PolicyRefusal)
            assert (refusal.is_final, refusal.errcode) == (True, "M_FORBIDDEN")
            assert refusal.error == "It looks like spam"
        assert len(room.app.asked) == 2
        room.net.clock.jump(limits.POLICY_ANSWER_REMEMBERED_S)
        await room.a.policies.sign(good, room.app.policy)
        assert len(room.app.asked) == 3


async def test_remembered_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_servers, "POLICY_ANSWERS_REMEMBERED_MAX", 2)
    async with guarded() as room:
        events = [room.says(str(i)) for i in range(3)]
        for event in events:
            await room.a.policies.sign(event, room.app.policy)
        await room.a.policies.sign(events[1], room.app.policy)
        assert len(room.app.asked) == 3
        await room.a.policies.sign(events[0], room.app.policy)
        assert len(room.app.asked) == 4


async def test_one_that_fails_is_left_alone_for_longer_and_longer() -> None:
    async with guarded() as room:
        room.app.mood = Mood.DOWN
        event, waits = room.says("hello"), []
        for count in range(1, 8):
            refusal = await room.a.policies.sign(event, room.app.policy)
            assert isinstance(refusal, PolicyRefusal)
            assert not refusal.is_final
            waits.append(refusal.retry_after_s)
            assert len(room.app.asked) == count
            room.net.clock.jump(refusal.retry_after_s - 0.1)
            again = await room.a.policies.sign(event, room.app.policy)
            assert isinstance(again, PolicyRefusal)
            assert len(room.app.asked) == count
            room.net.clock.jump(0.2)
        assert waits == [1, 2, 4, 8, 16, limits.POLICY_PAUSE_S_MAX, limits.POLICY_PAUSE_S_MAX]
        room.app.mood = Mood.RECOMMENDS
        assert isinstance(await room.a.policies.sign(event, room.app.policy), Event)
        room.app.mood = Mood.DOWN
        refusal = await room.a.policies.sign(room.says("x"), room.app.policy)
        assert isinstance(refusal, PolicyRefusal)
        assert refusal.retry_after_s == limits.POLICY_PAUSE_S_MIN


async def test_remembered_pauses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_servers, "POLICY_PAUSES_REMEMBERED_MAX", 1)
    async with guarded() as room:
        event, key = room.says("hello"), room.app.policy.public_key
        room.app.mood = Mood.DOWN
        nowhere = PolicyServer(ServerName("nowhere.test"), key)
        room.net.addresses[nowhere.server] = "127.0.0.1:1"
        for policy in (room.app.policy, room.app.policy, nowhere):
            await room.a.policies.sign(event, policy)
        assert len(room.app.asked) == 1
        await room.a.policies.sign(event, room.app.policy)
        assert len(room.app.asked) == 2


async def test_a_wait_that_it_asks_for_is_kept_within_bounds() -> None:
    async with guarded() as room:
        room.app.mood = Mood.BUSY
        refusal = await room.a.policies.sign(room.says("hello"), room.app.policy)
        assert isinstance(refusal, PolicyRefusal)
        assert refusal.retry_after_s == 9


async def test_one_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = Bounds(timeout_s=0.1, bytes_max=limits.POLICY_ANSWER_BYTES_MAX)
    monkeypatch.setattr(policy_servers, "_BOUNDS", bounds)
    async with guarded() as room:
        room.app.mood = Mood.STALLS
        refusal = await room.a.policies.sign(room.says("hello"), room.app.policy)
        assert isinstance(refusal, PolicyRefusal)
        assert not refusal.is_final
        room.app.go_on.set()


async def test_one_cause_does_not_keep_others_from_asking() -> None:
    """A server that floods a room has a share of what is under way; others have theirs."""
    async with guarded() as room:
        room.app.mood = Mood.STALLS
        flood = [room.says(f"flood {i}") for i in range(20)]
        honest = room.says("honest")
        async with asyncio.TaskGroup() as group:
            with caused_by(Cause(CauseKind.SERVER, "flood.test")):
                flooding = [
                    group.create_task(room.a.policies.sign(event, room.app.policy))
                    for event in flood
                ]
            await until(lambda: len(room.app.asked) == limits.FETCHES_PER_SERVER_AND_CAUSE_MAX)
            with caused_by(Cause(CauseKind.SERVER, "honest.test")):
                asking = group.create_task(room.a.policies.sign(honest, room.app.policy))
            await until(lambda: len(room.app.asked) > limits.FETCHES_PER_SERVER_AND_CAUSE_MAX)
            room.app.mood = Mood.RECOMMENDS
            room.app.go_on.set()
        asked = [event["content"]["body"] for event in room.app.asked]
        assert asked.index("honest") == limits.FETCHES_PER_SERVER_AND_CAUSE_MAX
        assert isinstance(asking.result(), Event)
        assert all(isinstance(task.result(), Event) for task in flooding)
        assert room.app.at_once_most <= limits.FETCHES_PER_SERVER_MAX


async def test_a_cause_without_a_turn_is_told_that_nothing_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = replace(SHARES[CauseKind.SERVER], waiting=1)
    monkeypatch.setattr(scheduler, "SHARES", {**SHARES, CauseKind.SERVER: share})
    monkeypatch.setattr(scheduler, "FETCHES_PER_SERVER_AND_CAUSE_MAX", 1)
    async with guarded() as room:
        room.app.mood = Mood.STALLS
        events = [room.says(str(i)) for i in range(3)]
        async with asyncio.TaskGroup() as group:
            with caused_by(Cause(CauseKind.SERVER, "flood.test")):
                tasks = [
                    group.create_task(room.a.policies.sign(event, room.app.policy))
                    for event in events
                ]
            await until(lambda: any(task.done() for task in tasks))
            [refused] = [task.result() for task in tasks if task.done()]
            assert isinstance(refused, PolicyRefusal)
            assert not refused.is_final
            room.app.mood = Mood.RECOMMENDS
            room.app.go_on.set()
        assert sum(isinstance(task.result(), Event) for task in tasks) == 2
        assert isinstance(await room.a.policies.sign(events[2], room.app.policy), Event)


async def test_who_waits_for_a_turn_is_told_of_the_failure_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "FETCHES_PER_SERVER_AND_CAUSE_MAX", 1)
    async with guarded() as room:
        room.app.mood = Mood.STALLS
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(room.a.policies.sign(room.says(str(i)), room.app.policy))
                for i in range(3)
            ]
            await until(lambda: len(room.app.asked) == 1)
            room.app.mood = Mood.DOWN
            room.app.go_on.set()
        assert len(room.app.asked) == 1
        assert all(isinstance(task.result(), PolicyRefusal) for task in tasks)


async def test_an_event_too_large_for_another_signature_is_not_recommended() -> None:
    async with guarded() as room:
        small = room.says("x")
        spare = limits.EVENT_BYTES_MAX - len(small.raw)
        for body, fits in [("x" * (spare - 160), True), ("x" * (spare - 10), False)]:
            outcome = await room.a.policies.sign(room.says(body), room.app.policy)
            assert isinstance(outcome, Event) is fits


# --- what goes through us -------------------------------------------------------------------------


async def test_a_join_through_us_is_shown_first_and_the_joiner_gets_the_signature() -> None:
    async with guarded() as room:
        c = await room.net.peer("c.test")
        joined = await c.joining.join(
            MembershipRequest(room.room_id, c.user("carol"), {}), [room.a.name]
        )
        for rooms in (room.a.rooms, c.rooms):
            stored = rooms.events[joined.event.event_id].event
            assert check_policy(stored, room.app.policy) is None
        assert [pdu["state_key"] for pdu in room.app.asked] == [c.user("carol")]


async def test_a_join_that_is_refused_does_not_happen() -> None:
    async with guarded() as room:
        c = await room.net.peer("c.test")
        request = MembershipRequest(room.room_id, c.user("carol"), {"body": "spam"})
        with pytest.raises(MatrixError) as failed:
            await c.joining.join(request, [room.a.name])
        assert (failed.value.status, failed.value.errcode) == (403, "M_FORBIDDEN")
        assert failed.value.error == "It looks like spam"
        assert c.name not in await room.a.rooms.joined_servers(room.room_id)


async def test_a_join_fails_for_now_while_the_policy_server_is_down() -> None:
    async with guarded() as room:
        room.app.mood = Mood.DOWN
        c = await room.net.peer("c.test")
        request = MembershipRequest(room.room_id, c.user("carol"), {})
        with pytest.raises(MatrixError) as failed:
            await c.joining.join(request, [room.a.name])
        assert failed.value.status == 502
        room.app.mood = Mood.RECOMMENDS
        room.net.clock.jump(limits.POLICY_PAUSE_S_MAX)
        await c.joining.join(request, [room.a.name])


async def test_a_leave_through_us_is_shown_too() -> None:
    async with guarded() as room:
        request = MembershipRequest(room.room_id, room.bob, {})
        await room.b.joining.leave(request, [room.a.name])
        assert [pdu["content"]["membership"] for pdu in room.app.asked] == ["leave"]


@pytest.mark.off_spec("events of the rooms in memory have no origin")
async def test_an_invited_server_that_is_the_policy_server_too_adds_its_signature() -> None:
    """Seen to fail when its answer, which has its own signature alone, replaced both."""
    async with guarded(policy_name="b.test") as room:
        carol = room.b.user("carol")
        content = {"membership": "invite"}
        invite = room.a.rooms.send(
            room.room_id, room.a.user("alice"), "m.room.member", content, state_key=carol
        )
        signed = await room.a.policies.sign(invite, room.app.policy)
        assert isinstance(signed, Event)
        create = await room.a.rooms.current_state_ids(room.room_id)
        state = [room.a.rooms.events[create["m.room.create", ""]].event.raw]
        given = canonical_json.decode((await room.a.joining.invite(signed, state)).raw)
        del given["signatures"][room.b.name][POLICY_KEY_ID]  # it needn't return that
        both = await room.a.joining._cosigned(signed, given, room.b.name)
        assert check_policy(both, room.app.policy) is None
        assert len(signatures_of(both)[room.b.name]) == 2
        assert await room.a.signatures.check_signer(both, room.b.name) is None


async def test_a_policy_signature_is_no_signature_of_its_server() -> None:
    """Seen to fail when check 2 took any key of the origin's for one that it may have published."""
    async with guarded(policy_name="b.test") as room:
        event = room.says("hello")
        pdu = canonical_json.decode(event.raw)
        pdu["signatures"] = room.app.signed(pdu)
        forged = parse_pdu(pdu, event.version)
        assert POLICY_KEY_ID in signatures_of(forged)[room.b.name]
        verdict = await room.a.filler.settle(forged, room.b.name)
        assert verdict == Dropped(DropReason.UNSIGNED)
        assert await room.a.signatures.check_signer(forged, room.b.name) is not None


def test_policies_are_told_apart_by_their_key() -> None:
    one, other = PolicyApp("p.test"), PolicyApp("p.test")
    other.key = other.other_key
    assert one.policy != other.policy
    assert isinstance(one.policy, PolicyServer)
