"""The devices to share room keys with, and the proof of a message's sender.

Both are functions of what is known, so a stricter rule (devices signed by their user's pinned
cross-signing identity only) replaces them here and nowhere else.

Rules:
1. Room keys go to devices that signed their own keys, listed under their first keys.
2. A decrypted message carries its `SenderProof`; it never leaves the machine without.
"""

from dataclasses import dataclass
from enum import Enum

from e2ee.crypto.primitives import same
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.device_lists import DeviceList


class SenderProof(Enum):
    """The proof about the device that sent a message."""

    OWN = "own"
    """This very device."""
    LISTED = "listed"
    """A device on its user's list; the honesty of the list rests on the server alone."""
    FORMER = "former"
    """A device that was on the list before, but isn't now."""
    UNLISTED = "unlisted"
    """A device that was never on the list: nothing but the message itself names the sender."""
    CONTRADICTED = "contradicted"
    """The list has other keys under the device's ID: the message must not be shown."""


class WithheldCode(Enum):
    """Codes of `m.room_key.withheld`."""

    BLACKLISTED = "m.blacklisted"
    UNVERIFIED = "m.unverified"
    UNAUTHORISED = "m.unauthorised"
    UNAVAILABLE = "m.unavailable"
    NO_OLM = "m.no_olm"


@dataclass(frozen=True, slots=True)
class Share:
    """The device gets the room key."""


@dataclass(frozen=True, slots=True)
class Withhold:
    """The device doesn't get the room key, and is told why."""

    code: WithheldCode


def key_sharing(device: Device, own: Device) -> Share | Withhold | None:
    """Returns whether a device of a recipient gets room keys; None for this very device.

    A `Device` exists only if its own signature held, so for now each gets them.
    """
    if (device.user_id, device.device_id) == (own.user_id, own.device_id):
        return None
    if same(device.curve25519, own.curve25519):  # another name for our own key: a mirror
        return Withhold(WithheldCode.UNVERIFIED)
    return Share()


def sender_proof(
    *, user_id: str, device_id: str, curve25519: str, ed25519: str, own: Device, listed: DeviceList
) -> SenderProof:
    """Returns the proof about the device with these keys, claimed to be `user_id`'s."""
    if user_id == own.user_id and same(curve25519, own.curve25519):
        return SenderProof.OWN if same(ed25519, own.ed25519) else SenderProof.CONTRADICTED
    for devices, proof in (
        (listed.devices, SenderProof.LISTED),
        (listed.gone, SenderProof.FORMER),
    ):
        for device in devices.values():
            if same(device.curve25519, curve25519):
                return proof if same(device.ed25519, ed25519) else SenderProof.CONTRADICTED
        if device_id in devices:
            return SenderProof.CONTRADICTED
    return SenderProof.UNLISTED
