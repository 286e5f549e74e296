"""The rooms of a client: order, no doubles, and a pin that stays."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from e2ee import syncing
from e2ee.client import Client
from e2ee.machine.changes import PendingChanges
from e2ee.rooms import ClientRooms
from tests.e2ee.fake_homeserver import FakeHomeserver
from tests.e2ee.record_store import RecordStore

ROOM = "!r:hs.test"
ENCRYPTION: dict[str, Any] = {
    "type": "m.room.encryption",
    "state_key": "",
    "event_id": "$e",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


def test_an_event_is_kept_once_and_in_order() -> None:
    """Also when they are made anew from the records."""
    records = RecordStore()
    pending_changes = PendingChanges(records)
    client_rooms = ClientRooms(pending_changes)
    assert client_rooms.add_event(ROOM, {"event_id": "$1"})
    assert client_rooms.add_event(ROOM, {"event_id": "$2"})
    assert not client_rooms.add_event(ROOM, {"event_id": "$1"})
    assert not client_rooms.add_event(ROOM, {"content": {}})
    pending_changes.save(records.apply)
    again = ClientRooms(PendingChanges(records))
    assert not again.add_event(ROOM, {"event_id": "$2"})
    assert [(n, e["event_id"]) for n, e in again.events(ROOM)] == [(0, "$1"), (1, "$2")]
    assert list(again.events("!other")) == []


def test_the_place_where_encryption_began_is_pinned_once() -> None:
    """By a true event only, and never moved."""
    client_rooms = ClientRooms(PendingChanges(RecordStore()))
    client_rooms.add_event(ROOM, {"event_id": "$0"})
    for number, fake in enumerate(
        (
            {**ENCRYPTION, "content": {}},
            {**ENCRYPTION, "content": None},
            {k: v for k, v in ENCRYPTION.items() if k != "state_key"},
        )
    ):
        client_rooms.add_event(ROOM, {**fake, "event_id": f"$fake{number}"})
    room = client_rooms.of(ROOM)
    assert room is not None
    assert room.encrypted_from is None
    client_rooms.add_event(ROOM, ENCRYPTION)
    client_rooms.add_event(ROOM, {**ENCRYPTION, "event_id": "$later"})
    assert client_rooms.pin_encryption(ROOM, 0).encrypted_from == 4


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


async def test_a_change_of_our_name_in_a_gap_doesnt_end_it(
    enter: Callable[[str], Awaitable[Client]], server: FakeHomeserver
) -> None:
    """It looks like a join; in a room that we were in, only what we know ends a gap."""
    alice = await enter("alice")
    room_id = await alice.create_room(name="Room", encrypted=False)
    server.timeline_limit = 3
    content = {"msgtype": "m.text", "body": "x"}
    member = {"type": "m.room.member", "sender": alice.user_id, "state_key": alice.user_id}
    renamed = {**member, "content": {"membership": "join", "displayname": "A"}}
    for number in range(20):
        is_renaming = number in (10, 18)
        message = {"type": "m.room.message", "sender": "@b:x", "content": content}
        server.append(room_id, renamed if is_renaming else message)
    await alice.sync_once()
    assert len(alice.timeline(room_id)) == 18


async def test_who_joins_sees_what_was_said_since(
    enter: Callable[[str], Awaitable[Client]], server: FakeHomeserver
) -> None:
    """Between the join and its sync more was said than a sync carries; older is left alone."""
    alice, bob = await enter("alice"), await enter("bob")
    room_id = await alice.create_room(name="Room", invite=[bob.user_id], encrypted=False)
    message = {"type": "m.room.message", "sender": alice.user_id}
    for number in range(10):
        server.append(room_id, {**message, "content": {"body": f"before {number}"}})
    server._member(room_id, bob.user_id, bob.user_id, "join")
    server.timeline_limit = 3
    for number in range(10):
        server.append(room_id, {**message, "content": {"body": f"after {number}"}})
    await bob.sync_once()
    assert [m.body for m in bob.timeline(room_id)] == [f"after {n}" for n in range(10)]
