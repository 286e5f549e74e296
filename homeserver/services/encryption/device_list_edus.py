"""The EDUs that tell other servers of the devices and cross-signing keys of local users.

Rules:
1. They are made from the current database: an update that is sent twice or late has the values of
   that moment.
2. A change of several devices uses one stream ID for each, of which it stores the last.
3. A server that has received no updates of a user gets the whole list, as the first of a sequence
   (no `prev_id`).
4. Names of devices don't leave the server: others need keys, not "Alice's phone".

Spec: server-server API, "Device Management".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.rules.encryption.device_keys import MASTER, SELF_SIGNING
from homeserver.services.encryption.device_lists import merge_device_keys, merge_signing_keys
from homeserver.storage.database import Database
from homeserver.storage.encryption.device_lists import (
    IDS_PER_MS,
    DeviceListChange,
    DeviceListTable,
)
from homeserver.storage.encryption.keys import DeviceKeyTable

_WHOLE_LISTS_FROM = IDS_PER_MS // 2  # apart from the IDs of changes


class StoredListEdus:
    """`engine.followers.outbound_feed.DeviceListEdus` over the database."""

    def __init__(self, database: Database) -> None:
        self._lists, self._keys = DeviceListTable(database), DeviceKeyTable(database)

    async def changes(self, positions: Sequence[int]) -> list[JsonObject]:
        """Returns the EDUs of changes of device lists, by their positions."""
        changes = await self._lists.load_changes(positions) if positions else []
        keys = await self._load({change.user_id for change in changes})
        return [
            edu
            for change in changes
            for edu in _build_updates(change, keys.get(change.user_id, _NO_KEYS))
        ]

    async def whole_lists(self, users: Sequence[UserId]) -> list[JsonObject]:
        """Returns the EDUs of all devices of users."""
        keys = await self._load(set(users))
        if not keys:
            return []
        first_id = await self._lists.stream_id_now() + _WHOLE_LISTS_FROM
        return [
            edu
            for user_id in users
            if user_id in keys
            for edu in _build_whole_list(user_id, keys[user_id], first_id)
        ]

    async def _load(self, users: Set[UserId]) -> Mapping[UserId, _PublicKeys]:
        """Returns the keys of users as other servers may see them; users without keys are left
        out."""
        if not users:
            return {}
        stored = await self._keys.load_keys(users)
        devices, signing = merge_device_keys(stored), merge_signing_keys(stored)
        return {
            user_id: _PublicKeys(devices.get(user_id, {}), signing.get(user_id, {}))
            for user_id in users
            if user_id in devices or user_id in signing
        }


class _PublicKeys(NamedTuple):
    """A user's keys: those of devices, and those for cross-signing by usage."""

    devices: Mapping[DeviceId, JsonObject]
    signing: Mapping[str, JsonObject]


_NO_KEYS = _PublicKeys({}, {})


def _build_updates(change: DeviceListChange, keys: _PublicKeys) -> list[JsonObject]:
    """Returns the EDUs (whole, with `edu_type`) for a change of a local user: one
    m.device_list_update for each device, and an m.signing_key_update. Empty for a change that
    concerns only local clients."""
    before = [] if change.previous_id is None else [change.previous_id]
    devices = list(enumerate(change.devices, change.stream_id - len(change.devices) + 1))
    if len(devices) >= limits.EDUS_PER_LIST:
        # Too many for one transaction: only the last is sent, after one that no server received.
        # The gap makes other servers fetch the whole list.
        devices = devices[-1:]
        before = [change.stream_id - 1]
    edus = []
    for stream_id, device_id in devices:
        edus.append(_build_update(change.user_id, device_id, keys, stream_id, before))
        before = [stream_id]
    if change.cross_signing:
        edus.append(_build_signing_update(change.user_id, keys))
    return edus


def _build_whole_list(user_id: UserId, keys: _PublicKeys, first_id: int) -> list[JsonObject]:
    """Returns the EDUs that begin a sequence for a server that has received none before: one
    m.device_list_update for each device with keys, and an m.signing_key_update."""
    devices = list(keys.devices)
    if len(devices) >= limits.EDUS_PER_LIST:
        # Too many for one transaction: the start of a sequence makes other servers fetch the whole
        # list.
        devices = devices[-1:]
    edus, before = [], list[int]()
    for stream_id, device_id in enumerate(devices, first_id):
        edus.append(_build_update(user_id, device_id, keys, stream_id, before))
        before = [stream_id]
    if keys.signing:
        edus.append(_build_signing_update(user_id, keys))
    return edus


def _build_update(
    user_id: UserId,
    device_id: DeviceId,
    keys: _PublicKeys,
    stream_id: int,
    prev_ids: Sequence[int],
) -> JsonObject:
    """Returns one m.device_list_update EDU. A device without keys can't take part in encryption:
    for other servers it is deleted."""
    content: JsonObject = {
        "user_id": user_id,
        "device_id": device_id,
        "stream_id": stream_id,
        "prev_id": list(prev_ids),
    }
    if device_id in keys.devices:
        content["keys"] = keys.devices[device_id]
    else:
        content["deleted"] = True
    return {"edu_type": event_types.DEVICE_LIST_UPDATE, "content": content}


def _build_signing_update(user_id: UserId, keys: _PublicKeys) -> JsonObject:
    """Returns one m.signing_key_update EDU with the user's current keys."""
    content: JsonObject = {"user_id": user_id}
    for usage in (MASTER, SELF_SIGNING):
        if usage in keys.signing:
            content[f"{usage}_key"] = keys.signing[usage]
    return {"edu_type": event_types.SIGNING_KEY_UPDATE, "content": content}
