"""The exchanges with other servers that services about rooms need, as a Protocol.

`app` hands over the implementation (over `federation.transport.joining`). All methods return after
the result is committed here, and raise MatrixError: the other server's refusal with its code, or
502/504 when none of the servers could be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, UserId
from federation.graph.building import EventDraft


class RemoteRooms(Protocol):
    """Membership changes that need another server's signature or the state that it sends."""

    async def join(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Joins a room of which we hold no current state; `content` is that of the membership
        event.
        """

    async def knock(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Knocks on a room of which we hold no current state."""

    async def leave(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Refuses an invite to such a room, or takes a knock back."""

    async def guests_may_join(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        """Returns whether one of the room's servers says that guests may join it. Doesn't raise."""

    async def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Invites a user of another server to a room that we are in: their server signs first."""


class InvitingRooms(RemoteRooms, Protocol):
    """`RemoteRooms` with invites in two steps: between them the event can be stored."""

    async def draft_invite(self, room_id: RoomId, draft: EventDraft) -> JsonObject:
        """Returns the signed invite, which no other server has yet except the room's policy server,
        if it uses one.
        """

    async def send_invite(self, room_id: RoomId, pdu: JsonObject) -> EventId:
        """Requests the signature of the invited user's server for such an invite, and appends it to
        the room. The same invite may be sent again."""
