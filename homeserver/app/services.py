"""Creates the services."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from federation.events.room_versions import room_version
from federation.ports import Clock
from federation.transport.joining.arrivals import Arrivals
from federation.transport.requests.client import FederationError
from homeserver.app.engine import Engine
from homeserver.app.federation import OutboundFederation
from homeserver.app.members import make_guests, make_people_of_rooms
from homeserver.config import Config
from homeserver.engine.local.writer import Signer
from homeserver.engine.log.log_history import LogHistory
from homeserver.engine.rooms.reader import event_entry
from homeserver.errors import not_found
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.accounts.accounts import AccountParts, Accounts, resolve_user
from homeserver.services.accounts.device_removal import DeviceRemoval
from homeserver.services.accounts.devices import Devices
from homeserver.services.accounts.logins import LoginParts, Logins
from homeserver.services.accounts.own_devices import OwnDeviceNames
from homeserver.services.accounts.passwords import Passwords
from homeserver.services.accounts.profiles import Profiles
from homeserver.services.accounts.rate_limits import RateLimiter
from homeserver.services.accounts.seen_devices import SeenDevices
from homeserver.services.accounts.tokens import Tokens
from homeserver.services.accounts.uia import StageChecks, Uia
from homeserver.services.encryption.cross_signing import CrossSigning
from homeserver.services.encryption.device_lists import DeviceLists
from homeserver.services.encryption.key_queries import KeyQueries
from homeserver.services.encryption.keys import Keys
from homeserver.services.encryption.remote_devices import RemoteDevices
from homeserver.services.encryption.to_device import ToDevice
from homeserver.services.ephemeral.receipts import Receipts
from homeserver.services.ephemeral.typing import Typing
from homeserver.services.federation.edus import FederationEdus
from homeserver.services.federation.queries import FederationQueries
from homeserver.services.push.push_rules import PushRules
from homeserver.services.rooms.departures import AccountDepartures
from homeserver.services.rooms.directory import Directory
from homeserver.services.rooms.guests import GuestStays
from homeserver.services.rooms.joining.intents import DurableJoining
from homeserver.services.rooms.joining.remote_invites import RemoteInvites
from homeserver.services.rooms.joining.remote_memberships import (
    RemoteMemberships,
    RoomWriters,
    alias_look_up,
)
from homeserver.services.rooms.member_state import MemberState
from homeserver.services.rooms.membership import MemberDirectory, Membership
from homeserver.services.rooms.public_rooms import PublicRooms
from homeserver.services.rooms.room_access import RoomContext
from homeserver.services.rooms.rooms import RoomCreation
from homeserver.services.rooms.state import State
from homeserver.services.rooms.upgrades import Upgrades
from homeserver.services.sync.filters import Filters
from homeserver.services.sync.lazy_members import LazyMembers
from homeserver.services.sync.loop import Sync, SyncEngine
from homeserver.services.sync.rooms.departed import DepartedRooms
from homeserver.services.sync.rooms.joined import RoomPlanner
from homeserver.services.sync.rooms.state import SyncState
from homeserver.services.sync.rooms.timelines import Timelines
from homeserver.services.sync.sources import SyncSources
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.history import History
from homeserver.services.timeline.timeline import Timeline
from homeserver.services.timeline.visibility import Visibility


@dataclass(frozen=True, slots=True)
class EncryptionServices:
    """Keys, lists and messages of devices, and ephemeral data."""

    keys: Keys
    key_queries: KeyQueries
    cross_signing: CrossSigning
    device_lists: DeviceLists
    remote_devices: RemoteDevices
    to_device: ToDevice
    receipts: Receipts
    typing: Typing
    account_data: AccountDataService


@dataclass(frozen=True, slots=True)
class PeopleServices:
    """Accounts, log-ins and profiles."""

    tokens: Tokens
    passwords: Passwords
    accounts: Accounts
    logins: Logins
    devices: Devices
    uia: Uia
    profiles: Profiles
    seen: SeenDevices


@dataclass(frozen=True, slots=True)
class RoomServices:
    """Operations of clients in rooms."""

    creation: RoomCreation
    membership: Membership
    members: MemberState
    directory: Directory
    public_rooms: PublicRooms
    timeline: Timeline
    state: State
    upgrades: Upgrades
    sync: Sync
    history: History
    invites: RemoteInvites
    joining: DurableJoining


@dataclass(frozen=True, slots=True)
class Services:
    """Everything between the engine and the HTTP layer."""

    devicework: EncryptionServices
    people: PeopleServices
    rooms: RoomServices
    queries: FederationQueries
    edus: FederationEdus
    filters: Filters
    log_history: LogHistory
    departures: AccountDepartures
    guests: GuestStays


class _Questions:
    """Queries to other servers, their failures turned into errors for our clients."""

    def __init__(self, way_out: OutboundFederation) -> None:
        self._queries = way_out.queries

    async def profile(self, user_id: UserId, field: str | None) -> JsonObject:
        try:
            return await self._queries.profile(user_id, field)
        except FederationError as error:
            raise _as_answer(error) from error


def _as_answer(error: FederationError) -> MatrixError:
    if error.status == 404:
        return not_found("the other server doesn't know it")
    return MatrixError(502, "M_UNKNOWN", f"{error.server} could not be asked")


def make_devicework(
    engine: Engine, way_out: OutboundFederation, own: ServerName, clock: Clock
) -> EncryptionServices:
    """Creates the services about devices; those that follow the log are subscribed to it."""
    database, committer, rooms = engine.database, engine.committer, engine.rooms
    names = OwnDeviceNames(database)
    position = committer.position
    remote_devices = RemoteDevices(
        database=database,
        committer=committer,
        rooms=rooms,
        shared=engine.memberships,
        remote=way_out.queries,
        clock=clock,
    )
    device_lists = DeviceLists(
        database=database,
        rooms=rooms,
        shared=engine.memberships,
        position=position,
    )
    to_device = ToDevice(
        database=database,
        committer=committer,
        server_name=own,
        own_devices=names,
        clock=clock,
        random_bytes=os.urandom,
    )
    typing = _make_typing(engine, way_out, clock)
    receipts = _make_receipts(engine, clock)
    for follower in (remote_devices, device_lists, to_device, receipts, typing):
        committer.subscribe(follower.on_commit)
    key_queries = KeyQueries(
        database=database,
        server_name=own,
        own_devices=names,
        remote_devices=remote_devices,
        remote=way_out.queries,
    )
    return EncryptionServices(
        keys=Keys(database=database, committer=committer, server_name=own, remote=way_out.queries),
        key_queries=key_queries,
        cross_signing=CrossSigning(database=database, committer=committer),
        device_lists=device_lists,
        remote_devices=remote_devices,
        to_device=to_device,
        receipts=receipts,
        typing=typing,
        account_data=AccountDataService(
            database=database, committer=committer, push_rules=PushRules()
        ),
    )


def _make_receipts(engine: Engine, clock: Clock) -> Receipts:
    async def order_of(room_id: RoomId, event_id: EventId) -> tuple[int, int] | None:
        room = await engine.rooms.get(room_id)
        found = None if room is None else await engine.reader.place(room, event_id)
        return None if found is None else event_entry(found).order

    return Receipts(
        database=engine.database,
        committer=engine.committer,
        rooms=engine.rooms,
        clock=clock,
        position=engine.committer.position,
        order_of=order_of,
    )


def _make_typing(engine: Engine, way_out: OutboundFederation, clock: Clock) -> Typing:
    def wake_room(room_id: RoomId) -> None:
        room = engine.rooms.hot(room_id)
        if room is not None:
            engine.fanout.wake_room(room)

    def announce(room_id: RoomId, user_id: UserId, typing: bool) -> None:
        room = engine.rooms.hot(room_id)
        if room is not None:
            content = {"room_id": room_id, "user_id": user_id, "typing": typing}
            edu = {"edu_type": event_types.TYPING, "content": content}
            way_out.feed.forward(room.view.servers, edu)

    return Typing(
        rooms=engine.rooms,
        clock=clock,
        boot=secrets.randbits(31),
        wake_room=wake_room,
        announce=announce,
    )


def make_people(
    engine: Engine,
    devicework: EncryptionServices,
    limiter: RateLimiter,
    *,
    own: ServerName,
    clock: Clock,
    profiles: Profiles,
    departures: AccountDepartures,
    shared_tokens: Sequence[str],
) -> PeopleServices:
    """Creates the services of accounts."""
    database, committer = engine.database, engine.committer
    passwords = Passwords(os.urandom)
    tokens = Tokens(database, os.urandom)
    removal = DeviceRemoval(
        committer, tokens, [devicework.keys.on_devices_deleted], sends=engine.transactions
    )
    ended = [departures.begin, engine.rooms.erasures.changed]
    parts = AccountParts(clock, os.urandom, passwords, tokens, removal, ended, shared_tokens)
    accounts = Accounts(database, own, parts)
    checks = StageChecks(
        accounts.is_password_right,
        accounts.is_token_usable,
        lambda name: resolve_user(name, own),
    )
    uia = Uia(clock, os.urandom, checks, limiter=limiter)
    logins = Logins(
        database,
        committer,
        own,
        LoginParts(clock, os.urandom, passwords, tokens, limiter, removal),
    )
    devices = Devices(database, committer, removal)
    seen = SeenDevices(database, clock)
    return PeopleServices(tokens, passwords, accounts, logins, devices, uia, profiles, seen)


def make_joining(
    engine: Engine, way_out: OutboundFederation, signer: Signer, clock: Clock
) -> DurableJoining:
    """Creates membership changes through other servers."""
    entrance = RoomWriters(engine.rooms, engine.remote_event_writer)
    rooms = RemoteMemberships(
        way_out.joining,
        entrance,
        signer=signer,
        clock=clock,
        ask_for_guests=way_out.queries.guests_may_join,
    )
    return DurableJoining(
        engine.database,
        rooms,
        engine.memberships.of,
        end_here=engine.remote_event_writer.outside.end_unsigned,
        clock=clock,
    )


def make_rooms(
    engine: Engine,
    way_out: OutboundFederation,
    devicework: EncryptionServices,
    *,
    config: Config,
    clock: Clock,
    people: MemberDirectory,
    signer: Signer,
    limiter: RateLimiter,
) -> RoomServices:
    """Creates the services about rooms and their timelines."""
    own = people.server_name
    room_engine = RoomContext(engine.rooms, engine.memberships, engine.writer)
    directory = Directory(
        room_engine, engine.database, clock, server_name=own, look_up=alias_look_up(way_out.queries)
    )
    remote = make_joining(engine, way_out, signer, clock)
    outside = engine.remote_event_writer.outside
    membership = Membership(room_engine, outside, people, directory, remote)
    members = MemberState(room_engine, membership, people)
    visibility = Visibility(engine.rooms, engine.reader, own)
    lazy = LazyMembers()
    timelines = Timelines(engine.reader, visibility)
    state = SyncState(engine.rooms)
    planner = RoomPlanner(engine.rooms, engine.reader, timelines, state, lazy)
    departures = DepartedRooms(engine.rooms, engine.reader, engine.memberships, timelines, state)
    sources = SyncSources(
        to_device=devicework.to_device,
        device_lists=devicework.device_lists,
        keys=devicework.keys,
        account_data=devicework.account_data,
        receipts=devicework.receipts,
        typing=devicework.typing,
    )
    sync_engine = SyncEngine(
        engine.rooms, engine.memberships, engine.committer, engine.fanout, clock
    )
    return RoomServices(
        joining=remote,
        invites=RemoteInvites(engine.database, people, engine.memberships, limiter),
        creation=RoomCreation(
            engine.writer,
            directory,
            membership,
            people,
            default_version=room_version(config.default_room_version),
        ),
        membership=membership,
        members=members,
        directory=directory,
        public_rooms=PublicRooms(engine.database, engine.rooms),
        timeline=Timeline(room_engine),
        state=State(room_engine, directory, members, engine.reader),
        upgrades=Upgrades(room_engine, people),
        sync=Sync(sync_engine, planner, departures, lazy, sources),
        history=History(
            engine.rooms,
            engine.reader,
            engine.memberships,
            visibility,
            clock=clock,
            log_history=engine.committer.history,
            backfill=RoomBackfill(way_out.backfiller, own),
        ),
    )


def make_queries(
    engine: Engine,
    devicework: EncryptionServices,
    profiles: Profiles,
    directory: Directory,
    *,
    own: ServerName,
    clock: Clock,
    arrivals: Arrivals,
) -> FederationQueries:
    """Creates the queries of other servers about local users."""

    async def ask_directory(alias: RoomAlias) -> tuple[RoomId, Sequence[ServerName]]:
        target = await directory.resolve_local(alias)
        return target.room_id, target.servers

    async def ask_profile(user_id: UserId, field: str | None) -> JsonObject:
        if field is not None:
            return await profiles.get_key(user_id, field)
        return await profiles.get(user_id)

    return FederationQueries(
        server_name=own,
        rooms=engine.rooms,
        memberships=engine.memberships,
        keys=devicework.keys,
        key_queries=devicework.key_queries,
        clock=clock,
        profile=ask_profile,
        directory=ask_directory,
        arrivals=arrivals,
    )


def make_services(
    engine: Engine,
    way_out: OutboundFederation,
    config: Config,
    *,
    signer: Signer,
    clock: Clock,
    limiter: RateLimiter,
) -> Services:
    """Creates all services, the sinks of federation, and the table of client routes."""
    own = ServerName(config.server_name)
    devicework = make_devicework(engine, way_out, own, clock)

    async def on_profile_changed(user_id: UserId) -> None:
        await rooms.members.on_profile_changed(user_id)

    profiles = Profiles(
        engine.database,
        own,
        on_profile_changed=on_profile_changed,
        fetch_remote=_Questions(way_out).profile,
    )
    departures = AccountDepartures(
        engine.database,
        clock,
        rooms_of=engine.memberships.of,
        leave=lambda user_id, room_id: rooms.membership.leave(user_id, room_id, {}),
    )
    people = make_people(
        engine,
        devicework,
        limiter,
        own=own,
        clock=clock,
        profiles=profiles,
        departures=departures,
        shared_tokens=config.registration.tokens,
    )
    rooms = make_rooms(
        engine,
        way_out,
        devicework,
        config=config,
        clock=clock,
        people=make_people_of_rooms(engine, own, profiles, devicework.account_data.carry_over),
        signer=signer,
        limiter=limiter,
    )

    queries = make_queries(
        engine,
        devicework,
        profiles,
        rooms.directory,
        own=own,
        clock=clock,
        arrivals=way_out.arrivals,
    )
    return Services(
        devicework,
        people,
        rooms,
        queries,
        _make_edus(devicework),
        Filters(database=engine.database),
        engine.committer.history,
        departures,
        make_guests(engine, rooms.membership, clock),
    )


def _make_edus(devicework: EncryptionServices) -> FederationEdus:
    return FederationEdus(
        typing=devicework.typing,
        receipts=devicework.receipts,
        to_device=devicework.to_device,
        remote_devices=devicework.remote_devices,
    )
