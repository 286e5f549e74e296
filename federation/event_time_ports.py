"""What answers other servers that look for events by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from federation.events.ids import EventId, RoomId


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event, and when it says that it was sent: milliseconds since 1970."""

    event_id: EventId
    time_ms: int


class ServedEventTimes(Protocol):
    """Events by time.

    A Protocol: implemented by the homeserver; tests of rooms alone have none.
    """

    async def nearest(
        self, room_id: RoomId, time_ms: int, *, backwards: bool, limit: int
    ) -> list[TimedEvent]:
        """Returns the room's events that were sent at a time or before it (`backwards`), else at it
        or after it, the nearest first."""
