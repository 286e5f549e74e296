"""Endpoints by which invites by address become invites of users.

Rules:
1. An exchange is asked for by the invitee's server, for a user of its own, and of the inviter's
   server; what the room allows is the homeserver's to find out.
2. An identity server says without a signature who owns an address; nothing of it is believed here.

Spec: server-server API, "Third-party invites".
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from federation.limits import BOUND_INVITES_MAX, THIRD_PARTY_INVITE_BYTES_MAX
from federation.ports import BoundInvite, ThirdPartyInvites
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.bodies import parse_object, read_body
from federation.transport.routes.endpoints import Endpoints, Route, json_response
from federation.transport.routes.room_access import (
    ServerRoomAccess,
    parse_own_user,
    parse_room,
    parse_user,
)

_V1 = "/_matrix/federation/v1"


class ThirdPartyInviteRoutes:
    """The handlers."""

    def __init__(
        self, name: ServerName, access: ServerRoomAccess, invites: ThirdPartyInvites
    ) -> None:
        self._name, self._access, self._invites = name, access, invites

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""
        exchange = endpoints.signed(
            "exchange_third_party_invite", self.exchange, bytes_max=THIRD_PARTY_INVITE_BYTES_MAX
        )
        return [
            ("PUT", f"{_V1}/exchange_third_party_invite/{{roomId}}", exchange),
            ("PUT", f"{_V1}/3pid/onbind", endpoints.public("onbind", self.bound)),
        ]

    async def exchange(self, peer: PeerRequest) -> object:
        """PUT /exchange_third_party_invite/{roomId}."""
        room_id, _ = await self._access.enter(peer)
        asked = peer.content
        content = _object(asked, "content")
        if asked.get("type") != event_types.MEMBER or content.get("membership") != "invite":
            raise _invalid("not an invite")
        if asked.get("room_id") != room_id:
            raise _invalid("the room isn't that of the path")
        invitee = parse_own_user(asked.get("state_key"), peer.origin)
        signed = _object(_object(content, "third_party_invite"), "signed")
        inviter = parse_own_user(asked.get("sender"), self._name)
        await self._invites.exchange(room_id, BoundInvite(invitee, inviter, signed))
        return {}

    async def bound(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """PUT /3pid/onbind."""
        body = parse_object(await read_body(request, THIRD_PARTY_INVITE_BYTES_MAX))
        user_id = parse_own_user(body.get("mxid"), self._name)
        listed = body.get("invites")
        if not isinstance(listed, list) or len(listed) > BOUND_INVITES_MAX:
            raise _invalid("no list of invites, or too many")
        found: list[tuple[RoomId, BoundInvite]] = []
        for one in listed:
            if not isinstance(one, dict):
                raise _invalid("an invite that is not an object")
            if one.get("mxid") != user_id:
                raise _invalid("an invite of somebody else")
            room_id = one.get("room_id")
            if not isinstance(room_id, str):
                raise _invalid("an invite without a room")
            invite = BoundInvite(user_id, parse_user(one.get("sender")), _object(one, "signed"))
            found.append((parse_room(room_id), invite))
        await self._invites.bound(user_id, found)
        return json_response({})


def _object(value: JsonObject, name: str) -> JsonObject:
    found = value.get(name)
    if not isinstance(found, dict):
        raise _invalid(f"{name} is not an object")
    return found


def _invalid(error: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_PARAM", error)
