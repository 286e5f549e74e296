"""Accounts and sessions: the library's ratchets behind types of our own.

Rules:
1. A ratchet that moved must be pickled and saved before its output is sent
   (`machine.changes`).
2. A one-time key is dropped only after the message that used it decrypted.
3. Two copies of a Megolm session are the same only if their ratchets agree where they overlap.

Spec: Olm and Megolm, <https://spec.matrix.org/v1.19/olm-megolm/>.
"""

from enum import Enum
from typing import Self

from e2ee.crypto import primitives
from e2ee.crypto.primitives import Curve25519Key, OlmMessage, Pickle, PickleKey
from e2ee.limits import ONE_TIME_KEYS_MADE_MAX


class OlmAccount:
    """A device's identity keys and its one-time and fallback keys."""

    __slots__ = ("_raw", "curve25519", "ed25519")

    def __init__(self, raw: primitives.RawAccount) -> None:
        self._raw = raw
        self.curve25519, self.ed25519 = primitives.account_keys(raw)

    def __repr__(self) -> str:
        return f"Account({self.ed25519})"

    @classmethod
    def new(cls) -> Self:
        """Returns an account with new keys."""
        return cls(primitives.new_account())

    @classmethod
    def from_pickle(cls, pickle: Pickle, key: PickleKey) -> Self:
        """Restores a saved account; raises `PickleRefused`."""
        return cls(primitives.open_account(pickle, key))

    def pickle(self, key: PickleKey) -> Pickle:
        """Returns the encrypted state, to be saved."""
        return Pickle(self._raw.pickle(key.secret))

    def sign(self, data: bytes) -> str:
        """Returns an Ed25519 signature, unpadded base64."""
        return primitives.account_sign(self._raw, data)

    def generate_one_time_keys(self, count: int) -> None:
        """Adds `count` one-time keys (0 to `ONE_TIME_KEYS_MADE_MAX`)."""
        assert 0 <= count <= ONE_TIME_KEYS_MADE_MAX, "one-time keys are made in small numbers"
        self._raw.generate_one_time_keys(count)

    def generate_fallback_key(self) -> None:
        """Adds a fallback key; the last one stays usable, the one before it is forgotten."""
        primitives.generate_fallback(self._raw)

    def unpublished_one_time_keys(self) -> dict[str, Curve25519Key]:
        """Returns one-time keys that the server hasn't acknowledged, by key ID."""
        return primitives.unpublished_keys(self._raw)

    def unpublished_fallback_key(self) -> dict[str, Curve25519Key]:
        """Returns the fallback key if the server hasn't acknowledged it, by key ID."""
        return primitives.unpublished_fallback(self._raw)

    def mark_keys_as_published(self) -> None:
        """Marks the unpublished keys as published, once the server acknowledged them."""
        self._raw.mark_keys_as_published()

    def open_outbound(self, identity: Curve25519Key, one_time: Curve25519Key) -> "OlmSession":
        """Returns a new session towards a device; raises `OlmSessionRefused`."""
        return OlmSession(primitives.outbound_olm(self._raw, identity, one_time))

    def open_inbound(
        self, sender: Curve25519Key, message: OlmMessage
    ) -> tuple["OlmSession", bytes]:
        """Returns a session from a first message, and that message's plaintext; raises
        `OlmSessionRefused`."""
        raw, plaintext = primitives.inbound_olm(self._raw, sender, message)
        return OlmSession(raw), plaintext


class OlmSession:
    """An Olm channel between two devices."""

    __slots__ = ("_raw",)

    def __init__(self, raw: primitives.RawOlmSession) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return f"OlmSession({self.session_id})"

    @classmethod
    def from_pickle(cls, pickle: Pickle, key: PickleKey) -> Self:
        """Restores a saved session; raises `PickleRefused`."""
        return cls(primitives.open_olm(pickle, key))

    @property
    def session_id(self) -> str:
        """The library's name for the session, the same on both sides."""
        return self._raw.session_id

    def pickle(self, key: PickleKey) -> Pickle:
        """Returns the encrypted state, to be saved."""
        return Pickle(self._raw.pickle(key.secret))

    def matches(self, message: OlmMessage) -> bool:
        """Returns whether a first message (kind 0) was made for this session."""
        return primitives.olm_matches(self._raw, message)

    def encrypt(self, plaintext: bytes) -> OlmMessage:
        """Moves the ratchet. Save before sending."""
        return primitives.olm_encrypt(self._raw, plaintext)

    def decrypt(self, message: OlmMessage) -> bytes:
        """Moves the ratchet if it succeeds; raises `OlmDecryptionFailed` or `OlmMessageRefused`."""
        return primitives.olm_decrypt(self._raw, message)


