"""One group commit as rows, and its execution by PostgreSQL.

Rules:
1. A batch of messages is one statement (`storage.commits`); any other is one transaction: units'
   own work first, then the update of the log's row, then rows.
2. The log's row is updated from the position that its owner knows, under its epoch. If that fails,
   nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from homeserver import limits
from homeserver.storage import commits, logs
from homeserver.storage.account_data import account_data
from homeserver.storage.account_data.account_data import AccountDataRow
from homeserver.storage.database import Connection
from homeserver.storage.encryption import device_lists, to_device
from homeserver.storage.encryption.device_lists import DeviceListRow
from homeserver.storage.encryption.to_device import ToDeviceRow
from homeserver.storage.ephemeral import receipts
from homeserver.storage.ephemeral.receipts import ReceiptRow
from homeserver.storage.federation import remote_edus
from homeserver.storage.federation.remote_edus import RemoteEduRow
from homeserver.storage.rooms import memberships, rooms, snapshots, state_changes
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeRow
from homeserver.storage.timeline import events, gaps, rechecks, redactions, transactions
from homeserver.storage.timeline.events import EventRow
from homeserver.storage.timeline.rechecks import RecheckRows
from homeserver.storage.timeline.redactions import RedactedRow

HeadsRow = tuple[int, Sequence[int], int, int, int]
"""(room_row_id, heads, snapshot_row_id, live_index, position)"""


class KnownMember(msgspec.Struct, frozen=True):
    """A membership of a room that may be known only by its ID."""

    room_id: str
    user_id: str
    membership: str
    event_id: str
    sender: str
    position: int
    stripped: bytes
    event: bytes
    version: str
    via: str = ""


class ImportedMemberRows(msgspec.Struct, frozen=True):
    """The members that a join imports with its state, and the servers that are in the room now."""

    room_row_id: int
    members: Sequence[MembershipRow]
    servers: Sequence[str]
    position: int


class LogRows(msgspec.Struct):
    """Entries without room events, each with its position, by their table."""

    account_data: list[tuple[int, AccountDataRow]] = []
    receipts: list[tuple[int, ReceiptRow]] = []
    to_device: list[tuple[int, ToDeviceRow]] = []
    remote_edus: list[tuple[int, RemoteEduRow]] = []
    device_lists: list[tuple[int, DeviceListRow]] = []
    memberships: list[KnownMember] = []


class CommitRows(msgspec.Struct):
    """All rows of one batch. Tuples are in the form that the owning modules' functions take."""

    epoch: int
    old: int
    up_to: int
    rooms: list[tuple[int, str, str]] = []
    imported: list[ImportedMemberRows] = []
    events: list[EventRow] = []
    snapshots: list[SnapshotRow] = []
    changes: list[StateChangeRow] = []
    resolutions: list[ResolutionRow] = []
    members: list[MembershipRow] = []
    servers_left: list[tuple[int, str, int]] = []
    servers_joined: list[tuple[int, str, int]] = []
    heads: list[HeadsRow] = []
    sent: list[tuple[str, str, bytes, str, int]] = []
    redacted: list[RedactedRow] = []
    awaited: list[tuple[int, str, str]] = []
    gaps: list[tuple[int, str, int, int]] = []
    rechecks: RecheckRows = msgspec.field(default_factory=RecheckRows)
    log: LogRows = msgspec.field(default_factory=LogRows)


class Writing(Protocol):
    """A batch in the form that a store writes."""

    sent: bool
    """Set by the store once the commit may have reached the disk."""

    @property
    def has_work(self) -> bool:
        """Returns whether a unit writes rows of its own."""

    @property
    def is_plain(self) -> bool:
        """Returns whether the batch has only messages."""

    async def run_work(self, connection: Connection) -> None:
        """Makes units write their own rows, and assigns positions; before `rows`."""

    def rows(self, epoch: int) -> CommitRows:
        """Returns all rows, with their positions."""


async def write(connection: Connection, batch: Writing, epoch: int) -> bool:
    """Commits a batch; returns False if the log isn't ours any more (nothing is written then)."""
    if batch.is_plain and not batch.has_work:
        rows = batch.rows(epoch)
        batch.sent = True
        heads = [
            (row_id, "{" + ",".join(map(str, heads)) + "}", live_index, position)
            for row_id, heads, _, live_index, position in rows.heads
        ]
        moved = (epoch, rows.old, rows.up_to)
        return await commits.messages(connection, moved, rows.events, heads, rows.sent)
    transaction = connection.transaction()
    await transaction.start()
    try:
        if batch.has_work:
            await batch.run_work(connection)
        rows = batch.rows(epoch)
        if not await logs.move(connection, epoch=epoch, old=rows.old, new=rows.up_to):
            await transaction.rollback()
            return False
        await _write_rooms(connection, rows)
        await _write_members(connection, rows)
        await redactions.write(connection, rows.redacted, rows.awaited)
        await _write_history(connection, rows)
        await _write_log(connection, rows.log)
    except BaseException:
        if not connection.is_closed():
            await transaction.rollback()
        raise
    batch.sent = True
    await transaction.commit()
    return True


async def _write_rooms(connection: Connection, rows: CommitRows) -> None:
    for room in rows.rooms:
        await rooms.ensure(connection, *room)
    if rows.events:
        await events.insert(connection, rows.events)
    if rows.snapshots:
        await snapshots.insert(connection, rows.snapshots)
    if rows.changes:
        await state_changes.insert(connection, rows.changes)
    if rows.resolutions:
        await state_changes.record_resolutions(
            connection, rows.resolutions, kept=limits.RESOLUTIONS_KEPT
        )
    if rows.heads:
        await rooms.set_heads(connection, rows.heads)
    if rows.sent:
        await transactions.insert(connection, rows.sent)


async def _write_members(connection: Connection, rows: CommitRows) -> None:
    for imported in rows.imported:
        for start in range(0, len(imported.members), limits.ROWS_WRITTEN_AT_ONCE):
            await memberships.upsert(
                connection, imported.members[start : start + limits.ROWS_WRITTEN_AT_ONCE]
            )
        await memberships.servers_reset(
            connection, imported.room_row_id, imported.servers, imported.position
        )
    if rows.members:
        await memberships.upsert(connection, rows.members)
    if rows.servers_joined:
        await memberships.servers_joined(connection, rows.servers_joined)
    if rows.servers_left:  # after the joins, some of which may end in this batch
        await memberships.servers_left(connection, rows.servers_left)


async def _write_history(connection: Connection, rows: CommitRows) -> None:
    if rows.gaps:
        await gaps.insert(connection, rows.gaps)
    for room_row_id, event_id in rows.rechecks.placed:  # also of gaps that this batch opened
        await gaps.close(connection, room_row_id, [event_id])
    if rows.rechecks:
        await rechecks.write(connection, rows.rechecks)


async def _write_log(connection: Connection, log: LogRows) -> None:
    if log.account_data:
        await account_data.append(connection, log.account_data)
    if log.receipts:
        await receipts.append(connection, log.receipts)
    if log.to_device:
        await to_device.append(connection, log.to_device)
    if log.remote_edus:
        await remote_edus.append(connection, log.remote_edus)
    if log.device_lists:
        await device_lists.append(connection, log.device_lists)
    for one in log.memberships:
        row_id = await rooms.ensure_known(connection, one.room_id)
        row = MembershipRow(
            row_id,
            one.user_id,
            one.membership,
            one.event_id,
            one.sender,
            one.position,
            one.stripped,
            one.event,
            one.version,
            one.via,
        )
        await memberships.upsert(connection, [row])
