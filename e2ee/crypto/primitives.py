"""The only module that calls vodozemac: keys with types of their own, one error for each operation.

Rules:
1. No key is `str` or `bytes` past this module's edge: `Curve25519Key`, `Ed25519Key`, `PickleKey`.
2. Secrets never appear in `repr` or in an exception.
3. Equality of keys takes the same time whatever differs.
4. Small-order points are refused by the library (non-contributory Diffie-Hellman); a test keeps
   that.
5. A library exception never leaves this module; its text may name which check failed, so it is
   dropped.

Spec: Olm and Megolm, <https://spec.matrix.org/v1.19/olm-megolm/>.
"""

import binascii
import hmac
import secrets
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any, NewType, Self

import vodozemac

RawAccount = vodozemac.Account
RawOlmSession = vodozemac.Session
RawOutboundGroup = vodozemac.GroupSession
RawInboundGroup = vodozemac.InboundGroupSession
Pickle = NewType("Pickle", str)  # encrypted state of a ratchet, as vodozemac writes it


class CryptoError(ValueError):
    """An operation of this package failed; subclasses say which."""


class KeyRefused(CryptoError):
    """A public key isn't 32 bytes of base64, or isn't a point."""


class SignatureRefused(CryptoError):
    """A signature doesn't belong to the key and the text."""


class PickleRefused(CryptoError):
    """Saved ratchet state can't be opened: wrong key or damaged."""


class OlmSessionRefused(CryptoError):
    """An Olm session can't be made from these keys or this first message."""


class OlmMessageRefused(CryptoError):
    """Not an Olm message."""


class OlmDecryptionFailed(CryptoError):
    """An Olm message doesn't belong to this session, or was used before."""


class OlmEncryptionFailed(CryptoError):
    """An Olm session can't encrypt."""


class SessionKeyRefused(CryptoError):
    """Not a Megolm session key, or its signature is wrong."""


class MegolmMessageRefused(CryptoError):
    """Not a Megolm message."""


class MegolmDecryptionFailed(CryptoError):
    """A Megolm message doesn't belong to this session."""


def encode_base64(data: bytes) -> str:
    """Returns unpadded standard base64 (appendices, "Unpadded Base64")."""
    return b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Returns bytes of base64, padded or not; raises `ValueError` for any other character."""
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not base64") from error


def same(first: str, second: str) -> bool:
    """Returns whether two encoded keys or hashes are equal, in constant time."""
    return hmac.compare_digest(first.encode(), second.encode())


def _canonical_32(text: str) -> str:
    try:
        raw = decode_base64(text)
    except ValueError as error:
        raise KeyRefused("a key must be base64") from error
    if len(raw) != 32:
        raise KeyRefused("a key must be 32 bytes")
    return encode_base64(raw)


@dataclass(frozen=True, slots=True, eq=False)
class Curve25519Key:
    """A Curve25519 public key, as unpadded base64."""

    encoded: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoded", _canonical_32(self.encoded))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Curve25519Key) and same(self.encoded, other.encoded)

    def __hash__(self) -> int:
        return hash(("curve25519", self.encoded))

    def __str__(self) -> str:
        return self.encoded


@dataclass(frozen=True, slots=True, eq=False)
class Ed25519Key:
    """An Ed25519 public key, as unpadded base64."""

    encoded: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoded", _canonical_32(self.encoded))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ed25519Key) and same(self.encoded, other.encoded)

    def __hash__(self) -> int:
        return hash(("ed25519", self.encoded))

    def __str__(self) -> str:
        return self.encoded

    def verify(self, data: bytes, signature: str) -> None:
        """Verifies strictly (small-order keys are refused); raises `SignatureRefused`."""
        try:
            key = vodozemac.Ed25519PublicKey.from_base64(self.encoded)
            key.verify_signature(data, vodozemac.Ed25519Signature.from_base64(signature))
        except ValueError:
            raise SignatureRefused("signature refused") from None


@dataclass(frozen=True, slots=True)
class PickleKey:
    """The 32 bytes under which ratchets are pickled; never shown."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != 32:
            raise KeyRefused("a pickle key must be 32 bytes")

    @classmethod
    def random(cls) -> Self:
        """Returns a fresh key."""
        return cls(secrets.token_bytes(32))


