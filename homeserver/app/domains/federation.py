"""Hands the stores and the engine to the transport, and creates the services that answer other
servers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from federation.event_time_ports import ServedEventTimes
from federation.listing_ports import RoomListings
from federation.media_ports import LocalMedia
from federation.ports import InviteGate, ThirdPartyInvites
from federation.transport.assembly import (
    FederationContext,
    FederationRequests,
    InboundFederation,
    InboundPorts,
    OutboundFederation,
    RoomPorts,
    make_inbound,
    make_outbound,
    make_outbox,
    make_requests,
)
from federation.transport.joining.arrivals import Arrivals
from federation.transport.outbox import Outbox
from federation.transport.requests.backoff import Backoffs
from federation.transport.requests.dialer import Dialer
from federation.transport.requests.resolve import ServerResolver, SystemNames
from federation.transport.requests.well_known import WellKnown
from homeserver.app.domains.encryption import EncryptionServices
from homeserver.app.domains.ephemeral import EphemeralServices
from homeserver.app.engine import Engine
from homeserver.engine.followers.outbound_feed import FeedDestinations, LogFeed
from homeserver.services.accounts.profiles import LocalProfiles
from homeserver.services.encryption.device_list_edus import StoredListEdus
from homeserver.services.federation.edus import FederationEdus
from homeserver.services.federation.neighbours import Neighbours
from homeserver.services.federation.queries import FederationQueries
from homeserver.services.rooms.directory import Directory
from homeserver.storage.database import Database
from homeserver.storage.federation.destinations import DestinationTable
from homeserver.storage.federation.inbox import InboxTable
from homeserver.storage.federation.server_keys import ServerKeyTable


@dataclass(frozen=True, slots=True)
class ServedDomains:
    """What other domains answer other servers with."""

    invites: InviteGate
    media: LocalMedia
    listings: RoomListings
    times: ServedEventTimes


@dataclass(frozen=True, slots=True)
class FederationServices:
    """What answers other servers."""

    queries: FederationQueries
    edus: FederationEdus
    served: ServedDomains


def make_net_requests(
    context: FederationContext, database: Database, dialer: Dialer, media_dialer: Dialer
) -> FederationRequests:
    """Creates the clients with the names and addresses of the net."""
    backoffs = Backoffs(context.clock, random.SystemRandom().random)
    names = SystemNames(context.clock)
    delegations = WellKnown(dialer, names.addresses, context.clock)
    return make_requests(
        context,
        backoffs,
        Neighbours(context.name, database, backoffs).is_neighbour,
        dialer=dialer,
        media_dialer=media_dialer,
        resolver=ServerResolver(names, delegations, context.settings.address_overrides),
        lookup=names.addresses,
    )


def room_ports(engine: Engine) -> RoomPorts:
    """Returns the engine as the transport sees it."""
    writer = engine.remote_event_writer
    return RoomPorts(engine.events, writer, writer.outside)


def make_stored_outbound(
    context: FederationContext, engine: Engine, database: Database, requests: FederationRequests
) -> OutboundFederation:
    """Creates the outbound part over the engine, with stored keys of servers."""
    return make_outbound(context, requests, room_ports(engine), ServerKeyTable(database))


def make_feed(engine: Engine, database: Database) -> LogFeed:
    """Creates what other servers are owed; it follows the log."""
    return LogFeed(
        engine.store,
        engine.committer,
        engine.rooms,
        server_name=engine.context.name,
        device_list_edus=StoredListEdus(database),
    )


def make_stored_outbox(
    context: FederationContext,
    engine: Engine,
    database: Database,
    requests: FederationRequests,
    feed: LogFeed,
) -> Outbox:
    """Creates the delivery of the feed, with stored destinations."""
    destinations = FeedDestinations(
        engine.store.owed, DestinationTable(database), engine.committer, feed
    )
    return make_outbox(context, requests, feed, destinations)


def make_stored_inbound(
    context: FederationContext,
    engine: Engine,
    database: Database,
    outbound: OutboundFederation,
    services: FederationServices,
    third_party_invites: ThirdPartyInvites,
) -> InboundFederation:
    """Creates the endpoints for other servers and the stored inbox."""
    ports = InboundPorts(
        InboxTable(database),
        services.queries,
        services.edus,
        services.served.invites,
        services.served.media,
        third_party_invites,
        services.served.listings,
        services.served.times,
    )
    return make_inbound(context, outbound, room_ports(engine), ports)


def make_federation(
    engine: Engine,
    database: Database,
    encryption: EncryptionServices,
    ephemeral: EphemeralServices,
    *,
    directory: Directory,
    arrivals: Arrivals,
    served: ServedDomains,
) -> FederationServices:
    """Creates the services that other servers ask, and those that take their EDUs."""
    queries = FederationQueries(
        server_name=engine.context.name,
        rooms=engine.rooms,
        memberships=engine.memberships,
        keys=encryption.keys,
        key_queries=encryption.key_queries,
        clock=engine.context.clock,
        profile=LocalProfiles(database).query,
        directory=directory.resolve_local,
        arrivals=arrivals,
    )
    edus = FederationEdus(
        typing=ephemeral.typing,
        receipts=ephemeral.receipts,
        to_device=encryption.to_device,
        remote_devices=encryption.remote_devices,
        presence=ephemeral.presence.remote,
    )
    return FederationServices(queries, edus, served)
