"""The room engine's store over PostgreSQL (`homeserver.engine.store`), grouped by noun.

Rules:
1. Each method uses one connection of the pool; only the log has a connection of its own, whose
   session is ended before the outcome of a lost commit is read.
2. Errors are those of `storage.database`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from federation.events.ids import ServerName, UserId
from homeserver import limits
from homeserver.storage import batches, logs
from homeserver.storage.accounts.accounts import AccountTable
from homeserver.storage.batches import RedactedRow
from homeserver.storage.database import Connection, Database, Row
from homeserver.storage.federation.remote_edus import RemoteEduTable
from homeserver.storage.logs import OwnedLog
from homeserver.storage.rooms import memberships, rooms, snapshots, state_changes, withdrawals
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.timeline import events, gaps, rechecks, redactions, transactions
from homeserver.storage.timeline.events import EventRow
from homeserver.storage.timeline.rechecks import RecheckRows

Order = tuple[int, int]


class Filled(msgspec.Struct, frozen=True):
    """The rows that fill a gap: events, snapshots, the gaps that are left below as (missing event,
    live_index, gap_index of the event that names it), the events to verify, events that redactions
    change, redactions that wait as (room_row_id, target, redaction), fetched history that moves as
    (event, live_index, gap_index)."""

    rows: Sequence[EventRow]
    snapshots: Sequence[SnapshotRow]
    gaps: Sequence[tuple[str, int, int]]
    rechecks: RecheckRows
    redacted: Sequence[RedactedRow] = ()
    awaited: Sequence[tuple[int, str, str]] = ()
    moved: Sequence[tuple[str, int, int]] = ()


class OwedRows(msgspec.Struct, frozen=True):
    """The data owed to a destination: events' rows, EDUs with their positions, positions of changes
    of device lists, and local users whose lists it needs from now on, each with the position of the
    join."""

    events: Sequence[Row]
    edus: Sequence[tuple[int, bytes]]
    device_changes: Sequence[int]
    joins: Sequence[tuple[int, str]] = ()


class EventRows:
    """`engine.store.EventStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_id(self, event_ids: Collection[str]) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.by_id(connection, event_ids)

    async def raw_by_id(self, event_ids: Collection[str]) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.raw_by_id(connection, event_ids)

    async def refs(self, wanted: Collection[tuple[int, int]]) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.refs(connection, wanted)

    async def refs_by_id(self, event_ids: Collection[str]) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.refs_by_id(connection, event_ids)

    async def snapshot_before(self, room_row_id: int, event_id: str) -> int | None:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.snapshot_before(connection, room_row_id, event_id)

    async def snapshot_after(self, room_row_id: int, event_id: str) -> int | None:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.snapshot_after(connection, room_row_id, event_id)

    async def snapshots_around(self, room_row_id: int, event_ids: Collection[str]) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.snapshots_around(connection, room_row_id, event_ids)

    async def newest(
        self, room_row_id: int, *, after: int, up_to: int, limit: int
    ) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.newest(
                connection, room_row_id, after=after, up_to=up_to, limit=limit
            )

    async def before(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.before(connection, room_row_id, order, limit)

    async def behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.behind(connection, room_row_id, order, limit)

    async def order_at(self, room_row_id: int, position: int) -> Order | None:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.order_at(connection, room_row_id, position)

    async def first_depth(self, room_row_id: int) -> int:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.first_depth(connection, room_row_id)

    async def state_events(self, room_row_id: int, *, after: int, limit: int) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.state_events(connection, room_row_id, after=after, limit=limit)

    async def store_outliers(
        self, room: tuple[int, str, str], make: Callable[[int], Iterable[EventRow]]
    ) -> int:
        """Ensures that a room exists (see `rooms.ensure`) and stores the outliers that `make` makes
        for its number, in one transaction; existing ones stay. Returns the number."""
        async with self._database.transaction() as connection:
            room_row_id = await rooms.ensure(connection, *room)
            is_new = not await events.has_any(connection, room_row_id)
            if is_new and await events.copy_new(connection, _chunks(make(room_row_id))):
                return room_row_id
            for chunk in _chunks(make(room_row_id)):
                await events.insert_outliers(connection, chunk)
        return room_row_id

    async def gaps_of(self, room_row_id: int, event_ids: Sequence[str]) -> Sequence[Row]:
        """See `storage.timeline.gaps.left_by`."""
        async with self._database.connection() as connection:
            return await gaps.left_by(connection, room_row_id, event_ids)

    async def lowest_gap_index(self, room_row_id: int, live_index: int) -> int:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.lowest_gap_index(connection, room_row_id, live_index)

    async def backfill(self, room_row_id: int, event_ids: Sequence[str], filled: Filled) -> None:
        """Assigns places to fetched history, in one transaction."""
        async with self._database.transaction() as connection:
            await snapshots.insert(connection, filled.snapshots)
            await events.insert(connection, filled.rows)
            if filled.moved:
                await events.move(connection, filled.moved)
            await gaps.close(connection, room_row_id, event_ids)
            if filled.gaps:
                await gaps.insert(connection, [(room_row_id, *one) for one in filled.gaps])
            await batches.write_redactions(connection, filled.redacted, filled.awaited)
            await rechecks.write(connection, filled.rechecks)


def _chunks(rows: Iterable[EventRow]) -> Iterator[list[EventRow]]:
    left = iter(rows)
    while chunk := list(islice(left, limits.ROWS_WRITTEN_AT_ONCE)):
        yield chunk


class RoomRows:
    """`engine.store.RoomStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_room_ids(self, room_ids: Sequence[str]) -> Sequence[Row]:
        """See `storage.rooms.rooms`."""
        async with self._database.connection() as connection:
            return await rooms.by_room_ids(connection, room_ids)

    async def heads(self, wanted: Sequence[tuple[int, int]]) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.heads(connection, wanted)

    async def chains(self, wanted: Sequence[tuple[int, int]]) -> Sequence[Row]:
        """See `storage.rooms.snapshots`."""
        async with self._database.connection() as connection:
            return await snapshots.chains(connection, wanted)

    async def newest_of_each(self, room_row_ids: Sequence[int], limit: int) -> Sequence[Row]:
        """See `storage.timeline.events`."""
        async with self._database.connection() as connection:
            return await events.newest_of_each(connection, room_row_ids, limit)

    async def awaited(self, room_row_ids: Sequence[int], limit: int) -> Sequence[Row]:
        """See `storage.timeline.redactions`."""
        async with self._database.connection() as connection:
            return await redactions.awaited(connection, room_row_ids, limit)

    async def waiting_for(self, room_row_id: int, target: str) -> Sequence[Row]:
        """See `storage.timeline.redactions`."""
        async with self._database.connection() as connection:
            return await redactions.waiting_for(connection, room_row_id, target)

    async def missing_parents(self, room_row_ids: Sequence[int]) -> Sequence[Row]:
        """See `storage.timeline.redactions`."""
        async with self._database.connection() as connection:
            return await gaps.missing(connection, room_row_ids)

    async def changes(self, room_row_id: int, *, after: int, up_to: int) -> Sequence[Row]:
        """See `storage.rooms.state_changes`."""
        async with self._database.connection() as connection:
            return await state_changes.between(connection, room_row_id, after, up_to)

    async def end_of_stay(self, room_row_id: int, user_id: str) -> Row | None:
        """See `storage.rooms.state_changes`."""
        async with self._database.connection() as connection:
            return await state_changes.end_of_stay(connection, room_row_id, user_id)

    async def resolutions(self, room_row_id: int) -> Sequence[Row]:
        """See `storage.rooms.state_changes`."""
        async with self._database.connection() as connection:
            return await state_changes.resolutions(connection, room_row_id)

    async def gaps_before(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]:
        """See `storage.timeline.gaps`."""
        async with self._database.connection() as connection:
            return await gaps.before(connection, room_row_id, order, limit)

    async def gaps_behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]:
        """See `storage.timeline.gaps`."""
        async with self._database.connection() as connection:
            return await gaps.behind(connection, room_row_id, order, limit)


