"""Selects from the log what concerns one application service, for one transaction.

Rules:
1. An event concerns it if its audience has the room before the event or after it, or if the event
   is about one of its users: an invite, or a leave.
2. A transaction has at most `APPSERVICE_EVENTS` events, and as many of each other kind; it ends at
   the position of the last entry that went in.
3. Private receipts are of the service's own users alone.
4. Presence is that of the service's own users, and of members of the rooms that it is told of.
5. The service is told of changed devices of those who share a room with its users.

Spec: application service API, "Pushing events", "Pushing ephemeral data"; MSC2409, MSC3202.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import orjson

from federation.events import event_types
from federation.events.ids import DeviceId, RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import (
    DeviceListEntry,
    MembershipEntry,
    ReceiptEntry,
    ToDeviceEntry,
)
from homeserver.rules.appservices.audience import Audience
from homeserver.rules.appservices.registrations import AppService
from homeserver.rules.ephemeral.receipts import PRIVATE
from homeserver.services.appservices.log_reader import LogItem, MemberChange, NamedEvent


class Selection:
    """The content of a transaction in the making."""

    def __init__(self, service: AppService, audience: Audience) -> None:
        self._service, self._audience = service, audience
        self.events: list[NamedEvent | MembershipEntry] = []
        self.ephemeral: list[bytes] = []
        self.to_device: list[bytes] = []
        self.devices: dict[tuple[UserId, DeviceId], int] = {}
        """The devices with messages, with the position of the newest."""
        self.changed_devices: set[UserId] = set()
        """Users whose devices changed, whether they share a room with the service's or not."""
        self.changed_members: list[MemberChange] = []
        """Users who came into the service's rooms, or left them."""

    @property
    def is_empty(self) -> bool:
        """Returns whether nothing was selected."""
        return not any(
            (
                self.events,
                self.ephemeral,
                self.to_device,
                self.changed_devices,
                self.changed_members,
            )
        )

    @property
    def is_full(self) -> bool:
        """Returns whether the transaction has to end."""
        lists = (self.events, self.ephemeral, self.to_device, self.changed_devices)
        return any(len(one) >= limits.APPSERVICE_EVENTS for one in lists)

    def take(self, items: Iterable[LogItem]) -> int | None:
        """Goes through entries in their order; returns the position of the one that made the
        selection full, None if all went in."""
        for item in items:
            self._consider(item)
            if self.is_full:
                return item.position
        return None

    def _consider(self, item: LogItem) -> None:
        named, audience = item.event, self._audience
        concerns = named is not None and audience.has_room(named.room_id)
        for change in item.changes:
            self._apply(change)
        if named is not None and (concerns or self._is_about(named)):
            self.events.append(named)
        match item.other:
            case MembershipEntry() as outside if outside.event:
                if self._service.owns_user(outside.user_id):
                    self.events.append(outside)
            case ReceiptEntry() as receipt if self._service.wants_ephemeral:
                self._add_receipt(receipt)
            case ToDeviceEntry() as message:
                self._add_message(message, item.position)
            case DeviceListEntry() as changed if self._service.wants_encryption:
                self.changed_devices.add(changed.user_id)

    def _is_about(self, named: NamedEvent) -> bool:
        if self._audience.has_room(named.room_id):
            return True
        return named.target is not None and self._service.owns_user(named.target)

    def _apply(self, change: MemberChange) -> None:
        audience, rooms = self._audience, (change.room_id,)
        was_there = audience.has_users_in(rooms)
        audience.apply(change.room_id, change.user_id, change.membership)
        is_shared = was_there or audience.has_users_in(rooms)
        if self._service.wants_encryption and is_shared and change.membership != change.former:
            self.changed_members.append(change)

    def _add_receipt(self, receipt: ReceiptEntry) -> None:
        if not self._audience.has_room(receipt.room_id):
            return
        if receipt.kind == PRIVATE and not self._service.owns_user(receipt.user_id):
            return
        data: dict[str, object] = {"ts": receipt.ts}
        if receipt.thread:
            data["thread_id"] = receipt.thread
        content = {receipt.event_id: {receipt.kind: {receipt.user_id: data}}}
        self.ephemeral.append(_in_room(event_types.RECEIPT, receipt.room_id, content))

    def add_typing(self, room_id: RoomId, user_ids: Iterable[UserId]) -> None:
        """Adds who types in a room, if the audience has it."""
        if self._audience.has_room(room_id):
            content = {"user_ids": sorted(user_ids)}
            self.ephemeral.append(_in_room(event_types.TYPING, room_id, content))

    def add_presence(self, user_id: UserId, event: bytes, rooms: Set[RoomId]) -> None:
        """Adds a user's presence, if they are one of the service, or in one of its rooms."""
        if self._service.owns_user(user_id) or any(map(self._audience.has_room, rooms)):
            self.ephemeral.append(event)

    def _add_message(self, entry: ToDeviceEntry, position: int) -> None:
        service = self._service
        is_wanted = service.wants_ephemeral or service.wants_encryption
        if not is_wanted or not service.owns_user(entry.user_id):
            return
        self.devices[entry.user_id, entry.device_id] = position
        whole = b'%b,"to_user_id":%b,"to_device_id":%b}' % (
            entry.message[:-1],
            orjson.dumps(entry.user_id),
            orjson.dumps(entry.device_id),
        )
        self.to_device.append(whole)


def _in_room(event_type: str, room_id: RoomId, content: object) -> bytes:
    return orjson.dumps({"type": event_type, "room_id": room_id, "content": content})
