"""One device's parts of the machine, joined as the machine joins them, without the machine."""

import json
from collections.abc import Iterable
from typing import Any

from e2ee.crypto.primitives import PickleKey
from e2ee.machine.alarms import Alarms, NoticeKind
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.claims import Claims
from e2ee.machine.devices.device_keys import Device, signed_bytes
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.olm.olm_channels import OlmChannels
from e2ee.machine.olm.to_device import ToDeviceIntake
from e2ee.machine.outbox import RequestQueue
from e2ee.machine.requests import QueryKeys
from e2ee.machine.rooms.room_keys import RoomKeys
from tests.e2ee.record_store import RecordStore

JsonObject = dict[str, Any]
PICKLE_KEY = PickleKey(bytes(32))


class DeviceParts:
    """A device with an empty store."""

    def __init__(self, user_id: str, device_id: str = "DEV") -> None:
        self.client_rooms = RecordStore()
        self.pending_changes = PendingChanges(self.client_rooms)
        self.own = OwnDevice.create(
            self.pending_changes, PICKLE_KEY, user_id=user_id, device_id=device_id
        )
        self.device: Device = self.own.device
        self.notices = Alarms()
        self.lists = TrackedDevices(self.pending_changes, self.device, self.notices)
        self.channels = OlmChannels(self.pending_changes, PICKLE_KEY, self.own)
        self.outbox = RequestQueue(self.pending_changes, self.own)
        self.room_keys = RoomKeys(self.pending_changes, PICKLE_KEY, self.lists, self.device)
        self.claims = Claims(
            self.pending_changes,
            lists=self.lists,
            channels=self.channels,
            outbox=self.outbox,
            alarms=self.notices,
        )
        self.to_device = ToDeviceIntake(
            own=self.own,
            lists=self.lists,
            channels=self.channels,
            claims=self.claims,
            room_keys=self.room_keys,
            alarms=self.notices,
        )

    def save(self) -> None:
        """Saves all records."""
        self.pending_changes.save(self.client_rooms.apply)

    def learn(self, *devices: Device) -> None:
        """Learns the device lists of the devices' users from a server's answer."""
        users = tuple({device.user_id for device in devices})
        self.lists.track(users)
        request = QueryKeys("learning", users)
        self.lists.begin(request)
        keys: dict[str, JsonObject] = {user_id: {} for user_id in users}
        for device in devices:
            keys[device.user_id][device.device_id] = device.signed_json
        self.lists.receive(request, {"device_keys": keys}, 0)

    def sign(self, value: JsonObject) -> JsonObject:
        """Returns the object with this device's signature."""
        device = self.device
        signature = self.own.account.sign(signed_bytes(value))
        named = {f"ed25519:{device.device_id}": signature}
        return {**value, "signatures": {device.user_id: named}}

    def one_time_key(self) -> JsonObject:
        """Returns a fresh one-time key as the device uploads it, signed."""
        account = self.own.account
        account.generate_one_time_keys(1)
        [key] = account.unpublished_one_time_keys().values()
        account.mark_keys_as_published()
        self.own.save_account()
        return self.sign({"key": key.encoded})

    def open_to(self, other: "DeviceParts", now_ms: int = 0) -> None:
        """Opens a channel to the other device, by one of its one-time keys."""
        self.channels.open(other.device, other.one_time_key(), now_ms)

    def event_to(
        self, other: "DeviceParts", event_type: str = "m.dummy", content: JsonObject | None = None
    ) -> JsonObject:
        """Returns a to-device event to the other device, as its sync has it."""
        encrypted = self.channels.encrypt(other.device, event_type, content or {})
        sender = self.device.user_id
        return {"type": "m.room.encrypted", "sender": sender, "content": as_received(encrypted)}

    def alarms(self) -> list[NoticeKind]:
        """Returns the kinds of the alarms since the last call."""
        return [notice.kind for notice in self.notices.take()]


def as_received(value: JsonObject) -> JsonObject:
    """Returns the object as it arrives over the network."""
    received: JsonObject = json.loads(json.dumps(value))
    return received


def pairs(devices: Iterable[Device]) -> list[tuple[str, str]]:
    """Returns the devices' names: (user ID, device ID)."""
    return [(device.user_id, device.device_id) for device in devices]
