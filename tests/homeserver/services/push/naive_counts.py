"""An independent model of unread notifications: every count is made anew from the whole history.

It knows who sent what when, who was in the room then, and by which rules; nothing is ever added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.events.ids import UserId
from tests.homeserver.rules.push.naive_rules import Model

Json = dict[str, Any]


@dataclass
class Happened:
    """An event of the room, with its levels: 0 silent, 1 notified, 2 highlighted."""

    event_id: str
    sender: UserId
    thread: str
    levels: dict[UserId, int]
    is_redacted: bool = False


@dataclass
class Member:
    """A user: their rules as they see them, whom they ignore, and what they have read."""

    rules: Mapping[str, Any]
    name: str = ""
    is_joined: bool = False
    ignored: set[UserId] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=dict)


class RoomModel:
    """One room."""

    def __init__(self, room_id: str) -> None:
        self.room_id = room_id
        self.events: list[Happened] = []
        self.members: dict[UserId, Member] = {}
        self.may_notify: set[UserId] = set()

    @property
    def joined(self) -> list[UserId]:
        """The members who are in the room."""
        return [user for user, member in self.members.items() if member.is_joined]

    def happens(self, event_id: str, event: Json, *, thread: str = "main") -> None:
        """A new event: everyone in the room is told by their rules."""
        sender = UserId(event["sender"])
        is_state = "state_key" in event
        levels = {
            user: self._level(user, {**event, "room_id": self.room_id})
            for user in self.joined
            if user != sender and (is_state or sender not in self.members[user].ignored)
        }
        self.events.append(Happened(event_id, sender, thread, levels))
        if not is_state and event["type"] != "m.room.redaction":
            self.reads(sender, thread, len(self.events) - 1)

    def _level(self, user: UserId, event: Json) -> int:
        member = self.members[user]
        may = UserId(event["sender"]) in self.may_notify
        model = Model(member.rules, member.name, len(self.joined), {"room": may})
        actions = model.actions(event)
        lit = [one for one in actions if isinstance(one, dict) and one["set_tweak"] == "highlight"]
        return ("notify" in actions) + any(one.get("value", True) for one in lit)

    def reads(self, user: UserId, thread: str, place: int) -> None:
        """A user has read a thread, or everything with ""."""
        read = self.members[user].read
        read[thread] = max(place, read.get(thread, -1))

    def joins(self, user: UserId) -> None:
        """A user comes in with the newest event."""
        self.members[user].is_joined = True
        self.members[user].read = {"": len(self.events) - 1}

    def leaves(self, user: UserId) -> None:
        """A user goes with the newest event."""
        self.members[user].is_joined = False

    def counts(self, user: UserId) -> dict[str, tuple[int, int]]:
        """(notified, highlighted) of each thread that has any."""
        found: dict[str, tuple[int, int]] = {}
        read = self.members[user].read
        for place, one in enumerate(self.events):
            level = one.levels.get(user, 0)
            is_read = place <= max(read.get("", -1), read.get(one.thread, -1))
            if level and not is_read and not one.is_redacted:
                notified, lit = found.get(one.thread, (0, 0))
                found[one.thread] = (notified + 1, lit + (level == 2))
        return found
