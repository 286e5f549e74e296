"""A world: servers, users in one room, and what happens to them, all drawn from one seed.

What a client was told is noted (`Told`): the checks hold the servers to it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from federation.events.canonical_json import JsonObject
from federation.events.ids import DeviceId, EventId, RoomId, ServerName, UserId, server_of
from federation.events.room_versions import room_version
from federation.graph.building import EventDraft
from federation.ports import Refused
from federation.transport.handshakes import HandshakeFailed, MembershipWish
from homeserver.engine.entries import TransactionKey
from homeserver.engine.room import Room
from homeserver.errors import MatrixError
from tests.simulation.network import Network, Weather
from tests.simulation.server import SimulatedServer, described

T = TypeVar("T")
Action = Callable[[], Coroutine[Any, Any, None]]


class Crashed(Exception):
    """The server died while it was asked."""


@dataclass(frozen=True)
class Told:
    """A client was told that its event is in the room."""

    server: ServerName
    event_id: EventId


@dataclass(frozen=True)
class Plan:
    """What a world is like; drawn from its seed."""

    version: str
    servers: int
    operations: int
    loss: float
    duplication: float
    delay_s: float
    store_fails: float
    crashes: bool
    partitions: bool
    long_outage: bool
    skew_ms: int
    attacker: bool

    @classmethod
    def draw(cls, rng: random.Random, *, operations: int) -> Plan:
        """A plan; each hardship comes in some worlds and not in others."""

        def sometimes(chance: float, value: float) -> float:
            return rng.random() * value if rng.random() < chance else 0.0

        return cls(
            version=rng.choice(["10", "11", "12", "12"]),
            servers=3 if rng.random() < 0.8 else rng.choice([2, 4]),
            operations=operations,
            loss=sometimes(0.5, 0.3),
            duplication=sometimes(0.4, 0.5),
            delay_s=rng.choice([0.02, 0.2, 3.0]),
            store_fails=sometimes(0.3, 0.15),
            crashes=rng.random() < 0.5,
            partitions=rng.random() < 0.7,
            long_outage=rng.random() < 0.1,
            skew_ms=int(sometimes(0.5, 120_000)),
            attacker=rng.random() < 0.3,
        )


@dataclass
class World:
    """Everything of one run."""

    seed: int
    plan: Plan
    rng: random.Random
    network: Network
    servers: list[SimulatedServer] = field(default_factory=list)
    room_id: RoomId = field(default=RoomId(""))
    told: list[Told] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    running: dict[asyncio.Task[None], None] = field(default_factory=dict)
    transactions: int = 0
    down: int = 0

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

    # Asking servers

    def by_name(self, name: str) -> SimulatedServer:
        """The server of that name."""
        return next(one for one in self.servers if one.name == name)

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
                if not isinstance(error, MatrixError | HandshakeFailed | Refused):
                    self.found(f"{server.name}: {described(error)}")
                done.set_exception(error)
            else:
                done.set_result(result)

        if not server.is_up:
            work.close()
            raise Crashed
        server.start("client", run())
        return await done

    async def room(self, server: SimulatedServer) -> Room | None:
        """The room as a server has it; it is its own answer, from memory or disk."""
        return await self.call(server, server.engine.rooms.get(self.room_id))

    def users_of(self, server: SimulatedServer) -> list[UserId]:
        """Its users."""
        return [UserId(f"@{server.name}{i}:{server.name}") for i in (1, 2)]

    async def send(self, user: UserId, draft: EventDraft) -> EventId | None:
        """Sends as a client does: again, under the same transaction ID, where the outcome isn't
        known. None: refused, or given up."""
        server = self.by_name(server_of(user))
        self.transactions += 1
        key = TransactionKey(user, DeviceId("DEV"), "/send", str(self.transactions))
        for _ in range(3):
            try:
                sent = await self.call(
                    server, server.engine.writer.send(self.room_id, draft, transaction=key)
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
            self.told.append(Told(server.name, sent.event_id))
            self.note(f"{user} {draft.type} {draft.state_key} -> {sent.event_id}")
            return sent.event_id
        return None

    # The beginning

    async def begin(self) -> None:
        """A room of the first server's first user, with users of all servers in it."""
        for server in self.servers:
            await server.start_up()
        first, creator = self.servers[0], self.users_of(self.servers[0])[0]
        powers = {self.users_of(one)[0]: self.rng.choice([0, 50, 75]) for one in self.servers[1:]}
        version = room_version(self.plan.version)
        own: dict[UserId, int] = {} if version.creators_are_privileged else {creator: 100}
        create: JsonObject = {"room_version": version.name}
        if version.creator_in_content:
            create["creator"] = creator
        drafts = [
            EventDraft("m.room.create", creator, create, ""),
            EventDraft("m.room.member", creator, {"membership": "join"}, creator),
            EventDraft("m.room.power_levels", creator, {"users": {**own, **powers}}, ""),
            EventDraft("m.room.join_rules", creator, {"join_rule": "public"}, ""),
        ]
        self.room_id, _ = await self.call(first, first.engine.writer.create(version, drafts))
        for server in self.servers:
            await self.join(self.users_of(server)[0])
        await asyncio.sleep(5)
        self.network.weather = Weather(self.plan.delay_s, self.plan.loss, self.plan.duplication)
        for server in self.servers:
            server.store_fails = self.plan.store_fails

    async def join(self, user: UserId) -> None:
        """Joins by the own server where it is in the room, else through another."""
        server = self.by_name(server_of(user))
        try:
            room = await self.room(server)
        except Crashed:
            return
        if room is not None and server.name in room.view.servers:
            await self.send(user, EventDraft("m.room.member", user, {"membership": "join"}, user))
            return
        via = [one.name for one in self.servers if one is not server]
        self.rng.shuffle(via)
        wish = MembershipWish(self.room_id, user, {})
        try:
            joined = await self.call(server, server.handshakes.join(wish, via))
        except (Crashed, HandshakeFailed, MatrixError, Refused) as error:
            self.note(f"{user} can't join: {error}")
            return
        self.told.append(Told(server.name, joined.event.event_id))
        self.note(f"{user} joins through {joined.resident} -> {joined.event.event_id}")

    # The middle

    async def live(self, more: Sequence[Action] = ()) -> None:
        """Operations at random times, side by side."""
        actions = [*self._actions(), *more]
        for _ in range(self.plan.operations):
            self._start(self.rng.choice(actions)())
            await asyncio.sleep(self.rng.random() * self.rng.choice([0.02, 0.3, 3.0]))
        if self.plan.long_outage:
            await asyncio.sleep(self.rng.random() * 4 * 3600)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.running[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.found(f"the workload: {described(error)}")

    def _actions(self) -> list[Action]:
        actions: list[Action] = [self._say] * 6 + [self._rename] * 2
        actions += [self._name_room] * 2 + [self._topic, self._change_power, self._change_power]
        actions += [self._kick, self._ban, self._ban, self._unban, self._leave, self._redact]
        actions += [self._come] * 4 + [self._invite]
        if self.plan.partitions:
            actions += [self._partition, self._cut_one_way, self._reconnect]
        if self.plan.crashes:
            actions += [self._crash]
        return actions

    def _user(self) -> UserId:
        return self.rng.choice(self.users_of(self.rng.choice(self.servers)))

    def _strong(self) -> UserId:
        """Somebody who may have power."""
        return self.users_of(self.rng.choice(self.servers))[0]

    async def _state(self, user: UserId, kind: str, content: JsonObject, key: str = "") -> None:
        await self.send(user, EventDraft(kind, user, content, key))

    async def _say(self) -> None:
        content = {"msgtype": "m.text", "body": str(self.rng.random())}
        user = self._user()
        await self.send(user, EventDraft("m.room.message", user, content))

    async def _rename(self) -> None:
        user = self._user()
        content = {"membership": "join", "displayname": str(self.rng.random())}
        room = await self._room_or_none(self.by_name(server_of(user)))
        member = room.view.state.get(("m.room.member", user)) if room else None
        if member is not None and member.membership == "join":
            await self._state(user, "m.room.member", content, user)

    async def _room_or_none(self, server: SimulatedServer) -> Room | None:
        try:
            return await self.room(server)
        except Crashed:
            return None

    async def _name_room(self) -> None:
        await self._state(self._strong(), "m.room.name", {"name": str(self.rng.random())})

    async def _topic(self) -> None:
        await self._state(self._strong(), "m.room.topic", {"topic": str(self.rng.random())})

    async def _change_power(self) -> None:
        user = self._strong()
        server = self.by_name(server_of(user))
        room = await self._room_or_none(server)
        ref = room.view.state.get(("m.room.power_levels", "")) if room else None
        if ref is None:
            return
        try:
            known = await self.call(server, server.engine.rooms.events([ref.event_id]))
        except Crashed:
            return
        content = dict(known[ref.event_id].event.content)
        users = dict(content.get("users", {}))
        users[self._strong()] = self.rng.choice([0, 25, 50, 75])
        creator = self.users_of(self.servers[0])[0]
        if room is not None and room.version.creators_are_privileged:
            users.pop(creator, None)
        content["users"] = users
        if self.rng.random() < 0.3:
            content[self.rng.choice(["ban", "kick", "redact"])] = self.rng.choice([25, 50])
        await self._state(user, "m.room.power_levels", content)

    async def _member(self, membership: str) -> None:
        await self._state(self._strong(), "m.room.member", {"membership": membership}, self._user())

    async def _kick(self) -> None:
        await self._member("leave")

    async def _ban(self) -> None:
        await self._member("ban")

    async def _unban(self) -> None:
        await self._member("leave")

    async def _leave(self) -> None:
        user = self._user()
        await self._state(user, "m.room.member", {"membership": "leave"}, user)

    async def _come(self) -> None:
        await self.join(self._user())

    async def _invite(self) -> None:
        user, target = self._strong(), self._user()
        server = self.by_name(server_of(user))
        draft = EventDraft("m.room.member", user, {"membership": "invite"}, target)
        if server_of(target) == server.name:
            await self.send(user, draft)
            return
        try:
            await self.call(server, server.remote_rooms.invite(self.room_id, draft))
        except (Crashed, MatrixError, HandshakeFailed, Refused) as error:
            self.note(f"{user} can't invite {target}: {error}")

    async def _redact(self) -> None:
        user, target = self._user(), self.rng.choice(self.told)
        content = {"redacts": target.event_id}
        draft = EventDraft("m.room.redaction", user, content, None, target.event_id)
        await self.send(user, draft)

    # Faults

    async def _partition(self) -> None:
        one, other = self.rng.sample([server.name for server in self.servers], 2)
        self.note(f"cut {one} - {other}")
        self.network.cut |= {(one, other), (other, one)}

    async def _cut_one_way(self) -> None:
        one, other = self.rng.sample([server.name for server in self.servers], 2)
        self.note(f"cut {one} -> {other}")
        self.network.cut.add((one, other))

    async def _reconnect(self) -> None:
        self.note("all links up")
        self.network.cut.clear()

    async def _crash(self) -> None:
        server = self.rng.choice(self.servers)
        if not server.is_up:
            return
        self.note(f"{server.name} crashes")
        await server.crash()
        await asyncio.sleep(self.rng.random() * self.rng.choice([1, 60]))
        await server.start_up()
        self.note(f"{server.name} is up again")

    # The end

    async def calm_down(self) -> None:
        """Good weather; waits until all is delivered."""
        self.network.heal()
        for server in self.servers:
            server.store_fails = 0.0
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
