"""Pushes on their way: one task for each pusher that is owed something.

Rules:
1. A pusher is told of its user's notifications one after the other, in the order of the log, at
   least once. How far it was told is stored after each answer, so a start resumes there.
2. What is read, redacted or too old by the time of the attempt isn't pushed any more. A pusher that
   is owed many gets the newest of each room.
3. A change of the number of unread notifications that comes without a new one is pushed alone.
4. A failing pusher waits longer with each failure. What a gateway refuses several times is passed
   over, and so is what makes the task fail; no pusher waits for another one.
5. Push keys that a gateway rejects are deleted, with their pushers.
6. While an account is locked its pushers are told nothing: a lock is for an account that others may
   have got hold of. What they are owed waits, as for a failing one.

Spec: push gateway API; client-server API, "Push Notifications".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeAlias

from federation.events.ids import UserId
from federation.https_urls import HttpsUrl
from federation.transport.wakeup import Wakeup
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, ReceiptEntry
from homeserver.rules.push.pushers import gateway_of
from homeserver.services.push.delivery.attempts import (
    Attempt,
    AttemptState,
    PushAttempts,
    PushPorts,
)
from homeserver.services.push.delivery.queue import KnownPushers
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.push.pushers import PusherProgress, PusherTable, StoredPusher

log = logging.getLogger(__name__)

Spawn: TypeAlias = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]
"""Starts a long-lived task by name; the factory makes its coroutine, again after a failure."""


class _Task:
    """The task of a pusher. `is_reset`: the pusher was set anew, so its back-off is over."""

    __slots__ = ("is_reset", "state", "stored", "wakeup")

    def __init__(self, wakeup: Wakeup) -> None:
        self.wakeup = wakeup
        self.state = AttemptState()
        self.stored: StoredPusher | None = None
        self.is_reset = False


class PushDeliveries:
    """The pushers of all users, who are served from `start` on."""

    def __init__(self, database: Database, ports: PushPorts, known: KnownPushers) -> None:
        self._table, self._source = PusherTable(database), ports.source
        self._attempts = PushAttempts(self._table, ports)
        self._gateways, self._clock = ports.gateways, ports.clock
        self._spawn: Spawn | None = None
        self._known = known
        self._tasks: dict[int, _Task] = {}

    async def start(self, spawn: Spawn) -> None:
        """Learns of all pushers, and serves those that the last run left owed something, each by a
        task that `spawn` starts."""
        self._spawn = spawn
        for user_id, pusher_id in await self._table.load_ids():
            self._known.add(user_id, pusher_id)
        for user_id, pusher_id in await self._source.lagging():
            self._wake(user_id, pusher_id)

    def on_set(self, user_id: UserId, pusher_id: int) -> None:
        """Serves a pusher that was set; one that was failing is tried at once."""
        self._known.add(user_id, pusher_id)
        self._wake(user_id, pusher_id).is_reset = True

    def on_changed(self, user_ids: Collection[UserId]) -> None:
        """Serves the pushers of users who have new notifications, or have read some."""
        for user_id in user_ids:
            for pusher_id in self._known.of(user_id):
                self._wake(user_id, pusher_id)

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log: who sends a receipt or an event has read something."""
        for placed in batch:
            match placed.entry:
                case ReceiptEntry(user_id=user_id):
                    self.on_changed([user_id])
                case EventEntry(event=event) if event.sender in self._known:
                    self.on_changed([event.sender])

    def is_serving(self, pusher_id: int) -> bool:
        """Returns whether the pusher has a task now."""
        return pusher_id in self._tasks

    def _wake(self, user_id: UserId, pusher_id: int) -> _Task:
        task = self._tasks.get(pusher_id)
        if task is None:
            task = self._tasks[pusher_id] = _Task(Wakeup(self._clock))
            assert self._spawn is not None, "nobody is served before the start"
            self._spawn("pusher", lambda: self._serve(user_id, pusher_id))
        task.wakeup.set()
        return task

    # --- one pusher -------------------------------------------------------------------------------

    async def _serve(self, user_id: UserId, pusher_id: int) -> None:
        """Pushes until the pusher is gone, or nothing has been owed for a while."""
        task = self._tasks[pusher_id]
        if task.stored is not None:  # the task failed, and was started again
            await self._attempts.give_up(task.stored, task.state)
            task.stored = None
        while True:
            try:
                attempt = await self._step(pusher_id, task)
            except DatabaseUnavailable as error:
                log.warning("pushes wait for the database: %s", error)
                await self._clock.sleep(limits.PUSH_DATABASE_RETRY_S)
                continue
            if attempt is None:
                self._known.remove(user_id, pusher_id)
                break
            if attempt is Attempt.HELD_BACK:
                await task.wakeup.wait(limits.PUSH_BADGE_PAUSE_S)
            elif attempt is Attempt.NOTHING and not await task.wakeup.wait(limits.PUSH_IDLE_S):
                break
        # no await between the last check and this
        del self._tasks[pusher_id]

    async def _step(self, pusher_id: int, task: _Task) -> Attempt | None:
        """Makes one attempt, once it is due and has its turn; None if the pusher is gone."""
        if task.stored is None:
            task.stored = await self._table.load(pusher_id)
        if task.stored is None:
            return None
        if (gateway := _gateway_to_tell(task.stored)) is None:
            task.stored = None  # read again at the next wake-up: a lock may have ended
            return Attempt.NOTHING
        await self._wait_back_off(task, task.stored.progress)
        user_id, is_failing = task.stored.user_id, task.stored.progress.failures > 0
        async with self._gateways.turn(user_id, gateway, is_failing=is_failing):
            task.stored = await self._table.load(pusher_id)
            if task.stored is None or _gateway_to_tell(task.stored) != gateway:
                return None if task.stored is None else Attempt.MADE
            attempt = await self._attempts.step(task.stored, gateway, task.state)
        task.stored = None  # its progress was stored
        return attempt

    async def _wait_back_off(self, task: _Task, progress: PusherProgress) -> None:
        """Waits until a failing pusher may be tried again, or is set anew. The clock may have been
        set since the failure: no wait is longer than the longest."""
        if progress.retry_at_ms is not None:
            wait_s = (progress.retry_at_ms - self._clock.now_ms()) / 1000
            end_s = self._clock.monotonic_s() + min(wait_s, limits.PUSH_RETRY_S_MAX)
            while not task.is_reset and (left_s := end_s - self._clock.monotonic_s()) > 0:
                await task.wakeup.wait(left_s)
        task.is_reset = False


def _gateway_to_tell(stored: StoredPusher) -> HttpsUrl | None:
    """Returns the gateway of a pusher that may be told something now; None for one of another kind
    (`digests`), or of a locked user."""
    return None if stored.is_locked else gateway_of(stored.pusher)
