"""The users whose devices changed, for syncs; and keys as they are stored.

Rules:
1. `changes` reads an index of the newest log entries that matter (devices, memberships), which
   follows the commits; for a reader further behind the database is queried.
2. A signature on another user's master key counts as a change of that user, for its maker only: the
   maker's clients query the key again and get the signature.

Spec: client-server API, "Tracking the device list for a user".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from federation.events import canonical_json, event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, StateKey, UserId
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, EventEntry, Placed, StateChange, StateEntry
from homeserver.engine.rooms.rooms import Room
from homeserver.engine.rooms.snapshots import StateRef
from homeserver.rules.encryption.device_keys import merge_signatures
from homeserver.rules.encryption.device_list_changes import (
    INVITE,
    JOIN,
    EncryptionChange,
    ListChange,
    MembershipChange,
    decide,
    find_candidates,
)
from homeserver.services.rooms.room_access import UserRooms
from homeserver.storage.database import Database
from homeserver.storage.encryption.device_lists import DeviceListTable, RoomChange
from homeserver.storage.encryption.keys import DeviceKeyTable, KeySignature, StoredKeys


class _Note(msgspec.Struct, frozen=True):
    """One entry of the index."""

    position: int
    device_user: UserId | None = None
    verified: tuple[UserId, ...] = ()
    change: ListChange | None = None


class StateRooms(Protocol):
    """Known rooms, with their current state and the state after an event (the engine's `Rooms`).

    A Protocol: tests of device lists have rooms that are sets of members.
    """

    async def get(self, room_id: RoomId) -> Room | None: ...

    async def state_after(
        self, room: Room, event_id: EventId
    ) -> Mapping[StateKey, StateRef] | None: ...


class DeviceLists:
    """`device_lists` of syncs."""

    def __init__(
        self, *, database: Database, rooms: StateRooms, shared: UserRooms, position: int
    ) -> None:
        """`position` is the log's end at the moment when `on_commit` starts to follow."""
        self._lists, self._keys = DeviceListTable(database), DeviceKeyTable(database)
        self._rooms, self._shared = rooms, shared
        self._start = position
        self._notes: list[_Note] = []

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, DeviceListEntry):
                self._notes.append(_Note(placed.position, entry.user_id, entry.verified))
            elif isinstance(entry, EventEntry | StateEntry) and entry.changes:
                self._notes.extend(_notes(placed.position, entry))
        if len(self._notes) > 2 * limits.LOG_TAIL_ENTRIES:
            dropped = len(self._notes) - limits.LOG_TAIL_ENTRIES
            self._start = self._notes[dropped - 1].position
            self._notes = self._notes[dropped:]

    async def changes(
        self, user_id: UserId, *, after: int, up_to: int
    ) -> tuple[set[UserId], set[UserId]]:
        """(changed, left) for a user between two positions of the log."""
        if after >= self._start:
            notes = self._between(after, up_to)
            if not notes:
                return set(), set()
            devices = {note.device_user for note in notes if note.device_user is not None}
            devices.update(*(one.verified for one in notes if one.device_user == user_id))
            found = [note.change for note in notes if note.change is not None]
        else:
            devices, found = await self._load(user_id, after, up_to)
        return await self._decide(user_id, devices, found)

    async def everybody(self, user_id: UserId) -> set[UserId]:
        """Returns all users whose devices the user keeps track of, for a user whose past is not
        known.
        """
        found = set[UserId]()
        for room_id in await self._shared.rooms_of(user_id):
            room = await self._rooms.get(room_id)
            found |= _kept(room.view.state if room else {})
        return found

    def _between(self, after: int, up_to: int) -> Sequence[_Note]:
        first = bisect_right(self._notes, after, key=_position)
        if first == len(self._notes):
            return ()
        return self._notes[first : bisect_right(self._notes, up_to, key=_position)]

    async def _load(
        self, user_id: UserId, after: int, up_to: int
    ) -> tuple[set[UserId], list[ListChange]]:
        """Returns the same from the database, for a reader who is further behind."""
        rooms = [
            room_id
            for room_id, one in (await self._shared.of(user_id)).items()
            if one.membership == "join" or one.position > after
        ]
        devices = await self._lists.changed_between(after=after, up_to=up_to)
        if user_id in devices:  # possibly a signature on another user's master key
            devices |= await self._keys.load_verified(user_id)
        changes = await self._lists.state_between(rooms, after=after, up_to=up_to)
        found = [_list_change(one.room_id, one) for one in changes]
        return devices, [one for one in found if one is not None]

    async def _decide(
        self, user_id: UserId, devices: set[UserId], changes: Sequence[ListChange]
    ) -> tuple[set[UserId], set[UserId]]:
        own = set(await self._shared.rooms_of(user_id))
        found = find_candidates(
            user_id, device_changes=devices, changes=changes, is_joined=own.__contains__
        )
        changed, left = set(found.changed), set(found.left)
        for room_id in found.renewed:
            room = await self._rooms.get(room_id)
            changed |= _kept(room.view.state if room else {})
        for room_id, event_id in found.departures:
            room = await self._rooms.get(room_id)
            state = None if room is None else await self._rooms.state_after(room, event_id)
            left |= _kept(state or {})
        keeps = await self._shared.sharing(user_id, changed | left)
        return decide(user_id, changed=changed, left=left, keeps=keeps.__contains__)


