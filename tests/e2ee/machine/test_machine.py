"""The machine as a whole: syncs in, requests out in their order and sizes, late answers ignored,
and sessions that end when someone may have gone."""

from typing import Any

import pytest

from e2ee.crypto.primitives import PickleKey, PickleRefused
from e2ee.limits import CLAIM_DEVICES_MAX, CLAIM_RETRY_MS, QUERY_USERS_MAX
from e2ee.machine.alarms import NoticeKind
from e2ee.machine.devices.device_keys import MEGOLM, Device
from e2ee.machine.machine import Machine
from e2ee.machine.requests import ClaimKeys, QueryKeys, Request, SendToDevice, UploadKeys
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.machine.rooms.room_keys import Decrypted, KeyMissing, RefusedMessage
from e2ee.machine.sync_changes import RoomChanges, SyncChanges, SyncOutcome
from tests.e2ee.device_parts import PICKLE_KEY, DeviceParts, as_received
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
ROOM, ALICE, BOB = "!r:hs.test", "@alice:hs.test", "@bob:hs.test"
COUNTS = {"signed_curve25519": 50}


def machine_of(
    user_id: str, device_id: str = "DEV", client_rooms: RecordStore | None = None
) -> Machine:
    """Returns a new device's machine."""
    client_rooms = RecordStore() if client_rooms is None else client_rooms
    return Machine.create(client_rooms, PICKLE_KEY, user_id=user_id, device_id=device_id)


@pytest.fixture
def alice() -> Machine:
    """Alice's, in an encrypted room."""
    alice = machine_of(ALICE)
    alice.pin_encryption(ROOM)
    return alice


@pytest.fixture
def bob() -> Machine:
    """Bob's."""
    return machine_of(BOB)


def save(machine: Machine) -> None:
    """Saves all records."""
    client_rooms = machine.pending_changes._lookup
    assert isinstance(client_rooms, RecordStore)
    machine.pending_changes.save(client_rooms.apply)


def take(machine: Machine, now_ms: int = 0) -> tuple[Request, ...]:
    """Takes the requests that are due."""
    unsaved = machine.outgoing_requests(now_ms)
    save(machine)
    return machine.pending_changes.release(unsaved)


def answer(request: Request, *others: Machine) -> JsonObject:
    """Returns an honest server's answer; the others are all the devices that there are."""
    match request:
        case UploadKeys():
            return {"one_time_key_counts": COUNTS}
        case QueryKeys(users=users):
            keys: dict[str, JsonObject] = {user_id: {} for user_id in users}
            for other in others:
                keys.setdefault(other.device.user_id, {})
                keys[other.device.user_id][other.device.device_id] = other.device.signed_json
            return {"device_keys": keys}
        case ClaimKeys():
            found: JsonObject = {}
            for other in others:
                uploads = [r for r in take(other) if isinstance(r, UploadKeys)]
                key = dict([next(iter(uploads[0].body["one_time_keys"].items()))])
                found.setdefault(other.device.user_id, {})[other.device.device_id] = key
            return {"one_time_keys": found}
        case SendToDevice():
            return {}


def share(machine: Machine, *others: Machine, now_ms: int = 0) -> list[JsonObject]:
    """Shares the room's key with the others; returns the events for the first one's sync."""
    events: list[JsonObject] = []
    recipients = frozenset(other.device.user_id for other in others)
    while machine.share_room_key(ROOM, recipients, now_ms) is Sharing.WAITING:
        for request in take(machine, now_ms):
            if isinstance(request, SendToDevice):
                for content in request.messages[others[0].device.user_id].values():
                    event = {"type": request.event_type, "sender": machine.device.user_id}
                    events.append(as_received({**event, "content": content}))
            machine.mark_sent(request, as_received(answer(request, *others)), now_ms)
    return events


def say(machine: Machine, body: str = "a word") -> JsonObject:
    """Encrypts a message; returns the event as the room has it."""
    unsaved = machine.encrypt(ROOM, "m.room.message", {"body": body})
    save(machine)
    content = as_received(machine.pending_changes.release(unsaved))
    event = {"room_id": ROOM, "event_id": f"${body}", "sender": machine.device.user_id}
    return {**event, "type": "m.room.encrypted", "content": content, "origin_server_ts": 1}


