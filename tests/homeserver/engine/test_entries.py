"""What log entries, and the events in them, take in memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from federation.events.event import load_event, parse_pdu
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId
from federation.events.room_versions import room_version
from federation.events.signing import SigningKey
from federation.graph.building import Edges, EventDraft, build_event
from homeserver import limits
from homeserver.engine.entries import (
    AccountDataEntry,
    DeviceListEntry,
    Entry,
    EventEntry,
    MembershipEntry,
    Placed,
    ReceiptEntry,
    RemoteEduEntry,
    StateChange,
    StateEntry,
    ToDeviceEntry,
    entry_bytes,
    event_bytes,
    kept_client,
)
from homeserver.engine.log.tail import LogTail

ROOM, ALICE = RoomId("!r:here.example"), UserId("@alice:here.example")
V11 = room_version("11")


def event_entry(content: dict[str, Any], number: int = 0) -> EventEntry:
    """The entry of a message, as one that was read from the store."""
    pdu = {
        "auth_events": [f"$auth{number}-{one}" for one in range(4)],
        "content": content,
        "depth": 1_000 + number,
        "hashes": {"sha256": "x" * 43},
        "origin_server_ts": 1_700_000_000_000 + number,
        "prev_events": [f"$prev{number}"],
        "room_id": f"!r{number}:here.example",
        "sender": f"@alice{number}:here.example",
        "signatures": {"here.example": {"ed25519:1": "y" * 86}},
        "type": "m.room.message",
    }
    raw = bytes(memoryview(orjson.dumps(pdu)))  # of its size, as the driver gives it
    event = load_event(raw, V11, EventId(f"$event{number}"))
    return EventEntry(ROOM, event, number, (number, 0), kept_client(event))


def taken(make: Callable[[int], object]) -> int:
    """The memory that one of what is made takes, of twenty."""
    kept: list[object] = [None] * 20
    make(99)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20):
            kept[number] = make(number)
        return (tracemalloc.get_traced_memory()[0] - before) // 20
    finally:
        tracemalloc.stop()


CONTENTS: dict[str, dict[str, Any]] = {
    "usual": {"msgtype": "m.text", "body": "Good morning, everybody"},
    "large": {"msgtype": "m.text", "body": "x" * 60_000},
    "wide": {"msgtype": "m.text", "body": "x" * 50_000 + "\U0001f600"},
    "lists": {"x": [[] for _ in range(20_000)]},
    "objects": {"x": [{"a": {}} for _ in range(7_000)]},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_an_event_takes_no_more_than_is_told(name: str) -> None:
    real = taken(lambda number: event_entry(CONTENTS[name], number))
    told = event_entry(CONTENTS[name]).size
    assert 0.8 * real <= told <= 5 * real


def test_the_bytes_of_a_large_event_are_kept_once_beside_its_values() -> None:
    small, large = event_entry(CONTENTS["usual"]), event_entry(CONTENTS["large"])
    assert small.kept_client == small.client
    assert large.kept_client is None
    assert orjson.loads(large.client)["content"] == CONTENTS["large"]
    assert taken(lambda number: event_entry(CONTENTS["large"], number)) < 2.2 * len(large.event.raw)
    most = {
        "body": "x" * (limits.CLIENT_JSON_KEPT_BYTES - len(event_entry({"body": ""}).event.raw))
    }
    assert event_entry(most).kept_client is not None
    assert event_entry({"body": most["body"] + "x"}).kept_client is None


def test_what_is_kept_of_a_received_event_has_no_room_to_spare() -> None:
    built = build_event(
        EventDraft("m.room.message", ALICE, {"body": "hi"}),
        version=V11,
        room_id=ROOM,
        edges=Edges([EventId("$" + "p" * 43)], [EventId("$" + "a" * 43)], 1),
        now_ms=1,
        server_name=ServerName("here.example"),
        key=SigningKey.generate(b"k" * 32, "1"),
    )
    pdu = orjson.loads(built.raw)
    event = parse_pdu(pdu, V11)
    assert taken(lambda number: parse_pdu(pdu, V11)) < 2 * len(event.raw) + 1_500
    assert taken(lambda number: kept_client(event)) < 2 * len(event.raw)
    assert taken(lambda number: load_event(built.raw, V11, built.event_id)) <= event_bytes(event)


def test_each_kind_of_entry_counts_what_it_holds() -> None:
    text = b"x" * 10_000
    changes = tuple(StateChange(("m.x", str(one)), EventId("$e")) for one in range(100))
    bob = UserId("@bob:here.example")
    pairs: list[tuple[Entry, Entry]] = [
        (StateEntry(ROOM, ()), StateEntry(ROOM, changes)),
        (
            MembershipEntry(ALICE, ROOM, "invite", EventId("$e"), bob),
            MembershipEntry(ALICE, ROOM, "invite", EventId("$e"), bob, text),
        ),
        (AccountDataEntry(ALICE, "", "m.x", b""), AccountDataEntry(ALICE, "", "m.x", text)),
        (ToDeviceEntry(ALICE, DeviceId("D"), b""), ToDeviceEntry(ALICE, DeviceId("D"), text)),
        (RemoteEduEntry(ServerName("a"), b""), RemoteEduEntry(ServerName("a"), text)),
        (DeviceListEntry(ALICE), DeviceListEntry(ALICE, (bob,) * 100)),
    ]
    for empty, full in pairs:
        assert entry_bytes(empty) >= 200
        assert entry_bytes(full) - entry_bytes(empty) >= 10_000 - 100
    assert entry_bytes(ReceiptEntry(ROOM, ALICE, "m.read", "", EventId("$e"), 1)) >= 200


def test_the_tail_is_bounded_in_bytes_and_in_number() -> None:
    size = event_entry(CONTENTS["large"]).size
    tail = LogTail(0, 1_000, 10 * size + size // 2)
    for number in range(1, 31):
        tail.append([Placed(number, event_entry(CONTENTS["large"]))])
    assert (tail.start, tail.end) == (20, 30)
    assert tail.bytes == 10 * size
    assert [placed.position for placed in tail.since(25)] == [26, 27, 28, 29, 30]
    usual = event_entry(CONTENTS["usual"])
    counted = LogTail(0, 100, 1_000 * usual.size)
    counted.append([Placed(number, usual) for number in range(1, 301)])
    assert (counted.start, counted.end, counted.bytes) == (200, 300, 100 * usual.size)
    huge = LogTail(0, 10, 1)
    huge.append([Placed(1, event_entry(CONTENTS["usual"]))])
    assert (huge.start, huge.end, huge.since(1)) == (1, 1, ())
