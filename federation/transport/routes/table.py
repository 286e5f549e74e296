"""All endpoints of federation in one table, and the two that are too small for a module.

Rules:
1. Handlers are grouped by noun: keys, rooms, users, exchanges, media.
2. Each takes (request, decoded path parameters); the dispatcher is the homeserver's.

Spec: server-server API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from federation.event_time_ports import ServedEventTimes
from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.limits import TRANSACTION_BYTES_MAX
from federation.listing_ports import RoomListings
from federation.media_ports import LocalMedia
from federation.metrics import FederationMetrics
from federation.ports import (
    Clock,
    EventStore,
    InviteGate,
    OutsideRooms,
    RoomWriter,
    ThirdPartyInvites,
    UserQueries,
)
from federation.transport.acl import ServerAcls
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.inbound.inbox import Inbox
from federation.transport.inbound.policy_servers import Recommendations
from federation.transport.inbound.transactions import TransactionReader
from federation.transport.joining.invite_states import InviteStates
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.keyring import Keyring
from federation.transport.routes.authentication import PeerRequest, Reads, ServerAuthenticator
from federation.transport.routes.endpoints import Endpoints, Route, json_response
from federation.transport.routes.invites.third_party_invites import ThirdPartyInviteRoutes
from federation.transport.routes.joining import JoiningPorts, JoiningRoutes
from federation.transport.routes.keys import KeyRoutes
from federation.transport.routes.listings.hierarchy import HierarchyRoutes
from federation.transport.routes.listings.public_rooms import PublicRoomsRoutes
from federation.transport.routes.media.media_routes import MediaRoutes
from federation.transport.routes.notary import Notary
from federation.transport.routes.room_access import ServerRoomAccess
from federation.transport.routes.rooms import RoomRoutes
from federation.transport.routes.users import UserRoutes


@dataclass(frozen=True, slots=True)
class RouteParts:
    """The dependencies of the endpoints. `software` is name and version for /version."""

    name: ServerName
    key: SigningKey
    keyring: Keyring
    signatures: SignatureChecker
    acls: ServerAcls
    backoffs: Backoffs
    inbox: Inbox
    store: EventStore
    writer: RoomWriter
    outside: OutsideRooms
    users: UserQueries
    clock: Clock
    metrics: FederationMetrics
    recommendations: Recommendations
    invites: InviteGate
    invite_states: InviteStates
    media: LocalMedia
    third_party_invites: ThirdPartyInvites | None = None
    listings: RoomListings | None = None
    times: ServedEventTimes | None = None
    software: tuple[str, str] = ("Freehold", "0.1.0")


class FederationRoutes:
    """The table."""

    def __init__(self, parts: RouteParts) -> None:
        self._software, self._inbox = parts.software, parts.inbox
        self._transactions = TransactionReader()
        # a server that makes requests can be asked for what waits for it
        parts.backoffs.on_recovered(parts.inbox.on_server_seen)
        access = ServerRoomAccess(parts.store, parts.acls)
        authenticator = ServerAuthenticator(parts.name, parts.keyring, parts.backoffs, parts.clock)
        endpoints = Endpoints(authenticator, parts.metrics, parts.clock)
        joining = JoiningPorts(
            parts.store,
            parts.writer,
            parts.outside,
            access,
            parts.signatures,
            parts.recommendations,
            parts.invites,
            parts.invite_states,
        )
        rooms = RoomRoutes(
            parts.name, store=parts.store, access=access, clock=parts.clock, times=parts.times
        )
        notary = Notary(parts.name, parts.key, parts.keyring, parts.clock)
        self._table: list[Route] = [
            ("GET", "/_matrix/federation/v1/version", endpoints.public("version", self.version)),
            (
                "PUT",
                "/_matrix/federation/v1/send/{txnId}",
                endpoints.signed(
                    "send", self.send, bytes_max=TRANSACTION_BYTES_MAX, reads=Reads.NOTHING
                ),
            ),
            *KeyRoutes(parts.keyring, notary).table(endpoints),
            *rooms.table(endpoints),
            *UserRoutes(parts.name, parts.users).table(endpoints),
            *JoiningRoutes(parts.name, parts.key, joining).table(endpoints),
            *MediaRoutes(parts.media, parts.clock).table(endpoints),
        ]
        if (invites := parts.third_party_invites) is not None:
            self._table += ThirdPartyInviteRoutes(parts.name, access, invites).table(endpoints)
        if (listings := parts.listings) is not None:
            self._table += HierarchyRoutes(listings, parts.acls, parts.clock).table(endpoints)
            self._table += PublicRoomsRoutes(listings, parts.acls, parts.clock).table(endpoints)

    def table(self) -> list[Route]:
        """Returns method, path template and handler of every endpoint."""
        return list(self._table)

    async def version(self, request: web.BaseRequest, params: Mapping[str, str]) -> web.Response:
        """GET /version."""
        name, version = self._software
        return json_response({"server": {"name": name, "version": version}})

    async def send(self, peer: PeerRequest) -> object:
        """PUT /send/{txnId}."""
        transaction = await self._transactions.read(peer.body)
        return await self._inbox.receive(peer.origin, peer.params["txnId"], transaction)
