"""Dehydrated devices: a device of each user that receives messages while the user is logged in
nowhere, and whose private keys are kept here, encrypted, for the user's next client (MSC3814).

Rules:
1. It is a device as any other for those who send to it, but has no access token, and doesn't count
   as one of the user's devices. It goes when the user replaces or deletes it, or when the account
   ends: nothing else ends it, since it is there for times when the user has no device.
2. It is made with all its keys in one unit of the log, which also ends the one before. The same
   device again keeps its messages, and which of its one-time keys were handed out: a client repeats
   an upload whose answer it didn't get.
3. A signature by the user's self-signing key comes with the device's keys. It is checked, and kept
   as one of /keys/signatures/upload is.
4. Reading messages deletes none of them: a client that is interrupted, or another one, begins anew.

Proposal: MSC3814, "Dehydrating a device", "Rehydrating a device", "Deleting a dehydrated device".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from federation.ports import Clock
from homeserver.engine.entries import DeviceListEntry, Entry, Unit, UnitLog
from homeserver.errors import bad_json, forbidden, invalid_param, missing_param, not_found
from homeserver.rules.encryption.device_keys import (
    SELF_SIGNING,
    check_text,
    encode_device_data,
    verify_signature,
)
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.logins import NewDevice, begin_device
from homeserver.services.encryption.keys import Keys, KeyUpload, parse_upload, store_upload
from homeserver.storage.accounts import devices
from homeserver.storage.accounts.devices import DehydratedRow, DeviceTable
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import cross_signing, device_lists, keys
from homeserver.storage.encryption.keys import KeySignature
from homeserver.storage.encryption.to_device import ToDeviceTable


class Dehydrated(msgspec.Struct, frozen=True):
    """The checked content of an upload. `signatures`: by any key of the user, key ID to text."""

    device: NewDevice
    device_id: DeviceId
    data: bytes
    keys: KeyUpload
    signatures: JsonObject


class MessagePage(msgspec.Struct, frozen=True):
    """Messages (JSON), oldest first; the position of the last one, and whether there are more."""

    messages: Sequence[bytes]
    position: int
    has_more: bool


class DehydratedDevices:
    """Stores, shows and deletes dehydrated devices."""

    def __init__(
        self,
        database: Database,
        committer: UnitLog,
        *,
        removal: DeviceRemoval,
        keys: Keys,
        clock: Clock,
    ) -> None:
        self._devices, self._messages = DeviceTable(database), ToDeviceTable(database)
        self._committer, self._removal = committer, removal
        self._keys, self._clock = keys, clock

    async def put(self, user_id: UserId, body: JsonObject) -> DeviceId:
        """PUT /dehydrated_device. 400 for keys that are invalid or aren't signed, 403 for the ID of
        a cross-signing key."""
        made = parse_dehydrated(user_id, body)
        device_id = made.device_id
        await self._keys.check_signed(user_id, device_id, made.keys)
        begun: set[DeviceId] = set()

        async def work(connection: Connection) -> Sequence[Entry]:
            former = await devices.load_dehydrated(connection, user_id)
            entries: list[Entry] = []
            if former is not None and former.device_id != device_id:
                begun.add(former.device_id)
                entries += await self._removal.replace(connection, user_id, former.device_id)
                former = None
            await self._store_row(connection, user_id, made)
            if former is None:
                begun.add(device_id)
                entries += await begin_device(connection, user_id, device_id)
            await store_upload(connection, user_id, device_id, made.keys)
            await _store_signatures(connection, user_id, made)
            await device_lists.touch(connection, user_id, [device_id])
            return [*entries, DeviceListEntry(user_id)]

        try:
            await self._committer.submit(Unit(work=work))
        finally:  # also if the outcome is unknown
            self._keys.forget_counts(user_id, device_id)
            for one in begun:
                self._removal.begun(user_id, one)
        return device_id

    async def _store_row(self, connection: Connection, user_id: UserId, made: Dehydrated) -> None:
        is_stored = await devices.dehydrate(
            connection,
            user_id,
            made.device_id,
            display_name=made.device.display_name,
            data=made.data,
            now_ms=self._clock.now_ms(),
        )
        if not is_stored:
            raise invalid_param("The user has another device with this ID")

    async def get(self, user_id: UserId) -> JsonObject:
        """GET /dehydrated_device. Raises 404 M_NOT_FOUND."""
        found = await self._load(user_id)
        return {"device_id": found.device_id, "device_data": orjson.Fragment(found.data)}

    async def delete(self, user_id: UserId) -> DeviceId:
        """DELETE /dehydrated_device; returns its ID. Raises 404 M_NOT_FOUND."""
        found = await self._load(user_id)
        await self._removal.remove(user_id, [found.device_id])
        return found.device_id

    async def messages(
        self, user_id: UserId, device_id: DeviceId, *, after: int, limit: int
    ) -> MessagePage:
        """Returns the messages behind a position. 403 M_FORBIDDEN unless it is the user's
        dehydrated device."""
        found = await self._devices.load_dehydrated(user_id)
        if found is None or found.device_id != device_id:
            raise forbidden("This isn't the dehydrated device")
        rows = await self._messages.load(
            user_id, device_id, after=after, up_to=self._committer.position, limit=limit + 1
        )
        page = rows[:limit]
        position = page[-1][0] if page else after
        return MessagePage([message for _, message in page], position, len(rows) > limit)

    async def _load(self, user_id: UserId) -> DehydratedRow:
        found = await self._devices.load_dehydrated(user_id)
        if found is None:
            raise not_found("There is no dehydrated device")
        return found


def parse_dehydrated(user_id: UserId, body: JsonObject) -> Dehydrated:
    """Returns the body of PUT /dehydrated_device, checked but for what needs the database."""
    for name in ("device_id", "device_data", "device_keys"):
        if not body.get(name):
            raise missing_param(f"Missing field: {name}")
    device_id = DeviceId(check_text(body["device_id"], "device_id"))
    display_name = body.get("initial_device_display_name")
    if not isinstance(display_name, str | None):
        raise bad_json("initial_device_display_name must be a string")
    device = NewDevice(device_id, display_name, "")
    device.check()
    upload = parse_upload(user_id, device_id, body)
    signatures = body["device_keys"]["signatures"][user_id]
    data = encode_device_data(body["device_data"])
    return Dehydrated(device, device_id, data, upload, signatures)


async def _store_signatures(connection: Connection, user_id: UserId, made: Dehydrated) -> None:
    """Keeps the signature by the self-signing key; 400 M_INVALID_SIGNATURE for a wrong one."""
    own = (await cross_signing.load(connection, [user_id])).get(user_id, {})
    signer = own.get(SELF_SIGNING)
    key_id = None if signer is None else f"ed25519:{signer.public_key}"
    if signer is None or key_id not in made.signatures:
        return
    signature = made.signatures[key_id]
    signed: JsonObject = {
        **(made.keys.device_keys or {}),
        "signatures": {user_id: {key_id: signature}},
    }
    verify_signature(signed, user_id, key_id, signer.public_key)
    one = KeySignature(user_id, made.device_id, user_id, key_id, signature)
    await keys.store_signatures(connection, [one])
