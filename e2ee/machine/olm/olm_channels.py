"""Olm channels to other devices: opening, choosing, encrypting, decrypting, mending.

Rules:
1. The session that last received a message is used; a fresh one counts as received when made.
2. A one-time key is used only if the pinned device signed it. There is no fall-back to unsigned
   keys.
3. A first message goes to the session it belongs to, if there is one; else a new session is made,
   and kept only if the message decrypted.
4. A channel that fails is replaced at most once an hour, with an `m.dummy` in the new session.
5. A session is saved whenever its ratchet moved.

Spec: client-server API, "m.olm.v1.curve25519-aes-sha2".
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from e2ee.crypto.primitives import (
    CryptoError,
    Curve25519Key,
    OlmMessage,
    Pickle,
    PickleKey,
)
from e2ee.crypto.ratchets import OlmSession
from e2ee.limits import (
    CLAIM_RETRY_MS,
    OLM_MESSAGE_CHARS_MAX,
    OLM_SESSIONS_PER_DEVICE_MAX,
    UNWEDGE_INTERVAL_MS,
)
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import OLM, Device, DeviceKeysRefused, check_signature
from e2ee.machine.devices.own_device import OwnDevice
from federation.events import canonical_json

_KIND = "olm"


class OlmRefused(ValueError):
    """An Olm message can't be read; `is_wedged` when its channel should be replaced."""

    def __init__(self, detail: str, *, is_wedged: bool = False) -> None:
        super().__init__(detail)
        self.is_wedged = is_wedged


class _Session(msgspec.Struct, frozen=True):
    session_id: str
    pickle: str
    received_ms: int


class Channel(msgspec.Struct, frozen=True):
    """All sessions with one device (newest first) and what limits making more. Times in ms."""

    sessions: tuple[_Session, ...] = ()
    replaced_ms: int | None = None
    claim_after_ms: int = 0
    was_told_no_olm: bool = False


@dataclass(frozen=True, slots=True)
class EncryptedOlmEvent:
    """The part of an Olm event that is meant for us."""

    sender: str
    sender_key: Curve25519Key
    message: OlmMessage


def read_encrypted_event(event: dict[str, Any], own: Device) -> EncryptedOlmEvent:
    """Returns our message in an `m.room.encrypted` to-device event; raises `OlmRefused`."""
    content, sender = event.get("content"), event.get("sender")
    if not isinstance(content, dict) or not isinstance(sender, str):
        raise OlmRefused("malformed event")
    if content.get("algorithm") != OLM:  # a Megolm to-device event carries nothing we may trust
        raise OlmRefused("not an Olm event")
    try:
        part = content["ciphertext"][own.curve25519]
        kind, body = part["type"], part["body"]
        sender_key = Curve25519Key(content["sender_key"])
    except (KeyError, TypeError, CryptoError, AttributeError) as error:
        raise OlmRefused("no message for this device") from error
    if kind not in (0, 1) or not isinstance(body, str) or len(body) > OLM_MESSAGE_CHARS_MAX:
        raise OlmRefused("malformed message")
    return EncryptedOlmEvent(sender, sender_key, OlmMessage(int(kind), body))


