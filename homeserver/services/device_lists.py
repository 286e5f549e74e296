"""Whose devices changed: for syncs, and as EDUs for other servers.

Rules:
1. `changes` reads an index of the newest log entries that matter (devices, memberships), which
   follows the commits; a reader further behind than it reaches asks the database.
2. What is owed to other servers is made from the database as it is now: an update that is sent
   twice or late says what is true at that moment.
3. Stream IDs of our updates are `position * 1024 + number of the device in the change`: unique for
   a user, growing, and the one before is known from the change before.
4. A signature on another user's master key is a change of that user for its maker alone: clients
   ask for the key again, and find the signature on it.
5. Names of devices don't leave the server: others need keys, not "Alice's phone".

Spec: client-server API, "Tracking the device list for a user"; server-server API, "Device
Management".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, RoomId, StateKey, UserId
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, EventEntry, StateChange, StateEntry
from homeserver.engine.log import Placed
from homeserver.engine.snapshots import StateRef
from homeserver.engine.stored import key_of
from homeserver.rules.device_keys import MASTER, SELF_SIGNING, merge_signatures
from homeserver.rules.device_list_changes import (
    INVITE,
    JOIN,
    EncryptionChange,
    ListChange,
    MembershipChange,
    decide,
    find_candidates,
)
from homeserver.services.engine_ports import StateRooms, UserRooms
from homeserver.storage import cross_signing, device_lists, keys
from homeserver.storage.database import Connection, Database, Row
from homeserver.storage.device_lists import DeviceListChange

UPDATES_PER_CHANGE = 1024
_MEMBER = "m.room.member"
_ENCRYPTION: StateKey = ("m.room.encryption", "")


class _Note(msgspec.Struct, frozen=True):
    """One entry of the index."""

    position: int
    device_user: UserId | None = None
    verified: tuple[UserId, ...] = ()
    change: ListChange | None = None


class DeviceLists:
    """`device_lists` of syncs."""

    def __init__(
        self, *, database: Database, rooms: StateRooms, shared: UserRooms, position: int
    ) -> None:
        """`position` is the log's end at the moment when `on_commit` starts to follow."""
        self._database, self._rooms, self._shared = database, rooms, shared
        self._start = position
        self._notes: list[_Note] = []

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """A follower of the log."""
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
        self, user_id: UserId, *, after: int, upto: int
    ) -> tuple[set[UserId], set[UserId]]:
        """(changed, left) for a user between two positions of the log."""
        if after >= self._start:
            notes = self._between(after, upto)
            if not notes:
                return set(), set()
            devices = {note.device_user for note in notes if note.device_user is not None}
            devices.update(*(one.verified for one in notes if one.device_user == user_id))
            found = [note.change for note in notes if note.change is not None]
        else:
            devices, found = await self._load(user_id, after, upto)
        return await self._decide(user_id, devices, found)

    def _between(self, after: int, upto: int) -> Sequence[_Note]:
        first = bisect_right(self._notes, after, key=_position)
        if first == len(self._notes):
            return ()
        return self._notes[first : bisect_right(self._notes, upto, key=_position)]

    async def _load(
        self, user_id: UserId, after: int, upto: int
    ) -> tuple[set[UserId], list[ListChange]]:
        """The same from the database, for a reader who was away."""
        rooms = [
            room_id
            for room_id, one in (await self._shared.of(user_id)).items()
            if one.membership == "join" or one.position > after
        ]
        async with self._database.connection() as connection:
            devices = await device_lists.changed_between(connection, None, after=after, upto=upto)
            if user_id in devices:  # perhaps by a signature on another's key
                devices |= await keys.load_verified(connection, user_id)
            rows = await device_lists.state_between(connection, rooms, after=after, upto=upto)
        found = [_list_change(RoomId(row["room_id"]), _stored_change(row)) for row in rows]
        return devices, [one for one in found if one is not None]

    async def _decide(
        self, user_id: UserId, devices: set[UserId], changes: Sequence[ListChange]
    ) -> tuple[set[UserId], set[UserId]]:
        mine = set(await self._shared.rooms_of(user_id))
        found = find_candidates(
            user_id, device_changes=devices, changes=changes, is_joined=mine.__contains__
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
    """Those whose devices a joined user keeps track of."""
    return {
        UserId(key[1])
        for key, ref in state.items()
        if key[0] == _MEMBER and ref.membership in (JOIN, INVITE)
    }


def _notes(position: int, entry: EventEntry | StateEntry) -> Iterable[_Note]:
    for change in entry.changes:
        found = _list_change(entry.room_id, change)
        if found is not None:
            yield _Note(position, change=found)


def _list_change(room_id: RoomId, change: StateChange) -> ListChange | None:
    """A change of state as it concerns device lists; None where it doesn't (a new display name)."""
    kind, key = change.key
    if change.key == _ENCRYPTION and change.event_id is not None:
        return EncryptionChange(room_id)
    if kind != _MEMBER or change.former == change.membership:
        return None
    return MembershipChange(room_id, UserId(key), change.membership, change.former, change.event_id)


def _stored_change(row: Row) -> StateChange:
    return StateChange(key_of(row), row["event_id"], row["membership"], row["former"])


# For other servers


async def build_device_list_updates(connection: Connection, position: int) -> list[JsonObject]:
    """The EDUs (whole, with `edu_type`) that a change of a user of ours at a log position makes:
    one m.device_list_update for each device, and an m.signing_key_update. None for a change that
    concerns only clients of ours."""
    change = await device_lists.load_change(connection, position)
    if change is None:
        return []
    previous = change.previous
    before: list[int] = []
    if previous is not None:
        earlier = await device_lists.load_change(connection, previous)
        before = [] if earlier is None else [_last_stream_id(earlier)]
    edus = []
    devices = list(enumerate(change.devices[:UPDATES_PER_CHANGE]))
    if len(devices) >= limits.EDUS_PER_DEVICE_CHANGE:
        # Too many for one transaction: the last alone, after one that nobody got. The gap makes
        # others fetch the whole list.
        devices = devices[-1:]
        before = [position * UPDATES_PER_CHANGE + devices[0][0] - 1]
    for number, device_id in devices:
        stream_id = position * UPDATES_PER_CHANGE + number
        edus.append(
            await build_device_list_update(
                connection, change.user_id, device_id, stream_id=stream_id, prev_ids=before
            )
        )
        before = [stream_id]
    if change.cross_signing:
        edus.append(await build_signing_key_update(connection, change.user_id))
    return edus


def _last_stream_id(change: DeviceListChange) -> int:
    count = min(len(change.devices), UPDATES_PER_CHANGE)
    return change.position * UPDATES_PER_CHANGE + max(count - 1, 0)


async def current_stream_id(connection: Connection, user_id: UserId) -> int:
    """The stream ID of a user's newest update: what /user/devices says of a list."""
    position = await device_lists.latest_position(connection, user_id)
    change = await device_lists.load_change(connection, position) if position else None
    return _last_stream_id(change) if change is not None else 0


async def build_device_list_update(
    connection: Connection,
    user_id: UserId,
    device_id: DeviceId,
    *,
    stream_id: int,
    prev_ids: Sequence[int],
) -> JsonObject:
    """One m.device_list_update EDU. A device without keys can't take part in encryption: for
    others it is deleted."""
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
    return {"edu_type": "m.device_list_update", "content": content}


async def build_signing_key_update(connection: Connection, user_id: UserId) -> JsonObject:
    """One m.signing_key_update EDU with the user's keys of now."""
    content: JsonObject = {"user_id": user_id}
    found = (await load_signing_keys(connection, [user_id])).get(user_id, {})
    for usage in (MASTER, SELF_SIGNING):
        if usage in found:
            content[f"{usage}_key"] = found[usage]
    return {"edu_type": "m.signing_key_update", "content": content}


async def load_device_keys(
    connection: Connection, user_ids: Collection[UserId]
) -> dict[UserId, dict[DeviceId, JsonObject]]:
    """Keys of users' devices with the users' own signatures: what everybody may see."""
    stored = await keys.load_device_keys(connection, user_ids)
    made = await _load_signatures(connection, list(stored), viewer=None)
    return {
        user_id: {
            device_id: merge_signatures(_json(encoded), made.get((user_id, device_id), {}))
            for device_id, encoded in devices.items()
        }
        for user_id, devices in stored.items()
    }


async def load_signing_keys(
    connection: Connection, user_ids: Collection[UserId], *, viewer: UserId | None = None
) -> dict[UserId, dict[str, JsonObject]]:
    """Users' cross-signing keys by usage, with signatures by themselves and by `viewer`."""
    stored = await cross_signing.load(connection, user_ids)
    made = await _load_signatures(connection, list(stored), viewer=viewer)
    return {
        user_id: {
            usage: merge_signatures(_json(key.key), made.get((user_id, key.public_key), {}))
            for usage, key in by_usage.items()
        }
        for user_id, by_usage in stored.items()
    }


_Signatures = dict[tuple[UserId, str], dict[str, dict[str, str]]]


async def _load_signatures(
    connection: Connection, user_ids: Collection[UserId], *, viewer: UserId | None
) -> _Signatures:
    """(user, target) to signer to key ID to signature."""
    found: _Signatures = {}
    for one in await keys.load_signatures(connection, user_ids, viewer=viewer) if user_ids else ():
        by_signer = found.setdefault((one.user_id, one.target), {})
        by_signer.setdefault(one.signer, {})[one.key_id] = one.signature
    return found


def _json(encoded: bytes) -> JsonObject:
    value = canonical_json.decode(encoded)
    assert isinstance(value, dict)
    return value
