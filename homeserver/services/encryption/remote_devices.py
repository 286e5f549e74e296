"""Device lists of remote users: stored from the first query on, kept current by updates, and
fetched again after a gap.

Rules:
1. A list is stored only while its user shares a room with a local user, since only then the other
   server sends updates. `run` drops the other lists, also at a start.
2. An update that refers to an unknown one shows a gap: the list must be fetched again. The task is
   a row in the database until it succeeds, retried with growing waits.
3. If an update comes while its list is being fetched, the fetch is repeated, since the newer of the
   two is unknown.
4. Keys are checked before they are stored (`rules.encryption.device_keys`); a device with invalid
   keys is stored without keys.
5. Each change is committed together with its DeviceListEntry.

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from federation.errors import MatrixError
from federation.events import canonical_json, event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, ServerName, UserId
from federation.ports import Clock, UserDevices
from federation.retries import DoublingWaits
from federation.transport.requests.client import FederationError
from federation.transport.wakeup import Wakeup
from homeserver import limits
from homeserver.engine.entries import (
    DeviceListEntry,
    Entry,
    EventEntry,
    Placed,
    StateEntry,
    Unit,
    UnitLog,
)
from homeserver.rules.encryption.device_keys import (
    MASTER,
    SELF_SIGNING,
    check_text,
    encode_key,
    parse_cross_signing_key,
    parse_device_keys,
    public_key_of,
    verify_by_master,
)
from homeserver.services.rooms.room_access import MemberRooms, SharedRooms
from homeserver.storage.database import Connection, Database, DatabaseUnavailable
from homeserver.storage.encryption import remote_devices as store
from homeserver.storage.encryption.remote_devices import RemoteDevice, RemoteList, Resync

log = logging.getLogger(__name__)


class RemoteQueries(Protocol):
    """Queries to other servers; each raises FederationError. Answers contain only the queried
    users; the keys in them are not checked (`federation.transport.requests.queries.Queries`).

    A Protocol: tests of encryption have another server with scripted answers.
    """

    async def devices(self, user_id: UserId) -> UserDevices: ...

    async def keys_query(
        self, server: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject: ...

    async def keys_claim(
        self, server: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject: ...


class RemoteDevices:
    """The stored lists, and the work that keeps them current."""

    def __init__(
        self,
        *,
        database: Database,
        committer: UnitLog,
        rooms: MemberRooms,
        shared: SharedRooms,
        remote: RemoteQueries,
        clock: Clock,
    ) -> None:
        self._lists, self._committer = store.RemoteDeviceTable(database), committer
        self._rooms, self._shared = rooms, shared
        self._remote, self._clock = remote, clock
        self._fetching: dict[UserId, int] = {}
        self._updated_meanwhile: set[UserId] = set()
        self._departed: set[UserId] = set()
        self._check_all = True
        self._wakeup = Wakeup(clock)

    # Reading

    async def load(
        self, user_ids: Collection[UserId]
    ) -> tuple[dict[UserId, RemoteList], set[UserId]]:
        """Returns the stored lists of these users, and the users whose list is known to be
        outdated.
        """
        return await self._lists.load_with_pending(user_ids)

    async def is_tracked(self, user_id: UserId) -> bool:
        """Returns whether the user shares a room with a local user, so that we receive changes."""
        for room_id in await self._shared.rooms_of(user_id):
            room = await self._rooms.get(room_id)
            if room is not None and room.joined_local:
                return True
        return False

    async def _is_of_use(self, user_id: UserId) -> bool:
        """Returns whether an update of the user's list may matter to a local user. The update that
        comes with a join comes before it, so a list that wasn't dropped yet is still updated."""
        if user_id in self._fetching or await self.is_tracked(user_id):
            return True
        return await self._lists.is_kept(user_id)

    async def fetch(self, user_id: UserId) -> RemoteList:
        """Fetches a list and stores it. Raises FederationError."""
        self._fetching[user_id] = self._fetching.get(user_id, 0) + 1
        try:
            answer = await self._remote.devices(user_id)
            fetched = parse_list(answer)
            await self._keep(user_id, answer.stream_id, fetched)
            return fetched
        finally:
            self._fetching[user_id] -= 1
            if not self._fetching[user_id]:
                del self._fetching[user_id]
                self._updated_meanwhile.discard(user_id)

    async def mark_due(self, user_ids: Collection[UserId]) -> None:
        """Schedules a fetch of lists that couldn't be fetched when a client asked; the client is
        told of a change afterwards."""
        retry_at_ms = self._clock.now_ms() + limits.RESYNC_RETRY_MS_MIN
        await self._lists.mark_resyncs(user_ids, retry_at_ms=retry_at_ms)
        self._wakeup.set()

    async def _keep(self, user_id: UserId, stream_id: int, fetched: RemoteList) -> None:
        async def work(connection: Connection) -> Sequence[Entry]:
            before = (await store.load(connection, [user_id])).get(user_id)
            was_due = bool(await store.pending_resyncs(connection, [user_id]))
            await store.replace(connection, user_id, stream_id, fetched)
            await store.finish_resync(connection, user_id)
            if user_id in self._updated_meanwhile:  # rule 3
                now_ms = self._clock.now_ms()
                await store.mark_resyncs(connection, [user_id], retry_at_ms=now_ms)
                self._wakeup.set()
            # A client that queried without success must query again.
            is_news = was_due if before is None else before != fetched
            return [DeviceListEntry(user_id)] if is_news else []

        await self._committer.submit(Unit(work=work))

    # Updates from other servers

    async def update(self, content: JsonObject) -> None:
        """Handles an m.device_list_update of a user of the server that sent it. Ignores invalid
        updates."""
        user_id = UserId(content["user_id"])
        stream_id = int(content["stream_id"])
        before = [int(one) for one in content.get("prev_id", [])]
        device = parse_update(content)
        if not -(2**63) <= stream_id < 2**63 or not await self._is_of_use(user_id):
            return
        if user_id in self._fetching:
            self._updated_meanwhile.add(user_id)

        async def work(connection: Connection) -> Sequence[Entry]:
            seen = await store.seen(connection, user_id)
            if seen is not None and stream_id in seen:
                return []  # a repeat
            if seen is not None:
                await store.apply_update(connection, user_id, stream_id, device)
                count = await store.count_devices(connection, user_id)
                if not before or not set(before) <= set(seen):
                    now_ms = self._clock.now_ms()
                    await store.mark_resyncs(connection, [user_id], retry_at_ms=now_ms)
                elif count > limits.REMOTE_DEVICES_PER_USER:
                    await store.forget(connection, [user_id])
            return [DeviceListEntry(user_id)]

        await self._committer.submit(Unit(work=work))
        self._wakeup.set()

    async def update_signing_keys(self, content: JsonObject) -> None:
        """Handles an m.signing_key_update: new cross-signing keys. Invalid keys are ignored."""
        user_id = UserId(content["user_id"])
        if not await self._is_of_use(user_id):
            return

        async def work(connection: Connection) -> Sequence[Entry]:
            kept = (await store.load(connection, [user_id])).get(user_id)
            given, given_signing = content.get("master_key"), content.get("self_signing_key")
            if kept is not None:
                old: JsonObject | None = (
                    canonical_json.decode(kept.master_key) if kept.master_key else None
                )
                master, self_signing = parse_signing_keys(user_id, given or old, given_signing)
                await store.set_cross_signing(
                    connection,
                    user_id,
                    master_key=master if given else None,
                    self_signing_key=self_signing,
                )
            return [DeviceListEntry(user_id)]

        await self._committer.submit(Unit(work=work))

    # Background work

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log: notes users who left a room, for `run`."""
        for placed in batch:
            entry = placed.entry
            if not isinstance(entry, EventEntry | StateEntry):
                continue
            for change in entry.changes:
                if change.key[0] == event_types.MEMBER and change.membership != "join":
                    self._departed.add(UserId(change.key[1]))
                    self._wakeup.set()

    async def run(self) -> None:
        """Runs under the supervisor until cancelled: fetches due lists and drops those that are no
        longer kept.
        """
        while True:
            try:
                wait_s = await self.work_once()
            except DatabaseUnavailable as error:
                log.warning("Device lists wait for the database: %s", error)
                wait_s = limits.RESYNC_RETRY_MS_MIN / 1000
            await self._wakeup.wait(wait_s)

    async def work_once(self) -> float:
        """Does all due work; returns the seconds until more is due."""
        await self._drop_untracked()
        while True:
            now_ms = self._clock.now_ms()
            due, next_ms = await self._lists.due_resyncs(now_ms=now_ms, limit=limits.RESYNC_AT_ONCE)
            if not due:
                wait_ms = limits.RESYNC_RETRY_MS_MAX if next_ms is None else next_ms - now_ms
                return max(wait_ms, 0) / 1000
            async with asyncio.TaskGroup() as group:
                for resync in due:
                    group.create_task(self._resync(resync))

    async def _resync(self, resync: Resync) -> None:
        user_id = resync.user_id
        if not await self.is_tracked(user_id):
            await self._lists.forget([user_id])
            return
        try:
            await self.fetch(user_id)
        except (FederationError, MatrixError) as error:
            if isinstance(error, FederationError) and error.status == 404:
                await self._lists.forget([user_id])  # the user no longer exists
                return
            log.info("The device list of %s can't be fetched yet: %s", user_id, error)
            waits = DoublingWaits(limits.RESYNC_RETRY_MS_MIN, limits.RESYNC_RETRY_MS_MAX)
            wait_ms = int(waits.after(resync.attempts + 1))
            await self._lists.postpone_resync(
                user_id,
                attempts=resync.attempts + 1,
                retry_at_ms=self._clock.now_ms() + wait_ms,
            )

    async def _drop_untracked(self) -> None:
        """Applies rule 1. After a local user left, any remote user may be the one that no longer
        shares a room, so all stored lists are checked."""
        departed, self._departed = self._departed, set()
        check_all, self._check_all = self._check_all, False
        try:
            kept = await self._lists.load_kept()
            if not check_all and departed <= kept:
                kept &= departed
            gone = [user_id for user_id in sorted(kept) if not await self.is_tracked(user_id)]
            if gone:
                await self._lists.forget(gone)
        except BaseException:
            self._departed |= departed
            self._check_all = self._check_all or check_all
            raise


def parse_list(answer: UserDevices) -> RemoteList:
    """Returns the valid part of another server's list."""
    devices: dict[DeviceId, RemoteDevice] = {}
    for one in answer.devices[: limits.REMOTE_DEVICES_PER_USER]:
        device = parse_update({**one, "user_id": answer.user_id})
        if isinstance(device, RemoteDevice):
            devices[device.device_id] = device
    master, self_signing = parse_signing_keys(
        answer.user_id, answer.master_key, answer.self_signing_key
    )
    return RemoteList(devices, master, self_signing)


