"""Summaries of rooms that this server isn't in, as other servers give them.

Rules:
1. A server's answer is kept for a time, under its name: what one says of a room is no answer to who
   asks another, as anybody may name any server for any room.
2. An answer counts for the room that was asked about and for its children alone. What it says of a
   child is used for a child that is no space; a space's own children have to be asked for.
3. A server that knows nothing of a room is left alone for a time.

Spec: server-server API, `GET /hierarchy/{roomId}`; client-server API, "Discovering rooms within
spaces", "Server behaviour".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec

from federation.bounded_cache import ByteBoundedCache
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from federation.ports import Clock
from federation.transport.requests.client import FederationError
from homeserver import limits
from homeserver.rules.rooms.public_rooms import as_room_id
from homeserver.rules.rooms.room_summaries import SummarisedRoom, read_summary

AskHierarchy: TypeAlias = Callable[[ServerName, RoomId], Awaitable[JsonObject]]
"""Asks a server for a room and its children. Raises FederationError."""


class RemoteSummary(msgspec.Struct, frozen=True):
    """A room as the server `teller` shows it. `inaccessible` are children that nobody here can
    see; `is_partial` says that a space's children may be missing."""

    teller: ServerName
    summary: SummarisedRoom
    inaccessible: frozenset[RoomId] = frozenset()
    is_partial: bool = False

    @property
    def is_unfinished(self) -> bool:
        """Whether there may be children that aren't known."""
        return self.is_partial and self.summary.is_space


class _Kept(msgspec.Struct, frozen=True):
    found: RemoteSummary | None
    until_s: float
    bytes: int


class RemoteSummaries:
    """Asks other servers, and keeps their answers."""

    def __init__(self, ask: AskHierarchy, clock: Clock, server_name: ServerName) -> None:
        self._ask, self._clock, self.server_name = ask, clock, server_name
        self._kept: ByteBoundedCache[tuple[ServerName, RoomId], _Kept] = ByteBoundedCache(
            limits.SUMMARIES_KEPT_BYTES, lambda kept: kept.bytes
        )

    async def find(self, room_id: RoomId, via: Sequence[ServerName]) -> RemoteSummary | None:
        """Returns a room as the first of some servers shows it that does; None if none does."""
        others = [server for server in via if server != self.server_name]
        for server in others[: limits.SUMMARY_SERVERS_ASKED]:
            kept = self._fresh(server, room_id)
            if kept is None or (kept.found is not None and kept.found.is_unfinished):
                kept = await self._fetch(server, room_id)
            if kept.found is not None:
                return kept.found
        return None

    def told(self, teller: ServerName, room_id: RoomId) -> RemoteSummary | None:
        """Returns what a server said of a room lately, if it did: with its parent, or alone."""
        kept = self._fresh(teller, room_id)
        return None if kept is None else kept.found

    def _fresh(self, server: ServerName, room_id: RoomId) -> _Kept | None:
        kept = self._kept.get((server, room_id))
        if kept is not None and kept.until_s <= self._clock.monotonic_s():
            self._kept.drop((server, room_id))
            return None
        return kept

    async def _fetch(self, server: ServerName, room_id: RoomId) -> _Kept:
        try:
            answer = await self._ask(server, room_id)
        except FederationError:
            return self._keep(server, room_id, None)
        summary = read_summary(answer.get("room"))
        if summary is None or summary.room_id != room_id:
            return self._keep(server, room_id, None)
        expected = {child.room_id for child in summary.children}
        for value in _list(answer.get("children"))[: limits.SPACE_CHILDREN]:
            child = read_summary(value)
            if child is not None and child.room_id in expected:
                self._keep(server, child.room_id, RemoteSummary(server, child, is_partial=True))
        hidden = {as_room_id(one) for one in _list(answer.get("inaccessible_children"))}
        found = RemoteSummary(server, summary, frozenset(expected & hidden))
        return self._keep(server, room_id, found)

    def _keep(self, server: ServerName, room_id: RoomId, found: RemoteSummary | None) -> _Kept:
        """Keeps an answer; one about a space itself isn't replaced by what is said of a child."""
        before = self._fresh(server, room_id)
        if found is not None and found.is_unfinished and before is not None and before.found:
            return before
        now_s = self._clock.monotonic_s()
        if found is None:
            until_s = now_s + limits.SUMMARY_FAILURE_KEPT_S
            kept = _Kept(None, until_s, limits.SUMMARY_FAILURE_BYTES)
        else:
            size = found.summary.bytes + limits.SUMMARY_FAILURE_BYTES
            kept = _Kept(found, now_s + limits.SUMMARY_KEPT_S, size)
        self._kept.put((server, room_id), kept)
        return kept


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
