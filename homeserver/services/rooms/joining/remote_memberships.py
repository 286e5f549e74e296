"""`RemoteRooms` over federation: joins, knocks, refusals and invites that need two servers.

Rules:
1. The other server signs before we commit; no room is held during that time. A signed invite is
   checked once more against the room's state at that moment. An event that the room's policy server
   refuses reaches no other server.
2. Errors become MatrixError: a resident's refusal with its own code, else 502.

Spec: server-server API, "Joining rooms", "Inviting to a room"; design, "What keeps it right", 9.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from federation.errors import MatrixError
from federation.events import canonical_json, event_types
from federation.events.canonical_json import JsonObject
from federation.events.event import EventTooLarge, InvalidEvent, parse_pdu
from federation.events.ids import EventId, RoomAlias, RoomId, ServerName, StateKey, UserId
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft, sign_event
from federation.ports import Clock
from federation.transport.joining.joining import Joining, MembershipRequest
from federation.transport.requests.client import FailureKind, FederationError
from federation.transport.requests.queries import Queries
from homeserver import errors
from homeserver.engine.local.writer import Signer
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from homeserver.engine.rooms.rooms import Room, Rooms
from homeserver.services.rooms.directory import LookUp, Target

_STRIPPED: Sequence[StateKey] = tuple(
    (name, "")
    for name in (
        event_types.CREATE,
        event_types.NAME,
        event_types.AVATAR,
        event_types.TOPIC,
        event_types.JOIN_RULES,
        event_types.CANONICAL_ALIAS,
        event_types.ENCRYPTION,
    )
)
"""The part of the room that an invited user sees (spec: "Stripped state")."""


@dataclass(frozen=True, slots=True)
class RoomWriters:
    """The part of the engine that completes exchanges."""

    rooms: Rooms
    remote_event_writer: RemoteEventWriter


AskForGuests: TypeAlias = Callable[[ServerName, RoomId], Awaitable[bool]]
"""Asks a server whether guests may join a room that it is in. Raises FederationError."""


class RemoteMemberships:
    """Membership changes through other servers (`RemoteRooms`)."""

    def __init__(
        self,
        joining: Joining,
        writers: RoomWriters,
        *,
        signer: Signer,
        clock: Clock,
        ask_for_guests: AskForGuests,
    ) -> None:
        self._joining = joining
        self._ask_for_guests = ask_for_guests
        self._writers = writers
        self._signer = signer
        self._clock = clock

    async def join(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """`RemoteRooms.join`."""
        request = MembershipRequest(
            room_id, user_id, content, await self._not_before_ms(room_id, user_id)
        )
        await self._joining.join(request, servers)

    async def _not_before_ms(self, room_id: RoomId, user_id: UserId) -> int:
        """Returns a time after the user's own last member event, as far as the room is known: our
        clock may have been set back since (see `Stager`)."""
        room = await self._writers.rooms.get(room_id)
        if room is None:
            return 0
        key = (event_types.MEMBER, str(user_id))
        last = (await self._writers.rooms.state_events(room.view.state, [key])).get(key)
        return 0 if last is None or last.sender != user_id else last.origin_server_ts + 1

    async def leave(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """`RemoteRooms.leave`."""
        await self._joining.leave(MembershipRequest(room_id, user_id, content), servers)

    async def knock(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """`RemoteRooms.knock`."""
        await self._joining.knock(MembershipRequest(room_id, user_id, content), servers)

    async def guests_may_join(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        """`RemoteRooms.guests_may_join`. The first answer is used: it is checked against the room's
        state after the join."""
        for server in servers:
            with suppress(FederationError):
                return await self._ask_for_guests(server, room_id)
        return False

    async def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """`RemoteRooms.invite`."""
        return await self.send_invite(room_id, await self.draft_invite(room_id, draft))

    async def draft_invite(self, room_id: RoomId, draft: EventDraft) -> JsonObject:
        """`InvitingRooms.draft_invite`."""
        now = replace(draft, origin_server_ts=self._clock.now_ms())
        template = await self._writers.remote_event_writer.template(now, room_id)
        try:
            event = sign_event(
                template.event, template.version, self._signer.server_name, self._signer.key
            )
        except EventTooLarge as error:
            raise errors.too_large(error.reason) from error
        except InvalidEvent as error:
            raise errors.bad_json(error.reason) from error
        recommended, _ = await self._writers.remote_event_writer.recommended(event)
        # Of room versions 1 to 5, an event may have integers of any size, such as its depth.
        pdu: JsonObject = canonical_json.decode_lenient(recommended.raw)
        return pdu

    async def send_invite(self, room_id: RoomId, pdu: JsonObject) -> EventId:
        """`InvitingRooms.send_invite`."""
        room = await self._writers.rooms.get(room_id)
        if room is None:
            raise errors.not_found("This room isn't known here")
        event = parse_pdu(pdu, room.version)
        known = (await self._writers.rooms.events([event.event_id])).get(event.event_id)
        if known is not None and not known.outlier:
            return event.event_id
        event, asked = await self._writers.remote_event_writer.recommended(event)
        stripped = await self._stripped(room, event.sender)
        signed = await self._joining.invite(event, stripped)
        verdict = await self._writers.remote_event_writer.accept_own(signed, asked=asked)
        if not isinstance(verdict, Accepted):
            raise errors.forbidden(f"The room doesn't allow the invite any more: {verdict.failure}")
        return signed.event_id

    async def _stripped(self, room: Room, inviter: UserId) -> list[bytes]:
        keys = [*_STRIPPED, (event_types.MEMBER, str(inviter))]
        found = await self._writers.rooms.state_events(room.view.state, keys)
        return [found[key].raw for key in keys if key in found]


def alias_look_up(queries: Queries) -> LookUp:
    """Asks an alias's server, for `Directory`. 404 M_NOT_FOUND if it says that there is none, 502
    if it can't be asked."""

    async def look_up(alias: RoomAlias) -> Target:
        try:
            room_id, servers = await queries.directory(alias)
        except FederationError as error:
            if error.kind is FailureKind.STATUS and error.status == 404:
                raise errors.not_found(f"Room alias {alias} not found") from error
            raise MatrixError(502, "M_UNKNOWN", f"{error.server} can't be asked") from error
        return Target(room_id, servers)

    return look_up
