"""State snapshots as deltas. Owns the table `snapshots` (see `engine/rooms/snapshots.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from homeserver.storage.database import Connection, Database


class SnapshotRow(msgspec.Struct, frozen=True):
    """One snapshot to write."""

    room_row_id: int
    snapshot_row_id: int
    base_row_id: int | None
    ordinal: int
    added: Sequence[int]
    removed: Sequence[int]
    incomplete: bool = False


class SnapshotLink(msgspec.Struct, frozen=True):
    """A snapshot `tip`, or one of its bases: the events that it adds and removes."""

    tip: int
    room_row_id: int
    snapshot_row_id: int
    ordinal: int
    added: list[int]
    removed: list[int]


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


async def insert(connection: Connection, rows: Sequence[SnapshotRow]) -> None:
    """Writes new snapshots; their bases are stored before, or among them."""
    await connection.execute(
        "INSERT INTO snapshots (room_row_id, snapshot_row_id, base_row_id, ordinal, added, removed,"
        " incomplete) SELECT room_row_id, row_id, base, ordinal, added::bigint[],"
        " removed::bigint[],"
        " incomplete FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[],"
        " $5::text[], $6::text[], $7::boolean[])"
        " AS u (room_row_id, row_id, base, ordinal, added, removed, incomplete)",
        [row.room_row_id for row in rows],
        [row.snapshot_row_id for row in rows],
        [row.base_row_id for row in rows],
        [row.ordinal for row in rows],
        [_array(row.added) for row in rows],
        [_array(row.removed) for row in rows],
        [row.incomplete for row in rows],
    )


class SnapshotTable:
    """The snapshots of all rooms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def chains(self, snapshots: Sequence[tuple[int, int]]) -> list[SnapshotLink]:
        """Returns snapshots, given as (room_row_id, snapshot_row_id), with their bases: the links
        of each, oldest first."""
        rows = await self._database.fetch(
            "WITH RECURSIVE c AS ("
            " SELECT s.snapshot_row_id AS tip, s.* FROM snapshots s"
            " JOIN unnest($1::bigint[], $2::bigint[]) AS u (room_row_id, snapshot_row_id)"
            " USING (room_row_id, snapshot_row_id)"
            " UNION ALL SELECT c.tip, s.* FROM snapshots s JOIN c ON s.room_row_id = c.room_row_id"
            " AND s.snapshot_row_id = c.base_row_id)"
            " SELECT tip, room_row_id, snapshot_row_id, ordinal, added, removed FROM c"
            " ORDER BY tip, ordinal",
            [room_row_id for room_row_id, _ in snapshots],
            [snapshot_row_id for _, snapshot_row_id in snapshots],
        )
        return [SnapshotLink(*row) for row in rows]
