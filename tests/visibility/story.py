"""A room's life, drawn from a seed: four servers, absences, partitions, changes of visibility.

`a` is the server under test. Its users come and go, at times all of them, so that it misses parts
of the history. `d` is never in the room. All events are noted as they were sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from federation.errors import MatrixError
from federation.events.event import Event, load_event
from federation.events.ids import EventId, RoomId, ServerName, UserId, server_of
from federation.events.room_versions import room_version
from federation.graph.building import EventDraft
from federation.transport.joining.joining import MembershipRequest
from federation.transport.requests.client import FederationError, build_target
from tests.simulation.network import Network, Weather
from tests.simulation.server import SimulatedServer
from tests.visibility.model import Model
from tests.visibility.readers import Readers

FAILURES = (MatrixError,)
V = room_version("12")
SETTINGS = ("world_readable", "shared", "invited", "joined")
OURS = [UserId(f"@{name}:a") for name in ("anna", "alan", "ada")]
ADMIN = UserId("@boss:b")
THEIRS = [UserId("@beth:b"), UserId("@carl:c"), UserId("@cleo:c")]
STRANGER = UserId("@stranger:a")
_NO_ROOM = RoomId("")


@dataclass
class Heard:
    """What a client was told by a sync on the way."""

    user: UserId
    since: str | None
    answer: dict[str, Any]


@dataclass
class Story:
    """One world."""

    seed: int
    rng: random.Random
    network: Network
    servers: dict[str, SimulatedServer]
    bugs: list[str]
    events: dict[EventId, Event] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    tokens: dict[UserId, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    room_id: RoomId = _NO_ROOM
    rule: str = "public"

    @classmethod
    def make(cls, seed: int) -> Story:
        """A world that hasn't begun."""
        rng = random.Random(seed)
        network = Network(random.Random(rng.random()))
        network.weather = Weather(delay_s_max=0.0)
        bugs: list[str] = []
        servers = {
            name: SimulatedServer(name, network, random.Random(rng.random()), bugs.append)
            for name in "abcd"
        }
        return cls(seed, rng, network, servers, bugs)

    @property
    def ours(self) -> SimulatedServer:
        """The server under test."""
        return self.servers["a"]

    def server(self, user: UserId) -> SimulatedServer:
        """A user's server."""
        return self.servers[server_of(user)]

    # Living

    async def live(self, operations: int) -> None:
        """From the room's creation on, until all is delivered."""
        for server in self.servers.values():
            await server.start_up()
        self.readers = Readers(self.ours)
        await self._meet()
        await self._begin()
        for _ in range(operations):
            await self._attempt(self._draw())
            await asyncio.sleep(self.rng.choice([0.0, 0.1, 5.0]))
            self.note_events()
        self.network.cut.clear()
        await self.settle()

    async def _meet(self) -> None:
        """Each server learns the keys of the others, which it can't while they are cut off."""
        for one in self.servers.values():
            for other in self.servers.values():
                if one is not other:
                    target = build_target("/_matrix/federation/v1/event", "$none")
                    with contextlib.suppress(FederationError):
                        await one.client.get(other.name, target)

    async def settle(self) -> None:
        """Waits until nothing is under way any more."""
        for _ in range(20):
            before = self.network.requests
            await asyncio.sleep(3 * 3600)
            waiting = any(one.disk.inbox.waiting for one in self.servers.values())
            if self.network.requests == before and not waiting:
                break
        self.note_events()

    async def _begin(self) -> None:
        rule = self.rng.choice(["public", "public", "invite", "knock"])
        drafts = [
            EventDraft("m.room.create", ADMIN, {"room_version": V.name}, ""),
            EventDraft("m.room.member", ADMIN, {"membership": "join"}, ADMIN),
            EventDraft("m.room.power_levels", ADMIN, {"users": {}}, ""),
            EventDraft("m.room.join_rules", ADMIN, {"join_rule": rule}, ""),
        ]
        if self.rng.random() < 0.7:
            setting = {"history_visibility": self.rng.choice(SETTINGS)}
            drafts.append(EventDraft("m.room.history_visibility", ADMIN, setting, ""))
        boss = self.servers["b"]
        self.room_id, _ = await boss.engine.writer.create(V, drafts)
        self.note_events()
        self.rule = rule

    async def _attempt(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except FAILURES as error:
            self.log.append(f"  refused: {error}")

    def _draw(self) -> Coroutine[Any, Any, object]:
        actions = [self._say] * 6 + [self._come] * 4 + [self._go, self._go, self._topic]
        actions += [self._set_visibility] * 2 + [self._invite, self._put_out, self._rename]
        actions += [self._read] * 2 + [self._redact, self._all_go, self._cut]
        if self.rule == "knock":
            actions.append(self._knock)
        return self.rng.choice(actions)()

    def note_events(self) -> None:
        """Notes what is on the disks, as it was first seen."""
        for server in self.servers.values():
            for event_id, row in server.disk.tables.events.items():
                if event_id not in self.events:
                    event = load_event(row["json"], V, EventId(event_id))
                    self.events[event.event_id] = event

    async def is_resident(self, server: SimulatedServer) -> bool:
        """Has the server a user in the room, as far as it knows?"""
        room = await server.engine.rooms.get(self.room_id)
        return room is not None and server.name in room.view.servers

    async def membership(self, user: UserId) -> str:
        """A user's membership, as far as their server knows."""
        room = await self.server(user).engine.rooms.get(self.room_id)
        ref = None if room is None else room.view.state.get(("m.room.member", user))
        return (ref.membership if ref else None) or "leave"

    async def _send(self, draft: EventDraft) -> None:
        server = self.server(draft.sender)
        sent = await server.engine.writer.send(self.room_id, draft)
        self.log.append(
            f"{draft.sender} {draft.type} {draft.state_key} {dict(draft.content)}"
            f" -> {sent.event_id}"
        )

    async def _joined(self) -> UserId | None:
        users = [one for one in (ADMIN, *OURS, *THEIRS) if await self.membership(one) == "join"]
        return self.rng.choice(users) if users else None

    # What happens

    async def _say(self) -> None:
        user = await self._joined()
        if user is not None:
            content = {"msgtype": "m.text", "body": f"secret {self.rng.random()}"}
            await self._send(EventDraft("m.room.message", user, content))

    async def _topic(self) -> None:
        topic = {"topic": f"topic {self.rng.random()}"}
        await self._send(EventDraft("m.room.topic", ADMIN, topic, ""))

    async def _set_visibility(self) -> None:
        setting = {"history_visibility": self.rng.choice(SETTINGS)}
        await self._send(EventDraft("m.room.history_visibility", ADMIN, setting, ""))

    async def _rename(self) -> None:
        user = await self._joined()
        if user is not None:
            content = {"membership": "join", "displayname": f"name {self.rng.random()}"}
            await self._send(EventDraft("m.room.member", user, content, user))

    async def _redact(self) -> None:
        user = await self._joined()
        said = [one for one in self.events.values() if one.type == "m.room.message"]
        if user is not None and said:
            target = self.rng.choice(said).event_id
            draft = EventDraft("m.room.redaction", user, {"redacts": target}, None, target)
            await self._send(draft)

    async def _come(self) -> None:
        await self.join(self.rng.choice([*OURS, *OURS, *THEIRS]))

    async def join(self, user: UserId) -> None:
        """By the own server where it is in the room, else through the creator's."""
        server = self.server(user)
        if self.rule != "public" and await self.membership(user) != "invite":
            await self._ask_in(user)
        if await self.is_resident(server):
            await self._send(EventDraft("m.room.member", user, {"membership": "join"}, user))
            return
        via = [ServerName(one) for one in "bc" if one != server.name]
        wish = MembershipRequest(self.room_id, user, {})
        joined = await server.joining.join(wish, via)
        self.log.append(f"{user} joins through {joined.resident} -> {joined.event.event_id}")

    async def _invite(self) -> None:
        await self._ask_in(self.rng.choice([*OURS, *OURS, *THEIRS]))

    async def _ask_in(self, user: UserId) -> None:
        draft = EventDraft("m.room.member", ADMIN, {"membership": "invite"}, user)
        if server_of(user) == "b":
            await self._send(draft)
            return
        sent = await self.servers["b"].remote_rooms.invite(self.room_id, draft)
        self.log.append(f"{ADMIN} invites {user} -> {sent}")

    async def _put_out(self) -> None:
        user = self.rng.choice([*OURS, *OURS, *THEIRS])
        membership = self.rng.choice(["leave", "leave", "ban"])
        await self._send(EventDraft("m.room.member", ADMIN, {"membership": membership}, user))

    async def _go(self) -> None:
        user = self.rng.choice([*OURS, *THEIRS])
        await self._send(EventDraft("m.room.member", user, {"membership": "leave"}, user))

    async def _knock(self) -> None:
        user = self.rng.choice([*OURS, *THEIRS])
        server = self.server(user)
        if await self.is_resident(server):
            await self._send(EventDraft("m.room.member", user, {"membership": "knock"}, user))
        else:
            await server.remote_rooms.knock(self.room_id, user, [ServerName("b")], {})

    async def _all_go(self) -> None:
        """The server under test is out of the room for a while."""
        for user in OURS:
            if await self.membership(user) == "join":
                await self._send(EventDraft("m.room.member", user, {"membership": "leave"}, user))
        for _ in range(self.rng.randrange(2, 6)):
            await asyncio.sleep(1)
            await self._attempt(self.rng.choice([self._say, self._set_visibility, self._topic])())
            self.note_events()

    async def _cut(self) -> None:
        """Nothing passes between the server under test and the others, or everything again."""
        links = [(ServerName("a"), ServerName(one)) for one in "bc"]
        if self.network.cut:
            self.network.cut.clear()
            await asyncio.sleep(self.rng.choice([1.0, 4000.0]))
            return
        self.network.cut |= {pair for link in links for pair in (link, link[::-1])}
        self.log.append("cut")

    async def _read(self) -> None:
        """A user of ours syncs, or pages back."""
        user = self.rng.choice(OURS)
        if self.rng.random() < 0.5:
            await self.readers.page(user, self.room_id, None, backwards=True, limit=5)
            return
        since = self.tokens.get(user)
        answer = await self.readers.synced(user, since)
        self.tokens[user] = answer["next_batch"]
        self.heard.append(Heard(user, since, answer))

    # Afterwards

    def model(self) -> Model:
        """The room's true graph."""
        events = {
            event_id: event
            for event_id, event in self.events.items()
            if event.room_id == self.room_id
        }
        return Model(V, events)
