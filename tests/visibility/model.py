"""Who may see what, by the text of the specification alone.

Client-server API, "Room history visibility", "Server behaviour": the rules are about the state of
the room at an event, which is taken from the graph as the simulation's oracle understands it. No
code is shared with the server's own judgement.

Where the text leaves it open (an event beside a stay, on a branch of the graph) the answer is
`EITHER`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, UserId, server_of
from federation.events.room_versions import RoomVersion
from federation.events.signatures import required_signers
from tests.simulation.oracle import GraphOracle

State = Mapping[StateKey, EventId]
VISIBILITY: StateKey = ("m.room.history_visibility", "")


class Verdict(Enum):
    """What the text says of an event and a reader."""

    SHOW = "show"
    HIDE = "hide"
    EITHER = "either"


def best(verdicts: Iterable[Verdict]) -> Verdict:
    """That of a server whose users have these: it may have what one of them may see."""
    found = set(verdicts)
    for one in (Verdict.SHOW, Verdict.EITHER):
        if one in found:
            return one
    return Verdict.HIDE


@dataclass
class Model:
    """A room's true graph, and what follows of it."""

    version: RoomVersion
    events: Mapping[EventId, Event]
    """All of the room's events, as they were sent."""
    is_known: Callable[[EventId], bool] = lambda _: True
    """Does the server that is asked know an event? It can't count joins that it doesn't know."""
    oracle: GraphOracle = field(init=False)
    ancestors: dict[EventId, frozenset[EventId]] = field(init=False)

    def __post_init__(self) -> None:
        self.oracle = GraphOracle(self.version, self.events, required_signers)
        self.ancestors = {}
        for event in self.oracle.order:
            above: set[EventId] = set(event.prev_events)
            for parent in event.prev_events:
                above |= self.ancestors.get(parent, frozenset())
            self.ancestors[event.event_id] = frozenset(above)

    # State

    def is_allowed(self, event_id: EventId) -> bool:
        """Does the graph know the event, and does the state before it allow it?"""
        return event_id in self.oracle.before and event_id not in self.oracle.rejected

    def before(self, event_id: EventId) -> State:
        """The state before an event."""
        return self.oracle.before[event_id]

    def after(self, event_id: EventId) -> State:
        """The state after an event."""
        state = self.oracle.after(event_id)
        assert state is not None, "the graph is whole"
        return state

    def at(self, heads: Collection[EventId]) -> State:
        """The state of a room with these ends."""
        return self.oracle.resolved([self.after(head) for head in heads])

    def visibility(self, state: State) -> str:
        """The history visibility of a state: `shared` by default."""
        event_id = state.get(VISIBILITY)
        value: Any = None
        if event_id is not None:
            value = self.events[event_id].content.get("history_visibility")
        return value if value in ("world_readable", "invited", "joined") else "shared"

    def membership(self, state: State, user: UserId) -> str:
        """A user's membership of a state: `leave` by default."""
        event_id = state.get(("m.room.member", user))
        if event_id is None:
            return "leave"
        return str(self.events[event_id].content.get("membership", "leave"))

    # Readers

    def verdict(self, event: Event, user: UserId, *, is_joined: bool) -> Verdict:
        """May the user see the event? `is_joined`: they are in the room now."""
        sides = [self.before(event.event_id)]
        own = (event.type, event.state_key) == ("m.room.member", user)
        if own or (event.type, event.state_key) == VISIBILITY:
            sides.append(self.after(event.event_id))
        later = self._joined_later(event, user, is_joined=is_joined)
        return best(self._by_rules(state, user, later) for state in sides)

    def _by_rules(self, state: State, user: UserId, later: Verdict) -> Verdict:
        visibility, membership = self.visibility(state), self.membership(state, user)
        if visibility == "world_readable":  # 1
            return Verdict.SHOW
        if membership == "join":  # 2
            return Verdict.SHOW
        if visibility == "shared" and later is not Verdict.HIDE:  # 3
            return later
        if membership == "invite" and visibility == "invited":  # 4
            return Verdict.SHOW
        return Verdict.HIDE  # 5

    def _joined_later(self, event: Event, user: UserId, *, is_joined: bool) -> Verdict:
        """Did the user join at any point after the event was sent?"""
        if is_joined:
            return Verdict.SHOW
        event_id, found = event.event_id, Verdict.HIDE
        for join in self.joins(user):
            if event_id in self.ancestors[join] and self.is_known(join):
                return Verdict.SHOW
            if join != event_id and join not in self.ancestors[event_id]:
                found = Verdict.EITHER  # beside it, or unknown
        return found

    def joins(self, user: UserId) -> list[EventId]:
        """The allowed events by which a user is in the room."""
        return [
            one.event_id
            for one in self.oracle.order
            if (one.type, one.state_key) == ("m.room.member", user)
            and one.content.get("membership") == "join"
            and self.is_allowed(one.event_id)
        ]

    def while_joined(self, user: UserId, arrivals: Iterable[EventId]) -> list[State]:
        """The states that a room had for the user's server while the user was in it, one for each
        of the accepted events in the order in which they arrived there. To who is joined, state is
        "taken from the current state of the room", to who left "from the state of the room when
        they left" (/rooms/{roomId}/state/{eventType}/{stateKey}), whatever hides the events."""
        heads: set[EventId] = set()
        state: State = {}
        found = []
        for event_id in arrivals:
            if not self._has_joined(state, server_of(user)):
                heads = set()  # it begins anew with what the exchange gives
            if not any(event_id in self.ancestors[head] for head in heads):
                heads = {event_id, *(heads - self.ancestors[event_id])}
            state = self.at(sorted(heads))
            if self.membership(state, user) == "join":
                found.append(state)
        return found

    def _has_joined(self, state: State, server: ServerName) -> bool:
        users = [UserId(key[1]) for key in state if key[0] == "m.room.member"]
        return any(
            server_of(one) == server and self.membership(state, one) == "join" for one in users
        )

    def ends_of_stay(self, user: UserId) -> list[EventId]:
        """The events by which a user who isn't in the room ceased to be for the last time. On
        several branches there may be several: the text doesn't say which counts."""
        joins = self.joins(user)
        return [
            one.event_id
            for one in self.oracle.order
            if (one.type, one.state_key) == ("m.room.member", user)
            and self.is_allowed(one.event_id)
            and self.membership(self.before(one.event_id), user) == "join"
            and self.membership(self.after(one.event_id), user) != "join"
            and not any(one.event_id in self.ancestors[join] for join in joins)
        ]
