"""Cross-signing keys of local users, and signatures on keys.

Rules:
1. The first upload needs no authentication; later changes need user-interactive authentication,
   which the caller does if `needs_authentication` says so; the same keys again need none (spec
   v1.11).
2. Self-signing and user-signing keys are signed by the master key that holds after the upload. A
   new master key drops the keys that the old one signed, unless they come with it.
3. A signature is kept only if it verifies: on an own device by the own self-signing key, on the own
   master key by an own device, on another's master key by the own user-signing key.
4. Each change that other users may see is committed with its DeviceListEntry.

Spec: client-server API, "Cross-signing".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.errors import MatrixError
from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, UserId
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, Entry, Unit, UnitLog
from homeserver.errors import (
    bad_json,
    forbidden,
    invalid_param,
    missing_param,
    not_found,
)
from homeserver.rules.encryption.device_keys import (
    MASTER,
    SELF_SIGNING,
    USER_SIGNING,
    check_signatures,
    check_text,
    encode_key,
    invalid_signature,
    parse_cross_signing_key,
    public_key_of,
    verify_by_master,
    verify_signature,
    without_signatures,
)
from homeserver.services.encryption.keys import parse_user
from homeserver.storage.database import Connection, Database
from homeserver.storage.encryption import cross_signing, device_lists, keys, remote_devices
from homeserver.storage.encryption.cross_signing import CrossSigningKey
from homeserver.storage.encryption.keys import KeySignature

_USAGES = (MASTER, SELF_SIGNING, USER_SIGNING)


class _OwnKeys(msgspec.Struct, frozen=True):
    """Public keys that may sign for a user: their devices' and cross-signing keys."""

    devices: dict[DeviceId, JsonObject]
    signing: dict[str, CrossSigningKey]

    def public(self, usage: str) -> str | None:
        key = self.signing.get(usage)
        return None if key is None else key.public_key


class CrossSigning:
    """Handles uploads of cross-signing keys and of signatures."""

    def __init__(self, *, database: Database, committer: UnitLog) -> None:
        self._keys = cross_signing.CrossSigningKeyTable(database)
        self._committer = committer

    async def needs_authentication(self, user_id: UserId, body: JsonObject) -> bool:
        """Returns whether this upload would change existing keys."""
        uploaded = _parse_keys(user_id, body)
        stored = await self._keys.load(user_id)
        if MASTER not in stored:
            return False
        return any(
            usage not in stored or stored[usage].public_key != public_key_of(key)
            for usage, key in uploaded.items()
        )

    async def upload(self, user_id: UserId, body: JsonObject) -> None:
        """POST /keys/device_signing/upload, after authentication where that is needed."""
        uploaded = _parse_keys(user_id, body)
        if not uploaded:
            return

        async def work(connection: Connection) -> Sequence[Entry]:
            stored = (await cross_signing.load(connection, [user_id])).get(user_id, {})
            devices = (await keys.load_device_keys(connection, [user_id])).get(user_id, {})
            _check_chain(user_id, uploaded, stored, devices)
            for usage, key in uploaded.items():
                encoded = encode_key(key, usage)
                new = CrossSigningKey(usage, public_key_of(key), encoded)
                await cross_signing.store(connection, user_id, new)
            if MASTER in uploaded:
                await _drop_orphans(connection, user_id, uploaded, stored)
            await device_lists.touch(connection, user_id, [device_lists.CROSS_SIGNING])
            return [DeviceListEntry(user_id)]

        await self._committer.submit(Unit(work=work))

    async def upload_signatures(self, user_id: UserId, body: JsonObject) -> JsonObject:
        """POST /keys/signatures/upload; returns `failures`: user ID to key ID to error."""
        wanted = _parse_signed(body)
        failures: JsonObject = {}

        async def work(connection: Connection) -> Sequence[Entry]:
            failures.clear()
            own = await _load_own(connection, user_id)
            kept: list[KeySignature] = []
            for target_user, target, signed in wanted:
                try:
                    stored = await _load_target(connection, user_id, own, target_user, target)
                    kept += _check_signed(user_id, own, (target_user, target), stored, signed)
                except MatrixError as error:
                    failures.setdefault(target_user, {})[target] = error.body()
            await keys.store_signatures(connection, kept)
            return await _note(connection, user_id, own, kept)

        if wanted:
            await self._committer.submit(Unit(work=work))
        return {"failures": failures}


def _parse_keys(user_id: UserId, body: JsonObject) -> dict[str, JsonObject]:
    return {
        usage: parse_cross_signing_key(body[f"{usage}_key"], user_id=user_id, usage=usage)
        for usage in _USAGES
        if body.get(f"{usage}_key") is not None
    }


def _check_chain(
    user_id: UserId,
    uploaded: dict[str, JsonObject],
    stored: dict[str, CrossSigningKey],
    devices: dict[DeviceId, bytes],
) -> None:
    """Checks rule 2, and that no key has the ID of a device."""
    if MASTER in uploaded:
        master = public_key_of(uploaded[MASTER])
    elif MASTER in stored:
        master = stored[MASTER].public_key
    else:
        raise missing_param("There is no master key")
    for usage, key in uploaded.items():
        if public_key_of(key) in devices:
            raise forbidden("A key has the ID of a device of the user")
        if usage != MASTER:
            verify_by_master(key, user_id=user_id, master_public_key=master)
    publics = {usage: key.public_key for usage, key in stored.items()}
    publics |= {usage: public_key_of(key) for usage, key in uploaded.items()}
    if len(set(publics.values())) < len(publics):
        raise invalid_param("One key can't have several usages")