class OutboundGroupSession:
    """A Megolm session that this device encrypts with."""

    __slots__ = ("_raw",)

    def __init__(self, raw: primitives.RawOutboundGroup) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return f"OutboundGroupSession({self.session_id})"

    @classmethod
    def new(cls) -> Self:
        """Returns a session with fresh keys, at index 0."""
        return cls(primitives.new_outbound_group())

    @classmethod
    def from_pickle(cls, pickle: Pickle, key: PickleKey) -> Self:
        """Restores a saved session; raises `PickleRefused`."""
        return cls(primitives.open_outbound_group(pickle, key))

    @property
    def session_id(self) -> str:
        """The session's Ed25519 public key."""
        return self._raw.session_id

    @property
    def message_index(self) -> int:
        """The index the next message gets."""
        return self._raw.message_index

    def session_key(self) -> str:
        """Returns the secret to share, signed, **at the present index**: it doesn't read what came
        before."""
        return self._raw.session_key.to_base64()

    def pickle(self, key: PickleKey) -> Pickle:
        """Returns the encrypted state, to be saved."""
        return Pickle(self._raw.pickle(key.secret))

    def encrypt(self, plaintext: bytes) -> str:
        """Returns a Megolm message. Moves the ratchet: save before sending."""
        return primitives.group_encrypt(self._raw, plaintext)


class Overlap(Enum):
    """The relation of a second copy of a Megolm session to the first."""

    EARLIER = "earlier"
    """Same ratchet, and it reads more than what we have."""
    NOT_EARLIER = "not earlier"
    """Same ratchet, nothing new."""
    CONFLICT = "conflict"
    """Another ratchet under the same name: an attack, or a bug."""


class InboundGroupSession:
    """A Megolm session that this device can read, from its first known index on."""

    __slots__ = ("_raw",)

    def __init__(self, raw: primitives.RawInboundGroup) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return f"InboundGroupSession({self.session_id}, from {self.first_known_index})"

    @classmethod
    def from_session_key(cls, session_key: str) -> Self:
        """Builds a session from an `m.room_key`; raises `SessionKeyRefused`."""
        return cls(primitives.new_inbound_group(session_key))

    @classmethod
    def from_exported(cls, exported: str) -> Self:
        """Builds a session from an unsigned export; raises `SessionKeyRefused`."""
        return cls(primitives.import_inbound_group(exported))

    @classmethod
    def from_pickle(cls, pickle: Pickle, key: PickleKey) -> Self:
        """Restores a saved session; raises `PickleRefused`."""
        return cls(primitives.open_inbound_group(pickle, key))

    @property
    def session_id(self) -> str:
        """The session's Ed25519 public key."""
        return self._raw.session_id

    @property
    def first_known_index(self) -> int:
        """The earliest message index this copy reads."""
        return self._raw.first_known_index

    def pickle(self, key: PickleKey) -> Pickle:
        """Returns the encrypted state, to be saved."""
        return Pickle(self._raw.pickle(key.secret))

    def export_at(self, index: int) -> str | None:
        """Returns the key at an index (secret), or None below `first_known_index`."""
        return primitives.export_group(self._raw, index)

    def compare(self, other: "InboundGroupSession") -> Overlap:
        """Returns how `other`, claimed to be the same session, relates to this one."""
        index = max(self.first_known_index, other.first_known_index)
        mine, theirs = self.export_at(index), other.export_at(index)
        if self.session_id != other.session_id or mine is None or theirs is None:
            return Overlap.CONFLICT
        if not primitives.same(mine, theirs):
            return Overlap.CONFLICT
        if other.first_known_index < self.first_known_index:
            return Overlap.EARLIER
        return Overlap.NOT_EARLIER

    def decrypt(self, ciphertext: str) -> tuple[bytes, int]:
        """Returns plaintext and index; raises `MegolmMessageRefused` or
        `MegolmDecryptionFailed`."""
        return primitives.group_decrypt(self._raw, ciphertext)
