"""Reception of to-device events.

Rules:
1. Room keys and secrets count only when they come over Olm; in the clear, or in a Megolm envelope,
   they are dropped and reported.
2. Nobody was asked for forwarded keys or secrets, so none are taken.
3. One bad event never stops those after it.

Spec: client-server API, "Send-to-device messaging", "m.megolm.v1.aes-sha2".
"""

from typing import Any

from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.devices.claims import Claims
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.olm.olm_channels import (
    EncryptedOlmEvent,
    OlmChannels,
    OlmRefused,
    read_encrypted_event,
)
from e2ee.machine.olm.olm_payload import OlmEvent, OlmPayloadRefused, read_payload
from e2ee.machine.rooms.room_keys import RoomKeys

JsonObject = dict[str, Any]
_UNREQUESTED = frozenset({"m.forwarded_room_key", "m.secret.send", "m.room_key_bundle"})
_OLM_ONLY = _UNREQUESTED | {"m.room_key", "m.dummy"}


class ToDeviceIntake:
    """Receives to-device events. `new_keys` and `withheld`: (room, session) since `clear`."""

    def __init__(
        self,
        *,
        own: OwnDevice,
        lists: TrackedDevices,
        channels: OlmChannels,
        claims: Claims,
        room_keys: RoomKeys,
        alarms: Alarms,
    ) -> None:
        self._own = own
        self._lists = lists
        self._channels = channels
        self._claims = claims
        self._room_keys = room_keys
        self._alarms = alarms
        self.new_keys: set[tuple[str, str]] = set()
        self.withheld: set[tuple[str, str]] = set()

    def clear(self) -> None:
        """Forgets what was reported so far."""
        self.new_keys = set()
        self.withheld = set()

    def receive(self, event: JsonObject, now_ms: int) -> bool:
        """Takes an event; False if it isn't the machine's concern."""
        event_type, sender = event.get("type"), str(event.get("sender"))
        content = event.get("content")
        if not isinstance(event_type, str):
            return False
        if event_type == "m.room.encrypted":
            self._receive_encrypted(event, sender, now_ms)
        elif event_type in _OLM_ONLY:
            self._alarms.post(NoticeKind.UNENCRYPTED_SECRET, sender, detail=event_type)
        elif event_type == "m.room_key.withheld" and isinstance(content, dict):
            self._alarms.post(NoticeKind.KEYS_WITHHELD, sender, detail=str(content.get("code")))
            hint = self._room_keys.receive_withheld(sender, content)
            self.withheld |= {hint} if hint is not None else set()
        else:
            return False
        return True

    def _receive_encrypted(self, event: JsonObject, sender: str, now_ms: int) -> None:
        try:
            encrypted = read_encrypted_event(event, self._own.device)
            opened = self._open(encrypted, now_ms)
        except (OlmRefused, OlmPayloadRefused) as refused:
            self._alarms.post(NoticeKind.OLM_REFUSED, sender, detail=str(refused))
            return
        self._lists.track([sender])  # so that the proof of the device becomes known
        if opened.type == "m.room_key":
            key = self._room_keys.receive(opened, self._alarms)
            self.new_keys |= {key} if key is not None else set()
        elif opened.type in _UNREQUESTED:
            self._alarms.post(NoticeKind.UNEXPECTED_SECRET, sender, detail=opened.type)

    def _open(self, encrypted: EncryptedOlmEvent, now_ms: int) -> OlmEvent:
        sender, sender_key = encrypted.sender, encrypted.sender_key.encoded
        try:
            plaintext = self._channels.decrypt(encrypted, now_ms)
        except OlmRefused as refused:
            if refused.is_wedged:
                self._claims.mend(sender, sender_key, now_ms)
            raise
        return read_payload(
            plaintext,
            sender=sender,
            sender_key=sender_key,
            own=self._own.device,
            listed=self._lists.of(sender),
        )
