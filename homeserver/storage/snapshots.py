"""State snapshots as deltas. Owns the table `snapshots` (see `engine/snapshots.py`)."""

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
    """New snapshots; their bases are stored before, or among them."""
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


async def chain(connection: Connection, room_nid: int, snapshot_nid: int) -> list[Row]:
    """The snapshot and its bases, oldest first."""
    return await connection.fetch(
        "WITH RECURSIVE c AS ("
        " SELECT * FROM snapshots WHERE room_nid = $1 AND snapshot_nid = $2"
        " UNION ALL SELECT s.* FROM snapshots s JOIN c ON s.room_nid = $1"
        " AND s.snapshot_nid = c.base_nid)"
        " SELECT snapshot_nid, ordinal, added, removed FROM c ORDER BY ordinal",
        room_nid,
        snapshot_nid,
    )
