"""Joins, leaves, knocks and invites that were begun and may not be complete.

Owns the table `joining_intents`.

A user has at most one in a room: a later one replaces it.
"""

from __future__ import annotations

import msgspec
import orjson

from federation.events.canonical_json import JsonObject
from federation.events.ids import EventId, RoomId, ServerName, UserId
from homeserver.rules.any_json import dump_any
from homeserver.storage.database import Database, Row

_COLUMNS = "user_id, room_id, membership, former, servers, content, attempts"


class Intent(msgspec.Struct, frozen=True):
    """The membership that a local user wants in a remote room, and the servers to use; or our
    invite of another server's user, whose `content` is the whole signed event. `former` is the
    event of the membership that a leave ends, or of the invite that a failed join accepts; empty
    for none."""

    user_id: UserId
    room_id: RoomId
    membership: str
    former: EventId
    servers: tuple[ServerName, ...]
    content: JsonObject
    attempts: int = 0

    @property
    def key(self) -> tuple[UserId, RoomId]:
        """The user that it is about, and the room."""
        return (self.user_id, self.room_id)


class JoiningIntentTable:
    """The stored intents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, intent: Intent) -> None:
        """Stores an intent, in place of an older one of the user in the room."""
        await self._database.execute(
            f"INSERT INTO joining_intents ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
            " ON CONFLICT (user_id, room_id) DO UPDATE SET membership = excluded.membership,"
            " former = excluded.former, servers = excluded.servers, content = excluded.content,"
            " attempts = excluded.attempts",
            intent.user_id,
            intent.room_id,
            intent.membership,
            intent.former,
            list(intent.servers),
            dump_any(intent.content),
            intent.attempts,
        )

    async def delete(self, user_id: UserId, room_id: RoomId) -> None:
        """Deletes an intent: both sides agree."""
        await self._database.execute(
            "DELETE FROM joining_intents WHERE user_id = $1 AND room_id = $2", user_id, room_id
        )

    async def load(self, user_id: UserId, room_id: RoomId) -> Intent | None:
        """Returns the intent of a user in a room, or None."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM joining_intents WHERE user_id = $1 AND room_id = $2",
            user_id,
            room_id,
        )
        return None if row is None else _intent(row)

    async def load_all(self) -> list[Intent]:
        """Returns the intents that a former process left."""
        rows = await self._database.fetch(f"SELECT {_COLUMNS} FROM joining_intents")
        return [_intent(row) for row in rows]


def _intent(row: Row) -> Intent:
    return Intent(
        row["user_id"],
        row["room_id"],
        row["membership"],
        row["former"],
        tuple(row["servers"]),
        orjson.loads(row["content"]),
        row["attempts"],
    )
