"""Syncing against nonsense: whatever a homeserver answers, the client goes on."""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2ee.client import Client
from e2ee.crypto.primitives import PickleKey
from e2ee.crypto.sealed import SealingKey
from e2ee.http import MatrixApi
from e2ee.limits import GAP_PAGE_EVENTS, GAP_PAGES_MAX
from e2ee.machine.devices.device_keys import MEGOLM, OLM
from e2ee.machine.machine import Machine
from e2ee.machine.rooms.room_keys import Decrypted
from e2ee.request_sender import RequestSender
from e2ee.rooms import ClientRooms
from e2ee.store import Store
from e2ee.syncing import Syncing
from e2ee.timeline import build_messages
from tests.e2ee.fake_homeserver import FakeHomeserver
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
ROOM = "!r:hs.test"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def answer() -> JsonObject:
    """Returns a sync answer with something of everything."""
    sealed = {"algorithm": MEGOLM, "session_id": "s", "ciphertext": "AwgAEnB4", "sender_key": "k"}
    olm = {"algorithm": OLM, "sender_key": "A" * 43, "ciphertext": {"x": {"type": 1, "body": "A"}}}
    events = [
        {"type": "m.room.member", "state_key": "@b:c", "content": {"membership": "leave"}},
        {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": MEGOLM}},
        {"type": "m.room.encrypted", "sender": "@b:c", "event_id": "$1", "content": sealed},
        {"type": "m.room.message", "sender": "@b:c", "event_id": "$2", "content": {"body": "x"}},
        {"type": "m.room.redaction", "sender": "@b:c", "event_id": "$3", "redacts": "$2"},
    ]
    visibility = {"type": "m.room.history_visibility", "state_key": "", "content": {}}
    return {
        "next_batch": "s1",
        "device_lists": {"changed": ["@b:c"], "left": ["@d:e"]},
        "device_one_time_keys_count": {"signed_curve25519": 5},
        "device_unused_fallback_key_types": ["signed_curve25519"],
        "to_device": {
            "events": [
                {"type": "m.room.encrypted", "sender": "@b:c", "content": olm},
                {"type": "m.room_key.withheld", "sender": "@b:c", "content": {"code": "x"}},
                {"type": "m.room_key", "sender": "@b:c", "content": {}},
            ]
        },
        "rooms": {
            "join": {
                ROOM: {
                    "state": {"events": [visibility]},
                    "timeline": {"events": events, "limited": True, "prev_batch": "p"},
                }
            },
            "invite": {"!i:c": {"invite_state": {"events": events[:1]}}},
            "leave": {"!l:c": {"timeline": {"events": events[2:]}}},
        },
    }


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every value within."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, part in value.items():
            found += places(part, (*path, name))
    if isinstance(value, list):
        for index, part in enumerate(value):
            found += places(part, (*path, index))
    return found


PLACES = places(answer())


def syncing() -> tuple[Syncing, ClientRooms, Machine]:
    """Returns a syncing of a fresh device."""
    records = RecordStore()
    machine = Machine.create(records, PickleKey(bytes(32)), user_id="@a:c", device_id="D")
    client_rooms = ClientRooms(machine.pending_changes)
    api = MatrixApi(FakeHomeserver().transport())
    store = Store(sqlite3.connect(":memory:"), SealingKey(bytes(32)))
    request_sender = RequestSender(api, store, machine, lambda: 0)
    store.close()  # nothing is saved here
    return Syncing(api, machine, client_rooms, request_sender), client_rooms, machine


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON), min_size=1, max_size=4))
def test_s7_no_answer_of_a_homeserver_crashes_the_client(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    """Any part of a sync is replaced by anything; the same for its gap."""
    changed: Any = answer()
    for path, value in changes:
        target = changed
        try:
            for name in path[:-1]:
                target = target[name]
            target[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    subject, client_rooms, machine = syncing()
    subject._absorb(
        changed, {ROOM: [{"event_id": "$g", "type": [], "content": 5}]}, is_initial=True
    )
    for room in client_rooms.all():
        build_messages(client_rooms.events(room.room_id), subject.read, room.encrypted_from)
    machine.pending_changes.save(lambda changes: None)


@settings(max_examples=100, deadline=None)
@given(JSON, JSON)
def test_s7_no_answer_about_keys_crashes_the_client(keys: Any, claimed: Any) -> None:
    """Query and claim answers of any shape."""
    _, _, machine = syncing()
    machine.pin_encryption(ROOM)
    for _ in range(3):
        machine.share_room_key(ROOM, frozenset({"@b:c"}), 0)
        unsaved = machine.outgoing_requests(0)
        machine.pending_changes.save(lambda changes: None)
        for request in machine.pending_changes.release(unsaved):
            shaped = {"device_keys": {"@b:c": {"DEV": keys}}, "one_time_keys": {"@b:c": claimed}}
            machine.mark_sent(request, shaped, 0)
    machine.mark_sent(request, keys if isinstance(keys, dict) else {}, 0)


async def test_an_event_nested_past_sense_doesnt_stop_the_sync(
    enter: Callable[[str], Awaitable[Client]], server: FakeHomeserver
) -> None:
    """Another user may send it; its place is kept, and what follows is read."""
    alice = await enter("alice")
    room_id = await alice.create_room(name="Deep", encrypted=False)
    deep: JsonObject = {}
    for _ in range(1000):
        deep = {"a": deep}
    subject = alice._syncing
    events = [
        {"event_id": "$deep", "type": "m.room.message", "sender": "@m:x", "content": deep},
        {"event_id": "$ok", "type": "m.room.message", "sender": "@m:x", "content": {"body": "ok"}},
    ]
    room = {"timeline": {"events": events}}
    subject._absorb({"rooms": {"join": {room_id: room}}}, {}, is_initial=False)
    assert [m.body for m in alice.timeline(room_id) if m.is_readable] == ["ok"]


async def test_a_sync_is_kept_whole_or_not_at_all(
    enter: Callable[[str], Awaitable[Client]],
    server: FakeHomeserver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    """The device dies before the sync is saved: it gets the same sync, keys included, again."""
    alice = await enter("alice")
    bob = await Client.register(
        server.transport(), "bob", "x", store_path=tmp_path / "bob", store_key=bytes(range(32))
    )
    room_id = await alice.create_room(name="Room", invite=[bob.user_id])
    await bob.join(room_id)
    await alice.until(lambda c: bob.user_id in c.members(room_id), deadline_s=5)
    await alice.send_text(room_id, "kept")

    class Died(Exception):
        """The power went."""

    def die() -> None:
        raise Died

    monkeypatch.setattr(bob._request_sender, "save", die)
    with pytest.raises(Died):
        await bob.sync_once()
    bob._store.close()
    again = await Client.restore(
        store_path=tmp_path / "bob", store_key=bytes(range(32)), base_url=server.transport()
    )
    await again.sync_once()
    assert [m.body for m in again.timeline(room_id)] == ["kept"]
    await again.close()


def test_so_many_readings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is decrypted once while it is kept; the oldest goes first."""
    monkeypatch.setattr("e2ee.syncing.READINGS_KEPT_MAX", 2)
    subject, _, machine = syncing()
    machine.pin_encryption(ROOM)
    decrypted: list[str] = []
    reading = Decrypted.__new__(Decrypted)

    def decrypt(event: JsonObject) -> Decrypted:
        decrypted.append(event["event_id"])
        return reading

    monkeypatch.setattr(machine, "decrypt", decrypt)
    for event_id in ("$1", "$2", "$1", "$3", "$2", "$1"):
        assert subject.read({"room_id": ROOM, "event_id": event_id}) is reading
    assert decrypted == ["$1", "$2", "$3", "$1"]


@pytest.mark.parametrize(("pages", "found"), [(-1, 1), (0, 0)])
async def test_a_gap_is_closed_in_so_many_pages(
    monkeypatch: pytest.MonkeyPatch, pages: int, found: int
) -> None:
    """A homeserver that always has one page more doesn't keep the client busy."""
    subject, _, _ = syncing()
    asked: list[int] = []

    async def messages(room_id: str, start: str, events: int) -> JsonObject:
        asked.append(events)
        is_last = len(asked) == GAP_PAGES_MAX + pages
        chunk = [{"event_id": f"${len(asked)}"}]
        return {"chunk": chunk} if is_last else {"chunk": chunk, "end": f"t{len(asked)}"}

    monkeypatch.setattr(subject._api, "messages", messages)
    events = await subject._fetch_gap(ROOM, "t0", until_join=False)
    assert asked == [GAP_PAGE_EVENTS] * (GAP_PAGES_MAX - found)
    assert len(events) == len(asked)
