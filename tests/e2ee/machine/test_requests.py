"""Requests as values: the bodies that the specification wants, and a to-device message that comes
back from its record unchanged."""

import dataclasses

import msgspec
import pytest

from e2ee.machine.requests import ClaimKeys, QueryKeys, SendToDevice, UploadKeys

ALICE, BOB = "@alice:hs.test", "@bob:hs.test"


def test_a_query_asks_for_all_devices_of_its_users() -> None:
    """An empty list of device IDs means all."""
    request = QueryKeys("query-1", (ALICE, BOB))
    assert request.body == {"device_keys": {ALICE: [], BOB: []}}
    assert QueryKeys("query-2", ()).body == {"device_keys": {}}


def test_a_claim_asks_for_signed_keys_only() -> None:
    """Several devices of one user stand together; no other algorithm is ever asked for."""
    request = ClaimKeys("claim-1", ((ALICE, "ONE"), (BOB, "ONE"), (ALICE, "TWO")))
    assert request.body == {
        "one_time_keys": {
            ALICE: {"ONE": "signed_curve25519", "TWO": "signed_curve25519"},
            BOB: {"ONE": "signed_curve25519"},
        }
    }


def test_a_to_device_message_keeps_its_transaction_id_in_its_record() -> None:
    """Made again after a restart, it is the same request to the server."""
    messages = {BOB: {"DEV": {"algorithm": "x", "ciphertext": {"k": {"type": 0, "body": "b"}}}}}
    request = SendToDevice("DEV-7", 7, "m.room.encrypted", messages, "session")
    again = msgspec.json.decode(msgspec.json.encode(request), type=SendToDevice)
    assert again == request
    assert again.request_id == "DEV-7"
    assert again.body == {"messages": messages}


def test_a_request_doesnt_change_once_made() -> None:
    """What was saved is what is sent."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        UploadKeys("upload-1", {}).request_id = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        SendToDevice("x", 1, "t", {}).sequence = 2  # type: ignore[misc]
