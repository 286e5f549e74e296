"""Membership of rooms: /join, /knock, /invite, /leave, /forget, /kick, /ban, /unban, /joined_rooms.

Rules:
1. A body is optional if all its fields are; floats in it are refused, since fields such as `reason`
   become part of an event.
2. `via` names servers to go through; `server_name` is its older form.

Spec: client-server API, "Room membership".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName, UserId
from homeserver.api.http.json_body import check_canonical
from homeserver.api.http.request import Request, convert
from homeserver.api.http.routes import Auth, Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.requester import Requester
from homeserver.services.rooms.directory import parse_room
from homeserver.services.rooms.joining.third_party_invites import (
    ThirdPartyInviting,
    parse_addressee,
)
from homeserver.services.rooms.membership import Membership, parse_user


class _Reason(msgspec.Struct, frozen=True):
    reason: str | None = None


class _Target(msgspec.Struct, frozen=True):
    user_id: str
    reason: str | None = None


class MembershipApi:
    """Handlers over the service `Membership`."""

    def __init__(self, membership: Membership, inviting: ThirdPartyInviting | None = None) -> None:
        self._membership, self._inviting = membership, inviting

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""

        def of_room(
            name: str, handler: Any, limit: Limit, *, guests: bool = False, suspended: bool = False
        ) -> Route:
            path = v3(f"/rooms/{{roomId}}/{name}")
            return Route("POST", path, handler, Auth.USER, limit, guests, suspended)

        return [
            of_room("join", self.join_room, Limit.JOINS, guests=True),
            of_room("invite", self.invite, Limit.INVITES),
            of_room("leave", self.leave, Limit.WRITES, guests=True, suspended=True),
            of_room("forget", self.forget, Limit.WRITES, guests=True, suspended=True),
            of_room("kick", self.kick, Limit.WRITES),
            of_room("ban", self.ban, Limit.WRITES),
            of_room("unban", self.unban, Limit.WRITES),
            Route("POST", v3("/join/{roomIdOrAlias}"), self.join, limit=Limit.JOINS, guests=True),
            Route("POST", v3("/knock/{roomIdOrAlias}"), self.knock, limit=Limit.JOINS),
            Route("GET", v3("/joined_rooms"), self.joined_rooms, guests=True),
        ]

    async def joined_rooms(self, request: Request) -> JsonObject:
        """Returns the rooms that the user is in: {"joined_rooms"}."""
        return {"joined_rooms": await self._membership.joined_rooms(request.requester.user_id)}

    async def join(self, request: Request) -> JsonObject:
        """Joins by ID or alias: {"room_id"}."""
        room_id, servers = await self._membership.target(
            request.params["roomIdOrAlias"], _via(request)
        )
        extra = await _reason(request)
        await self._join(request.requester, room_id, servers, extra)
        return {"room_id": room_id}

    async def join_room(self, request: Request) -> JsonObject:
        """Joins by ID: {"room_id"}."""
        room_id = parse_room(request.params["roomId"])
        _, servers = await self._membership.target(room_id, _via(request))
        extra = await _reason(request)
        await self._join(request.requester, room_id, servers, extra)
        return {"room_id": room_id}

    async def _join(
        self,
        requester: Requester,
        room_id: RoomId,
        servers: Sequence[ServerName],
        extra: JsonObject,
    ) -> None:
        await self._membership.join(
            requester.user_id, room_id, servers, extra, is_guest=requester.is_guest
        )

    async def knock(self, request: Request) -> JsonObject:
        """Knocks on a room: {"room_id"}."""
        room_id, servers = await self._membership.target(
            request.params["roomIdOrAlias"], _via(request)
        )
        extra = await _reason(request)
        await self._membership.knock(request.requester.user_id, room_id, servers, extra)
        return {"room_id": room_id}

    async def leave(self, request: Request) -> JsonObject:
        """Leaves, or refuses an invite."""
        room_id = parse_room(request.params["roomId"])
        extra = await _reason(request)
        await self._membership.leave(request.requester.user_id, room_id, extra)
        return {}

    async def forget(self, request: Request) -> JsonObject:
        """Forgets a room that the user left."""
        room_id = parse_room(request.params["roomId"])
        await self._membership.forget(request.requester.user_id, room_id)
        return {}

    async def invite(self, request: Request) -> JsonObject:
        """Invites a user by ID, or whoever owns an address."""
        body = await _canonical(request)
        if "user_id" not in body and "medium" in body:
            await self._invite_address(request, body)
            return {}
        room_id, target, extra = _other(request, body)
        await self._membership.invite(request.requester.user_id, room_id, target, extra)
        return {}

    async def _invite_address(self, request: Request, body: JsonObject) -> None:
        if self._inviting is None:
            raise MatrixError(
                403, "M_THREEPID_DENIED", "This server can't invite by e-mail or phone number"
            )
        room_id = parse_room(request.params["roomId"])
        extra = _with_reason(convert(body, _Reason).reason)
        addressee = parse_addressee(body)
        await self._inviting.invite(request.requester.user_id, room_id, addressee, extra)

    async def kick(self, request: Request) -> JsonObject:
        """Makes another user leave."""
        room_id, target, extra = _other(request, await _canonical(request))
        await self._membership.kick(request.requester.user_id, room_id, target, extra)
        return {}

    async def ban(self, request: Request) -> JsonObject:
        """Bans a user."""
        room_id, target, extra = _other(request, await _canonical(request))
        await self._membership.ban(request.requester.user_id, room_id, target, extra)
        return {}

    async def unban(self, request: Request) -> JsonObject:
        """Lifts a ban."""
        room_id, target, extra = _other(request, await _canonical(request))
        await self._membership.unban(request.requester.user_id, room_id, target, extra)
        return {}


async def _canonical(request: Request) -> JsonObject:
    body = await request.json_or_empty()
    check_canonical(body)
    return body


def _with_reason(reason: str | None) -> JsonObject:
    return {} if reason is None else {"reason": reason}


async def _reason(request: Request) -> JsonObject:
    return _with_reason(convert(await _canonical(request), _Reason).reason)


def _other(request: Request, body: JsonObject) -> tuple[RoomId, UserId, JsonObject]:
    """Returns the room, the other user and the other content of the event."""
    wanted = convert(body, _Target)
    room_id = parse_room(request.params["roomId"])
    return room_id, parse_user(wanted.user_id), _with_reason(wanted.reason)


def _via(request: Request) -> Sequence[str]:
    if not request.raw_query:
        return ()
    return request.query.all("via") or request.query.all("server_name")
