"""Tells other servers of the presence of local users.

Rules:
1. Each server in a user's rooms is told; what a server is to be told of is a set of users. Their
   state is looked up when it is sent, so that a server gets the latest one alone.
2. Sendings are `PRESENCE_SEND_S` apart, each to so many servers at most, the longest waiting first.
3. A server that is down is told nothing, and nothing is kept for it. When it is up again, it is
   told who is there.
4. A server that comes into a room is told who is there in it, a user's new room of that user.
5. Who stays is told again before other servers take them to be gone.

Spec: server-server API, "Presence".
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence, Set
from typing import Any, Protocol

from federation.events import event_types
from federation.events.ids import RoomId, ServerName, UserId, server_of
from federation.ports import Clock
from homeserver import limits
from homeserver.engine.entries import EventEntry, Placed, StateChange, StateEntry
from homeserver.rules.ephemeral.due_times import DueTimes
from homeserver.rules.ephemeral.presence import OFFLINE, content_of
from homeserver.services.ephemeral.presence_board import PresenceBoard, PresenceRecord
from homeserver.services.ephemeral.presence_rooms import HotMembers
from homeserver.services.ephemeral.typing_audience import Forward

ServersOf = Callable[[UserId], Awaitable[Collection[ServerName]]]
"""Returns the other servers in a local user's rooms."""


class ServerHealth(Protocol):
    """What is known of other servers (`federation.transport.requests.backoff.Backoffs`).

    A Protocol: tests say themselves which servers are down.
    """

    def wait_s(self, server: ServerName) -> float:
        """Returns how long a server that is down is left alone; 0 for others."""

    def on_recovered(self, recovered: Callable[[ServerName], None]) -> None:
        """Registers `recovered`, which is called with each server that is up again."""


