"""A small world for tests of devices: a real database, a log that commits one unit at a time, rooms
as plain sets, other servers as scripted answers, and keys that are really signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId, server_of
from federation.events.signing import SigningKey, encode_base64, sign_json
from federation.ports import UserDevices
from federation.transport.requests.client import FailureKind, FederationError
from homeserver.app.context import ServerContext
from homeserver.app.domains.encryption import EncryptionServices, make_encryption
from homeserver.app.engine import Engine
from homeserver.engine.entries import (
    AccountDataEntry,
    Committed,
    DeviceListEntry,
    Entry,
    Placed,
    ReceiptEntry,
    RemoteEduEntry,
    ToDeviceEntry,
    Unit,
)
from homeserver.engine.followers.memberships import UserRoom
from homeserver.metrics import ServerMetrics
from homeserver.storage.account_data import account_data
from homeserver.storage.database import Database
from homeserver.storage.encryption import device_lists, to_device
from homeserver.storage.ephemeral import receipts
from homeserver.storage.federation import remote_edus

HERE = ServerName("here.test")
THERE = ServerName("there.test")
ALICE = UserId("@alice:here.test")
ANNA = UserId("@anna:here.test")
BOB = UserId("@bob:there.test")
ROOM = RoomId("!room:here.test")
PHONE = DeviceId("PHONE")
LAPTOP = DeviceId("LAPTOP")

_APPENDERS: dict[type[Any], Any] = {
    AccountDataEntry: account_data.append,
    ReceiptEntry: receipts.append,
    ToDeviceEntry: to_device.append,
    RemoteEduEntry: remote_edus.append,
    DeviceListEntry: device_lists.append,
}


class Log:
    """A committer of one unit at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.position = 0
        self.followers: list[Callable[[Sequence[Placed]], None]] = []
        self.placed: list[Placed] = []

    async def submit(self, unit: Unit) -> Committed:
        """Commits a unit, then tells the followers."""
        entries: list[Entry] = list(unit.entries)
        async with self.database.transaction() as connection:
            if unit.work is not None:
                entries += await unit.work(connection)
            rows = [(self.position + 1 + i, entry) for i, entry in enumerate(entries)]
            for kind, append in _APPENDERS.items():
                mine = [row for row in rows if isinstance(row[1], kind)]
                if mine:
                    await append(connection, mine)
        return self.publish(entries)

    def subscribe(self, follower: Callable[[Sequence[Placed]], None]) -> None:
        """As `Committer.subscribe`."""
        self.followers.append(follower)

    def publish(self, entries: Sequence[Entry]) -> Committed:
        """Gives entries places and tells the followers."""
        first = self.position + 1
        batch = [Placed(first + i, entry) for i, entry in enumerate(entries)]
        self.position += len(batch)
        self.placed += batch
        for follower in self.followers:
            follower(batch)
        return Committed(first, self.position, entries)

    def of_kind(self, kind: type[Any]) -> list[Any]:
        """The committed entries of a kind."""
        return [placed.entry for placed in self.placed if isinstance(placed.entry, kind)]


class FakeRoom:
    """A room's joined and invited users; its state after some events."""

    def __init__(self) -> None:
        self.members: set[UserId] = set()
        self.invited: set[UserId] = set()
        self.after: dict[EventId, Any] = {}

    @property
    def joined_local(self) -> set[UserId]:
        """Joined users of this server."""
        return {user for user in self.members if server_of(user) == HERE}

    @property
    def joined_servers(self) -> Mapping[ServerName, int]:
        """Joined users by server."""
        servers = [server_of(user) for user in self.members]
        return {server: servers.count(server) for server in servers}

    def is_joined(self, user_id: UserId) -> bool:
        """Is a user of any server joined?"""
        return user_id in self.members

    @property
    def view(self) -> Any:
        """The part of a room's view that device lists look at."""
        return _View(members_state(self.members, self.invited))


def members_state(joined: Collection[UserId], invited: Collection[UserId] = ()) -> Any:
    """A state of members alone."""
    state = {("m.room.member", str(user)): _Ref("invite") for user in invited}
    return state | {("m.room.member", str(user)): _Ref("join") for user in joined}


@dataclass
class _Ref:
    membership: str


@dataclass
class _View:
    state: Mapping[tuple[str, str], _Ref]


class Rooms:
    """Rooms, memberships and events, all in memory."""

    def __init__(self) -> None:
        self.rooms: dict[RoomId, FakeRoom] = {}
        self.invites: dict[UserId, dict[RoomId, UserRoom]] = {}

    def put(self, room_id: RoomId, *members: UserId) -> FakeRoom:
        """Sets the members of a room."""
        room = self.rooms.setdefault(room_id, FakeRoom())
        room.members = set(members)
        return room

    async def get(self, room_id: RoomId) -> Any:
        return self.rooms.get(room_id)

    def hot(self, _room_id: RoomId) -> None:
        """No room is in memory: nobody is told of its ephemeral data."""

    async def of(self, user_id: UserId) -> Mapping[RoomId, UserRoom]:
        found = dict(self.invites.get(user_id, {}))
        for room_id in await self.rooms_of(user_id):
            found[room_id] = UserRoom("join", 0, EventId("$join"), user_id)
        return found

    async def rooms_of(self, user_id: UserId) -> list[RoomId]:
        return [room_id for room_id, room in self.rooms.items() if user_id in room.members]

    async def sharing(self, user_id: UserId, among: Collection[UserId]) -> set[UserId]:
        rooms = [self.rooms[room_id] for room_id in await self.rooms_of(user_id)]
        return {user for room in rooms for user in room.members | room.invited}.intersection(among)

    async def state_after(self, room: Any, event_id: EventId) -> Any:
        return room.after.get(event_id)


