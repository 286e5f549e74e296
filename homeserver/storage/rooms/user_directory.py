"""The user directory. Owns `user_directory`, `user_directory_rooms` and `user_directory_position`.

Rules:
1. A user is found by those who share a room with them, and by all if they are joined to a room that
   everybody may join or read. It is decided by the memberships as they are at the search, so a user
   who has just left is not found, though the row is still there.
2. What was applied up to the position is durable when it is stored; the rest is made again.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.events.ids import EventId, RoomId, UserId
from homeserver import limits
from homeserver.rules.rooms.user_search import DirectoryUser, SearchTerm, tokens_of
from homeserver.storage.database import Database


class JoinedMember(msgspec.Struct, frozen=True):
    """A member of a room, with the stored event of the join (JSON)."""

    user_id: UserId
    event: bytes


_VISIBLE = (
    "(EXISTS (SELECT FROM memberships a JOIN memberships b USING (room_row_id)"
    "  WHERE a.user_id = $1 AND a.membership = 'join'"
    "  AND b.user_id = f.user_id AND b.membership = 'join')"
    " OR EXISTS (SELECT FROM memberships m JOIN user_directory_rooms r USING (room_row_id)"
    "  WHERE m.user_id = f.user_id AND m.membership = 'join' AND r.is_public))"
)


_BY_TOKENS = "tokens @> $2::text[]"
_BY_ID = "user_id >= ($2::text[])[1] AND user_id < ($2::text[])[1] || U&'\\+10FFFF'"


class UserDirectoryTable:
    """The users who can be searched for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(self, reader: UserId, term: SearchTerm) -> list[DirectoryUser]:
        """Returns users that have the term's tokens and are visible to the reader, in no order: of
        at most `USER_SEARCH_CANDIDATES` that have the tokens."""
        condition, value = _BY_TOKENS, list(term.tokens)
        if term.id_prefix:
            condition, value = _BY_ID, [term.id_prefix]
        rows = await self._database.fetch(
            "SELECT user_id, display_name, avatar_url FROM ("
            " SELECT user_id, display_name, avatar_url FROM user_directory"
            f" WHERE {condition} AND user_id <> $1 LIMIT $3) f WHERE {_VISIBLE}",
            reader,
            value,
            limits.USER_SEARCH_CANDIDATES,
        )
        return [DirectoryUser(*row) for row in rows]

    async def store(self, users: Sequence[DirectoryUser]) -> None:
        """Writes users, known ones anew."""
        if not users:
            return
        await self._database.execute(
            "INSERT INTO user_directory (user_id, display_name, avatar_url, tokens)"
            " SELECT u.user_id, u.name, u.avatar, string_to_array(u.tokens, ' ') FROM"
            " unnest($1::text[], $2::text[], $3::text[], $4::text[])"
            " AS u (user_id, name, avatar, tokens)"
            " ON CONFLICT (user_id) DO UPDATE SET display_name = excluded.display_name,"
            " avatar_url = excluded.avatar_url, tokens = excluded.tokens"
            " WHERE (user_directory.display_name, user_directory.avatar_url)"
            " <> (excluded.display_name, excluded.avatar_url)",
            [user.user_id for user in users],
            [user.display_name for user in users],
            [user.avatar_url for user in users],
            [" ".join(tokens_of(user)) for user in users],
        )

    async def remove_departed(self, user_ids: Sequence[UserId]) -> None:
        """Removes those of some users who are joined to no room any more."""
        await self._database.execute(
            "DELETE FROM user_directory d WHERE user_id = ANY($1::text[]) AND NOT EXISTS"
            " (SELECT FROM memberships m WHERE m.user_id = d.user_id AND m.membership = 'join')",
            list(user_ids),
        )

    async def members(self, room_id: RoomId, *, after: str) -> list[JoinedMember]:
        """Returns joined members of a room past a user ID, in order: at most
        `USER_DIRECTORY_MEMBERS_READ`."""
        rows = await self._database.fetch(
            "SELECT m.user_id, e.json FROM memberships m JOIN rooms r USING (room_row_id)"
            " JOIN events e ON e.event_id = m.event_id WHERE r.room_id = $1"
            " AND m.membership = 'join' AND m.user_id > $2 ORDER BY m.user_id LIMIT $3",
            room_id,
            after,
            limits.USER_DIRECTORY_MEMBERS_READ,
        )
        return [JoinedMember(*row) for row in rows]

    async def members_by_event(self, event_ids: Sequence[EventId]) -> list[JoinedMember]:
        """Returns the members whose joins these events are; other events are left out."""
        rows = await self._database.fetch(
            "SELECT state_key, json FROM events WHERE event_id = ANY($1::text[])"
            " AND type = 'm.room.member' AND membership = 'join'",
            event_ids,
        )
        return [JoinedMember(*row) for row in rows]

    async def unknown_rooms(self, room_ids: Sequence[RoomId]) -> list[RoomId]:
        """Returns those of some rooms whose members aren't in the directory."""
        rows = await self._database.fetch(
            "SELECT room_id FROM rooms r WHERE room_id = ANY($1::text[]) AND NOT EXISTS"
            " (SELECT FROM user_directory_rooms d WHERE d.room_row_id = r.room_row_id)",
            list(room_ids),
        )
        return [RoomId(row[0]) for row in rows]

    async def changed_rooms(self) -> list[RoomId]:
        """Returns the rooms with events after the stored position."""
        rows = await self._database.fetch(
            "SELECT room_id FROM rooms JOIN room_heads h USING (room_row_id)"
            " WHERE h.position > coalesce((SELECT position FROM user_directory_position), 0)"
        )
        return [RoomId(row[0]) for row in rows]

    async def set_room(self, room_id: RoomId, *, is_public: bool) -> None:
        """Records that a room's members are in the directory."""
        await self._database.execute(
            "INSERT INTO user_directory_rooms (room_row_id, is_public)"
            " SELECT room_row_id, $2 FROM rooms WHERE room_id = $1"
            " ON CONFLICT (room_row_id) DO UPDATE SET is_public = excluded.is_public",
            room_id,
            is_public,
        )

    async def drop_room(self, room_id: RoomId) -> None:
        """Forgets a room that this server has left: it doesn't learn any more who is in it."""
        await self._database.execute(
            "DELETE FROM user_directory_rooms WHERE room_row_id ="
            " (SELECT room_row_id FROM rooms WHERE room_id = $1)",
            room_id,
        )

    async def store_position(self, position: int) -> None:
        """Records that everything up to a position of the log is applied."""
        await self._database.execute(
            "INSERT INTO user_directory_position AS p (position) VALUES ($1)"
            " ON CONFLICT (is_only) DO UPDATE SET position = excluded.position"
            " WHERE p.position < excluded.position",
            position,
        )
