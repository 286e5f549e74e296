"""The endpoints that show this server's published room directory to other servers.

Rules:
1. Rooms that other servers' users can't join are left out: those that aren't federated, and those
   whose ACL denies the server that asks.
2. A page may take a search through a thousand rooms, so that these have a rate of their own.

Spec: server-server API, "Published room directory".
"""

from __future__ import annotations

from math import ceil
from typing import TypeVar

from federation.causes import Cause, CauseKind
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.limits import (
    INTEGER_DIGITS_MAX,
    PUBLIC_ROOMS_REQUEST_BYTES_MAX,
    PUBLIC_ROOMS_REQUESTS_BURST,
    PUBLIC_ROOMS_REQUESTS_PER_S,
)
from federation.listing_ports import DirectoryQuestion, RoomListings
from federation.ports import Clock
from federation.transport.acl import ServerAcls
from federation.transport.routes.authentication import PeerRequest
from federation.transport.routes.endpoints import Endpoints, Route
from federation.transport.scheduling.rates import RateLimit

T = TypeVar("T")


class PublicRoomsRoutes:
    """The handlers."""

    def __init__(self, listings: RoomListings, acls: ServerAcls, clock: Clock) -> None:
        self._listings, self._acls = listings, acls
        self._rates = RateLimit(
            clock, per_s=PUBLIC_ROOMS_REQUESTS_PER_S, burst=PUBLIC_ROOMS_REQUESTS_BURST
        )

    def table(self, endpoints: Endpoints) -> list[Route]:
        """Returns method, path template and handler of each endpoint."""
        path = "/_matrix/federation/v1/publicRooms"
        search = endpoints.signed(
            "public_rooms_search", self.search, bytes_max=PUBLIC_ROOMS_REQUEST_BYTES_MAX
        )
        return [("GET", path, endpoints.signed("public_rooms", self.all)), ("POST", path, search)]

    async def all(self, peer: PeerRequest) -> object:
        """GET /publicRooms: a page of all rooms."""
        question = DirectoryQuestion(
            limit=_limit(peer.first("limit")),
            since=peer.first("since") or None,
            instance_id=peer.first("third_party_instance_id") or None,
            all_networks=_flag(peer.first("include_all_networks")),
        )
        return await self._answer(peer, question)

    async def search(self, peer: PeerRequest) -> object:
        """POST /publicRooms: a page of those that a filter finds."""
        content = peer.content
        chosen = _typed(content, "filter", dict) or {}
        types = _typed(chosen, "room_types", list)
        if types is not None and not all(one is None or isinstance(one, str) for one in types):
            raise _invalid("room_types has a type that is neither a string nor null")
        question = DirectoryQuestion(
            limit=_limit(content.get("limit")),
            since=_typed(content, "since", str) or None,
            instance_id=_typed(content, "third_party_instance_id", str) or None,
            all_networks=bool(_typed(content, "include_all_networks", bool)),
            search_term=_typed(chosen, "generic_search_term", str) or None,
            room_types=None if types is None else tuple(types),
        )
        return await self._answer(peer, question)

    async def _answer(self, peer: PeerRequest, question: DirectoryQuestion) -> JsonObject:
        wait_s = self._rates.take(Cause(CauseKind.SERVER, peer.origin))
        if wait_s > 0:
            again = {"retry_after_ms": ceil(wait_s * 1000)}
            raise MatrixError(429, "M_LIMIT_EXCEEDED", "Too many requests", extra=again)
        page = await self._listings.public_rooms(question)
        allowed = [
            room for room in page["chunk"] if await self._acls.allows(room["room_id"], peer.origin)
        ]
        return {**page, "chunk": allowed}


def _typed(content: JsonObject, name: str, kind: type[T]) -> T | None:
    """Returns a value of a type, or None where there is none or null."""
    value = content.get(name)
    if value is None or isinstance(value, kind):
        return value
    raise _invalid(f"{name} has a wrong type")


def _limit(value: object) -> int:
    """Returns the wanted number of rooms; 0 for as many as fit."""
    if value is None:
        return 0
    if isinstance(value, str) and value.isdecimal() and len(value) <= INTEGER_DIGITS_MAX:
        return int(value)
    if type(value) is int and value >= 0:
        return value
    raise _invalid("limit is not a number of rooms")


def _flag(text: str | None) -> bool:
    if text not in (None, "", "true", "false"):
        raise _invalid("include_all_networks is neither true nor false")
    return text == "true"


def _invalid(error: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_PARAM", error)
