"""A world: servers, their rooms, and what happens to them, all drawn from one seed.

What a client was told is noted (`Told`): the checks hold the servers to it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event
from federation.events.ids import DeviceId, EventId, KeyId, RoomId, ServerName, UserId, server_of
from federation.events.room_versions import RoomVersion
from federation.events.signatures import signature_payload, signatures_of
from federation.events.signing import SignatureInvalid
from federation.graph.building import EventDraft
from federation.transport.requests.client import FederationError
from homeserver.engine.entries import TransactionKey
from homeserver.engine.rooms.room import Room
from tests.simulation.memory_tables import Tables
from tests.simulation.network import Network, Weather
from tests.simulation.plan import Plan
from tests.simulation.server import SimulatedServer, described

T = TypeVar("T")
Action = Callable[[], Coroutine[Any, Any, None]]
USERS_PER_SERVER = 2


class Crashed(Exception):
    """The server died while it was asked."""


@dataclass(frozen=True)
class Told:
    """A client was told that its event is in the room."""

    server: ServerName
    room_id: RoomId
    event_id: EventId


@dataclass(frozen=True)
class PlayedRoom:
    """A room of the world. `join_rule` is what it is to have once all are in it."""

    room_id: RoomId
    version: RoomVersion
    creator: UserId
    join_rule: str

    def rule_content(self) -> JsonObject:
        """The content of its m.room.join_rules. Where members of a room may join, it is this one:
        who left may come back."""
        content: JsonObject = {"join_rule": self.join_rule}
        if "restricted" in self.join_rule:
            content["allow"] = [{"type": "m.room_membership", "room_id": self.room_id}]
        return content


@dataclass
class World:
    """Everything of one run."""

    seed: int
    plan: Plan
    rng: random.Random
    network: Network
    servers: list[SimulatedServer] = field(default_factory=list)
    rooms: list[PlayedRoom] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    running: dict[asyncio.Task[None], None] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)
    """How often each hardship came about (`coverage`)."""
    attacks: dict[EventId, str] = field(default_factory=dict)
    """What the liar sent, by what it was meant to do."""
    most_heads: Counter[RoomId] = field(default_factory=Counter)
    beginning: Tables | None = None
    """The first server's disk when its room was made and nobody else was in it."""
    transactions: int = 0
    _signers: dict[bytes, frozenset[ServerName]] = field(default_factory=dict)

    @classmethod
    def make(cls, seed: int, operations: int) -> World:
        """A world that hasn't begun."""
        rng = random.Random(seed)
        plan = Plan.draw(rng, operations=operations)
        network = Network(random.Random(rng.random()))
        world = cls(seed, plan, rng, network)
        for name in "abcd"[: plan.servers]:
            server = SimulatedServer(name, network, random.Random(rng.random()), world.found)
            server.clock.skew_ms = rng.randrange(-plan.skew_ms, plan.skew_ms + 1)
            world.servers.append(server)
        return world

    def found(self, fault: str) -> None:
        """Something is wrong."""
        self.note(f"FAULT {fault}")
        self.faults.append(fault)

    def note(self, line: str) -> None:
        """For the trace."""
        self.log.append(f"{asyncio.get_running_loop().time():10.3f} {line}")

    def tell(self, server: SimulatedServer, room: PlayedRoom, event_id: EventId) -> None:
        """A client of the server got this answer."""
        self.told.append(Told(server.name, room.room_id, event_id))

    # Asking servers

    def by_name(self, name: str) -> SimulatedServer:
        """The server of that name."""
        return next(one for one in self.servers if one.name == name)

    def users_of(self, server: SimulatedServer) -> list[UserId]:
        """Its users."""
        return [UserId(f"@{server.name}{i + 1}:{server.name}") for i in range(USERS_PER_SERVER)]

    async def call(self, server: SimulatedServer, work: Coroutine[Any, Any, T]) -> T:
        """Has a server do something for a client. Raises what it raised, or Crashed."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await work
            except asyncio.CancelledError:
                if not done.done():
                    done.set_exception(Crashed())
                raise
            except Exception as error:  # noqa: BLE001 - it is the caller's
                if not isinstance(error, MatrixError | FederationError):
                    self.found(f"{server.name}: {described(error)}")
                done.set_exception(error)
            else:
                done.set_result(result)

        if not server.is_up:
            work.close()
            raise Crashed
        server.start("client", run())
        return await done

    async def room(self, server: SimulatedServer, room: PlayedRoom) -> Room | None:
        """The room as a server has it; it is its own answer, from memory or disk."""
        return await self.call(server, server.engine.rooms.get(room.room_id))

    async def send(self, room: PlayedRoom, draft: EventDraft) -> EventId | None:
        """Sends as a client does: again, under the same transaction ID, where the outcome isn't
        known. None: refused, or given up."""
        user = draft.sender
        server = self.by_name(server_of(user))
        self.transactions += 1
        key = TransactionKey(user, DeviceId("DEV"), "/send", str(self.transactions))
        first: EventId | None = None
        for attempt in range(3):
            self.met["sends repeated under their transaction ID"] += attempt > 0
            try:
                sent = await self.call(
                    server, server.engine.writer.send(room.room_id, draft, transaction=key)
                )
            except Crashed:
                await asyncio.sleep(5)
                continue
            except MatrixError as error:
                if error.status != 503:
                    self.note(f"{user} {draft.type} refused: {error.error}")
                    return None
                await asyncio.sleep(1)
                continue
            if first is None and self.plan.loss and self.rng.random() < 0.1:
                self.met["answers that a client never got"] += 1
                first = sent.event_id
                continue
            if first not in (None, sent.event_id):
                self.found(f"{server.name}: {user} sent {first} again, and it became another event")
            self.tell(server, room, sent.event_id)
            self.note(f"{user} {draft.type} {draft.state_key} -> {sent.event_id}")
            return sent.event_id
        return None

    def signers(self, event: Event) -> frozenset[ServerName]:
        """The servers whose signatures on an event are valid."""
        if event.raw not in self._signers:
            payload, made = signature_payload(event), signatures_of(event)
            self._signers[event.raw] = frozenset(
                server.name
                for server in self.servers
                if _is_signed(server, payload, made.get(server.name, {}))
            )
        return self._signers[event.raw]

    # From beginning to end

    def set_weather(self) -> None:
        """The plan's hardships begin."""
        plan = self.plan
        self.network.weather = Weather(plan.delay_s, plan.loss, plan.duplication)
        for server in self.servers:
            server.store_fails = plan.store_fails

    async def live(self, actions: Callable[[], Sequence[Action]]) -> None:
        """Operations at random times, side by side."""
        for _ in range(self.plan.operations):
            self._start(self.rng.choice(actions())())
            await asyncio.sleep(self.rng.random() * self.rng.choice([0.02, 0.3, 3.0]))
        if self.plan.long_outage:
            self.met["long outages"] += bool(self.network.cut)
            await asyncio.sleep(self.rng.random() * 4 * 3600)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.found(f"the workload: {described(error)}")

    async def calm_down(self) -> None:
        """Good weather, right clocks, no lies; waits until all is delivered."""
        self.network.heal()
        for server in self.servers:
            server.store_fails = 0.0
            server.clock.skew_ms = 0
            server.lies.clear()
        while self.running:
            await asyncio.wait(list(self.running))
        await self.settle()

    async def settle(self) -> None:
        """Waits until nothing is under way any more."""
        for _ in range(40):
            before = self.network.requests
            await asyncio.sleep(3 * 3600)
            waiting = any(server.disk.inbox.waiting for server in self.servers)
            if self.network.requests == before and not waiting:
                return


def _is_signed(server: SimulatedServer, payload: bytes, made: Mapping[KeyId, str]) -> bool:
    try:
        server.key.verify_key.verify(payload, made[server.key.key_id])
    except (KeyError, SignatureInvalid):
        return False
    return True
