"""A server's engine over a store in memory, and a room's true graph beside it.

The graph is what an honest observer of all servers would see: its states and verdicts are the
oracle's (`tests.simulation.oracle`). Tests hand its events to the engine, with true or false words
for the states before them, and hold the engine's disk to the graph.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from federation.events.event import Event
from federation.events.ids import EventId, RoomId, StateKey, UserId, server_of
from federation.events.room_versions import RoomVersion
from federation.events.signatures import required_signers
from federation.graph.admission import Accepted, Rejected, SoftFailed
from federation.graph.auth.auth_rules import auth_event_keys
from federation.graph.building import Edges, EventDraft, build_event
from federation.ports import JoinedRoom
from homeserver.app.engine import Engine, make_engine
from homeserver.engine.local.policy_signer import NoPolicyServer
from homeserver.engine.recheck.rechecks import Rechecks
from homeserver.engine.rooms.room import Room
from homeserver.metrics import ServerMetrics
from homeserver.storage.database import DatabaseUnavailable
from homeserver.storage.text import unescape
from homeserver.storage.timeline.events import StoredVerdict
from tests.homeserver.engine.engine_world import (
    ALICE,
    HS1,
    KEY_1,
    KEY_2,
    V12,
    TickingClock,
    context_of,
    draft,
)
from tests.simulation.memory_store import MemoryStore
from tests.simulation.memory_tables import Tables
from tests.simulation.oracle import GraphOracle

BOB, CAROL, DAVE = (UserId(f"@{name}:hs2") for name in ("bob", "carol", "dave"))
State = Mapping[StateKey, EventId]
Verdict = Accepted | SoftFailed | Rejected


@dataclass
class Graph:
    """A room as it is."""

    version: RoomVersion = V12
    events: dict[EventId, Event] = field(default_factory=dict)
    clock: TickingClock = field(default_factory=TickingClock)
    room_id: RoomId | None = None

    @property
    def oracle(self) -> GraphOracle:
        """What the graph means."""
        return GraphOracle(self.version, self.events, required_signers)

    def begin(self, creator: UserId = BOB, *more: EventDraft) -> Event:
        """Creates a public room in which `creator` is; returns the last event."""
        last = self.add(draft("m.room.create", {"room_version": "12"}, "", sender=creator))
        for what in (
            draft("m.room.member", {"membership": "join"}, creator, sender=creator),
            draft("m.room.power_levels", {"users": {}}, "", sender=creator),
            draft("m.room.join_rules", {"join_rule": "public"}, "", sender=creator),
            *more,
        ):
            last = self.add(what, last)
        return last

    def add(self, what: EventDraft, *parents: Event, cites: State | None = None) -> Event:
        """An event on `parents`, whether it is allowed there or not; `cites`: the state whose
        events it cites, if another than that before it."""
        before = cites if cites is not None else self.before(parents)
        keys = auth_event_keys(
            what.type,
            sender=what.sender,
            state_key=what.state_key,
            content=what.content,
            version=self.version,
        )
        event = build_event(
            what,
            version=self.version,
            room_id=self.room_id,
            edges=Edges(
                [one.event_id for one in parents],
                [before[key] for key in keys if key in before],
                1 + max((one.depth for one in parents), default=0),
            ),
            now_ms=self.clock.now_ms(),
            server_name=server_of(what.sender),
            key=KEY_1 if server_of(what.sender) == HS1 else KEY_2,
        )
        self.room_id = event.room_id
        self.events[event.event_id] = event
        return event

    def before(self, parents: Sequence[Event]) -> State:
        """The state before an event on `parents`."""
        oracle = self.oracle
        states = [oracle.after(one.event_id) for one in parents]
        return oracle.resolved([one for one in states if one is not None])

    def state_before(self, event: Event) -> dict[StateKey, EventId]:
        """The state before one of its events."""
        return dict(self.oracle.before[event.event_id])

    def auth_chain(self, event_ids: Collection[EventId]) -> list[Event]:
        """All that events rest on, with themselves."""
        found: dict[EventId, Event] = {}
        work = list(event_ids)
        while work:
            event_id = work.pop()
            if event_id not in found:
                found[event_id] = self.events[event_id]
                work += found[event_id].auth_events
        return list(found.values())


@dataclass
class Here:
    """The server under test."""

    engine: Engine
    tables: Tables
    graph: Graph
    metrics: ServerMetrics

    @property
    def rechecks(self) -> Rechecks:
        """Its worker."""
        return self.engine.remote_event_writer.rechecks

    @property
    def room_id(self) -> RoomId:
        """The graph's room."""
        assert self.graph.room_id is not None, "the graph has begun"
        return self.graph.room_id

    async def room(self) -> Room:
        """The room in memory."""
        room = await self.engine.rooms.get(self.room_id)
        assert room is not None
        return room

    async def prove(self) -> None:
        """Works off all that is due."""
        await self.rechecks.drain(self.room_id)

    # What comes in

    async def join(self, user: UserId, *parents: Event, state: State | None = None) -> Event:
        """A user of ours joins by a server that tells `state`, or the truth."""
        content: dict[str, object] = {"membership": "join"}
        event = self.graph.add(draft("m.room.member", content, user, sender=user), *parents)
        told = self.graph.state_before(event) if state is None else state
        events = [self.graph.events[one] for one in told.values()]
        await self.engine.remote_event_writer.import_join(
            JoinedRoom(
                self.room_id,
                self.graph.version,
                event,
                events,
                self.graph.auth_chain([*told.values(), *event.auth_events]),
            )
        )
        return event

    async def accept(self, *events: Event) -> Verdict:
        """Hands in events whose parents are here, as the checks by what is stored say; the last
        one's verdict."""
        verdict: Verdict = Accepted()
        for event in events:
            known = self.graph.auth_chain(event.auth_events)
            await self.engine.remote_event_writer.store_outliers(known, [])
            before = await self.engine.events.state_before(event)
            assert before is not None, "its parents are here"
            room = await self.room()
            verdict = await self.engine.remote_event_writer.accept(
                event, await self._judged(event, room)
            )
        return verdict

    async def _judged(self, event: Event, room: Room) -> Verdict:
        branches = await self.engine.remote_event_writer.states_after(room, event.prev_events)
        assert branches, "its parents are here"
        await self.engine.committer.numbers.ready(5)
        resolver = self.engine.writer.stager._resolver
        before, _ = await resolver.resolve(room, branches, self.engine.committer.numbers.take)
        judged = await self.rechecks._checker.check(room, event, before.state, unstored={})
        assert judged is not None
        return judged

    async def accept_with(self, event: Event, told: State) -> Verdict:
        """Hands in an event after a gap, judged by the state that a server tells."""
        chain = self.graph.auth_chain([*told.values(), *event.auth_events])
        await self.engine.remote_event_writer.store_outliers(chain, [])
        refs = await self.engine.remote_event_writer._imports._refs(list(told.values()))
        room = await self.room()
        from immutables import Map

        judged = await self.rechecks._checker.check(room, event, Map(refs), unstored={})
        assert judged is not None
        return await self.engine.remote_event_writer.accept_with_state(event, judged, told)

    async def backfill(self, *events: Event, told: Mapping[EventId, State] | None = None) -> None:
        """Hands in fetched history, parents first; with true words for its open ends."""
        inside = {event.event_id for event in events}
        states: dict[EventId, State] = {}
        for event in events:
            if event.prev_events and not inside.issuperset(event.prev_events):
                states[event.event_id] = self.graph.state_before(event)
        states.update(told or {})
        for state in states.values():
            await self.engine.remote_event_writer.store_outliers(
                self.graph.auth_chain(state.values()), []
            )
        for event in events:
            chain = self.graph.auth_chain(event.auth_events)
            await self.engine.remote_event_writer.store_outliers(chain, [])
        await self.engine.remote_event_writer.store_backfill(events, states)

    # What is stored

    def row(self, event: Event) -> dict[str, Any]:
        """An event's row."""
        return self.tables.events[event.event_id]

    def state(self, snapshot: int) -> dict[StateKey, EventId]:
        """A stored state."""
        room_row_id = self.tables.rooms[self.room_id]["room_row_id"]
        links = []
        row_id: int | None = snapshot
        while row_id is not None:
            links.append(self.tables.snapshots[room_row_id, row_id])
            row_id = links[-1]["base_row_id"]
        state: dict[StateKey, EventId] = {}
        for link in reversed(links):
            for number in link["removed"]:
                state.pop(self._key(room_row_id, number), None)
            for number in link["added"]:
                added = self.tables.by_row_id[room_row_id, number]
                state[self._key(room_row_id, number)] = added["event_id"]
        return state

    def _key(self, room_row_id: int, number: int) -> StateKey:
        row = self.tables.by_row_id[room_row_id, number]
        return unescape(row["type"]), unescape(row["state_key"])

    @property
    def unverified(self) -> set[EventId]:
        """The events that rest on another server's word."""
        return {
            EventId(one)
            for one, row in self.tables.events.items()
            if row["unverified"] and not row["outlier"]
        }

    @property
    def heads(self) -> set[EventId]:
        """The stored heads."""
        room_row_id = self.tables.rooms[self.room_id]["room_row_id"]
        numbers = self.tables.heads[room_row_id]["heads"]
        return {self.tables.by_row_id[room_row_id, one]["event_id"] for one in numbers}

    async def check(self) -> None:
        """What is verified is as the graph says."""
        oracle = self.graph.oracle
        for event_id, row in self.tables.events.items():
            if row["outlier"] or row["unverified"] or row["room_row_id"] != self.room_row_id:
                continue
            is_rejected = event_id in oracle.rejected
            assert is_rejected == (row["verdict"] == StoredVerdict.REJECTED), (row, oracle.rejected)
            before = oracle.before[EventId(event_id)]
            assert self.state(row["snapshot_before"]) == before, row
            assert self.state(row["snapshot_after"]) == oracle.after(EventId(event_id)), row
        await self.check_memory()

    async def check_memory(self) -> None:
        """The room in memory is the one on disk."""
        room = await self.room()
        known = await self.engine.rooms.events([EventId(one) for one in self.tables.events])
        for event_id, one in known.items():
            verdict = self.tables.events[event_id]["verdict"]
            assert (one.rejected, one.soft_failed) == (
                verdict == StoredVerdict.REJECTED,
                verdict == StoredVerdict.SOFT_FAILED,
            )
        assert {head.event_id for head in room.view.heads} == self.heads
        stored = self.tables.heads[self.room_row_id]
        current = {key: ref.event_id for key, ref in room.view.state.items()}
        assert current == self.state(stored["snapshot_row_id"])
        for head in room.view.heads:
            row = self.tables.events[head.event_id]
            after = {key: ref.event_id for key, ref in head.state.items()}
            assert after == self.state(row["snapshot_after"])

    def check_current(self, *heads: Event) -> None:
        """The heads are these, and the current state is what the graph says of them."""
        assert self.heads == {head.event_id for head in heads}
        stored = self.tables.heads[self.room_row_id]
        assert self.state(stored["snapshot_row_id"]) == self.graph.before(heads)

    @property
    def room_row_id(self) -> int:
        """The room's number."""
        number: int = self.tables.rooms[self.room_id]["room_row_id"]
        return number


