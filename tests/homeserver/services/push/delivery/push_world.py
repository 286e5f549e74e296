"""Deliveries over a real table of pushers, with notifications and gateways in memory and a clock
that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson

from federation.events.ids import DeviceId, EventId, RoomId, UserId
from federation.https_urls import HttpsUrl
from homeserver.metrics import ServerMetrics
from homeserver.rules.push.gateway_messages import EventNames
from homeserver.rules.push.pushers import Pusher, PusherKey
from homeserver.services.push.delivery.attempts import OwedPushes, PushPorts
from homeserver.services.push.delivery.contents import PushContents
from homeserver.services.push.delivery.deliveries import PushDeliveries
from homeserver.services.push.delivery.gateways import Gateways, PushFailed, PushFailure
from homeserver.services.push.delivery.queue import KnownPushers
from homeserver.storage.database import Database
from homeserver.storage.push.owed_pushes import OwedPush
from homeserver.storage.push.pushers import PusherProgress, PusherTable
from tests.federation.transport.memory_ports import JumpingClock, Tasks, until
from tests.spec.witness import check_request

ALICE, BOB = UserId("@alice:hs1"), UserId("@bob:hs1")
PHONE = DeviceId("PHONE")
_DEVICES = """
INSERT INTO devices (user_id, device_id, created_ms, last_seen_ms, last_seen_address)
SELECT user_id, $2, 0, 0, '' FROM unnest($1::text[]) AS user_id ON CONFLICT DO NOTHING
"""


class MemorySource:
    """Notifications in memory; a test says what is read, and how many are unread."""

    def __init__(self, clock: JumpingClock) -> None:
        self.clock = clock
        self.rows: dict[UserId, list[tuple[OwedPush, int]]] = {ALICE: [], BOB: []}
        self.counts: dict[UserId, int] = {}
        self.position = 100
        self.lags: list[tuple[UserId, int]] = []

    def add(self, user_id: UserId = ALICE, room: str = "a", *actions: Any) -> EventId:
        """A new notification; its event's ID."""
        self.position += 1
        event_id = EventId(f"${room}{self.position}")
        push = OwedPush(
            self.position, RoomId(f"!{room}:hs1"), event_id, orjson.dumps(["notify", *actions])
        )
        self.rows[user_id].append((push, self.clock.now_ms()))
        self.counts[user_id] = self.counts.get(user_id, 0) + 1
        return event_id

    def read(self, user_id: UserId = ALICE) -> None:
        """The user reads everything."""
        self.rows[user_id].clear()
        self.counts[user_id] = 0

    def _rows(self, user_id: UserId, after: int, since_ms: int) -> list[OwedPush]:
        rows = self.rows[user_id]
        return [push for push, ts in rows if push.position > after and ts > since_ms]

    async def owed(self, user_id: UserId, *, after: int, since_ms: int, limit: int) -> OwedPushes:
        return OwedPushes(self._rows(user_id, after, since_ms)[:limit], self.position)

    async def newest_of_rooms(
        self, user_id: UserId, *, after: int, up_to: int | None, since_ms: int, limit: int
    ) -> Sequence[OwedPush]:
        rows = self._rows(user_id, after, since_ms)
        newest = {one.room_id: one for one in rows if up_to is None or one.position <= up_to}
        return sorted(newest.values(), key=lambda one: one.position)[-limit:]

    async def unread(self, user_id: UserId) -> int:
        return self.counts.get(user_id, 0)

    async def lagging(self) -> Sequence[tuple[UserId, int]]:
        return self.lags


class MemoryContents:
    """Events that have no more than an ID; those that are hidden aren't told of."""

    def __init__(self) -> None:
        self.hidden: set[EventId] = set()
        self.broken: set[EventId] = set()

    async def event(
        self, _user_id: UserId, room_id: RoomId, event_id: EventId
    ) -> Mapping[str, Any] | None:
        if event_id in self.broken:
            raise RuntimeError("an event that can't be read")
        if event_id in self.hidden:
            return None
        return {"event_id": event_id, "room_id": room_id, "type": "t", "content": {}}

    async def names(self, _user_id: UserId, _event: Mapping[str, Any]) -> EventNames:
        return EventNames()