@dataclass(frozen=True, slots=True)
class OlmMessage:
    """An Olm message on the wire: `kind` 0 opens a session, 1 is an ordinary one."""

    kind: int
    body: str

    def parts(self) -> vodozemac.AnyOlmMessage:
        """Returns the library's form; raises `OlmMessageRefused`."""
        try:
            return vodozemac.AnyOlmMessage.from_parts(self.kind, decode_base64(self.body))
        except (ValueError, OverflowError):
            raise OlmMessageRefused("not an Olm message") from None


def _curve(key: Curve25519Key) -> vodozemac.Curve25519PublicKey:
    return vodozemac.Curve25519PublicKey.from_base64(key.encoded)  # any 32 bytes are a key


def new_account() -> RawAccount:
    """Returns a new identity with keys drawn by the library."""
    return vodozemac.Account()


def account_keys(account: RawAccount) -> tuple[Curve25519Key, Ed25519Key]:
    """Returns the identity keys (Curve25519, Ed25519) of an account."""
    return (
        Curve25519Key(account.curve25519_key.to_base64()),
        Ed25519Key(account.ed25519_key.to_base64()),
    )


def account_sign(account: RawAccount, data: bytes) -> str:
    """Returns an Ed25519 signature as unpadded base64."""
    return account.sign(data).to_base64()


def unpublished_keys(account: RawAccount) -> dict[str, Curve25519Key]:
    """Returns one-time keys not yet marked as published, by key ID."""
    return {name: Curve25519Key(k.to_base64()) for name, k in account.one_time_keys.items()}


def unpublished_fallback(account: RawAccount) -> dict[str, Curve25519Key]:
    """Returns the fallback key if not yet marked as published, by key ID."""
    raw: Any = account  # the library's stub file omits fallback keys
    return {name: Curve25519Key(k.to_base64()) for name, k in raw.fallback_key.items()}


def generate_fallback(account: RawAccount) -> None:
    """Makes a new fallback key; the library keeps the one before it and forgets older ones."""
    raw: Any = account
    raw.generate_fallback_key()


def open_account(pickle: Pickle, key: PickleKey) -> RawAccount:
    """Restores an account; raises `PickleRefused`."""
    try:
        return vodozemac.Account.from_pickle(pickle, key.secret)
    except ValueError:
        raise PickleRefused("the account's state can't be opened") from None


def outbound_olm(
    account: RawAccount, identity: Curve25519Key, one_time: Curve25519Key
) -> RawOlmSession:
    """Opens an Olm session towards a device; raises `OlmSessionRefused` (small-order keys too)."""
    try:
        return account.create_outbound_session(_curve(identity), _curve(one_time))
    except ValueError:
        raise OlmSessionRefused("no session can be made with these keys") from None


def inbound_olm(
    account: RawAccount, sender: Curve25519Key, message: OlmMessage
) -> tuple[RawOlmSession, bytes]:
    """Makes a session from a first message and decrypts it.

    The library drops the one-time key only after the message decrypted. Raises `OlmSessionRefused`.
    """
    first = message.parts().to_pre_key()
    if first is None:
        raise OlmSessionRefused("not a first message")
    try:
        return account.create_inbound_session(_curve(sender), first)
    except ValueError:
        raise OlmSessionRefused("the first message was refused") from None


def open_olm(pickle: Pickle, key: PickleKey) -> RawOlmSession:
    """Restores an Olm session; raises `PickleRefused`."""
    try:
        return vodozemac.Session.from_pickle(pickle, key.secret)
    except ValueError:
        raise PickleRefused("an Olm session's state can't be opened") from None


