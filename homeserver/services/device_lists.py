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
from collections.abc import Collection, Iterable, Sequence

import msgspec

from federation.events import canonical_json
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, UserId
from homeserver import limits
from homeserver.engine.entries import DeviceListEntry, EventEntry, StateEntry
from homeserver.engine.log import Placed
from homeserver.rules.device_keys import MASTER, SELF_SIGNING, merge_signatures
from homeserver.rules.device_list_changes import MembershipChange, decide, find_candidates
from homeserver.services.engine_ports import EventLookup, StateRooms, UserRooms
from homeserver.storage import cross_signing, device_lists, keys
from homeserver.storage.database import Connection, Database
from homeserver.storage.device_lists import DeviceListChange

UPDATES_PER_CHANGE = 1024
_MEMBER = "m.room.member"


class _Note(msgspec.Struct, frozen=True):
    """One entry of the index. `replaces`: the member event before, of which the membership is
    looked up when somebody asks (a new display name is no new member)."""

    position: int
    device_user: UserId | None = None
    verified: tuple[UserId, ...] = ()
    member: MembershipChange | None = None
    replaces: EventId | None = None


class DeviceLists:
    """`device_lists` of syncs."""

    def __init__(
        self,
        *,
        database: Database,
        rooms: StateRooms,
        events: EventLookup,
        shared: UserRooms,
        position: int,
    ) -> None:
        """`position` is the log's end at the moment when `on_commit` starts to follow."""
        self._database, self._rooms, self._events = database, rooms, events
        self._shared = shared
        self._start = position
        self._notes: list[_Note] = []

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """A follower of the log."""
        for placed in batch:
            entry = placed.entry
            if isinstance(entry, DeviceListEntry):
                self._notes.append(_Note(placed.position, entry.user_id, entry.verified))
            elif isinstance(entry, EventEntry | StateEntry) and entry.changes:
                self._notes.extend(_member_notes(placed.position, entry))
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
            members = await self._real_changes(notes)
        else:
            devices, members = await self._load(user_id, after, upto)
        return await self._decide(user_id, devices, members)

    def _between(self, after: int, upto: int) -> Sequence[_Note]:
        first = bisect_right(self._notes, after, key=_position)
        if first == len(self._notes):
            return ()
        return self._notes[first : bisect_right(self._notes, upto, key=_position)]

    async def _real_changes(self, notes: Iterable[_Note]) -> list[MembershipChange]:
        """Without member events that replaced one of the same membership."""
        members = [note for note in notes if note.member is not None]
        replaced = {note.replaces for note in members if note.replaces is not None}
        known = await self._events.events(replaced) if replaced else {}
        found = []
        for note in members:
            before = known.get(note.replaces) if note.replaces is not None else None
            assert note.member is not None
            if before is None or before.event.membership != note.member.membership:
                found.append(note.member)
        return found

    async def _load(
        self, user_id: UserId, after: int, upto: int
    ) -> tuple[set[UserId], list[MembershipChange]]:
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
            rows = await device_lists.members_between(connection, rooms, after=after, upto=upto)
        return devices, [MembershipChange(*row) for row in rows]

    async def _decide(
        self, user_id: UserId, devices: set[UserId], members: Sequence[MembershipChange]
    ) -> tuple[set[UserId], set[UserId]]:
        mine = set(await self._shared.rooms_of(user_id))
        found = find_candidates(
            user_id,
            device_changes=devices,
            membership_changes=members,
            is_joined=mine.__contains__,
        )
        changed, left = set(found.changed), set(found.left)
        if found.joined & mine:
            changed |= await self._members(found.joined & mine)
        if found.departed:
            left |= await self._members(found.departed)
        sharing = await self._sharing(user_id, changed | left)
        return decide(user_id, changed=changed, left=left, shares=sharing.__contains__)

    async def _members(self, room_ids: Collection[RoomId]) -> set[UserId]:
        found = set[UserId]()
        for room_id in room_ids:
            room = await self._rooms.get(room_id)
            for (event_type, state_key), ref in room.view.state.items() if room else ():
                if event_type == _MEMBER and ref.membership == "join":
                    found.add(UserId(state_key))
        return found

    async def _sharing(self, user_id: UserId, others: Collection[UserId]) -> Collection[UserId]:
        """Those of `others` who share a room now: one by one if they are few."""
        if len(others) > 50:
            return await self._shared.shared_users(user_id)
        return {other for other in others if await self._shared.share_room(user_id, other)}


def _position(note: _Note) -> int:
    return note.position


def _member_notes(position: int, entry: EventEntry | StateEntry) -> Iterable[_Note]:
    for change in entry.changes:
        if change.key[0] != _MEMBER:
            continue
        member = MembershipChange(entry.room_id, UserId(change.key[1]), change.membership)
        is_own = isinstance(entry, EventEntry) and entry.event.event_id == change.event_id
        replaces = entry.replaces if is_own and isinstance(entry, EventEntry) else None
        yield _Note(position, member=member, replaces=replaces)


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
