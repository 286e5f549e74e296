"""The engine's store in memory (`homeserver.engine.store`): the same answers as PostgreSQL's, which
`test_memory_store` holds it to. `pause` is awaited before and after each look, so that tasks
interleave and a crash can fall on either side of a commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import orjson

from federation.events.ids import EventId, UserId
from homeserver.storage.batches import Writing
from homeserver.storage.commits import EMPTY_COLUMNS
from homeserver.storage.database import DataRefused
from homeserver.storage.federation.owed import OwedRows
from homeserver.storage.logs import Epoch, OwnedLog
from homeserver.storage.rooms.memberships import (
    MembershipRow,
    OutsideMembershipRow,
    UserMembershipRow,
    UserRoomRow,
)
from homeserver.storage.rooms.rooms import RoomRow
from homeserver.storage.rooms.snapshots import SnapshotLink
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeRow
from homeserver.storage.rooms.withdrawals import OwedEventRow
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
from tests.simulation.memory_tables import Fields, Tables

Order = tuple[int, int]
_OUT = ("leave", "ban")
Pause = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """No pause."""


R = TypeVar("R", bound=msgspec.Struct)


def _row(kind: type[R], fields: Fields) -> R:
    """The columns of a kind of row."""
    return kind(*(fields[name] for name in kind.__struct_fields__))


class MemoryEvents:
    """`EventTables`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def by_id(self, event_ids: Collection[str]) -> Sequence[RoomEventRow]:
        await self._pause()
        tables = self._tables
        found = [tables.events[one] for one in dict.fromkeys(event_ids) if one in tables.events]
        return [_row(RoomEventRow, _with_room(tables, event)) for event in found]

    async def raw_by_id(self, event_ids: Collection[str]) -> Mapping[EventId, bytes]:
        return {row.event_id: row.json for row in await self.by_id(event_ids)}

    async def refs(self, events: Collection[tuple[int, int]]) -> Sequence[EventRefRow]:
        await self._pause()
        by_row_id = self._tables.by_row_id
        return [
            _row(EventRefRow, by_row_id[one]) for one in sorted(set(events)) if one in by_row_id
        ]

    async def refs_by_id(self, event_ids: Collection[str]) -> Sequence[EventRefRow]:
        await self._pause()
        events = self._tables.events
        return [_row(EventRefRow, events[one]) for one in dict.fromkeys(event_ids) if one in events]

    async def snapshot_before(self, room_row_id: int, event_id: str) -> int | None:
        return await self._snapshot(room_row_id, event_id, "snapshot_before")

    async def snapshot_after(self, room_row_id: int, event_id: str) -> int | None:
        return await self._snapshot(room_row_id, event_id, "snapshot_after")

    async def _snapshot(self, room_row_id: int, event_id: str, column: str) -> int | None:
        await self._pause()
        event = self._tables.events.get(event_id)
        if event is None or event["outlier"] or event["room_row_id"] != room_row_id:
            return None
        row_id: int | None = event[column]
        return row_id

    async def snapshots_around(
        self, room_row_id: int, event_ids: Collection[str]
    ) -> Sequence[SnapshotsAroundRow]:
        await self._pause()
        found = [self._tables.events[one] for one in event_ids if one in self._tables.events]
        return [
            _row(SnapshotsAroundRow, one)
            for one in found
            if one["room_row_id"] == room_row_id and not one["outlier"]
        ]

    def _live(self, room_row_id: int) -> list[Fields]:
        """Live events, newest first."""
        return sorted(
            (one for one in _placed(self._tables, room_row_id) if one["gap_index"] == 0),
            key=lambda one: -one["live_index"],
        )

    async def newest(
        self, room_row_id: int, *, after: int, up_to: int, limit: int
    ) -> Sequence[StoredEventRow]:
        await self._pause()
        found = [one for one in self._live(room_row_id) if _within(one["position"], after, up_to)]
        return [_row(StoredEventRow, one) for one in found[:limit]]

    async def before(self, room_row_id: int, order: Order, limit: int) -> Sequence[StoredEventRow]:
        await self._pause()
        found = [
            one
            for one in _placed(self._tables, room_row_id)
            if (one["live_index"], one["gap_index"]) < order
        ]
        found.sort(key=lambda one: (-one["live_index"], -one["gap_index"]))
        return [_row(StoredEventRow, one) for one in found[:limit]]

    async def behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[StoredEventRow]:
        await self._pause()
        found = [
            one
            for one in _placed(self._tables, room_row_id)
            if (one["live_index"], one["gap_index"]) > order
        ]
        found.sort(key=lambda one: (one["live_index"], one["gap_index"]))
        return [_row(StoredEventRow, one) for one in found[:limit]]

    async def order_at(self, room_row_id: int, position: int) -> Order | None:
        await self._pause()
        for one in self._live(room_row_id):
            if _within(one["position"], -1, position):
                return (one["live_index"], one["gap_index"])
        return None

    async def first_depth(self, room_row_id: int) -> int:
        await self._pause()
        live = self._live(room_row_id)
        depth: int = orjson.loads(live[-1]["json"])["depth"] if live else 0
        return depth

    async def state_events(
        self, room_row_id: int, *, after: int, limit: int
    ) -> Sequence[EventJsonRow]:
        await self._pause()
        found = [
            _row(EventJsonRow, one)
            for one in self._tables.events.values()
            if one["room_row_id"] == room_row_id
            and one["event_row_id"] > after
            and one["state_key"] is not None
        ]
        return sorted(found, key=lambda one: one.event_row_id)[:limit]

    async def with_place(
        self, room_row_id: int, *, after: int, limit: int
    ) -> Sequence[EventJsonRow]:
        await self._pause()
        found = [
            _row(EventJsonRow, one)
            for (row_id, number), one in self._tables.by_row_id.items()
            if row_id == room_row_id and number > after and not one["outlier"]
        ]
        return sorted(found, key=lambda one: one.event_row_id)[:limit]

    async def heads(self, events: Sequence[tuple[int, int]]) -> Sequence[HeadRow]:
        await self._pause()
        by_row_id = self._tables.by_row_id
        return [_row(HeadRow, by_row_id[one]) for one in events if one in by_row_id]

    async def newest_of_each(
        self, room_row_ids: Sequence[int], limit: int
    ) -> Sequence[StoredEventRow]:
        await self._pause()
        return [
            _row(StoredEventRow, one)
            for room_row_id in room_row_ids
            for one in self._live(room_row_id)[:limit]
        ]

    async def lowest_gap_index(self, room_row_id: int, live_index: int) -> int:
        await self._pause()
        fills = [
            one["gap_index"]
            for one in _placed(self._tables, room_row_id)
            if one["live_index"] == live_index
        ]
        return min(fills, default=0)


