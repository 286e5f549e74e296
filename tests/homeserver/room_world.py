"""A server's rooms over a real engine and database, without sockets: for tests of services and
handlers. Requests go through the routes and the handlers; who asks is an argument.

Other servers are a `FakeRemote` that notes what it was asked for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import orjson

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomAlias, RoomId, ServerName, UserId
from federation.events.signing import SigningKey
from federation.graph.building import EventDraft
from federation.listing_ports import DirectoryQuestion
from federation.transport.requests.client import FailureKind, FederationError
from homeserver.api.http.query import PageTokens
from homeserver.api.http.request import Request
from homeserver.api.http.response import RawJson, Response, to_json
from homeserver.api.http.router import Router
from homeserver.api.http.routes import Route, table
from homeserver.app.context import ServerContext
from homeserver.app.domains.push import PushServices, make_account_data, make_push, push_routes
from homeserver.app.domains.rooms import (
    RemoteRoomParts,
    RoomServices,
    make_member_directory,
    make_rooms,
    room_routes,
)
from homeserver.app.domains.timeline import (
    TimelineServices,
    make_search,
    make_timeline,
    timeline_routes,
)
from homeserver.app.engine import Engine, make_engine
from homeserver.clock import SystemClock
from homeserver.engine.entries import MembershipEntry, Unit
from homeserver.engine.local.policy_signer import NoPolicyServer
from homeserver.engine.log.committer import Committer
from homeserver.engine.rooms.reader import Reader
from homeserver.errors import not_found
from homeserver.metrics import ServerMetrics
from homeserver.rules.appservices.registrations import AppService
from homeserver.services.account_data.account_data import AccountDataService
from homeserver.services.accounts.requester import Requester
from homeserver.services.rooms.directory import ServiceAliases, Target
from homeserver.storage.database import Database
from homeserver.storage.postgres_store import PostgresStore
from homeserver.storage.timeline.relations import RelationTable
from tests.homeserver.conftest import EMPTY_TABLES
from tests.spec.witness import check_answer

HERE = ServerName("here.example")
ALICE, BOB, CAROL, DAVE = (UserId(f"@{name}:{HERE}") for name in ("alice", "bob", "carol", "dave"))
STRANGER = UserId("@stranger:there.example")
V1, V3 = "/_matrix/client/v1", "/_matrix/client/v3"


class Reply(NamedTuple):
    """An answer: status and JSON body."""

    status: int
    body: Any

    @property
    def errcode(self) -> str:
        """The error code, or ""."""
        return str(self.body.get("errcode", "")) if isinstance(self.body, dict) else ""


@dataclass
class FakeRemote:
    """Stands for other servers: notes each exchange; `error` is raised by all."""

    committer: Committer
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    error: MatrixError | None = None
    aliases: dict[RoomAlias, Target] = field(default_factory=dict)
    open_to_guests: set[RoomId] = field(default_factory=set)
    spaces: dict[tuple[ServerName, RoomId], JsonObject] = field(default_factory=dict)
    profiles: dict[UserId, JsonObject] = field(default_factory=dict)

    async def join(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Notes it."""
        self._ask("join", room_id, user_id, tuple(servers), content)

    async def knock(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Notes it."""
        self._ask("knock", room_id, user_id, tuple(servers), content)

    async def leave(
        self, room_id: RoomId, user_id: UserId, servers: Sequence[ServerName], content: JsonObject
    ) -> None:
        """Notes it."""
        self._ask("leave", room_id, user_id, tuple(servers), content)

    async def guests_may_join(self, room_id: RoomId, servers: Sequence[ServerName]) -> bool:
        """What the test says of a room."""
        self.asked.append(("guests", room_id, tuple(servers)))
        return room_id in self.open_to_guests

    async def invite(self, room_id: RoomId, draft: EventDraft) -> EventId:
        """Notes it."""
        self._ask("invite", room_id, draft.state_key, draft.content)
        return EventId("$signed-elsewhere")

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def profile(self, user_id: UserId, _key: str | None) -> JsonObject:
        """What the test says of a user."""
        if user_id not in self.profiles:
            raise not_found("no such user")
        return self.profiles[user_id]

    async def look_up(self, alias: RoomAlias) -> Target:
        """What the test says that an alias names."""
        if alias not in self.aliases:
            raise not_found("no such alias")
        return self.aliases[alias]

    async def public_rooms(self, server: ServerName, question: DirectoryQuestion) -> JsonObject:
        """Has no directory."""
        self.asked.append(("directory", server, question))
        raise FederationError(server, FailureKind.STATUS, "no directory", status=403)

    async def hierarchy(self, server: ServerName, room_id: RoomId) -> JsonObject:
        """What the test has a server say of a room."""
        self.asked.append(("hierarchy", server, room_id))
        if (server, room_id) not in self.spaces:
            raise FederationError(server, FailureKind.STATUS, "no such room", status=404)
        return self.spaces[server, room_id]

    def admit(self, address: str) -> None:
        """Notes for which address other servers are to be asked."""
        self._ask("admit", address)

    async def invite_ours(self, room_id: RoomId, user_id: UserId, sender: UserId) -> None:
        """An invite of a user of ours to a room that we know nothing else of."""
        await self.set_ours(room_id, user_id, "invite", sender)

    async def set_ours(
        self,
        room_id: RoomId,
        user_id: UserId,
        membership: str,
        sender: UserId | None = None,
        *,
        via: str = "",
    ) -> None:
        """A membership of a user of ours in a room that we know nothing else of."""
        entry = MembershipEntry(
            user_id=user_id,
            room_id=room_id,
            membership=membership,
            event_id=EventId(f"${membership}"),
            sender=sender or user_id,
            version="11",
            via=via,
        )
        await self.committer.submit(Unit([entry]))


@dataclass
class World:
    """The services and their handlers."""

    engine: Engine
    database: Database
    remote: FakeRemote
    account_data: AccountDataService
    rooms: RoomServices
    timeline: TimelineServices
    push: PushServices
    routes: list[Route]
    profiles: dict[UserId, JsonObject]
    blocking: set[UserId]
    guests: set[UserId] = field(default_factory=set)
    counting: asyncio.Future[None] | None = None

    @property
    def committer(self) -> Committer:
        """The log."""
        return self.engine.committer

    @property
    def reader(self) -> Reader:
        """The reader of rooms."""
        return self.engine.reader

    async def call(
        self,
        user: UserId,
        method: str,
        path: str,
        body: object = None,
        *,
        query: str = "",
        prefix: str = V3,
    ) -> Reply:
        """One request below /_matrix/client/v3 or another prefix, by a user on the device DEV."""
        reply = await self._call(user, method, prefix + path, body, query)
        check_answer(method, prefix + path, reply.status, reply.body)
        return reply

    async def _call(self, user: UserId, method: str, path: str, body: object, query: str) -> Reply:
        dispatch: Router[Route] = Router()
        for route in self.routes:
            dispatch.add(route.method, route.template, route)
        try:
            match = dispatch.find(method, path)
            request = Request(
                cast(Any, SimpleNamespace(method=method)),
                match.params,
                raw_query=query,
                address="127.0.0.1",
                requester=Requester(user, DeviceId("DEV"), 1, user in self.guests),
                body_bytes=match.value.body_bytes,
            )
            request._body = body if isinstance(body, bytes) else orjson.dumps(body or {})
            result = await match.value.handler(request)
        except MatrixError as error:
            return Reply(error.status, error.body())
        if isinstance(result, RawJson):
            return Reply(200, orjson.loads(result.data))
        assert not isinstance(result, Response)
        return Reply(200, orjson.loads(to_json(result)))

    async def room(self, user: UserId = ALICE, **body: Any) -> RoomId:
        """A new room's ID."""
        reply = await self.call(user, "POST", "/createRoom", body)
        assert reply.status == 200, reply
        return RoomId(reply.body["room_id"])

    async def in_room(
        self,
        user: UserId,
        method: str,
        room_id: str,
        rest: str,
        body: object = None,
        query: str = "",
    ) -> Reply:
        """A request below /rooms/{roomId}/."""
        return await self.call(user, method, f"/rooms/{quote(room_id)}/{rest}", body, query=query)

    async def put_state(
        self, user: UserId, room_id: str, event_type: str, content: object, key: str = ""
    ) -> Reply:
        """Sets state."""
        return await self.in_room(
            user, "PUT", room_id, f"state/{event_type}/{quote(key, safe='')}", content
        )

    async def get_state(self, user: UserId, room_id: str, event_type: str, key: str = "") -> Reply:
        """Reads a state event's content."""
        return await self.in_room(user, "GET", room_id, f"state/{event_type}/{quote(key, safe='')}")

    async def join(self, user: UserId, room_id: str) -> Reply:
        """Joins by ID."""
        return await self.in_room(user, "POST", room_id, "join")

    async def send(
        self, user: UserId, room_id: str, content: object, transaction: str = "t1"
    ) -> Reply:
        """Sends an m.room.message."""
        return await self.in_room(
            user, "PUT", room_id, f"send/m.room.message/{transaction}", content
        )


@asynccontextmanager
async def room_world(url: str) -> AsyncIterator[World]:
    """The world over a database that other tests used before: it is emptied first."""
    database = await Database.open(url, connections=3)
    async with database.connection() as connection:
        await connection.execute(EMPTY_TABLES)
    async with world_over(database) as world:
        yield world


@asynccontextmanager
async def world_over(database: Database) -> AsyncIterator[World]:
    """The world over an open database, which is closed at the end."""
    key = SigningKey.generate(os.urandom(32), "1")
    context = ServerContext(HERE, key, SystemClock(), ServerMetrics(), os.urandom)
    engine = await make_engine(context, PostgresStore(database), policies=NoPolicyServer())
    running = asyncio.ensure_future(engine.committer.run())
    world = _world(engine, database)
    counting = world.counting = asyncio.ensure_future(world.push.counts.run())
    try:
        yield world
    finally:
        await engine.committer.close(10)
        await running
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        await engine.committer.disconnect()
        await database.close()


def nothing_reserved(_alias: RoomAlias, _by: AppService | None) -> None:
    """No application service has a namespace."""


async def nobody_names(_alias: RoomAlias) -> bool:
    """No application service makes an alias."""
    return False


async def nobody_provides(_user_id: UserId) -> None:
    """No application service makes a user."""


def _world(engine: Engine, database: Database) -> World:
    profiles: dict[UserId, JsonObject] = {ALICE: {"displayname": "Alice"}}
    blocking: set[UserId] = set()

    async def profile_of(user_id: UserId) -> JsonObject:
        return profiles.get(user_id, {})

    async def is_invite_blocked(user_id: UserId) -> bool:
        return user_id in blocking

    push = make_push(engine, database)
    account_data = make_account_data(engine, database, push.rules)
    remote = FakeRemote(engine.committer)
    move = account_data.carry_over
    people = replace(
        make_member_directory(engine, database, remote.profile, move, nobody_provides),
        profile_of=profile_of,
        is_invite_blocked=is_invite_blocked,
    )
    parts = RemoteRoomParts(
        remote, remote.look_up, remote.hierarchy, remote.public_rooms, remote.admit
    )
    rooms = make_rooms(
        engine,
        database,
        people,
        parts,
        default_version="11",
        aliases=ServiceAliases(nothing_reserved, nobody_names),
    )
    timeline = make_timeline(engine, RelationTable(database), account_data, None)
    tokens = PageTokens(engine.committer.history)
    search = make_search(engine, database, timeline, None)
    parts_of_api = [
        room_routes(engine, rooms, tokens),
        timeline_routes(timeline, search, tokens),
    ]
    routes = table([*(one for part in parts_of_api for one in part), *push_routes(push)])
    return World(
        engine, database, remote, account_data, rooms, timeline, push, routes, profiles, blocking
    )
