"""Long answers: what is split, what is left out, and that threads change nothing."""

import asyncio
import threading
from collections.abc import Sequence

import msgspec
import pytest

from federation.events import canonical_json
from federation.events.canonical_json import NotCanonical
from federation.events.ids import RoomId
from federation.graph.admission import signature_requirements, signed_requirements
from federation.limits import EVENTS_PER_BATCH
from federation.transport.bulk import (
    RoomRef,
    decode,
    in_threads,
    parse_events,
    parse_many,
    split_list,
    split_object,
)
from tests.federation.graph.room_builder import ALICE, Room

DEEP = b"[" * 3_000 + b"]" * 3_000


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


@pytest.mark.parametrize("body", [b"[]", b"3", b"{", b'{"a":1}x', b"", DEEP, b'{"a":' + DEEP])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(NotCanonical):
        split_object(body)


def test_lists_are_split_without_being_read() -> None:
    lists = split_object(b'{"state":[{"a":1}, 2,"\\u00e4"],"other":{"b":[]},"state2":null}')
    assert [bytes(raw) for raw in split_list(lists["state"])] == [b'{"a":1}', b"2", b'"\\u00e4"']
    assert split_list(lists["other"]) == split_list(lists["state2"]) == split_list(None) == ()
    assert decode(lists["other"]) == {"b": []}
    assert decode(None) is None


def test_deep_parts_take_the_slow_path() -> None:
    lists = split_object(b'{"state":[1,{"x":' + DEEP + b'}],"other":' + DEEP + b"}")
    first, second = split_list(lists["state"])
    assert decode(first) == 1
    assert set(decode(second)) == {"x"}
    assert len(split_list(lists["other"])) == 1


def test_what_is_deep_and_malformed_reads_as_nothing() -> None:
    with pytest.raises(NotCanonical):
        split_object(b'{"a":' + DEEP + b',"b":"\\ud800"}')
    assert split_list(msgspec.Raw(b'["\\ud800",1,' + DEEP + b"]")) == ()
    assert split_list(msgspec.Raw(b"[1e999," + DEEP + b"]")) == ()
    assert split_list(msgspec.Raw(b'{"a":' + DEEP + b"}")) == ()


def test_what_is_malformed_reads_as_nothing() -> None:
    assert decode(split_object(b'{"a":"\xff"}')["a"]) is None


@pytest.mark.parametrize("version", ["1", "5", "11", "12"])
async def test_events_are_as_parsed_one_by_one_and_need_the_same_signatures(version: str) -> None:
    room = Room(version).open_to()
    for number in range(EVENTS_PER_BATCH):
        room.send("m.room.message", ALICE, {"body": str(number)})
    pdus = [canonical_json.decode(event.raw) for event in room.events.values()]
    wrong_hash = {**pdus[1], "hashes": {"sha256": "AAAA"}}
    ref = RoomRef(room.create_room_id, room.version)
    given = [*pdus, wrong_hash, {**pdus[2], "sender": 1}, "no event", pdus[3]]
    raws = [msgspec.Raw(canonical_json.encode(pdu)) for pdu in given]
    one_by_one = parse_events(given, ref, len(given))
    parsed = await parse_many([*raws, msgspec.Raw(b'"\xff"')], ref, signed_requirements)
    assert [event for event, _ in parsed.values()] == one_by_one
    for event, required in parsed.values():
        assert required == signature_requirements(event)
    redacted = [event for event, _ in parsed.values() if event.content_redacted]
    assert len(redacted) == 1
    other = RoomRef(RoomId("!other:a"), room.version)
    assert await parse_many(raws, other, signed_requirements) == {}


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