class MemoryHistory:
    """`HistoryStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def store_outliers(
        self, room: tuple[int, str, str], make: Callable[[int], Iterable[EventRow]]
    ) -> int:
        await self._pause()
        room_row_id = self._tables.ensure_room(*room)
        self._tables.insert_outliers(list(make(room_row_id)))
        await self._pause()
        return room_row_id

    async def backfill(self, room_row_id: int, event_ids: Sequence[str], filled: Filled) -> None:
        await self._pause()
        tables = self._tables
        tables.check_events(filled.rows, plain=False)
        tables.insert_snapshots(filled.snapshots)
        tables.insert_events(filled.rows)
        for event_id, live_index, gap_index in filled.moved:
            row = tables.events.get(event_id)
            if row is not None and row["gap_index"] is not None and row["gap_index"] < 0:
                row.update(live_index=live_index, gap_index=gap_index)
        for one in event_ids:
            tables.gaps.pop((room_row_id, one), None)
        tables.open_gaps([(room_row_id, *one) for one in filled.gaps])
        tables.apply_redactions(filled.redacted, filled.awaited)
        tables.apply_rechecks(filled.rechecks)
        await self._pause()


def _placed(tables: Tables, room_row_id: int) -> Iterable[Fields]:
    events = tables.events.values()
    return [
        one for one in events if one["room_row_id"] == room_row_id and one["live_index"] is not None
    ]


def _within(position: int | None, after: int, up_to: int) -> bool:
    return position is not None and after < position <= up_to


def _with_room(tables: Tables, event: Fields) -> Fields:
    room = tables.room_of(event["room_row_id"])
    return {**event, "room_id": room["room_id"], "version": room["version"]}


class MemoryGaps:
    """`GapStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    def _of(self, room_row_id: int) -> list[GapRow]:
        """Those of a room, in room order."""
        found = [
            GapRow(EventId(missing), *place)
            for (row_id, missing), place in self._tables.gaps.items()
            if row_id == room_row_id
        ]
        return sorted(found, key=lambda gap: (gap.order, gap.missing))

    async def of_rooms(self, room_row_ids: Sequence[int]) -> Sequence[MissingEventRow]:
        await self._pause()
        return [
            MissingEventRow(row_id, EventId(missing))
            for row_id, missing in self._tables.gaps
            if row_id in room_row_ids
        ]

    async def before(self, room_row_id: int, order: Order, limit: int) -> Sequence[GapRow]:
        await self._pause()
        return [gap for gap in reversed(self._of(room_row_id)) if gap.order <= order][:limit]

    async def behind(self, room_row_id: int, order: Order, limit: int) -> Sequence[GapRow]:
        await self._pause()
        return [gap for gap in self._of(room_row_id) if gap.order >= order][:limit]

    async def left_by(self, room_row_id: int, missing: Sequence[str]) -> Sequence[GapRow]:
        await self._pause()
        return [gap for gap in reversed(self._of(room_row_id)) if gap.missing in missing]


class MemoryRedactions:
    """`PendingRedactionStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    def _of(self, room_row_id: int) -> list[PendingRedactionRow]:
        waiting = sorted(one for one in self._tables.awaited if one[0] == room_row_id)
        return [
            PendingRedactionRow(row_id, EventId(target), EventId(redaction))
            for row_id, target, redaction in waiting
        ]

    async def of_rooms(
        self, room_row_ids: Sequence[int], limit: int
    ) -> Sequence[PendingRedactionRow]:
        await self._pause()
        return [one for row_id in room_row_ids for one in self._of(row_id)[:limit]]

    async def waiting_for(self, room_row_id: int, target: str) -> Sequence[EventId]:
        await self._pause()
        return [one.redaction for one in self._of(room_row_id) if one.target == target]


