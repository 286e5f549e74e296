"""The endpoint that shows a space and its rooms to other servers.

Rules:
1. A room is 404 M_NOT_FOUND to a server that can neither join nor read it, whether it exists or
   not; so it is to one that the room's ACL denies: its users couldn't join.
   Likewise its children: those are `inaccessible_children`.
2. A request may load a thousand rooms, so that these have a rate of their own.

Spec: server-server API, `GET /hierarchy/{roomId}`.
"""

from __future__ import annotations

from math import ceil

from federation.causes import Cause, CauseKind
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId
from federation.limits import HIERARCHY_REQUESTS_BURST, HIERARCHY_REQUESTS_PER_S
from federation.listing_ports import RoomListings
from federation.ports import Clock
from federation.transport.acl import ServerAcls
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.endpoints import Endpoints, Route
from federation.transport.routes.room_access import parse_room
from federation.transport.scheduling.rates import RateLimit


class HierarchyRoutes:
    """The handler."""

    def __init__(self, listings: RoomListings, acls: ServerAcls, clock: Clock) -> None:
        self._listings, self._acls = listings, acls
        self._rates = RateLimit(
            clock, per_s=HIERARCHY_REQUESTS_PER_S, burst=HIERARCHY_REQUESTS_BURST
        )

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of the endpoint."""
        path = "/_matrix/federation/v1/hierarchy/{roomId}"
        return [("GET", path, endpoints.signed("hierarchy", self.hierarchy))]

    async def hierarchy(self, peer: PeerRequest) -> object:
        """GET /hierarchy/{roomId}: a room and its children."""
        room_id = parse_room(peer.params["roomId"])
        suggested_only = _flag(peer.first("suggested_only"))
        wait_s = self._rates.take(Cause(CauseKind.SERVER, peer.origin))
        if wait_s > 0:
            again = {"retry_after_ms": ceil(wait_s * 1000)}
            raise MatrixError(429, "M_LIMIT_EXCEEDED", "Too many requests", extra=again)
        if not await self._acls.allows(room_id, peer.origin):
            raise MatrixError(404, "M_NOT_FOUND", "Room not found")
        found = await self._listings.hierarchy(peer.origin, room_id, suggested_only=suggested_only)
        children: list[JsonObject] = []
        hidden: list[RoomId] = list(found.inaccessible)
        for child_id, child in found.children.items():
            if await self._acls.allows(child_id, peer.origin):
                children.append(child)
            else:
                hidden.append(child_id)
        return {"room": found.room, "children": children, "inaccessible_children": hidden}


def _flag(text: str | None) -> bool:
    if text not in (None, "true", "false"):
        raise MatrixError(400, "M_INVALID_PARAM", "suggested_only is neither true nor false")
    return text == "true"
