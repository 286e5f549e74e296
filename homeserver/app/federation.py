"""Creates the federation side: requests to other servers first (the engine asks policy servers),
then the outbound part (services use it), then the inbound part."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from federation.events.ids import ServerName
from federation.events.signing import SigningKey
from federation.ports import (
    Clock,
    EduSink,
    FederationSettings,
    InviteGate,
    Metrics,
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
from federation.transport.outbox import Outbox, OutboxPorts
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.client import FederationClient
from federation.transport.requests.dialer import Dialer, build_tls_context
from federation.transport.requests.keyring import Keyring
from federation.transport.requests.queries import Queries
from federation.transport.requests.resolve import ServerResolver, SystemNames
from federation.transport.requests.well_known import WellKnown
from federation.transport.routes.table import FederationRoutes, RouteParts
from federation.transport.scheduling.scheduler import FetchScheduler, IsNeighbour
from homeserver.app.engine import Engine
from homeserver.engine.followers.outbound_feed import FeedDestinations, LogFeed
from homeserver.services.encryption.device_list_edus import StoredListEdus
from homeserver.storage.database import Database
from homeserver.storage.federation.destinations import Destinations
from homeserver.storage.federation.inbox import InboxRows as InboxRows
from homeserver.storage.federation.server_keys import ServerKeys
from homeserver.storage.rooms.memberships import shares_room
from homeserver.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class FederationContext:
    """The objects that every part may use."""

    settings: FederationSettings
    key: SigningKey
    clock: Clock
    metrics: Metrics
    supervisor: Supervisor


@dataclass(frozen=True, slots=True)
class FederationRequests:
    """Requests to other servers."""

    dialer: Dialer
    backoffs: Backoffs
    client: FederationClient
    policies: PolicyServers


@dataclass(frozen=True, slots=True)
class OutboundFederation:
    """The outbound part: exchanges and queries."""

    line: FederationRequests
    keyring: Keyring
    signatures: SignatureChecker
    fetcher: EventFetcher
    arrivals: Arrivals
    joining: Joining
    queries: Queries
    backfiller: Backfiller
    feed: LogFeed


@dataclass(frozen=True, slots=True)
class InboundFederation:
    """The inbound part: endpoints and delivery."""

    routes: FederationRoutes
    inbox: Inbox
    outbox: Outbox


def _neighbours(name: ServerName, database: Database, backoffs: Backoffs) -> IsNeighbour:
    async def is_neighbour(server: ServerName) -> bool:
        if backoffs.of(server) is not None:
            return False  # A lost one would only occupy a place.
        async with database.connection() as connection:
            return await shares_room(connection, name, server)

    return is_neighbour


def make_requests(around: FederationContext, database: Database) -> FederationRequests:
    """Creates the client, with its names, addresses and certificates."""
    settings, clock = around.settings, around.clock
    tls = build_tls_context(settings.ca_paths, verify=settings.verify_tls)
    dialer = Dialer(tls, allow_private=settings.allow_private_addresses)
    names = SystemNames(clock)
    delegations = WellKnown(dialer, names.addresses, clock)
    backoffs = Backoffs(clock, random.SystemRandom().random)
    client = FederationClient(
        settings,
        around.key,
        dialer=dialer,
        resolver=ServerResolver(names, delegations, settings.address_overrides),
        backoffs=backoffs,
        scheduler=FetchScheduler(clock, _neighbours(settings.server_name, database, backoffs)),
    )
    policies = PolicyServers(client, clock=clock, metrics=around.metrics)
    return FederationRequests(dialer, backoffs, client, policies)


def make_outbound(
    around: FederationContext, engine: Engine, line: FederationRequests
) -> OutboundFederation:
    """Creates the keys and the exchanges."""
    settings, clock, client = around.settings, around.clock, line.client
    keyring = Keyring(
        settings, around.key, store=ServerKeys(engine.database), client=client, clock=clock
    )
    signatures = SignatureChecker(keyring)
    fetcher = EventFetcher(
        client,
        store=engine.events,
        writer=engine.remote_event_writer,
        signatures=signatures,
        clock=clock,
    )
    arrivals = Arrivals()
    joining = Joining(
        around.key,
        client,
        fetcher=fetcher,
        signatures=signatures,
        writer=engine.remote_event_writer,
        outside=engine.remote_event_writer.outside,
        clock=clock,
        arrivals=arrivals,
    )
    feed = LogFeed(
        engine.store,
        engine.committer,
        engine.rooms,
        server_name=settings.server_name,
        device_list_edus=StoredListEdus(engine.database),
    )
    return OutboundFederation(
        line=line,
        keyring=keyring,
        signatures=signatures,
        fetcher=fetcher,
        arrivals=arrivals,
        joining=joining,
        queries=Queries(client),
        backfiller=Backfiller(
            client, store=engine.events, writer=engine.remote_event_writer, fetcher=fetcher
        ),
        feed=feed,
    )


def make_inbound(
    around: FederationContext,
    engine: Engine,
    way_out: OutboundFederation,
    *,
    users: UserQueries,
    edus: EduSink,
    invites: InviteGate,
) -> InboundFederation:
    """Creates the endpoints, the inbox and the outbox."""
    name, clock, metrics = around.settings.server_name, around.clock, around.metrics
    spawn: Callable[..., None] = around.supervisor.spawn
    acls = ServerAcls(engine.events)
    recommendations = Recommendations(engine.events, way_out.line.policies, clock)
    filler = GapFiller(
        name,
        store=engine.events,
        writer=engine.remote_event_writer,
        signatures=way_out.signatures,
        fetcher=way_out.fetcher,
        recommendations=recommendations,
        metrics=metrics,
    )
    inbox = Inbox(
        name,
        InboxPorts(engine.events, InboxRows(engine.database), clock, metrics, spawn),
        filler=filler,
        acls=acls,
        edus=EduReceiver(name, sink=edus, acls=acls, metrics=metrics),
        arrivals=way_out.arrivals,
        departures=Departures(name, engine.remote_event_writer.outside, way_out.signatures),
    )
    destinations = FeedDestinations(
        engine.store.owed, Destinations(engine.database), engine.committer, way_out.feed
    )
    outbox = Outbox(
        name, way_out.line.client, OutboxPorts(way_out.feed, destinations, clock, metrics, spawn)
    )
    routes = FederationRoutes(
        RouteParts(
            name=name,
            key=around.key,
            keyring=way_out.keyring,
            signatures=way_out.signatures,
            acls=acls,
            backoffs=way_out.line.backoffs,
            inbox=inbox,
            store=engine.events,
            writer=engine.remote_event_writer,
            outside=engine.remote_event_writer.outside,
            users=users,
            clock=clock,
            metrics=metrics,
            recommendations=recommendations,
            invites=invites,
            invite_states=InviteStates(way_out.signatures, way_out.fetcher),
        )
    )
    return InboundFederation(routes, inbox, outbox)