class MemoryRooms:
    """`RoomTables`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def by_room_ids(self, room_ids: Sequence[str]) -> Sequence[RoomRow]:
        await self._pause()
        tables = self._tables
        rooms = [tables.rooms[one] for one in dict.fromkeys(room_ids) if one in tables.rooms]
        return [
            _row(RoomRow, {**room, **heads, "has_relations": False})
            for room in rooms
            if (heads := tables.heads.get(room["room_row_id"])) is not None
        ]


class MemorySnapshots:
    """`SnapshotStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def chains(self, snapshots: Sequence[tuple[int, int]]) -> Sequence[SnapshotLink]:
        await self._pause()
        links = []
        for room_row_id, tip in snapshots:
            row_id: int | None = tip
            while row_id is not None and (room_row_id, row_id) in self._tables.snapshots:
                link = self._tables.snapshots[room_row_id, row_id]
                row_id = link["base_row_id"]
                links.append(_row(SnapshotLink, {"tip": tip, **link}))
        return sorted(links, key=lambda link: (link.tip, link.ordinal))


class MemoryStateChanges:
    """`StateChangeStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def between(
        self, room_row_id: int, *, after: int, up_to: int
    ) -> Sequence[StateChangeRow]:
        await self._pause()
        return [
            row
            for key, row in sorted(self._tables.changes.items())
            if key[0] == room_row_id and after < key[1] <= up_to
        ]

    async def _of_user(self, room_row_id: int, user_id: str) -> list[StateChangeRow]:
        """The changes of a user's membership, in order."""
        await self._pause()
        return [
            row
            for key, row in sorted(self._tables.changes.items())
            if key[0] == room_row_id and (row.type, row.state_key) == ("m.room.member", user_id)
        ]

    async def end_of_stay(
        self, room_row_id: int, user_id: str
    ) -> tuple[int, EventId | None] | None:
        changes = await self._of_user(room_row_id, user_id)
        ends = [row for row in changes if row.former == "join" != row.membership]
        return (ends[-1].position, ends[-1].event_id) if ends else None

    async def first_join(self, room_row_id: int, user_id: str) -> int | None:
        changes = await self._of_user(room_row_id, user_id)
        return next((row.position for row in changes if row.membership == "join"), None)

    async def resolutions(self, room_row_id: int) -> Sequence[ResolutionRow]:
        await self._pause()
        return [
            row
            for (row_id, _), row in sorted(self._tables.resolutions.items(), reverse=True)
            if row_id == room_row_id
        ]