class RecheckQueue:
    """`engine.store.RecheckStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rooms_with_work(self) -> Sequence[str]:
        """See `storage.timeline.rechecks`."""
        async with self._database.connection() as connection:
            return await rechecks.rooms_with_work(connection)

    async def due(self, room_row_id: int, limit: int) -> Sequence[Row]:
        """See `storage.timeline.rechecks`."""
        async with self._database.connection() as connection:
            return await rechecks.due(connection, room_row_id, limit)

    async def awaited(self, room_row_ids: Sequence[int]) -> Sequence[Row]:
        """See `storage.timeline.rechecks`."""
        async with self._database.connection() as connection:
            return await rechecks.awaited(connection, room_row_ids)

    async def with_place(self, room_row_id: int, after: int, limit: int) -> Sequence[Row]:
        """See `storage.timeline.rechecks`."""
        async with self._database.connection() as connection:
            return await rechecks.with_place(connection, room_row_id, after, limit)


class MembershipRows:
    """`engine.store.MembershipStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_user(self, user_id: str) -> Sequence[Row]:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.of_user(connection, user_id)

    async def of_user_in(self, user_id: str, room_id: str) -> Row | None:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.of_user_in(connection, user_id, room_id)

    async def of_users(self, user_ids: Sequence[str], membership: str) -> Sequence[Row]:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.of_users(connection, user_ids, membership)

    async def sharing(self, user_id: str, among: Sequence[str]) -> Sequence[str]:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.sharing(connection, user_id, among)

    async def forget(self, user_id: str, room_id: str) -> None:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            await memberships.forget(connection, user_id, room_id)

    async def import_members(self, rows: Sequence[MembershipRow]) -> None:
        """See `memberships.upsert`."""
        async with self._database.connection() as connection:
            for start in range(0, len(rows), limits.ROWS_WRITTEN_AT_ONCE):
                await memberships.upsert(
                    connection, rows[start : start + limits.ROWS_WRITTEN_AT_ONCE]
                )


class TransactionRows:
    """`engine.store.TransactionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_device(self, user_id: str, device_id: str, limit: int) -> Sequence[Row]:
        """See `storage.timeline.transactions`."""
        async with self._database.connection() as connection:
            return await transactions.of_device(connection, user_id, device_id, limit)

    async def find(self, user_id: str, device_id: str, key: bytes) -> Row | None:
        """See `storage.timeline.transactions`."""
        async with self._database.connection() as connection:
            return await transactions.find(connection, user_id, device_id, key)

    async def forget_old(self, days: int) -> None:
        """See `storage.timeline.transactions`."""
        async with self._database.connection() as connection:
            await transactions.forget_old(connection, days)