class PresenceFeed:
    """What other servers are to be told."""

    def __init__(
        self,
        board: PresenceBoard,
        rooms: HotMembers,
        *,
        clock: Clock,
        servers_of: ServersOf,
        forward: Forward,
        health: ServerHealth,
        is_on: bool,
    ) -> None:
        """With `is_on` False no server is told anything."""
        self._board, self._rooms, self._clock = board, rooms, clock
        self._servers_of, self._forward, self._health = servers_of, forward, health
        self._is_on = is_on
        self._changed: dict[UserId, None] = {}
        self._pending: OrderedDict[ServerName, dict[UserId, None]] = OrderedDict()
        self._pairs = 0
        self._kept: OrderedDict[UserId, Collection[ServerName]] = OrderedDict()
        self._kept_pairs = self._unkept = 0
        self._recovered: set[ServerName] = set()
        self._repeats: DueTimes[UserId] = DueTimes()
        self._arrived = asyncio.Event()
        board.subscribe(self._note)
        board.on_drop(self._forget)
        health.on_recovered(self._note_recovered)

    # What there is to tell

    def _note(self, record: PresenceRecord) -> None:
        user_id = record.user_id
        if not self._is_on or not self._board.is_local(user_id):
            return
        self._changed[user_id] = None
        is_there = record.shown.state != OFFLINE
        repeat_s = self._clock.monotonic_s() + limits.PRESENCE_REPEAT_S
        self._repeats.set(user_id, repeat_s if is_there else None)
        self._arrived.set()

    def _note_recovered(self, server: ServerName) -> None:
        if self._is_on:
            self._recovered.add(server)
            self._arrived.set()

    def on_commit(self, batch: Sequence[Placed]) -> None:
        """Follows the log (rule 4)."""
        remote: Counter[tuple[RoomId, ServerName]] = Counter()
        for placed in batch if self._is_on else ():
            entry = placed.entry
            if isinstance(entry, EventEntry | StateEntry):
                for change in entry.changes:
                    if change.key[0] == event_types.MEMBER:
                        self._note_member(entry.room_id, change, remote)
        for (room_id, server), joins in remote.items():
            self._note_server(room_id, server, joins)

    def _note_member(
        self, room_id: RoomId, change: StateChange, remote: Counter[tuple[RoomId, ServerName]]
    ) -> None:
        """Notes that a user came or left; `remote` counts those of other servers."""
        user_id, is_in = UserId(change.key[1]), change.membership == "join"
        if is_in == (change.former == "join"):
            return
        if not self._board.is_local(user_id):
            remote[room_id, server_of(user_id)] += 1 if is_in else -1
            return
        self._unkeep(user_id)
        room = self._rooms.hot(room_id)
        if room is not None and is_in and self._is_there(user_id):
            for server in room.joined_servers:
                self._add(server, (user_id,))

    def _note_server(self, room_id: RoomId, server: ServerName, joins: int) -> None:
        """Notes how many more users of another server are in a room than before the batch: the room
        in memory is as after it."""
        room = self._rooms.hot(room_id)
        count = 0 if room is None else room.joined_servers.get(server, 0)
        if room is None or (count > 0) == (count - joins > 0):
            return  # others of that server are there, before and after
        for one in room.joined_local:
            self._unkeep(one)
        if count > 0:
            self._add(server, (one for one in room.joined_local if self._is_there(one)))

    def _is_there(self, user_id: UserId) -> bool:
        record = self._board.get(user_id)
        return record is not None and record.shown.state != OFFLINE

    def _add(self, server: ServerName, user_ids: Iterable[UserId]) -> None:
        """Notes that a server is to be told of users, unless it is down."""
        if server == self._board.server_name or self._health.wait_s(server) > 0:
            return
        pending = self._pending.get(server, {})
        for user_id in user_ids:
            if user_id not in pending and self._pairs < limits.PRESENCE_PENDING_PAIRS:
                pending[user_id] = None
                self._pairs += 1
        if pending:
            self._pending[server] = pending
            self._arrived.set()

    # The servers of a user

    async def _servers(self, user_id: UserId) -> Collection[ServerName]:
        kept = self._kept.get(user_id)
        if kept is not None:
            self._kept.move_to_end(user_id)
            return kept
        before = self._unkept
        found = await self._servers_of(user_id)
        if self._unkept != before or user_id in self._kept:
            return found  # memberships changed meanwhile, or another reader was first
        self._kept[user_id] = found
        self._kept_pairs += len(found)
        while self._kept_pairs > limits.PRESENCE_SERVERS_KEPT and len(self._kept) > 1:
            self._unkeep(next(iter(self._kept)))
        return found

    def _unkeep(self, user_id: UserId) -> None:
        self._kept_pairs -= len(self._kept.pop(user_id, ()))
        self._unkept += 1

    def _forget(self, user_id: UserId) -> None:
        self._unkeep(user_id)
        self._changed.pop(user_id, None)
        self._repeats.set(user_id, None)

    # Sending

    async def collect(self) -> None:
        """Sorts what has changed by server."""
        now_s = self._clock.monotonic_s()
        for user_id in self._repeats.take(now_s):
            self._changed[user_id] = None
            self._repeats.set(user_id, now_s + limits.PRESENCE_REPEAT_S)
        while self._changed:
            user_id = next(iter(self._changed))
            servers = await self._servers(user_id)
            self._changed.pop(user_id, None)
            for number, server in enumerate(servers, start=1):
                self._add(server, (user_id,))
                if number % limits.PRESENCE_STEP == 0:
                    await asyncio.sleep(0)
        if recovered := frozenset(self._recovered):
            await self._greet(recovered)
            self._recovered -= recovered

    async def _greet(self, recovered: Set[ServerName]) -> None:
        """Has servers that are up again told who is there."""
        there = [one.user_id for one in self._board.after(0) if one.shown.state != OFFLINE]
        for user_id in there:
            if self._board.is_local(user_id):
                for server in recovered & set(await self._servers(user_id)):
                    self._add(server, (user_id,))

    def send(self) -> int:
        """Sends to the servers that wait longest; returns how many EDUs went out."""
        sent = 0
        for _ in range(min(len(self._pending), limits.PRESENCE_SERVERS_AT_ONCE)):
            server, users = self._pending.popitem(last=False)
            self._pairs -= len(users)
            if self._health.wait_s(server) > 0:
                continue
            now, later = _split(list(users), limits.PRESENCE_UPDATES_PER_EDU)
            push = [update for one in now if (update := self._update(one)) is not None]
            if push:
                edu = {"edu_type": event_types.PRESENCE, "content": {"push": push}}
                self._forward([server], edu)
                sent += 1
            self._add(server, later)
        return sent

    def _update(self, user_id: UserId) -> dict[str, Any] | None:
        record = self._board.get(user_id)
        if record is None:
            return None
        content = content_of(record.shown, record.active_s, self._clock.monotonic_s())
        return {"user_id": user_id, "last_active_ago": 0, **content}

    async def run(self) -> None:
        """Runs under the supervisor until cancelled."""
        while True:
            if not (self._changed or self._pending or self._recovered or self._repeats):
                self._arrived.clear()
                await self._arrived.wait()
            await self._clock.sleep(limits.PRESENCE_SEND_S)
            await self.collect()
            self.send()


def _split(users: Sequence[UserId], most: int) -> tuple[Sequence[UserId], Sequence[UserId]]:
    return users[:most], users[most:]
