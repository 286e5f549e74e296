"""One-time keys and identity keys of local devices: upload, claim, counts.

Rules:
1. Identity keys of a device never change after their first upload; uploading the same keys again is
   not an error.
2. A one-time key under a known ID must be the same key, else nothing of the upload is stored. IDs
   of keys that were handed out stay known while the device lives: a client repeats an upload
   whose answer it didn't get.
3. A signed key is accepted only if its device signed it: for a local key, if the device's keys are
   known, and for a remote one, if its list is stored.
4. A claim deletes the keys that it returns, in one transaction
   (`storage.encryption.one_time_keys`).
5. Counts are cached for each device; every change here drops them, and a read that was in progress
   during a change isn't cached.

Spec: client-server API, "End-to-end encryption".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from federation.bounded_cache import BoundedCache
from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    DeviceId,
    InvalidIdentifier,
    ServerName,
    UserId,
    parse_user_id,
    server_of,
)
from federation.transport.requests.client import FederationError
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, Entry, Unit, UnitLog
from homeserver.errors import invalid_param
from homeserver.rules.encryption.device_keys import (
    SIGNED_CURVE,
    check_text,
    encode_key,
    parse_device_keys,
    parse_one_time_key,
    verify_one_time_key,
    without_signatures,
)
from homeserver.services.encryption.remote_devices import RemoteQueries
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import (
    cross_signing,
    device_lists,
    keys,
    one_time_keys,
)
from homeserver.storage.encryption.one_time_keys import Claim, KeyCounts, UploadedKey
from homeserver.storage.encryption.remote_devices import RemoteDeviceTable, RemoteList

log = logging.getLogger(__name__)


class KeyUpload(msgspec.Struct, frozen=True):
    """The checked content of a device's upload."""

    device_keys: JsonObject | None
    one_time: tuple[UploadedKey, ...]
    fallback: tuple[UploadedKey, ...]