class MemoryRechecks:
    """`RecheckStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def rooms_with_work(self) -> Sequence[str]:
        await self._pause()
        row_ids = sorted({row_id for row_id, _ in self._tables.rechecks_due})
        return [self._tables.room_of(row_id)["room_id"] for row_id in row_ids]

    async def due(self, room_row_id: int, limit: int) -> Sequence[DueRow]:
        await self._pause()
        by_row_id = self._tables.by_row_id
        due = [key for key in self._tables.rechecks_due if key[0] == room_row_id]
        found = [by_row_id[key] for key in due if key in by_row_id]
        found.sort(key=_room_order)
        next_ones = {one["event_row_id"]: one for one in found[:limit]}
        for one in (work := list(next_ones.values())):
            for row_id, parent, number in self._tables.unverified_parents:
                key = (row_id, number)
                is_child = row_id == room_row_id and parent == one["event_id"] and key in by_row_id
                if is_child and number not in next_ones:
                    work.append(next_ones.setdefault(number, by_row_id[key]))
        return [_row(DueRow, one) for one in work[:limit]]

    async def awaited(self, room_row_ids: Sequence[int]) -> Sequence[MissingParentRow]:
        await self._pause()
        edges = self._tables.unverified_parents
        found = {
            key[:2]: None for key, missing in edges.items() if missing and key[0] in room_row_ids
        }
        return [MissingParentRow(row_id, EventId(parent)) for row_id, parent in found]


def _room_order(event: Fields) -> tuple[object, ...]:
    """As PostgreSQL sorts: what has no place comes last."""
    if event["live_index"] is None:
        return (1, 0, 0, event["event_row_id"])
    return (0, event["live_index"], event["gap_index"], event["event_row_id"])


class MemoryMemberships:
    """`MembershipStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def of_user(self, user_id: str) -> Sequence[UserMembershipRow]:
        await self._pause()
        return [
            _row(UserMembershipRow, {**row, "room_id": self._tables.room_of(row_id)["room_id"]})
            for (row_id, user), row in self._tables.members.items()
            if user == user_id
        ]

    async def of_user_in(self, user_id: str, room_id: str) -> OutsideMembershipRow | None:
        await self._pause()
        room = self._tables.rooms.get(room_id)
        row = self._tables.members.get((room["room_row_id"], user_id)) if room else None
        return None if row is None else _row(OutsideMembershipRow, row)

    async def of_users(self, user_ids: Sequence[str], membership: str) -> Sequence[UserRoomRow]:
        await self._pause()
        return [
            UserRoomRow(UserId(user), self._tables.room_of(row_id)["room_id"])
            for (row_id, user), row in self._tables.members.items()
            if user in user_ids and row["membership"] == membership
        ]

    async def sharing(self, user_id: str, among: Sequence[str]) -> Sequence[str]:
        await self._pause()
        rows = self._tables.members.items()
        mine = {k[0] for k, row in rows if k[1] == user_id and row["membership"] == "join"}
        there = [k for k, row in rows if row["membership"] in ("join", "invite")]
        return list(
            dict.fromkeys(user for row_id, user in there if row_id in mine and user in among)
        )

    async def forget(self, user_id: str, room_id: str) -> None:
        await self._pause()
        room = self._tables.rooms.get(room_id)
        row = self._tables.members.get((room["room_row_id"], user_id)) if room else None
        if row is not None and row["membership"] in ("leave", "ban"):
            row["forgotten"] = True

    async def import_members(self, rows: Sequence[MembershipRow]) -> None:
        await self._pause()
        self._tables.upsert_members(rows)

    async def servers_sharing(self, user_id: str, own: str) -> Sequence[str]:
        await self._pause()
        rooms = self._rooms_of(user_id)
        return sorted({s for s in self._servers_in(rooms) if s != own})

    async def servers_shown(
        self, room_id: str, user_id: str, own: str, *, position: int
    ) -> Sequence[str]:
        await self._pause()
        rooms = {
            row_id: place for row_id, place in self._rooms_of(user_id).items() if place < position
        }
        row_id = self._tables.rooms[room_id]["room_row_id"]
        known = self._servers_in(rooms.keys() - {row_id})
        return sorted({s for s in self._servers_in([row_id]) if s != own} - known)

    def _rooms_of(self, user_id: str) -> dict[int, int]:
        return {
            row_id: row["position"]
            for (row_id, user), row in self._tables.members.items()
            if user == user_id and row["membership"] == "join"
        }

    def _servers_in(self, rooms: Collection[int]) -> set[str]:
        found = self._tables.servers.items()
        return {server for (row_id, server, _), left in found if left is None and row_id in rooms}

    async def server_first_joined(self, room_row_id: int, server: str) -> int | None:
        await self._pause()
        found = [key[2] for key in self._tables.servers if key[:2] == (room_row_id, server)]
        return min(found, default=None)


class MemoryTransactions:
    """`TransactionStore`."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def of_device(self, user_id: str, device_id: str, limit: int) -> Sequence[TransactionRow]:
        await self._pause()
        found = [
            row for key, row in self._tables.transactions.items() if key[:2] == (user_id, device_id)
        ]
        return sorted(found, key=lambda row: -row.position)[:limit]

    async def forget_old(self, days: int) -> None:
        """There is no wall clock here: they stay."""

    async def find(self, user_id: str, device_id: str, key: bytes) -> TransactionRow | None:
        await self._pause()
        return self._tables.transactions.get((user_id, device_id, key))


class MemoryOwed:
    """`OwedTables`; there are no device lists here."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    def _sendable(self, destination: str, row_id: int, after: int) -> list[Fields]:
        """Our live events of a room that come after a position, oldest first."""
        found = [
            one
            for one in _placed(self._tables, row_id)
            if one["gap_index"] == 0
            and _within(one["position"], after, 2**62)
            and one["to_federate"]
            and not one["sender"].endswith(":" + destination)
        ]
        return sorted(found, key=lambda one: one["position"])

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
        await self._pause()
        events: dict[tuple[int, int], OwedEventRow] = {}
        for (row_id, server, joined), left in self._tables.servers.items():
            if server != destination or row_id not in self._tables.heads:
                continue
            for place, one in self._owed_of(destination, row_id, (joined, left), after, latest):
                events[place, one["event_row_id"]] = OwedEventRow(place, one["json"])
        for server, event in self._withdrawals():
            if server == destination and event["position"] > after:
                place = event["position"]
                events[place, event["event_row_id"]] = OwedEventRow(place, event["json"])
        edus = sorted(
            (position, edu)
            for (server, position), edu in self._tables.edus.items()
            if server == destination and after < position <= up_to
        )
        last = sorted(events)[:limit][-1][0] if events else 0
        cut = [events[key] for key in sorted(events) if key[0] <= last]
        return OwedRows(cut, edus[:limit], [])

    def _owed_of(
        self, destination: str, row_id: int, stay: tuple[int, int | None], after: int, latest: bool
    ) -> Iterable[tuple[int, Fields]]:
        """(position, event) of one stay of a server in a room."""
        (joined, left), heads = stay, self._tables.heads[row_id]["heads"]
        for one in self._sendable(destination, row_id, -1):
            is_beside = one["event_row_id"] in heads and one["position"] < joined
            if is_beside and joined > after and left is None:
                yield joined, one
        if self._tables.heads[row_id]["position"] <= after:
            return
        found = [
            one
            for one in self._sendable(destination, row_id, after)
            if one["position"] >= joined and (left is None or one["position"] <= left)
        ]
        newest = max((one["live_index"] for one in found), default=0)
        for one in found:
            if not latest or one["live_index"] == newest or one["event_row_id"] in heads:
                yield one["position"], one

    def _withdrawals(self) -> Sequence[tuple[str, Fields]]:
        """As `storage.outside.withdrawals`: servers, and the events that concern them."""
        found = []
        for (_, position, kind, key), change in self._tables.changes.items():
            event = self._tables.events.get(change.event_id or "")
            server = key.partition(":")[2]
            is_end = change.former in ("invite", "knock") and change.membership in _OUT
            if (
                kind != "m.room.member"
                or not is_end
                or event is None
                or event["live_index"] is None
            ):
                continue
            is_theirs = event["sender"].endswith(":" + server)
            is_sent = (
                event["to_federate"] and event["gap_index"] == 0 and event["position"] == position
            )
            if is_sent and not is_theirs:
                found.append((server, event))
        return found

    async def lagging(self, own: str) -> tuple[Mapping[str, int], Sequence[str]]:
        await self._pause()
        newest: dict[str, int] = {}
        for (row_id, server, _), left in self._tables.servers.items():
            heads = self._tables.heads.get(row_id)
            if server != own and heads is not None:
                position = min(left if left is not None else heads["position"], heads["position"])
                newest[server] = max(newest.get(server, position), position)
        for server, event in self._withdrawals():
            if server != own:
                newest[server] = max(newest.get(server, 0), event["position"])
        return newest, sorted({server for server, _ in self._tables.edus})

    async def forget_edus(self, destination: str, up_to: int) -> None:
        await self._pause()
        for key in [one for one in self._tables.edus if one[0] == destination and one[1] <= up_to]:
            del self._tables.edus[key]


class MemoryErasures:
    """`ErasureStore`, where nobody has an account."""

    async def load_erased(self) -> Mapping[UserId, int]:
        return {}


class MemoryLog:
    """`LogStore`. A write is in, whole, between its two pauses."""

    def __init__(self, tables: Tables, pause: Pause) -> None:
        self._tables, self._pause = tables, pause

    async def take_over(self, new_history: str) -> OwnedLog:
        await self._pause()
        tables = self._tables
        tables.epoch += 1
        tables.epochs.append(Epoch(new_history, tables.position))
        return OwnedLog(tables.epoch, tables.position, list(tables.epochs))

    async def take_row_ids(self) -> range:
        await self._pause()
        return self._tables.take_row_ids()

    async def load_epoch(self) -> int:
        await self._pause()
        return self._tables.epoch

    async def write(self, batch: Writing, epoch: int) -> bool:
        if batch.has_work:
            raise DataRefused("units' own rows need SQL")
        await self._pause()
        plain = batch.is_plain
        rows = batch.rows(epoch)
        tables = self._tables
        if plain:
            batch.sent = True
        if (tables.epoch, tables.position) != (epoch, rows.old):
            return False
        if plain:
            for row in rows.events:
                assert all(getattr(row, name) is None for name in EMPTY_COLUMNS), row
        tables.check(rows, plain=plain)
        batch.sent = True
        tables.apply(rows, plain=plain)
        await self._pause()
        return True

    async def abandon(self) -> int:
        return 0

    async def settled_position(self, epoch: int, lost: int) -> int | None:
        await self._pause()
        return self._tables.position if self._tables.epoch == epoch else None

    async def any_placed(self, rows: Sequence[tuple[int, int, bool]]) -> bool:
        await self._pause()
        found = [
            (self._tables.by_row_id.get((room, row_id)), unverified)
            for room, row_id, unverified in rows
        ]
        return any(
            row is not None and not row["outlier"] and row["unverified"] == unverified
            for row, unverified in found
        )

    async def disconnect(self) -> None:
        """There is no connection."""


class MemoryStore:
    """`EngineStore` over tables that outlive it."""

    def __init__(self, tables: Tables, pause: Pause = at_once) -> None:
        self.events = MemoryEvents(tables, pause)
        self.history = MemoryHistory(tables, pause)
        self.gaps = MemoryGaps(tables, pause)
        self.redactions = MemoryRedactions(tables, pause)
        self.rechecks = MemoryRechecks(tables, pause)
        self.rooms = MemoryRooms(tables, pause)
        self.snapshots = MemorySnapshots(tables, pause)
        self.state_changes = MemoryStateChanges(tables, pause)
        self.memberships = MemoryMemberships(tables, pause)
        self.transactions = MemoryTransactions(tables, pause)
        self.owed = MemoryOwed(tables, pause)
        self.erasures = MemoryErasures()
        self.log = MemoryLog(tables, pause)
