"""Presence with rooms that are sets of members, a clock that the test moves, and other servers that
are up or down as it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any, Literal, cast

import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId
from federation.ports import Clock as AnyClock
from homeserver.app.domains.ephemeral import PresenceOutside
from homeserver.config import PresenceSettings
from homeserver.engine.entries import Entry, EventEntry, Placed, StateChange, StateEntry
from homeserver.engine.followers.memberships import UserRoom
from homeserver.metrics import ServerMetrics
from homeserver.rules.ephemeral.presence import Profile
from homeserver.rules.sync.filters import NO_FILTER, SyncFilter
from homeserver.rules.sync.sync_tokens import SyncToken
from homeserver.services.ephemeral.local_presence import LocalPresence
from homeserver.services.ephemeral.presence_board import PresenceBoard
from homeserver.services.ephemeral.presence_feed import PresenceFeed
from homeserver.services.ephemeral.presence_rooms import PresenceRooms
from homeserver.services.ephemeral.presence_view import PresenceView
from homeserver.services.ephemeral.remote_presence import RemotePresence
from homeserver.services.rooms.room_access import MemberRoom
from homeserver.services.sync.log_delta import scan
from homeserver.services.sync.plans import SyncContext, SyncScope
from homeserver.services.sync.presence import SyncPresence
from homeserver.storage.rooms.memberships import UserRoomRow
from tests.homeserver.device_world import HERE, Clock, FakeRoom

DEVICE = DeviceId("DEVICE")


class Health:
    """Other servers, up or down as the test says."""

    def __init__(self) -> None:
        self.down: set[ServerName] = set()
        self._recovered: list[Callable[[ServerName], None]] = []

    def wait_s(self, server: ServerName) -> float:
        """`ServerHealth.wait_s`."""
        return float(server in self.down)

    def on_recovered(self, recovered: Callable[[ServerName], None]) -> None:
        """`ServerHealth.on_recovered`."""
        self._recovered.append(recovered)

    def recover(self, server: ServerName) -> None:
        """Has a server come up again."""
        self.down.discard(server)
        for recovered in self._recovered:
            recovered(server)


UP = PresenceOutside(PresenceSettings(mode="on"), Health())
"""Presence is told to other servers, and all of these are up."""


class SharedClock(Clock):
    """A clock that others can run on as well."""

    async def sleep(self, seconds: float) -> None:
        """Moves on by so much, and lets others have their turn."""
        self.seconds += seconds
        await asyncio.sleep(0)


class Members:
    """Rooms by ID, all in memory."""

    def __init__(self) -> None:
        self.rooms: dict[RoomId, FakeRoom] = {}

    def hot(self, room_id: RoomId) -> MemberRoom | None:
        """`HotMembers.hot`."""
        return self.rooms.get(room_id)

    def of(self, user_id: UserId) -> set[RoomId]:
        """The rooms of a user."""
        return {room_id for room_id, room in self.rooms.items() if user_id in room.members}


class PresenceWorld:
    """All services of presence of one server, and what they stand on."""

    def __init__(self, boot: int = 1, mode: Literal["off", "local", "on"] = "on") -> None:
        settings = PresenceSettings(mode=mode)
        self.clock, self.members, self.health = SharedClock(), Members(), Health()
        self.profiles: dict[UserId, Profile] = {}
        self.seen: list[tuple[UserId, int]] = []
        self.sent: list[tuple[ServerName, JsonObject]] = []
        self.placed: list[Placed] = []
        self.loads = 0
        self.metrics = ServerMetrics()
        self.board = PresenceBoard(HERE, boot, self.metrics)
        self.rooms = PresenceRooms(HERE, self.members, self._load)
        self.board.on_drop(self.rooms.drop)
        self.own = LocalPresence(
            self.board,
            self.rooms,
            clock=self.clock,
            load_profile=self._profile,
            seen_lately=self._seen,
            is_on=settings.is_on,
        )
        self.remote = RemotePresence(
            self.board, self.rooms, self.clock, is_on=settings.is_federated
        )
        self.feed = PresenceFeed(
            self.board,
            self.members,
            clock=self.clock,
            servers_of=self._servers,
            forward=self._forward,
            health=self.health,
            is_on=settings.is_federated,
        )
        self.view = PresenceView(self.board, self.rooms, self.clock)
        self._section = SyncPresence(self.view, cast(Any, self.members))

    async def _load(self, user_ids: Sequence[UserId]) -> list[UserRoomRow]:
        self.loads += 1
        return [
            UserRoomRow(user_id, room_id)
            for user_id in user_ids
            for room_id in self.members.of(user_id)
            if self.members.rooms[room_id].joined_local
        ]

    async def _profile(self, user_id: UserId) -> Profile:
        return self.profiles.get(user_id, {})

    async def _seen(self, since_ms: int) -> Sequence[tuple[UserId, int]]:
        return [one for one in self.seen if one[1] >= since_ms]

    async def _servers(self, user_id: UserId) -> set[ServerName]:
        rooms = [self.members.rooms[room_id] for room_id in self.members.of(user_id)]
        return {server for room in rooms for server in room.joined_servers} - {HERE}

    def _forward(self, servers: Collection[ServerName], edu: JsonObject) -> None:
        assert edu["edu_type"] == "m.presence"
        self.sent += [(server, orjson.loads(orjson.dumps(edu["content"]))) for server in servers]

    # What happens

    def put(self, room_id: RoomId, *members: UserId) -> None:
        """Sets the members of a room, without an entry of the log."""
        self.members.rooms.setdefault(room_id, FakeRoom()).members = set(members)

    def member(self, room_id: RoomId, user_id: UserId, membership: str) -> None:
        """Changes a membership, by an entry of the log."""
        room = self.members.rooms.setdefault(room_id, FakeRoom())
        former = "join" if user_id in room.members else None
        (room.members.add if membership == "join" else room.members.discard)(user_id)
        key = ("m.room.member", str(user_id))
        change = StateChange(key, EventId("$m"), membership=membership, former=former)
        self._publish(StateEntry(room_id, (change,)))

    def say(self, user_id: UserId, room_id: RoomId) -> None:
        """Has a user send a message."""
        event = cast(Any, SimpleNamespace(sender=user_id, is_state=False))
        self._publish(EventEntry(room_id, event, 0, (0, 0), None))

    def _publish(self, entry: Entry) -> None:
        batch = [Placed(len(self.placed) + 1, entry)]
        self.placed += batch
        for follower in (self.rooms, self.own, self.feed):
            follower.on_commit(batch)

    async def sync(
        self, user_id: UserId, device: DeviceId = DEVICE, said: str | None = None
    ) -> None:
        """One short sync."""
        async with self.own.syncing(user_id, device, said):
            pass

    def pass_time(self, seconds: float) -> None:
        """Moves the clock, and does what is due then."""
        self.clock.seconds += seconds
        for part in (self.own, self.remote):
            while part.expire() == 0:
                pass

    async def flush(self) -> list[tuple[ServerName, JsonObject]]:
        """What one sending tells other servers."""
        self.sent.clear()
        await self.feed.collect()
        self.feed.send()
        return list(self.sent)

    # What is seen

    def token(self, presence: int | None = None, boot: int | None = None) -> SyncToken:
        """A reader's position now."""
        count = self.board.count if presence is None else presence
        logs = ((0, len(self.placed)),)
        return SyncToken("h", logs, 0, self.board.boot if boot is None else boot, 0, count)

    async def read(
        self,
        reader: UserId,
        since: SyncToken | None = None,
        *,
        wanted: SyncFilter = NO_FILTER,
        ignored: Collection[str] = (),
        is_far: bool = False,
    ) -> tuple[dict[UserId, JsonObject], SyncToken]:
        """The presence in an answer, by user, and the reader's next position."""
        start = 0 if since is None else since.position(0)
        rooms = {
            room_id: UserRoom("join", 0, EventId("$j"), reader)
            for room_id in self.members.of(reader)
        }
        delta = (
            None if since is None or is_far else scan(self.placed[start:], reader, DEVICE, rooms)
        )
        scope = SyncScope(
            reader,
            DEVICE,
            wanted,
            None if since is None else start,
            len(self.placed),
            ignored=frozenset(ignored),
        )
        events, count = await self._section.events(SyncContext(scope, rooms, delta), since)
        found: dict[UserId, JsonObject] = {}
        for event in map(orjson.loads, events):
            assert event["type"] == "m.presence"
            assert event["sender"] not in found, "each user once"
            found[UserId(event["sender"])] = event["content"]
        return found, self.token(count)


class NoRooms:
    """No room is in memory."""

    def hot(self, room_id: RoomId) -> MemberRoom | None:
        """`HotMembers.hot`."""
        return None


def nobody(server_name: ServerName, clock: AnyClock) -> tuple[LocalPresence, PresenceView]:
    """Presence that is off."""

    async def nothing(_: object) -> tuple[()]:
        return ()

    async def no_profile(_: object) -> Profile:
        return {}

    board = PresenceBoard(server_name, 1, ServerMetrics())
    rooms = PresenceRooms(server_name, NoRooms(), nothing)
    own = LocalPresence(
        board, rooms, clock=clock, load_profile=no_profile, seen_lately=nothing, is_on=False
    )
    return own, PresenceView(board, rooms, clock)
