"""Long answers: what is split, what is left out, and that threads change nothing."""

import asyncio
import threading
from collections.abc import Sequence
from unittest.mock import patch

import pytest

from federation.events import canonical_json
from federation.events import event as event_module
from federation.events.bounded_json.json_pieces import Piece, PieceKind, cut_pieces
from federation.events.bounded_json.nesting import TooDeep
from federation.events.canonical_json import JsonObject
from federation.events.event import SignedEvent, parse_pdu
from federation.events.ids import RoomId
from federation.events.room_versions import RoomVersion
from federation.events.signatures import signature_payload
from federation.graph.admission import signature_requirements
from federation.limits import EVENTS_PER_BATCH, KEPT_CONTAINERS_PER_EVENT
from federation.transport.events import bulk
from federation.transport.events.bulk import EventReader, RoomRef, in_threads, parse_pieces
from tests.federation.graph.room_builder import ALICE, Room


def pieces(raws: Sequence[bytes]) -> list[Piece]:
    """As the entries of a list in an answer."""
    body = b'{"state":[' + b",".join(raws) + b"]}"
    found = cut_pieces(body, {"state"}, len(body))
    return [one for one in found if one.kind is PieceKind.ENTRY]


async def test_batches_come_back_in_order() -> None:
    seen: set[int] = set()
    everybody = threading.Barrier(3, timeout=30)

    def work(batch: Sequence[int]) -> list[int]:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            everybody.wait()
        return [2 * one for one in batch]

    items = list(range(7 * EVENTS_PER_BATCH + 3))
    assert await in_threads(work, items, threads=3) == [2 * one for one in items]
    assert len(seen) == 3
    assert threading.get_ident() not in seen


async def test_few_items_are_worked_on_here() -> None:
    where: list[int] = []

    def work(batch: Sequence[int]) -> Sequence[int]:
        where.append(threading.get_ident())
        return batch

    here = threading.get_ident()
    for count, is_here in ((0, True), (EVENTS_PER_BATCH, True), (EVENTS_PER_BATCH + 1, False)):
        where.clear()
        assert await in_threads(work, range(count)) == list(range(count))
        assert (set(where) == {here}) is is_here


async def test_a_fault_in_a_thread_is_raised() -> None:
    def work(batch: Sequence[int]) -> Sequence[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await in_threads(work, range(3 * EVENTS_PER_BATCH), threads=2)


@pytest.mark.parametrize("version", ["1", "5", "11", "12"])
async def test_events_are_as_parsed_one_by_one_and_need_the_same_signatures(version: str) -> None:
    room = Room(version).open_to()
    for number in range(EVENTS_PER_BATCH):
        room.send("m.room.message", ALICE, {"body": str(number)})
    pdus = [canonical_json.decode(event.raw) for event in room.events.values()]
    wrong_hash = {**pdus[1], "hashes": {"sha256": "AAAA"}}
    ref = RoomRef(room.create_room_id, room.version)
    good = [*pdus, wrong_hash]
    bad = [{**pdus[2], "sender": 1}, "no event", pdus[3]]
    raws = [canonical_json.encode(pdu) for pdu in [*good, *bad]]
    reader = EventReader(ref)
    for piece in pieces([*raws, b'"\xff"', b"{]"]):
        reader.take(piece)
    found = reader.events("state")
    parsed = [parse_pdu(pdu, room.version) for pdu in good]
    assert found == list({event.event_id: event for event in parsed}.values())
    assert {one: reader.required[one.event_id] for one in found} == {
        one: signature_requirements(one) for one in found
    }
    assert len([event for event in found if event.content_redacted]) == 1
    assert await parse_pieces(pieces(raws), ref) == found
    other = RoomRef(RoomId("!other:a"), room.version)
    assert await parse_pieces(pieces(raws), other) == []


async def test_signed_bytes_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room().open_to()
    raws = [event.raw for event in room.events.values()]
    most = sum(len(signature_payload(event)) for event in list(room.events.values())[:2])
    monkeypatch.setattr(bulk, "UNVERIFIED_BYTES_MAX", most)
    reader = EventReader(RoomRef(room.create_room_id, room.version))
    for piece in pieces(raws):
        reader.take(piece)
    assert len(reader.events("state")) == len(raws) > 2
    assert len(reader.required) == 2


async def test_events_that_would_fill_the_memory_refuse_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room()
    dense = room.send("m.room.message", ALICE, {"x": [[] for _ in range(1_000)]})
    count = dense.raw.count(b"[") + dense.raw.count(b"{")
    monkeypatch.setattr(bulk, "KEPT_CONTAINERS_PER_EVENT", 20)
    ref = RoomRef(room.create_room_id, room.version)
    for most, is_taken in ((count - 20, True), (count - 21, False)):
        monkeypatch.setattr(bulk, "KEPT_CONTAINERS_MAX", most)
        reader = EventReader(ref)
        try:
            for piece in pieces([dense.raw]):
                reader.take(piece)
        except TooDeep:
            assert not is_taken
        else:
            assert is_taken
            assert reader.events("state") == [dense]


def test_usual_events_are_within_their_share() -> None:
    for version in ("1", "11"):
        room = Room(version).open_to()
        event = room.member(ALICE, "join", extra={"displayname": "a"})
        assert event.raw.count(b"[") + event.raw.count(b"{") <= KEPT_CONTAINERS_PER_EVENT


async def test_a_deep_event_is_parsed_in_a_thread() -> None:
    room = Room()
    value: object = 1
    for _ in range(5_000):
        value = [value]
    deep = room.send("m.room.message", ALICE, {"x": value})
    flat = room.send("m.room.message", ALICE, {"x": "[" * 1_000})
    where: list[int] = []

    def parse_signed_pdu(pdu: JsonObject, version: RoomVersion) -> SignedEvent:
        where.append(threading.get_ident())
        return event_module.parse_signed_pdu(pdu, version)

    ref = RoomRef(room.create_room_id, room.version)
    with patch.object(bulk, "parse_signed_pdu", parse_signed_pdu):
        for event, is_here in ((flat, True), (deep, False)):
            where.clear()
            assert await parse_pieces(pieces([event.raw]), ref) == [event]
            assert (where == [threading.get_ident()]) is is_here


async def test_the_loop_goes_on_while_threads_work() -> None:
    started, ticked = threading.Event(), threading.Event()

    def work(batch: Sequence[int]) -> Sequence[int]:
        started.set()
        assert ticked.wait(30)
        return batch

    async def tick() -> None:
        await asyncio.to_thread(started.wait, 30)
        ticked.set()

    await asyncio.gather(in_threads(work, range(2 * EVENTS_PER_BATCH)), tick())
