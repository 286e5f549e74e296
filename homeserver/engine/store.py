"""The storage that the engine uses, as Protocols: over PostgreSQL (`storage.postgres_store`),
or in memory, in simulations.

Rules:
1. Writes are durable when the call returns. A batch is written atomically, under the log's epoch
   and position; so are outliers and fetched history.
2. An event is stored once by its ID. A later write gives an outlier its place, and an unverified
   event its correct one; any other stays as it is.
3. An unavailable store raises DatabaseUnavailable, one that refuses the data DataRefused, or the
   errors that `storage.database.translated` translates to these. A failed `write` may have
   committed if it set the batch's `sent`: `settled_position` tells.

See the classes of `homeserver.storage` that the protocols name for what the methods return.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from federation.events.ids import EventId, UserId
from homeserver.storage.batches import Writing
from homeserver.storage.federation.owed import OwedRows
from homeserver.storage.logs import OwnedLog
from homeserver.storage.rooms.memberships import (
    MembershipRow,
    OutsideMembershipRow,
    UserMembershipRow,
    UserRoomRow,
)
from homeserver.storage.rooms.rooms import RoomRow
from homeserver.storage.rooms.snapshots import SnapshotLink
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeRow
from homeserver.storage.timeline.events import (
    EventJsonRow,
    EventRefRow,
    EventRow,
    HeadRow,
    RoomEventRow,
    SnapshotsAroundRow,
    StoredEventRow,
)
from homeserver.storage.timeline.fetched_history import Filled
from homeserver.storage.timeline.gaps import GapRow, MissingEventRow
from homeserver.storage.timeline.rechecks import DueRow, MissingParentRow
from homeserver.storage.timeline.redactions import PendingRedactionRow
from homeserver.storage.timeline.transactions import TransactionRow

Order = tuple[int, int]


class EventTables(Protocol):
    """Events (`storage.timeline.events`)."""

    async def by_id(self, event_ids: Collection[str]) -> Sequence[RoomEventRow]: ...

    async def raw_by_id(self, event_ids: Collection[str]) -> Mapping[EventId, bytes]: ...

    async def refs(self, events: Collection[tuple[int, int]]) -> Sequence[EventRefRow]: ...

    async def refs_by_id(self, event_ids: Collection[str]) -> Sequence[EventRefRow]: ...

    async def snapshot_before(self, room_row_id: int, event_id: str) -> int | None: ...

    async def snapshot_after(self, room_row_id: int, event_id: str) -> int | None: ...

    async def snapshots_around(
        self, room_row_id: int, event_ids: Collection[str]
    ) -> Sequence[SnapshotsAroundRow]: ...

    async def heads(self, events: Sequence[tuple[int, int]]) -> Sequence[HeadRow]: ...

    async def newest_of_each(
        self, room_row_ids: Sequence[int], limit: int
    ) -> Sequence[StoredEventRow]: ...

    async def newest(
        self, room_row_id: int, *, after: int, up_to: int, limit: int
    ) -> Sequence[StoredEventRow]: ...

    async def before(
        self, room_row_id: int, order: Order, limit: int
    ) -> Sequence[StoredEventRow]: ...

    async def behind(
        self, room_row_id: int, order: Order, limit: int
    ) -> Sequence[StoredEventRow]: ...

    async def order_at(self, room_row_id: int, position: int) -> Order | None: ...

    async def first_depth(self, room_row_id: int) -> int: ...

    async def state_events(
        self, room_row_id: int, *, after: int, limit: int
    ) -> Sequence[EventJsonRow]: ...

    async def with_place(
        self, room_row_id: int, *, after: int, limit: int
    ) -> Sequence[EventJsonRow]: ...

    async def lowest_gap_index(self, room_row_id: int, live_index: int) -> int: ...


class HistoryStore(Protocol):
    """Events that aren't committed by the log (`storage.timeline.fetched_history`)."""

    async def store_outliers(
        self, room: tuple[int, str, str], make: Callable[[int], Iterable[EventRow]]
    ) -> int:
        """Ensures that a room exists (number if it is new, ID, version) and stores the outliers
        that `make` makes for its number (it may be called twice). Returns the number."""

    async def backfill(self, room_row_id: int, event_ids: Sequence[str], filled: Filled) -> None:
        """Assigns places to fetched history, and closes the gaps that `event_ids` left."""


