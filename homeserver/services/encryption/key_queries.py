"""Identity keys of local and remote users, and the parts of them that each viewer may see.

Rules:
1. On a device's keys, every viewer sees the signatures of its own user. On a master key, a viewer
   sees those of its user and the viewer's own. A user-signing key is shown only to its own user.
2. A remote list that is stored and up to date is the answer. One that could be stored (a room is
   shared) is fetched whole and stored; for other users the query is forwarded.
3. A server that can't be reached, or that is backed off from, is named in `failures`, and is asked
   again later; an outdated list is better than none, so it is in the answer as well.

Spec: client-server API, "/keys/query"; "Key and signature security".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, ServerName, UserId, server_of
from federation.ports import UserDevices
from federation.transport.requests.client import FederationError
from homeserver import limits
from homeserver.errors import bad_json, invalid_param
from homeserver.rules.encryption.device_keys import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    merge_signatures,
)
from homeserver.services.accounts.own_devices import OwnDevices
from homeserver.services.encryption.device_lists import (
    merge_device_keys,
    merge_signing_keys,
)
from homeserver.services.encryption.keys import parse_user, unreachable
from homeserver.services.encryption.remote_devices import RemoteDevices, RemoteQueries, parse_list
from homeserver.storage.database import Database
from homeserver.storage.encryption.keys import DeviceKeyTable
from homeserver.storage.encryption.remote_devices import RemoteList

Wanted = Mapping[UserId, Sequence[DeviceId]]


class _Found(msgspec.Struct):
    """An answer in the making."""

    device_keys: JsonObject = {}
    master_keys: JsonObject = {}
    self_signing_keys: JsonObject = {}
    user_signing_keys: JsonObject = {}
    failures: JsonObject = {}

    def to_json(self) -> JsonObject:
        """Returns the body of the answer."""
        return msgspec.structs.asdict(self)


class KeyQueries:
    """Answers /keys/query of clients and of other servers."""

    def __init__(
        self,
        *,
        database: Database,
        server_name: ServerName,
        own_devices: OwnDevices,
        remote_devices: RemoteDevices,
        remote: RemoteQueries,
    ) -> None:
        self._keys, self._server_name = DeviceKeyTable(database), server_name
        self._own_devices = own_devices
        self._remote_devices, self._remote = remote_devices, remote

    async def query(self, viewer: UserId, device_keys: object, *, timeout_s: float) -> JsonObject:
        """POST /keys/query for a local user."""
        wanted = parse_wanted(device_keys)
        found = _Found()
        own = {u: d for u, d in wanted.items() if server_of(u) == self._server_name}
        await self._add_own(found, own, viewer=viewer)
        remote = {u: d for u, d in wanted.items() if server_of(u) != self._server_name}
        if remote:
            await self._add_remote(found, remote, timeout_s)
            await self._add_own_signatures(found, list(remote), viewer)
        return found.to_json()

    async def query_for_server(self, wanted: Wanted) -> JsonObject:
        """Returns the answer of /user/keys/query: local users that the asking server may see."""
        found = _Found()
        await self._add_own(found, wanted, viewer=None)
        answer = found.to_json()
        return {name: answer[name] for name in ("device_keys", "master_keys", "self_signing_keys")}

    async def devices_for_server(self, user_id: UserId) -> UserDevices:
        """Returns the answer of /user/devices: devices with keys, without their names."""
        stream_id, stored = await self._keys.load_list(user_id)
        devices = merge_device_keys(stored).get(user_id, {})
        signing = merge_signing_keys(stored).get(user_id, {})
        return UserDevices(
            user_id,
            stream_id,
            [{"device_id": device_id, "keys": one} for device_id, one in devices.items()],
            signing.get(MASTER),
            signing.get(SELF_SIGNING),
        )

    async def _add_own(self, found: _Found, wanted: Wanted, *, viewer: UserId | None) -> None:
        """Adds local users. Names of devices are shown to local users only."""
        stored = await self._keys.load_keys(wanted, viewer=viewer)
        devices, signing = merge_device_keys(stored), merge_signing_keys(stored)
        named = await self._own_devices(list(devices)) if viewer is not None else {}
        for user_id, device_ids in wanted.items():
            listed = devices.get(user_id, {})
            names = named.get(user_id, {})
            found.device_keys[user_id] = {
                device_id: _with_name(one, names.get(device_id))
                for device_id, one in listed.items()
                if not device_ids or device_id in device_ids
            }
            _add_signing_keys(found, user_id, signing.get(user_id, {}), viewer)

    async def _add_remote(self, found: _Found, wanted: Wanted, timeout_s: float) -> None:
        kept, stale = await self._remote_devices.load(wanted)
        to_fetch, to_ask = list[UserId](), dict[ServerName, dict[UserId, Sequence[DeviceId]]]()
        for user_id, device_ids in wanted.items():
            if user_id in kept:
                _add_list(found, user_id, device_ids, kept[user_id])
                if user_id not in stale:
                    continue
            if await self._remote_devices.is_tracked(user_id):
                to_fetch.append(user_id)
            else:
                to_ask.setdefault(server_of(user_id), {})[user_id] = device_ids
        gate = asyncio.Semaphore(limits.RESYNC_AT_ONCE)
        await asyncio.gather(
            *(self._fetch(found, user, wanted[user], timeout_s, gate) for user in to_fetch),
            *(self._ask(found, server, users, timeout_s) for server, users in to_ask.items()),
        )

    async def _fetch(
        self,
        found: _Found,
        user_id: UserId,
        device_ids: Sequence[DeviceId],
        timeout_s: float,
        gate: asyncio.Semaphore,
    ) -> None:
        server = server_of(user_id)
        try:
            async with asyncio.timeout(timeout_s), gate:
                if server in found.failures:  # another user's query has waited already
                    await self._remote_devices.mark_due([user_id])
                    return
                fetched = await self._remote_devices.fetch(user_id)
        except FederationError as error:
            if error.status != 404:  # 404: the server is reachable, but doesn't know the user.
                found.failures[server] = unreachable(server).body()
                await self._remote_devices.mark_due([user_id])
        except TimeoutError:
            found.failures[server] = unreachable(server).body()
            await self._remote_devices.mark_due([user_id])
        else:
            _add_list(found, user_id, device_ids, fetched)

    async def _ask(
        self, found: _Found, server: ServerName, wanted: Wanted, timeout_s: float
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._remote.keys_query(server, wanted)
        except (FederationError, TimeoutError):
            found.failures[server] = unreachable(server).body()
            return
        for user_id, device_ids in wanted.items():
            devices = answer["device_keys"].get(user_id)
            if devices is None:
                continue
            given = [{"device_id": device_id, "keys": one} for device_id, one in devices.items()]
            master = answer["master_keys"].get(user_id)
            signing = answer["self_signing_keys"].get(user_id)
            parsed = parse_list(UserDevices(user_id, 0, given, master, signing))
            _add_list(found, user_id, device_ids, parsed)

    async def _add_own_signatures(
        self, found: _Found, user_ids: Sequence[UserId], viewer: UserId
    ) -> None:
        """Adds the viewer's signatures on remote users' master keys (rule 1)."""
        for one in await self._keys.load_signatures(user_ids, viewer=viewer):
            master = found.master_keys.get(one.user_id)
            if master is not None and one.target in master["keys"].values():
                added: dict[str, dict[str, str]] = {one.signer: {one.key_id: one.signature}}
                found.master_keys[one.user_id] = merge_signatures(master, added)


def parse_wanted(value: object) -> dict[UserId, list[DeviceId]]:
    """Returns `device_keys` of a query: user ID to a list of device IDs, empty for all."""
    if not isinstance(value, dict):
        raise bad_json("device_keys must be an object")
    if len(value) > limits.KEYS_USERS_PER_REQUEST:
        raise invalid_param(f"More than {limits.KEYS_USERS_PER_REQUEST} users in one request")
    wanted = {}
    for user, devices in value.items():
        if not isinstance(devices, list) or not all(isinstance(one, str) for one in devices):
            raise bad_json("device_keys must map users to lists of devices")
        wanted[parse_user(user)] = [DeviceId(one) for one in devices]
    return wanted


def _add_signing_keys(
    found: _Found, user_id: UserId, signing: Mapping[str, JsonObject], viewer: UserId | None
) -> None:
    if MASTER in signing:
        found.master_keys[user_id] = signing[MASTER]
    if SELF_SIGNING in signing:
        found.self_signing_keys[user_id] = signing[SELF_SIGNING]
    if USER_SIGNING in signing and viewer == user_id:
        found.user_signing_keys[user_id] = signing[USER_SIGNING]


def _add_list(
    found: _Found, user_id: UserId, device_ids: Sequence[DeviceId], kept: RemoteList
) -> None:
    found.device_keys[user_id] = {
        device.device_id: _with_name(_json(device.keys), device.display_name)
        for device in kept.devices.values()
        if device.keys is not None and (not device_ids or device.device_id in device_ids)
    }
    if kept.master_key is not None:
        found.master_keys[user_id] = _json(kept.master_key)
    if kept.self_signing_key is not None:
        found.self_signing_keys[user_id] = _json(kept.self_signing_key)


def _with_name(device_keys: JsonObject, name: str | None) -> JsonObject:
    unsigned = {} if name is None else {"device_display_name": name}
    return {**device_keys, "unsigned": unsigned}


def _json(encoded: bytes) -> JsonObject:
    value = canonical_json.decode(encoded)
    assert isinstance(value, dict)
    return value
