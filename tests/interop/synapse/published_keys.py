"""Keys that a client would publish, made with PyNaCl and signedjson: enough for the servers, which
keep and pass them on, but nothing can be decrypted with them.

Specification: client-server API, "Key algorithms", "Device keys", "One-time and fallback keys",
"Cross-signing".
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from nacl.public import PrivateKey
from signedjson.key import generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from signedjson.types import SigningKey
from unpaddedbase64 import encode_base64

from tests.interop.synapse.person import JsonObject, Person

ALGORITHMS = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]


def curve25519_key() -> str:
    """Return a new public key."""
    return encode_base64(bytes(PrivateKey.generate().public_key))


def public_part(key: SigningKey) -> str:
    """Return the public part of a signing key."""
    return encode_base64(bytes(get_verify_key(key)))


@dataclass
class DeviceKeys:
    """What a device publishes."""

    person: Person
    key: SigningKey = field(init=False)
    document: JsonObject = field(init=False)

    def __post_init__(self) -> None:
        device_id = self.person.device_id
        self.key = generate_signing_key(device_id)
        keys = {
            f"curve25519:{device_id}": curve25519_key(),
            f"ed25519:{device_id}": public_part(self.key),
        }
        self.document = self.signed(
            {
                "user_id": self.person.user_id,
                "device_id": device_id,
                "algorithms": ALGORITHMS,
                "keys": keys,
            }
        )

    def signed(self, document: JsonObject) -> JsonObject:
        """Return a document with the device's signature."""
        signed: JsonObject = sign_json(document, self.person.user_id, self.key)
        return signed

    def one_time_key(self, *, is_fallback: bool = False) -> JsonObject:
        """Return a new one-time or fallback key by its ID."""
        document: JsonObject = {"key": curve25519_key()}
        if is_fallback:
            document["fallback"] = True
        return {f"signed_curve25519:{secrets.token_hex(4)}": self.signed(document)}

    async def publish(self, **more: JsonObject) -> JsonObject:
        """Upload the device's keys, and others; return the counts."""
        said = await self.person.must(
            "POST", "/keys/upload", {"device_keys": self.document, **more}
        )
        counts: JsonObject = said["one_time_key_counts"]
        return counts


@dataclass(frozen=True, slots=True)
class CrossSigningKeys:
    """A user's three keys: the master key, and two that it signed."""

    master: JsonObject
    self_signing: JsonObject
    user_signing: JsonObject

    @classmethod
    def made_for(cls, user_id: str) -> CrossSigningKeys:
        """Make new ones."""
        made: dict[str, JsonObject] = {}
        keys = {
            usage: generate_signing_key("new")
            for usage in ("master", "self_signing", "user_signing")
        }
        for usage, key in keys.items():
            public = public_part(key)
            made[usage] = {
                "user_id": user_id,
                "usage": [usage],
                "keys": {f"ed25519:{public}": public},
            }
        master = keys["master"]
        master.version = public_part(master)
        for usage in ("self_signing", "user_signing"):
            made[usage] = sign_json(made[usage], user_id, master)
        return cls(made["master"], made["self_signing"], made["user_signing"])

    async def publish(self, person: Person) -> None:
        """Upload them, with the password where it is asked for."""
        body = {
            "master_key": self.master,
            "self_signing_key": self.self_signing,
            "user_signing_key": self.user_signing,
        }
        await person.must_with_password("POST", "/keys/device_signing/upload", body)
