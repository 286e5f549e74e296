"""Joins the services of all domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.transport.assembly import OutboundFederation
from homeserver.app.domains.accounts import AccountHooks, AccountServices, make_accounts
from homeserver.app.domains.admin import AdminServices, make_admin
from homeserver.app.domains.appservices import (
    AppServiceRegistry,
    AppServiceServices,
    make_appservices,
)
from homeserver.app.domains.encryption import (
    EncryptionServices,
    make_dehydrated,
    make_encryption,
)
from homeserver.app.domains.ephemeral import EphemeralServices, PresenceOutside, make_ephemeral
from homeserver.app.domains.federation import (
    FederationServices,
    ServedDomains,
    make_federation,
)
from homeserver.app.domains.identity import IdentityServices, make_identity, make_proofs
from homeserver.app.domains.media import MediaServices, make_media
from homeserver.app.domains.outside import OutsideClients
from homeserver.app.domains.push import PushServices, make_account_data, make_push
from homeserver.app.domains.rooms import (
    RemoteRoomParts,
    RoomServices,
    make_joining,
    make_member_directory,
    make_remote_room_parts,
    make_rooms,
)
from homeserver.app.domains.sync import make_sync
from homeserver.app.domains.timeline import (
    SearchServices,
    TimelineServices,
    make_search,
    make_timeline,
)
from homeserver.app.engine import Engine
from homeserver.app.pushers import PusherServices, make_pushers
from homeserver.app.sign_on import make_sign_on
from homeserver.config import Config
from homeserver.outbound.identity_servers import IdentityServers
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.accounts.device_removal import OnDevicesDeleted
from homeserver.services.accounts.passwords import Passwords, configured_hasher
from homeserver.services.accounts.profiles import RemoteProfiles
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.encryption.dehydrated_devices import DehydratedDevices
from homeserver.services.ephemeral.typing_audience import Forward
from homeserver.services.media.served_media import MediaForServers
from homeserver.services.rooms.joining.intents import DurableJoining
from homeserver.services.rooms.joining.remote_invites import RemoteInvites
from homeserver.services.rooms.joining.third_party_invites import (
    InvitingParts,
    ThirdPartyInviting,
)
from homeserver.services.rooms.membership import MemberDirectory
from homeserver.services.sso.sign_on import SignOn
from homeserver.services.sync.extras import SyncSources
from homeserver.services.sync.filters import Filters
from homeserver.services.sync.loop import Sync
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.event_times import EventTimesForServers
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.database import Database
from homeserver.storage.timeline.relations import RelationTable


@dataclass(frozen=True, slots=True)
class Services:
    """Everything between the engine and the HTTP layer, by domain."""

    engine: Engine
    appservices: AppServiceServices
    accounts: AccountServices
    admin: AdminServices
    account_data: AccountDataService
    encryption: EncryptionServices
    dehydrated: DehydratedDevices
    ephemeral: EphemeralServices
    push: PushServices
    pushers: PusherServices
    rooms: RoomServices
    joining: DurableJoining
    timeline: TimelineServices
    search: SearchServices
    sync: Sync
    filters: Filters
    federation: FederationServices
    media: MediaServices
    identity: IdentityServices
    inviting: ThirdPartyInviting
    sign_on: SignOn


def make_services(
    engine: Engine,
    database: Database,
    outbound: OutboundFederation,
    config: Config,
    *,
    limiter: RateLimiter,
    forward: Forward,
    registry: AppServiceRegistry,
    outside: OutsideClients,
) -> Services:
    """Creates all services; those that follow the log are subscribed to it. `forward` sends EDUs to
    other servers."""
    proofs = make_proofs(engine.context, database, config, outside.mail, outside.trusted, limiter)
    identity_servers = IdentityServers(outside.named, config.identity.servers)
    encryption = make_encryption(engine, database, outbound.queries)
    ephemeral = _ephemeral(engine, database, outbound, config, forward)
    push = make_push(engine, database, kept=config.push.notifications_per_room)
    account_data = make_account_data(engine, database, push.rules)
    backfill = RoomBackfill(outbound.backfiller, engine.context.name)
    timeline = make_timeline(engine, RelationTable(database), account_data, backfill)
    pushers = make_pushers(engine, database, push, outside.gateways, timeline.history.event_alone)
    media = make_media(engine, database, config, outbound.requests.media, limiter)
    people = _people(engine, database, outbound, account_data, registry)
    joining = make_joining(engine, database, outbound)
    remote = make_remote_room_parts(joining, outbound, limiter)
    rooms = _rooms(engine, database, people, remote, config=config, registry=registry)
    invites = RemoteInvites(database, people, engine.memberships, limiter)
    deleted = [encryption.keys.on_devices_deleted, pushers.pushers.on_devices_deleted]
    hooks = _account_hooks(engine, outbound, deleted, rooms, media, registry, ephemeral=ephemeral)
    passwords = Passwords(engine.context.random_bytes, configured_hasher(config.passwords))
    accounts = make_accounts(
        engine, database, hooks, passwords=passwords, limiter=limiter, config=config, proofs=proofs
    )
    sources = _sync_sources(encryption, ephemeral, account_data, push)
    return Services(
        engine=engine,
        appservices=make_appservices(engine, database, registry, encryption, ephemeral),
        accounts=accounts,
        admin=make_admin(engine, database, accounts, hooks, config, timeline.history.is_seen),
        account_data=account_data,
        encryption=encryption,
        dehydrated=make_dehydrated(engine, database, encryption.keys, accounts.removal),
        ephemeral=ephemeral,
        push=push,
        pushers=pushers,
        rooms=rooms,
        joining=joining,
        timeline=timeline,
        search=make_search(engine, database, timeline, backfill),
        sync=make_sync(engine, timeline, sources),
        filters=Filters(database=database),
        federation=make_federation(
            engine,
            database,
            encryption,
            ephemeral,
            directory=rooms.directory,
            arrivals=outbound.arrivals,
            served=_served(engine, database, invites, media, rooms),
        ),
        media=media,
        identity=make_identity(
            engine.context, database, proofs, identity_servers, passwords, accounts.removal
        ),
        inviting=_inviting(
            engine, outbound, rooms, people, identity_servers, limiter=limiter, database=database
        ),
        sign_on=make_sign_on(engine.context, database, config, outside.trusted, accounts),
    )


def _people(
    engine: Engine,
    database: Database,
    outbound: OutboundFederation,
    account_data: AccountDataService,
    registry: AppServiceRegistry,
) -> MemberDirectory:
    ask = RemoteProfiles(outbound.queries).fetch
    move = account_data.carry_over
    return make_member_directory(engine, database, ask, move, registry.provide_user)


def _rooms(
    engine: Engine,
    database: Database,
    people: MemberDirectory,
    remote: RemoteRoomParts,
    *,
    config: Config,
    registry: AppServiceRegistry,
) -> RoomServices:
    return make_rooms(
        engine,
        database,
        people,
        remote,
        default_version=config.default_room_version,
        aliases=registry.aliases,
    )


def _ephemeral(
    engine: Engine,
    database: Database,
    outbound: OutboundFederation,
    config: Config,
    forward: Forward,
) -> EphemeralServices:
    outside = PresenceOutside(config.presence, outbound.requests.backoffs)
    return make_ephemeral(engine, database, forward, outside)


def _served(
    engine: Engine,
    database: Database,
    invites: RemoteInvites,
    media: MediaServices,
    rooms: RoomServices,
) -> ServedDomains:
    name = engine.context.name
    for_servers = MediaForServers(media.downloads, media.views.thumbnails, name)
    times = EventTimesForServers(database)
    return ServedDomains(invites, for_servers, rooms.summaries.served, times)


def _inviting(
    engine: Engine,
    outbound: OutboundFederation,
    rooms: RoomServices,
    people: MemberDirectory,
    servers: IdentityServers,
    *,
    limiter: RateLimiter,
    database: Database,
) -> ThirdPartyInviting:
    exchange, accounts = outbound.queries.exchange_third_party_invite, AccountTable(database)
    parts = InvitingParts(rooms.membership, people, servers, exchange, limiter, accounts)
    return ThirdPartyInviting(engine.room_context, parts)


def _account_hooks(
    engine: Engine,
    outbound: OutboundFederation,
    on_devices_deleted: Sequence[OnDevicesDeleted],
    rooms: RoomServices,
    media: MediaServices,
    registry: AppServiceRegistry,
    *,
    ephemeral: EphemeralServices,
) -> AccountHooks:
    presence = ephemeral.presence.own
    return AccountHooks(
        on_devices_deleted=[*on_devices_deleted, presence.on_devices_deleted],
        on_deactivated=[
            presence.on_deactivated,
            rooms.departures.begin,
            engine.rooms.erasures.changed,
            media.retention.on_deactivated,
        ],
        on_profile_changed=[presence.on_profile_changed, rooms.members.on_profile_changed],
        fetch_profile=RemoteProfiles(outbound.queries).fetch,
        check_name=registry.registrations.check_user,
    )


def _sync_sources(
    encryption: EncryptionServices,
    ephemeral: EphemeralServices,
    account_data: AccountDataService,
    push: PushServices,
) -> SyncSources:
    return SyncSources(
        to_device=encryption.to_device,
        device_lists=encryption.device_lists,
        keys=encryption.keys,
        account_data=account_data,
        receipts=ephemeral.receipts,
        typing=ephemeral.typing,
        own_presence=ephemeral.presence.own,
        presence=ephemeral.presence.view,
        unread=push.counts,
    )
