"""Evaluates the events of the log for the local users whom they concern.

Rules:
1. An event is evaluated for the users who were in its room before it, and for a local user whom it
   invites. Its sender isn't notified, nor is a user who ignores the sender (but of state events).
2. An event that was redacted before it came notifies nobody, and neither does one that clients
   aren't shown.
3. The outcome is handed to those who subscribed (pushers) at least once, in the order of the log.

Spec: client-server API, "Receiving notifications", "Server behaviour".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import RoomId, ServerName, UserId, server_of
from homeserver import limits
from homeserver.engine.entries import EventEntry, MembershipEntry, Placed
from homeserver.engine.rooms.rooms import Rooms
from homeserver.rules.any_json import load_any
from homeserver.rules.push.conditions import EventFacts, RuleOwner
from homeserver.rules.push.outcomes import SILENT, SILENT_LEVEL, Outcome
from homeserver.rules.push.unread import MAIN, EventLevels
from homeserver.rules.rooms.head_merges import MERGE_TYPE
from homeserver.rules.timeline.relations import relation_of
from homeserver.services.push.audiences import Audiences, PushAudience


class Evaluated(msgspec.Struct, frozen=True):
    """An event of the log with its outcomes: the usual one of those in `joined` (local users who
    were in the room before it), and the users who may have another one, invited ones among them.
    What it refers to is that of the moment: a subscriber takes what it needs at once."""

    position: int
    room_id: RoomId
    entry: EventEntry | MembershipEntry
    thread: str
    usual: Outcome
    others: Mapping[UserId, Outcome]
    joined: AbstractSet[UserId]

    def outcome_of(self, user_id: UserId) -> Outcome:
        """Returns the outcome for a local user; no actions for one whom it doesn't concern."""
        found = self.others.get(user_id)
        if found is not None:
            return found
        return self.usual if user_id in self.joined else SILENT

    def notified(self, user_ids: Iterable[UserId]) -> dict[UserId, Outcome]:
        """Returns those of some users who are notified, with their outcomes."""
        found = ((user_id, self.outcome_of(user_id)) for user_id in user_ids)
        return {user_id: outcome for user_id, outcome in found if outcome.notify}


OnEvaluated: TypeAlias = Callable[[Evaluated], None]


class Evaluator:
    """Evaluates events."""

    def __init__(self, audiences: Audiences, rooms: Rooms, server_name: ServerName) -> None:
        self.audiences = audiences
        self._rooms, self._own = rooms, server_name
        self._subscribers: list[OnEvaluated] = []
        self._stores: list[Callable[[], Awaitable[None]]] = []

    def subscribe(
        self, on_evaluated: OnEvaluated, store: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Registers what is called with each event that notifies anybody, and what stores all that
        was taken from these calls."""
        self._subscribers.append(on_evaluated)
        if store is not None:
            self._stores.append(store)

    async def settle(self) -> None:
        """Has the subscribers store what they took, before the position up to which all is
        evaluated is stored. Raises DatabaseUnavailable."""
        for store in self._stores:
            await store()

    async def evaluate(self, placed: Placed, ahead: Sequence[Placed]) -> Evaluated | None:
        """Returns the outcomes of an entry; None if it notifies nobody. `ahead` are this entry and
        all behind it that rooms in memory may have seen."""
        entry = placed.entry
        if isinstance(entry, MembershipEntry):
            return await self._of_invite(placed.position, entry)
        assert isinstance(entry, EventEntry), "other entries have no events"
        if entry.redacted_by is not None or entry.event.type == MERGE_TYPE:
            return None
        audience = await self.audiences.of(entry.room_id, ahead)
        invited = self._invited(entry.event)
        if audience is None and invited is None:
            return None
        seen = seen_event(entry.event)
        usual, others = (SILENT, dict[UserId, Outcome]())
        if audience is not None:
            usual, others = audience.evaluate(seen)
        if invited is not None:
            others[invited] = await self._for_invited(invited, seen, audience)
        joined = frozenset[UserId]() if audience is None else audience.joined
        is_told = usual.notify and _has_others(joined, others)
        if not is_told and not any(one.notify for one in others.values()):
            return None
        thread = await self.thread_of(entry.event)
        return Evaluated(placed.position, entry.room_id, entry, thread, usual, others, joined)

    def tell(self, evaluated: Evaluated) -> None:
        """Hands an outcome to the subscribers."""
        for subscriber in self._subscribers:
            subscriber(evaluated)

    async def thread_of(self, event: Event) -> str:
        """Returns the thread of an event: its root, or `main`."""
        for _ in range(limits.PUSH_RELATIONS_FOLLOWED):
            relation = relation_of(event.content)
            if relation is None:
                return MAIN
            if relation.is_thread:
                return relation.event_id
            known = (await self._rooms.events([relation.event_id])).get(relation.event_id)
            if known is None or known.event.room_id != event.room_id:
                return MAIN
            event = known.event
        relation = relation_of(event.content)
        return relation.event_id if relation is not None and relation.is_thread else MAIN

    def _invited(self, event: Event) -> UserId | None:
        if event.type != event_types.MEMBER or event.membership != "invite":
            return None
        user_id = UserId(event.state_key or "")
        return user_id if server_of(user_id) == self._own else None

    async def _for_invited(
        self, user_id: UserId, seen: Mapping[str, Any], audience: PushAudience | None
    ) -> Outcome:
        rules = await self.audiences.rules_for(user_id, RoomId(seen["room_id"]))
        if seen["sender"] in await self.audiences.ignored_by(user_id):
            return SILENT
        if audience is None:
            facts = EventFacts(seen, joined=0, may_notify=lambda _: False)
        else:
            facts = audience.facts(seen)
        return rules.evaluate(facts, RuleOwner(user_id))

    async def _of_invite(self, position: int, entry: MembershipEntry) -> Evaluated | None:
        """Evaluates an invite to a room that this server isn't in, for the invited user."""
        pdu = load_any(entry.event) if entry.event else {}
        content = pdu.get("content")
        seen = {
            "type": event_types.MEMBER,
            "room_id": entry.room_id,
            "sender": entry.sender,
            "state_key": entry.user_id,
            "event_id": entry.event_id,
            "content": content if isinstance(content, dict) else {"membership": "invite"},
        }
        outcome = await self._for_invited(entry.user_id, seen, None)
        others = {entry.user_id: outcome}
        if not outcome.notify:
            return None
        return Evaluated(position, entry.room_id, entry, MAIN, SILENT, others, frozenset())


def seen_event(event: Event) -> dict[str, Any]:
    """Returns an event as rules read it."""
    seen: dict[str, Any] = {
        "type": event.type,
        "room_id": event.room_id,
        "sender": event.sender,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "content": event.content,
    }
    if event.state_key is not None:
        seen["state_key"] = event.state_key
    return seen


def _has_others(joined: AbstractSet[UserId], named: Mapping[UserId, Outcome]) -> bool:
    """Returns whether somebody in a room isn't named: often only the sender is of this server."""
    return len(joined) > len(named) or not joined <= named.keys()


def levels_of(evaluated: Evaluated, entry: EventEntry) -> EventLevels | None:
    """Returns the levels of an event for those in its room; None if it notifies none of them."""
    usual, joined = evaluated.usual.level, evaluated.joined
    named = {
        user_id: outcome.level
        for user_id, outcome in evaluated.others.items()
        if outcome.level != usual and user_id in joined
    }
    if usual == SILENT_LEVEL and not named:
        return None
    return EventLevels(entry.order[0], entry.event.event_id, evaluated.thread, usual, named)