@asynccontextmanager
async def here(
    tables: Tables | None = None,
    graph: Graph | None = None,
    *,
    pause: Callable[[], Any] | None = None,
) -> AsyncIterator[Here]:
    """A server that runs; at the end it is gone as by `kill -9`."""
    tables = tables or Tables()
    metrics = ServerMetrics()
    store = MemoryStore(tables, pause) if pause else MemoryStore(tables)
    context = context_of(HS1, TickingClock(), metrics)
    engine = await make_engine(context, store, policies=NoPolicyServer())
    engine.fanout.follow(engine.committer)
    task = asyncio.get_running_loop().create_task(engine.committer.run())
    try:
        yield Here(engine, tables, graph or Graph(), metrics)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def room_of_bob(server: Here) -> Event:
    """BOB's room with CAROL in it, which ALICE, of this server, joined with the true state; all of
    its history is here. Returns the newest event."""
    graph = server.graph
    carol = graph.add(enter(CAROL), graph.begin())
    join = await server.join(ALICE, carol)
    history = [one for one in graph.events.values() if one is not join]
    await server.backfill(*history)
    await server.prove()
    assert server.unverified == set()
    return join


def ban(user: UserId, sender: UserId = BOB) -> EventDraft:
    """Puts somebody out for good."""
    return draft("m.room.member", {"membership": "ban"}, user, sender=sender)


