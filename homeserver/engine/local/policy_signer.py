"""Requests the signature of a room's policy server for events of local users, before they are
placed.

Rules:
1. No network request is made under a room's lock. An event is built on the committed view, sent to
   the policy server, and then placed with the parents that it names, if the room's state at that
   moment still allows it. Other events may have been placed in the meantime: then the room forks,
   as if another server had sent it.
2. One user's sends in a room are serialised, from building to commit, so their order is kept and
   each follows the last. A bounded number may wait, for a bounded time.
3. An event that the policy server refuses is discarded. The client gets the error's text, but only
   error codes that it can't mistake for a statement about its own session.
4. For rooms without a policy server the only cost is one look-up in their state.

Spec: server-server API, "Policy Servers"; design, "What keeps it right", 9.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, UserId
from federation.graph.admission import Accepted, settle
from federation.graph.building import EventDraft
from federation.graph.policy_servers import (
    NotRecommended,
    PolicyServer,
    check_policy,
    needs_recommendation,
    policy_server_of,
)
from federation.ports import PolicyRefusal, PolicyServerChanged, PolicySigner
from homeserver import limits
from homeserver.engine.entries import TransactionKey
from homeserver.engine.local.stager import BuiltEvent, Stager
from homeserver.engine.log.staging import StagedEvent
from homeserver.engine.rooms.room import Room, RoomView
from homeserver.engine.rooms.rooms import Rooms
from homeserver.errors import forbidden, unavailable

_CODES_PASSED_ON = {"M_FORBIDDEN": 403, "M_BAD_JSON": 400}
_TURN = tuple[RoomId, UserId]


class NoPolicyServer:
    """A `PolicySigner` for an engine that can't reach other servers."""

    async def sign(self, event: Event, policy: PolicyServer) -> Event | PolicyRefusal:
        """Always refuses for now."""
        return PolicyRefusal("this server asks no others", is_final=False)


class _Turn:
    """The serialised sends of one user in a room, and the number of waiting ones."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.present = 0


def policy_server(
    room: Room, view: RoomView, load: Callable[[EventId], Event]
) -> PolicyServer | None:
    """Returns the policy server that a room uses by the state of a view. Raises NotLoaded."""
    ref = view.state.get(event_types.POLICY_KEY)
    if ref is None:
        return None
    staged = room.staged_events.get(ref.event_id)
    event = staged.event if staged else load(ref.event_id)
    return policy_server_of({event_types.POLICY_KEY: event}.get, view.servers)


class EventSigner:
    """Knows the policy servers of rooms, and requests their signatures for events of ours."""

    def __init__(self, rooms: Rooms, stager: Stager, signer: PolicySigner) -> None:
        self._rooms, self._stager, self._signer = rooms, stager, signer
        self._turns: dict[_TURN, _Turn] = {}

    async def policy_of(self, room: Room, view: RoomView) -> PolicyServer | None:
        """Returns the policy server that the room uses by a view of it."""
        if event_types.POLICY_KEY not in view.state:
            return None
        load = self._rooms.memory.cached_event
        return await self._rooms.loading(lambda: policy_server(room, view, load))

    async def require_no_signature(self, room: Room, draft: EventDraft) -> None:
        """Checks, under the room's lock, that a draft may be staged unsigned. Raises
        PolicyServerChanged if it has to be signed first."""
        if event_types.POLICY_KEY not in room.staged.state:
            return
        if not needs_recommendation(draft.type, draft.state_key):
            return
        if await self.policy_of(room, room.staged) is not None:
            raise PolicyServerChanged

    async def check_new_room(self, room: Room, draft: EventDraft) -> None:
        """Checks the same as `require_no_signature`, for a room that was just created. Raises 403:
        no other user is in it yet, so its policy server would be ours, which doesn't know the room.
        """
        try:
            await self.require_no_signature(room, draft)
        except PolicyServerChanged:
            raise forbidden("A new room can't have its own server as its policy server") from None

    # Before the room's lock

    @asynccontextmanager
    async def turn(self, room_id: RoomId, sender: UserId) -> AsyncIterator[None]:
        """Serialises the sends of a user in a room. Raises 503 if too many wait, or it takes too
        long."""
        turn = self._turns.setdefault((room_id, sender), _Turn())
        if turn.present > limits.POLICY_SENDS_WAITING:
            raise unavailable("too many of your events wait for the room's policy server")
        turn.present += 1
        has_turn = False
        try:
            try:
                async with asyncio.timeout(limits.POLICY_TURN_S):
                    has_turn = await turn.lock.acquire()
            except TimeoutError:
                raise unavailable("the room's policy server is too slow") from None
            yield
        finally:
            if has_turn:
                turn.lock.release()
            turn.present -= 1
            if turn.present == 0:
                del self._turns[room_id, sender]

    async def make(self, room: Room, drafts: Sequence[EventDraft]) -> list[EventDraft | BuiltEvent]:
        """Returns drafts as signed events on the committed view, in parallel; those that need no
        signature stay as they are. Raises MatrixError."""
        made: list[EventDraft | BuiltEvent] = []
        for draft in drafts:
            policy = await self.policy_of(room, room.view)
            if policy is None or not needs_recommendation(draft.type, draft.state_key):
                made.append(draft)
                continue
            own = await self._stager.build(room, draft)
            signed = await self._signed(own.event, policy)
            made.append(msgspec.structs.replace(own, event=signed))
        return made

    async def sign(self, room: Room, event: Event) -> tuple[Event, PolicyServer | None]:
        """Returns an event of ours for a room as committed, with its policy server's signature, and
        that server; unchanged if the room uses none, or it is signed. Raises MatrixError."""
        policy = await self.policy_of(room, room.view)
        if policy is None or not needs_recommendation(event.type, event.state_key):
            return event, None
        if check_policy(event, policy) is None:
            return event, policy
        return await self._signed(event, policy), policy

    async def _signed(self, event: Event, policy: PolicyServer) -> Event:
        outcome = await self._signer.sign(event, policy)
        if isinstance(outcome, PolicyRefusal):
            raise _told(outcome)
        return outcome

    # Under the room's lock

    async def place(
        self, room: Room, made: BuiltEvent, transaction: tuple[TransactionKey, bytes] | None
    ) -> StagedEvent:
        """Places a signed event, if the room now allows it. Raises PolicyServerChanged if the
        policy server has changed, or the state that it was built on was corrected; 403 if the auth
        rules refuse."""
        if made.corrections != room.corrections:
            raise PolicyServerChanged
        current = room.auth_state(room.staged.state, self._rooms.memory.cached_event)
        policy = await self.policy_of(room, room.staged)
        verdict = await self._rooms.loading(lambda: settle(made.event, current, policy=policy))
        if not isinstance(verdict, Accepted):
            failure = verdict.failure
            if isinstance(failure, NotRecommended):
                raise PolicyServerChanged
            raise forbidden(f"{failure.detail} ({failure.rule.name.lower()})")
        return await self._stager.place_made(room, made, transaction)


def _told(refusal: PolicyRefusal) -> MatrixError:
    """Returns the policy server's refusal as an error for the client that sent the event."""
    text = refusal.error or f"The room's policy server doesn't recommend it: {refusal.detail}"
    if not refusal.is_final:
        return unavailable(
            f"Nothing was sent: {refusal.detail}",
            retry_after_s=max(1, math.ceil(refusal.retry_after_s)),
        )
    status = _CODES_PASSED_ON.get(refusal.errcode)
    return forbidden(text) if status is None else MatrixError(status, refusal.errcode, text)
