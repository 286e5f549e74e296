"""The fork that docs/event-graph.md walks through: the same events, and so the same IDs, always."""

from __future__ import annotations

from dataclasses import dataclass

from federation.events.event import Event
from federation.events.ids import EventId
from federation.graph.explain.explain import (
    EventExplanation,
    ResolutionExplanation,
    Verdict,
    explain_event,
    explain_resolution,
)
from federation.graph.resolution.conflicts import deltas_of
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, Room, ids_of


@dataclass
class Walkthrough:
    """Alice takes Bob's power away; he bans Carol and sets a topic before he hears of it."""

    room: Room
    demotion: Event
    ban: Event
    topic: Event

    def resolution(self) -> ResolutionExplanation:
        """Returns the fork, explained."""
        before = ids_of(self.room.state)
        states = [
            {**before, self.demotion.key: self.demotion.event_id},
            {**before, **{event.key: event.event_id for event in (self.ban, self.topic)}},
        ]
        return explain_resolution(
            self.room.version,
            before,
            deltas_of([before, *states])[1:],
            event=self.room.loader(),
            is_rejected=_nothing,
            labels=[f"after {self.demotion.event_id}", f"after {self.topic.event_id}"],
        )

    def soft_failure(self) -> EventExplanation:
        """Bob's topic as a server explains it that had the demotion first."""
        state = self.room.state
        failure = "level_too_low: @bob:b has 0 of 50"
        return explain_event(
            self.topic,
            Verdict("soft_failed", failure),
            load=self.room.loader(),
            is_rejected=_nothing,
            before={**state, self.ban.key: self.ban}.get,
            current={**state, self.demotion.key: self.demotion}.get,
        )


def _nothing(event_id: EventId) -> bool:
    return False


def walkthrough(name: str = "12") -> Walkthrough:
    """Returns the room and its fork."""
    room = Room(name).open_to(BOB, CAROL)
    own: dict[str, int] = {} if room.version.creators_are_privileged else {ALICE: 100}
    room.levels(ALICE, {**own, BOB: 50})
    demotion = room.levels(ALICE, {**own, BOB: 0}, keep=False, ts=30)
    before = dict(room.state)
    ban = room.member(BOB, "ban", CAROL, keep=False, ts=10)
    topic = room.send(
        "m.room.topic", BOB, {"topic": "Bob's"}, "", keep=False, ts=20, prev=[ban], state=before
    )
    return Walkthrough(room, demotion, ban, topic)
