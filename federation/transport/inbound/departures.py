"""Events that end an invite or a knock of a user of ours in a room that this server isn't in.

They come in transactions, from the server of the user that withdraws the invite, kicks or bans.
Rules:
1. The room's state isn't known, so the event has to prove that its sender is in the room: the
   event bears the signature of its sender's server, which is the one that delivers it, and it
   names the invite or knock among its auth events, whose ID only servers in the room know.
2. Only the newest invite or knock is ended, by an event that names just that: one that comes late
   ends no later invite. All other events of such a room are refused.

Spec: server-server API, "Checks performed on receipt of a PDU", "Auth events selection".
"""

from __future__ import annotations

from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import (
    EventId,
    InvalidIdentifier,
    RoomId,
    ServerName,
    UserId,
    parse_user_id,
    server_of,
)
from federation.events.room_versions import RoomVersion
from federation.graph.admission import DropReason
from federation.ports import OutsideMembership, OutsideRooms
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.inbound.transactions import ReceivedPdu

_ENDS = ("leave", "ban")


class NotForUs(Exception):
    """An event of a room that this server isn't in, which changes nothing for a user of ours.
    `version` is the room's, as far as an invite or knock tells."""

    def __init__(self, detail: str, version: RoomVersion | None = None) -> None:
        super().__init__(detail)
        self.version = version


class Departures:
    """Receives such events."""

    def __init__(
        self, name: ServerName, outside: OutsideRooms, signatures: SignatureChecker
    ) -> None:
        self._name, self._outside, self._signatures = name, outside, signatures

    async def receive(self, origin: ServerName, room_id: RoomId, received: ReceivedPdu) -> EventId:
        """Takes a PDU, an object, of a room that we aren't in; returns its event ID. Raises
        NotForUs, InvalidEvent."""
        user_id = self._user(received.value)
        known = await self._outside.find(room_id, user_id)
        if known is None:
            raise NotForUs("not in the room")
        event = (await received.parse(known.version)).event
        if event.room_id != room_id or not _may_end(event, known, origin):
            raise NotForUs("not in the room", known.version)
        if isinstance(await self._signatures.check(event), DropReason):
            raise NotForUs("the event's signatures aren't valid", known.version)
        await self._outside.end(event, known.event_id)
        return event.event_id

    def _user(self, pdu: JsonObject) -> UserId:
        """Returns the user of ours that a member event is about."""
        try:
            user_id = parse_user_id(str(pdu.get("state_key")))
        except InvalidIdentifier:
            raise NotForUs("not in the room") from None
        if pdu.get("type") != event_types.MEMBER or server_of(user_id) != self._name:
            raise NotForUs("not in the room")
        return user_id


def _may_end(event: Event, known: OutsideMembership, origin: ServerName) -> bool:
    return (
        event.membership in _ENDS
        and server_of(event.sender) == origin
        and known.event_id in event.auth_events
    )