class OwedStore:
    """`engine.store.OwedStore`."""

    def __init__(self, database: Database) -> None:
        self._database, self._edus = database, RemoteEduTable(database)

    async def owed(
        self,
        destination: str,
        own: str,
        *,
        after: int,
        up_to: int,
        limit: int,
        latest: bool = False,
    ) -> OwedRows:
        """Returns the data after a position, each list with at most `limit`; of events, with
        `latest`, only those that lead to all others."""
        async with self._database.connection() as connection:
            rows = await events.owed(
                connection,
                destination,
                after=after,
                limit=limit,
                suffix=":" + destination,
                latest=latest,
            )
            ends = await withdrawals.owed(connection, destination, after=after, limit=limit)
            changes = await memberships.device_changes_for(
                connection, destination, own, after=after, up_to=up_to, limit=limit
            )
            joins = await memberships.joins_shown_to(
                connection, destination, own, after=after, up_to=up_to, limit=limit
            )
        edus = await self._edus.load(ServerName(destination), after=after, up_to=up_to, limit=limit)
        return OwedRows(withdrawals.merged(rows, ends, limit), edus, changes, joins)

    async def servers_sharing(self, user_id: str, own: str) -> Sequence[str]:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.servers_sharing(connection, user_id, own)

    async def servers_shown(
        self, room_id: str, user_id: str, own: str, *, position: int
    ) -> Sequence[str]:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.servers_shown(
                connection, room_id, user_id, own, position=position
            )

    async def lagging(self, own: str) -> tuple[Sequence[Row], Sequence[str]]:
        """See `memberships.lagging_servers` and `withdrawals.servers`; the second list has the
        servers with waiting EDUs."""
        async with self._database.connection() as connection:
            rows = await memberships.lagging_servers(connection, own)
            rows = withdrawals.newest(rows, await withdrawals.servers(connection, own))
        return rows, await self._edus.load_destinations()

    async def forget_edus(self, destination: str, up_to: int) -> None:
        """See `storage.federation.remote_edus`."""
        await self._edus.delete(ServerName(destination), up_to)


