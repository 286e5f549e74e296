"""Access to rooms: the checks that precede the work of every room endpoint.

Rules:
1. An unknown room is 404 M_NOT_FOUND; a peer that the room's ACL denies gets 403 M_FORBIDDEN.
2. State and history are for servers that had a joined user at the event that is asked about: so a
   server whose last user was banned learns of the ban, and of what it lacks before it, and of
   nothing later. What of history a server may see, `EventStore.visible_to_server` says event by
   event.

Spec: server-server API, "Server access control lists"; the endpoints' 403 and 404 answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from federation.errors import MatrixError
from federation.events.ids import (
    EventId,
    InvalidIdentifier,
    RoomId,
    ServerName,
    UserId,
    parse_event_id,
    parse_room_id,
    parse_user_id,
    server_of,
)
from federation.events.room_versions import RoomVersion
from federation.ports import EventStore, StoredEvent
from federation.transport.acl import ServerAcls
from federation.transport.routes.authentication import PeerRequest


def parse_room(text: str) -> RoomId:
    """Returns the room ID; raises MatrixError."""
    try:
        return parse_room_id(text)
    except InvalidIdentifier:
        raise MatrixError(400, "M_INVALID_PARAM", "not a room ID") from None


def parse_event(text: object) -> EventId:
    """Returns the event ID; raises MatrixError."""
    try:
        if isinstance(text, str):
            return parse_event_id(text)
    except InvalidIdentifier:
        pass  # refused below, like a value that isn't a string
    raise MatrixError(400, "M_INVALID_PARAM", "not an event ID")


def parse_user(text: object) -> UserId:
    """Returns the user ID; raises MatrixError."""
    try:
        if isinstance(text, str):
            return parse_user_id(text)
    except InvalidIdentifier:
        pass  # refused below, like a value that isn't a string
    raise MatrixError(400, "M_INVALID_PARAM", "not a user ID")


def parse_own_user(text: object, server: ServerName) -> UserId:
    """Returns the ID of a user of `server`; raises MatrixError 403 for another server's."""
    user_id = parse_user(text)
    if server_of(user_id) != server:
        raise MatrixError(403, "M_FORBIDDEN", f"not a user of {server}")
    return user_id


class ServerRoomAccess:
    """The checks, over the store."""

    def __init__(self, store: EventStore, acls: ServerAcls) -> None:
        self._store, self._acls = store, acls

    async def version_of(self, room_id: RoomId) -> RoomVersion:
        """Returns the version of a room that is known here. Raises MatrixError 404."""
        version = await self._store.room_version(room_id)
        if version is None:
            raise MatrixError(404, "M_NOT_FOUND", "Unknown room")
        return version

    async def check_acl(self, room_id: RoomId, origin: ServerName) -> None:
        """Raises MatrixError 403 where the room's ACL denies the origin."""
        if not await self._acls.allows(room_id, origin):
            raise MatrixError(403, "M_FORBIDDEN", "This server is denied access to the room")

    async def enter(self, peer: PeerRequest) -> tuple[RoomId, RoomVersion]:
        """Returns the room of the path, which is known and doesn't deny the peer."""
        room_id = parse_room(peer.params["roomId"])
        version = await self.version_of(room_id)
        await self.check_acl(room_id, peer.origin)
        return room_id, version

    async def enter_at(
        self, peer: PeerRequest, event_ids: Sequence[EventId]
    ) -> tuple[RoomId, list[EventId]]:
        """As `enter`, for what the peer asks about these events: all of them when it has a user in
        the room, else those at which it had one. Raises MatrixError 403 where there are none."""
        room_id, _ = await self.enter(peer)
        if await self._store.is_server_joined(room_id, peer.origin):
            return room_id, list(event_ids)
        allowed = await self._store.joined_at(room_id, peer.origin, event_ids)
        if not allowed:
            raise MatrixError(403, "M_FORBIDDEN", "This server isn't in the room")
        return room_id, [one for one in event_ids if one in allowed]

    async def known_event(self, room_id: RoomId, event_id: EventId) -> StoredEvent:
        """Returns a stored event of that room. Raises MatrixError 404."""
        known = (await self._store.load_events([event_id])).get(event_id)
        if known is None or known.event.room_id != room_id:
            raise MatrixError(404, "M_NOT_FOUND", f"Could not find event {event_id}")
        return known