# Life of a device


def test_a_machine_is_the_same_after_a_restart() -> None:
    """Identity, settings, lists and waiting requests; it opens with its key only."""
    client_rooms = RecordStore()
    first = machine_of(ALICE, client_rooms=client_rooms)
    first.pin_encryption(ROOM)
    save(first)
    again = Machine.load(client_rooms, PICKLE_KEY)
    assert again is not None
    assert again.device == first.device
    assert again.room(ROOM).is_supported
    kinds = [type(request) for request in take(again)]
    assert kinds == [UploadKeys, QueryKeys]
    with pytest.raises(PickleRefused):
        Machine.load(client_rooms, PickleKey(b"\1" * 32))
    assert Machine.load(RecordStore(), PICKLE_KEY) is None


def test_a_message_is_read_by_its_recipient(alice: Machine, bob: Machine) -> None:
    """And by its sender; who isn't given the key misses it."""
    [room_key] = share(alice, bob)
    event = say(alice)
    missing = bob.decrypt(event)
    assert isinstance(missing, KeyMissing)
    outcome = bob.receive_sync(SyncChanges(to_device=(room_key,)), 0)
    assert outcome.new_keys == {(ROOM, missing.session_id)}
    for reader in (alice, bob):
        reading = reader.decrypt(event)
        assert isinstance(reading, Decrypted)
        assert (reading.sender, reading.content) == (ALICE, {"body": "a word"})
    assert isinstance(machine_of(BOB).decrypt(event), KeyMissing)


# Sync in


def test_a_sync_reports_what_it_brought(alice: Machine, bob: Machine) -> None:
    """Each sync for itself; what isn't the machine's is passed on, in order."""
    events = share(alice, bob)
    others: list[JsonObject] = [{"type": f"m.key.verification.{n}", "sender": ALICE} for n in "ab"]
    withheld = {"room_id": ROOM, "session_id": "s", "code": "m.unverified"}
    notice = {"type": "m.room_key.withheld", "sender": ALICE, "content": withheld}
    arrived = (others[0], *events, notice, others[1])
    outcome = bob.receive_sync(SyncChanges(to_device=arrived, one_time_key_counts=COUNTS), 0)
    session_id = alice.session_id(ROOM)
    assert session_id is not None
    assert outcome == SyncOutcome(
        frozenset({(ROOM, session_id)}), frozenset({(ROOM, "s")}), tuple(others)
    )
    assert bob.receive_sync(SyncChanges(), 0) == SyncOutcome()


def test_one_bad_event_stops_nothing(alice: Machine, bob: Machine) -> None:
    """A hostile server can't keep keys away by what it puts before them."""
    bad: tuple[JsonObject, ...] = ({}, {"type": "m.room.encrypted", "content": 5}, {"type": 5})
    outcome = bob.receive_sync(SyncChanges(to_device=(*bad, *share(alice, bob))), 0)
    assert len(outcome.new_keys) == 1
    assert outcome.to_device == (bad[0], bad[2])
    assert [notice.kind for notice in bob.take_notices()] == [NoticeKind.OLM_REFUSED]
    assert bob.take_notices() == ()


def test_an_initial_sync_makes_every_list_outdated(alice: Machine, bob: Machine) -> None:
    """Changes before it are unknown; an ordinary sync makes those that it names."""
    share(alice, bob)
    assert alice.devices_of(BOB) == (Device(BOB, "DEV", bob.device.curve25519, bob.device.ed25519),)
    assert queried(alice, alice, bob) == set()
    alice.receive_sync(SyncChanges(changed_users=(BOB, "@stranger:hs.test")), 0)
    assert queried(alice, alice, bob) == {BOB}
    alice.receive_sync(SyncChanges(is_initial=True), 0)
    assert queried(alice, alice, bob) == {ALICE, BOB}


def queried(machine: Machine, *others: Machine) -> set[str]:
    """Returns the users whose lists the machine asks for now, and answers."""
    queries = [request for request in take(machine) if isinstance(request, QueryKeys)]
    for query in queries:
        machine.mark_sent(query, as_received(answer(query, *others)), 0)
    return {user_id for query in queries for user_id in query.users}