def parse_update(content: JsonObject) -> RemoteDevice | DeviceId:
    """Returns a device from an update or a list: only the ID if it was deleted, or if no device can
    have that ID here."""
    device_id = DeviceId(content["device_id"])
    name = content.get("device_display_name")
    try:
        check_text(device_id, "device_id")
        if content.get("deleted") is True:
            return device_id
        keys = parse_remote_keys(content.get("keys"), str(content["user_id"]), device_id)
    except MatrixError:
        return DeviceId(device_id.replace("\0", "")[: limits.IDENTIFIER_BYTES])
    return RemoteDevice(device_id, keys, _display_name(name))


def parse_remote_keys(value: object, user_id: str, device_id: str) -> bytes | None:
    """Returns a remote device's keys as JSON: with the signatures of its user (cross-signing), or
    None if there are no valid ones."""
    if not isinstance(value, dict) or not value:
        return None
    try:
        keys = parse_device_keys(value, user_id=user_id, device_id=device_id)
        signatures = value["signatures"][user_id]
        kept = {name: text for name, text in signatures.items() if isinstance(text, str)}
        return encode_key({**keys, "signatures": {user_id: kept}}, "keys")
    except MatrixError as error:
        log.info("Keys of %s %s are not sound: %s", user_id, device_id, error)
        return None


def parse_signing_keys(
    user_id: UserId, master: JsonObject | None, self_signing: JsonObject | None
) -> tuple[bytes | None, bytes | None]:
    """Returns the valid cross-signing keys of a remote user as JSON; a self-signing key counts only
    with the master key that signed it."""
    try:
        if master is None:
            return None, None
        key = parse_cross_signing_key(master, user_id=user_id, usage=MASTER)
        encoded = encode_key(key, "master key")
    except MatrixError as error:
        log.info("The master key of %s is not sound: %s", user_id, error)
        return None, None
    try:
        if self_signing is None:
            return encoded, None
        signing = parse_cross_signing_key(self_signing, user_id=user_id, usage=SELF_SIGNING)
        verify_by_master(signing, user_id=user_id, master_public_key=public_key_of(key))
        return encoded, encode_key(signing, "self-signing key")
    except MatrixError as error:
        log.info("The self-signing key of %s is not sound: %s", user_id, error)
        return encoded, None


def _display_name(name: object) -> str | None:
    if not isinstance(name, str) or "\0" in name:
        return None
    return name.encode(errors="replace")[: limits.DEVICE_NAME_REMOTE_BYTES].decode(errors="ignore")
