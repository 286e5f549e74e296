"""Wire compatibility: what our machine writes is read by libolm, and the other way round.

libolm stands here for older clients; no code path of ours uses it.
"""

import json
from typing import Any

import pytest

from e2ee.crypto.primitives import PickleKey
from e2ee.machine.devices.device_keys import MEGOLM, OLM, signed_bytes
from e2ee.machine.machine import Machine
from e2ee.machine.requests import ClaimKeys, QueryKeys, SendToDevice, UploadKeys
from e2ee.machine.rooms.room_key_sharing import Sharing
from e2ee.machine.rooms.room_keys import Decrypted
from e2ee.machine.sync_changes import SyncChanges
from tests.e2ee.record_store import RecordStore

olm = pytest.importorskip("olm")
JsonObject = dict[str, Any]
ROOM = "!r:hs.test"
ALICE, BOB = "@alice:hs.test", "@bob:hs.test"


class LibolmDevice:
    """Bob's device, by libolm."""

    def __init__(self) -> None:
        self.account = olm.Account()
        self.account.generate_one_time_keys(1)
        self.keys: dict[str, str] = self.account.identity_keys

    def sign(self, value: JsonObject) -> JsonObject:
        """Signs an object as the device."""
        signature = self.account.sign(signed_bytes(value).decode())
        return value | {"signatures": {BOB: {"ed25519:OLD": signature}}}

    def device_keys(self) -> JsonObject:
        """Its published keys."""
        keys = {f"{kind}:OLD": key for kind, key in self.keys.items()}
        value = {"user_id": BOB, "device_id": "OLD", "algorithms": [OLM, MEGOLM], "keys": keys}
        return self.sign(value)

    def one_time_key(self) -> JsonObject:
        """Returns a signed one-time key, as claimed."""
        [(name, key)] = self.account.one_time_keys["curve25519"].items()
        return {f"signed_curve25519:{name}": self.sign({"key": key})}

    def open(self, sender_key: str, content: JsonObject) -> tuple[Any, JsonObject]:
        """Decrypts a first message for it; the session and payload."""
        part = content["ciphertext"][self.keys["curve25519"]]
        assert part["type"] == 0
        message = olm.OlmPreKeyMessage(part["body"])
        session = olm.InboundSession(self.account, message, sender_key)
        return session, json.loads(session.decrypt(message))

    def encrypt(self, session: Any, machine: Machine, event_type: str, content: JsonObject) -> Any:
        """Returns an Olm to-device event for our machine."""
        payload = {
            "type": event_type,
            "content": content,
            "sender": BOB,
            "recipient": ALICE,
            "recipient_keys": {"ed25519": machine.device.ed25519},
            "keys": {"ed25519": self.keys["ed25519"]},
        }
        message = session.encrypt(json.dumps(payload))
        part = {"type": message.message_type, "body": message.ciphertext}
        sealed = {
            "algorithm": OLM,
            "sender_key": self.keys["curve25519"],
            "ciphertext": {machine.device.curve25519: part},
        }
        return {"type": "m.room.encrypted", "sender": BOB, "content": sealed}


def serve(machine: Machine, bob: LibolmDevice) -> list[SendToDevice]:
    """Answers the machine's requests until it has none; what it sent to devices."""
    sent: list[SendToDevice] = []
    for _ in range(5):
        unsaved = machine.outgoing_requests(0)
        machine.pending_changes.save(lambda changes: None)
        for request in machine.pending_changes.release(unsaved):
            answer: JsonObject = {}
            match request:
                case QueryKeys():
                    answer = {"device_keys": {BOB: {"OLD": bob.device_keys()}}}
                case ClaimKeys():
                    answer = {"one_time_keys": {BOB: {"OLD": bob.one_time_key()}}}
                case UploadKeys():
                    answer = {"one_time_key_counts": {"signed_curve25519": 50}}
                case SendToDevice():
                    sent.append(request)
            machine.mark_sent(request, answer, 0)
    return sent


