"""The five checks of a decrypted Olm payload: each broken alone, each refused."""

import copy
import json
from typing import Any

import pytest

from e2ee.crypto.primitives import PickleKey
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.device_lists import DeviceList
from e2ee.machine.machine import Machine
from e2ee.machine.olm.olm_payload import OlmPayloadRefused, read_payload
from tests.e2ee.record_store import RecordStore

ALICE, BOB = "@alice:hs.test", "@bob:hs.test"
ABSENT = object()


def device_of(user_id: str, device_id: str = "DEV") -> Device:
    """Returns a device with fresh keys."""
    machine = Machine.create(
        RecordStore(), PickleKey.random(), user_id=user_id, device_id=device_id
    )
    return machine.device


@pytest.fixture(scope="module")
def own() -> Device:
    """Returns our device."""
    return device_of(ALICE)


@pytest.fixture(scope="module")
def bob() -> Device:
    """Returns the sender's device."""
    return device_of(BOB)


@pytest.fixture(scope="module")
def mallory() -> Device:
    """Another user's device."""
    return device_of("@mallory:hs.test")


def payload_of(bob: Device, own: Device) -> dict[str, Any]:
    """Returns a payload in which all is right."""
    return {
        "type": "m.dummy",
        "content": {},
        "sender": BOB,
        "recipient": ALICE,
        "recipient_keys": {"ed25519": own.ed25519},
        "keys": {"ed25519": bob.ed25519},
        "sender_device_keys": bob.signed_json,
    }


def read(
    payload: object, bob: Device, own: Device, listed: DeviceList | None = None, sender: str = BOB
) -> Device | None:
    """Returns the device the payload is found to be from."""
    plaintext = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    event = read_payload(
        plaintext,
        sender=sender,
        sender_key=bob.curve25519,
        own=own,
        listed=listed or DeviceList(),
    )
    return event.device


def test_a_right_payload_names_its_device(bob: Device, own: Device) -> None:
    """By the keys it brings, by the list, or not at all."""
    payload = payload_of(bob, own)
    found = read(payload, bob, own)
    assert found is not None
    assert found.device_id == "DEV"
    del payload["sender_device_keys"]
    assert read(payload, bob, own, DeviceList(devices={"DEV": bob})) == bob
    assert read(payload, bob, own, DeviceList(gone={"DEV": bob})) == bob
    assert read(payload, bob, own) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sender",), "@mallory:hs.test"),  # 1
        (("sender",), None),
        (("keys", "ed25519"), "A" * 43),  # 2 and 5.3
        (("keys", "ed25519"), 5),
        (("keys",), ABSENT),
        (("recipient",), BOB),  # 3
        (("recipient",), ABSENT),
        (("recipient_keys", "ed25519"), "A" * 43),  # 4
        (("recipient_keys",), {}),
        (("sender_device_keys",), None),  # 5
        (("sender_device_keys",), {}),
        (("sender_device_keys", "user_id"), ALICE),  # 5.1
        (("sender_device_keys", "device_id"), "OTHER"),
        (("sender_device_keys", "keys", "curve25519:DEV"), "A" * 43),  # 5.2
        (("sender_device_keys", "keys", "ed25519:DEV"), "A" * 43),  # 5.3
        (("sender_device_keys", "signatures"), {}),  # 5.4
        (("sender_device_keys", "extra"), "unsigned"),
        (("type",), 5),
        (("content",), []),
    ],
)
def test_each_broken_check_refuses(
    bob: Device, own: Device, path: tuple[str, ...], value: object
) -> None:
    """I7, I8: one person's message can't be passed off as another's."""
    payload: Any = copy.deepcopy(payload_of(bob, own))
    read(payload, bob, own)
    target = payload
    for name in path[:-1]:
        target = target[name]
    if value is ABSENT:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    with pytest.raises(OlmPayloadRefused):
        read(payload, bob, own)


def test_the_keys_of_another_device_dont_pass(bob: Device, own: Device, mallory: Device) -> None:
    """Properly signed, but not of this channel: 5.2, and 5.1 for another user's."""
    payload = payload_of(bob, own) | {"sender_device_keys": mallory.signed_json}
    with pytest.raises(OlmPayloadRefused, match="5"):
        read(payload, bob, own)
    other = device_of(BOB)
    payload = payload_of(bob, own) | {"sender_device_keys": other.signed_json}
    with pytest.raises(OlmPayloadRefused, match=r"5\.2"):
        read(payload, bob, own)


def test_the_list_has_the_last_word(bob: Device, own: Device) -> None:
    """2: another signing key on the list; and an ID that the list gives to another key."""
    odd = Device(BOB, "DEV", bob.curve25519, "A" * 43)
    with pytest.raises(OlmPayloadRefused, match="check 2"):
        read(payload_of(bob, own), bob, own, DeviceList(devices={"DEV": odd}))
    first = device_of(BOB)
    for listed in (DeviceList(devices={"DEV": first}), DeviceList(gone={"DEV": first})):
        with pytest.raises(OlmPayloadRefused, match="other keys"):
            read(payload_of(bob, own), bob, own, listed)


@pytest.mark.parametrize("plaintext", [b"", b"[]", b"5", b"{", b"\xff", b"[" * 5000, b"{}"])
def test_what_isnt_a_payload_is_refused(bob: Device, own: Device, plaintext: bytes) -> None:
    """Whatever bytes an Olm message carries."""
    with pytest.raises(OlmPayloadRefused):
        read(plaintext, bob, own)
