"""The shelf of rooms: order, no doubles, and a pin that stays."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from e2ee import syncing
from e2ee.client import Client
from e2ee.machine.changes import Ledger
from e2ee.rooms import RoomShelf
from tests.e2ee.fake_homeserver import FakeHomeserver
from tests.e2ee.record_shelf import RecordShelf

ROOM = "!r:hs.test"
ENCRYPTION: dict[str, Any] = {
    "type": "m.room.encryption",
    "state_key": "",
    "event_id": "$e",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


def test_an_event_is_kept_once_and_in_order() -> None:
    """Also by a shelf made anew from the records."""
    records = RecordShelf()
    ledger = Ledger(records)
    shelf = RoomShelf(ledger)
    assert shelf.add_event(ROOM, {"event_id": "$1"})
    assert shelf.add_event(ROOM, {"event_id": "$2"})
    assert not shelf.add_event(ROOM, {"event_id": "$1"})
    assert not shelf.add_event(ROOM, {"content": {}})
    ledger.save(records.apply)
    again = RoomShelf(Ledger(records))
    assert not again.add_event(ROOM, {"event_id": "$2"})
    assert [(n, e["event_id"]) for n, e in again.events(ROOM)] == [(0, "$1"), (1, "$2")]
    assert list(again.events("!other")) == []


def test_the_place_where_encryption_began_is_pinned_once() -> None:
    """By a true event only, and never moved."""
    shelf = RoomShelf(Ledger(RecordShelf()))
    shelf.add_event(ROOM, {"event_id": "$0"})
    for number, fake in enumerate(
        (
            {**ENCRYPTION, "content": {}},
            {**ENCRYPTION, "content": None},
            {k: v for k, v in ENCRYPTION.items() if k != "state_key"},
        )
    ):
        shelf.add_event(ROOM, {**fake, "event_id": f"$fake{number}"})
    room = shelf.of(ROOM)
    assert room is not None
    assert room.encrypted_from is None
    shelf.add_event(ROOM, ENCRYPTION)
    shelf.add_event(ROOM, {**ENCRYPTION, "event_id": "$later"})
    assert shelf.pin_encryption(ROOM, 0).encrypted_from == 4


async def test_a_gap_is_fetched_back_to_what_is_known_and_no_further(
    enter: Callable[[str], Awaitable[Client]],
    server: FakeHomeserver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The room's whole past isn't asked for again."""
    monkeypatch.setattr(syncing, "GAP_PAGE_EVENTS", 10)
    alice = await enter("alice")
    room_id = await alice.create_room(name="Long")
    event = {"type": "m.room.topic", "sender": "@b:x", "state_key": "", "content": {}}
    for _ in range(200):
        server.append(room_id, event)
    await alice.sync_once()
    server.timeline_limit = 5
    for _ in range(30):
        server.append(room_id, event)
    before = len(server.calls)
    summary = await alice.sync_once()
    pages = [call for _, call in server.calls[before:] if "/messages" in call.path]
    assert summary.new_events == 30
    assert len(pages) == 3
