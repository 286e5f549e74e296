"""Messages between devices: sending, waiting, delivery.

Rules:
1. A request is carried out once: its transaction ID is stored in the unit that stores its messages.
2. Messages for other servers are EDUs in the log, one unit with the local ones.
3. Only existing devices get messages; all others are dropped, as the spec says.
4. Waiting messages are known in memory by device and newest position: a sync of a device without
   waiting messages makes no query.
5. A message is delivered until the device syncs from a later position (`acknowledge`), and never
   after that; rows are deleted in the background.
6. Waiting messages of users of other servers are bounded (`to_device_shares`).

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, ServerName, UserId, is_reachable_name, server_of
from federation.events.signing import encode_base64_url
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import (
    DeviceListEntry,
    Entry,
    Placed,
    RemoteEduEntry,
    ToDeviceEntry,
    Unit,
    UnitLog,
)
from homeserver.rules.encryption.device_keys import check_text
from homeserver.rules.encryption.to_device import (
    ALL_DEVICES,
    DeviceMessage,
    build_edu,
    build_message,
    parse_messages,
    split_for_edus,
)
from homeserver.services.accounts.own_devices import OwnDevices
from homeserver.services.encryption.to_device_shares import ToDeviceShares
from homeserver.storage.database import Connection, Database, DatabaseUnavailable
from homeserver.storage.encryption import to_device as store

log = logging.getLogger(__name__)

_NOBODY = UserId("")
_Device = tuple[UserId, DeviceId]


class ToDevice:
    """Messages that wait for local devices, and messages to other servers."""

    def __init__(
        self,
        *,
        database: Database,
        committer: UnitLog,
        server_name: ServerName,
        own_devices: OwnDevices,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._messages, self._committer = store.ToDeviceTable(database), committer
        self._server_name, self._own_devices = server_name, own_devices
        self._clock, self._random_bytes = clock, random_bytes
        self._newest: dict[_Device, int] = {}
        self._acknowledged: dict[_Device, int] = {}
        self._to_delete = asyncio.Event()
        self._shares = ToDeviceShares(database)
        self._receiving: WeakValueDictionary[ServerName, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        """Loads the waiting messages at a start, before the first commit."""
        self._newest = await self._messages.newest()

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            if isinstance(placed.entry, ToDeviceEntry):
                device = (placed.entry.user_id, placed.entry.device_id)
                self._newest[device] = placed.position
            elif isinstance(placed.entry, DeviceListEntry):
                self._shares.forget_user(placed.entry.user_id)

    # Delivery

    async def pending(
        self, user_id: UserId, device_id: DeviceId, *, after: int, up_to: int, limit: int
    ) -> tuple[list[bytes], int]:
        """Returns messages (JSON) for a device with after < position <= up_to, oldest first, and
        the position that acknowledges them: `up_to`, or that of the last message if there are more.
        """
        device = (user_id, device_id)
        if self._newest.get(device, -1) <= after:
            return [], up_to
        after = max(after, self._acknowledged.get(device, -1))
        rows = await self._messages.load(user_id, device_id, after=after, up_to=up_to, limit=limit)
        return [message for _, message in rows], rows[-1][0] if len(rows) >= limit else up_to

    def acknowledge(self, user_id: UserId, device_id: DeviceId, up_to: int) -> None:
        """Notes that the device has everything up to a position."""
        device = (user_id, device_id)
        newest = self._newest.get(device)
        if newest is None or up_to <= self._acknowledged.get(device, -1):
            return
        self._acknowledged[device] = up_to
        self._to_delete.set()

    async def run(self) -> None:
        """Runs under the supervisor until cancelled: deletes acknowledged messages."""
        next_forget_s = 0.0
        while True:
            try:
                await self.delete_acknowledged()
                if self._clock.monotonic_s() >= next_forget_s:
                    await self._forget_transactions()
                    next_forget_s = self._clock.monotonic_s() + limits.TO_DEVICE_FORGET_S
            except DatabaseUnavailable as error:
                log.warning("Delivered messages can't be deleted yet: %s", error)
                self._to_delete.set()
            await self._clock.sleep(limits.TO_DEVICE_DELETE_S)
            await self._to_delete.wait()

    async def delete_acknowledged(self) -> None:
        """Deletes the rows of delivered messages."""
        self._to_delete.clear()
        for device, up_to in list(self._acknowledged.items()):
            await self._messages.delete(*device, up_to)
            self._shares.forget(*device)
            if self._newest.get(device, up_to + 1) <= up_to:
                del self._newest[device]
            if self._acknowledged.get(device) == up_to:
                del self._acknowledged[device]

    async def _forget_transactions(self) -> None:
        before_ms = self._clock.now_ms() - limits.TO_DEVICE_REMEMBERED_MS
        await self._messages.forget_transactions(before_ms=before_ms)

    # Sending

    async def send(
        self,
        sender: UserId,
        device_id: DeviceId,
        *,
        event_type: str,
        transaction_id: str,
        messages: object,
    ) -> None:
        """PUT /sendToDevice; returns after the commit. A repeat does nothing."""
        check_text(event_type, "The event type")
        check_text(transaction_id, "The transaction ID")
        parsed = parse_messages(messages)
        entries: list[Entry] = []
        entries += await self._local(sender, event_type, parsed)
        entries += self._remote(sender, event_type, parsed)
        key = (sender, device_id, event_type, transaction_id)

        async def work(connection: Connection) -> Sequence[Entry]:
            now_ms = self._clock.now_ms()
            return (
                entries if await store.remember_transaction(connection, key, now_ms=now_ms) else []
            )

        await self._committer.submit(Unit(work=work))

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        """Handles an m.direct_to_device EDU, whose sender is a user of `origin`. Returns after the
        commit. Repeats, invalid messages and those beyond the sender's share are ignored.
        Concurrent calls keep their order."""
        try:
            sender = UserId(content["sender"])
            event_type = check_text(content.get("type"), "type")
            message_id = check_text(content.get("message_id"), "message_id")
            parsed = parse_messages(content.get("messages"))
        except MatrixError as error:
            log.info("A message to devices from %s is ignored: %s", origin, error)
            return
        async with self._receiving.setdefault(origin, asyncio.Lock()):
            admitted = await self._shares.admit(await self._local(sender, event_type, parsed))
        # There is no await from here to the queue of the log, so the order is kept.

        async def work(connection: Connection) -> Sequence[Entry]:
            now_ms = self._clock.now_ms()
            is_new = await store.remember_remote(connection, origin, message_id, now_ms=now_ms)
            return admitted.entries if is_new else []

        is_stored = False
        try:
            is_stored = bool((await self._committer.submit(Unit(work=work))).entries)
        finally:
            if not is_stored:
                admitted.release()

    async def _local(
        self, sender: UserId, event_type: str, messages: Sequence[DeviceMessage]
    ) -> list[ToDeviceEntry]:
        entries: list[ToDeviceEntry] = []
        remote_sender = sender if server_of(sender) != self._server_name else _NOBODY
        ours = [one for one in messages if server_of(one.user_id) == self._server_name]
        devices = await self._own_devices({one.user_id for one in ours})
        for one in ours:
            known = frozenset(devices.get(one.user_id, ()))
            targets = known if one.device_id == ALL_DEVICES else known & {one.device_id}
            message = build_message(sender, event_type, one.content)
            entries += [
                ToDeviceEntry(one.user_id, device_id, message, remote_sender)
                for device_id in sorted(targets)
            ]
        return entries

    def _remote(
        self, sender: UserId, event_type: str, messages: Sequence[DeviceMessage]
    ) -> list[Entry]:
        by_server: dict[ServerName, list[DeviceMessage]] = {}
        for one in messages:
            server = server_of(one.user_id)
            if server != self._server_name and is_reachable_name(server):
                by_server.setdefault(server, []).append(one)
        entries: list[Entry] = []
        for server, owed in by_server.items():
            for part in split_for_edus(owed):
                message_id = encode_base64_url(self._random_bytes(18))
                edu = build_edu(sender, event_type, message_id, part)
                entries.append(RemoteEduEntry(server, edu))
        return entries
