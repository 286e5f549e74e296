"""Another server that takes part in the rooms of a sync world: builds events and hands them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from federation.events.event import Event
from federation.events.ids import EventId, ServerName, StateKey, UserId
from federation.events.signing import SigningKey
from federation.graph.admission import Accepted
from federation.graph.building import Edges, EventDraft, build_event
from homeserver.clock import SystemClock
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from homeserver.engine.rooms.rooms import Room
from tests.homeserver.room_world import World

THERE = ServerName("there.example")
PETER = UserId("@peter:there.example")
_KEY = SigningKey.generate(bytes([7]) * 32, "there")


@dataclass(frozen=True)
class Peer:
    """The other server."""

    world: World

    @property
    def remote_event_writer(self) -> RemoteEventWriter:
        """What takes its events."""
        return self.world.engine.remote_event_writer

    async def room(self, room_id: str) -> Room:
        """The room as our server has it."""
        room = await self.world.engine.rooms.get(room_id)  # type: ignore[arg-type]
        assert room is not None
        return room

    async def build(
        self, room_id: str, draft: EventDraft, *, parents: Sequence[EventId] = ()
    ) -> Event:
        """An event on `parents`, or on the room's heads."""
        room = await self.room(room_id)
        state = room.view.state
        keys: list[StateKey] = [
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.member", draft.sender),
        ]
        if draft.type == "m.room.member":
            keys.append(("m.room.join_rules", ""))
            if draft.state_key != draft.sender:
                keys.append(("m.room.member", draft.state_key or ""))
        return build_event(
            draft,
            version=room.version,
            room_id=room.room_id,
            edges=Edges(
                parents or [head.event_id for head in room.view.heads],
                [state[key].event_id for key in keys if key in state],
                max(head.depth for head in room.view.heads) + 1,
            ),
            now_ms=SystemClock().now_ms(),
            server_name=THERE,
            key=_KEY,
        )

    async def give(self, event: Event) -> EventId:
        """Hands an event in; it must be accepted."""
        verdict = await self.remote_event_writer.accept(event, Accepted())
        assert verdict == Accepted(), verdict
        return event.event_id

    async def send(
        self, room_id: str, draft: EventDraft, *, parents: Sequence[EventId] = ()
    ) -> EventId:
        """Builds and hands in an event."""
        return await self.give(await self.build(room_id, draft, parents=parents))

    async def join(self, room_id: str, user: UserId = PETER) -> None:
        """Has a user join."""
        draft = EventDraft("m.room.member", user, {"membership": "join"}, user)
        await self.remote_event_writer.accept_membership(await self.build(room_id, draft))

    async def say(self, room_id: str, body: str, user: UserId = PETER) -> EventId:
        """Sends a message."""
        return await self.send(room_id, message(body, user))


def message(body: str, user: UserId = PETER) -> EventDraft:
    """A text message."""
    return EventDraft("m.room.message", user, {"msgtype": "m.text", "body": body})


def redaction(target: str, user: UserId = PETER) -> EventDraft:
    """A redaction."""
    return replace(EventDraft("m.room.redaction", user, {}), redacts=EventId(target))