class Keys:
    """Keys of local devices, and claims from other servers."""

    def __init__(
        self,
        *,
        database: Database,
        committer: UnitLog,
        server_name: ServerName,
        remote: RemoteQueries,
    ) -> None:
        self._database, self._committer = database, committer
        self._device_keys = keys.DeviceKeyTable(database)
        self._one_time_keys = one_time_keys.OneTimeKeyTable(database)
        self._remote_devices = RemoteDeviceTable(database)
        self._server_name, self._remote = server_name, remote
        self._counts: BoundedCache[tuple[UserId, DeviceId], KeyCounts] = BoundedCache(
            limits.KEY_COUNTS_CACHED
        )
        self._changes = 0

    async def counts(self, user_id: UserId, device_id: DeviceId) -> KeyCounts:
        """Returns the counts for sync: from memory unless something changed. `signed_curve25519` is
        always present.
        """
        cached = self._counts.get((user_id, device_id))
        if cached is not None:
            return cached
        changes = self._changes
        found = await self._one_time_keys.counts(user_id, device_id)
        loaded = KeyCounts({"signed_curve25519": 0, **found.one_time}, found.unused_fallback)
        if changes == self._changes:
            self._counts.put((user_id, device_id), loaded)
        return loaded

    def forget_counts(self, user_id: UserId, device_id: DeviceId) -> None:
        """Drops the counts of a device whose keys changed, or that was deleted."""
        self._changes += 1
        self._counts.pop((user_id, device_id))

    async def on_devices_deleted(
        self, connection: Connection, user_id: UserId, device_ids: Sequence[DeviceId]
    ) -> Sequence[Entry]:
        """A hook for the unit that deletes devices: deletes all their keys with them."""
        await keys.forget_devices(connection, user_id, device_ids)
        for device_id in device_ids:
            self.forget_counts(user_id, device_id)
        return [DeviceListEntry(user_id)]

    async def upload(
        self, user_id: UserId, device_id: DeviceId, body: JsonObject
    ) -> Mapping[str, int]:
        """POST /keys/upload; returns the counts of one-time keys. 400 for keys that are invalid,
        that change identity keys, or that give a known ID another key."""
        upload = parse_upload(user_id, device_id, body)
        await self.check_signed(user_id, device_id, upload)

        async def work(connection: Connection) -> Sequence[Entry]:
            return await store_upload(connection, user_id, device_id, upload)

        if upload.device_keys or upload.one_time or upload.fallback:
            try:
                await self._run(work, is_logged=upload.device_keys is not None)
            finally:  # also if the outcome is unknown
                self.forget_counts(user_id, device_id)
        return (await self.counts(user_id, device_id)).one_time

    async def check_signed(self, user_id: UserId, device_id: DeviceId, upload: KeyUpload) -> None:
        """Raises 400 M_INVALID_SIGNATURE for a key that the device didn't sign. A device that has
        no keys yet can't have signed any."""
        signed = [
            key for key in (*upload.one_time, *upload.fallback) if key.algorithm == SIGNED_CURVE
        ]
        device = upload.device_keys
        if signed and device is None:
            stored = await self._device_keys.load_keys_of_device(user_id, device_id)
            device = canonical_json.decode(stored) if stored else None
        if not signed or device is None:
            return

        def verify() -> None:
            for key in signed:
                name, value = f"{key.algorithm}:{key.key_id}", canonical_json.decode(key.key)
                verify_one_time_key(name, value, device, user_id=user_id, device_id=device_id)

        await asyncio.to_thread(verify)

    async def _run(self, work: Any, *, is_logged: bool) -> None:
        """Runs a statement outside of the log: one-time keys need no place in a batch."""
        if is_logged:
            await self._committer.submit(Unit(work=work))
            return
        async with self._database.transaction() as connection:
            await work(connection)

    async def claim(self, wanted: JsonObject, *, timeout_s: float) -> JsonObject:
        """POST /keys/claim: `one_time_keys` and `failures`; one request for each other server."""
        claims = parse_claims(wanted)
        own = [claim for claim in claims if server_of(claim.user_id) == self._server_name]
        by_server: dict[ServerName, dict[UserId, dict[DeviceId, str]]] = {}
        for claim in claims:
            if (server := server_of(claim.user_id)) != self._server_name:
                by_user = by_server.setdefault(server, {})
                by_user.setdefault(claim.user_id, {})[claim.device_id] = claim.algorithm
        found, answers = await asyncio.gather(
            self.claim_own(own),
            asyncio.gather(
                *(self._claim_remote(server, ask, timeout_s) for server, ask in by_server.items())
            ),
        )
        failures: JsonObject = {}
        for server, answer in zip(by_server, answers, strict=True):
            if isinstance(answer, MatrixError):
                failures[server] = answer.body()
            else:
                found.update(answer)
        return {"one_time_keys": found, "failures": failures}

    async def claim_own(
        self, claims: Collection[Claim], *, fallback_only: bool = False
    ) -> JsonObject:
        """Returns user ID to device ID to key ID to key, for local devices. `fallback_only`:
        one-time keys stay."""
        if not claims:
            return {}
        try:
            found = await self._one_time_keys.claim(claims, fallback_only=fallback_only)
        finally:
            for claim in claims:
                self.forget_counts(claim.user_id, claim.device_id)
        result: JsonObject = {}
        for claim, key in found.items():
            devices = result.setdefault(claim.user_id, {})
            devices[claim.device_id] = {
                f"{key.algorithm}:{key.key_id}": canonical_json.decode(key.key)
            }
        return result

    async def _claim_remote(
        self, server: ServerName, wanted: dict[UserId, dict[DeviceId, str]], timeout_s: float
    ) -> JsonObject | MatrixError:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._remote.keys_claim(server, wanted)
        except (FederationError, TimeoutError):
            return unreachable(server)
        claimed = answer["one_time_keys"]
        kept = await self._remote_devices.load(list(claimed))
        return {user: _sound_keys(user, of, kept.get(user)) for user, of in claimed.items()}


def unreachable(server: ServerName) -> MatrixError:
    """Returns the entry in `failures` for a server that gave no answer."""
    return MatrixError(503, "M_UNAVAILABLE", f"{server} can't be reached now")


def parse_claims(wanted: object) -> list[Claim]:
    """Returns `one_time_keys` of a claim: user ID to device ID to algorithm."""
    if not isinstance(wanted, dict) or not all(isinstance(d, dict) for d in wanted.values()):
        raise invalid_param("one_time_keys must map users to devices to algorithms")
    if len(wanted) > limits.KEYS_USERS_PER_REQUEST:
        raise invalid_param(f"More than {limits.KEYS_USERS_PER_REQUEST} users in one request")
    return [
        Claim(parse_user(user), DeviceId(_text(device)), _text(algorithm))
        for user, devices in wanted.items()
        for device, algorithm in devices.items()
    ]


def parse_user(text: object) -> UserId:
    """Returns a user ID of a request's body; 400 M_INVALID_PARAM."""
    try:
        return parse_user_id(_text(text))
    except InvalidIdentifier as error:
        raise invalid_param(str(error)) from error


