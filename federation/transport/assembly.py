"""Creates the transport's objects over its ports: requests first, then the outbound part, the
outbox, and the inbound part.

The homeserver, the simulation and the tests of this package all use it, each with its own ports.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from federation.event_time_ports import ServedEventTimes
from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.limits import MEDIA_BACKOFF_S_MAX
from federation.listing_ports import RoomListings
from federation.media_ports import LocalMedia
from federation.metrics import FederationMetrics
from federation.ports import (
    Clock,
    DestinationStore,
    EduSink,
    EventStore,
    FederationSettings,
    InboxStore,
    InviteGate,
    KeyStore,
    OutboundFeed,
    OutsideRooms,
    RoomWriter,
    ThirdPartyInvites,
    UserQueries,
)
from federation.transport.acl import ServerAcls
from federation.transport.events.event_fetcher import EventFetcher
from federation.transport.events.signature_checks import SignatureChecker
from federation.transport.inbound.backfill import Backfiller
from federation.transport.inbound.backlog import InboxPorts
from federation.transport.inbound.departures import Departures
from federation.transport.inbound.edus import EduReceiver
from federation.transport.inbound.gap_filler import GapFiller
from federation.transport.inbound.inbox import Inbox
from federation.transport.inbound.policy_servers import PolicyServers, Recommendations
from federation.transport.joining.arrivals import Arrivals
from federation.transport.joining.invite_states import InviteStates
from federation.transport.joining.joining import Joining
from federation.transport.media.media_fetcher import MediaFetcher
from federation.transport.outbox import Outbox, OutboxPorts
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.client import FederationClient
from federation.transport.requests.dialer import Dialer
from federation.transport.requests.keyring import Keyring
from federation.transport.requests.queries import Queries
from federation.transport.requests.resolve import ServerResolver
from federation.transport.requests.urls import Lookup
from federation.transport.routes import FederationRoutes, RouteParts
from federation.transport.scheduling.scheduler import FetchScheduler, IsNeighbour


@dataclass(frozen=True, slots=True)
class FederationContext:
    """The objects that every part may use. `spawn` runs a coroutine as a named task."""

    settings: FederationSettings
    key: SigningKey
    clock: Clock
    metrics: FederationMetrics
    spawn: Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]

    @property
    def name(self) -> ServerName:
        """This server's name."""
        return self.settings.server_name


@dataclass(frozen=True, slots=True)
class RoomPorts:
    """The rooms of the server: read, written, and those that it isn't in."""

    store: EventStore
    writer: RoomWriter
    outside: OutsideRooms


@dataclass(frozen=True, slots=True)
class FederationRequests:
    """Requests to other servers."""

    backoffs: Backoffs
    client: FederationClient
    policies: PolicyServers
    media: MediaFetcher


@dataclass(frozen=True, slots=True)
class OutboundFederation:
    """The outbound part: exchanges and queries."""

    requests: FederationRequests
    keyring: Keyring
    signatures: SignatureChecker
    fetcher: EventFetcher
    arrivals: Arrivals
    joining: Joining
    queries: Queries
    backfiller: Backfiller


@dataclass(frozen=True, slots=True)
class InboundPorts:
    """What answers other servers, beside the rooms: the stored inbox and the server's services."""

    waiting: InboxStore
    users: UserQueries
    edus: EduSink
    invites: InviteGate
    media: LocalMedia
    third_party_invites: ThirdPartyInvites | None = None
    listings: RoomListings | None = None
    times: ServedEventTimes | None = None


@dataclass(frozen=True, slots=True)
class InboundFederation:
    """The inbound part: endpoints and the inbox."""

    routes: FederationRoutes
    inbox: Inbox
    filler: GapFiller
    recommendations: Recommendations


