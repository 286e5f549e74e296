"""Our sessions: how long they live, and who is told what."""

from typing import Any

import pytest

from e2ee.crypto.primitives import PickleKey
from e2ee.limits import CLAIM_RETRY_MS, ROTATION_MS_MAX
from e2ee.machine.devices.trust import WithheldCode, Withhold
from e2ee.machine.machine import Machine
from e2ee.machine.requests import ClaimKeys, QueryKeys, SendToDevice
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.machine.sync_changes import SyncChanges
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
ROOM, ALICE, BOB = "!r:hs.test", "@alice:hs.test", "@bob:hs.test"


def machine_of(user_id: str) -> Machine:
    """Returns a machine with one device."""
    client_rooms = RecordStore()
    return Machine.create(client_rooms, PickleKey(bytes(32)), user_id=user_id, device_id="DEV")


@pytest.fixture
def machine() -> Machine:
    """Alice's, in an encrypted room."""
    machine = machine_of(ALICE)
    machine.pin_encryption(ROOM)
    return machine


def share(machine: Machine, *devices: Machine, now_ms: int = 0) -> list[SendToDevice]:
    """Shares the room's key with bob's devices; what is sent to them."""
    keys = {device.device.device_id: device.device.signed_json for device in devices}
    sent: list[SendToDevice] = []
    recipients = frozenset({BOB}) if devices else frozenset({ALICE})
    while machine.share_room_key(ROOM, recipients, now_ms) is Sharing.WAITING:
        sent += serve(machine, {"device_keys": {BOB: keys}}, now_ms)
    return sent + serve(machine, {"device_keys": {BOB: keys}}, now_ms)


def serve(machine: Machine, query_answer: JsonObject, now_ms: int) -> list[SendToDevice]:
    """Answers what the machine asks; nobody has one-time keys."""
    unsaved = machine.outgoing_requests(now_ms)
    machine.pending_changes.save(lambda changes: None)
    requests = machine.pending_changes.release(unsaved)
    for request in requests:
        machine.mark_sent(request, query_answer if isinstance(request, QueryKeys) else {}, now_ms)
    return [request for request in requests if isinstance(request, SendToDevice)]


def encrypt(machine: Machine) -> str:
    """Encrypts a message; its session."""
    unsaved = machine.encrypt(ROOM, "m.room.message", {"body": "x"})
    machine.pending_changes.save(lambda changes: None)
    session_id: str = machine.pending_changes.release(unsaved)["session_id"]
    return session_id


def test_a_session_encrypts_a_hundred_messages(machine: Machine) -> None:
    """The hundred and first starts a new one."""
    sessions = []
    for _ in range(201):
        share(machine)
        sessions.append(encrypt(machine))
    assert [sessions.count(one) for one in dict.fromkeys(sessions)] == [100, 100, 1]


@pytest.mark.parametrize(
    ("now_ms", "is_same"),
    [(ROTATION_MS_MAX - 1, True), (ROTATION_MS_MAX, False), (-1, False)],
)
def test_a_session_lives_a_week(machine: Machine, now_ms: int, is_same: bool) -> None:
    """And not on when the clock went back: its age is unknown then."""
    share(machine, now_ms=0)
    first = encrypt(machine)
    share(machine, now_ms=now_ms)
    assert (encrypt(machine) == first) is is_same


def test_encrypting_without_sharing_is_a_fault_of_ours(machine: Machine) -> None:
    """Nobody could read it."""
    with pytest.raises(AssertionError, match="shared"):
        machine.encrypt(ROOM, "m.room.message", {"body": "x"})


def test_a_room_that_isnt_encrypted_has_no_key_to_share() -> None:
    """The caller must have asked."""
    with pytest.raises(AssertionError, match="encrypted"):
        machine_of(ALICE).share_room_key(ROOM, frozenset({BOB}), 0)


def test_who_gets_no_key_is_told_once_for_a_session(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the session's name and the code; told anew for the next session."""
    verdict = Withhold(WithheldCode.UNVERIFIED)
    monkeypatch.setattr("e2ee.machine.rooms.room_key_sharing.key_sharing", lambda *_: verdict)
    bob = machine_of(BOB)
    [told] = share(machine, bob)
    content = told.messages[BOB]["DEV"]
    assert told.event_type == "m.room_key.withheld"
    assert (content["code"], content["room_id"]) == ("m.unverified", ROOM)
    assert content["session_id"] == encrypt(machine)
    machine._lists.version += 1  # something changed somewhere: looked at again
    assert share(machine, bob) == []
    machine.end_session(ROOM)
    assert len(share(machine, bob)) == 1


def test_who_has_no_one_time_key_holds_nobody_up_and_is_told_once_ever(machine: Machine) -> None:
    """`m.no_olm` names no session: it is for all of them."""
    bob = machine_of(BOB)
    [told] = share(machine, bob)
    content = told.messages[BOB]["DEV"]
    assert content["code"] == "m.no_olm"
    assert "session_id" not in content
    encrypt(machine)
    machine.end_session(ROOM)
    assert share(machine, bob) == []
    encrypt(machine)


def claims(machine: Machine, bob: Machine, now_ms: int) -> int:
    """Returns how often the machine claims a key of bob's until it is ready to encrypt; there is
    none."""
    keys, made = {"DEV": bob.device.signed_json}, 0
    while machine.share_room_key(ROOM, frozenset({BOB}), now_ms) is Sharing.WAITING:
        unsaved = machine.outgoing_requests(now_ms)
        machine.pending_changes.save(lambda changes: None)
        for request in machine.pending_changes.release(unsaved):
            made += isinstance(request, ClaimKeys)
            answer = {"device_keys": {BOB: keys}} if isinstance(request, QueryKeys) else {}
            machine.mark_sent(request, answer, now_ms)
    return made


def test_a_claim_that_failed_is_made_again_later_or_once_the_user_has_changed(
    machine: Machine,
) -> None:
    """A user who was invited may have had no key for us, and has one since the join."""
    bob = machine_of(BOB)
    assert claims(machine, bob, 0) == 1
    assert claims(machine, bob, CLAIM_RETRY_MS - 1) == 0
    assert claims(machine, bob, CLAIM_RETRY_MS) == 1
    now_ms = CLAIM_RETRY_MS + 1
    machine.receive_sync(SyncChanges(changed_users=(ALICE,)), now_ms)
    assert claims(machine, bob, now_ms) == 0
    machine.receive_sync(SyncChanges(changed_users=(BOB,)), now_ms)
    assert claims(machine, bob, now_ms) == 1
    assert claims(machine, bob, now_ms) == 0
