"""One group commit: which rows it writes, at which positions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from homeserver.engine.entries import (
    AccountDataEntry,
    Committed,
    DeviceListEntry,
    Entry,
    EventEntry,
    MembershipEntry,
    ReceiptEntry,
    RemoteEduEntry,
    ToDeviceEntry,
    Unit,
)
from homeserver.engine.log import Placed
from homeserver.engine.staging import RoomUnit, Staged, heads_row
from homeserver.errors import MatrixError
from homeserver.storage import (
    account_data,
    commits,
    device_lists,
    events,
    logs,
    memberships,
    receipts,
    redactions,
    remote_edus,
    rooms,
    snapshots,
    state_changes,
    to_device,
    transactions,
)
from homeserver.storage.database import Connection
from homeserver.storage.memberships import MembershipRow
from homeserver.storage.text import escape


class Pending(Protocol):
    """What waits for a commit: a unit, with staged room events or without."""

    @property
    def unit(self) -> Unit: ...


class Placing:
    """One unit within a batch."""

    def __init__(self, pending: Any) -> None:
        self.pending = pending
        self.staged: Sequence[Staged] = pending.staged if isinstance(pending, RoomUnit) else ()
        self.entries: list[Entry] = [one.entry for one in self.staged if one.entry is not None]
        self.entries += pending.unit.entries
        self.first = 0
        self.error: Exception | None = None

    @property
    def committed(self) -> Committed:
        """What the submitter is told."""
        return Committed(self.first, self.first + len(self.entries) - 1, self.entries)

    def publish_room(self) -> None:
        """Makes the staged view the committed one."""
        if self.error is not None:
            return
        unit: RoomUnit = self.pending
        room, position = unit.room, self.first
        for staged in self.staged:
            if staged.entry is None:
                continue
            if staged.view is not None:
                room.publish(staged.view, position)
            room.remember(Placed(position, staged.entry))
            position += 1
        if unit.committed is not None:
            unit.committed()


class Batch:
    """What commits together."""

    def __init__(self, pending: Sequence[Any], position: int) -> None:
        self.units = [Placing(one) for one in pending]
        self.old = position
        self.upto = position
        self.sent = False  # may the database have got it?
        if not self.has_work:
            self.number()

    @property
    def has_work(self) -> bool:
        """Does a unit write rows of its own?"""
        return any(one.pending.unit.work is not None for one in self.units)

    @property
    def is_plain(self) -> bool:
        """Nothing but messages: one statement will do."""
        return all(
            one.staged
            and len(one.entries) == len(one.staged)
            and not one.pending.is_new
            and all(staged.is_plain for staged in one.staged)
            for one in self.units
        )

    def number(self) -> None:
        """Gives positions to the entries of all units that did not fail."""
        position = self.old
        for one in self.units:
            if one.error is not None:
                continue
            one.first = position + 1
            at = position
            for staged in one.staged:
                if staged.entry is not None:
                    at += 1
                    staged.row.position = at
            position += len(one.entries)
        self.upto = position

    def placed(self) -> list[Placed]:
        """All entries with their positions."""
        return [
            Placed(one.first + i, entry)
            for one in self.units
            if one.error is None
            for i, entry in enumerate(one.entries)
        ]

    def staged(self) -> list[tuple[Placing, Staged]]:
        """All staged events of units that did not fail."""
        return [(one, staged) for one in self.units if one.error is None for staged in one.staged]


async def write_batch(connection: Connection, batch: Batch, epoch: int) -> bool:
    """Commits the batch; False when the log isn't ours any more (nothing is written then)."""
    if batch.is_plain and not batch.has_work:
        batch.sent = True
        return await commits.messages(
            connection,
            (epoch, batch.old, batch.upto),
            [staged.row for _, staged in batch.staged()],
            _plain_heads(batch),
            _transactions(batch),
        )
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _run_work(connection, batch)
        if not await logs.move(connection, epoch=epoch, old=batch.old, new=batch.upto):
            await transaction.rollback()
            return False
        await _write_rooms(connection, batch)
        await _write_entries(connection, batch.placed())
    except BaseException:
        if not connection.is_closed():
            await transaction.rollback()
        raise
    batch.sent = True
    await transaction.commit()
    return True


async def _run_work(connection: Connection, batch: Batch) -> None:
    if not batch.has_work:
        return
    for one in batch.units:
        work = one.pending.unit.work
        if work is None:
            continue
        try:
            async with connection.transaction():
                one.entries += await work(connection)
        except MatrixError as error:
            one.error = error
            if isinstance(one.pending, RoomUnit):
                raise  # staged events can't be left out of the middle of a room
    batch.number()


def _plain_heads(batch: Batch) -> list[tuple[int, str, int, int]]:
    """Rows of `commits.messages`: all heads, since a message may leave others of a fork."""
    newest = {
        one.pending.room.nid: (staged.view, staged.row.position)
        for one, staged in batch.staged()
        if staged.view is not None and staged.row.position is not None
    }
    return [
        (nid, "{" + ",".join(str(head.nid) for head in view.heads) + "}", view.n, position)
        for nid, (view, position) in newest.items()
    ]