def test_users_we_left_arent_asked_for(alice: Machine, bob: Machine) -> None:
    """Until a room is shared again: then their list is outdated."""
    share(alice, bob)
    alice.receive_sync(SyncChanges(left_users=(BOB,)), 0)
    alice.receive_sync(SyncChanges(changed_users=(BOB,)), 0)
    assert queried(alice, alice, bob) == set()
    assert alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING
    assert queried(alice, alice, bob) == {BOB}


def test_counts_of_a_sync_make_an_upload(alice: Machine) -> None:
    """Of one-time keys, and of a fallback key that was used."""
    [upload, query] = take(alice)
    alice.mark_sent(upload, answer(upload), 0)
    alice.mark_sent(query, answer(query), 0)
    alice.receive_sync(SyncChanges(one_time_key_counts=COUNTS, unused_fallback_types=[]), 0)
    [upload] = take(alice)
    assert list(upload.body) == ["fallback_keys"]
    alice.mark_sent(upload, answer(upload), 0)
    alice.receive_sync(SyncChanges(one_time_key_counts={"signed_curve25519": 10}), 0)
    [upload] = take(alice)
    assert len(upload.body["one_time_keys"]) == 40


# Rooms


@pytest.mark.parametrize(
    ("membership", "is_limited", "ends"),
    [
        ("leave", False, True),
        ("ban", False, True),
        ("invite", False, False),
        ("knock", False, False),
        ("join", False, False),
        ("leave", True, True),
        ("ban", True, True),
        ("invite", True, True),
        ("knock", True, True),
        ("join", True, False),
    ],
)
def test_a_session_ends_when_someone_may_have_left(
    alice: Machine, bob: Machine, membership: str, is_limited: bool, ends: bool
) -> None:
    """M8: with a gap, an invite may be all that is seen of a user who joined and left again."""
    share(alice, bob)
    before = alice.session_id(ROOM)
    seen = (("@carol:hs.test", "join"), ("@carol:hs.test", membership))
    alice.see_room(RoomChanges(ROOM, is_limited, memberships=seen))
    assert alice.session_id(ROOM) == (None if ends else before)
    assert before is not None


def test_a_leave_elsewhere_ends_nothing(alice: Machine, bob: Machine) -> None:
    """Each room has its own session."""
    share(alice, bob)
    alice.see_room(RoomChanges("!other:hs.test", memberships=((BOB, "leave"),)))
    assert alice.session_id(ROOM) is not None


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        (("shared",), False),
        (("world_readable",), False),
        (("joined",), True),
        (("invited",), True),
        (("joined", "shared"), False),
        ((None,), False),
    ],
)
def test_a_changed_history_visibility_ends_the_session(
    alice: Machine, bob: Machine, values: tuple[object, ...], ends: bool
) -> None:
    """M7: where what later members may have of it changed; a room begins as `shared`."""
    share(alice, bob)
    alice.see_room(RoomChanges(ROOM, history_visibility=values))
    assert (alice.session_id(ROOM) is None) is ends
    share(alice, bob)
    assert alice.room(ROOM).shares_history is not ends


def test_encryption_is_pinned_by_a_sync_and_cant_be_taken_back(bob: Machine) -> None:
    """P1: in the order in which the contents came."""
    encryption: tuple[JsonObject, ...] = ({"algorithm": MEGOLM, "rotation_period_msgs": 5}, {})
    bob.receive_sync(SyncChanges(rooms=(RoomChanges(ROOM, encryption=encryption),)), 0)
    settings = bob.room(ROOM)
    assert settings.is_encrypted
    assert settings.is_supported
    assert settings.rotation_messages == 5
    assert [notice.kind for notice in bob.take_notices()] == [NoticeKind.ENCRYPTION_CHANGE_REFUSED]


