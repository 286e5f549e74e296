"""Creates the services and endpoints of rooms: their members, their state and their names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from federation.events.ids import UserId
from federation.events.room_versions import room_version
from federation.transport.assembly import OutboundFederation
from homeserver import limits
from homeserver.api.http.query import PageTokens
from homeserver.api.http.routes import Route
from homeserver.api.rooms.directory import DirectoryApi
from homeserver.api.rooms.hierarchy import HierarchyApi
from homeserver.api.rooms.membership import MembershipApi
from homeserver.api.rooms.mutual_rooms import MutualRoomsApi
from homeserver.api.rooms.public_rooms import PublicRoomsApi
from homeserver.api.rooms.room_summary import RoomSummaryApi
from homeserver.api.rooms.rooms import RoomsApi
from homeserver.api.rooms.state import StateApi
from homeserver.api.rooms.user_directory import UserDirectoryApi
from homeserver.app.engine import Engine
from homeserver.rules.accounts.rate_limits import Limit
from homeserver.services.accounts.profiles import LocalProfiles
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.rooms.departures import AccountDepartures
from homeserver.services.rooms.directory import Directory, LookUp, ServiceAliases
from homeserver.services.rooms.guests import GuestStays
from homeserver.services.rooms.invite_permission import InvitePermission
from homeserver.services.rooms.joining.intents import DurableJoining
from homeserver.services.rooms.joining.invited_profiles import AskProfile, InvitedProfiles
from homeserver.services.rooms.joining.remote_memberships import (
    RemoteMemberships,
    RoomWriters,
    alias_look_up,
)
from homeserver.services.rooms.joining.third_party_invites import ThirdPartyInviting
from homeserver.services.rooms.member_state import MemberState
from homeserver.services.rooms.membership import MemberDirectory, Membership, RemoteRooms
from homeserver.services.rooms.public_rooms import PublicRooms
from homeserver.services.rooms.room_access import RoomAccess
from homeserver.services.rooms.rooms import RoomCreation
from homeserver.services.rooms.state import State
from homeserver.services.rooms.successions import Move, Successions
from homeserver.services.rooms.summaries.hierarchy import Hierarchy
from homeserver.services.rooms.summaries.previews import Previews
from homeserver.services.rooms.summaries.remote_directories import AskDirectory, RemoteDirectories
from homeserver.services.rooms.summaries.remote_summaries import AskHierarchy, RemoteSummaries
from homeserver.services.rooms.summaries.served_summaries import ServedSummaries
from homeserver.services.rooms.summaries.summaries import Summaries
from homeserver.services.rooms.summaries.walks import Walks
from homeserver.services.rooms.upgrades import Upgrades
from homeserver.services.rooms.user_directory.mutual_rooms import MutualRooms
from homeserver.services.rooms.user_directory.search import UserSearch
from homeserver.services.rooms.user_directory.updates import UserDirectoryUpdates
from homeserver.storage.database import Database


@dataclass(frozen=True, slots=True)
class SummaryServices:
    """Summaries of rooms: in the hierarchies of spaces, each by itself, and for other servers."""

    hierarchy: Hierarchy
    previews: Previews
    served: ServedSummaries


@dataclass(frozen=True, slots=True)
class RoomServices:
    """Operations of clients in rooms, and what makes users leave them."""

    creation: RoomCreation
    membership: Membership
    members: MemberState
    directory: Directory
    public_rooms: PublicRooms
    directories: RemoteDirectories
    summaries: SummaryServices
    state: State
    upgrades: Upgrades
    departures: AccountDepartures
    guests: GuestStays
    user_search: UserSearch
    user_directory: UserDirectoryUpdates


@dataclass(frozen=True, slots=True)
class RemoteRoomParts:
    """Other servers, as far as services about rooms ask them. `admit` counts a question for an
    address without a token, and raises MatrixError (429)."""

    rooms: RemoteRooms
    look_up: LookUp
    hierarchy: AskHierarchy
    public_rooms: AskDirectory
    admit: Callable[[str], None]


def make_member_directory(
    engine: Engine,
    database: Database,
    ask: AskProfile,
    move: Move,
    provide: Callable[[UserId], Awaitable[None]],
) -> MemberDirectory:
    """Creates the user facts that membership needs. `ask` asks other servers for profiles; `move`
    copies a user's settings of a room to the one that replaces it; `provide` lets application
    services make users."""
    return MemberDirectory(
        engine.context.name,
        LocalProfiles(database).get,
        InvitePermission(database).is_blocked,
        Successions(engine.rooms, engine.memberships, move).joined,
        provide,
        InvitedProfiles(ask).of,
    )


def make_remote_memberships(engine: Engine, outbound: OutboundFederation) -> RemoteMemberships:
    """Creates membership changes through other servers."""
    return RemoteMemberships(
        outbound.joining,
        RoomWriters(engine.rooms, engine.remote_event_writer),
        signer=engine.context.signer,
        clock=engine.context.clock,
        ask_for_guests=outbound.queries.guests_may_join,
    )


def make_remote_room_parts(
    rooms: RemoteRooms, outbound: OutboundFederation, limiter: RateLimiter
) -> RemoteRoomParts:
    """Creates what asks other servers; `rooms` changes memberships through them."""
    queries = outbound.queries
    ask = partial(queries.hierarchy, timeout_s=limits.SUMMARY_REQUEST_S)
    admit = partial(limiter.check, Limit.REMOTE_ROOMS)
    ask_directory = partial(queries.public_rooms, timeout_s=limits.REMOTE_DIRECTORY_S)
    return RemoteRoomParts(rooms, alias_look_up(queries), ask, ask_directory, admit)


def make_joining(
    engine: Engine, database: Database, outbound: OutboundFederation
) -> DurableJoining:
    """Creates membership changes through other servers that are finished even after a crash."""
    return DurableJoining(
        database,
        make_remote_memberships(engine, outbound),
        engine.memberships.of,
        end_here=engine.remote_event_writer.outside.end_unsigned,
        clock=engine.context.clock,
    )


def make_rooms(
    engine: Engine,
    database: Database,
    people: MemberDirectory,
    remote: RemoteRoomParts,
    *,
    default_version: str,
    aliases: ServiceAliases,
) -> RoomServices:
    """Creates the services; two follow the log. `default_version` is the version of new
    rooms."""
    clock, rooms = engine.context.clock, engine.room_context
    directory = Directory(
        rooms,
        database,
        clock,
        server_name=engine.context.name,
        look_up=remote.look_up,
        services=aliases,
    )
    outside, public_rooms = engine.remote_event_writer.outside, PublicRooms(database, engine.rooms)
    membership = Membership(rooms, outside, people, directory, remote.rooms)
    members = MemberState(rooms, membership, people)
    guests = GuestStays(database, RoomAccess(rooms), leave=membership.leave, sleep=clock.sleep)
    user_directory = UserDirectoryUpdates(
        database, engine.rooms, engine.context.name, sleep=clock.sleep
    )
    for follower in (guests, user_directory):
        engine.committer.subscribe(follower.on_commit)
    return RoomServices(
        creation=RoomCreation(
            engine.writer,
            directory,
            membership,
            people,
            default_version=room_version(default_version),
        ),
        membership=membership,
        members=members,
        directory=directory,
        public_rooms=public_rooms,
        directories=RemoteDirectories(remote.public_rooms, remote.admit),
        summaries=make_summaries(engine, remote, directory, public_rooms),
        state=State(rooms, directory, members, engine.reader),
        upgrades=Upgrades(rooms, people),
        departures=AccountDepartures(
            database, clock, rooms_of=engine.memberships.of, leave=membership.leave
        ),
        guests=guests,
        user_search=UserSearch(database, engine.context.name),
        user_directory=user_directory,
    )


def make_summaries(
    engine: Engine, others: RemoteRoomParts, directory: Directory, public_rooms: PublicRooms
) -> SummaryServices:
    """Creates the services that summarise rooms."""
    context, rooms = engine.context, engine.room_context
    summaries = Summaries(rooms)
    remote = RemoteSummaries(others.hierarchy, context.clock, context.name)
    walks = Walks(context.clock, context.random_bytes)
    return SummaryServices(
        Hierarchy(rooms, summaries, remote, walks, context.clock),
        Previews(rooms, summaries, remote, directory.resolve, others.admit),
        ServedSummaries(rooms, summaries, public_rooms),
    )


def room_routes(
    engine: Engine,
    services: RoomServices,
    tokens: PageTokens,
    inviting: ThirdPartyInviting | None = None,
) -> list[Sequence[Route]]:
    """Returns the endpoints; without `inviting`, nobody is invited by an address."""
    return [
        RoomsApi(services.creation, services.upgrades, inviting).routes(),
        MembershipApi(services.membership, inviting).routes(),
        DirectoryApi(services.directory).routes(),
        HierarchyApi(services.summaries.hierarchy).routes(),
        RoomSummaryApi(services.summaries.previews).routes(),
        PublicRoomsApi(services.public_rooms, services.directories, engine.context.name).routes(),
        StateApi(services.state, tokens).routes(),
        UserDirectoryApi(services.user_search).routes(),
        MutualRoomsApi(MutualRooms(engine.memberships)).routes(),
    ]
