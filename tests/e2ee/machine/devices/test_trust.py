"""Whom keys go to, and what is proven of a sender."""

import pytest

from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.device_lists import DeviceList
from e2ee.machine.devices.trust import SenderProof, Share, Withhold, key_sharing, sender_proof


def key(letter: str) -> str:
    """Returns a key of 43 letters; the last is A, as base64 of 32 bytes needs."""
    return letter * 42 + "A"


OWN = Device("@a:x", "OWN", key("a"), key("b"))
DEV = Device("@b:x", "DEV", key("c"), key("d"))


def test_keys_go_to_every_device_but_this_one() -> None:
    """And not to one that shows our own key as its own."""
    assert key_sharing(OWN, OWN) is None
    assert key_sharing(DEV, OWN) == Share()
    assert key_sharing(Device("@a:x", "OTHER", key("e"), key("f")), OWN) == Share()
    assert isinstance(key_sharing(Device("@b:x", "M", OWN.curve25519, key("d")), OWN), Withhold)


@pytest.mark.parametrize(
    ("device_id", "curve25519", "ed25519", "listed", "proof"),
    [
        ("DEV", key("c"), key("d"), DeviceList(devices={"DEV": DEV}), SenderProof.LISTED),
        ("", key("c"), key("d"), DeviceList(devices={"DEV": DEV}), SenderProof.LISTED),
        ("DEV", key("c"), key("d"), DeviceList(gone={"DEV": DEV}), SenderProof.FORMER),
        ("DEV", key("c"), key("d"), DeviceList(), SenderProof.UNLISTED),
        ("DEV", key("c"), key("x"), DeviceList(devices={"DEV": DEV}), SenderProof.CONTRADICTED),
        ("DEV", key("x"), key("x"), DeviceList(devices={"DEV": DEV}), SenderProof.CONTRADICTED),
        ("DEV", key("x"), key("x"), DeviceList(gone={"DEV": DEV}), SenderProof.CONTRADICTED),
        ("NEW", key("x"), key("x"), DeviceList(devices={"DEV": DEV}), SenderProof.UNLISTED),
    ],
)
def test_a_sender_is_as_proven_as_the_list_says(
    device_id: str, curve25519: str, ed25519: str, listed: DeviceList, proof: SenderProof
) -> None:
    """Keys count, names don't; other keys under a known name contradict."""
    found = sender_proof(
        user_id="@b:x",
        device_id=device_id,
        curve25519=curve25519,
        ed25519=ed25519,
        own=OWN,
        listed=listed,
    )
    assert found is proof


def test_our_own_messages_are_our_own() -> None:
    """By both keys."""
    for ed25519, proof in ((key("b"), SenderProof.OWN), (key("x"), SenderProof.CONTRADICTED)):
        found = sender_proof(
            user_id="@a:x",
            device_id="OWN",
            curve25519=OWN.curve25519,
            ed25519=ed25519,
            own=OWN,
            listed=DeviceList(),
        )
        assert found is proof
