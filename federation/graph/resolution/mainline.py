"""The mainline: power levels, and back through those that each replaced (spec: room version 2,
"State resolution", definition "Mainline ordering").

Rules:
1. The power levels event that an event cites is the first one among its `auth_events`, rejected or
   not.
2. Each power levels event leads to one other at most, so all mainlines of a room form a tree. The
   event where two of them meet is found without a walk over either, by the height of each event
   (the number of events from the first to it) and a far step down.
3. A power levels event that leads into a cycle has no mainline, and events that cite it have no
   position. In room versions 1 and 2, where servers choose the IDs, such events can be made, but
   none is accepted.
"""

from __future__ import annotations

import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.resolution.chains import LoadEvent


def is_power_levels(event: Event) -> bool:
    """Returns whether the event is a state event that sets the room's power levels."""
    return event.type == event_types.POWER_LEVELS and event.state_key == ""


def levels_cited(event_id: EventId, event: LoadEvent) -> EventId | None:
    """Returns the power levels event that an event cites, if any. Raises MissingEvent."""
    cited = event(event_id).auth_events
    return next((parent for parent in cited if is_power_levels(event(parent))), None)


def mainline_of(power_levels: EventId | None, event: LoadEvent) -> tuple[EventId, ...]:
    """Returns a power levels event, the one that it cites, and so on. Raises MissingEvent."""
    mainline: dict[EventId, None] = {}
    while power_levels is not None and power_levels not in mainline:
        mainline[power_levels] = None
        power_levels = levels_cited(power_levels, event)
    return tuple(mainline)


class _Step(msgspec.Struct, frozen=True, gc=False):
    """A power levels event on its mainline; None stands for the end below the first."""

    height: int
    before: EventId | None
    """The power levels event that it cites."""
    far: EventId | None
    """An event further back. The distances double where they can, so that the number of steps to
    any height grows with the logarithm of the mainline's length."""


_GROUND = _Step(0, None, None)


class Mainlines:
    """The mainlines of one room's power levels, computed on the first query and kept."""

    def __init__(self) -> None:
        self._steps: dict[EventId | None, _Step] = {None: _GROUND}
        self._circular: set[EventId] = set()

    def __len__(self) -> int:
        """Returns the number of known power levels events."""
        return len(self._steps) - 1 + len(self._circular)

    def position(
        self, event_id: EventId, power_levels: EventId | None, event: LoadEvent
    ) -> int | None:
        """Returns an event's position on the mainline of `power_levels`; None for infinity.

        It is the index of the first event of the mainline on the way back from the event, which
        itself doesn't count. Spec: definition "Mainline position". Raises MissingEvent.
        """
        nearest = levels_cited(event_id, event)
        if not (self._knows(nearest, event) and self._knows(power_levels, event)):
            return None
        meeting = self._meeting(nearest, power_levels)
        if meeting is None:
            return None
        return self._steps[power_levels].height - self._steps[meeting].height

    def _knows(self, power_levels: EventId | None, event: LoadEvent) -> bool:
        """Assigns heights to an event and those below it; False if it leads into a cycle."""
        new: dict[EventId, None] = {}
        below = power_levels
        while below is not None and below not in self._steps:
            if below in new or below in self._circular:
                self._circular.update(new)
                return False
            new[below] = None
            below = levels_cited(below, event)
        for event_id in reversed(new):
            self._steps[event_id] = self._step_above(below)
            below = event_id
        return True

    def _step_above(self, before: EventId | None) -> _Step:
        steps = self._steps
        below = steps[before]
        far = steps[below.far]
        is_even = below.height - far.height == far.height - steps[far.far].height
        return _Step(below.height + 1, before, far.far if is_even else before)

    def _meeting(self, one: EventId | None, other: EventId | None) -> EventId | None:
        """Returns the highest event that two mainlines share."""
        steps = self._steps
        height = min(steps[one].height, steps[other].height)
        one, other = self._down(one, height), self._down(other, height)
        while one != other:
            # Far steps from the same height lead to the same height.
            are_apart = steps[one].far != steps[other].far
            one = steps[one].far if are_apart else steps[one].before
            other = steps[other].far if are_apart else steps[other].before
        return one

    def _down(self, event_id: EventId | None, height: int) -> EventId | None:
        """Returns the event of a mainline at a height."""
        steps = self._steps
        while steps[event_id].height > height:
            step = steps[event_id]
            event_id = step.far if steps[step.far].height >= height else step.before
        return event_id