def enter(user: UserId) -> EventDraft:
    """Somebody joins."""
    return draft("m.room.member", {"membership": "join"}, user, sender=user)


def topic(text: str, sender: UserId) -> EventDraft:
    """Sets the topic."""
    return draft("m.room.topic", {"topic": text}, "", sender=sender)


def unban(user: UserId) -> EventDraft:
    """Takes a ban back."""
    return draft("m.room.member", {"membership": "leave"}, user, sender=BOB)


def powers(users: dict[str, int]) -> EventDraft:
    """Sets the power levels."""
    return draft("m.room.power_levels", {"users": users}, "", sender=BOB)


class TurnsHeld:
    """Counts how many verdicts are made under one lock."""

    def __init__(self, server: Here) -> None:
        self._server = server
        self.most = 0

    def watch(self) -> None:
        """From now on."""
        write = self._server.engine.committer._log.write

        async def counted(batch: Any, epoch: int) -> bool:
            self.most = max(self.most, len(batch.rows(epoch).rechecks.verified))
            return await write(batch, epoch)

        self._server.engine.committer._connection._log = _Counting(
            self._server.engine.committer._log, counted
        )


class _Counting:
    """A log whose writes are seen."""

    def __init__(self, log: Any, write: Any) -> None:
        self._log, self.write = log, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class CommitsHeld:
    """Holds all commits back until `release`."""

    def __init__(self, server: Here) -> None:
        self._server = server
        self._free = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self.fails = False
        server.engine.committer.fault = self._fault

    async def _fault(self, when: str) -> None:
        if when == "before":
            await self._free.wait()
            if self.fails:
                raise DatabaseUnavailable("held")

    async def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Starts to hand something in; returns when it is staged and waits for its commit."""
        room = await self._server.room()
        queued = room.unsettled
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        while room.unsettled == queued:
            assert not task.done(), "it is staged"
            await asyncio.sleep(0)

    async def release(self) -> None:
        """Lets commits go on, or fail; returns when all that was begun has ended. Raises the first
        of their errors."""
        self._free.set()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.engine.committer.fault = None
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


class Crash(Exception):
    """The process ends here."""


class CrashAfter:
    """Ends the work after so many steps."""

    def __init__(self, server: Here, *, steps: int) -> None:
        self._left = steps
        self._step = server.rechecks._advance
        server.rechecks._advance = self._advance  # type: ignore[method-assign]

    async def _advance(self, work: Any) -> bool:
        if self._left == 0:
            raise Crash
        self._left -= 1
        return await self._step(work)
