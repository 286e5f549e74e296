"""The façade of the machine: push sync in, pull requests out, acknowledge; encrypt and decrypt.

How to use it, in order:
1. `receive_sync` with each sync's changes.
2. `pending_changes.save` with a writer.
3. `outgoing_requests`, `pending_changes.save`, `pending_changes.release`; make them, report each
   with `mark_sent` or `mark_failed`, `pending_changes.save` again.
4. To send into an encrypted room: `share_room_key` until READY (3 between), then `encrypt`,
   `pending_changes.save`, `pending_changes.release`.

Rules kept here: room keys and secrets are taken from Olm messages only; a device whose channel is
broken gets one new channel an hour; nothing the server says removes encryption from a room.

Spec: client-server API, "End-to-End Encryption".
"""

from typing import Any, Self

from e2ee.crypto.primitives import PickleKey
from e2ee.limits import CLAIM_DEVICES_MAX, QUERY_USERS_MAX
from e2ee.machine.alarms import Alarms, Notice
from e2ee.machine.changes import Lookup, PendingChanges, Unsaved
from e2ee.machine.devices.claims import Claims
from e2ee.machine.devices.device_keys import MEGOLM, Device
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.olm.olm_channels import OlmChannels
from e2ee.machine.olm.to_device import ToDeviceIntake
from e2ee.machine.outbox import RequestQueue
from e2ee.machine.requests import ClaimKeys, QueryKeys, Request, SendToDevice, UploadKeys
from e2ee.machine.rooms.room_key_sharing import RoomKeySharing, Sharing
from e2ee.machine.rooms.room_keys import Reading, RoomKeys
from e2ee.machine.rooms.room_settings import RoomBook, RoomSettings
from e2ee.machine.sync_changes import RoomChanges, SyncChanges, SyncOutcome

JsonObject = dict[str, Any]


class Machine:
    """The encryption state of one device; `device` is its public keys."""

    def __init__(
        self, pending_changes: PendingChanges, pickle_key: PickleKey, own: OwnDevice
    ) -> None:
        self.pending_changes = pending_changes
        self._own = own
        self.device: Device = own.device
        self._alarms = Alarms()
        self._lists = TrackedDevices(pending_changes, own.device, self._alarms)
        self._channels = OlmChannels(pending_changes, pickle_key, own)
        self._outbox = RequestQueue(pending_changes, own)
        self._room_keys = RoomKeys(pending_changes, pickle_key, self._lists, own.device)
        self._rooms = RoomBook(pending_changes, self._alarms)
        self._claims = Claims(
            pending_changes,
            lists=self._lists,
            channels=self._channels,
            outbox=self._outbox,
            alarms=self._alarms,
        )
        self._to_device = ToDeviceIntake(
            own=own,
            lists=self._lists,
            channels=self._channels,
            claims=self._claims,
            room_keys=self._room_keys,
            alarms=self._alarms,
        )
        self._sharing = RoomKeySharing(
            pending_changes,
            pickle_key,
            own=own.device,
            lists=self._lists,
            channels=self._channels,
            claims=self._claims,
            outbox=self._outbox,
            room_keys=self._room_keys,
        )
        self._outstanding: dict[str, QueryKeys | ClaimKeys] = {}
        self._number = 0

    @classmethod
    def create(cls, lookup: Lookup, pickle_key: PickleKey, *, user_id: str, device_id: str) -> Self:
        """Returns a new device's machine; the store must hold none."""
        pending_changes = PendingChanges(lookup)
        own = OwnDevice.create(pending_changes, pickle_key, user_id=user_id, device_id=device_id)
        machine = cls(pending_changes, pickle_key, own)
        machine._lists.track([user_id])
        return machine

    @classmethod
    def load(cls, lookup: Lookup, pickle_key: PickleKey) -> Self | None:
        """Returns the saved device's machine, or None; raises `PickleRefused` for a wrong key."""
        pending_changes = PendingChanges(lookup)
        own = OwnDevice.load(pending_changes, pickle_key)
        return None if own is None else cls(pending_changes, pickle_key, own)

    def take_notices(self) -> tuple[Notice, ...]:
        """Alarms since the last call."""
        return self._alarms.take()

    def room(self, room_id: str) -> RoomSettings:
        """Returns a room's pinned encryption settings."""
        return self._rooms.of(room_id)

    def devices_of(self, user_id: str) -> tuple[Device, ...]:
        """Returns the user's devices as last accepted."""
        return tuple(self._lists.of(user_id).devices.values())

    # Sync in

    def receive_sync(self, changes: SyncChanges, now_ms: int) -> SyncOutcome:
        """Takes a sync. Save before the next sync is asked for: it acknowledges the to-device
        events."""
        if changes.is_initial:
            self._lists.mark_all_changed()
        self._lists.mark_changed(changes.changed_users)
        for user_id in changes.changed_users:
            for device in self.devices_of(user_id):
                self._channels.note_changed(device)
        self._lists.mark_left(changes.left_users)
        self._to_device.clear()
        passed = [e for e in changes.to_device if not self._to_device.receive(e, now_ms)]
        for room in changes.rooms:
            self.see_room(room)
        counts = changes.one_time_key_counts
        self._own.receive_counts(counts, changes.unused_fallback_types, now_ms)
        new_keys, withheld = self._to_device.new_keys, self._to_device.withheld
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

    # Requests out

    def outgoing_requests(self, now_ms: int) -> Unsaved[tuple[Request, ...]]:
        """Requests to make now, in this order; `release` them after a `save`.

        Building them may make one-time keys, whose private halves must be saved first.
        """
        requests: list[Request] = []
        upload = self._own.upload(now_ms)
        if upload is not None:
            requests.append(upload)
        self._add_query(now_ms)
        self._add_claim(now_ms)
        requests.extend(self._outstanding.values())
        requests.extend(self._outbox.waiting())
        return Unsaved(tuple(requests))

    def _add_query(self, now_ms: int) -> None:
        due = self._lists.due(now_ms)
        for start in range(0, len(due), QUERY_USERS_MAX):
            request = QueryKeys(self._name("query"), tuple(due[start : start + QUERY_USERS_MAX]))
            self._lists.begin(request)
            self._outstanding[request.request_id] = request

    def _add_claim(self, now_ms: int) -> None:
        due = self._claims.due(now_ms)
        for start in range(0, len(due), CLAIM_DEVICES_MAX):
            request = ClaimKeys(self._name("claim"), tuple(due[start : start + CLAIM_DEVICES_MAX]))
            self._claims.begin(request)
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
                    self._claims.receive(request, response, now_ms)

    def mark_failed(self, request: Request) -> None:
        """Takes back a query or claim that got no answer, so that it is made anew; others just
        wait."""
        if isinstance(request, QueryKeys):
            self._lists.fail(request)
        if isinstance(request, ClaimKeys):
            self._claims.fail(request)
        self._outstanding.pop(request.request_id, None)

    # Rooms

    def pin_encryption(self, room_id: str) -> None:
        """Pins a room that we made encrypted, before the server shows anything of it."""
        self._rooms.see_encryption(room_id, {"algorithm": MEGOLM})

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
        """Returns the ID of the session the next message uses, or None if it starts a new one."""
        return self._sharing.session_id(room_id)
