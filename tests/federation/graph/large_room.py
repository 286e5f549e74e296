"""Rooms of many members, made without signing: for what grows with a room and what must not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import immutables

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, StateKey, UserId
from federation.events.room_versions import RoomVersion, room_version
from federation.graph.resolution.chains import Citations, LoadEvent, loader

ADMIN = UserId("@admin:a")
LEVELS: StateKey = ("m.room.power_levels", "")
RULES: StateKey = ("m.room.join_rules", "")
Delta = Mapping[StateKey, EventId | None]


@dataclass
class LargeRoom:
    """A room, its events, and the state of a moment as a persistent map."""

    version: RoomVersion
    members: int
    level_changes: int = 0
    """How often the power levels were changed before: each is in the chain of what came after."""

    def __post_init__(self) -> None:
        self.events: dict[EventId, Event] = {}
        self.state: dict[StateKey, Event] = {}
        self.room_id = RoomId("!room:a")
        content = {"room_version": self.version.name, "creator": ADMIN}
        create = self.add("m.room.create", "", content, cites=())
        if self.version.room_id_is_create_hash:
            self.room_id = RoomId("!" + create.event_id[1:])
        self.member(ADMIN, "join")
        users: dict[str, int] = {} if self.version.creators_are_privileged else {ADMIN: 100}
        self.levels(users)
        self.add("m.room.join_rules", "", {"join_rule": "public"}, cites=(LEVELS,))
        for number in range(self.members):
            self.member(member_of(number), "join")
        for number in range(self.level_changes):
            self.levels({**users, member_of(7): number % 50})
        self.settle()

    def settle(self) -> None:
        """Takes the state as it is now for the base of what follows."""
        self.base: immutables.Map[StateKey, EventId] = immutables.Map(
            (key, event.event_id) for key, event in self.state.items()
        )
        self.citations = Citations(self.events.values())
        self.settled = list(self.events.values())

    def add(
        self,
        event_type: str,
        state_key: str,
        content: dict[str, Any],
        *,
        cites: Iterable[StateKey],
        sender: UserId = ADMIN,
    ) -> Event:
        """Returns a state event on top of the state, citing it under these keys (and the create
        event)."""
        keys = [("m.room.create", ""), *cites, ("m.room.member", sender)]
        if not self.version.create_in_auth_events:
            keys.pop(0)
        number = len(self.events)
        event_id = EventId(f"$e{number}:a")
        room_id = self.room_id
        if self.version.room_id_is_create_hash and event_type == "m.room.create":
            room_id = RoomId("!" + event_id[1:])
        cited = (self.state[key].event_id for key in keys if key in self.state)
        event = Event(
            event_id=event_id,
            room_id=room_id,
            type=event_type,
            sender=sender,
            state_key=state_key,
            content=content,
            prev_events=() if event_type == "m.room.create" else (EventId(f"$e{number - 1}:a"),),
            auth_events=tuple(dict.fromkeys(cited)),
            depth=number + 1,
            origin_server_ts=number + 1,
            redacts=None,
            version=self.version,
            raw=b"{}",
        )
        self.events[event_id] = event
        self.state[event.key] = event
        return event

    def member(self, user: UserId, membership: str, *, sender: UserId | None = None) -> Event:
        """Returns a member event."""
        keys: list[StateKey] = [LEVELS, ("m.room.member", user)]
        if membership == "join":
            keys.append(RULES)
        content = {"membership": membership}
        return self.add("m.room.member", user, content, cites=keys, sender=sender or user)

    def levels(self, users: Mapping[str, int], *, sender: UserId = ADMIN) -> Event:
        """Returns a power levels event."""
        content = {"users": dict(users)}
        return self.add("m.room.power_levels", "", content, cites=(LEVELS,), sender=sender)

    @property
    def load(self) -> LoadEvent:
        """Loads this room's events."""
        return loader(self.events)

    def beside(self, make: Iterable[Any]) -> list[Event]:
        """Returns events of a branch, by calls that add them; the room's state stays as it is."""
        kept = dict(self.state)
        made = [call() for call in make]
        self.state = kept
        return made

    def branch(self, events: Iterable[Event]) -> Delta:
        """Returns what a branch with these events changes of the base."""
        changes: dict[StateKey, EventId | None] = {}
        for event in events:
            self.citations.add(event)
            changes[event.key] = event.event_id
        return changes


def member_of(number: int) -> UserId:
    return UserId(f"@member{number}:s{number % 500}")


def forked(
    version_name: str, members: int, level_changes: int = 0
) -> tuple[LargeRoom, list[Delta]]:
    """Returns a room with a two-way fork and ten conflicted keys: power levels (changed twice on
    one side), join rules, four members kicked on one side who change their names on the other, and
    four other entries."""
    room = LargeRoom(room_version(version_name), members, level_changes)
    return room, [room.branch(events) for events in fork_of(room)]


def fork_of(room: LargeRoom) -> tuple[list[Event], list[Event]]:
    """Returns the events of the two branches of such a fork."""
    own: dict[str, int] = {} if room.version.creators_are_privileged else {ADMIN: 100}
    others = [f"m.x{number}" for number in range(4)]
    kicked = [member_of(number) for number in range(4)]

    def setting(name: str, value: int) -> Event:
        return room.add(name, "", {"value": value}, cites=(LEVELS,))

    one = room.beside(
        [
            lambda: room.levels({**own, member_of(5): 50}),
            lambda: room.levels({**own, member_of(5): 50, member_of(6): 50}),
            lambda: room.add("m.room.join_rules", "", {"join_rule": "invite"}, cites=(LEVELS,)),
            *(lambda user=user: room.member(user, "leave", sender=ADMIN) for user in kicked),
            *(lambda name=name: setting(name, 1) for name in others),
        ]
    )
    two = room.beside(
        [
            *(lambda user=user: room.member(user, "join") for user in kicked),
            *(lambda name=name: setting(name, 2) for name in others),
        ]
    )
    return one, two
