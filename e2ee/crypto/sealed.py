"""Sealing of what the client keeps on disk: XChaCha20-Poly1305 with a key that only the user has.

Rules:
1. A sealed value is bound to its place (`context`): moved to another row, it doesn't open.
2. Nonces are 192 random bits, so a key may seal any number of values.
3. Keys for different purposes are derived by HKDF-SHA-256 under different labels.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final, Self

from nacl.exceptions import CryptoError as NaclCryptoError
from nacl.secret import Aead

from e2ee.crypto.primitives import CryptoError, PickleKey

_SCRYPT_N: Final = 2**15  # 32 MiB and about 80 ms: guessing a passphrase costs that for each try
SALT_BYTES: Final = 16


class Unsealable(CryptoError):
    """A value at rest can't be opened: wrong key, moved or damaged."""


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A 256-bit key for data at rest; never shown."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise Unsealable("a sealing key must be 32 bytes")

    @classmethod
    def from_passphrase(cls, passphrase: str, salt: bytes) -> Self:
        """Stretches a passphrase with scrypt; `salt` is 16 random bytes kept beside the store."""
        if len(salt) != SALT_BYTES:
            raise Unsealable("a salt must be 16 bytes")
        options = {"n": _SCRYPT_N, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024, "dklen": 32}
        return cls(hashlib.scrypt(passphrase.encode(), salt=salt, **options))

    def derive(self, label: str) -> "SealingKey":
        """Returns an independent key for another purpose."""
        return SealingKey(self._expand(label))

    def pickle_key(self) -> PickleKey:
        """Returns the key under which ratchets are pickled inside sealed values."""
        return PickleKey(self._expand("ratchet pickles"))

    def name(self, text: str) -> bytes:
        """Returns a name that shows nothing of `text` but whether two are equal (for lookups)."""
        return hmac.digest(self._expand("names"), text.encode(), "sha256")[:20]

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Returns nonce and ciphertext, which open only with the same `context`."""
        nonce = secrets.token_bytes(Aead.NONCE_SIZE)
        return bytes(Aead(self.secret).encrypt(plaintext, context, nonce))

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Returns the plaintext; raises `Unsealable`."""
        try:
            return Aead(self.secret).decrypt(sealed, context)
        except (NaclCryptoError, ValueError, TypeError):
            raise Unsealable("a saved value can't be opened") from None

    def _expand(self, label: str) -> bytes:
        extracted = hmac.digest(b"freehold client store", self.secret, "sha256")
        return hmac.digest(extracted, label.encode() + b"\x01", "sha256")
