"""Creating and upgrading rooms: /createRoom, /rooms/{roomId}/upgrade.

Spec: client-server API, "Creation", "Room Upgrades".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from homeserver.api.http.json_body import check_canonical
from homeserver.api.http.request import Request
from homeserver.api.http.routes import Route, v3
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.rules.rooms.room_requests import parse_room_request
from homeserver.services.rooms.directory import parse_room
from homeserver.services.rooms.joining.third_party_invites import (
    ThirdPartyInviting,
    parse_addressee,
)
from homeserver.services.rooms.rooms import RoomCreation
from homeserver.services.rooms.upgrades import Upgrades


class _Upgrade(msgspec.Struct, frozen=True):
    new_version: str
    additional_creators: tuple[str, ...] | None = None


class RoomsApi:
    """Handlers over the services `RoomCreation` and `Upgrades`; without `inviting`, nobody is
    invited by an address."""

    def __init__(
        self,
        creation: RoomCreation,
        upgrades: Upgrades,
        inviting: ThirdPartyInviting | None = None,
    ) -> None:
        self._creation = creation
        self._upgrades, self._inviting = upgrades, inviting

    def routes(self) -> Sequence[Route]:
        """Returns the routes of this module."""
        return [
            Route("POST", v3("/createRoom"), self.create, limit=Limit.ROOMS),
            Route("POST", v3("/rooms/{roomId}/upgrade"), self.upgrade, limit=Limit.ROOMS),
        ]

    async def create(self, request: Request) -> JsonObject:
        """Creates a room: {"room_id"}. An empty body stands for a room with all defaults."""
        body = await request.json_or_empty()
        check_canonical(body)
        wanted = parse_room_request(body)
        requester = request.requester
        addressees = [parse_addressee(one) for one in wanted.invite_3pid or ()]
        if self._inviting is None and addressees:
            raise MatrixError(
                403, "M_THREEPID_DENIED", "This server can't invite by e-mail or phone number"
            )
        room_id = await self._creation.create(requester.user_id, wanted, by=requester.appservice)
        for addressee in addressees:
            assert self._inviting is not None, "checked above"
            await self._inviting.invite(requester.user_id, room_id, addressee, {})
        return {"room_id": room_id}

    async def upgrade(self, request: Request) -> JsonObject:
        """Replaces a room by one of another version: {"replacement_room"}."""
        wanted = await request.parse(_Upgrade)
        replacement = await self._upgrades.upgrade(
            request.requester.user_id,
            parse_room(request.params["roomId"]),
            wanted.new_version,
            wanted.additional_creators or (),
        )
        return {"replacement_room": replacement}