class ErasureRows:
    """`engine.store.ErasureStore`."""

    def __init__(self, database: Database) -> None:
        self._database, self._accounts = database, AccountTable(database)

    async def all(self) -> Mapping[UserId, int]:
        """See `storage.accounts.accounts`."""
        return await self._accounts.load_erased()

    async def first_join(self, room_row_id: int, user_id: str) -> int | None:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.first_join(connection, room_row_id, user_id)

    async def server_first_joined(self, room_row_id: int, server: str) -> int | None:
        """See `storage.rooms.memberships`."""
        async with self._database.connection() as connection:
            return await memberships.server_first_joined(connection, room_row_id, server)


class PostgresLog:
    """`engine.store.LogStore`: the log's row, and the connection that commits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._session = 0  # of the connection above, as PostgreSQL numbers it

    async def take_over(self, new_history: str) -> OwnedLog:
        """See `storage.logs`."""
        async with self._database.connection() as connection:
            return await logs.take_over(connection, new_history)

    async def take_row_ids(self) -> range:
        """See `storage.logs`."""
        async with self._database.connection() as connection:
            return await logs.take_row_ids(connection)

    async def load_epoch(self) -> int:
        """See `storage.logs`."""
        async with self._database.connection() as connection:
            return await logs.load_epoch(connection)

    async def write(self, batch: batches.Writing, epoch: int) -> bool:
        """See `batches.write`. May raise the driver's errors (`database.translated`)."""
        return await batches.write(await self._connected(), batch, epoch)

    async def abandon(self) -> int:
        """Gives up the connection; returns its session, for `settled_position`."""
        lost = self._session
        await self.disconnect()
        return lost

    async def settled_position(self, epoch: int, lost: int) -> int | None:
        """Returns the position after a lost connection, once its session can't commit any more;
        None if the log isn't ours. May raise the driver's errors, or DatabaseUnavailable."""
        connection = await self._connected()
        await logs.end_session(connection, lost, limits.LOG_SESSION_END_S)
        async with connection.transaction():
            return await logs.position_once_settled(connection, epoch)

    async def any_placed(self, rows: Sequence[tuple[int, int, bool]]) -> bool:
        """See `storage.timeline.events.any_placed`; raises as `settled_position` does."""
        return await events.any_placed(await self._connected(), rows)

    async def disconnect(self) -> None:
        """Closes the connection; the next use opens another."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.dedicated()
            self._session = self._connection.get_server_pid()
        return self._connection


class PostgresStore:
    """`engine.store.Store`."""

    def __init__(self, database: Database) -> None:
        self.events = EventRows(database)
        self.rooms = RoomRows(database)
        self.rechecks = RecheckQueue(database)
        self.memberships = MembershipRows(database)
        self.transactions = TransactionRows(database)
        self.owed = OwedStore(database)
        self.erasures = ErasureRows(database)
        self.log = PostgresLog(database)
