"""The façade of the machine: push sync in, pull requests out, acknowledge; encrypt and decrypt.

How to use it, in order:
1. `receive_sync` with each sync's changes.
2. `save` with a writer. What was saved may be sent; `outgoing_requests` asserts that it was.
3. Make the `outgoing_requests`, and report each with `mark_sent` or `mark_failed`; then `save`
   again.
4. To send into an encrypted room: `share_room_key` until READY (1 to 3 between), then `encrypt`,
   `save`, `release`.

Rules kept here: room keys and secrets are taken from Olm messages only; a device whose channel is
broken gets one new channel an hour; nothing the server says removes encryption from a room.

Specification: client-server API, "End-to-End Encryption".
"""

from typing import Any, Self

import msgspec

from e2ee.crypto.primitives import Ed25519Key, PickleKey
from e2ee.limits import CLAIM_DEVICES_MAX, QUERY_USERS_MAX
from e2ee.machine.changes import Ledger, Lookup, Unsaved
from e2ee.machine.device_keys import Device
from e2ee.machine.device_lists import DeviceLists
from e2ee.machine.notices import Notice, NoticeBoard, NoticeKind
from e2ee.machine.olm_channels import OlmChannels, OlmRefused, read_envelope
from e2ee.machine.olm_payload import OlmEvent, OlmPayloadRefused, read_payload
from e2ee.machine.outbox import Outbox
from e2ee.machine.own_device import OwnDevice
from e2ee.machine.requests import ClaimKeys, QueryKeys, Request, SendToDevice, UploadKeys
from e2ee.machine.room_key_sharing import RoomKeySharing, Sharing
from e2ee.machine.room_keys import Reading, RoomKeys
from e2ee.machine.room_settings import RoomBook, RoomSettings
from e2ee.machine.sync_changes import RoomChanges, SyncChanges, SyncOutcome

JsonObject = dict[str, Any]
_MENDING = "mending"
_OLM_ONLY = frozenset(
    {"m.room_key", "m.forwarded_room_key", "m.room_key_bundle", "m.secret.send", "m.dummy"}
)
_UNREQUESTED = frozenset({"m.forwarded_room_key", "m.secret.send", "m.room_key_bundle"})


class _Mending(msgspec.Struct, frozen=True):
    """A device whose channel is to be replaced."""

    user_id: str
    device_id: str


