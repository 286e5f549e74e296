"""Device keys: signed by the device that they name, or refused."""

import copy
from typing import Any

import pytest

from e2ee.crypto.primitives import encode_base64
from e2ee.machine.devices.device_keys import (
    MEGOLM,
    OLM,
    Device,
    DeviceKeysRefused,
    check_signature,
    parse_device_keys,
    signed_bytes,
)
from tests.e2ee.device_parts import DeviceParts

JsonObject = dict[str, Any]
BOB, EVE = "@bob:hs.test", "@eve:hs.test"
ABSENT = object()
IDENTITY = encode_base64(b"\1" + bytes(31))  # the point of order 1


@pytest.fixture(scope="module")
def bob() -> DeviceParts:
    """Returns bob's device."""
    return DeviceParts(BOB)


def parse(value: object, user_id: str = BOB, device_id: str = "DEV") -> Device:
    """Parses keys that a server handed out under this name."""
    return parse_device_keys(value, user_id=user_id, device_id=device_id)


def changed(value: JsonObject, path: tuple[str, ...], new: object) -> JsonObject:
    """Returns a copy with one part changed or, if `new` is ABSENT, taken away."""
    copied = copy.deepcopy(value)
    target = copied
    for name in path[:-1]:
        target = target[name]
    if new is ABSENT:
        del target[path[-1]]
    else:
        target[path[-1]] = new
    return copied


def test_a_device_is_what_it_signed(bob: DeviceParts) -> None:
    """Only keys are kept: what it says of itself beside them isn't stored."""
    device = parse(bob.device.signed_json)
    assert device == Device(BOB, "DEV", bob.device.curve25519, bob.device.ed25519)
    assert device.signed_json == {}
    assert device.has_keys_of(bob.device)
    assert str(device.identity) == bob.device.curve25519
    assert str(device.fingerprint) == bob.device.ed25519


def test_names_beside_the_signature_are_the_servers_to_change(bob: DeviceParts) -> None:
    """A display name under `unsigned` is not part of what the device signed; nor are signatures."""
    unsigned = {"device_display_name": "anything"}
    other = {"@other:hs.test": {"ed25519:X": "text"}}
    signatures = bob.device.signed_json["signatures"] | other
    value = bob.device.signed_json | {"unsigned": unsigned, "signatures": signatures}
    assert parse(value).has_keys_of(bob.device)
    assert signed_bytes(value) == signed_bytes(bob.device.signed_json)


@pytest.mark.parametrize(("user_id", "device_id"), [(EVE, "DEV"), (BOB, "OTHER")])
def test_keys_under_another_name_are_refused(
    bob: DeviceParts, user_id: str, device_id: str
) -> None:
    """I7: bob's keys, well signed, handed out as another device's."""
    with pytest.raises(DeviceKeysRefused, match="another device"):
        parse(bob.device.signed_json, user_id, device_id)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("user_id",), ABSENT),
        (("user_id",), [BOB]),
        (("device_id",), ABSENT),
        (("keys",), ABSENT),
        (("keys",), []),
        (("keys",), "curve25519:DEV"),
        (("keys", "curve25519:DEV"), ABSENT),
        (("keys", "curve25519:DEV"), 5),
        (("keys", "curve25519:DEV"), None),
        (("keys", "curve25519:DEV"), []),
        (("keys", "curve25519:DEV"), "A" * 42),
        (("keys", "curve25519:DEV"), "A" * 44),
        (("keys", "curve25519:DEV"), "-" * 43),
        (("keys", "curve25519:DEV"), "\ud800" * 43),
        (("keys", "ed25519:DEV"), ABSENT),
        (("keys", "ed25519:DEV"), {}),
        (("algorithms",), ABSENT),
        (("algorithms",), None),
        (("algorithms",), 5),
        (("algorithms",), [[OLM], MEGOLM]),
        (("algorithms",), []),
        (("algorithms",), [OLM]),
        (("algorithms",), [MEGOLM]),
        (("algorithms",), f"{OLM} {MEGOLM}"),
    ],
)
def test_malformed_keys_are_refused(bob: DeviceParts, path: tuple[str, ...], new: object) -> None:
    """Even where the device itself signed them."""
    broken = changed(bob.device.signed_json, path, new)
    try:
        signed = bob.sign({name: part for name, part in broken.items() if name != "signatures"})
    except ValueError:  # a lone surrogate can't be signed
        signed = broken
    with pytest.raises(DeviceKeysRefused):
        parse(signed)