def olm_matches(session: RawOlmSession, message: OlmMessage) -> bool:
    """Returns whether a first message belongs to this session already."""
    first = message.parts().to_pre_key()
    return first is not None and session.session_matches(first)


def olm_encrypt(session: RawOlmSession, plaintext: bytes) -> OlmMessage:
    """Encrypts and moves the ratchet; save the session before sending."""
    try:
        kind, body = session.encrypt(plaintext).to_parts()
    except ValueError:
        raise OlmEncryptionFailed("the session can't encrypt") from None
    return OlmMessage(kind, encode_base64(body))


def olm_decrypt(session: RawOlmSession, message: OlmMessage) -> bytes:
    """Decrypts; a failure leaves the ratchet as it was. Raises `OlmDecryptionFailed`."""
    try:
        return session.decrypt(message.parts())
    except OlmMessageRefused:
        raise
    except ValueError:
        raise OlmDecryptionFailed("the session can't decrypt this message") from None


def new_outbound_group() -> RawOutboundGroup:
    """Returns a new Megolm session to encrypt with."""
    return vodozemac.GroupSession()


def open_outbound_group(pickle: Pickle, key: PickleKey) -> RawOutboundGroup:
    """Restores an outbound Megolm session; raises `PickleRefused`."""
    try:
        return vodozemac.GroupSession.from_pickle(pickle, key.secret)
    except ValueError:
        raise PickleRefused("a Megolm session's state can't be opened") from None


def group_encrypt(session: RawOutboundGroup, plaintext: bytes) -> str:
    """Returns a Megolm message, unpadded base64; save the session before sending."""
    return session.encrypt(plaintext).to_base64()


def new_inbound_group(session_key: str) -> RawInboundGroup:
    """Returns a session from an `m.room_key`'s `session_key` (signed form); raises
    `SessionKeyRefused`."""
    try:
        return vodozemac.InboundGroupSession(vodozemac.SessionKey(session_key))
    except ValueError:
        raise SessionKeyRefused("session key refused") from None


def import_inbound_group(exported: str) -> RawInboundGroup:
    """Returns a session from an exported key (no signature: hearsay); raises
    `SessionKeyRefused`."""
    try:
        key = vodozemac.ExportedSessionKey(exported)
        return vodozemac.InboundGroupSession.import_session(key)
    except ValueError:
        raise SessionKeyRefused("session key refused") from None


def open_inbound_group(pickle: Pickle, key: PickleKey) -> RawInboundGroup:
    """Restores an inbound Megolm session; raises `PickleRefused`."""
    try:
        return vodozemac.InboundGroupSession.from_pickle(pickle, key.secret)
    except ValueError:
        raise PickleRefused("a Megolm session's state can't be opened") from None


def export_group(session: RawInboundGroup, index: int) -> str | None:
    """Returns the session's key at an index, or None below the first known one."""
    exported = session.export_at(index)
    return None if exported is None else exported.to_base64()


def megolm_index(ciphertext: str) -> int:
    """Returns the ratchet index a Megolm message claims; raises `MegolmMessageRefused`."""
    try:
        return vodozemac.MegolmMessage.from_base64(ciphertext).message_index()
    except ValueError:
        raise MegolmMessageRefused("not a Megolm message") from None


def group_decrypt(session: RawInboundGroup, ciphertext: str) -> tuple[bytes, int]:
    """Returns plaintext and ratchet index; no replay guard here (see `machine.room_keys`)."""
    try:
        message = vodozemac.MegolmMessage.from_base64(ciphertext)
    except ValueError:
        raise MegolmMessageRefused("not a Megolm message") from None
    try:
        done = session.decrypt(message)
    except ValueError:
        raise MegolmDecryptionFailed("the session can't decrypt this message") from None
    return done.plaintext, done.message_index