class Machine:
    """The encryption state of one device."""

    def __init__(self, ledger: Ledger, pickle_key: PickleKey, own: OwnDevice) -> None:
        self.ledger = ledger
        self._own = own
        self._notices = NoticeBoard()
        self._lists = DeviceLists(ledger, own.device, self._notices)
        self._channels = OlmChannels(ledger, pickle_key, own)
        self._outbox = Outbox(ledger, own)
        self._room_keys = RoomKeys(ledger, pickle_key, self._lists, own.device)
        self._rooms = RoomBook(ledger, self._notices)
        self._sharing = RoomKeySharing(
            ledger,
            pickle_key,
            own=own.device,
            lists=self._lists,
            channels=self._channels,
            outbox=self._outbox,
            room_keys=self._room_keys,
        )
        self._mending = ledger.all(_MENDING, _Mending)
        self._outstanding: dict[str, QueryKeys | ClaimKeys] = {}
        self._number = 0

    @classmethod
    def create(cls, lookup: Lookup, pickle_key: PickleKey, *, user_id: str, device_id: str) -> Self:
        """A new device's machine; the store must hold none."""
        ledger = Ledger(lookup)
        own = OwnDevice.create(ledger, pickle_key, user_id=user_id, device_id=device_id)
        machine = cls(ledger, pickle_key, own)
        machine._lists.track([user_id])
        return machine

    @classmethod
    def load(cls, lookup: Lookup, pickle_key: PickleKey) -> Self | None:
        """The saved device's machine, or None; raises `PickleRefused` for a wrong key."""
        ledger = Ledger(lookup)
        own = OwnDevice.load(ledger, pickle_key)
        return None if own is None else cls(ledger, pickle_key, own)

    @property
    def device(self) -> Device:
        """This device's public keys."""
        return self._own.device

    @property
    def fingerprint(self) -> Ed25519Key:
        """What another person compares to know this device."""
        return self._own.device.fingerprint

    def take_notices(self) -> tuple[Notice, ...]:
        """Alarms since the last call."""
        return self._notices.take()

    def room(self, room_id: str) -> RoomSettings:
        """A room's pinned encryption settings."""
        return self._rooms.of(room_id)

    def devices_of(self, user_id: str) -> tuple[Device, ...]:
        """The user's devices as last accepted."""
        return tuple(self._lists.of(user_id).devices.values())

    # Sync in

    def receive_sync(self, changes: SyncChanges, now_ms: int) -> SyncOutcome:
        """Takes a sync. Save before the next sync is asked for: it acknowledges the to-device
        events."""
        if changes.is_initial:
            self._lists.mark_all_changed()
        self._lists.mark_changed(changes.changed_users)
        self._lists.mark_left(changes.left_users)
        new_keys: set[tuple[str, str]] = set()
        withheld: set[tuple[str, str]] = set()
        passed: list[JsonObject] = []
        for event in changes.to_device:
            self._receive_to_device(event, now_ms, (new_keys, withheld, passed))
        for room in changes.rooms:
            self.see_room(room)
        counts = changes.one_time_key_counts
        self._own.receive_counts(counts, changes.unused_fallback_types, now_ms)
        return SyncOutcome(frozenset(new_keys), frozenset(withheld), tuple(passed))

    def see_room(self, room: RoomChanges) -> None:
        """Takes what was seen of a room: pins encryption, ends sessions that someone may take
        away."""
        for content in room.encryption:
            self._rooms.see_encryption(room.room_id, content)
        shared_before = self._rooms.of(room.room_id).shares_history
        for value in room.history_visibility:
            self._rooms.see_history_visibility(room.room_id, value)
        if self._rooms.of(room.room_id).shares_history is not shared_before:
            self._sharing.end(room.room_id)
        # With a gap, any membership but `join` may hide that the user joined and left (v1.19).
        leaving = {"leave", "ban"} if not room.is_limited else {"leave", "ban", "invite", "knock"}
        if any(membership in leaving for _, membership in room.memberships):
            self._sharing.end(room.room_id)

    def _receive_to_device(
        self,
        event: JsonObject,
        now_ms: int,
        into: tuple[set[tuple[str, str]], set[tuple[str, str]], list[JsonObject]],
    ) -> None:
        new_keys, withheld, passed = into
        event_type, sender = event.get("type"), str(event.get("sender"))
        content = event.get("content")
        if event_type == "m.room.encrypted":
            opened = self._open_olm(event, now_ms)
            key = self._receive_olm(opened) if opened is not None else None
            if key is not None:
                new_keys.add(key)
        elif event_type in _OLM_ONLY:
            self._notices.post(NoticeKind.UNENCRYPTED_SECRET, sender, detail=str(event_type))
        elif event_type == "m.room_key.withheld" and isinstance(content, dict):
            hint = self._room_keys.receive_withheld(sender, content)
            self._notices.post(NoticeKind.KEYS_WITHHELD, sender, detail=str(content.get("code")))
            if hint is not None:
                withheld.add(hint)
        else:
            passed.append(event)

    def _open_olm(self, event: JsonObject, now_ms: int) -> OlmEvent | None:
        sender = str(event.get("sender"))
        try:
            envelope = read_envelope(event, self._own.device)
        except OlmRefused as refused:
            self._notices.post(NoticeKind.OLM_REFUSED, sender, detail=str(refused))
            return None
        sender_key = envelope.sender_key.encoded
        try:
            plaintext = self._channels.decrypt(envelope, now_ms)
            opened = read_payload(
                plaintext,
                sender=sender,
                sender_key=sender_key,
                own=self._own.device,
                listed=self._lists.of(sender),
            )
        except (OlmRefused, OlmPayloadRefused) as refused:
            self._notices.post(NoticeKind.OLM_REFUSED, sender, detail=str(refused))
            if isinstance(refused, OlmRefused) and refused.is_wedged:
                self._mend(sender, sender_key, now_ms)
            return None
        self._lists.track([sender])  # so that what is proven of the device gets known
        return opened

    def _receive_olm(self, event: OlmEvent) -> tuple[str, str] | None:
        if event.type == "m.room_key":
            return self._room_keys.receive(event, self._notices)
        if event.type in _UNREQUESTED:
            self._notices.post(NoticeKind.UNEXPECTED_SECRET, event.sender, detail=event.type)
        return None

    def _mend(self, sender: str, sender_key: str, now_ms: int) -> None:
        """Plans a new channel to the device, at most once an hour; only for one on its user's
        list."""
        for device in self._lists.of(sender).devices.values():
            is_it = device.curve25519 == sender_key and sender_key != self._own.device.curve25519
            if is_it and self._channels.may_replace(device, now_ms):
                mending = _Mending(device.user_id, device.device_id)
                self._mending[sender_key] = mending
                self.ledger.put(_MENDING, sender_key, mending)

    # Requests out

    def outgoing_requests(self, now_ms: int) -> tuple[Request, ...]:
        """Requests to make now, in this order. All state must have been saved.

        Building some of them changes state (new one-time keys, say); call `save` before making them.
        """
        requests: list[Request] = []
        upload = self._own.upload(now_ms)
        if upload is not None:
            requests.append(upload)
        self._add_query(now_ms)
        self._add_claim(now_ms)
        requests.extend(self._outstanding.values())
        requests.extend(self._outbox.waiting())
        return tuple(requests)

    def _add_query(self, now_ms: int) -> None:
        due = self._lists.due(now_ms)
        for start in range(0, len(due), QUERY_USERS_MAX):
            request = QueryKeys(self._name("query"), tuple(due[start : start + QUERY_USERS_MAX]))
            self._lists.begin(request)
            self._outstanding[request.request_id] = request

    def _add_claim(self, now_ms: int) -> None:
        wanted = dict(self._sharing.claims)
        self._sharing.claims.clear()
        for mending in self._mending.values():
            device = self._lists.of(mending.user_id).devices.get(mending.device_id)
            if device is not None and self._channels.may_claim(device, now_ms):
                wanted[device.curve25519] = device
        under_way = {
            pair
            for request in self._outstanding.values()
            if isinstance(request, ClaimKeys)
            for pair in request.devices
        }
        pairs = [(device.user_id, device.device_id) for device in wanted.values()]
        pairs = [pair for pair in pairs if pair not in under_way]
        for start in range(0, len(pairs), CLAIM_DEVICES_MAX):
            request = ClaimKeys(
                self._name("claim"), tuple(pairs[start : start + CLAIM_DEVICES_MAX])
            )
            self._outstanding[request.request_id] = request

    def _name(self, noun: str) -> str:
        self._number += 1
        return f"{noun}-{self._number}"

    def mark_sent(self, request: Request, response: JsonObject, now_ms: int) -> None:
        """Takes the server's answer to a request. An answer nobody waits for is ignored."""
        match request:
            case UploadKeys():
                self._own.receive_upload(request, response)
            case SendToDevice():
                self._outbox.acknowledge(request)
            case QueryKeys():
                self._outstanding.pop(request.request_id, None)
                self._lists.receive(request, response, now_ms)
            case ClaimKeys():
                if self._outstanding.pop(request.request_id, None) is not None:
                    self._receive_claim(request, response, now_ms)

    def mark_failed(self, request: Request) -> None:
        """Takes back a query or claim that got no answer, so that it is made anew; others just
        wait."""
        if isinstance(request, QueryKeys):
            self._lists.fail(request)
        if isinstance(request, (QueryKeys, ClaimKeys)):
            self._outstanding.pop(request.request_id, None)

    def _receive_claim(self, request: ClaimKeys, response: JsonObject, now_ms: int) -> None:
        answered = response.get("one_time_keys")
        answered = answered if isinstance(answered, dict) else {}
        for user_id, device_id in request.devices:
            device = self._lists.of(user_id).devices.get(device_id)
            if device is None:
                continue
            of_user = answered.get(user_id)
            keys = of_user.get(device_id) if isinstance(of_user, dict) else None
            self._open_channel(device, keys, now_ms)
        self._outbox.flush()

    def _open_channel(self, device: Device, keys: object, now_ms: int) -> None:
        named = keys if isinstance(keys, dict) else {}
        signed = [k for name, k in named.items() if name.startswith("signed_curve25519:")]
        if not signed:  # never fall back to an unsigned key: the server could have made it
            kind = NoticeKind.ONE_TIME_KEY_REFUSED if named else NoticeKind.NO_ONE_TIME_KEY
            self._notices.post(kind, device.user_id, device.device_id)
            self._channels.note_claim_failed(device, now_ms)
            return
        try:
            self._channels.open(device, signed[0], now_ms)
        except OlmRefused:
            kind = NoticeKind.ONE_TIME_KEY_REFUSED
            self._notices.post(kind, device.user_id, device.device_id)
            self._channels.note_claim_failed(device, now_ms)
            return
        if self._mending.pop(device.curve25519, None) is not None:
            self.ledger.remove(_MENDING, device.curve25519)
            dummy = self._channels.encrypt(device, "m.dummy", {})
            self._outbox.add("m.room.encrypted", device, dummy)

    # Rooms

    def share_room_key(self, room_id: str, recipients: frozenset[str], now_ms: int) -> Sharing:
        """Brings the room's key to the devices of `recipients` (user IDs; ourselves included or
        not).

        WAITING: save, make the outgoing requests, ask again. The room must be encrypted with
        Megolm.
        """
        settings = self._rooms.of(room_id)
        assert settings.is_encrypted, "the room isn't encrypted"
        assert settings.is_supported, "the room isn't encrypted by Megolm"
        everyone = recipients | {self._own.device.user_id}
        return self._sharing.share(room_id, everyone, settings, now_ms)

    def encrypt(self, room_id: str, event_type: str, content: JsonObject) -> Unsaved[JsonObject]:
        """Encrypts an event's content; `share_room_key` must have said READY just before."""
        return Unsaved(self._sharing.encrypt(room_id, event_type, content))

    def decrypt(self, event: JsonObject) -> Reading:
        """Reads an `m.room.encrypted` room event (as clients get it, with `room_id`)."""
        return self._room_keys.decrypt(event)

    def end_session(self, room_id: str) -> None:
        """Makes the next message in the room start a new session."""
        self._sharing.end(room_id)

    def session_id(self, room_id: str) -> str | None:
        """The ID of the session the next message uses, or None if it starts a new one."""
        return self._sharing.session_id(room_id)
