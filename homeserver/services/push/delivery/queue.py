"""The notifications that pushers are owed, from the evaluation of the log to the attempt.

Rules:
1. Only users who have pushers have rows here. They are stored before the position of the log up to
   which events are evaluated: after a crash, events beyond it are evaluated again, so nothing is
   lost, and what was pushed just before may be pushed again.
2. A row goes once all pushers of its user were told of it, or when it is too old for all of them.

Spec: push gateway API; client-server API, "Push Notifications".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from federation.events.ids import UserId
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import EventEntry, UnitLog
from homeserver.engine.followers.memberships import Memberships
from homeserver.rules.push.unread import whole_room
from homeserver.services.push.delivery.attempts import OwedPushes
from homeserver.services.push.evaluator import Evaluated
from homeserver.services.push.unread_counts import UnreadCounts
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.push.owed_pushes import NewPush, OwedPush, OwedPushTable

log = logging.getLogger(__name__)

OnChanged: TypeAlias = Callable[[Collection[UserId]], None]


class KnownPushers:
    """The IDs of all pushers by their users, some 300 bytes each."""

    def __init__(self) -> None:
        self._of_user: dict[UserId, set[int]] = {}

    def __contains__(self, user_id: UserId) -> bool:
        """Returns whether a user has pushers."""
        return user_id in self._of_user

    def among(self, user_ids: AbstractSet[UserId]) -> AbstractSet[UserId]:
        """Returns those of some users who have pushers."""
        return self._of_user.keys() & user_ids

    def of(self, user_id: UserId) -> Collection[int]:
        """Returns the pushers of a user."""
        return self._of_user.get(user_id, ())

    def add(self, user_id: UserId, pusher_id: int) -> None:
        """Adds a pusher."""
        self._of_user.setdefault(user_id, set()).add(pusher_id)

    def remove(self, user_id: UserId, pusher_id: int) -> None:
        """Removes a pusher that is gone."""
        rest = self._of_user.get(user_id, set())
        rest.discard(pusher_id)
        if not rest:
            self._of_user.pop(user_id, None)


class PushQueue:
    """Stores what pushers are owed, and reads it for them (`PushSource`)."""

    def __init__(
        self,
        database: Database,
        counts: UnreadCounts,
        memberships: Memberships,
        *,
        committer: UnitLog,
        clock: Clock,
        known: KnownPushers,
    ) -> None:
        self._table, self._counts, self._memberships = OwedPushTable(database), counts, memberships
        self._committer, self._clock, self._known = committer, clock, known
        self._new: list[NewPush] = []
        self._on_changed: list[OnChanged] = []

    def subscribe(self, on_changed: OnChanged) -> None:
        """Registers what is told of users who have new notifications."""
        self._on_changed.append(on_changed)

    # Following the evaluation

    def on_evaluated(self, evaluated: Evaluated) -> None:
        """Takes an event that notifies somebody; it waits in memory for `store`."""
        concerned = self._known.among(evaluated.joined) | self._known.among(evaluated.others.keys())
        if not concerned:
            return
        entry, now_ms = evaluated.entry, self._clock.now_ms()
        event_id = entry.event.event_id if isinstance(entry, EventEntry) else entry.event_id
        for user_id, outcome in evaluated.notified(concerned).items():
            push = OwedPush(evaluated.position, evaluated.room_id, event_id, outcome.json, now_ms)
            self._new.append(NewPush(user_id, push))

    async def store(self) -> None:
        """Stores what was taken. Raises DatabaseUnavailable, and keeps it then."""
        if self._new:
            await self._table.store(self._new)
            concerned = {one.user_id for one in self._new}
            self._new = []
            for on_changed in self._on_changed:
                on_changed(concerned)

    # Reading

    async def stored(self) -> None:
        """Returns once the tables have what is owed and what is read by now."""
        await self._counts.stored(self._committer.position)

    async def owed(self, user_id: UserId, *, after: int, since_ms: int, limit: int) -> OwedPushes:
        """`PushSource.owed`."""
        up_to = self._committer.position
        await self._counts.stored(up_to)
        pushes = await self._table.unread(user_id, after=after, since_ms=since_ms, limit=limit)
        return OwedPushes(pushes, up_to)

    async def newest_of_rooms(
        self, user_id: UserId, *, after: int, up_to: int | None, since_ms: int, limit: int
    ) -> Sequence[OwedPush]:
        """`PushSource.newest_of_rooms`."""
        return await self._table.newest_of_rooms(
            user_id, after=after, up_to=up_to, since_ms=since_ms, limit=limit
        )

    async def unread(self, user_id: UserId) -> int:
        """Returns the number of unread notifications in all rooms that a user is in."""
        counts = await self._counts.of(user_id, self._committer.position)
        rooms = await self._memberships.of(user_id)
        joined = (room_id for room_id, row in rooms.items() if row.membership == "join")
        return sum(whole_room(counts[room_id]).notified for room_id in joined)

    async def lagging(self) -> Sequence[tuple[UserId, int]]:
        """`PushSource.lagging`."""
        return await self._table.lagging(since_ms=self._clock.now_ms() - limits.PUSH_AGE_MS)

    async def run(self) -> None:
        """Deletes what isn't owed any more, now and then; runs under the supervisor."""
        while True:
            await self._clock.sleep(limits.PUSH_PRUNE_S)
            try:
                await self._table.prune(before_ms=self._clock.now_ms() - limits.PUSH_AGE_MS)
            except DatabaseUnavailable as error:
                log.warning("old pushes wait for the database: %s", error)
