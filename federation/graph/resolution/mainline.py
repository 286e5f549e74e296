"""The mainline: power levels, back through those that each replaced (spec: room version 2, "State
resolution", definition "Mainline ordering").

Rules:
1. The power levels event that an event cites is the first of its `auth_events` that is one;
   whether it was rejected makes no difference.
2. Each power levels event is on the one above it only: so all mainlines of a room form a tree, and
   where two of them meet is found without walking either, by the height of each event (how many
   there are from the first to it) and a far step down.
3. A power levels event that leads into a cycle has no mainline, and what cites it no position. In
   room versions 1 and 2, where servers choose the IDs, someone may make such; none is accepted.
"""

from __future__ import annotations

import msgspec

from federation.events import event_types
from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.resolution.chains import LoadEvent


def is_power_levels(event: Event) -> bool:
    """Is it a state event that sets the room's power levels?"""
    return event.type == event_types.POWER_LEVELS and event.state_key == ""


def levels_cited(event_id: EventId, event: LoadEvent) -> EventId | None:
    """The power levels event that an event cites, if any. Raises MissingEvent."""
    cited = event(event_id).auth_events
    return next((parent for parent in cited if is_power_levels(event(parent))), None)


def mainline_of(power_levels: EventId | None, event: LoadEvent) -> tuple[EventId, ...]:
    """A power levels event, the one that it cites, and so on back. Raises MissingEvent."""
    mainline: dict[EventId, None] = {}
    while power_levels is not None and power_levels not in mainline:
        mainline[power_levels] = None
        power_levels = levels_cited(power_levels, event)
    return tuple(mainline)


class _Step(msgspec.Struct, frozen=True, gc=False):
    """A power levels event on its mainline; None stands for what is below the first."""

    height: int
    before: EventId | None
    """The one that it cites."""
    far: EventId | None
    """One further back. As the distances double where they can, any height is reached in a number
    of steps that grows with the logarithm of the mainline."""


_GROUND = _Step(0, None, None)


class Mainlines:
    """The mainlines of one room's power levels, worked out when first asked for, and kept."""

    def __init__(self) -> None:
        self._steps: dict[EventId | None, _Step] = {None: _GROUND}
        self._circular: set[EventId] = set()

    def __len__(self) -> int:
        """How many power levels events it knows."""
        return len(self._steps) - 1 + len(self._circular)

    def position(
        self, event_id: EventId, power_levels: EventId | None, event: LoadEvent
    ) -> int | None:
        """Definition "Mainline position": of an event, on the mainline of `power_levels`.

        The index of the first power levels event there that is met going back from the event,
        itself not included; None for infinity. Raises MissingEvent.
        """
        nearest = levels_cited(event_id, event)
        if not (self._knows(nearest, event) and self._knows(power_levels, event)):
            return None
        meeting = self._meeting(nearest, power_levels)
        if meeting is None:
            return None
        return self._steps[power_levels].height - self._steps[meeting].height

    def _knows(self, power_levels: EventId | None, event: LoadEvent) -> bool:
        """Gives an event and those below it their heights; False if it leads into a cycle."""
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
        """The highest event that two mainlines share."""
        steps = self._steps
        height = min(steps[one].height, steps[other].height)
        one, other = self._down(one, height), self._down(other, height)
        while one != other:
            # From one height far steps lead to one height.
            are_apart = steps[one].far != steps[other].far
            one = steps[one].far if are_apart else steps[one].before
            other = steps[other].far if are_apart else steps[other].before
        return one

    def _down(self, event_id: EventId | None, height: int) -> EventId | None:
        """What a mainline has at a height."""
        steps = self._steps
        while steps[event_id].height > height:
            step = steps[event_id]
            event_id = step.far if steps[step.far].height >= height else step.before
        return event_id
