"""The storage that the engine uses, as Protocols: over PostgreSQL (`storage.engine_store`), or in
memory, in simulations.

Rules:
1. Writes are durable when the call returns. A batch is written atomically, under the log's epoch
   and position; so are outliers and fetched history.
2. An event is stored once by its ID. A later write gives an outlier its place, and an unverified
   event its correct one; any other stays as it is.
3. An unavailable store raises DatabaseUnavailable, one that refuses the data DataRefused, or the
   errors that `storage.database.translated` translates to these. A failed `write` may have
   committed if it set the batch's `sent`: `settled_position` tells.

Rows are mappings by column name; see the functions of `homeserver.storage` that the methods name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from federation.events.ids import UserId
from homeserver.storage.batches import Writing
from homeserver.storage.database import Row
from homeserver.storage.engine_store import Filled, OwedRows
from homeserver.storage.logs import OwnedLog
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.timeline.events import EventRow

Order = tuple[int, int]


class EventTables(Protocol):
    """Events (`storage.timeline.events`)."""

    async def by_id(self, event_ids: Collection[str]) -> Sequence[Row]: ...

    async def raw_by_id(self, event_ids: Collection[str]) -> Sequence[Row]: ...

    async def refs(self, wanted: Collection[tuple[int, int]]) -> Sequence[Row]: ...

    async def refs_by_id(self, event_ids: Collection[str]) -> Sequence[Row]: ...

    async def snapshot_before(self, room_row_id: int, event_id: str) -> int | None: ...

    async def snapshot_after(self, room_row_id: int, event_id: str) -> int | None: ...

    async def snapshots_around(
        self, room_row_id: int, event_ids: Collection[str]
    ) -> Sequence[Row]: ...

    async def newest(
        self, room_row_id: int, *, after: int, up_to: int, limit: int
    ) -> Sequence[Row]: ...

    async def before(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]: ...

    async def behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]: ...

    async def order_at(self, room_row_id: int, position: int) -> Order | None: ...

    async def first_depth(self, room_row_id: int) -> int: ...

    async def state_events(self, room_row_id: int, *, after: int, limit: int) -> Sequence[Row]: ...

    async def store_outliers(
        self, room: tuple[int, str, str], make: Callable[[int], Iterable[EventRow]]
    ) -> int:
        """Ensures that a room exists (number if it is new, ID, version) and stores the outliers
        that `make` makes for its number (it may be called twice). Returns the number."""

    async def gaps_of(self, room_row_id: int, event_ids: Sequence[str]) -> Sequence[Row]: ...

    async def lowest_gap_index(self, room_row_id: int, live_index: int) -> int: ...

    async def backfill(self, room_row_id: int, event_ids: Sequence[str], filled: Filled) -> None:
        """Assigns places to fetched history, and closes the gaps that `event_ids` left."""


class RoomStore(Protocol):
    """Rooms: heads, snapshots, changes, gaps (`storage.rooms.rooms`, `events`, `snapshots`,
    `redactions`, `gaps`, `state_changes`)."""

    async def by_room_ids(self, room_ids: Sequence[str]) -> Sequence[Row]: ...

    async def heads(self, wanted: Sequence[tuple[int, int]]) -> Sequence[Row]: ...

    async def chains(self, wanted: Sequence[tuple[int, int]]) -> Sequence[Row]: ...

    async def newest_of_each(self, room_row_ids: Sequence[int], limit: int) -> Sequence[Row]: ...

    async def awaited(self, room_row_ids: Sequence[int], limit: int) -> Sequence[Row]: ...

    async def waiting_for(self, room_row_id: int, target: str) -> Sequence[Row]: ...

    async def missing_parents(self, room_row_ids: Sequence[int]) -> Sequence[Row]: ...

    async def changes(self, room_row_id: int, *, after: int, up_to: int) -> Sequence[Row]: ...

    async def end_of_stay(self, room_row_id: int, user_id: str) -> Row | None: ...

    async def resolutions(self, room_row_id: int) -> Sequence[Row]: ...

    async def gaps_before(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]: ...

    async def gaps_behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[Row]: ...


class RecheckStore(Protocol):
    """Verdicts on unverified state that are due for a recheck (`storage.timeline.rechecks`)."""

    async def rooms_with_work(self) -> Sequence[str]: ...

    async def due(self, room_row_id: int, limit: int) -> Sequence[Row]: ...

    async def awaited(self, room_row_ids: Sequence[int]) -> Sequence[Row]: ...

    async def with_place(self, room_row_id: int, after: int, limit: int) -> Sequence[Row]: ...


class MembershipStore(Protocol):
    """Memberships of rooms (`storage.rooms.memberships`)."""

    async def of_user(self, user_id: str) -> Sequence[Row]: ...

    async def of_user_in(self, user_id: str, room_id: str) -> Row | None: ...

    async def of_users(self, user_ids: Sequence[str], membership: str) -> Sequence[Row]: ...

    async def sharing(self, user_id: str, among: Sequence[str]) -> Sequence[str]: ...

    async def forget(self, user_id: str, room_id: str) -> None: ...

    async def import_members(self, rows: Sequence[MembershipRow]) -> None:
        """Writes memberships outside of the log, in pieces: those of other servers' users in a room
        that a local user is about to join. The newest counts; a repeat is harmless."""


class TransactionStore(Protocol):
    """Clients' transaction IDs (`storage.timeline.transactions`)."""

    async def of_device(self, user_id: str, device_id: str, limit: int) -> Sequence[Row]: ...

    async def find(self, user_id: str, device_id: str, key: bytes) -> Row | None: ...

    async def forget_old(self, days: int) -> None: ...


