"""Receipts: the latest for each room, user, kind and thread ("" for unthreaded). Owns `receipts`.

Spec: client-server API, "Receipts".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from federation.events.ids import EventId, RoomId, UserId
from homeserver.storage.database import Connection, Database

_COLUMNS = "room_id, user_id, kind, thread, event_id, ts"


class ReceiptRow(Protocol):
    """The fields that a log entry, which belongs to a layer above, and a stored receipt have in
    common."""

    @property
    def room_id(self) -> RoomId: ...

    @property
    def user_id(self) -> UserId: ...

    @property
    def kind(self) -> str: ...

    @property
    def thread(self) -> str: ...

    @property
    def event_id(self) -> EventId: ...

    @property
    def ts(self) -> int: ...


class Receipt(msgspec.Struct, frozen=True):
    """The latest receipt of a user in a room, of a kind and thread ("" for unthreaded)."""

    room_id: RoomId
    user_id: UserId
    kind: str
    thread: str
    event_id: EventId
    ts: int
    position: int


async def append(connection: Connection, rows: Sequence[tuple[int, ReceiptRow]]) -> None:
    """Stores the entries of a batch; the last of equal keys wins."""
    latest = {(e.room_id, e.user_id, e.kind, e.thread): (position, e) for position, e in rows}
    await connection.execute(
        f"INSERT INTO receipts ({_COLUMNS}, position)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],"
        " $6::bigint[], $7::bigint[])"
        " ON CONFLICT (room_id, user_id, kind, thread) DO UPDATE"
        " SET event_id = excluded.event_id, ts = excluded.ts, position = excluded.position",
        [key[0] for key in latest],
        [key[1] for key in latest],
        [key[2] for key in latest],
        [key[3] for key in latest],
        [entry.event_id for _, entry in latest.values()],
        [entry.ts for _, entry in latest.values()],
        [position for position, _ in latest.values()],
    )


async def delete_all(connection: Connection, user_id: UserId) -> None:
    """Deletes a user's receipts. They are in rooms that the user was in, by which they are found;
    reads tables of `memberships` and `rooms`."""
    await connection.execute(
        "DELETE FROM receipts USING memberships m JOIN rooms USING (room_row_id)"
        " WHERE m.user_id = $1 AND receipts.room_id = rooms.room_id AND receipts.user_id = $1",
        user_id,
    )


class ReceiptTable:
    """The latest receipts of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_between(
        self, room_ids: Collection[RoomId], *, after: int, up_to: int
    ) -> list[Receipt]:
        """Returns receipts of these rooms with after < position <= up_to, in order of position."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS}, position FROM receipts WHERE room_id = ANY($1::text[])"
            " AND position > $2 AND position <= $3 ORDER BY position",
            list(room_ids),
            after,
            up_to,
        )
        return [Receipt(*row) for row in rows]

    async def load_of_user(self, room_id: RoomId, user_id: UserId) -> list[Receipt]:
        """Returns a user's receipts in a room."""
        rows = await self._database.fetch(
            f"SELECT {_COLUMNS}, position FROM receipts WHERE room_id = $1 AND user_id = $2",
            room_id,
            user_id,
        )
        return [Receipt(*row) for row in rows]
