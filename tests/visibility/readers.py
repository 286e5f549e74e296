"""The services that read a room for clients, over a simulated server's engine.

What isn't under test is empty: keys, account data, receipts, typing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from federation.errors import MatrixError
from federation.events.ids import DeviceId, EventId, RoomId, StateKey, UserId
from homeserver.app.domains.sync import make_sync
from homeserver.app.domains.timeline import make_timeline
from homeserver.rules.sync.filters import EventFilter
from homeserver.rules.sync.sync_tokens import PageToken, Point, SyncToken, parse_any, parse_sync
from homeserver.services.accounts.requester import Requester
from homeserver.services.ephemeral.typing import TypingToken
from homeserver.services.rooms.state import MemberFilter, State
from homeserver.services.sync.extras import SyncSources
from homeserver.services.sync.loop import SyncRequest
from homeserver.services.timeline.backfill import RoomBackfill
from homeserver.services.timeline.history import PageRequest
from homeserver.storage.timeline.relations import Bundled
from tests.homeserver.presence_world import nobody
from tests.simulation.server import SimulatedServer

DEV = DeviceId("DEV")
REFUSED: dict[str, Any] = {}
"""What stands for an answer that was refused (403, 404)."""


@dataclass(frozen=True)
class _Counts:
    one_time: Mapping[str, int]
    unused_fallback: Sequence[str]


class _Nothing:
    """Sources that have nothing to tell."""

    token = TypingToken(1, 0)

    async def pending(
        self, *_: object, after: int, up_to: int, limit: int
    ) -> tuple[list[Any], int]:
        return [], up_to

    def acknowledge(self, *_: object) -> None:
        """Nothing was sent."""

    async def counts(self, user_id: UserId, device_id: DeviceId) -> _Counts:
        return _Counts({}, ())

    async def between(self, user_id: UserId, *, after: int, up_to: int) -> Sequence[Any]:
        return ()

    def since(self, room_id: RoomId, token: TypingToken | None) -> None:
        return None

    async def blocks_invites(self, user_id: UserId) -> bool:
        return False


class _NoLists:
    def __getattr__(self, name: str) -> Any:
        async def changes(*_: object, **__: object) -> tuple[Sequence[Any], Sequence[Any]]:
            return (), ()

        return changes


class _NoReceipts:
    async def since(
        self, rooms: Collection[RoomId], *, after: int, up_to: int
    ) -> Mapping[RoomId, Sequence[Any]]:
        return {}


class _NothingUnread:
    async def of(self, user_id: UserId, up_to: int) -> _NothingUnread:
        return self

    def __getitem__(self, room_id: RoomId) -> Mapping[str, Any]:
        return {}


class _NoRelations:
    """The events of stories have none."""

    async def bundled(self, *_: object, **__: object) -> Bundled:
        return Bundled({}, {}, [], [], set())


class Readers:
    """Clients of one server. Answers are decoded JSON; a refusal is REFUSED."""

    def __init__(self, server: SimulatedServer) -> None:
        engine = server.engine
        backfill = RoomBackfill(server.backfiller, server.name)
        nothing = cast(Any, _Nothing())
        no_relations = cast(Any, _NoRelations())
        timeline = make_timeline(engine, no_relations, nothing, backfill)
        self.history = timeline.history
        unused = cast(Any, None)
        self.state = State(engine.room_context, unused, unused, engine.reader)
        lists, receipts = cast(Any, _NoLists()), cast(Any, _NoReceipts())
        unread = cast(Any, _NothingUnread())
        own, shown = nobody(server.name, engine.context.clock)
        sources = SyncSources(
            nothing, lists, nothing, nothing, receipts, nothing, own, shown, unread
        )
        self.sync = make_sync(engine, timeline, sources)

    async def event(self, user: UserId, room_id: RoomId, event_id: EventId) -> dict[str, Any]:
        """/event."""
        return await _answer(self.history.event(_as(user), room_id, event_id))

    async def context(
        self, user: UserId, room_id: RoomId, event_id: EventId, limit: int
    ) -> dict[str, Any]:
        """/context."""
        work = self.history.context(_as(user), room_id, event_id, limit=limit, wanted=EventFilter())
        return await _answer(work)

    async def page(
        self, user: UserId, room_id: RoomId, start: str | None, *, backwards: bool, limit: int
    ) -> dict[str, Any]:
        """/messages."""
        point = None if start is None else _point(start)
        request = PageRequest(room_id, backwards, point, limit=limit)
        return await _answer(self.history.messages(_as(user), request))

    async def all_state(self, user: UserId, room_id: RoomId) -> list[dict[str, Any]] | None:
        """/state; None if it is refused."""
        found = await _answer(self.state.all(user, room_id))
        return None if found is REFUSED else cast(Any, found)

    async def members(
        self, user: UserId, room_id: RoomId, at: str | None = None
    ) -> list[dict[str, Any]] | None:
        """/members; None if it is refused."""
        point = None if at is None else _point(at)
        found = await _answer(self.state.members(user, room_id, MemberFilter(), point))
        return None if found is REFUSED else cast(Any, found)

    async def one_state(self, user: UserId, room_id: RoomId, key: StateKey) -> dict[str, Any]:
        """/state/{type}/{key}, as an event."""
        return await _answer(self.state.event(user, room_id, key))

    async def joined_members(self, user: UserId, room_id: RoomId) -> set[str] | None:
        """/joined_members; None if it is refused."""
        try:
            return set(await self.state.joined_members(user, room_id))
        except MatrixError:
            return None

    async def synced(self, user: UserId, since: str | None) -> dict[str, Any]:
        """/sync."""
        token: SyncToken | None = parse_sync(since) if since else None
        return await _answer(self.sync.sync(SyncRequest(user, DEV, since=token)))


def _as(user: UserId) -> Requester:
    return Requester(user, DEV, 1, False)


def _point(token: str) -> Point | SyncToken:
    parsed = parse_any(token)
    return parsed.point if isinstance(parsed, PageToken) else parsed


async def _answer(work: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = orjson.loads(await work)
    except MatrixError as error:
        if error.status not in (403, 404):
            raise
        return REFUSED
    return found