def _position(note: _Note) -> int:
    return note.position


def _kept(state: Mapping[StateKey, StateRef]) -> set[UserId]:
    """Returns the users whose devices a joined user keeps track of."""
    return {
        UserId(key[1])
        for key, ref in state.items()
        if key[0] == event_types.MEMBER and ref.membership in (JOIN, INVITE)
    }


def _notes(position: int, entry: EventEntry | StateEntry) -> Iterable[_Note]:
    for change in entry.changes:
        found = _list_change(entry.room_id, change)
        if found is not None:
            yield _Note(position, change=found)


def _list_change(room_id: RoomId, change: StateChange | RoomChange) -> ListChange | None:
    """Returns a change of state as it concerns device lists; None if it doesn't (a new display
    name).
    """
    kind, key = change.key
    if change.key == event_types.ENCRYPTION_KEY and change.event_id is not None:
        return EncryptionChange(room_id)
    if kind != event_types.MEMBER or change.former == change.membership:
        return None
    return MembershipChange(room_id, UserId(key), change.membership, change.former, change.event_id)


# Stored keys


def merge_device_keys(stored: StoredKeys) -> dict[UserId, dict[DeviceId, JsonObject]]:
    """Returns keys of users' devices with the users' own signatures, which every user may see."""
    made = _by_target(one for one in stored.signatures if one.signer == one.user_id)
    return {
        user_id: {
            device_id: merge_signatures(_json(encoded), made.get((user_id, device_id), {}))
            for device_id, encoded in devices.items()
        }
        for user_id, devices in stored.devices.items()
    }


def merge_signing_keys(stored: StoredKeys) -> dict[UserId, dict[str, JsonObject]]:
    """Returns users' cross-signing keys by usage, with signatures by themselves and by the viewer
    that the keys were loaded for."""
    made = _by_target(stored.signatures)
    return {
        user_id: {
            usage: merge_signatures(_json(key.key), made.get((user_id, key.public_key), {}))
            for usage, key in by_usage.items()
        }
        for user_id, by_usage in stored.signing.items()
    }


def _by_target(
    signatures: Iterable[KeySignature],
) -> dict[tuple[UserId, str], dict[str, dict[str, str]]]:
    """Returns (user, target) to signer to key ID to signature."""
    found: dict[tuple[UserId, str], dict[str, dict[str, str]]] = {}
    for one in signatures:
        by_signer = found.setdefault((one.user_id, one.target), {})
        by_signer.setdefault(one.signer, {})[one.key_id] = one.signature
    return found


def _json(encoded: bytes) -> JsonObject:
    value = canonical_json.decode(encoded)
    assert isinstance(value, dict)
    return value
