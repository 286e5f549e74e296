"""Received events that can't be decided yet: stored durably, and tried until they can.

Rules:
1. Budgets are per origin and per room. Past them a transaction is refused with 429 and comes again
   later: nothing is dropped for a limit of ours.
2. Each origin's events of a room are tried one after the other, by when they are due (`lanes`),
   beside those of other origins. A bounded number of rooms of one origin is worked on at once.
3. An event that can't be decided waits longer and longer, and no longer than about a week; when its
   origin is heard from again it is tried at once.
4. An event that several servers sent is in the lane of each (a few), and decided once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from federation.causes import Cause, CauseKind, caused_by
from federation.errors import MatrixError
from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, ServerName
from federation.events.room_versions import ROOM_VERSIONS
from federation.limits import (
    INBOX_ATTEMPTS_MAX,
    INBOX_FAILURES_MAX,
    INBOX_LANES_PER_EVENT_MAX,
    INBOX_OTHER_LANE_S,
    INBOX_RETRY_AFTER_MS,
    INBOX_RETRY_S_MAX,
    INBOX_RETRY_S_MIN,
    INBOX_ROOMS_AT_ONCE_PER_ORIGIN_MAX,
    INBOX_WAIT_S_MIN,
    INBOX_WAITING_PER_ORIGIN_MAX,
    INBOX_WAITING_PER_ROOM_AND_ORIGIN_MAX,
    INBOX_WAITING_PER_ROOM_MAX,
    INBOX_WAITING_RESERVED,
)
from federation.metrics import FederationMetrics
from federation.ports import (
    Clock,
    EventStore,
    InboxStore,
    WaitingEvent,
)
from federation.retries import DoublingWaits
from federation.transport.inbound.gap_filler import GapFiller, Outcome, Undecided, pdu_result
from federation.transport.scheduling.counters import lower
from federation.transport.scheduling.lanes import Lane

_log = logging.getLogger(__name__)
_WAITS_S = DoublingWaits(INBOX_RETRY_S_MIN, INBOX_RETRY_S_MAX)


Spawn = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]
"""Starts a long-lived task by name; the factory makes its coroutine, again after a failure."""


@dataclass(frozen=True, slots=True)
class InboxPorts:
    """The dependencies of the inbox and its backlog."""

    store: EventStore
    waiting: InboxStore
    clock: Clock
    metrics: FederationMetrics
    spawn: Spawn


class Backlog:
    """All waiting events. `start` resumes those of the last run."""

    def __init__(self, ports: InboxPorts, filler: GapFiller) -> None:
        self._store, self._waiting, self._filler = ports.store, ports.waiting, filler
        self._clock, self._metrics, self._spawn = ports.clock, ports.metrics, ports.spawn
        self._lanes: dict[ServerName, dict[RoomId, Lane]] = {}
        # the senders of each event; the first counts for the budgets
        self._kept: dict[RoomId, dict[EventId, list[ServerName]]] = {}
        self._waiting_of: Counter[ServerName] = Counter()
        self._slots: dict[ServerName, asyncio.Semaphore] = {}
        self._under_way: set[EventId] = set()
        self._broken_over: Counter[EventId] = Counter()

    async def start(self) -> None:
        """Resumes the stored events."""
        for one in await self._waiting.listed():
            self._enter(one.room_id, one.event_id, one.origin)

    def on_server_seen(self, server: ServerName) -> None:
        """Reacts to a server that is up again: it may help to decide its events."""
        for lane in self._lanes.get(server, {}).values():
            lane.hurry(self._clock.monotonic_s())
            lane.wakeup.set()

    # --- received events --------------------------------------------------------------------------

    async def keep(self, origin: ServerName, keep: Sequence[WaitingEvent]) -> None:
        """Stores events durably and sees to it that they are tried. Raises MatrixError past a
        budget."""
        new = [one for one in keep if one.event_id not in self._kept.get(one.room_id, {})]
        for room_id, count in Counter(one.room_id for one in new).items():
            self._check_space(origin, room_id, count)
        if self._waiting_of[origin] + len(new) > INBOX_WAITING_PER_ORIGIN_MAX:
            raise too_much("too much of this server waits")
        await self._waiting.keep(keep)
        for one in keep:
            self._enter(one.room_id, one.event_id, origin)

    def _check_space(self, origin: ServerName, room_id: RoomId, count: int) -> None:
        """A room's space is for all: no origin has all of it, and each has some, even when others
        have filled it. Raises MatrixError."""
        kept = self._kept.get(room_id, {})
        own = sum(origins[0] == origin for origins in kept.values()) + count
        is_full = len(kept) + count > INBOX_WAITING_PER_ROOM_MAX
        most = INBOX_WAITING_RESERVED if is_full else INBOX_WAITING_PER_ROOM_AND_ORIGIN_MAX
        if own > most:
            raise too_much("too much waits in the room")

    def _enter(self, room_id: RoomId, event_id: EventId, origin: ServerName) -> None:
        """Puts an event into the lane of its origin."""
        origins = self._kept.setdefault(room_id, {}).setdefault(event_id, [])
        if origin in origins or len(origins) >= INBOX_LANES_PER_EVENT_MAX:
            return
        if not origins:
            self._waiting_of[origin] += 1
        origins.append(origin)
        lanes = self._lanes.setdefault(origin, {})
        lane = lanes.get(room_id)
        if lane is None:
            lane = lanes[room_id] = Lane(self._clock)
            self._wake(origin, room_id)
        lane.add(event_id, self._clock.monotonic_s())
        lane.wakeup.set()

    def _forget(self, room_id: RoomId, event_id: EventId) -> None:
        """Forgets an event that waits no longer."""
        kept = self._kept.get(room_id, {})
        origins = kept.pop(event_id, [])
        if origins:
            lower(self._waiting_of, origins[0])
        for origin in origins:
            lane = self._lanes.get(origin, {}).get(room_id)
            if lane is not None:
                lane.drop(event_id)
                lane.wakeup.set()
        if not kept:
            self._kept.pop(room_id, None)
        self._broken_over.pop(event_id, None)

    # --- attempts ---------------------------------------------------------------------------------

    def _wake(self, origin: ServerName, room_id: RoomId) -> None:
        self._spawn(f"inbox {room_id} {origin}", lambda: self._work(origin, room_id))

    async def _work(self, origin: ServerName, room_id: RoomId) -> None:
        """Drains a lane; ends when it is empty."""
        lane = self._lanes[origin][room_id]
        while (first := lane.first()) is not None:
            due_s, event_id = first
            left_s = due_s - self._clock.monotonic_s()
            if left_s > 0:
                await lane.wakeup.wait(max(INBOX_WAIT_S_MIN, left_s))
            elif event_id in self._under_way:
                lane.add(event_id, self._clock.monotonic_s() + INBOX_OTHER_LANE_S)
            else:
                async with self._slot(origin):
                    await self._work_off(lane, origin, room_id, event_id)
        # no await between the check of the lane and this
        del self._lanes[origin][room_id]
        if not self._lanes[origin]:
            del self._lanes[origin]

    @asynccontextmanager
    async def _slot(self, origin: ServerName) -> AsyncIterator[None]:
        """Holds one of the slots for rooms of an origin that are worked on at once."""
        slots = self._slots.setdefault(
            origin, asyncio.Semaphore(INBOX_ROOMS_AT_ONCE_PER_ORIGIN_MAX)
        )
        async with slots:
            yield
        if len(self._lanes.get(origin, {})) <= 1:
            self._slots.pop(origin, None)

    async def _work_off(
        self, lane: Lane, origin: ServerName, room_id: RoomId, event_id: EventId
    ) -> None:
        """Tries one event, which is then finished, or due again later."""
        if event_id not in lane or event_id in self._under_way:
            return  # another lane was quicker while this one waited for its turn
        self._under_way.add(event_id)
        try:
            waiting = await self._waiting.load(room_id, event_id)
            wait_s = None if waiting is None else await self._try(waiting, origin)
        finally:
            self._under_way.discard(event_id)
        if wait_s is not None:
            await self._waiting.postpone(room_id, [event_id])
            lane.add(event_id, self._clock.monotonic_s() + wait_s)
            return
        await self._waiting.remove(room_id, [event_id])
        self._forget(room_id, event_id)

    async def _try(self, waiting: WaitingEvent, origin: ServerName) -> float | None:
        """Decides an event if possible; otherwise returns the seconds that it has to wait."""
        event = load_event(waiting.pdu, ROOM_VERSIONS[waiting.version], waiting.event_id)
        stored = (await self._store.load_events([event.event_id])).get(event.event_id)
        if stored is not None and not stored.outlier:
            return None
        outcome = await self._settle(event, origin, waiting.attempts)
        if isinstance(outcome, Undecided) and waiting.attempts + 1 < INBOX_ATTEMPTS_MAX:
            wait_s = _WAITS_S.after(waiting.attempts + 1)
            _log.info("%s waits %s s: %s", event.event_id, wait_s, outcome.detail)
            return wait_s
        _log.info("%s of %s: %s", event.event_id, origin, outcome)
        self._metrics.federation_pdus_waited.inc(pdu_result(outcome))
        return None

    async def _settle(self, event: Event, origin: ServerName, attempts: int) -> Outcome:
        """Decides an event. One that failed several times is deferred, so that it doesn't hold up
        its lane, and tried again later."""
        if self._broken_over[event.event_id] >= INBOX_FAILURES_MAX:
            del self._broken_over[event.event_id]
            return Undecided("deciding it fails here")
        self._broken_over[event.event_id] += 1
        with caused_by(Cause(CauseKind.SERVER, origin)):
            outcome = await self._filler.settle(event, origin, attempts=attempts)
        del self._broken_over[event.event_id]
        return outcome


def too_much(detail: str) -> MatrixError:
    """Returns the refusal for an origin with too many waiting events."""
    return MatrixError(
        429, "M_LIMIT_EXCEEDED", detail, extra={"retry_after_ms": INBOX_RETRY_AFTER_MS}
    )
