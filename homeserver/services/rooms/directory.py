"""Room aliases: local ones in the database, remote ones by asking their server; and published
rooms.

Rules:
1. Aliases of other servers can be looked up, never set or removed.
2. Joined users may name a room; the creator of an alias, and users who may send
   m.room.canonical_alias in its room, may remove it. A removed alias is also taken out of the
   canonical alias event, if the remover may change that.
3. A service's aliases are made and removed by it alone where its namespace is exclusive, and it
   makes and removes aliases of its namespaces alone, whoever made them.
4. A new alias in m.room.canonical_alias must be an alias of that room. Aliases that were there
   before, or are removed, are not checked.

Spec: client-server API, "Room aliases", m.room.canonical_alias; application service API, "Server
admin style permissions".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from federation.errors import MatrixError
from federation.events import event_types
from federation.events.canonical_json import JsonObject
from federation.events.ids import (
    InvalidIdentifier,
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    parse_room_alias,
    parse_room_id,
    server_of,
)
from federation.graph.auth.power_levels import PowerLevels
from federation.graph.building import EventDraft
from federation.ports import Clock
from homeserver import errors, limits
from homeserver.engine.rooms.rooms import Room
from homeserver.rules.appservices.registrations import AppService
from homeserver.rules.rooms.canonical_aliases import new_aliases, without_alias
from homeserver.rules.rooms.room_requests import build_alias
from homeserver.services.rooms.room_access import (
    RoomAccess,
    RoomContext,
)
from homeserver.storage.database import Connection, Database
from homeserver.storage.rooms import directory as storage
from homeserver.storage.rooms.directory import AliasRow, DirectoryTable

log = logging.getLogger("freehold.directory")


@dataclass(frozen=True, slots=True)
class Target:
    """The room that an alias names, and the servers through which it can be reached."""

    room_id: RoomId
    servers: Sequence[ServerName]


LookUp: TypeAlias = Callable[[RoomAlias], Awaitable[Target]]
"""Asks an alias's own server; raises MatrixError (404 M_NOT_FOUND, 502 or so)."""


@dataclass(frozen=True, slots=True)
class ServiceAliases:
    """The aliases of application services. `check` raises 400 M_EXCLUSIVE for an alias that a
    service, or nobody, may not make; `provide` lets a service make an alias that doesn't exist, and
    returns whether one did: raises 408 if it doesn't answer."""

    check: Callable[[RoomAlias, AppService | None], None]
    provide: Callable[[RoomAlias], Awaitable[bool]]


def parse_alias(text: str) -> RoomAlias:
    """Parses a room alias; raises 400 M_INVALID_PARAM."""
    try:
        return parse_room_alias(text)
    except InvalidIdentifier as error:
        raise errors.invalid_param(f"Room alias invalid: {error}") from error


def parse_room(text: str) -> RoomId:
    """Parses a room ID; raises 400 M_INVALID_PARAM."""
    try:
        return parse_room_id(text)
    except InvalidIdentifier as error:
        raise errors.invalid_param(f"Room ID invalid: {error}") from error


