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

from collections.abc import Sequence

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.rules.encryption.device_keys import MASTER, SELF_SIGNING
from homeserver.services.encryption.device_lists import load_device_keys, load_signing_keys
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import device_lists

_WHOLE_LISTS_FROM = device_lists.IDS_PER_MS // 2  # apart from the IDs of changes


class StoredListEdus:
    """`engine.followers.outbound_feed.DeviceListEdus` over the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changes(self, positions: Sequence[int]) -> list[JsonObject]:
        """Returns the EDUs of changes of device lists, by their positions."""
        edus: list[JsonObject] = []
        if positions:
            async with self._database.connection() as connection:
                for position in positions:
                    edus += await build_device_list_updates(connection, position)
        return edus

    async def whole_lists(self, users: Sequence[UserId]) -> list[JsonObject]:
        """Returns the EDUs of all devices of users."""
        edus: list[JsonObject] = []
        if users:
            async with self._database.connection() as connection:
                for user_id in users:
                    edus += await build_whole_list(connection, user_id)
        return edus


async def build_device_list_updates(connection: Connection, position: int) -> list[JsonObject]:
    """Returns the EDUs (whole, with `edu_type`) for a change of a local user at a log position: one
    m.device_list_update for each device, and an m.signing_key_update. Empty for a change that
    concerns only local clients."""
    change = await device_lists.load_change(connection, position)
    if change is None:
        return []
    before: list[int] = []
    if change.previous is not None:
        earlier = await device_lists.load_change(connection, change.previous)
        before = [] if earlier is None else [earlier.stream_id]
    edus = []
    devices = list(enumerate(change.devices, change.stream_id - len(change.devices) + 1))
    if len(devices) >= limits.EDUS_PER_LIST:
        # Too many for one transaction: only the last is sent, after one that no server received.
        # The gap makes other servers fetch the whole list.
        devices = devices[-1:]
        before = [change.stream_id - 1]
    for stream_id, device_id in devices:
        edus.append(
            await build_device_list_update(
                connection, change.user_id, device_id, stream_id=stream_id, prev_ids=before
            )
        )
        before = [stream_id]
    if change.cross_signing:
        edus.append(await build_signing_key_update(connection, change.user_id))
    return edus


async def build_whole_list(connection: Connection, user_id: UserId) -> list[JsonObject]:
    """Returns the EDUs that begin a sequence for a server that has received none before: one
    m.device_list_update for each device with keys, and an m.signing_key_update."""
    devices = list((await load_device_keys(connection, [user_id])).get(user_id, {}))
    if len(devices) >= limits.EDUS_PER_LIST:
        # Too many for one transaction: the start of a sequence makes other servers fetch the whole
        # list.
        devices = devices[-1:]
    edus, before = [], list[int]()
    first_id = await device_lists.stream_id_now(connection) + _WHOLE_LISTS_FROM
    for stream_id, device_id in enumerate(devices, first_id):
        edus.append(
            await build_device_list_update(
                connection, user_id, device_id, stream_id=stream_id, prev_ids=before
            )
        )
        before = [stream_id]
    if (await load_signing_keys(connection, [user_id])).get(user_id):
        edus.append(await build_signing_key_update(connection, user_id))
    return edus


async def build_device_list_update(
    connection: Connection,
    user_id: UserId,
    device_id: DeviceId,
    *,
    stream_id: int,
    prev_ids: Sequence[int],
) -> JsonObject:
    """Returns one m.device_list_update EDU. A device without keys can't take part in encryption:
    for other servers it is deleted."""
    stored = (await load_device_keys(connection, [user_id])).get(user_id, {}).get(device_id)
    content: JsonObject = {
        "user_id": user_id,
        "device_id": device_id,
        "stream_id": stream_id,
        "prev_id": list(prev_ids),
    }
    if stored is None:
        content["deleted"] = True
    else:
        content["keys"] = stored
    return {"edu_type": event_types.DEVICE_LIST_UPDATE, "content": content}


async def build_signing_key_update(connection: Connection, user_id: UserId) -> JsonObject:
    """Returns one m.signing_key_update EDU with the user's current keys."""
    content: JsonObject = {"user_id": user_id}
    found = (await load_signing_keys(connection, [user_id])).get(user_id, {})
    for usage in (MASTER, SELF_SIGNING):
        if usage in found:
            content[f"{usage}_key"] = found[usage]
    return {"edu_type": event_types.SIGNING_KEY_UPDATE, "content": content}
