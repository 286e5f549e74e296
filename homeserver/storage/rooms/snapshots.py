"""State snapshots as deltas. Owns the table `snapshots` (see `engine/rooms/snapshots.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from homeserver.storage.database import Connection, Row


class SnapshotRow(msgspec.Struct, frozen=True):
    """One snapshot to write."""

    room_nid: int
    snapshot_nid: int
    base_nid: int | None
    ordinal: int
    added: Sequence[int]
    removed: Sequence[int]
    incomplete: bool = False


def _array(numbers: Sequence[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"


async def insert(connection: Connection, rows: Sequence[SnapshotRow]) -> None:
    """Writes new snapshots; their bases are stored before, or among them."""
    await connection.execute(
        "INSERT INTO snapshots (room_nid, snapshot_nid, base_nid, ordinal, added, removed,"
        " incomplete) SELECT room_nid, nid, base, ordinal, added::bigint[], removed::bigint[],"
        " incomplete FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[],"
        " $5::text[], $6::text[], $7::boolean[])"
        " AS u (room_nid, nid, base, ordinal, added, removed, incomplete)",
        [row.room_nid for row in rows],
        [row.snapshot_nid for row in rows],
        [row.base_nid for row in rows],
        [row.ordinal for row in rows],
        [_array(row.added) for row in rows],
        [_array(row.removed) for row in rows],
        [row.incomplete for row in rows],
    )


async def chains(connection: Connection, snapshots: Sequence[tuple[int, int]]) -> list[Row]:
    """Returns snapshots, given as (room_nid, snapshot_nid), with their bases: the links of each
    (`tip`), oldest first."""
    return await connection.fetch(
        "WITH RECURSIVE c AS ("
        " SELECT s.snapshot_nid AS tip, s.* FROM snapshots s"
        " JOIN unnest($1::bigint[], $2::bigint[]) AS u (room_nid, snapshot_nid)"
        " USING (room_nid, snapshot_nid)"
        " UNION ALL SELECT c.tip, s.* FROM snapshots s JOIN c ON s.room_nid = c.room_nid"
        " AND s.snapshot_nid = c.base_nid)"
        " SELECT tip, room_nid, snapshot_nid, ordinal, added, removed FROM c ORDER BY tip, ordinal",
        [room_nid for room_nid, _ in snapshots],
        [snapshot_nid for _, snapshot_nid in snapshots],
    )