class MemoryGateways:
    """Notes what is sent; `failing` has the push keys that fail, and how."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.turns: list[bool] = []
        self.failing: dict[str, PushFailed] = {}
        self.rejected: frozenset[str] = frozenset()
        self.stalled: set[str] = set()

    @asynccontextmanager
    async def turn(
        self, _user_id: UserId, _gateway: HttpsUrl, *, is_failing: bool
    ) -> AsyncIterator[None]:
        self.turns.append(is_failing)
        yield

    async def notify(self, _gateway: HttpsUrl, body: bytes) -> frozenset[str]:
        check_request("POST", "/_matrix/push/v1/notify", body)
        notification = orjson.loads(body)["notification"]
        self.sent.append(notification)
        (device,) = notification["devices"]
        if device["pushkey"] in self.stalled:
            await asyncio.Event().wait()
        if device["pushkey"] in self.failing:
            raise self.failing[device["pushkey"]]
        return self.rejected

    def told(self, pushkey: str = "phone") -> list[str | int]:
        """The events, and the counts that came alone, that a pusher was sent."""
        return [
            one["event_id"] if "event_id" in one else one["counts"]["unread"]
            for one in self.sent
            if one["devices"][0]["pushkey"] == pushkey
        ]


def failed(kind: PushFailure = PushFailure.FAILED, *, after_s: float = 0.0) -> PushFailed:
    return PushFailed(kind, "as the test says", retry_after_s=after_s)


class PushWorld:
    """The deliveries of one run of a server."""

    def __init__(self, database: Database, clock: JumpingClock, source: MemorySource) -> None:
        self.database, self.clock, self.source = database, clock, source
        self.table, self.tasks = PusherTable(database), Tasks()
        self.metrics = ServerMetrics()
        self.gateways, self.contents = MemoryGateways(), MemoryContents()
        self.random = 0.0
        self.serves = True  # pushers that are set
        self.ports = ports = PushPorts(
            source=source,
            contents=cast(PushContents, self.contents),
            gateways=cast(Gateways, self.gateways),
            clock=clock,
            metrics=self.metrics,
            random=lambda: self.random,
        )
        self.deliveries = PushDeliveries(database, ports, KnownPushers())

    async def set(self, pushkey: str = "phone", user_id: UserId = ALICE, **data: Any) -> int:
        """Sets a pusher, as a client's request does; its ID."""
        await self.database.execute(_DEVICES, [user_id], PHONE)
        whole = {"url": "https://push.example/_matrix/push/v1/notify", **data}
        key = PusherKey("app", pushkey)
        pusher = Pusher(key, "http", "App", "Phone", "", "en", orjson.dumps(whole))
        pusher_id = await self.table.set(
            user_id, PHONE, pusher, now_ms=self.clock.now_ms(), position=self.source.position
        )
        assert isinstance(pusher_id, int)
        if self.serves:
            self.deliveries.on_set(user_id, pusher_id)
        return pusher_id

    def notify(self, user_id: UserId = ALICE, room: str = "a", *actions: Any) -> EventId:
        """A new notification, which pushers hear of."""
        event_id = self.source.add(user_id, room, *actions)
        self.deliveries.on_changed([user_id])
        return event_id

    def read(self, user_id: UserId = ALICE) -> None:
        """A user reads everything."""
        self.source.read(user_id)
        self.deliveries.on_changed([user_id])

    async def until_told(self, *wanted: str | int, pushkey: str = "phone") -> None:
        """Waits until a pusher was sent so many; they must be these."""
        await self.until_sent(len(wanted), pushkey)
        assert self.gateways.told(pushkey) == list(wanted)

    async def until_sent(self, count: int, pushkey: str = "phone") -> None:
        """Waits until a pusher was sent so many."""
        await until(lambda: len(self.gateways.told(pushkey)) >= count)

    async def progress(self, pusher_id: int) -> PusherProgress:
        """How far a pusher is, as stored."""
        stored = await self.table.load(pusher_id)
        assert stored is not None
        return stored.progress

    async def until_stored(
        self, pusher_id: int, condition: Callable[[PusherProgress], bool]
    ) -> None:
        """Waits until what is stored of a pusher fulfils a condition."""
        async with asyncio.timeout(30):
            while not condition(await self.progress(pusher_id)):
                await asyncio.sleep(0.001)

    async def until_idle(self, *pusher_ids: int) -> None:
        """Lets time pass until pushers have no task."""

        def is_idle() -> bool:
            self.clock.jump(1)
            return not any(map(self.deliveries.is_serving, pusher_ids))

        await until(is_idle)


@asynccontextmanager
async def push_world(
    database: Database, clock: JumpingClock | None = None, source: MemorySource | None = None
) -> AsyncIterator[PushWorld]:
    """Runs deliveries; with another's source, as after a restart."""
    clock = clock or JumpingClock()
    world = PushWorld(database, clock, source or MemorySource(clock))
    await world.deliveries.start(world.tasks.spawn)
    try:
        yield world
    finally:
        await world.tasks.stop()
