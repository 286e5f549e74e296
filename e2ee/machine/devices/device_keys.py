"""A device's published keys: parsed, its own signature checked.

Rules:
1. The keys must name the user and device under which they were handed out.
2. The Ed25519 key named after the device must have signed them, strictly.
3. A device that can't do Olm and Megolm has no keys as far as encryption is concerned.

Spec: client-server API, "Device keys", "Uploading keys"; appendices, "Signing JSON".
"""

from typing import Any, Final

import msgspec

from e2ee.crypto.primitives import CryptoError, Curve25519Key, Ed25519Key
from federation.events import canonical_json

OLM: Final = "m.olm.v1.curve25519-aes-sha2"
MEGOLM: Final = "m.megolm.v1.aes-sha2"


class DeviceKeysRefused(ValueError):
    """Device keys are malformed, misnamed or not signed by the device."""


class Device(msgspec.Struct, frozen=True):
    """A device whose keys are signed by itself; keys as unpadded base64.

    `signed_json` is kept for our own device only: what others publish besides keys isn't stored.
    """

    user_id: str
    device_id: str
    curve25519: str
    ed25519: str
    signed_json: dict[str, Any] = {}

    @property
    def identity(self) -> Curve25519Key:
        """The Curve25519 identity key."""
        return Curve25519Key(self.curve25519)

    @property
    def fingerprint(self) -> Ed25519Key:
        """The Ed25519 signing key."""
        return Ed25519Key(self.ed25519)

    def has_keys_of(self, other: "Device") -> bool:
        """Returns whether both identity keys are the same."""
        return self.identity == other.identity and self.fingerprint == other.fingerprint


def signed_bytes(value: dict[str, Any]) -> bytes:
    """Returns what a signature over a JSON object covers; raises `ValueError` if it isn't canonical
    JSON."""
    return canonical_json.encode(
        {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    )


def check_signature(value: dict[str, Any], signer: Device) -> None:
    """Checks that the device signed the object; raises `DeviceKeysRefused`."""
    try:
        signature = value["signatures"][signer.user_id][f"ed25519:{signer.device_id}"]
        signer.fingerprint.verify(signed_bytes(value), signature)
    except (KeyError, TypeError, AttributeError, CryptoError, ValueError) as error:
        raise DeviceKeysRefused("not signed by the device") from error


def parse_device_keys(value: object, *, user_id: str, device_id: str) -> Device:
    """Returns the device named `user_id`/`device_id`; raises `DeviceKeysRefused`."""
    if not isinstance(value, dict):
        raise DeviceKeysRefused("not an object")
    if value.get("user_id") != user_id or value.get("device_id") != device_id:
        raise DeviceKeysRefused("the keys name another device")
    try:
        keys = value["keys"]
        identity = Curve25519Key(keys[f"curve25519:{device_id}"])
        fingerprint = Ed25519Key(keys[f"ed25519:{device_id}"])
        algorithms = set(value["algorithms"])
    except (KeyError, TypeError, CryptoError, AttributeError) as error:
        raise DeviceKeysRefused("a key is missing or malformed") from error
    if not {OLM, MEGOLM} <= algorithms:
        raise DeviceKeysRefused("the device doesn't support Olm and Megolm")
    device = Device(user_id, device_id, identity.encoded, fingerprint.encoded)
    check_signature(value, device)
    return device