class GapStore(Protocol):
    """Missing events that others name (`storage.timeline.gaps`)."""

    async def of_rooms(self, room_row_ids: Sequence[int]) -> Sequence[MissingEventRow]: ...

    async def before(self, room_row_id: int, order: Order, limit: int) -> Sequence[GapRow]: ...

    async def behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[GapRow]: ...

    async def left_by(self, room_row_id: int, missing: Sequence[str]) -> Sequence[GapRow]: ...


class PendingRedactionStore(Protocol):
    """Redactions that wait for their target (`storage.timeline.redactions`)."""

    async def of_rooms(
        self, room_row_ids: Sequence[int], limit: int
    ) -> Sequence[PendingRedactionRow]: ...

    async def waiting_for(self, room_row_id: int, target: str) -> Sequence[EventId]: ...


class RecheckStore(Protocol):
    """Verdicts on unverified state that are due for a recheck (`storage.timeline.rechecks`)."""

    async def rooms_with_work(self) -> Sequence[str]: ...

    async def due(self, room_row_id: int, limit: int) -> Sequence[DueRow]: ...

    async def awaited(self, room_row_ids: Sequence[int]) -> Sequence[MissingParentRow]: ...


class RoomTables(Protocol):
    """Rooms and their heads (`storage.rooms.rooms`)."""

    async def by_room_ids(self, room_ids: Sequence[str]) -> Sequence[RoomRow]: ...


class SnapshotStore(Protocol):
    """States (`storage.rooms.snapshots`)."""

    async def chains(self, snapshots: Sequence[tuple[int, int]]) -> Sequence[SnapshotLink]: ...


class StateChangeStore(Protocol):
    """Changes of current state (`storage.rooms.state_changes`)."""

    async def between(
        self, room_row_id: int, *, after: int, up_to: int
    ) -> Sequence[StateChangeRow]: ...

    async def end_of_stay(
        self, room_row_id: int, user_id: str
    ) -> tuple[int, EventId | None] | None: ...

    async def first_join(self, room_row_id: int, user_id: str) -> int | None: ...

    async def resolutions(self, room_row_id: int) -> Sequence[ResolutionRow]: ...


class MembershipStore(Protocol):
    """Memberships of rooms, and the servers in them (`storage.rooms.memberships`)."""

    async def of_user(self, user_id: str) -> Sequence[UserMembershipRow]: ...

    async def of_user_in(self, user_id: str, room_id: str) -> OutsideMembershipRow | None: ...

    async def of_users(self, user_ids: Sequence[str], membership: str) -> Sequence[UserRoomRow]: ...

    async def sharing(self, user_id: str, among: Sequence[str]) -> Sequence[str]: ...

    async def forget(self, user_id: str, room_id: str) -> None: ...

    async def import_members(self, rows: Sequence[MembershipRow]) -> None: ...

    async def servers_sharing(self, user_id: str, own: str) -> Sequence[str]: ...

    async def servers_shown(
        self, room_id: str, user_id: str, own: str, *, position: int
    ) -> Sequence[str]: ...

    async def server_first_joined(self, room_row_id: int, server: str) -> int | None: ...


class TransactionStore(Protocol):
    """Clients' transaction IDs (`storage.timeline.transactions`)."""

    async def of_device(
        self, user_id: str, device_id: str, limit: int
    ) -> Sequence[TransactionRow]: ...

    async def find(self, user_id: str, device_id: str, key: bytes) -> TransactionRow | None: ...

    async def forget_old(self, days: int) -> None: ...


class OwedTables(Protocol):
    """Data owed to other servers (`storage.federation.owed`)."""

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

    async def lagging(self, own: str) -> tuple[Mapping[str, int], Sequence[str]]: ...

    async def forget_edus(self, destination: str, up_to: int) -> None: ...


class ErasureStore(Protocol):
    """Users who asked for erasure (`storage.accounts.accounts`)."""

    async def load_erased(self) -> Mapping[UserId, int]:
        """Returns the users, with the log's position at the erasure."""


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

    async def any_placed(self, rows: Sequence[tuple[int, int, bool]]) -> bool:
        """Returns whether one of these events (room_row_id, event_row_id, unverified) has a place;
        called after `settled_position`."""

    async def disconnect(self) -> None: ...


class EngineStore(Protocol):
    """All stores."""

    @property
    def events(self) -> EventTables: ...

    @property
    def history(self) -> HistoryStore: ...

    @property
    def gaps(self) -> GapStore: ...

    @property
    def redactions(self) -> PendingRedactionStore: ...

    @property
    def rechecks(self) -> RecheckStore: ...

    @property
    def rooms(self) -> RoomTables: ...

    @property
    def snapshots(self) -> SnapshotStore: ...

    @property
    def state_changes(self) -> StateChangeStore: ...

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