@pytest.fixture
def machine() -> Machine:
    """Alice's machine, which knows the room as encrypted."""
    client_rooms = RecordStore()
    machine = Machine.create(client_rooms, PickleKey.random(), user_id=ALICE, device_id="NEW")
    machine.pin_encryption(ROOM)
    return machine


def share(machine: Machine, bob: LibolmDevice) -> JsonObject:
    """Shares the room's key with bob; the Olm event's content."""
    sent: list[SendToDevice] = []
    while machine.share_room_key(ROOM, frozenset({BOB}), 0) is Sharing.WAITING:
        sent += serve(machine, bob)
    [request] = sent
    return request.messages[BOB]["OLD"]


def test_libolm_reads_what_our_machine_writes(machine: Machine) -> None:
    """The Olm message with the room key, then the room message; all payload fields are there."""
    bob = LibolmDevice()
    _, payload = bob.open(machine.device.curve25519, share(machine, bob))
    assert payload["type"] == "m.room_key"
    assert payload["sender"] == ALICE
    assert payload["recipient"] == BOB
    assert payload["recipient_keys"]["ed25519"] == bob.keys["ed25519"]
    assert payload["keys"]["ed25519"] == machine.device.ed25519
    assert payload["sender_device_keys"] == machine.device.signed_json
    group = olm.InboundGroupSession(payload["content"]["session_key"])
    unsaved = machine.encrypt(ROOM, "m.room.message", {"body": "hello"})
    machine.pending_changes.save(lambda changes: None)
    content = machine.pending_changes.release(unsaved)
    assert content["session_id"] == payload["content"]["session_id"] == group.id
    plaintext, index = group.decrypt(content["ciphertext"])
    assert json.loads(plaintext) == {
        "type": "m.room.message",
        "content": {"body": "hello"},
        "room_id": ROOM,
    }
    assert index == 0


def test_our_machine_reads_what_libolm_writes(machine: Machine) -> None:
    """A room key in an Olm reply, then a room message; as bob's, and as no one else's."""
    bob = LibolmDevice()
    session, _ = bob.open(machine.device.curve25519, share(machine, bob))
    group = olm.OutboundGroupSession()
    key = {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": group.id,
        "session_key": group.session_key,
    }
    event = bob.encrypt(session, machine, "m.room_key", key)
    outcome = machine.receive_sync(SyncChanges(to_device=(event,)), 0)
    assert outcome.new_keys == {(ROOM, group.id)}
    payload = {"type": "m.room.message", "content": {"body": "hi"}, "room_id": ROOM}
    content = {
        "algorithm": MEGOLM,
        "session_id": group.id,
        "ciphertext": group.encrypt(json.dumps(payload)),
    }
    received = {
        "type": "m.room.encrypted",
        "sender": BOB,
        "event_id": "$1",
        "room_id": ROOM,
        "content": content,
    }
    reading = machine.decrypt(received)
    assert isinstance(reading, Decrypted)
    assert reading.content == {"body": "hi"}
    assert reading.device_id == "OLD"
    assert not isinstance(machine.decrypt(received | {"sender": ALICE}), Decrypted)


def test_our_machine_opens_a_channel_that_libolm_began(machine: Machine) -> None:
    """With one of our one-time keys, and with our fallback key."""
    bob = LibolmDevice()
    unsaved = machine.outgoing_requests(0)
    machine.pending_changes.save(lambda changes: None)
    upload = next(r for r in machine.pending_changes.release(unsaved) if isinstance(r, UploadKeys))
    one_time = next(iter(upload.body["one_time_keys"].values()))["key"]
    [fallback] = upload.body["fallback_keys"].values()
    assert fallback["fallback"] is True
    serve(machine, bob)
    for key in (one_time, fallback["key"]):
        session = olm.OutboundSession(bob.account, machine.device.curve25519, key)
        group = olm.OutboundGroupSession()
        content = {
            "algorithm": MEGOLM,
            "room_id": ROOM,
            "session_id": group.id,
            "session_key": group.session_key,
        }
        event = bob.encrypt(session, machine, "m.room_key", content)
        assert machine.receive_sync(SyncChanges(to_device=(event,)), 0).new_keys