@dataclass
class Remote:
    """Another server's answers; an answer that isn't there is a failed request."""

    lists: dict[UserId, UserDevices] = field(default_factory=dict)
    queries: JsonObject | None = None
    claims: JsonObject | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)

    async def devices(self, user_id: UserId) -> UserDevices:
        self.asked.append(("devices", user_id))
        if user_id not in self.lists:
            raise FederationError(server_of(user_id), FailureKind.REFUSED, "no")
        return self.lists[user_id]

    async def keys_query(
        self, server: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject:
        self.asked.append(("query", dict(device_keys)))
        if self.queries is None:
            raise FederationError(server, FailureKind.REFUSED, "no")
        return self.queries

    async def keys_claim(
        self, server: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject:
        self.asked.append(("claim", dict(one_time_keys)))
        if self.claims is None:
            raise FederationError(server, FailureKind.REFUSED, "no")
        return self.claims


class Clock:
    """A clock that moves when it is told to, or slept on."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now_ms(self) -> int:
        return int(self.seconds * 1000)

    def monotonic_s(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


OWN_DEVICES = [(ALICE, PHONE, "Alice's phone"), (ALICE, LAPTOP, None), (ANNA, PHONE, None)]
"""The devices of users of ours, with their names."""


def encryption_of(
    database: Database, log: Log, rooms: Rooms, *, remote: Remote, clock: Clock
) -> EncryptionServices:
    """The services of devices as `app` makes them; they follow the log."""
    return make_encryption(engine_of(log, rooms, clock), database, remote)


def engine_of(log: Log, rooms: Rooms, clock: Clock) -> Engine:
    """The engine as far as makers of services about devices use it."""
    context = ServerContext(HERE, signing_key("here"), clock, ServerMetrics(), random_bytes)
    parts = SimpleNamespace(
        context=context, committer=log, rooms=rooms, memberships=rooms, reader=None, fanout=None
    )
    return cast(Engine, parts)


def random_bytes(count: int) -> bytes:
    """Bytes that look random and are the same each time."""
    return hashlib.shake_256(b"freehold").digest(count)


def signing_key(name: str) -> SigningKey:
    """A key pair that follows from a name."""
    return SigningKey.generate(hashlib.sha256(name.encode()).digest(), "x")


def sign(value: JsonObject, user_id: str, name: str, key_id: str) -> JsonObject:
    """`value` with one more signature, by the key with a name, under any key ID."""
    payload = {k: v for k, v in value.items() if k != "signatures"}
    signature = sign_json(payload, user_id, signing_key(name))["signatures"][user_id]["ed25519:x"]
    signatures = {user: dict(made) for user, made in value.get("signatures", {}).items()}
    signatures.setdefault(user_id, {})[f"ed25519:{key_id}"] = signature
    return {**value, "signatures": signatures}


def public_of(name: str) -> str:
    """The public part of the key with a name."""
    return signing_key(name).verify_key.encoded


def device_keys(user_id: str, device_id: str, **changes: Any) -> JsonObject:
    """Keys of a device, signed by itself."""
    name = user_id + device_id
    value: JsonObject = {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            f"ed25519:{device_id}": public_of(name),
            f"curve25519:{device_id}": encode_base64(hashlib.sha256(b"curve").digest()),
        },
        **changes,
    }
    return sign(value, user_id, name, device_id)


def one_time_key(number: int) -> JsonObject:
    """A one-time key, signed by ALICE's PHONE."""
    return signed_key(number, ALICE, PHONE)


def signed_key(number: int, user_id: str, device_id: str, **more: Any) -> JsonObject:
    """A one-time key, signed by a device."""
    public = encode_base64(hashlib.sha256(str(number).encode()).digest())
    return sign({"key": public, **more}, user_id, user_id + device_id, device_id)


def one_time_keys(*numbers: int) -> JsonObject:
    """Signed one-time keys by ID."""
    return {f"signed_curve25519:K{number}": one_time_key(number) for number in numbers}


def cross_signing_key(user_id: str, usage: str, *, master: str | None = None) -> JsonObject:
    """A cross-signing key with the name user + usage, signed by the master key of that name."""
    name = f"{user_id}{usage}"
    public = public_of(name)
    value: JsonObject = {
        "user_id": user_id,
        "usage": [usage],
        "keys": {f"ed25519:{public}": public},
    }
    if master is None:
        return value
    return sign(value, user_id, master, public_of(master))


def cross_signing_upload(user_id: str) -> JsonObject:
    """All three keys."""
    master = f"{user_id}master"
    return {
        "master_key": cross_signing_key(user_id, "master"),
        "self_signing_key": cross_signing_key(user_id, "self_signing", master=master),
        "user_signing_key": cross_signing_key(user_id, "user_signing", master=master),
    }