def parse_upload(user_id: UserId, device_id: DeviceId, body: JsonObject) -> KeyUpload:
    """Returns `device_keys`, `one_time_keys` and `fallback_keys` of a body, checked but for the
    signatures on the latter two. Raises MatrixError (400)."""
    device_keys = body.get("device_keys")
    return KeyUpload(
        None
        if not device_keys
        else parse_device_keys(device_keys, user_id=user_id, device_id=device_id),
        _parse_keys(body.get("one_time_keys"), "one_time_keys"),
        _parse_keys(body.get("fallback_keys"), "fallback_keys"),
    )


def _parse_keys(value: object, name: str) -> tuple[UploadedKey, ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise invalid_param(f"{name} must be an object")
    if len(value) > limits.ONE_TIME_KEYS_PER_UPLOAD:
        raise invalid_param(f"{name} has more than {limits.ONE_TIME_KEYS_PER_UPLOAD} keys")
    found = tuple(UploadedKey(*parse_one_time_key(key_id, key)) for key_id, key in value.items())
    if name == "fallback_keys" and len({key.algorithm for key in found}) < len(found):
        raise invalid_param("There can be one fallback key of each algorithm")
    return found


async def store_upload(
    connection: Connection, user_id: UserId, device_id: DeviceId, upload: KeyUpload
) -> Sequence[Entry]:
    """Stores a checked upload within a unit; returns entries for the log. Raises 400 for keys that
    change identity keys, or that give a known ID another key."""
    await one_time_keys.lock(connection, user_id, device_id)
    is_new = upload.device_keys is not None and await _store_identity(
        connection, user_id, device_id, upload.device_keys
    )
    await _store_one_time(connection, user_id, device_id, upload.one_time)
    await one_time_keys.store_fallback(connection, user_id, device_id, upload.fallback)
    return [DeviceListEntry(user_id)] if is_new else []


async def _store_identity(
    connection: Connection, user_id: UserId, device_id: DeviceId, uploaded: JsonObject
) -> bool:
    """Returns True if these are the device's first keys. A device ID that is a cross-signing key of
    the user is refused: signatures on the two could be taken for each other."""
    own = (await cross_signing.load(connection, [user_id])).get(user_id, {})
    if any(key.public_key == device_id for key in own.values()):
        raise invalid_param("The device ID is the ID of a cross-signing key")
    encoded = encode_key(uploaded, "device_keys")
    if await keys.store_device_keys(connection, user_id, device_id, encoded):
        await device_lists.touch(connection, user_id, [device_id])
        return True
    stored = await keys.load_keys_of_device(connection, user_id, device_id)
    assert stored is not None
    before: Any = canonical_json.decode(stored)
    if without_signatures(before) != without_signatures(uploaded):
        raise invalid_param("The keys of a device can't be changed")
    return False


async def _store_one_time(
    connection: Connection,
    user_id: UserId,
    device_id: DeviceId,
    uploaded: Sequence[UploadedKey],
) -> None:
    if not uploaded:
        return
    known = await one_time_keys.load_same(connection, user_id, device_id, uploaded)
    for key in uploaded:
        before = known.get((key.algorithm, key.key_id))
        if before is not None and before != one_time_keys.key_digest(key.key):
            raise invalid_param(
                f"One time key {key.algorithm}:{key.key_id} already exists with another value"
            )
    new = [key for key in uploaded if (key.algorithm, key.key_id) not in known]
    held = await one_time_keys.count(connection, user_id, device_id)
    if held + len(new) > limits.ONE_TIME_KEYS_PER_DEVICE:
        raise invalid_param(f"More than {limits.ONE_TIME_KEYS_PER_DEVICE} one-time keys")
    await one_time_keys.store(connection, user_id, device_id, new)


def _sound_keys(user_id: UserId, devices: object, kept: RemoteList | None) -> JsonObject:
    """Returns the keys of another server that pass our checks; clients would refuse the others
    anyway.
    """
    sound: JsonObject = {}
    for device_id, by_id in devices.items() if isinstance(devices, dict) else ():
        known = kept.devices.get(device_id) if kept else None
        device = canonical_json.decode(known.keys) if known and known.keys else None
        for name, key in by_id.items() if isinstance(by_id, dict) else ():
            try:
                algorithm, _, _ = parse_one_time_key(name, key)
                if algorithm == SIGNED_CURVE and device is not None:
                    verify_one_time_key(name, key, device, user_id=user_id, device_id=device_id)
            except MatrixError as error:
                log.info("A key of %s %s is not sound: %s", user_id, device_id, error)
                continue
            sound.setdefault(device_id, {})[name] = key
    return sound


def _text(value: object) -> str:
    return check_text(value, "An identifier")
