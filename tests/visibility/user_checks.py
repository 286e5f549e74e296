"""What users of the server under test get to read, held to the model: every endpoint that reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from federation.events.ids import EventId, StateKey, UserId, server_of
from tests.visibility.faults import Observation
from tests.visibility.model import State, Verdict
from tests.visibility.readers import REFUSED, Readers
from tests.visibility.story import ADMIN, OURS, STRANGER

SHOW, HIDE = Verdict.SHOW, Verdict.HIDE
PAGES_MAX = 100
_OF_THEN, _BACKWARDS = "sync of then", "messages"
_EARLY = (_OF_THEN, _BACKWARDS)
"""Answers of a moment at which some of the history wasn't here yet."""


def keyed(events: Sequence[Mapping[str, Any]]) -> dict[StateKey, EventId]:
    """State events as a state."""
    return {(one["type"], one["state_key"]): one["event_id"] for one in events}


class UserChecks:
    """Asks everything of everybody, and judges the answers."""

    def __init__(self, observation: Observation) -> None:
        self._look, self._model = observation, observation.model
        self._room_id = observation.story.room_id
        self._readers: Readers = observation.story.readers
        self._current: State = self._model.at(observation.heads)
        self._is_world_readable = self._model.visibility(self._current) == "world_readable"

    async def check(self) -> None:
        """For all users."""
        for user in (*OURS, STRANGER):
            await self._pages(user)  # first: they fetch what is missing
        for user in (*OURS, STRANGER):
            await self._events(user)
            await self._contexts(user)
            await self._state(user)
            await self._syncs(user)
        self._graph_order()
        self._redactions()
        for heard in self._look.story.heard:
            self._synced(heard.user, heard.answer, _OF_THEN)

    def _graph_order(self) -> None:
        """Fetched events stand behind their ancestors. (Live ones stand where they came.)"""
        observation = self._look
        places = {
            event_id: (row["live_index"], row["gap_index"])
            for event_id, row in observation.rows.items()
            if row["live_index"] is not None and row["gap_index"] < 0
        }
        for event_id, place in places.items():
            for above in self._model.ancestors[EventId(event_id)]:
                if above in places and places[above] > place:
                    observation.wrong("order", f"{observation.name(event_id)} before an ancestor")

    def _redactions(self) -> None:
        """What a redaction that may redact names is gone: its sender's own server's events, and all
        for the creator."""
        observation = self._look
        for event in observation.placed_of_any_kind:
            target = observation.rows.get(event.redacts or "")
            if event.type != "m.room.redaction" or target is None:
                continue
            same = server_of(event.sender) == server_of(UserId(target["sender"]))
            if (same or event.sender == ADMIN) and target["redacted_by"] is None:
                observation.wrong(
                    "redaction", f"{observation.name(target['event_id'])} is not redacted"
                )

    # Who reads

    def _was_in(self, user: UserId) -> bool:
        return any(self._look.is_placed(one) for one in self._model.joins(user))

    def _is_current(self, user: UserId) -> bool:
        return self._look.is_joined(user) or self._is_world_readable

    def _last_seen(self, user: UserId) -> list[State]:
        """The states of when the user ceased to be in the room."""
        return [self._model.after(end) for end in self._model.ends_of_stay(user)]

    # Single events

    async def _events(self, user: UserId) -> None:
        observation = self._look
        for event_id in self._model.events:
            observation.questions += 1
            answer = await self._readers.event(user, self._room_id, event_id)
            verdict = observation.verdict(event_id, user)
            if answer is not REFUSED and verdict is HIDE:
                observation.leak(f"event, {user}", observation.name(event_id))
            if answer is REFUSED and verdict is SHOW and observation.is_placed(event_id):
                observation.hidden(f"event, {user}", observation.name(event_id))
            if answer is not REFUSED:
                self._unsigned(user, answer, "event")

    def _shown(self, user: UserId, events: Sequence[Mapping[str, Any]], where: str) -> None:
        """None of these events must be hidden from the user."""
        for event in events:
            self._look.questions += 1
            if self._look.verdict(event["event_id"], user) is HIDE:
                self._look.leak(f"{where}, {user}", self._look.name(event["event_id"]))
            self._unsigned(user, event, where)

    def _unsigned(self, user: UserId, event: Mapping[str, Any], where: str) -> None:
        model, observation, event_id = self._model, self._look, EventId(event["event_id"])
        unsigned = event.get("unsigned", {})
        if not model.is_allowed(event_id):
            return
        before = model.before(event_id)
        own = (event["type"], event.get("state_key")) == ("m.room.member", user)
        membership = model.membership(model.after(event_id) if own else before, user)
        if unsigned.get("membership") not in (None, membership):
            observation.wrong(
                f"{where}, membership of {user}", (observation.name(event_id), unsigned)
            )
        if "state_key" not in event:
            return
        replaced = before.get((event["type"], event["state_key"]))
        told = "prev_content" in unsigned
        if replaced is None:
            if told:
                observation.wrong(f"{where}, prev_content of nothing", observation.name(event_id))
            return
        may = observation.verdict(replaced, user)
        own_invite = own and model.membership(before, user) == "invite"
        if told and may is HIDE and not own_invite and model.membership(before, user) != "join":
            observation.leak(f"{where}, prev_content, {user}", observation.name(event_id))
        if not told and may is SHOW and observation.is_placed(replaced) and where not in _EARLY:
            observation.hidden(f"{where}, prev_content, {user}", observation.name(event_id))

    # Contexts

    async def _contexts(self, user: UserId) -> None:
        observation, rng = self._look, self._look.story.rng
        for event in self._look.placed:
            event_id = event.event_id
            limit = rng.choice([0, 2, 7])
            answer = await self._readers.context(user, self._room_id, event_id, limit)
            verdict = observation.verdict(event_id, user)
            where = f"context, {user}"
            if answer is REFUSED:
                if verdict is SHOW and (self._was_in(user) or self._is_world_readable):
                    observation.hidden(where, observation.name(event_id))
                continue
            if verdict is HIDE:
                observation.leak(where, observation.name(event_id))
            around = [*answer["events_before"], answer["event"], *answer["events_after"]]
            self._shown(user, around, "context")
            last = [answer["event"], *answer["events_after"]][-1]["event_id"]
            self._context_state(user, EventId(last), keyed(answer["state"]), where)

    def _context_state(self, user: UserId, last: EventId, told: State, where: str) -> None:
        model, observation = self._model, self._look
        if not model.is_allowed(last):
            return
        allowed: list[State] = [model.after(last)]
        if not self._is_current(user):
            sides = [model.before(last), model.after(last)]
            if "join" not in (model.membership(side, user) for side in sides):
                allowed += self._last_seen(user)
                is_open = any(model.visibility(side) != "invited" for side in sides)
                allowed = allowed if is_open else allowed[1:]
        if dict(told) not in [dict(one) for one in allowed]:
            differs = self._difference(told, model.after(last))
            observation.leak(f"{where}, state", (observation.name(last), differs))

    def _difference(self, told: State, wanted: State) -> object:
        return [key for key in {*told, *wanted} if told.get(key) != wanted.get(key)]

    # Pages

    async def _pages(self, user: UserId) -> None:
        walks, had = [], []
        for backwards in (True, False):
            limit = self._look.story.rng.choice([2, 5, 30, 1000])
            walks.append(await self._walk(user, backwards=backwards, limit=limit))
            had.append({event.event_id for event in self._look.placed})
        back, forth = walks
        may_read = self._was_in(user) or self._is_world_readable
        for walk in walks:
            if (walk is None) is may_read:
                self._look.wrong(f"messages, {user}", "refused" if walk is None else "not refused")
        if back is None or forth is None:
            return
        back.reverse()
        forth = await self._walk(user, backwards=False, limit=1000) or []  # gaps are filled now
        self._paged(user, back, forth, had[0])

    def _paged(
        self,
        user: UserId,
        back: Sequence[Mapping[str, Any]],
        forth: Sequence[Mapping[str, Any]],
        had: Set[EventId],
    ) -> None:
        """`had`: what was there once it was paged back. A larger page forwards may bring more: one
        that reaches the room's beginning needs no state, which a server that left isn't given."""
        observation = self._look
        ids = [event["event_id"] for event in back]
        all_ids = [event["event_id"] for event in forth]
        if len(set(ids)) != len(ids) or len(set(all_ids)) != len(all_ids):
            observation.wrong(f"messages, {user}", "an event twice")
        if [one for one in all_ids if one in set(ids)] != ids:
            observation.wrong(f"messages, {user}", "another order forwards than backwards")
        self._shown(user, back, _BACKWARDS)
        self._shown(user, forth, "messages forwards")
        places = {event_id: i for i, event_id in enumerate(all_ids)}
        for event in observation.placed:
            event_id = event.event_id
            if observation.verdict(event_id, user) is not SHOW:
                continue
            if event_id not in places:
                observation.hidden(f"messages forwards, {user}", observation.name(event_id))
            elif event_id not in ids and event_id in had and self._is_due_backwards(user, event_id):
                observation.hidden(f"messages, {user}", observation.name(event_id))
        if observation.is_joined(user):
            self._whole(user)

    def _is_due_backwards(self, user: UserId, event_id: EventId) -> bool:
        """Paging begins where the reader left; what was open to all since is past that."""
        left = self._current.get(("m.room.member", user))
        if self._model.events[event_id].type == "m.room.redaction":
            return False  # it isn't told before it is applied
        if self._is_current(user) or left is None:
            return True
        return event_id == left or event_id in self._model.ancestors[left]

    def _whole(self, user: UserId) -> None:
        """A server that is in the room has, after that, all of its history."""
        observation, model = self._look, self._model
        for head in observation.heads:
            for event_id in model.ancestors[head] | {head}:
                row = observation.rows.get(event_id)
                if model.is_allowed(event_id) and (row is None or row["outlier"]):
                    observation.hidden(
                        f"messages, {user}: never fetched", observation.name(event_id)
                    )

    async def _walk(
        self, user: UserId, *, backwards: bool, limit: int
    ) -> list[dict[str, Any]] | None:
        events: list[dict[str, Any]] = []
        start: str | None = None
        for _ in range(PAGES_MAX):
            page = await self._readers.page(
                user, self._room_id, start, backwards=backwards, limit=limit
            )
            if page is REFUSED:
                return None
            events += page["chunk"]
            if "end" not in page or (not page["chunk"] and self._same(page["end"], page["start"])):
                return events
            start = page["end"]
        self._look.wrong(f"messages, {user}", "paging does not end")
        return events

    def _same(self, one: str, other: str) -> bool:
        return one.split(".")[-2:] == other.split(".")[-2:]

    # State

    async def _state(self, user: UserId) -> None:
        observation, room_id = self._look, self._room_id
        allowed = [self._current] if self._is_current(user) else self._last_seen(user)
        state = await self._readers.all_state(user, room_id)
        members = await self._readers.members(user, room_id)
        joined = await self._readers.joined_members(user, room_id)
        observation.questions += 3
        if (joined is not None) != observation.is_joined(user):
            observation.wrong(f"joined_members, {user}", joined)
        if joined is not None and joined != self._joined_of(self._current):
            observation.wrong(f"joined_members, {user}", joined)
        if state is None or members is None:
            if self._was_in(user) or self._is_current(user):
                observation.hidden(f"state, {user}", "refused")
            return
        if not self._was_in(user) and not self._is_current(user):
            observation.leak(f"state, {user}", "of a room that they were never in")
            return
        await self._state_is(user, allowed, keyed(state), {e["event_id"] for e in members})
        if observation.is_joined(user):
            await self._members_at(user)

    async def _state_is(
        self, user: UserId, allowed: Sequence[State], told: State, members: set[str]
    ) -> None:
        """One of these states is told, by all endpoints."""
        observation = self._look
        if not allowed:
            return  # what ended their stay was made on a branch where they weren't joined
        same = [one for one in allowed if dict(one) == dict(told)]
        if not same:
            observation.leak(f"state, {user}", [self._difference(told, one) for one in allowed])
        if members != {event_id for key, event_id in told.items() if _is_member(key)}:
            observation.leak(f"members, {user}", "of another time")
        topic = await self._readers.one_state(user, self._room_id, ("m.room.topic", ""))
        if topic.get("event_id") != told.get(("m.room.topic", "")):
            observation.leak(f"state/m.room.topic, {user}", topic)

    def _joined_of(self, state: State) -> set[str]:
        users = [key[1] for key in state if _is_member(key)]
        return {one for one in users if self._model.membership(state, UserId(one)) == "join"}

    async def _members_at(self, user: UserId) -> None:
        observation, model = self._look, self._model
        event = observation.story.rng.choice(observation.placed)
        answer = await self._readers.context(user, self._room_id, event.event_id, 0)
        if answer is REFUSED or not model.is_allowed(event.event_id):
            return
        members = await self._readers.members(user, self._room_id, answer["end"])
        wanted = {v for k, v in model.after(event.event_id).items() if _is_member(k)}
        if members is None or {one["event_id"] for one in members} != wanted:
            observation.wrong(f"members at, {user}", observation.name(event.event_id))

    # Syncs

    async def _syncs(self, user: UserId) -> None:
        self._synced(user, await self._readers.synced(user, None), "initial sync")
        token = self._look.story.tokens.get(user)
        if token is not None:
            self._synced(user, await self._readers.synced(user, token), "incremental sync")

    def _synced(self, user: UserId, answer: Mapping[str, Any], where: str) -> None:
        rooms = answer.get("rooms", {})
        for section in ("join", "leave"):
            found = rooms.get(section, {}).get(self._room_id)
            if found is None:
                continue
            timeline = found.get("timeline", {}).get("events", [])
            ends = [one for one in timeline if self._is_own_end(one, user)]
            self._shown(user, [one for one in timeline if one not in ends], where)
            self._synced_state(user, found.get("state", {}).get("events", []), where)
        is_due = where == "initial sync" and self._look.is_joined(user)
        if is_due and self._room_id not in rooms.get("join", {}):
            self._look.hidden(where, user)

    def _is_own_end(self, event: Mapping[str, Any], user: UserId) -> bool:
        """The event that made the room a left one is always told."""
        own = (event["type"], event.get("state_key")) == ("m.room.member", user)
        return own and event["content"].get("membership") != "join"

    def _synced_state(self, user: UserId, state: Sequence[Mapping[str, Any]], where: str) -> None:
        """State is of a moment that the user may see."""
        allowed = set(self._current.values()) if self._is_current(user) else set()
        model, observation = self._model, self._look
        for event in observation.placed:
            if (
                model.is_allowed(event.event_id)
                and observation.verdict(event.event_id, user) is not HIDE
            ):
                allowed |= set(model.before(event.event_id).values())
                allowed |= set(model.after(event.event_id).values())
        if any(one["event_id"] not in allowed for one in state):
            for moment in model.while_joined(user, observation.arrivals):
                allowed |= set(moment.values())
        for one in state:
            if one["event_id"] not in allowed:
                observation.leak(f"{where}, state, {user}", observation.name(one["event_id"]))


def _is_member(key: StateKey) -> bool:
    return key[0] == "m.room.member"
