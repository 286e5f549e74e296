"""Rooms as local users may see them: from here, where this server is in the room, else as other
servers show them.

Rules:
1. What is known here is used instead of what other servers say.
2. Each user sees what `rules.rooms.room_summaries` lets them, whoever the summary is from.
3. Without an access token, rooms are shown that anybody may enter or read. Such an address has
   other servers asked for few of them.

Spec: client-server API, "Room summaries", "Spaces"; MSC3266.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from federation.causes import current_cause
from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomAlias, RoomId, ServerName, UserId, server_of
from homeserver import errors
from homeserver.rules.rooms.room_summaries import SummarisedRoom, is_open, shows_itself
from homeserver.services.rooms.directory import Target
from homeserver.services.rooms.room_access import RoomContext, servers_of
from homeserver.services.rooms.summaries.remote_summaries import RemoteSummaries
from homeserver.services.rooms.summaries.summaries import RoomViewer, Summaries

Resolve: TypeAlias = Callable[[RoomAlias], Awaitable[Target]]
"""Finds the room of an alias. Raises MatrixError."""


class Previews:
    """Summaries of single rooms for clients."""

    def __init__(
        self,
        engine: RoomContext,
        summaries: Summaries,
        remote: RemoteSummaries,
        resolve: Resolve,
        admit: Callable[[str], None],
    ) -> None:
        """`admit` counts a question to other servers for an address without a token, and raises 429
        M_LIMIT_EXCEEDED."""
        self._engine, self._summaries, self._remote = engine, summaries, remote
        self._resolve, self._admit = resolve, admit

    async def of_alias(self, user_id: UserId | None, alias: RoomAlias) -> JsonObject:
        """Returns the summary of the room that an alias names, as `of` does."""
        if user_id is None and server_of(alias) != self._remote.server_name:
            self._admit(current_cause().name)
        try:
            target = await self._resolve(alias)
        except MatrixError as error:
            # 404 is all that the specification has for a room that can't be found
            raise errors.not_found(error.error) from error
        return await self.of(user_id, target.room_id, target.servers)

    async def of(
        self, user_id: UserId | None, room_id: RoomId, via: Sequence[ServerName]
    ) -> JsonObject:
        """Returns the summary of a room, with the user's `membership` of it. Raises 404 M_NOT_FOUND
        for a room that isn't found, or not shown to them; without a user, only open ones are."""
        summary = await self._find(user_id, room_id, via)
        if summary is None:
            raise errors.not_found("Room not found")
        if user_id is None:
            if not is_open(summary):
                raise errors.not_found("Room not found")
            return dict(summary.entry)
        viewer = await self._summaries.viewer(user_id)
        if not sees(viewer, summary):
            raise errors.not_found("Room not found")
        return {**summary.entry, "membership": viewer.memberships.get(room_id, "leave")}

    async def _find(
        self, user_id: UserId | None, room_id: RoomId, via: Sequence[ServerName]
    ) -> SummarisedRoom | None:
        local = (await self._summaries.of([room_id])).get(room_id)
        if local is not None:
            return local.summary
        servers = await servers_of(self._engine, user_id, room_id, via)
        if user_id is None and servers:
            self._admit(current_cause().name)
        remote = await self._remote.find(room_id, servers)
        return None if remote is None else remote.summary


def sees(viewer: RoomViewer, summary: SummarisedRoom) -> bool:
    """Returns whether a user may see a room."""
    return shows_itself(summary, viewer.memberships.get(summary.room_id), viewer.joined)