@pytest.mark.parametrize("value", [None, 5, "text", [], True])
def test_what_isnt_an_object_is_refused(value: object) -> None:
    """Whatever the server hands out."""
    with pytest.raises(DeviceKeysRefused, match="object"):
        parse(value)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        (("signatures",), ABSENT),
        (("signatures",), {}),
        (("signatures",), []),
        (("signatures",), None),
        (("signatures", BOB), {}),
        (("signatures", BOB), "ed25519:DEV"),
        (("signatures", BOB, "ed25519:DEV"), ABSENT),
        (("signatures", BOB, "ed25519:DEV"), 5),
        (("signatures", BOB, "ed25519:DEV"), ["A" * 86]),
        (("signatures", BOB, "ed25519:DEV"), ""),
        (("signatures", BOB, "ed25519:DEV"), "A" * 86),
        (("signatures", BOB, "ed25519:DEV"), "not base64!"),
        (("signatures", BOB, "ed25519:DEV"), "\ud800"),
        (("algorithms",), [MEGOLM, OLM]),
        (("added",), "by the server"),
        (("added",), 1.5),
        (("added",), 2**60),
        (("added",), "\ud800"),
    ],
)
def test_what_the_device_didnt_sign_is_refused(
    bob: DeviceParts, path: tuple[str, ...], new: object
) -> None:
    """I1: each change by the server shows, also where the object can't be canonical JSON."""
    with pytest.raises(DeviceKeysRefused, match="not signed"):
        parse(changed(bob.device.signed_json, path, new))


def test_the_signature_must_be_under_the_devices_own_key_id(bob: DeviceParts) -> None:
    """I5: the same signature under another key's ID, or under another user, isn't the device's."""
    [signature] = bob.device.signed_json["signatures"][BOB].values()
    for signatures in (
        {BOB: {"ed25519:OTHER": signature}},
        {BOB: {f"ed25519:{bob.device.ed25519}": signature}},
        {EVE: {"ed25519:DEV": signature}},
    ):
        with pytest.raises(DeviceKeysRefused, match="not signed"):
            parse(changed(bob.device.signed_json, ("signatures",), signatures))


def test_another_devices_signature_isnt_enough(bob: DeviceParts) -> None:
    """I6: keys that an impostor signed under bob's name, with one of bob's keys in them."""
    impostor = DeviceParts(BOB)
    mixed = changed(bob.device.signed_json, ("keys", "curve25519:DEV"), impostor.device.curve25519)
    for forged in (mixed, impostor.sign(mixed)):
        with pytest.raises(DeviceKeysRefused, match="not signed"):
            parse(forged)


def test_a_small_order_key_signs_nothing(bob: DeviceParts) -> None:
    """I10: under such a key a made-up signature holds for a lax verifier, for any text."""
    weak = Device(BOB, "DEV", bob.device.curve25519, IDENTITY)
    forged = encode_base64(b"\1" + bytes(63))  # R is the identity, S is 0
    with pytest.raises(DeviceKeysRefused, match="not signed"):
        check_signature({"key": "x", "signatures": {BOB: {"ed25519:DEV": forged}}}, weak)


def test_any_object_can_be_checked_against_a_device(bob: DeviceParts) -> None:
    """A one-time key, say: signed by this device, and by no other."""
    signed = bob.sign({"key": "A" * 43})
    check_signature(signed, bob.device)
    with pytest.raises(DeviceKeysRefused):
        check_signature(signed | {"fallback": True}, bob.device)
    with pytest.raises(DeviceKeysRefused):
        check_signature(signed, DeviceParts(BOB).device)


def test_two_devices_have_the_same_keys_only_if_both_are(bob: DeviceParts) -> None:
    """One of two isn't enough; padding makes no other key."""
    curve25519, ed25519 = bob.device.curve25519, bob.device.ed25519
    assert Device(BOB, "DEV", f"{curve25519}=", f"{ed25519}=").has_keys_of(bob.device)
    assert not Device(BOB, "DEV", "A" * 43, ed25519).has_keys_of(bob.device)
    assert not Device(BOB, "DEV", curve25519, "A" * 43).has_keys_of(bob.device)
