"""Ed25519 keys of servers and signed JSON (spec: appendices, "Signing JSON").

Rules:
1. One verifier for everything: libsodium's, which refuses small-order keys and points and
   signatures whose S isn't reduced. Another verifier would accept other signatures.
2. A secret never shows in `repr`.
3. Base64 is unpadded when written; padding is tolerated when read, other alphabets aren't.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject, NotCanonical
from federation.events.ids import KeyId

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_VERSION: Final = re.compile(r"[A-Za-z0-9_]+")


class SignatureInvalid(ValueError):
    """A missing, malformed or wrong signature, or a malformed key."""


def encode_base64(data: bytes) -> str:
    """Returns unpadded Base64 (spec: appendices, "Unpadded Base64")."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode()


_TO_URL_SAFE: Final = str.maketrans("+/", "-_")


def encode_base64_url(data: bytes) -> str:
    """Returns unpadded Base64 of the URL-safe alphabet, as in event IDs."""
    return encode_base64(data).translate(_TO_URL_SAFE)


def decode_base64(text: str) -> bytes:
    """Returns the bytes of padded or unpadded Base64; raises ValueError for anything else."""
    stripped = text.rstrip("=")
    if len(text) - len(stripped) > 2 or not text.isascii():
        raise ValueError("not Base64")
    return binascii.a2b_base64(stripped + "=" * (-len(stripped) % 4), strict_mode=True)


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key of a server: its ID (`ed25519:name`) and unpadded Base64."""

    key_id: KeyId
    encoded: str

    @classmethod
    def from_base64(cls, key_id: str, text: str) -> VerifyKey:
        """Raises SignatureInvalid unless it is an Ed25519 key ID with a key of 32 bytes."""
        if not key_id.startswith("ed25519:"):
            raise SignatureInvalid("unknown signing algorithm")
        try:
            raw = decode_base64(text)
        except ValueError:
            raise SignatureInvalid("a key that isn't Base64") from None
        if len(raw) != PUBLIC_KEY_BYTES:
            raise SignatureInvalid("a key that isn't 32 bytes")
        return cls(KeyId(key_id), encode_base64(raw))

    def verify(self, data: bytes, signature: str) -> None:
        """Checks that `signature` (Base64) of `data` was made with this key.

        Raises SignatureInvalid; small-order keys verify nothing.
        """
        try:
            raw = decode_base64(signature)
            key = decode_base64(self.encoded)
        except ValueError:
            raise SignatureInvalid("a signature that isn't Base64") from None
        if len(raw) != SIGNATURE_BYTES or len(key) != PUBLIC_KEY_BYTES:
            raise SignatureInvalid("a signature or key of wrong length")
        try:
            crypto_sign_open(raw + data, key)
        except BadSignatureError:
            raise SignatureInvalid("the signature does not match") from None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of this server (or of an identity, in tests); `repr` hides the seed."""

    key_id: KeyId
    verify_key: VerifyKey
    _secret: bytes = field(repr=False)  # libsodium's form: seed, then public key

    @classmethod
    def generate(cls, random: bytes, version: str) -> SigningKey:
        """Returns the key made of 32 random bytes, named `ed25519:version`.

        Raises ValueError for another length, or a version that isn't of `[A-Za-z0-9_]`.
        """
        if len(random) != SEED_BYTES:
            raise ValueError("a seed has 32 bytes")
        if not _VERSION.fullmatch(version):
            raise ValueError("a key's version has letters, digits and underscores")
        public, secret = crypto_sign_seed_keypair(random)
        key_id = KeyId(f"ed25519:{version}")
        return cls(key_id, VerifyKey(key_id, encode_base64(public)), secret)

    def sign(self, data: bytes) -> str:
        """Returns the signature of `data`, unpadded Base64."""
        return encode_base64(crypto_sign(data, self._secret)[:SIGNATURE_BYTES])


def _payload(value: JsonObject) -> bytes:
    return canonical_json.encode(
        {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    )


def sign_json(value: JsonObject, entity: str, key: SigningKey) -> JsonObject:
    """Returns a copy of `value` with `entity`'s signature merged in; `unsigned` is kept, not
    signed.

    Raises NotCanonical. Spec: appendices, "Signing Details".
    """
    signature = key.sign(_payload(value))
    merged = {name: dict(made) for name, made in value.get("signatures", {}).items()}
    merged.setdefault(entity, {})[key.key_id] = signature
    return {**value, "signatures": merged}


def verify_json(value: JsonObject, entity: str, key: VerifyKey) -> None:
    """Checks `entity`'s signature by `key`; raises SignatureInvalid.

    Spec: appendices, "Checking for a Signature".
    """
    signatures = value.get("signatures")
    made = signatures.get(entity) if isinstance(signatures, dict) else None
    signature = made.get(key.key_id) if isinstance(made, dict) else None
    if not isinstance(signature, str):
        raise SignatureInvalid("no signature by this key")
    try:
        payload = _payload(value)
    except NotCanonical as error:
        raise SignatureInvalid(str(error)) from error
    key.verify(payload, signature)
