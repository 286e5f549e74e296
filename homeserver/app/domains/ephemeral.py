"""Creates the services and endpoints of receipts, typing and presence."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from federation.events.ids import ServerName, UserId
from homeserver import limits
from homeserver.api.ephemeral.presence import PresenceApi
from homeserver.api.ephemeral.receipts import ReceiptsApi
from homeserver.api.ephemeral.typing import TypingApi
from homeserver.api.http.routes import Route
from homeserver.app.engine import Engine
from homeserver.config import PresenceSettings
from homeserver.rules.ephemeral.presence import Profile, parse_profile
from homeserver.services.ephemeral.local_presence import LocalPresence
from homeserver.services.ephemeral.presence_board import PresenceBoard
from homeserver.services.ephemeral.presence_feed import PresenceFeed, ServerHealth
from homeserver.services.ephemeral.presence_rooms import PresenceRooms
from homeserver.services.ephemeral.presence_view import PresenceView
from homeserver.services.ephemeral.receipts import EventOrders, Receipts
from homeserver.services.ephemeral.remote_presence import RemotePresence
from homeserver.services.ephemeral.typing import Typing, new_boot
from homeserver.services.ephemeral.typing_audience import Forward, TypingAudience
from homeserver.storage.accounts.devices import DeviceTable
from homeserver.storage.accounts.profiles import ProfileTable
from homeserver.storage.database import Database
from homeserver.storage.rooms.memberships import MembershipTable, UserRoomRow

Task: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class PresenceServices:
    """Presence."""

    board: PresenceBoard
    own: LocalPresence
    remote: RemotePresence
    view: PresenceView
    feed: PresenceFeed

    def tasks(self) -> Sequence[tuple[str, Task]]:
        """Returns what runs under the supervisor, by name."""
        return [
            ("presence", self.own.run),
            ("presence after a start", self.own.tell_gone),
            ("presence of others", self.remote.run),
            ("presence feed", self.feed.run),
        ]


@dataclass(frozen=True, slots=True)
class EphemeralServices:
    """Receipts, typing and presence."""

    receipts: Receipts
    typing: Typing
    typing_audience: TypingAudience
    presence: PresenceServices


@dataclass(frozen=True, slots=True)
class PresenceOutside:
    """How presence leaves the server: the setting, and which servers are down."""

    settings: PresenceSettings
    health: ServerHealth


class PresenceTables:
    """What presence reads of the database."""

    def __init__(self, database: Database, server_name: ServerName) -> None:
        self._server_name = server_name
        self._memberships = MembershipTable(database)
        self._profiles, self._devices = ProfileTable(database), DeviceTable(database)

    async def rooms(self, user_ids: Sequence[UserId]) -> Sequence[UserRoomRow]:
        """`services.ephemeral.presence_rooms.LoadRooms`."""
        return await self._memberships.rooms_shared(user_ids, self._server_name)

    async def servers(self, user_id: UserId) -> Sequence[ServerName]:
        """`services.ephemeral.presence_feed.ServersOf`."""
        found = await self._memberships.servers_sharing(user_id, self._server_name)
        return [ServerName(one) for one in found]

    async def profile(self, user_id: UserId) -> Profile:
        """`services.ephemeral.local_presence.LoadProfile`."""
        return parse_profile(await self._profiles.load(user_id))

    async def seen_since(self, since_ms: int) -> Sequence[tuple[UserId, int]]:
        """`services.ephemeral.local_presence.SeenLately`."""
        return await self._devices.seen_since(since_ms, limits.PRESENCE_SEEN_USERS)


def make_ephemeral(
    engine: Engine, database: Database, forward: Forward, outside: PresenceOutside
) -> EphemeralServices:
    """Creates the services, subscribed to the log; `forward` sends EDUs to other servers."""
    committer, rooms, clock = engine.committer, engine.rooms, engine.context.clock
    audience = TypingAudience(rooms, engine.fanout, forward)
    boot = new_boot(engine.context.random_bytes)
    typing = Typing(
        rooms=rooms,
        clock=clock,
        boot=boot,
        wake_room=audience.wake,
        announce=audience.announce,
    )
    orders = EventOrders(rooms, engine.reader)
    receipts = Receipts(
        database=database,
        committer=committer,
        rooms=rooms,
        clock=clock,
        position=committer.position,
        order_of=orders.order_of,
        is_in_thread=orders.is_in_thread,
    )
    presence = _make_presence(engine, database, forward, outside, boot)
    for follower in (receipts, typing):
        committer.subscribe(follower.on_commit)
    return EphemeralServices(receipts, typing, audience, presence)


def _make_presence(
    engine: Engine, database: Database, forward: Forward, outside: PresenceOutside, boot: int
) -> PresenceServices:
    context, settings = engine.context, outside.settings
    clock, tables = context.clock, PresenceTables(database, context.name)
    board = PresenceBoard(context.name, boot, context.metrics)
    rooms = PresenceRooms(context.name, engine.rooms, tables.rooms)
    board.on_drop(rooms.drop)
    own = LocalPresence(
        board,
        rooms,
        clock=clock,
        load_profile=tables.profile,
        seen_lately=tables.seen_since,
        is_on=settings.is_on,
    )
    remote = RemotePresence(board, rooms, clock, is_on=settings.is_federated)
    feed = PresenceFeed(
        board,
        engine.rooms,
        clock=clock,
        servers_of=tables.servers,
        forward=forward,
        health=outside.health,
        is_on=settings.is_federated,
    )
    for follower in (rooms, own, feed):
        engine.committer.subscribe(follower.on_commit)
    return PresenceServices(board, own, remote, PresenceView(board, rooms, clock), feed)


def ephemeral_routes(services: EphemeralServices) -> list[Sequence[Route]]:
    """Returns the endpoints."""
    presence = services.presence
    return [
        ReceiptsApi(services.receipts).routes(),
        TypingApi(services.typing).routes(),
        PresenceApi(presence.own, presence.view).routes(),
    ]
