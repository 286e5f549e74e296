"""Keys that a client would publish, made with PyNaCl and signedjson: enough for the servers, which
keep and pass them on, but nothing can be decrypted with them.

Specification: client-server API, "Key algorithms", "Device keys", "One-time and fallback keys",
"Cross-signing".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from nacl.public import PrivateKey
from signedjson.key import generate_signing_key, get_verify_key
from signedjson.sign import sign_json
from signedjson.types import SigningKey
from unpaddedbase64 import encode_base64

from tests.interop.synapse.person import DEADLINE_S, WAIT_S, JsonObject, Person

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


async def keys_of(asker: Person, user_id: str) -> JsonObject:
    """Return what a server answers about a user's keys."""
    return await asker.must("POST", "/keys/query", {"device_keys": {user_id: []}})


def devices_in(answer: JsonObject, user_id: str) -> JsonObject:
    """Return a user's device keys of an answer, without what servers add."""
    return {
        device_id: {key: value for key, value in keys.items() if key != "unsigned"}
        for device_id, keys in answer["device_keys"].get(user_id, {}).items()
    }


async def until_answered(
    asker: Person, user_id: str, holds: Callable[[JsonObject], object]
) -> JsonObject:
    """Ask for a user's keys until something holds of the answer; return it. A server may fail for a
    moment: Synapse does while it fetches the user's devices for a reason of its own."""
    answer: JsonObject = {}
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not holds(answer := await keys_of(asker, user_id)) or answer.get("failures"):
                await asyncio.sleep(WAIT_S)
    except TimeoutError:
        raise AssertionError(f"{asker.user_id} gets other keys of {user_id}: {answer}") from None
    return answer


async def until_devices(asker: Person, user_id: str, expected: JsonObject) -> None:
    """Ask for a user's devices until they are just the expected ones."""
    await until_answered(asker, user_id, lambda said: devices_in(said, user_id) == expected)
