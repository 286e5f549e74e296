"""The store in memory answers as PostgreSQL's does: the same random operations on both, and all
reads compared after each.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from federation.events.ids import EventId
from homeserver import limits
from homeserver.engine.store import EngineStore
from homeserver.storage.batches import (
    CommitRows,
    ImportedMemberRows,
    KnownMember,
    LogRows,
)
from homeserver.storage.commits import EMPTY_COLUMNS
from homeserver.storage.database import (
    Connection,
    Database,
    DatabaseUnavailable,
    DataRefused,
    translated,
)
from homeserver.storage.migrate import migrate
from homeserver.storage.postgres_store import PostgresStore
from homeserver.storage.rooms.memberships import MembershipRow
from homeserver.storage.rooms.snapshots import SnapshotRow
from homeserver.storage.rooms.state_changes import ResolutionRow, StateChangeRow
from homeserver.storage.timeline.events import EventRow, StoredVerdict
from homeserver.storage.timeline.fetched_history import Filled
from homeserver.storage.timeline.rechecks import RecheckRows
from homeserver.storage.timeline.redactions import RedactedRow
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables

ROOMS = {"!a": 11, "!b": 12, "!c": 13}
EVENTS = [EventId(f"${i}") for i in range(24)]
USERS = ["@u:one", "@v:one", "@w:two", "@x:three"]
SERVERS = ["one", "two", "three"]
OPERATIONS = 50
MESSAGE: dict[str, None] = dict.fromkeys(EMPTY_COLUMNS)


@dataclass
class Batch:
    """A batch that is given as rows."""

    commit: CommitRows
    is_plain: bool
    has_work: bool = False
    sent: bool = False

    async def run_work(self, connection: Connection) -> None:
        raise AssertionError("there is none")

    def rows(self, epoch: int) -> CommitRows:
        self.commit.epoch = epoch
        return self.commit


@dataclass
class Script:
    """Makes random operations; remembers only what keeps them sensible."""

    rng: random.Random
    epoch: int = 0
    position: int = 0
    row_id: int = 100
    order: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROOMS, 0))

    def next_row_id(self) -> int:
        self.row_id += 1
        return self.row_id

    def event(self, room: str, *, position: int | None, outlier: bool, message: bool) -> EventRow:
        rng = self.rng
        live_index = None
        if position is not None:
            # of all rooms: an event may come with another room's number, and keeps its own room
            live_index = self.order[room] = 1 + max(self.order.values())
        sender = rng.choice(USERS)
        row_id = self.next_row_id() if rng.random() < 0.97 else rng.randrange(100, self.row_id + 1)
        return EventRow(
            ROOMS[room],
            row_id,
            rng.choice(EVENTS),
            "m.room.message" if message else rng.choice(["m.room.member", "m.room.name"]),
            None if message else rng.choice(["", *USERS]),
            sender,
            rng.choice([None, "join", "leave"]),
            position,
            live_index,
            None if live_index is None else 0,
            rng.choice(list(StoredVerdict)),
            rng.choice([None, "why"]),
            rng.choice([None, "rule"]),
            outlier,
            rng.random() < 0.3,
            rng.random() < 0.7,
            None if outlier else self.row_id,
            None if outlier else self.row_id,
            rng.choice([None, *EVENTS]),
            None,
            rng.choice([None, "DEV\nt"]),
            rng.randbytes(8),
        )

    def batch(self) -> Batch:
        rng, room = self.rng, self.rng.choice(list(ROOMS))
        is_plain = rng.random() < 0.4
        old = self.position if rng.random() < 0.9 else self.position + rng.choice([-1, 1])
        count = rng.randrange(1, 4)
        placed = [old + 1 + i for i in range(count)]
        rows = CommitRows(0, old, old + count)
        rows.events = [
            self.event(
                room,
                position=position if is_plain or rng.random() < 0.8 else None,
                outlier=False,
                message=is_plain,
            )
            for position in placed
        ]
        if is_plain:
            rows.events = [msgspec.structs.replace(row, **MESSAGE) for row in rows.events]
        rows.heads = [
            (ROOMS[room], [rows.events[-1].event_row_id], self.row_id, old + 9, old + count)
        ]
        rows.sent = [
            (rng.choice(USERS), "DEV", rng.randbytes(1), row.event_id, placed[0])
            for row in rows.events[:1]
        ]
        if not is_plain:
            rows.rooms = [(ROOMS[room], room, "12")]
            numbers = [row.event_row_id for row in rows.events]
            rows.heads[0] = (ROOMS[room], numbers, *rows.heads[0][2:])
            self._add_state(rows, room, placed)
            self._add_rest(rows, room, placed)
        return Batch(rows, is_plain)

    def _add_state(self, rows: CommitRows, room: str, placed: Sequence[int]) -> None:
        rng, row_id = self.rng, ROOMS[room]
        base: int | None = None
        for ordinal in range(rng.randrange(3)):
            snapshot = self.next_row_id()
            added = [row.event_row_id for row in rows.events]
            rows.snapshots.append(SnapshotRow(row_id, snapshot, base, ordinal, added, [row_id]))
            base = snapshot
        for position in placed:
            user, server = rng.choice(USERS), rng.choice(SERVERS)
            membership = rng.choice(["join", "leave", "ban"])
            rows.changes.append(
                StateChangeRow(
                    row_id,
                    position,
                    "m.room.member",
                    user,
                    rng.choice([None, *EVENTS]),
                    membership,
                    rng.choice([None, "join", "invite"]),
                )
            )
            rows.members.append(MembershipRow(row_id, user, membership, "$e", user, position))
            if position % 2:
                branches = [EVENTS[position % 24], EVENTS[position * 7 % 24]]
                rows.resolutions.append(
                    ResolutionRow(row_id, position, branches[0], 1_000, 5, 6, branches, [7, 8])
                )
            if rng.random() < 0.3:
                rows.servers_left.append((row_id, server, position))
            elif rng.random() < 0.5:
                rows.servers_joined.append((row_id, server, position))

    def _add_rest(self, rows: CommitRows, room: str, placed: Sequence[int]) -> None:
        rng, row_id = self.rng, ROOMS[room]
        if rng.random() < 0.2:
            member = MembershipRow(row_id, rng.choice(USERS), "join", "$j", "@u:one", rows.old)
            servers = rng.sample(SERVERS, 2)
            rows.imported = [ImportedMemberRows(row_id, [member], servers, rows.old + 1)]
        if rng.random() < 0.3:
            rows.redacted = [RedactedRow(row_id, rng.choice(EVENTS), b"{}", rng.choice(EVENTS))]
        if rng.random() < 0.3:
            rows.awaited = [(row_id, rng.choice(EVENTS), rng.choice(EVENTS))]
        if rng.random() < 0.5:
            rows.gaps = [(row_id, rng.choice(EVENTS), self.order[room] or 1, 0)]
        if rng.random() < 0.6:
            rows.rechecks = self.rechecks(row_id)
        if rng.random() < 0.3:
            edu = SimpleNamespace(destination=rng.choice(SERVERS), edu=b'{"e":1}')
            rows.log = LogRows(remote_edus=[(placed[-1], edu)])
        if rng.random() < 0.3:
            rows.log.memberships = [
                KnownMember(
                    rng.choice(["!a", "!far"]),
                    rng.choice(USERS),
                    "invite",
                    "$i",
                    "@w:two",
                    placed[-1],
                    b"[]",
                    b"{}",
                    rng.choice(["", "11"]),
                )
            ]

    def rechecks(self, row_id: int) -> RecheckRows:
        """Changes of what is to be verified."""
        rng = self.rng

        def number() -> int:
            return rng.randrange(100, self.row_id + 1)

        return RecheckRows(
            opened=[
                (row_id, rng.choice(EVENTS), number(), rng.random() < 0.5)
                for _ in range(rng.randrange(3))
            ],
            not_due=[(row_id, number())],
            marked=[(row_id, number())] if rng.random() < 0.3 else [],
            verified=[(row_id, number(), rng.choice(EVENTS))] if rng.random() < 0.5 else [],
            placed=[(row_id, rng.choice(EVENTS))] if rng.random() < 0.5 else [],
            due=[(row_id, number())] if rng.random() < 0.5 else [],
        )


Operation = Callable[[EngineStore], Awaitable[object]]


def random_operation(script: Script) -> Operation:
    """One operation, the same for any store."""
    rng, kind = script.rng, script.rng.random()
    if kind < 0.6:
        commit = script.batch()
        epoch = script.epoch if rng.random() < 0.95 else script.epoch - 1

        async def write(store: EngineStore) -> object:
            batch = Batch(commit.commit, commit.is_plain)
            moved = await store.log.write(batch, epoch)
            return moved, batch.sent

        return write
    if kind < 0.8:
        room = rng.choice(list(ROOMS))
        rows = [
            script.event(room, position=None, outlier=True, message=rng.random() < 0.5)
            for _ in range(rng.randrange(4))
        ]
        return lambda store: store.history.store_outliers((ROOMS[room], room, "11"), lambda _: rows)
    if kind < 0.9:
        return _backfill(script)
    if kind < 0.95:
        user, room = rng.choice(USERS), rng.choice([*ROOMS, "!far"])
        if rng.random() < 0.5:
            return lambda store: store.memberships.forget(user, room)
        member = MembershipRow(rng.choice([11, 12]), user, "join", "$b", user, script.position)
        return lambda store: store.memberships.import_members([member])
    return lambda store: store.log.take_over("history")


def _backfill(script: Script) -> Operation:
    rng, room = script.rng, script.rng.choice(list(ROOMS))
    ids = rng.sample(EVENTS, 4)
    made = [
        msgspec.structs.replace(
            script.event(room, position=None, outlier=False, message=True), event_id=event_id
        )
        for event_id in ids
    ]
    snapshot = SnapshotRow(ROOMS[room], script.next_row_id(), None, 0, [], [])
    missing, rechecks = rng.choice(EVENTS), script.rechecks(ROOMS[room])
    moving = rng.sample(EVENTS, 2)

    async def backfill(store: EngineStore) -> object:
        gaps = await store.gaps.left_by(ROOMS[room], ids)
        if not gaps:
            return None
        live_index, gap_index = gaps[-1].order
        lowest = await store.events.lowest_gap_index(ROOMS[room], live_index)
        rows = [row.at((live_index, lowest - len(made) + i)) for i, row in enumerate(made)]
        moved = [(one, live_index, lowest - 90 - i) for i, one in enumerate(moving)]
        filled = Filled(rows, [snapshot], [(missing, live_index, gap_index)], rechecks, moved=moved)
        await store.history.backfill(ROOMS[room], ids, filled)
        return list(gaps)

    return backfill


async def outcome(operation: Operation, store: EngineStore) -> object:
    """The result, or the kind of the refusal."""
    try:
        return await operation(store)
    except Exception as error:
        ours = translated(error) or error
        if not isinstance(ours, DataRefused | DatabaseUnavailable):
            raise
        return type(ours)


def sorted_rows(rows: Iterable[msgspec.Struct], *names: str) -> list[msgspec.Struct]:
    """Rows in an order of their own (for reads that give none)."""
    return sorted(rows, key=lambda row: [getattr(row, name) for name in names])


async def everything(store: EngineStore) -> dict[str, Any]:
    """All reads."""
    seen: dict[str, Any] = {
        "by_id": sorted_rows(await store.events.by_id(EVENTS), "event_id"),
        "raw_by_id": await store.events.raw_by_id(EVENTS),
        "refs_by_id": sorted_rows(await store.events.refs_by_id(EVENTS), "event_id"),
        "rooms": sorted_rows(await store.rooms.by_room_ids([*ROOMS, "!far"]), "room_id"),
        "newest": sorted_rows(
            await store.events.newest_of_each([11, 12, 13], 3), "room_row_id", "live_index"
        ),
        "awaited": sorted_rows(
            await store.redactions.of_rooms([11, 12], 50), "target", "redaction"
        ),
        "some awaited": sorted_rows(
            await store.redactions.of_rooms([11, 12], 2), "target", "redaction"
        ),
        "waiting": [await store.redactions.waiting_for(11, one) for one in EVENTS],
        "missing": sorted_rows(await store.gaps.of_rooms([11, 13]), "room_row_id", "missing"),
        "lagging": [
            (await store.owed.lagging("one"))[0],
            sorted((await store.owed.lagging("one"))[1]),
        ],
        "joined": sorted_rows(
            await store.memberships.of_users(USERS, "join"), "user_id", "room_id"
        ),
        "epoch": await store.log.load_epoch(),
    }
    seen["rooms with work"] = list(await store.rechecks.rooms_with_work())
    seen["unverified"] = sorted_rows(
        await store.rechecks.awaited([11, 12]), "room_row_id", "parent"
    )
    for event in EVENTS:
        for row_id in (11, 12):
            seen[f"before {event} {row_id}"] = await store.events.snapshot_before(row_id, event)
            seen[f"after {event} {row_id}"] = await store.events.snapshot_after(row_id, event)
    for room, row_id in ROOMS.items():
        seen.update(await _room_reads(store, room, row_id))
    for user in USERS:
        seen[f"rooms of {user}"] = sorted_rows(await store.memberships.of_user(user), "room_id")
        seen[f"servers of {user}"] = sorted(await store.memberships.servers_sharing(user, "far"))
        seen[f"shown {user}"] = [
            sorted(set(await store.memberships.servers_shown(room, user, "far", position=9)))
            for room in ROOMS
        ]
        seen[f"sharing {user}"] = sorted(await store.memberships.sharing(user, USERS))
        for room in (*ROOMS, "!far"):
            seen[f"{user} in {room}"] = await store.memberships.of_user_in(user, room)
        found = await store.transactions.of_device(user, "DEV", 5)
        seen[f"transactions {user}"] = [row.position for row in found]
        for row in found:
            stored = await store.transactions.find(user, "DEV", row.key)
            seen[f"transaction {user} {row.key!r}"] = stored
    for server in SERVERS:
        for latest in (False, True):
            owed = await store.owed.owed(server, "far", after=2, up_to=30, limit=6, latest=latest)
            seen[f"owed {server} {latest}"] = (
                sorted_rows(owed.events, "position", "json"),
                list(owed.edus),
                list(owed.device_changes),
                list(owed.joins),
            )
    return seen


async def _room_reads(store: EngineStore, room: str, row_id: int) -> dict[str, Any]:
    pages = {
        "newest": await store.events.newest(row_id, after=2, up_to=20, limit=5),
        "before": await store.events.before(row_id, (5, 0), 4),
        "behind": await store.events.behind(row_id, (2, -3), 4),
    }
    seen: dict[str, Any] = {
        f"{name} {room}": [(row.event_id, row.live_index, row.gap_index) for row in rows]
        for name, rows in pages.items()
    }
    found = await store.events.state_events(row_id, after=110, limit=5)
    seen[f"state events {room}"] = found
    seen[f"order {room}"] = await store.events.order_at(row_id, 7)
    resolutions = await store.state_changes.resolutions(row_id)
    seen[f"resolutions {room}"] = resolutions
    changes = await store.state_changes.between(row_id, after=1, up_to=25)
    for user in USERS:
        seen[f"stay of {user} {room}"] = (
            await store.state_changes.first_join(row_id, user),
            await store.state_changes.end_of_stay(row_id, user),
        )
    for server in SERVERS:
        seen[f"{server} came to {room}"] = await store.memberships.server_first_joined(
            row_id, server
        )
    seen[f"around {room}"] = sorted_rows(
        await store.events.snapshots_around(row_id, EVENTS), "event_id"
    )
    seen[f"changes {room}"] = sorted_rows(changes, "position", "type", "state_key")
    gaps = await store.gaps.before(row_id, (50, 0), 100)
    seen[f"gaps {room}"] = sorted_rows(gaps, "live_index", "gap_index", "missing")
    for limit in (1, 2, 100):
        gaps = await store.gaps.behind(row_id, (3, -2), limit)
        seen[f"gaps behind {room} {limit}"] = [(row.live_index, row.gap_index) for row in gaps]
    seen[f"due {room}"] = sorted_rows(await store.rechecks.due(row_id, 100), "event_row_id")
    seen[f"with place {room}"] = await store.events.with_place(row_id, after=110, limit=9)
    wanted = [(row_id, number) for number in range(100, 220)]
    seen[f"any placed {room}"] = [
        await store.log.any_placed([(*one, unverified)])
        for one in wanted
        for unverified in (True, False)
    ]
    seen[f"refs {room}"] = sorted_rows(await store.events.refs(wanted), "event_row_id")
    seen[f"heads {room}"] = sorted_rows(await store.events.heads(wanted), "event_row_id")
    chains = await store.snapshots.chains(wanted)
    seen[f"chains {room}"] = sorted_rows(chains, "tip", "ordinal")
    return seen


async def _empty(database: Database) -> None:
    async with database.connection() as connection:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename NOT IN ('migrations', 'schema_migrations')"
        )
        names = ", ".join(row[0] for row in tables)
        await connection.execute(f"TRUNCATE {names}; ALTER SEQUENCE row_ids RESTART WITH 1")


async def test_memory_answers_as_postgresql_after_any_operations(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESOLUTIONS_KEPT", 3)
    database = await Database.open(postgres_url, connections=2)
    await migrate(database)
    for seed in range(4):
        await _empty(database)
        postgres, tables = PostgresStore(database), Tables()
        memory = MemoryStore(tables)
        script = Script(random.Random(seed))
        for store in (postgres, memory):
            await store.log.take_over("history")
            for room, row_id in ROOMS.items():
                await store.history.store_outliers((row_id, room, "12"), lambda _: [])
        script.epoch = 1
        for step in range(OPERATIONS):
            operation = random_operation(script)
            results = [await outcome(operation, store) for store in (postgres, memory)]
            assert results[0] == results[1], f"seed {seed}, step {step}"
            script.epoch, script.position = tables.epoch, tables.position
            assert await everything(postgres) == await everything(memory), f"{seed}, {step}"
        await postgres.log.disconnect()
    await database.close()


async def test_memory_refuses_work_that_needs_sql() -> None:
    with pytest.raises(DataRefused):
        await MemoryStore(Tables()).log.write(Batch(CommitRows(0, 0, 0), False, has_work=True), 0)