class OwedTables(Protocol):
    """Data owed to other servers (`storage.timeline.events`, `remote_edus`, `memberships`)."""

    async def owed(
        self,
        destination: str,
        own: str,
        *,
        after: int,
        up_to: int,
        limit: int,
        latest: bool = False,
    ) -> OwedRows: ...

    async def servers_sharing(self, user_id: str, own: str) -> Sequence[str]: ...

    async def servers_shown(
        self, room_id: str, user_id: str, own: str, *, position: int
    ) -> Sequence[str]: ...

    async def lagging(self, own: str) -> tuple[Sequence[Row], Sequence[str]]: ...

    async def forget_edus(self, destination: str, up_to: int) -> None: ...


class ErasureStore(Protocol):
    """Users who asked for erasure, and earlier memberships (`storage.accounts.accounts`,
    `memberships`).
    """

    async def all(self) -> Mapping[UserId, int]:
        """Returns the users, with the log's position at the erasure."""

    async def first_join(self, room_row_id: int, user_id: str) -> int | None:
        """Returns the position at which a user joined a room for the first time."""

    async def server_first_joined(self, room_row_id: int, server: str) -> int | None:
        """Returns the position at which a server was in a room for the first time."""


class LogStore(Protocol):
    """The log's row and its writer (`storage.logs`, `storage.batches`)."""

    async def take_over(self, new_history: str) -> OwnedLog: ...

    async def take_row_ids(self) -> range: ...

    async def load_epoch(self) -> int: ...

    async def write(self, batch: Writing, epoch: int) -> bool:
        """Commits a batch; returns False if the log isn't ours any more (nothing is written
        then).
        """

    async def abandon(self) -> int:
        """Gives up the connection after a failure; returns its number, for `settled_position`."""

    async def settled_position(self, epoch: int, lost: int) -> int | None:
        """Returns the log's position once nothing sent over the lost connection can commit any
        more; None if the log isn't ours."""

    async def any_placed(self, events: Sequence[tuple[int, int, bool]]) -> bool:
        """Returns whether one of these events (room_row_id, event_row_id, unverified) has a place;
        called after `settled_position`."""

    async def disconnect(self) -> None: ...


class EngineStore(Protocol):
    """All stores."""

    @property
    def events(self) -> EventTables: ...

    @property
    def rooms(self) -> RoomStore: ...

    @property
    def rechecks(self) -> RecheckStore: ...

    @property
    def memberships(self) -> MembershipStore: ...

    @property
    def transactions(self) -> TransactionStore: ...

    @property
    def owed(self) -> OwedTables: ...

    @property
    def erasures(self) -> ErasureStore: ...

    @property
    def log(self) -> LogStore: ...