def _transactions(batch: Batch) -> list[tuple[str, str, bytes, str, int]]:
    return [
        (key.user_id, key.device_id, hashed, staged.row.event_id, staged.row.position or 0)
        for _, staged in batch.staged()
        if staged.transaction is not None
        for key, hashed in (staged.transaction,)
    ]


async def _write_rooms(connection: Connection, batch: Batch) -> None:
    staged = batch.staged()
    if not staged:
        return
    for one in batch.units:
        if isinstance(one.pending, RoomUnit) and one.pending.is_new:
            room = one.pending.room
            await rooms.ensure(connection, room.nid, room.room_id, room.version.name)
    await events.insert(connection, [one.row for _, one in staged])
    if rows := [row for _, one in staged for row in one.snapshots]:
        await snapshots.insert(connection, rows)
    await _write_changes(connection, staged)
    heads = {
        one.pending.room.nid: heads_row(one.pending.room, event.view, event.row.position or 0)
        for one, event in staged
        if event.view is not None
    }
    if heads:
        await rooms.set_heads(connection, list(heads.values()))
    if sent := _transactions(batch):
        await transactions.insert(connection, sent)
    await _write_redactions(connection, staged)


async def _write_changes(connection: Connection, staged: Sequence[tuple[Placing, Staged]]) -> None:
    changed: list[tuple[int, int, str, str, str | None, str | None]] = []
    members: list[MembershipRow] = []
    came: list[tuple[int, str, int]] = []
    went: list[tuple[int, str, int]] = []
    for one, event in staged:
        nid, position = one.pending.room.nid, event.row.position
        if position is None:
            continue
        for change in event.changes:
            kind, key = change.key
            changed.append(
                (nid, position, escape(kind), escape(key), change.event_id, change.membership)
            )
            if kind == "m.room.member":
                members.append(_membership_row(nid, position, event, change))
        came += [(nid, server, position) for server in event.servers_came]
        went += [(nid, server, position) for server in event.servers_went]
    if changed:
        await state_changes.insert(connection, changed)
    if members:
        await memberships.upsert(connection, members)
    if went:
        await memberships.servers_went(connection, went)
    if came:
        await memberships.servers_came(connection, came)


def _membership_row(nid: int, position: int, event: Staged, change: Any) -> MembershipRow:
    """After a merge the membership event may be another than the one that is placed; its sender
    is then not at hand, and the user's own ID stands in."""
    own = change.event_id == event.event.event_id
    return MembershipRow(
        nid,
        change.key[1],
        change.membership or "leave",
        change.event_id or "",
        event.event.sender if own else change.key[1],
        position,
    )


async def _write_redactions(
    connection: Connection, staged: Sequence[tuple[Placing, Staged]]
) -> None:
    for one, event in staged:
        nid = one.pending.room.nid
        if event.redacting is not None:
            target = event.redacting.target
            await events.redact(
                connection,
                nid,
                target.event_id,
                json=target.raw,
                redacted_by=event.redacting.redaction,
            )
            await redactions.arrived(connection, nid, target.event_id)
        if event.waits_for_target is not None:
            await redactions.keep(connection, nid, event.waits_for_target, event.event.event_id)
    gaps = [
        (one.pending.room.nid, missing, event.row.n, event.row.fill)
        for one, event in staged
        if event.row.n is not None and event.row.fill is not None
        for missing in event.missing_parents
    ]
    if gaps:
        await redactions.open_gaps(connection, gaps)


async def _append_memberships(
    connection: Connection, rows: Sequence[tuple[int, MembershipEntry]]
) -> None:
    """Memberships of rooms that we aren't in: such a room is known by its ID alone."""
    for position, entry in rows:
        nid = await rooms.ensure_known(connection, entry.room_id)
        row = MembershipRow(
            nid,
            entry.user_id,
            entry.membership,
            entry.event_id,
            entry.sender,
            position,
            entry.stripped,
            entry.event,
        )
        await memberships.upsert(connection, [row])


_Append = Callable[[Connection, Sequence[tuple[int, Any]]], Awaitable[None]]

_APPENDERS: dict[type, _Append] = {
    AccountDataEntry: account_data.append,
    ReceiptEntry: receipts.append,
    ToDeviceEntry: to_device.append,
    RemoteEduEntry: remote_edus.append,
    DeviceListEntry: device_lists.append,
    MembershipEntry: _append_memberships,
}


async def _write_entries(connection: Connection, placed: Sequence[Placed]) -> None:
    by_kind: dict[type, list[tuple[int, Any]]] = {}
    for one in placed:
        kind = type(one.entry)
        if kind is not EventEntry:
            by_kind.setdefault(kind, []).append((one.position, one.entry))
    for kind, rows in by_kind.items():
        if append := _APPENDERS.get(kind):
            await append(connection, rows)
