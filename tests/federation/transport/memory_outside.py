"""Memberships outside of rooms (`federation.ports.OutsideRooms`) in memory."""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.ports import OutsideMembership


class OpenGate:
    """`federation.ports.InviteGate` that lets all invites in, or none."""

    def __init__(self) -> None:
        self.refusal: MatrixError | None = None

    async def admit(self, origin: ServerName, invite: Event, invitee: UserId) -> None:
        if self.refusal is not None:
            raise self.refusal


class MemoryOutside:
    """The newest event of each user in each room; `invites`, `knocks` and `departures` as they
    came."""

    def __init__(self) -> None:
        self.newest: dict[tuple[RoomId, UserId], Event] = {}
        self.invites: list[tuple[Event, Sequence[JsonObject]]] = []
        self.knocks: list[tuple[Event, Sequence[JsonObject]]] = []
        self.departures: list[Event] = []
        self.taken_by: dict[EventId, ServerName] = {}

    async def find(self, room_id: RoomId, user_id: UserId) -> OutsideMembership | None:
        event = self.newest.get((room_id, user_id))
        if event is None:
            return None
        return OutsideMembership(
            event.membership or "", event.event_id, event.sender, event.version
        )

    async def keep(
        self, event: Event, stripped_state: Sequence[JsonObject], via: ServerName | None = None
    ) -> None:
        kept = self.invites if event.membership == "invite" else self.knocks
        kept.append((event, stripped_state))
        self.newest[event.room_id, UserId(str(event.state_key))] = event
        if via is not None:
            self.taken_by[event.event_id] = via

    async def end(self, event: Event, former: EventId | None = None) -> bool:
        key = (event.room_id, UserId(str(event.state_key)))
        if former is not None and (key not in self.newest or self.newest[key].event_id != former):
            return False
        self.departures.append(event)
        self.newest[key] = event
        return True