def make_requests(
    context: FederationContext,
    backoffs: Backoffs,
    is_neighbour: IsNeighbour,
    *,
    dialer: Dialer,
    media_dialer: Dialer,
    resolver: ServerResolver,
    lookup: Lookup,
) -> FederationRequests:
    """Creates the clients over their dialers and a resolver of names. That of media has
    connections, turns and back-off of its own; `lookup` finds the hosts that media lead to."""
    client = FederationClient(
        context.settings,
        context.key,
        dialer=dialer,
        resolver=resolver,
        backoffs=backoffs,
        scheduler=FetchScheduler(context.clock, is_neighbour),
    )
    media_client = FederationClient(
        context.settings,
        context.key,
        dialer=media_dialer,
        resolver=resolver,
        backoffs=backoffs.separate(MEDIA_BACKOFF_S_MAX),
        scheduler=FetchScheduler(context.clock, is_neighbour),
    )
    policies = PolicyServers(client, clock=context.clock, metrics=context.metrics)
    media = MediaFetcher(media_client, backoffs, lookup, context.metrics, context.clock)
    return FederationRequests(backoffs, client, policies, media)


def make_outbound(
    context: FederationContext, requests: FederationRequests, rooms: RoomPorts, keys: KeyStore
) -> OutboundFederation:
    """Creates the keys, the exchanges and the queries."""
    client, clock = requests.client, context.clock
    keyring = Keyring(context.settings, context.key, store=keys, client=client, clock=clock)
    signatures = SignatureChecker(keyring)
    fetcher = EventFetcher(
        client, store=rooms.store, writer=rooms.writer, signatures=signatures, clock=clock
    )
    arrivals = Arrivals()
    joining = Joining(
        context.key,
        client,
        fetcher=fetcher,
        signatures=signatures,
        writer=rooms.writer,
        outside=rooms.outside,
        clock=clock,
        arrivals=arrivals,
    )
    return OutboundFederation(
        requests=requests,
        keyring=keyring,
        signatures=signatures,
        fetcher=fetcher,
        arrivals=arrivals,
        joining=joining,
        queries=Queries(client),
        backfiller=Backfiller(client, store=rooms.store, writer=rooms.writer, fetcher=fetcher),
    )


def make_outbox(
    context: FederationContext,
    requests: FederationRequests,
    feed: OutboundFeed,
    destinations: DestinationStore,
) -> Outbox:
    """Creates the delivery of what other servers are owed."""
    ports = OutboxPorts(feed, destinations, context.clock, context.metrics, context.spawn)
    return Outbox(context.name, requests.client, ports)


def make_inbound(
    context: FederationContext, outbound: OutboundFederation, rooms: RoomPorts, ports: InboundPorts
) -> InboundFederation:
    """Creates the endpoints and the inbox."""
    name, clock, metrics = context.name, context.clock, context.metrics
    signatures, fetcher = outbound.signatures, outbound.fetcher
    acls = ServerAcls(rooms.store)
    recommendations = Recommendations(rooms.store, outbound.requests.policies, clock)
    filler = GapFiller(
        name,
        store=rooms.store,
        writer=rooms.writer,
        signatures=signatures,
        fetcher=fetcher,
        recommendations=recommendations,
        metrics=metrics,
    )
    inbox = Inbox(
        name,
        InboxPorts(rooms.store, ports.waiting, clock, metrics, context.spawn),
        filler=filler,
        acls=acls,
        edus=EduReceiver(name, sink=ports.edus, acls=acls, metrics=metrics),
        arrivals=outbound.arrivals,
        departures=Departures(name, rooms.outside, signatures),
    )
    routes = FederationRoutes(
        RouteParts(
            name=name,
            key=context.key,
            keyring=outbound.keyring,
            signatures=signatures,
            acls=acls,
            backoffs=outbound.requests.backoffs,
            inbox=inbox,
            store=rooms.store,
            writer=rooms.writer,
            outside=rooms.outside,
            users=ports.users,
            clock=clock,
            metrics=metrics,
            recommendations=recommendations,
            invites=ports.invites,
            invite_states=InviteStates(signatures, fetcher),
            media=ports.media,
            third_party_invites=ports.third_party_invites,
            listings=ports.listings,
            times=ports.times,
        )
    )
    return InboundFederation(routes, inbox, filler, recommendations)
