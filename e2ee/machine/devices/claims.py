"""Claims of other devices' one-time keys: the devices, and the use of the answer.

Rules:
1. Only a key signed by the pinned device opens a channel; an unsigned one never does (the server
   could have made it).
2. A device without a usable key is asked again later, not at once, unless its user is named as
   changed: a joining user has one-time keys for the room, an invited one may have none.
3. A channel to be mended gets an `m.dummy` in its new session, so that the other side uses it.

Spec: client-server API, "One-time and fallback keys", "Recovering from undecryptable
messages".
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.olm.olm_channels import OlmChannels, OlmRefused
from e2ee.machine.outbox import RequestQueue
from e2ee.machine.requests import ClaimKeys

_MENDING = "mending"


class _Mending(msgspec.Struct, frozen=True):
    """A device whose channel is to be replaced."""

    user_id: str
    device_id: str


class Claims:
    """Devices whose one-time keys are wanted."""

    def __init__(
        self,
        pending_changes: PendingChanges,
        *,
        lists: TrackedDevices,
        channels: OlmChannels,
        outbox: RequestQueue,
        alarms: Alarms,
    ) -> None:
        self._pending_changes = pending_changes
        self._lists = lists
        self._channels = channels
        self._outbox = outbox
        self._alarms = alarms
        self._mending = pending_changes.all(_MENDING, _Mending)
        self._wanted: set[tuple[str, str]] = set()
        self._in_flight: dict[tuple[str, str], str] = {}

    def want(self, devices: Iterable[Device]) -> None:
        """Records that channels to these devices are needed."""
        self._wanted.update((device.user_id, device.device_id) for device in devices)

    def mend(self, sender: str, sender_key: str, now_ms: int) -> None:
        """Plans a new channel after an unreadable message, at most once an hour for each device.

        Only for a device on its user's list: a made-up key gets no answer.
        """
        for device in self._lists.of(sender).devices.values():
            if device.curve25519 == sender_key and self._channels.may_replace(device, now_ms):
                mending = _Mending(device.user_id, device.device_id)
                self._mending[sender_key] = mending
                self._pending_changes.put(_MENDING, sender_key, mending)

    def due(self, now_ms: int) -> list[tuple[str, str]]:
        """Returns the (user ID, device ID) pairs to claim for now, none of them under way."""
        wanted = self._wanted
        self._wanted = set()
        for mending in self._mending.values():
            device = self._lists.of(mending.user_id).devices.get(mending.device_id)
            if device is not None and self._channels.may_claim(device, now_ms):
                wanted.add((device.user_id, device.device_id))
        return sorted(pair for pair in wanted if pair not in self._in_flight)

    def begin(self, request: ClaimKeys) -> None:
        """Records that a claim is under way."""
        self._in_flight.update(dict.fromkeys(request.devices, request.request_id))

    def fail(self, request: ClaimKeys) -> None:
        """Records that a claim got no answer; the keys have to be requested anew."""
        for pair in request.devices:
            self._in_flight.pop(pair, None)

    def receive(self, request: ClaimKeys, response: dict[str, Any], now_ms: int) -> None:
        """Takes the answer to a claim that is under way."""
        self.fail(request)
        answered = response.get("one_time_keys")
        answered = answered if isinstance(answered, dict) else {}
        for user_id, device_id in request.devices:
            device = self._lists.of(user_id).devices.get(device_id)
            of_user = answered.get(user_id)
            keys = of_user.get(device_id) if isinstance(of_user, dict) else None
            if device is not None:
                self._receive_keys(device, keys if isinstance(keys, dict) else {}, now_ms)
        self._outbox.flush()

    def _receive_keys(self, device: Device, keys: dict[str, Any], now_ms: int) -> None:
        signed = [key for name, key in keys.items() if name.startswith("signed_curve25519:")]
        try:
            if not signed:  # rule 1
                raise OlmRefused("no signed one-time key")
            self._channels.open(device, signed[0], now_ms)
        except OlmRefused:
            kind = NoticeKind.ONE_TIME_KEY_REFUSED if keys else NoticeKind.NO_ONE_TIME_KEY
            self._alarms.post(kind, device.user_id, device.device_id)
            self._channels.note_claim_failed(device, now_ms)
            return
        if self._mending.pop(device.curve25519, None) is not None:
            self._pending_changes.remove(_MENDING, device.curve25519)
            dummy = self._channels.encrypt(device, "m.dummy", {})
            self._outbox.add("m.room.encrypted", device, dummy)