class Directory:
    """Aliases and publication of rooms."""

    def __init__(
        self,
        engine: RoomContext,
        database: Database,
        clock: Clock,
        *,
        server_name: ServerName,
        look_up: LookUp,
        services: ServiceAliases,
    ) -> None:
        self._engine = engine
        self._access = RoomAccess(engine)
        self._database = database
        self._directory = DirectoryTable(database)
        self._clock = clock
        self._server_name = server_name
        self._look_up, self._services = look_up, services

    def new_alias(self, localpart: str) -> RoomAlias:
        """Returns the alias of this server for a local part; raises 400 M_INVALID_PARAM."""
        return build_alias(localpart, self._server_name)

    async def resolve(self, alias: RoomAlias) -> Target:
        """Returns the target of an alias. Raises 404 M_NOT_FOUND."""
        if server_of(alias) != self._server_name:
            return await self._look_up(alias)
        return await self.resolve_local(alias)

    async def resolve_local(self, alias: RoomAlias) -> Target:
        """Returns the target of a local alias: also for queries of other servers. An application
        service whose alias it is may make it first. Raises 404, 408."""
        row = await self._directory.load_alias(alias)
        if row is None and await self._services.provide(alias):
            row = await self._directory.load_alias(alias)
        if row is None:
            raise errors.not_found(f"Room alias {alias} not found")
        room = await self._engine.rooms.get(row.room_id)
        others = () if room is None else sorted(room.joined_servers)
        servers = dict.fromkeys((self._server_name, *others[: limits.JOIN_SERVERS]))
        return Target(row.room_id, tuple(servers))

    async def _load(self, alias: RoomAlias) -> AliasRow:
        row = await self._directory.load_alias(alias)
        if row is None:
            raise errors.not_found(f"Room alias {alias} not found")
        return row

    async def create(
        self, user_id: UserId, alias: RoomAlias, room_id: RoomId, *, by: AppService | None = None
    ) -> None:
        """Names a room; `by` is the application service that acts as the user. Raises 409 M_UNKNOWN
        for an alias that exists, 403 for a user who isn't joined, 400 M_INVALID_PARAM for other
        servers' aliases and for too many of them, 400 M_EXCLUSIVE."""
        if server_of(alias) != self._server_name:
            raise errors.invalid_param(f"{alias} is not an alias of this server")
        build_alias(alias[1:].partition(":")[0], self._server_name)
        self._services.check(alias, by)
        await self._access.joined(user_id, room_id)
        row = AliasRow(alias, room_id, user_id, self._clock.now_ms())
        async with self._database.transaction() as connection:
            if await storage.count_aliases(connection, room_id) >= limits.ALIASES_PER_ROOM:
                raise errors.invalid_param(
                    f"A room has at most {limits.ALIASES_PER_ROOM} aliases on this server"
                )
            if not await storage.insert_alias(connection, row):
                raise MatrixError(409, "M_UNKNOWN", f"Room alias {alias} already exists")

    async def claim(
        self, connection: Connection, alias: RoomAlias, room_id: RoomId, user_id: UserId
    ) -> None:
        """Names a room that is created in the same transaction. Raises 400 M_ROOM_IN_USE."""
        row = AliasRow(alias, room_id, user_id, self._clock.now_ms())
        if not await storage.insert_alias(connection, row):
            raise MatrixError(400, "M_ROOM_IN_USE", f"Room alias {alias} is already taken")

    async def check_free(self, alias: RoomAlias, *, by: AppService | None = None) -> None:
        """Raises 400 M_EXCLUSIVE, and 400 M_ROOM_IN_USE early, before a room is built; `claim`
        decides."""
        self._services.check(alias, by)
        if await self._directory.load_alias(alias) is not None:
            raise MatrixError(400, "M_ROOM_IN_USE", f"Room alias {alias} is already taken")

    async def delete(
        self, user_id: UserId, alias: RoomAlias, *, by: AppService | None = None
    ) -> None:
        """Removes a local alias. Raises 404 M_NOT_FOUND, 403 M_FORBIDDEN, 400 M_EXCLUSIVE."""
        if server_of(alias) != self._server_name:
            raise errors.invalid_param(f"{alias} is not an alias of this server")
        self._services.check(alias, by)
        row = await self._load(alias)
        is_own = by is not None or row.creator == user_id
        if not is_own and not await self._may_rename(user_id, row.room_id):
            raise errors.forbidden("You can't remove other users' aliases of this room")
        if not await self._directory.delete_alias(alias, row.room_id):
            raise errors.not_found(f"Room alias {alias} not found")
        await self._forget_canonical(user_id, row.room_id, alias)

    async def _may_rename(self, user_id: UserId, room_id: RoomId) -> bool:
        room = await self._engine.rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            return False
        power = await self._power(room)
        return power.user(user_id) >= power.event(event_types.CANONICAL_ALIAS, is_state=True)

    async def _power(self, room: Room) -> PowerLevels:
        found = await self._engine.rooms.state_events(
            room.view.state, [event_types.CREATE_KEY, event_types.POWER_LEVELS_KEY]
        )
        return PowerLevels(
            found.get(event_types.CREATE_KEY), found.get(event_types.POWER_LEVELS_KEY), room.version
        )

    async def _forget_canonical(self, user_id: UserId, room_id: RoomId, alias: RoomAlias) -> None:
        room = await self._engine.rooms.get(room_id)
        if room is None or not await self._may_rename(user_id, room_id):
            return
        content = without_alias(await self._canonical(room), alias)
        if content is None:
            return
        draft = EventDraft(event_types.CANONICAL_ALIAS, user_id, content, state_key="")
        try:
            await self._engine.writer.send(room_id, draft)
        except MatrixError as error:  # the alias is gone already; updating the event is optional
            log.info("canonical alias of %s is kept: %s", room_id, error)

    async def _canonical(self, room: Room) -> JsonObject:
        found = await self._engine.rooms.state_events(
            room.view.state, [event_types.CANONICAL_ALIAS_KEY]
        )
        event = found.get(event_types.CANONICAL_ALIAS_KEY)
        return {} if event is None else event.content

    async def aliases(self, user_id: UserId, room_id: RoomId) -> list[RoomAlias]:
        """Returns a room's local aliases, for joined users and for anybody if the room is
        world-readable; 403.
        """
        readable = await self._access.readable(user_id, room_id)
        if not readable.is_current:
            raise errors.forbidden("You aren't a member of this room")
        return await self._directory.load_aliases(room_id)

    async def check_canonical(self, room_id: RoomId, content: JsonObject) -> None:
        """Checks the aliases that an m.room.canonical_alias would add: 400 M_INVALID_PARAM for
        bad syntax, 400 M_BAD_ALIAS for one that doesn't name the room."""
        room = await self._engine.rooms.get(room_id)
        old = {} if room is None else await self._canonical(room)
        for text in new_aliases(old, content):
            await self._check_names(parse_alias(text), room_id)

    async def _check_names(self, alias: RoomAlias, room_id: RoomId) -> None:
        try:
            target = await self.resolve(alias)
        except MatrixError as error:
            raise _bad_alias(f"The alias {alias} can't be looked up: {error.error}") from error
        if target.room_id != room_id:
            raise _bad_alias(f"The alias {alias} does not point to this room")

    async def publish(self, connection: Connection, room_id: RoomId, user_id: UserId) -> None:
        """Publishes a room that is created in the same transaction."""
        await storage.publish(connection, room_id, user_id, self._clock.now_ms())

    async def is_published(self, user_id: UserId | None, room_id: RoomId) -> bool:
        """Returns whether a room is in this server's published directory. Raises 404 for an unknown
        room; to users who aren't members, an unpublished room is unknown."""
        published = await self._directory.is_published(room_id)
        if not published:
            await self._check_known(user_id, room_id)
        return published

    async def _check_known(self, user_id: UserId | None, room_id: RoomId) -> None:
        room = await self._engine.rooms.get(room_id)
        if room is None or user_id not in room.joined_local:
            raise errors.not_found("Room not found")

    async def set_published(self, user_id: UserId, room_id: RoomId, wanted: bool) -> None:
        """Publishes or hides a room, for users who may set its canonical alias. Raises 403, and 404
        for a room that the user isn't in, whether it exists or not."""
        await self._check_known(user_id, room_id)
        if not await self._may_rename(user_id, room_id):
            raise errors.forbidden("You can't change whether this room is published")
        if wanted:
            await self._directory.publish(room_id, user_id, self._clock.now_ms())
        else:
            await self._directory.unpublish(room_id)


def _bad_alias(error: str) -> MatrixError:
    return MatrixError(400, "M_BAD_ALIAS", error)
