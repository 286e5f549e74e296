"""Snapshots, in the database: chains of one room, oldest link first."""

from __future__ import annotations

from homeserver.storage.database import Database
from homeserver.storage.rooms import snapshots
from homeserver.storage.rooms.snapshots import SnapshotLink, SnapshotRow, SnapshotTable


async def test_a_chain_goes_from_the_base_to_the_tip(database: Database) -> None:
    rows = [
        SnapshotRow(1, 13, 12, 2, [5], [1, 2]),
        SnapshotRow(1, 11, None, 0, [1, 2, 3], []),
        SnapshotRow(1, 12, 11, 1, [4], []),
        SnapshotRow(1, 14, 11, 1, [6], [3]),
        SnapshotRow(2, 12, None, 0, [9], []),
    ]
    async with database.connection() as connection:
        await snapshots.insert(connection, rows)
    table = SnapshotTable(database)
    assert await table.chains([(1, 13), (1, 14), (1, 99)]) == [
        SnapshotLink(13, 1, 11, 0, [1, 2, 3], []),
        SnapshotLink(13, 1, 12, 1, [4], []),
        SnapshotLink(13, 1, 13, 2, [5], [1, 2]),
        SnapshotLink(14, 1, 11, 0, [1, 2, 3], []),
        SnapshotLink(14, 1, 14, 1, [6], [3]),
    ]
    assert await table.chains([(2, 12)]) == [SnapshotLink(12, 2, 12, 0, [9], [])]
    assert await table.chains([]) == []
