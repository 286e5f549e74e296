"""One push to one pusher: what it is owed first, the attempt, and what follows from its outcome.

Spec: push gateway API; client-server API, "Push Notifications".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec
import orjson

from federation.events.ids import UserId
from federation.https_urls import HttpsUrl
from federation.ports import Clock
from federation.retries import DoublingWaits
from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.rules.push.gateway_messages import PushDevice, badge_message, event_message
from homeserver.rules.push.pushers import PusherKey
from homeserver.services.push.delivery.contents import PushContents
from homeserver.services.push.delivery.gateways import Gateways, PushFailed, PushFailure
from homeserver.storage.push.owed_pushes import OwedPush
from homeserver.storage.push.pushers import PusherProgress, PusherTable, StoredPusher

log = logging.getLogger(__name__)

_WAITS = DoublingWaits(limits.PUSH_RETRY_S_MIN, limits.PUSH_RETRY_S_MAX)


class OwedPushes(msgspec.Struct, frozen=True):
    """The first notifications that are owed, in order. If they are fewer than were asked for, no
    others are owed up to the position `up_to`."""

    pushes: Sequence[OwedPush]
    up_to: int


class PushSource(Protocol):
    """The unread notifications of users; `since_ms` leaves out older ones.

    A Protocol: tests of deliveries have one in memory.
    """

    async def owed(
        self, user_id: UserId, *, after: int, since_ms: int, limit: int
    ) -> OwedPushes: ...

    async def newest_of_rooms(
        self, user_id: UserId, *, after: int, up_to: int | None, since_ms: int, limit: int
    ) -> Sequence[OwedPush]:
        """Returns the newest one of each room, of the rooms with the newest ones, in order."""

    async def unread(self, user_id: UserId) -> int: ...

    async def lagging(self) -> Sequence[tuple[UserId, int]]:
        """Returns the pushers (with their users) that may be owed something."""


@dataclass(frozen=True, slots=True)
class PushPorts:
    """The dependencies of pushes; `random` returns floats in [0, 1)."""

    source: PushSource
    contents: PushContents
    gateways: Gateways
    clock: Clock
    metrics: ServerMetrics
    random: Callable[[], float]


class Attempt(Enum):
    """What came of a step."""

    MADE = "made"
    """Something was pushed, passed over or failed: more may be owed."""
    NOTHING = "nothing"
    """Nothing is owed."""
    HELD_BACK = "held back"
    """The number of unread notifications is owed, but was pushed a moment ago."""


class AttemptState:
    """What is remembered of a pusher between two steps. `collapsed_to`: up to this position only
    the newest notification of each room is pushed. `trying` is the one that is being pushed."""

    __slots__ = ("badge_s", "collapsed_to", "trying")

    def __init__(self) -> None:
        self.badge_s = float("-inf")  # when the number alone was pushed last
        self.collapsed_to = -1
        self.trying: OwedPush | None = None


class PushAttempts:
    """Makes pushes. The caller has a turn at the gateway."""

    def __init__(self, table: PusherTable, ports: PushPorts) -> None:
        self._table, self._source, self._contents = table, ports.source, ports.contents
        self._gateways, self._clock, self._metrics = ports.gateways, ports.clock, ports.metrics
        self._random = ports.random

    async def step(self, pusher: StoredPusher, gateway: HttpsUrl, state: AttemptState) -> Attempt:
        """Pushes what the pusher is owed first."""
        # read first: the number that is pushed alone has nothing in it that is still to be told
        unread = await self._source.unread(pusher.user_id)
        owed = await self._owed(pusher, state)
        if owed.pushes:
            state.trying = owed.pushes[0]
            await self._push_event(pusher, gateway, owed.pushes[0])
            state.trying = None
            return Attempt.MADE
        passed = msgspec.structs.replace(pusher.progress, cursor=owed.up_to, badge=unread)
        return await self._push_badge(pusher, gateway, state, passed)

    async def give_up(self, pusher: StoredPusher, state: AttemptState) -> None:
        """Counts a failure of this server to push what it was trying."""
        trying, state.trying = state.trying, None
        if trying is not None:
            failed = PushFailed(PushFailure.REFUSED, "it can't be sent")
            passed = msgspec.structs.replace(pusher.progress, cursor=trying.position)
            await self._note_failure(pusher, failed, passed)

    async def _owed(self, pusher: StoredPusher, state: AttemptState) -> OwedPushes:
        user_id, after, most = pusher.user_id, pusher.progress.cursor, limits.PUSHES_IN_A_ROW
        since_ms = self._clock.now_ms() - limits.PUSH_AGE_MS
        up_to: int | None = state.collapsed_to
        if after >= state.collapsed_to:
            owed = await self._source.owed(user_id, after=after, since_ms=since_ms, limit=most + 1)
            if len(owed.pushes) <= most:
                return owed
            up_to = None
        pushes = await self._source.newest_of_rooms(
            user_id, after=after, up_to=up_to, since_ms=since_ms, limit=most
        )
        if not pushes:  # they were read meanwhile
            state.collapsed_to = -1
            return await self._source.owed(user_id, after=after, since_ms=since_ms, limit=most)
        state.collapsed_to = pushes[-1].position
        return OwedPushes(pushes, pushes[-1].position)

    async def _push_event(self, pusher: StoredPusher, gateway: HttpsUrl, push: OwedPush) -> None:
        passed = msgspec.structs.replace(pusher.progress, cursor=push.position)
        event = await self._contents.event(pusher.user_id, push.room_id, push.event_id)
        if event is None:
            await self._table.note(pusher.pusher_id, passed)
            return
        unread = await self._source.unread(pusher.user_id)
        body = event_message(
            _device(pusher),
            event,
            await self._contents.names(pusher.user_id, event),
            actions=orjson.loads(push.actions),
            unread=unread,
        )
        try:
            rejected = await self._gateways.notify(gateway, body)
        except PushFailed as failed:
            await self._note_failure(pusher, failed, passed)
        else:
            self._metrics.pushes_sent.inc("event")
            await self._note_told(pusher, push.position, unread, rejected)

    async def _push_badge(
        self,
        pusher: StoredPusher,
        gateway: HttpsUrl,
        state: AttemptState,
        passed: PusherProgress,
    ) -> Attempt:
        """Pushes the number of unread notifications; `passed` is how far the pusher is with it."""
        progress, now_s = pusher.progress, self._clock.monotonic_s()
        if passed.badge == progress.badge:
            if passed.cursor - progress.cursor >= limits.PUSH_CURSOR_POSITIONS:
                await self._table.note(pusher.pusher_id, passed)
            return Attempt.NOTHING
        if now_s < state.badge_s + limits.PUSH_BADGE_PAUSE_S:
            return Attempt.HELD_BACK
        state.badge_s = now_s
        try:
            body = badge_message(_device(pusher), unread=passed.badge)
            rejected = await self._gateways.notify(gateway, body)
        except PushFailed as failed:
            await self._note_failure(pusher, failed, passed)
        else:
            self._metrics.pushes_sent.inc("count")
            await self._note_told(pusher, passed.cursor, passed.badge, rejected)
        return Attempt.MADE

    async def _note_told(
        self, pusher: StoredPusher, cursor: int, unread: int, rejected: frozenset[str]
    ) -> None:
        key = pusher.pusher.key
        if key.pushkey in rejected:
            log.info("a push gateway rejects a key of %s", pusher.user_id)
            self._metrics.pushers_rejected.inc()
            await self._table.delete(pusher.user_id, [PusherKey(key.app_id, key.pushkey)])
        else:
            await self._table.note(pusher.pusher_id, PusherProgress(cursor, unread))

    async def _note_failure(
        self, pusher: StoredPusher, failed: PushFailed, passed: PusherProgress
    ) -> None:
        """Notes a failure, and when it is tried again. `passed` is how far the pusher is without
        what failed, if it is passed over."""
        self._metrics.pushes_failed.inc(failed.kind.value)
        log.info("a push to a device of %s failed: %s", pusher.user_id, failed)
        now_ms, progress = self._clock.now_ms(), pusher.progress
        failures = progress.failures + 1
        since_ms = now_ms if progress.failing_since_ms is None else progress.failing_since_ms
        is_refused = failed.kind is PushFailure.REFUSED and failures >= limits.PUSH_REFUSALS
        if is_refused or now_ms - since_ms > limits.PUSH_AGE_MS:
            progress = passed
        wait_s = _WAITS.after(failures) * (1 - limits.PUSH_RETRY_JITTER * self._random())
        wait_s = max(wait_s, failed.retry_after_s)
        await self._table.note(
            pusher.pusher_id,
            msgspec.structs.replace(
                progress,
                failures=failures,
                failing_since_ms=since_ms,
                retry_at_ms=now_ms + int(wait_s * 1000),
            ),
        )


def _device(pusher: StoredPusher) -> PushDevice:
    return PushDevice(pusher.pusher, pusher.user_id, pusher.set_ms)