class OlmChannels:
    """All channels of this device, by the other side's Curve25519 key."""

    def __init__(
        self, pending_changes: PendingChanges, pickle_key: PickleKey, own: OwnDevice
    ) -> None:
        self._pending_changes = pending_changes
        self._pickle_key = pickle_key
        self._own = own

    def of(self, device: Device) -> Channel:
        """Returns the channel to a device; empty if there never was one."""
        return self._load(device.curve25519)

    def may_claim(self, device: Device, now_ms: int) -> bool:
        """Returns whether a one-time key of the device may be asked for (again)."""
        return self.of(device).claim_after_ms <= now_ms

    def note_claim_failed(self, device: Device, now_ms: int) -> None:
        """Puts the next claim off."""
        self._change(device.curve25519, claim_after_ms=now_ms + CLAIM_RETRY_MS)

    def note_changed(self, device: Device) -> None:
        """Lets the next claim be made at once: what it failed for may be over."""
        if self.of(device).claim_after_ms:
            self._change(device.curve25519, claim_after_ms=0)

    def note_told_no_olm(self, device: Device) -> bool:
        """Returns whether the device is yet to be told, once, that no channel can be made."""
        if self.of(device).was_told_no_olm:
            return False
        self._change(device.curve25519, was_told_no_olm=True)
        return True

    def open(self, device: Device, signed_key: object, now_ms: int) -> None:
        """Opens a session from a claimed one-time key; raises `OlmRefused` unless the device signed
        it."""
        if not isinstance(signed_key, dict):
            raise OlmRefused("no signed one-time key")
        try:
            check_signature(signed_key, device)
            one_time = Curve25519Key(signed_key["key"])
            session = self._own.account.open_outbound(device.identity, one_time)
        except (DeviceKeysRefused, CryptoError, KeyError, TypeError, AttributeError) as error:
            raise OlmRefused("one-time key refused") from error
        self._own.save_account()
        self._keep(device.curve25519, session, now_ms)
        self._change(device.curve25519, claim_after_ms=0, was_told_no_olm=False)

    def encrypt(self, device: Device, event_type: str, content: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of an `m.room.encrypted` to-device event; there must be a session."""
        sessions = self.of(device).sessions
        assert sessions, "a channel must be open before it is used"
        own = self._own.device
        payload = {
            "type": event_type,
            "content": content,
            "sender": own.user_id,
            "recipient": device.user_id,
            "recipient_keys": {"ed25519": device.ed25519},
            "keys": {"ed25519": own.ed25519},
            "sender_device_keys": own.signed_json,
        }
        session = self._unpickle(sessions[0])
        message = session.encrypt(canonical_json.encode(payload))
        self._keep(device.curve25519, session, sessions[0].received_ms)
        return {
            "algorithm": OLM,
            "sender_key": own.curve25519,
            "ciphertext": {device.curve25519: {"type": message.kind, "body": message.body}},
        }

    def decrypt(self, encrypted: EncryptedOlmEvent, now_ms: int) -> bytes:
        """Returns the unchecked plaintext (see `olm_payload`); raises `OlmRefused`."""
        sender_key = encrypted.sender_key.encoded
        try:
            return self._decrypt(encrypted, sender_key, now_ms)
        except CryptoError as error:
            raise OlmRefused("the message can't be decrypted", is_wedged=True) from error

    def _decrypt(self, encrypted: EncryptedOlmEvent, sender_key: str, now_ms: int) -> bytes:
        message = encrypted.message
        is_first = message.kind == 0
        for saved in self._load(sender_key).sessions:
            session = self._unpickle(saved)
            if is_first and not session.matches(message):
                continue
            try:
                plaintext = session.decrypt(message)
            except CryptoError:
                if is_first:
                    raise
                continue
            self._keep(sender_key, session, now_ms)
            return plaintext
        if not is_first:
            raise OlmRefused("no session fits", is_wedged=True)
        session, plaintext = self._own.account.open_inbound(encrypted.sender_key, message)
        self._own.save_account()
        self._keep(sender_key, session, now_ms)
        return plaintext

    def may_replace(self, device: Device, now_ms: int) -> bool:
        """Returns whether a failed channel may be replaced now; if so, the hour starts."""
        last = self.of(device).replaced_ms
        if last is not None and now_ms - last < UNWEDGE_INTERVAL_MS:
            return False
        self._change(device.curve25519, replaced_ms=now_ms)
        return True

    def _load(self, key: str) -> Channel:
        return self._pending_changes.load(_KIND, key, Channel) or Channel()

    def _unpickle(self, saved: _Session) -> OlmSession:
        return OlmSession.from_pickle(Pickle(saved.pickle), self._pickle_key)

    def _keep(self, key: str, session: OlmSession, received_ms: int) -> None:
        fresh = _Session(session.session_id, session.pickle(self._pickle_key), received_ms)
        others = [s for s in self._load(key).sessions if s.session_id != fresh.session_id]
        ordered = sorted((fresh, *others), key=lambda s: s.received_ms, reverse=True)
        self._change(key, sessions=tuple(ordered[:OLM_SESSIONS_PER_DEVICE_MAX]))

    def _change(self, key: str, **fields: Any) -> None:
        self._pending_changes.put(_KIND, key, msgspec.structs.replace(self._load(key), **fields))
