"""What a lying server sends beside what its engine does: events that no engine would make.

1. By its own user, without the right to it (a power change, a ban of the room's creator).
2. Backdated: on top of an old event, as if nothing had happened since (a ban, say), also as state
   that makes a fork, and several at once on the same parent (a flood of extremities).
3. In another server's name, signed with its own key; with content that doesn't match its hash.
"""

from __future__ import annotations

import orjson

from federation.events.event import Event, load_event
from federation.events.ids import EventId, StateKey
from federation.events.room_versions import room_version
from federation.graph.auth_rules import auth_event_keys
from federation.graph.building import EventDraft, build_event
from federation.transport.client import FederationError, Request, build_target
from tests.simulation.memory_tables import Fields
from tests.simulation.server import SimulatedServer
from tests.simulation.world import Crashed, World


class Attacker:
    """The last server's dark side."""

    def __init__(self, world: World) -> None:
        self._world, self._server = world, world.servers[-1]
        self._rng, self._sent = world.rng, 0

    async def attack(self) -> None:
        """One attack."""
        placed = [one for one in self._server.disk.tables.events.values() if one["n"] is not None]
        if not placed or not self._server.is_up:
            return
        parent = self._rng.choice(placed)
        count = self._rng.choice([1, 1, 1, 5])
        events = [self._event(parent) for _ in range(count)]
        pdus = [orjson.loads(event.raw) for event in events]
        if self._rng.random() < 0.1:
            pdus[0]["content"]["body"] = "not what was hashed"
        for other in self._world.servers[:-1]:
            await self._send(other, pdus)

    def _event(self, parent: Fields) -> Event:
        draft = self._draft()
        version = room_version(self._world.plan.version)
        keys = auth_event_keys(
            draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
            version=version,
        )
        cited = self._cited(keys)
        depth = load_event(parent["json"], version, parent["event_id"]).depth + 1
        return build_event(
            draft,
            version=version,
            room_id=self._world.room_id,
            prev_events=[EventId(parent["event_id"])],
            auth_events=cited,
            depth=depth,
            now_ms=self._server.clock.now_ms() - self._rng.choice([0, 60_000]),
            server_name=self._server.name,
            key=self._server.key,
        )

    def _draft(self) -> EventDraft:
        rng, creator = self._rng, self._world.users_of(self._world.servers[0])[0]
        sender = rng.choice(self._world.users_of(self._server))
        if rng.random() < 0.1:
            sender = creator
        body = str(rng.random())
        return rng.choice(
            [
                EventDraft("m.room.message", sender, {"msgtype": "m.text", "body": body}),
                EventDraft("m.room.power_levels", sender, {"users": {sender: 75}}, ""),
                EventDraft("m.room.member", sender, {"membership": "ban"}, creator),
                EventDraft("m.room.member", sender, {"membership": "join"}, sender),
                EventDraft("m.room.name", sender, {"name": body}, ""),
            ]
        )

    def _cited(self, keys: tuple[StateKey, ...]) -> list[EventId]:
        """For each key some event that ever stood there, as the liar likes it."""
        cited = []
        for kind, key in keys:
            found: list[Fields] = [
                row
                for row in self._server.disk.tables.events.values()
                if (row["type"], row["state_key"]) == (kind, key) and row["verdict"] == 0
            ]
            if found:
                cited.append(EventId(self._rng.choice(found)["event_id"]))
        return cited

    async def _send(self, other: SimulatedServer, pdus: list[object]) -> None:
        self._sent += 1
        server = self._server
        body = {"origin": server.name, "origin_server_ts": server.clock.now_ms(), "pdus": pdus}
        target = build_target("/_matrix/federation/v1/send", f"lie-{self._sent}")
        try:
            await self._world.call(
                server, server.client.request(Request(other.name, "PUT", target, body))
            )
        except (FederationError, Crashed) as error:
            self._world.note(f"a lie is lost: {error}")