async def _drop_orphans(
    connection: Connection,
    user_id: UserId,
    uploaded: dict[str, JsonObject],
    stored: dict[str, CrossSigningKey],
) -> None:
    before = stored.get(MASTER)
    if before is not None and before.public_key != public_key_of(uploaded[MASTER]):
        orphans = [usage for usage in (SELF_SIGNING, USER_SIGNING) if usage not in uploaded]
        await cross_signing.delete(connection, user_id, orphans)


def _parse_signed(body: JsonObject) -> list[tuple[UserId, str, JsonObject]]:
    found = []
    for user, targets in body.items():
        user_id = parse_user(user)
        if not isinstance(targets, dict):
            raise bad_json("The body must map users to keys to signed objects")
        for target, signed in targets.items():
            if not isinstance(signed, dict):
                raise bad_json("The body must map users to keys to signed objects")
            found.append((user_id, check_text(target, "A key's ID"), signed))
    if len(found) > limits.KEY_SIGNATURES_PER_UPLOAD:
        raise invalid_param(f"More than {limits.KEY_SIGNATURES_PER_UPLOAD} signed keys")
    return found


async def _load_own(connection: Connection, user_id: UserId) -> _OwnKeys:
    devices = (await keys.load_device_keys(connection, [user_id])).get(user_id, {})
    signing = (await cross_signing.load(connection, [user_id])).get(user_id, {})
    return _OwnKeys({device: _json(encoded) for device, encoded in devices.items()}, signing)


def _check_signed(
    signer: UserId,
    own: _OwnKeys,
    what: tuple[UserId, str],
    stored: JsonObject | None,
    signed: JsonObject,
) -> list[KeySignature]:
    """Returns the verified signatures of `signer` on one key; raises for a key that isn't the
    stored one and for a wrong signature."""
    target_user, target = what
    encode_key(signed, "The signed key")
    if stored is None:
        raise not_found("There is no such key")
    if without_signatures(stored) != without_signatures(signed):
        raise invalid_param("The key isn't the one that is stored")
    made = check_signatures(signed).get(signer, {})
    if not made:
        raise invalid_signature("There is no signature by you")
    kept = []
    for key_id, signature in made.items():
        if target in own.devices and key_id == f"ed25519:{target}":
            continue  # the device's own signature, known from its upload
        public = _signing_key(own, key_id, is_own=target_user == signer, target=target)
        verify_signature(signed, signer, key_id, public)
        kept.append(KeySignature(target_user, target, signer, key_id, signature))
    return kept


async def _load_target(
    connection: Connection, signer: UserId, own: _OwnKeys, target_user: UserId, target: str
) -> JsonObject | None:
    """Returns the signed key: an own device, or a master key."""
    if target_user == signer:
        if target in own.devices:
            return own.devices[DeviceId(target)]
        return _json(own.signing[MASTER].key) if own.public(MASTER) == target else None
    local = (await cross_signing.load(connection, [target_user])).get(target_user, {})
    if MASTER in local:
        master = _json(local[MASTER].key)
    else:
        kept = (await remote_devices.load(connection, [target_user])).get(target_user)
        if kept is None or kept.master_key is None:
            return None
        master = _json(kept.master_key)
    return master if public_key_of(master) == target else None


def _signing_key(own: _OwnKeys, key_id: str, *, is_own: bool, target: str) -> str:
    """Returns the public key that may sign this (rule 3); raises MatrixError."""
    name = key_id.removeprefix("ed25519:")
    if not is_own:
        allowed = own.public(USER_SIGNING)
    elif target in own.devices:
        allowed = own.public(SELF_SIGNING)
    else:
        device = own.devices.get(DeviceId(name))
        if device is None:
            raise invalid_signature("A master key is signed by devices of its user")
        public = device["keys"][f"ed25519:{name}"]
        assert isinstance(public, str)
        return public
    if allowed is None or allowed != name:
        raise invalid_signature("The signature is by a key that doesn't sign such keys")
    return allowed


async def _note(
    connection: Connection, user_id: UserId, own: _OwnKeys, kept: Sequence[KeySignature]
) -> Sequence[Entry]:
    """Returns the log entries of new signatures. Signatures on own keys are announced to others;
    one on another's master key is shown only to its maker, whose devices learn of it as a change of
    that other user."""
    if not kept:
        return []
    touched: set[DeviceId] = set()
    for one in kept:
        if one.user_id == user_id:
            is_device = one.target in own.devices
            touched.add(DeviceId(one.target) if is_device else device_lists.CROSS_SIGNING)
    await device_lists.touch(connection, user_id, touched)
    others = {one.user_id for one in kept if one.user_id != user_id}
    return [DeviceListEntry(user_id, tuple(sorted(others)))]


def _json(encoded: bytes) -> JsonObject:
    value = canonical_json.decode(encoded)
    assert isinstance(value, dict)
    return value