def test_the_next_message_after_an_end_starts_a_session(alice: Machine, bob: Machine) -> None:
    """By hand too."""
    assert alice.session_id(ROOM) is None
    share(alice, bob)
    first = say(alice)["content"]["session_id"]
    assert first == alice.session_id(ROOM)
    alice.end_session(ROOM)
    assert alice.session_id(ROOM) is None
    share(alice, bob)
    assert say(alice)["content"]["session_id"] != first


def test_a_key_is_shared_for_megolm_rooms_only(bob: Machine) -> None:
    """Whoever sends must have looked; an assertion, as it is no one else's fault."""
    with pytest.raises(AssertionError, match="isn't encrypted"):
        bob.share_room_key(ROOM, frozenset({ALICE}), 0)
    bob.see_room(RoomChanges(ROOM, encryption=({"algorithm": "m.strange"},)))
    with pytest.raises(AssertionError, match="Megolm"):
        bob.share_room_key(ROOM, frozenset({ALICE}), 0)


def test_our_other_devices_get_the_key_without_being_named(alice: Machine) -> None:
    """Whether the caller counts us among the recipients or not."""
    phone = machine_of(ALICE, "PHONE")
    while alice.share_room_key(ROOM, frozenset(), 0) is Sharing.WAITING:
        requests = take(alice)
        for request in requests:
            alice.mark_sent(request, as_received(answer(request, phone)), 0)
    [sent] = [request for request in requests if isinstance(request, SendToDevice)]
    assert list(sent.messages[ALICE]) == ["PHONE"]


def test_what_isnt_encrypted_by_megolm_is_refused(alice: Machine) -> None:
    """Reading has no need of a pinned room."""
    assert isinstance(alice.decrypt({"content": {"algorithm": "m.strange"}}), RefusedMessage)


# Requests out


def test_a_request_is_handed_out_until_it_is_answered(alice: Machine) -> None:
    """The same one, with its name; the upload comes first, since it has the device's keys."""
    first = take(alice)
    assert [type(request) for request in first] == [UploadKeys, QueryKeys]
    assert take(alice) == first
    for request in first:
        alice.mark_sent(request, answer(request), 0)
    assert take(alice) == ()


def test_requests_leave_after_a_save_only(alice: Machine) -> None:
    """The one-time keys in an upload were just made: their private halves must be there."""
    unsaved = alice.outgoing_requests(0)
    with pytest.raises(AssertionError, match="saved"):
        alice.pending_changes.release(unsaved)
    save(alice)
    assert alice.pending_changes.release(unsaved)


def test_a_message_leaves_after_a_save_only(alice: Machine, bob: Machine) -> None:
    """What is encrypted is encrypted once."""
    share(alice, bob)
    unsaved = alice.encrypt(ROOM, "m.room.message", {"body": "a word"})
    with pytest.raises(AssertionError, match="saved"):
        alice.pending_changes.release(unsaved)
    assert "ciphertext" not in repr(unsaved)


@pytest.mark.parametrize(
    ("users", "sizes"),
    [(QUERY_USERS_MAX, [QUERY_USERS_MAX]), (QUERY_USERS_MAX + 1, [QUERY_USERS_MAX, 1])],
)
def test_queries_are_bounded(alice: Machine, users: int, sizes: list[int]) -> None:
    """In a room of thousands; all of them are asked for."""
    everyone = {f"@u{number}:hs.test" for number in range(users - 1)} | {ALICE}
    alice.share_room_key(ROOM, frozenset(everyone), 0)
    queries = [request for request in take(alice) if isinstance(request, QueryKeys)]
    assert [len(query.users) for query in queries] == sizes
    assert {user_id for query in queries for user_id in query.users} == everyone
    assert len({query.request_id for query in queries}) == len(queries)


def test_claims_are_bounded(alice: Machine) -> None:
    """One user's many devices too; each is claimed once."""
    alice.receive_sync(SyncChanges(one_time_key_counts=COUNTS), 0)
    signer = DeviceParts(BOB, "D0")
    devices = {f"D{number}": signed_as(signer, f"D{number}") for number in range(260)}
    claims: list[ClaimKeys] = []
    while alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING:
        for request in take(alice):
            is_query = isinstance(request, QueryKeys)
            claims += [request] if isinstance(request, ClaimKeys) else []
            keys = {"device_keys": {BOB: devices}}
            alice.mark_sent(request, keys if is_query else {}, 0)
    assert [len(claim.devices) for claim in claims] == [CLAIM_DEVICES_MAX, 10]
    assert {device_id for claim in claims for _, device_id in claim.devices} == set(devices)


