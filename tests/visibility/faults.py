"""What a check found: leaks and things that are hidden though they should be shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.events.event import Event
from federation.events.ids import EventId, UserId
from homeserver.storage.timeline.events import StoredVerdict
from tests.visibility.model import Model, Verdict
from tests.visibility.story import Story


@dataclass
class Observation:
    """A story that has ended, as the checks see it."""

    story: Story
    model: Model
    faults: list[str] = field(default_factory=list)
    questions: int = 0
    _verdicts: dict[tuple[EventId, UserId], Verdict] = field(default_factory=dict)

    @classmethod
    async def at(cls, story: Story) -> Observation:
        """Now."""
        observation = cls(story, story.model())
        observation.model.is_known = observation.is_placed
        return observation

    def leak(self, where: str, what: object) -> None:
        """Something was shown that must be hidden."""
        self.faults.append(f"LEAK {where}: {what}")

    def hidden(self, where: str, what: object) -> None:
        """Something was hidden that must be shown."""
        self.faults.append(f"HIDDEN {where}: {what}")

    def wrong(self, where: str, what: object) -> None:
        """Something else is not as it must be."""
        self.faults.append(f"WRONG {where}: {what}")

    # What the server under test has

    @property
    def rows(self) -> Mapping[str, Mapping[str, Any]]:
        """Its events."""
        return self.story.ours.disk.tables.events

    def is_placed(self, event_id: str) -> bool:
        """Has an event a place in its room order, and may clients have it?"""
        row = self.rows.get(event_id)
        if row is None or row["live_index"] is None:
            return False
        return row["type"] != "m.room.redaction" or row["redacts"] is not None

    @property
    def placed(self) -> list[Event]:
        """The events that it has in order, parents first."""
        order = self.model.oracle.order
        return [one for one in order if self.is_placed(one.event_id)]

    @property
    def placed_of_any_kind(self) -> list[Event]:
        """As `placed`, with redactions that aren't released to clients."""
        rows = self.rows
        return [
            one
            for one in self.model.oracle.order
            if one.event_id in rows and rows[one.event_id]["live_index"] is not None
        ]

    @property
    def arrivals(self) -> list[EventId]:
        """The accepted events that came live, in the order of the log."""
        live = {
            EventId(event_id): row["position"]
            for event_id, row in self.rows.items()
            if row["position"] is not None and row["verdict"] == StoredVerdict.ACCEPTED
        }
        return [one for one in sorted(live, key=live.__getitem__) if self.model.is_allowed(one)]

    @property
    def heads(self) -> Collection[EventId]:
        """The ends of the graph that it knows."""
        tables = self.story.ours.disk.tables
        room = tables.rooms.get(self.story.room_id)
        if room is None or room["room_row_id"] not in tables.heads:
            return ()
        row_id = room["room_row_id"]
        return [tables.by_row_id[row_id, one]["event_id"] for one in tables.heads[row_id]["heads"]]

    def is_joined(self, user: UserId) -> bool:
        """Is a user in the room now, as far as it can know?"""
        return self.model.membership(self.model.at(self.heads), user) == "join"

    def verdict(self, event_id: str, user: UserId) -> Verdict:
        """The model's."""
        key = (EventId(event_id), user)
        if key not in self._verdicts:
            event = self.model.events[key[0]]
            if self.model.is_allowed(key[0]):
                joined = self.is_joined(user)
                self._verdicts[key] = self.model.verdict(event, user, is_joined=joined)
            else:
                self._verdicts[key] = Verdict.HIDE
        return self._verdicts[key]

    def name(self, event_id: str) -> str:
        """An event, for a fault's text."""
        event = self.model.events.get(EventId(event_id))
        if event is None:
            return event_id
        return f"{event.type} {event.state_key or ''} {dict(event.content)} {event_id[:7]}"
