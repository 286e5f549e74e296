"""Events' signatures, one by one and in bulk."""

import asyncio

import msgspec
import pytest

from federation.events import canonical_json
from federation.events.event import Event, parse_pdu
from federation.events.ids import EventId, UserId
from federation.graph.admission import DropReason, signature_requirements
from federation.graph.building import Edges, EventDraft, build_event
from federation.limits import EVENTS_PER_BATCH, KEY_VALIDITY_MS_MAX
from federation.transport.events import signature_checks
from tests.federation.transport.loopback import Peer, loopback
from tests.hostile.loop_steps import counted_steps


def event_of(peer: Peer, sender: UserId, *, at_ms: int, body: str = "") -> Event:
    draft = EventDraft("m.room.message", sender, {"body": body}, origin_server_ts=at_ms)
    room_id = next(iter(peer.rooms.versions))
    return build_event(
        draft,
        version=peer.rooms.versions[room_id],
        room_id=room_id,
        edges=Edges([], [], 1),
        now_ms=0,
        server_name=peer.name,
        key=peer.key,
    )


def forged(event: Event) -> Event:
    pdu = canonical_json.decode(event.raw)
    pdu["signatures"] = {server: {"ed25519:k1": "A" * 86} for server in pdu["signatures"]}
    return parse_pdu(pdu, event.version)


async def test_bulk_says_the_same_as_one_by_one() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.rooms.create_room(b.user("bob"))
        now_ms = net.clock.now_ms()
        for count in (3, 3 * EVENTS_PER_BATCH):
            bob = b.user("bob")
            events = [event_of(b, bob, at_ms=now_ms, body=str(i)) for i in range(count)]
            events[1] = forged(events[1])
            events.append(event_of(b, UserId("@eve:c.test"), at_ms=now_ms))
            found = await a.signatures.check_many(events)
            assert found[events[1].event_id] is DropReason.SIGNATURE_WRONG
            assert found[events[-1].event_id] is DropReason.UNSIGNED
            assert list(found.values()).count(frozenset({b.name})) == count - 1
            for event in events[:4]:
                assert await a.signatures.check(event) == found[event.event_id]
        assert b.metrics.counts["federation_requests"] == 1, "keys are fetched once for all"


async def test_a_key_must_be_valid_at_the_events_time() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.rooms.create_room(b.user("bob"))
        until_ms = b.keyring.own_document()["valid_until_ts"]
        assert until_ms < net.clock.now_ms() + KEY_VALIDITY_MS_MAX
        good = event_of(b, b.user("bob"), at_ms=until_ms)
        late = event_of(b, b.user("bob"), at_ms=until_ms + 1)
        assert await a.signatures.check(good) == frozenset({b.name})
        assert await a.signatures.check(late) is DropReason.KEY_UNAVAILABLE


async def test_a_cosigner_is_checked_by_name() -> None:
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.rooms.create_room(b.user("bob"))
        event = event_of(b, b.user("bob"), at_ms=net.clock.now_ms())
        assert await a.signatures.check_signer(event, b.name) is None
        assert await a.signatures.check_signer(event, a.name) is DropReason.UNSIGNED
        wrong = forged(event)
        assert await a.signatures.check_signer(wrong, b.name) is DropReason.SIGNATURE_WRONG


async def test_two_hundred_thousand_events_do_not_hold_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a long answer has; what is slow, the signatures themselves, is in threads anyway."""
    async with loopback() as net:
        a, b = await net.peer("a.test"), await net.peer("b.test")
        b.rooms.create_room(b.user("bob"))
        one = event_of(b, b.user("bob"), at_ms=net.clock.now_ms())
        signers = await a.signatures.check(one)
        monkeypatch.setattr(signature_checks, "verify_signatures", lambda *_: signers)
        events = [
            msgspec.structs.replace(one, event_id=EventId(f"${number}"))
            for number in range(200_000)
        ]
        required = dict.fromkeys((e.event_id for e in events), signature_requirements(one))
        with counted_steps() as steps:
            found = await asyncio.ensure_future(a.signatures.check_many(events, required))
        assert found == dict.fromkeys(required, signers)
        assert steps.longest_s < 0.030, steps.longest
