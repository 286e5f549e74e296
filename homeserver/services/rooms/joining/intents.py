"""`RemoteRooms` whose joins, knocks, leaves and invites are finished or undone, even after a crash.

Rules:
1. The intent is stored before another server may sign or accept the event, and deleted once both
   sides agree: it was completed here too, or it was refused.
2. An intent left by a crash is finished, since the user asked for it and got no answer. If it is
   refused by then, it is undone.
3. If the user was told of a failure although the other server may have accepted the event, it is
   undone there: the user leaves. But the join of an invited user is finished: a leave would also
   refuse the invite, and another attempt would no longer find it.
4. Our invite of another server's user is finished with the same event: no event would retract it at
   a server that isn't in the room. It is given up after a bounded number of attempts.
5. A leave waits for the other servers only a short time. Then the membership ends here, and the
   other servers are told as soon as they can be reached.
6. An intent is dropped when it is superseded: by a newer one, by a later invite, by a join.

Spec: server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room", "Inviting to a
room"; design, "What keeps it right", 9.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from federation import limits
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from federation.graph.building import EventDraft
from federation.ports import Clock
from federation.retries import DoublingWaits
from federation.transport.joining.failures import JoiningUncertain
from homeserver.engine.followers.memberships import UserRoom
from homeserver.services.rooms.membership import RemoteRooms
from homeserver.storage.database import Database, DatabaseUnavailable
from homeserver.storage.rooms.joining_intents import Intent, JoiningIntentTable

log = logging.getLogger(__name__)

_Key = tuple[UserId, RoomId]
RoomsOf = Callable[[UserId], Awaitable[Mapping[RoomId, UserRoom]]]
EndHere = Callable[[RoomId, UserId, EventId], Awaitable[bool]]
"""Ends a local membership according to an event that no other server signed
(`OutsideMemberships.end_unsigned`)."""


class InvitingRooms(RemoteRooms, Protocol):
    """`RemoteRooms` with invites in two steps: between them the event can be stored.

    A Protocol: tests of intents script how each exchange ends."""

    async def draft_invite(self, room_id: RoomId, draft: EventDraft) -> JsonObject:
        """Returns the signed invite, which no other server has yet except the room's policy server,
        if it uses one.
        """

    async def send_invite(self, room_id: RoomId, pdu: JsonObject) -> EventId:
        """Requests the signature of the invited user's server for such an invite, and appends it to
        the room. The same invite may be sent again."""


@dataclass(slots=True)
class _Attempt:
    """An attempt in progress; a later intent that supersedes it moves its deadline to now."""

    scope: asyncio.Timeout


class DurableJoining:
    """Performs exchanges by `remote`; `rooms_of` returns a user's memberships as stored here."""

    def __init__(
        self,
        database: Database,
        remote: InvitingRooms,
        rooms_of: RoomsOf,
        *,
        end_here: EndHere,
        clock: Clock,
    ) -> None:
        self._stored, self._remote, self._clock = JoiningIntentTable(database), remote, clock
        self._rooms_of, self._end_here = rooms_of, end_here
        self._due: dict[_Key, tuple[float, Intent]] = {}
        self._attempts: dict[_Key, _Attempt] = {}
        self._wake = asyncio.Event()

    # `RemoteRooms`

    async def join(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """`RemoteRooms.join`."""
        intent = Intent(user_id, room_id, "join", _NONE, tuple(servers), content)
        async with self._intended(intent):
            await self._remote.join(room_id, user_id, servers, content)

    async def knock(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """`RemoteRooms.knock`."""
        async with self._intended(
            Intent(user_id, room_id, "knock", _NONE, tuple(servers), content)
        ):
            await self._remote.knock(room_id, user_id, servers, content)

    async def leave(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """`RemoteRooms.leave`, for a short time; then 504, and the servers are told later."""
        former = _event_of((await self._rooms_of(user_id)).get(room_id))
        intent = Intent(user_id, room_id, "leave", former, tuple(servers), content)
        await self._begin(intent)
        try:
            async with asyncio.timeout(limits.LEAVE_WAIT_S_MAX):
                await self._remote.leave(room_id, user_id, servers, content)
        except TimeoutError:
            self._later(intent, 0.0)
            raise MatrixError(504, "M_UNKNOWN", "The room's servers don't answer") from None
        except MatrixError as error:
            if _is_refused(error):
                await self._stored.delete(*intent.key)
            else:
                self._later(intent, limits.JOINING_RETRY_S_MIN)
            raise
        await self._stored.delete(*intent.key)

    async def guests_may_join(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        """`RemoteRooms.guests_may_join`."""
        return await self._remote.guests_may_join(room_id, servers)

    async def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """`RemoteRooms.invite`."""
        pdu = await self._remote.draft_invite(room_id, draft)
        target = UserId(str(draft.state_key))
        intent = Intent(target, room_id, "invite", _NONE, (server_of(target),), pdu)
        await self._begin(intent)
        try:
            event_id = await self._remote.send_invite(room_id, pdu)
        except MatrixError as error:
            if _is_certain(error):
                await self._stored.delete(*intent.key)
            else:
                self._later(intent, limits.JOINING_RETRY_S_MIN)
            raise
        except BaseException:
            self._later(intent, limits.JOINING_RETRY_S_MIN)
            raise
        await self._stored.delete(*intent.key)
        return event_id

    # Intents

    @asynccontextmanager
    async def _intended(self, intent: Intent) -> AsyncIterator[None]:
        """Runs the intended operation in the block, and raises the error for the user."""
        await self._begin(intent)
        try:
            yield
        except JoiningUncertain as error:
            await self._undo(intent, error.servers)
            raise
        except MatrixError as error:
            if _is_certain(error):
                await self._stored.delete(*intent.key)
            else:  # the other server took it, but it couldn't be stored here
                await self._undo(intent, intent.servers)
            raise
        except BaseException:  # the user got no answer, so it is finished
            self._later(intent, limits.JOINING_RETRY_S_MIN)
            raise
        await self._stored.delete(*intent.key)

    async def _undo(self, intent: Intent, servers: Sequence[ServerName]) -> None:
        own = (await self._rooms_of(intent.user_id)).get(intent.room_id)
        if intent.membership == "join" and own is not None and own.membership == "invite":
            accepting = msgspec.structs.replace(intent, former=own.event_id)
            await self._stored.save(accepting)
            self._later(accepting, limits.JOINING_RETRY_S_MIN)
            return
        former = _event_of(own)
        undo = Intent(intent.user_id, intent.room_id, "leave", former, tuple(servers), {**_LEAVE})
        try:
            await self._stored.save(undo)
        finally:
            self._later(undo, 0.0)

    async def _begin(self, intent: Intent) -> None:
        self._due.pop(intent.key, None)
        attempt = self._attempts.get(intent.key)
        if attempt is not None and not attempt.scope.expired():
            attempt.scope.reschedule(asyncio.get_running_loop().time())
        await self._stored.save(intent)

    def _later(self, intent: Intent, wait_s: float) -> None:
        self._due[intent.key] = (self._clock.monotonic_s() + wait_s, intent)
        self._wake.set()

    # The background task

    async def run(self) -> None:
        """Completes what a former process left, then new intents; runs under the supervisor."""
        for intent in await self._stored.load_all():
            if intent.key not in self._due:
                self._later(intent, 0.0)
        while True:
            self._wake.clear()
            wait_s = await self.work_once()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def work_once(self) -> float | None:
        """Tries all due intents; returns the seconds until the next one (None: nothing is left)."""
        now_s = self._clock.monotonic_s()
        due = [intent for due_s, intent in self._due.values() if due_s <= now_s]
        for intent in due:
            del self._due[intent.key]
        for start in range(0, len(due), limits.JOINING_AT_ONCE_MAX):
            some = due[start : start + limits.JOINING_AT_ONCE_MAX]
            await asyncio.gather(*(self._settle(intent) for intent in some))
        if not self._due:
            return None
        return max(0.0, min(due_s for due_s, _ in self._due.values()) - now_s)

    async def _settle(self, intent: Intent) -> None:
        scope = asyncio.timeout(limits.JOINING_ATTEMPT_S_MAX)
        self._attempts[intent.key] = _Attempt(scope)
        try:
            async with scope:
                is_over = await self._try(intent)
        except (TimeoutError, DatabaseUnavailable) as error:
            log.info("%s of %s in %s: %r", intent.membership, *intent.key, error)
            is_over = False
        finally:
            del self._attempts[intent.key]
        if intent.key in self._due:
            return  # superseded by an intent that failed too
        if is_over:
            await self._stored.delete(*intent.key)
        elif not await self._is_overtaken(intent):
            await self._postpone(intent)

    async def _is_overtaken(self, intent: Intent) -> bool:
        """Returns whether another intent has taken its place."""
        return await self._stored.load(*intent.key) != intent

    async def _postpone(self, intent: Intent) -> None:
        tried = msgspec.structs.replace(intent, attempts=intent.attempts + 1)
        is_invite = intent.membership == "invite"
        most = limits.INVITE_ATTEMPTS_MAX if is_invite else limits.JOINING_ATTEMPTS_MAX
        if tried.attempts >= most:
            log.warning("given up: %s of %s in %s", intent.membership, *intent.key)
            await self._stored.delete(*intent.key)
            return
        await self._stored.save(tried)
        waits = DoublingWaits(limits.JOINING_RETRY_S_MIN, limits.JOINING_RETRY_S_MAX)
        self._later(tried, waits.after(tried.attempts + 1))

    async def _try(self, intent: Intent) -> bool:
        """Makes one attempt; returns whether the intent is done."""
        if intent.membership == "invite":
            return await self._try_to_invite(intent)
        own = (await self._rooms_of(intent.user_id)).get(intent.room_id)
        if not _is_wanted(intent, own):
            return True
        do = {"join": self._remote.join, "knock": self._remote.knock, "leave": self._remote.leave}
        room_id, user_id = intent.room_id, intent.user_id
        try:
            await do[intent.membership](room_id, user_id, intent.servers, intent.content)
        except MatrixError as error:
            if intent.membership == "leave":  # the user's leave counts
                await self._end_here(room_id, user_id, intent.former)
            if not _is_refused(error):
                return False
            log.info("%s of %s in %s: %s", intent.membership, user_id, room_id, error)
            if intent.membership != "leave":
                await self._leave_if_there(intent)
        return True

    async def _try_to_invite(self, intent: Intent) -> bool:
        try:
            await self._remote.send_invite(intent.room_id, intent.content)
        except MatrixError as error:
            log.info("%s of %s in %s: %s", intent.membership, *intent.key, error)
            return _is_refused(error)
        return True

    async def _leave_if_there(self, intent: Intent) -> None:
        """Leaves a room whose join or knock is now refused, but may have been accepted before."""
        try:
            await self._remote.leave(intent.room_id, intent.user_id, intent.servers, {**_LEAVE})
        except MatrixError as error:
            log.info("%s isn't in %s: %s", intent.user_id, intent.room_id, error)


_NONE = EventId("")
_LEAVE: JsonObject = {"membership": "leave"}
_NOT_REACHED = 502
"""Errors after which no server has the event."""


def _event_of(own: UserRoom | None) -> EventId:
    """Returns the event of a membership; empty for none."""
    return _NONE if own is None else own.event_id


def _is_certain(error: MatrixError) -> bool:
    """Returns whether the exchange is known to have had no effect."""
    is_unsent = error.status == _NOT_REACHED and not isinstance(error, JoiningUncertain)
    return is_unsent or _is_refused(error)


def _is_refused(error: MatrixError) -> bool:
    """Returns whether a server refused, so that the exchange had no effect."""
    return 400 <= error.status < 500 and not isinstance(error, JoiningUncertain)


def _is_wanted(intent: Intent, own: UserRoom | None) -> bool:
    """Returns whether the intent is still what the user wants, given their membership `own`
    here.
    """
    membership = "" if own is None else own.membership
    if intent.membership == "leave" or intent.former:
        return membership != "join" and _event_of(own) == intent.former
    return membership not in ("join", "ban", intent.membership)