def signed_as(signer: DeviceParts, device_id: str) -> JsonObject:
    """Returns one set of keys, signed as those of another device ID."""
    device = signer.device
    keys = {f"curve25519:{device_id}": device.curve25519, f"ed25519:{device_id}": device.ed25519}
    value = signer.device.signed_json | {"device_id": device_id, "keys": keys}
    value = {name: part for name, part in value.items() if name != "signatures"}
    [signature] = signer.sign(value)["signatures"][BOB].values()
    return {**value, "signatures": {BOB: {f"ed25519:{device_id}": signature}}}


def test_an_answer_that_nobody_waits_for_is_ignored(alice: Machine, bob: Machine) -> None:
    """I13: an old list doesn't replace a newer one, and an old claim opens no second session."""
    [upload, old] = take(alice)
    alice.mark_sent(upload, answer(upload), 0)
    alice.mark_failed(old)
    alice.mark_sent(old, {"device_keys": {ALICE: {"GHOST": bob.device.signed_json}}}, 0)
    [new] = take(alice)
    assert new != old
    alice.mark_sent(new, {"device_keys": {ALICE: {"DEV": alice.device.signed_json}}}, 0)
    alice.mark_sent(old, {"device_keys": {ALICE: {}}}, 0)
    assert [device.device_id for device in alice.devices_of(ALICE)] == ["DEV"]

    claim: ClaimKeys | None = None
    late: JsonObject = {}
    while alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING:
        for request in take(alice):
            reply = as_received(answer(request, bob))
            if isinstance(request, ClaimKeys):
                claim, late = request, reply
            alice.mark_sent(request, reply, 0)
    assert claim is not None
    alice.mark_sent(claim, late, 0)
    assert len(alice._channels.of(bob.device).sessions) == 1
    assert alice.take_notices() == ()


def test_a_failed_claim_is_made_anew(alice: Machine, bob: Machine) -> None:
    """At once, under another name: no answer says nothing of the device's keys."""
    names: list[str] = []
    while alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING:
        for request in take(alice):
            if isinstance(request, ClaimKeys) and len(names) < 3:
                names.append(request.request_id)
                alice.mark_failed(request)
            else:
                alice.mark_sent(request, as_received(answer(request, bob)), 0)
    assert len(set(names)) == 3
    assert len(alice._channels.of(bob.device).sessions) == 1


def test_a_failed_to_device_message_waits(alice: Machine, bob: Machine) -> None:
    """Under the same transaction ID; nothing is encrypted before it arrived."""
    while not any(isinstance(request, SendToDevice) for request in take(alice)):
        assert alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING
        for request in take(alice):
            if not isinstance(request, SendToDevice):
                alice.mark_sent(request, as_received(answer(request, bob)), 0)
    [waiting] = take(alice)
    alice.mark_failed(waiting)
    assert take(alice) == (waiting,)
    assert alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING
    with pytest.raises(AssertionError, match="arrive"):
        alice.encrypt(ROOM, "m.room.message", {})
    alice.mark_sent(waiting, {}, 0)
    assert alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.READY


def test_a_change_of_a_user_lets_claims_be_made_again(alice: Machine, bob: Machine) -> None:
    """Of that user's devices only."""
    nobody = answer(QueryKeys("x", (BOB, ALICE)), bob)
    while alice.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING:
        for request in take(alice):
            alice.mark_sent(request, nobody if isinstance(request, QueryKeys) else {}, 0)
    assert not alice._channels.may_claim(bob.device, CLAIM_RETRY_MS - 1)
    alice.receive_sync(SyncChanges(changed_users=(ALICE,)), 0)
    assert not alice._channels.may_claim(bob.device, CLAIM_RETRY_MS - 1)
    alice.receive_sync(SyncChanges(changed_users=(BOB,)), 0)
    assert alice._channels.may_claim(bob.device, 0)
