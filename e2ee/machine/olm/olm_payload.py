"""The five checks of a decrypted Olm payload, and whose device it came from.

The numbers are those of the specification's "Validation of incoming decrypted events" (v1.19).
They stop a server, or a third user, from passing one person's message off as another's (unknown
key share).
"""

from dataclasses import dataclass
from typing import Any

import orjson

from e2ee.crypto.primitives import same
from e2ee.machine.devices.device_keys import Device, DeviceKeysRefused, parse_device_keys
from e2ee.machine.devices.device_lists import DeviceList


class OlmPayloadRefused(ValueError):
    """A check failed; the text is for the log only."""


@dataclass(frozen=True, slots=True)
class OlmEvent:
    """A decrypted, checked to-device event.

    `device` is None where the sender's keys are known from nowhere but this message (no proof at
    all of its sender).
    """

    type: str
    content: dict[str, Any]
    sender: str
    sender_key: str
    sender_ed25519: str
    device: Device | None


def read_payload(
    plaintext: bytes, *, sender: str, sender_key: str, own: Device, listed: DeviceList
) -> OlmEvent:
    """Returns the event in a payload; raises `OlmPayloadRefused` at the first check that fails.

    `sender` and `sender_key` are what the server's envelope says; `listed` what is known of the
    sender.
    """
    payload = _parse(plaintext)
    try:
        event_type, content = payload["type"], payload["content"]
        ed25519 = payload["keys"]["ed25519"]
        recipient_ed25519 = payload["recipient_keys"]["ed25519"]
        inner_sender, recipient = payload["sender"], payload["recipient"]
    except (KeyError, TypeError) as error:
        raise OlmPayloadRefused("a required field is missing") from error
    if not isinstance(event_type, str) or not isinstance(content, dict):
        raise OlmPayloadRefused("the event is malformed")
    if not isinstance(ed25519, str) or not isinstance(recipient_ed25519, str):
        raise OlmPayloadRefused("a key is malformed")
    # 1. The sender inside is the sender outside.
    if inner_sender != sender:
        raise OlmPayloadRefused("check 1: sender")
    # 3. It was meant for this user ...
    if recipient != own.user_id:
        raise OlmPayloadRefused("check 3: recipient")
    # 4. ... and for this device.
    if not same(recipient_ed25519, own.ed25519):
        raise OlmPayloadRefused("check 4: recipient_keys")
    # 5. The device keys sent along are the sender's, signed, and those of this channel.
    attached = _attached_device(payload, sender, sender_key, ed25519)
    # 2. The signing key inside is that of the sending device.
    device = _known_device(listed, sender_key, attached)
    if device is not None and not same(device.ed25519, ed25519):
        raise OlmPayloadRefused("check 2: keys.ed25519")
    return OlmEvent(event_type, content, sender, sender_key, ed25519, device)


def _parse(plaintext: bytes) -> dict[str, Any]:
    try:
        payload = orjson.loads(plaintext)
    except ValueError as error:
        raise OlmPayloadRefused("not JSON") from error
    if not isinstance(payload, dict):
        raise OlmPayloadRefused("not an object")
    return payload


def _attached_device(
    payload: dict[str, Any], sender: str, sender_key: str, ed25519: str
) -> Device | None:
    if "sender_device_keys" not in payload:
        return None
    attached = payload["sender_device_keys"]
    device_id = attached.get("device_id") if isinstance(attached, dict) else None
    if not isinstance(device_id, str):
        raise OlmPayloadRefused("check 5: no device ID")
    try:
        device = parse_device_keys(attached, user_id=sender, device_id=device_id)  # 5.1 and 5.4
    except DeviceKeysRefused as refused:
        raise OlmPayloadRefused("check 5: sender_device_keys") from refused
    if not same(device.curve25519, sender_key):
        raise OlmPayloadRefused("check 5.2: curve25519")
    if not same(device.ed25519, ed25519):
        raise OlmPayloadRefused("check 5.3: ed25519")
    return device


def _known_device(listed: DeviceList, sender_key: str, attached: Device | None) -> Device | None:
    """Returns the device on the sender's list with this key; else the attached one, if it
    contradicts nothing."""
    for device in (*listed.devices.values(), *listed.gone.values()):
        if same(device.curve25519, sender_key):
            return device
    if attached is None:
        return None
    pinned = listed.devices.get(attached.device_id) or listed.gone.get(attached.device_id)
    if pinned is not None:  # rule 3 of device_lists: keys under an ID never change
        raise OlmPayloadRefused("check 5: the device has other keys on its user's list")
    return attached
