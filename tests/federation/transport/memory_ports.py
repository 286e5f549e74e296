"""The smaller ports in memory, and clocks, for tests."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, KeyId, RoomAlias, RoomId, ServerName, UserId
from federation.ports import (
    Destination,
    Owed,
    StoredServerKey,
    UserDevices,
    WaitingEvent,
    WaitingPlace,
)


class JumpingClock:
    """A clock that stands still until a test moves it; sleepers wake as it passes their time."""

    def __init__(self) -> None:
        self.elapsed_s = 1_000.0
        self.off_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int((self.elapsed_s + self.off_s) * 1000)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.elapsed_s + seconds, self._count, future))
        await future

    def set_by(self, seconds: float) -> None:
        """Sets the time of day, forward or back; no time passes."""
        self.off_s += seconds

    def jump(self, seconds: float) -> None:
        """Moves on."""
        self.elapsed_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self.elapsed_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class Tasks:
    """A supervisor for tests: runs tasks, and shows at the end what went wrong."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self.restarts = False

    def spawn(self, name: str, factory: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(factory), name=name)
        self._tasks.add(task)

    async def _run(self, factory: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs it, again when it fails if `restarts` says so (as the supervisor does)."""
        while True:
            try:
                return await factory()
            except RuntimeError:
                if not self.restarts:
                    raise

    async def stop(self) -> None:
        """Ends all tasks; raises what one of them failed with."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds, letting the loop go on; fails after 30 s."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


class CountingMetric:
    """LabelledCounter and LabelledHistogram; adds all labels' values into one number."""

    def __init__(self, counts: Counter[str], name: str) -> None:
        self._counts, self._name = counts, name

    def inc(self, *labels: str, amount: int = 1) -> None:
        self._counts[self._name] += amount

    def observe(self, seconds: float, *labels: str) -> None:
        self._counts[self._name] += 1


class CountingMetrics:
    """FederationMetrics; counts by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        counting = partial(CountingMetric, self.counts)
        self.federation_requests = counting("federation_requests")
        self.federation_refusals = counting("federation_refusals")
        self.federation_transactions_repeated = counting("federation_transactions_repeated")
        self.federation_pdus = counting("federation_pdus")
        self.federation_pdus_waited = counting("federation_pdus_waited")
        self.federation_edus_ignored = counting("federation_edus_ignored")
        self.federation_gap_events = counting("federation_gap_events")
        self.federation_states_on_anothers_word = counting("federation_states_on_anothers_word")
        self.federation_policy_requests = counting("federation_policy_requests")
        self.federation_media_fetches = counting("federation_media_fetches")
        self.federation_pdus_sent = counting("federation_pdus_sent")
        self.federation_edus_sent = counting("federation_edus_sent")
        self.federation_passed_over = counting("federation_passed_over")
        self.federation_transactions_failed = counting("federation_transactions_failed")


class MemoryKeys:
    """KeyStore."""

    def __init__(self) -> None:
        self.keys: dict[tuple[ServerName, KeyId], StoredServerKey] = {}
        self.neighbours: set[ServerName] = set()

    async def load_keys(
        self, wanted: Collection[tuple[ServerName, KeyId]]
    ) -> list[StoredServerKey]:
        return [self.keys[one] for one in wanted if one in self.keys]

    async def store_keys(
        self, keys: Sequence[StoredServerKey], *, neighbours: Collection[ServerName] = ()
    ) -> None:
        self.neighbours |= set(neighbours)
        self.keys.update({(key.server, key.key_id): key for key in keys})


class MemoryInbox:
    """InboxStore."""

    def __init__(self) -> None:
        self.waiting: dict[EventId, WaitingEvent] = {}

    async def keep(self, waiting: Sequence[WaitingEvent]) -> None:
        for one in waiting:
            self.waiting.setdefault(one.event_id, one)

    async def listed(self) -> list[WaitingPlace]:
        return [
            WaitingPlace(one.event_id, one.room_id, one.origin) for one in self.waiting.values()
        ]

    async def load(self, room_id: RoomId, event_id: EventId) -> WaitingEvent | None:
        return self.waiting.get(event_id)

    async def remove(self, room_id: RoomId, event_ids: Collection[EventId]) -> None:
        for one in event_ids:
            self.waiting.pop(one, None)

    async def postpone(self, room_id: RoomId, event_ids: Collection[EventId]) -> None:
        for one in event_ids:
            waiting = self.waiting.pop(one)
            self.waiting[one] = replace(waiting, attempts=waiting.attempts + 1)


class MemoryDestinations:
    """DestinationStore; counts its saves."""

    def __init__(self) -> None:
        self.kept: dict[ServerName, Destination] = {}
        self.saves = 0

    async def load_destination(self, server: ServerName) -> Destination:
        return self.kept.get(server, Destination(server, -1))

    async def lagging(self) -> list[Destination]:
        return list(self.kept.values())

    async def save_destination(self, destination: Destination) -> None:
        self.saves += 1
        self.kept[destination.server] = destination


class MemoryFeed:
    """OutboundFeed: one list for each destination; a position is an index in it."""

    def __init__(self) -> None:
        self.log: dict[ServerName, list[bytes | JsonObject]] = {}
        self.listeners: list[Callable[[Collection[ServerName]], None]] = []
        self.caught_up = 0
        self.passing: dict[ServerName, list[JsonObject]] = {}

    def forward(self, server: ServerName, edu: JsonObject) -> None:
        """Sends what isn't kept."""
        self.passing.setdefault(server, []).append(edu)
        for listener in self.listeners:
            listener([server])

    def add(self, server: ServerName, *owed: bytes | JsonObject) -> None:
        self.log.setdefault(server, []).extend(owed)
        for listener in self.listeners:
            listener([server])

    async def owed(
        self, destination: ServerName, after: int, *, pdu_limit: int, edu_limit: int
    ) -> Owed:
        log = self.log.get(destination, [])
        pdus: list[bytes] = []
        edus: list[JsonObject] = []
        for position in range(after + 1, len(log)):
            one = log[position]
            if len(pdus) == pdu_limit or len(edus) == edu_limit:
                return Owed(pdus, edus, position - 1, more=True)
            if isinstance(one, bytes):
                pdus.append(one)
            else:
                edus.append(one)
        return Owed(pdus, edus + self.passing.pop(destination, []), len(log) - 1)

    async def latest_of_each_room(self, destination: ServerName, after: int, *, limit: int) -> Owed:
        self.caught_up += 1
        log = self.log.get(destination, [])
        pdus = [one for one in log[after + 1 :] if isinstance(one, bytes)]
        edus = [one for one in log[after + 1 :] if not isinstance(one, bytes)]
        return Owed(pdus[-1:], edus, len(log) - 1)

    def subscribe(self, on_owed: Callable[[Collection[ServerName]], None]) -> None:
        self.listeners.append(on_owed)


class MemoryUsers:
    """UserQueries."""

    def __init__(self, name: ServerName) -> None:
        self.name = name
        self.claims: list[Mapping[UserId, Mapping[DeviceId, str]]] = []
        self.lie: JsonObject = {}

    async def profile(self, origin: ServerName, user_id: UserId, field: str | None) -> JsonObject:
        if user_id.startswith("@nobody"):
            raise MatrixError(404, "M_NOT_FOUND", "Profile not found")
        profile: JsonObject = {"displayname": user_id, "avatar_url": "mxc://b.test/x"}
        return profile if field is None else {field: profile.get(field)}

    async def directory(self, alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        return RoomId(f"!room:{self.name}"), [self.name, ServerName("not a server!")]

    async def devices(self, origin: ServerName, user_id: UserId) -> UserDevices:
        keys = {"user_id": user_id, "device_id": "D1"}
        foreign = {"user_id": "@mallory:evil.test", "device_id": "D2"}
        devices = [{"device_id": "D1", "keys": keys}, {"device_id": "D2", "keys": foreign}]
        return UserDevices(user_id, 7, devices, {"user_id": user_id, "keys": {}})

    async def keys_query(
        self, origin: ServerName, device_keys: Mapping[UserId, Sequence[DeviceId]]
    ) -> JsonObject:
        return self.lie or {
            "device_keys": {
                user: {"D1": {"user_id": user, "device_id": "D1"}} for user in device_keys
            }
        }

    async def keys_claim(
        self, origin: ServerName, one_time_keys: Mapping[UserId, Mapping[DeviceId, str]]
    ) -> JsonObject:
        self.claims.append(one_time_keys)
        return self.lie or {
            "one_time_keys": {
                user: {device: {f"{algorithm}:A": {"key": "k"}} for device, algorithm in of.items()}
                for user, of in one_time_keys.items()
            }
        }


class RecordingSink:
    """EduSink."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def typing(
        self, origin: ServerName, room_id: RoomId, user_id: UserId, typing: bool
    ) -> None:
        self.calls.append(("typing", room_id, user_id, typing))

    async def receipts(self, origin: ServerName, content: JsonObject) -> None:
        self.calls.append(("receipts", content))

    async def to_device(self, origin: ServerName, content: JsonObject) -> None:
        self.calls.append(("to_device", content))

    async def device_list_update(self, origin: ServerName, content: JsonObject) -> None:
        self.calls.append(("device_list_update", content))

    async def signing_key_update(self, origin: ServerName, content: JsonObject) -> None:
        self.calls.append(("signing_key_update", content))

    async def presence(self, origin: ServerName, content: JsonObject) -> None:
        self.calls.append(("presence", content))
