"""This device: its identity, its published keys, and the time to publish more.

Rules:
1. Private keys never leave the account's pickle; the pickle is saved before public keys are handed
   out.
2. The server should hold `ONE_TIME_KEYS_KEPT` one-time keys; a count that isn't there means zero.
3. A fallback key is replaced as soon as the server says it was used, and the used one is forgotten
   an hour later, by making one more (the library keeps the current and the last).
4. An upload is repeated unchanged until the server acknowledges it.

Spec: client-server API, "One-time and fallback keys", "Uploading keys", "Extensions to
/sync".
"""

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from e2ee.crypto.primitives import Curve25519Key, Pickle, PickleKey
from e2ee.crypto.ratchets import OlmAccount
from e2ee.limits import FALLBACK_KEEP_MS, ONE_TIME_KEYS_KEPT
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import MEGOLM, OLM, Device, signed_bytes
from e2ee.machine.requests import UploadKeys

_KIND = "account"
_SIGNED_CURVE25519 = "signed_curve25519"


class _Saved(msgspec.Struct, frozen=True):
    """The account as saved. Times in milliseconds."""

    user_id: str
    device_id: str
    pickle: str
    sequence: int = 0
    is_published: bool = False
    has_fallback: bool = False
    forget_fallback_at_ms: int = 0


class OwnDevice:
    """The account of this device, with its counters."""

    def __init__(
        self, pending_changes: PendingChanges, pickle_key: PickleKey, saved: _Saved
    ) -> None:
        self._pending_changes = pending_changes
        self._pickle_key = pickle_key
        self._saved = saved
        self.account = OlmAccount.from_pickle(Pickle(saved.pickle), pickle_key)
        self.device = self._signed_device()
        self._server_count: int | None = None
        self._upload: UploadKeys | None = None

    @classmethod
    def create(
        cls, pending_changes: PendingChanges, pickle_key: PickleKey, *, user_id: str, device_id: str
    ) -> Self:
        """Returns a device with new keys; there must be none stored."""
        assert pending_changes.load(_KIND, "", _Saved) is None, (
            "this store belongs to a device already"
        )
        account = OlmAccount.new()
        account.generate_fallback_key()
        saved = _Saved(user_id, device_id, account.pickle(pickle_key), has_fallback=True)
        pending_changes.put(_KIND, "", saved)
        return cls(pending_changes, pickle_key, saved)

    @classmethod
    def load(cls, pending_changes: PendingChanges, pickle_key: PickleKey) -> Self | None:
        """Returns the saved device, or None; raises `PickleRefused` for a wrong key."""
        saved = pending_changes.load(_KIND, "", _Saved)
        return None if saved is None else cls(pending_changes, pickle_key, saved)

    def next_sequence(self) -> int:
        """Returns a number that this device never gave before, saved with the rest."""
        self._update(sequence=self._saved.sequence + 1)
        return self._saved.sequence

    def save_account(self) -> None:
        """Saves the account; to be called after each change of it."""
        self._update(pickle=self.account.pickle(self._pickle_key))

    def receive_counts(
        self, counts: Mapping[str, int], unused_fallback: list[str] | None, now_ms: int
    ) -> None:
        """Takes a sync's key counts; `unused_fallback` is None where the server doesn't say."""
        self._server_count = _count(counts)
        if not self._saved.is_published or self.account.unpublished_fallback_key():
            return
        if unused_fallback is not None and _SIGNED_CURVE25519 not in unused_fallback:
            self.account.generate_fallback_key()
            self.save_account()
            self._update(forget_fallback_at_ms=now_ms + FALLBACK_KEEP_MS)

    def upload(self, now_ms: int) -> UploadKeys | None:
        """Returns the upload that is due, if any; the same until it is acknowledged."""
        if self._upload is None:
            self._make_keys(now_ms)
            self._upload = self._build_upload()
        return self._upload

    def receive_upload(self, request: UploadKeys, response: dict[str, Any]) -> None:
        """Takes the server's acknowledgement."""
        if self._upload is None or request.request_id != self._upload.request_id:
            return
        self._upload = None
        self.account.mark_keys_as_published()
        self.save_account()
        self._update(is_published=True)
        counts = response.get("one_time_key_counts")
        self._server_count = _count(counts if isinstance(counts, dict) else {})

    def _make_keys(self, now_ms: int) -> None:
        if self._saved.forget_fallback_at_ms and now_ms >= self._saved.forget_fallback_at_ms:
            self.account.generate_fallback_key()
            self.save_account()
            self._update(forget_fallback_at_ms=0)
        if self._saved.is_published and self._server_count is None:
            return
        waiting = len(self.account.unpublished_one_time_keys())
        held = (self._server_count or 0) + waiting
        if waiting == 0 and held <= ONE_TIME_KEYS_KEPT // 2:
            self.account.generate_one_time_keys(ONE_TIME_KEYS_KEPT - held)
            self.save_account()

    def _build_upload(self) -> UploadKeys | None:
        body: dict[str, Any] = {}
        if not self._saved.is_published:
            body["device_keys"] = self.device.signed_json
        one_time = self.account.unpublished_one_time_keys()
        if one_time:
            body["one_time_keys"] = self._signed_keys(one_time, {})
        fallback = self.account.unpublished_fallback_key()
        if fallback:
            body["fallback_keys"] = self._signed_keys(fallback, {"fallback": True})
        if not body:
            return None
        return UploadKeys(f"upload-{self.next_sequence()}", body)

    def _signed_keys(
        self, keys: Mapping[str, Curve25519Key], extra: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            f"{_SIGNED_CURVE25519}:{name}": self._sign({"key": key.encoded, **extra})
            for name, key in keys.items()
        }

    def _sign(self, value: dict[str, Any]) -> dict[str, Any]:
        signature = self.account.sign(signed_bytes(value))
        name = f"ed25519:{self._saved.device_id}"
        return {**value, "signatures": {self._saved.user_id: {name: signature}}}

    def _signed_device(self) -> Device:
        user_id, device_id = self._saved.user_id, self._saved.device_id
        curve25519, ed25519 = self.account.curve25519.encoded, self.account.ed25519.encoded
        keys = {f"curve25519:{device_id}": curve25519, f"ed25519:{device_id}": ed25519}
        signed = self._sign(
            {
                "algorithms": [OLM, MEGOLM],
                "device_id": device_id,
                "keys": keys,
                "user_id": user_id,
            }
        )
        return Device(user_id, device_id, curve25519, ed25519, signed)

    def _update(self, **fields: Any) -> None:
        self._saved = msgspec.structs.replace(self._saved, **fields)
        self._pending_changes.put(_KIND, "", self._saved)


def _count(counts: Mapping[str, object]) -> int:
    """Returns the server's count of our one-time keys; what is not a count means none."""
    count = counts.get(_SIGNED_CURVE25519, 0)
    return count if isinstance(count, int) and count >= 0 else 0
