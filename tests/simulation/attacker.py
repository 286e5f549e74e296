"""What a lying server sends beside what its engine does: events that no engine would make.

Each attack has a name (`plan.ATTACKS`); what it sent is noted, so that it shows what became of it.
A fork that is withheld is known to the liar's own engine, and told by it once it lies no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from federation.errors import MatrixError
from federation.events.canonical_json import JsonObject
from federation.events.event import Event, parse_pdu
from federation.events.ids import EventId
from federation.events.signatures import signature_payload, signed_parts
from federation.graph.admission import Accepted
from federation.graph.building import EventDraft
from federation.transport.inbound.gap_filler import NotAtHand
from federation.transport.requests.client import FederationError, ServerRequest, build_target
from homeserver.storage.timeline.events import StoredVerdict
from tests.simulation.disks import Stored, read_room
from tests.simulation.forger import Forger, pdu_of
from tests.simulation.server import SimulatedServer
from tests.simulation.world import Action, Crashed, PlayedRoom, World

Pdus = Sequence[JsonObject]


class Attacker:
    """The last server's dark side."""

    def __init__(self, world: World) -> None:
        self._world, self._server = world, world.servers[-1]
        self._rng, self._sent, self._flooded = world.rng, 0, False
        self._pen = Forger(world, self._server)
        self.hidden: dict[EventId, None] = {}
        """What the liar's engine knows and nobody else is told of."""
        kinds: dict[str, Callable[[PlayedRoom, list[Stored]], Pdus]] = {
            "unauthorised": self._unauthorised,
            "backdated": self._backdated,
            "forged sender": self._forged_sender,
            "forged signature": self._forged_signature,
            "wrong hash": self._wrong_hash,
            "same ID": self._same_id,
            "second creation": self._second_creation,
            "wrong depth": self._wrong_depth,
            "bad ancestors": self._bad_ancestors,
            "forged authoriser": self._forged_authoriser,
            "reset fork": self._reset_fork,
        }
        self._kinds = {name: kinds[name] for name in world.plan.attacks if name in kinds}

    def actions(self) -> list[Action]:
        """The liar's turn, as often as the plan has it."""
        if not self._world.plan.attacks:
            return []
        actions: list[Action] = [self._attack] * 5
        if "withheld fork" in self._world.plan.attacks:
            actions += [self._withhold] * 2
        if self._world.plan.flood and not self._flooded:
            actions += [self._flood] * 2
        return actions

    # Attacks

    async def _attack(self) -> None:
        """One attack of a kind that the plan has."""
        room = self._rng.choice(self._world.rooms)
        placed = self._pen.placed(room)
        if not placed or not self._server.is_up or not self._kinds:
            return
        kind = self._rng.choice(list(self._kinds))
        await self._send(room, kind, self._kinds[kind](room, placed))

    async def _flood(self) -> None:
        """Hundreds of events on one parent: as many heads."""
        room = self._world.rooms[0]
        placed = self._pen.placed(room)
        if not placed or self._flooded or not self._server.is_up:
            return
        self._flooded = True
        parent = placed[-1]
        sender = self._pen.member(room)
        drafts = [
            replace(self._pen.message(str(i)), sender=sender) for i in range(self._world.plan.flood)
        ]
        events = [self._pen.on(room, parent, one) for one in drafts]
        for first in range(0, len(events), 50):
            await self._send(room, "flood", [pdu_of(one) for one in events[first : first + 50]])

    async def _withhold(self) -> None:
        """A fork that only the liar's engine knows, and an event on top of it that all get."""
        room = self._rng.choice(self._world.rooms)
        placed = self._pen.placed(room)
        if not placed or not self._server.is_up:
            return
        parent, hides = self._rng.choice([placed[-1], self._rng.choice(placed)]), False
        for _ in range(8):
            event = self._pen.on(room, parent, self._pen.anything(room, self._pen.member(room)))
            if await self._told_to_own_engine(event):
                self.hidden[event.event_id] = None
                self._world.attacks[event.event_id] = "withheld"
                stored = read_room(self._server.disk.tables, room).get(event.event_id)
                parent, hides = stored or parent, True
        draft = replace(self._pen.message("on what you don't see"), sender=self._pen.member(room))
        shown = self._pen.on(room, parent, draft)
        if hides and await self._told_to_own_engine(shown):
            await self._send(room, "withheld fork", [pdu_of(shown)])

    async def _told_to_own_engine(self, event: Event) -> bool:
        """Has the liar's own engine take an event in; was it accepted?"""
        server = self._server
        if not server.is_up:
            return False

        async def accept() -> bool:
            try:
                verdict = await server.filler.accept_at_hand(signed_parts(event))
            except NotAtHand:
                return False
            return isinstance(verdict, Accepted)

        try:
            return await self._world.call(server, accept())
        except (Crashed, MatrixError):
            return False

    def _unauthorised(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """A power change or a ban on the newest event, whoever may."""
        return [pdu_of(self._pen.on(room, placed[-1], self._pen.grab(room)))]

    def _backdated(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """On an old event, as if nothing had happened since; several at once on the same parent."""
        parent = self._rng.choice(placed)
        count = self._rng.choice([1, 1, 1, 5])
        return [pdu_of(self._pen.on(room, parent, self._pen.anything(room))) for _ in range(count)]

    def _forged_sender(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """In the name of the room's creator, signed by the liar alone."""
        draft = replace(self._pen.anything(room), sender=room.creator)
        return [pdu_of(self._pen.on(room, placed[-1], draft))]

    def _forged_signature(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """In the name of the room's creator, with a signature in its server's name too."""
        draft = replace(self._pen.anything(room), sender=room.creator)
        event = self._pen.on(room, placed[-1], draft)
        pdu = pdu_of(event)
        forged = self._server.key.sign(signature_payload(event))
        creators = self._world.servers[0]
        pdu["signatures"][creators.name] = {creators.key.key_id: forged}
        return [pdu]

    def _wrong_hash(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """Content that was put in after the event was hashed and signed."""
        parent = placed[-1] if self._rng.random() < 0.7 else self._rng.choice(placed)
        pdu = pdu_of(self._pen.on(room, parent, self._pen.anything(room)))
        pdu["content"]["body"] = "not what was hashed"
        return [pdu]

    def _same_id(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """Another event under the ID of one that all have; only where servers make the IDs."""
        if room.version.event_ids_are_hashes:
            return []
        everywhere = [
            one
            for one in placed
            if one.event.sender in self._world.users_of(self._server)
            and all(
                (known := other.disk.tables.events.get(one.event.event_id)) is not None
                and not known["outlier"]
                for other in self._world.servers
            )
        ]
        if not everywhere:
            return []
        old = self._rng.choice(everywhere).event
        pdu = {
            **pdu_of(self._pen.on(room, placed[-1], self._pen.grab(room))),
            "event_id": old.event_id,
        }
        pdu.pop("signatures"), pdu.pop("hashes")
        return [self._pen.signed(room, pdu)]

    def _second_creation(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """An event without parents: the start of another graph in the same room."""
        pdu = pdu_of(self._pen.on(room, placed[0], self._pen.grab(room)))
        pdu["prev_events"] = []
        return [self._pen.signed(room, pdu)]

    def _wrong_depth(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """At the greatest depth there is, or as if at the room's beginning."""
        pdu = pdu_of(self._pen.on(room, placed[-1], self._pen.anything(room)))
        pdu["depth"] = self._rng.choice([1, 2**53 - 1, self._rng.randrange(2**53)])
        return [self._pen.signed(room, pdu)]

    def _bad_ancestors(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """An event that follows a rejected one, or rests on one."""
        stored = read_room(self._server.disk.tables, room).values()
        rejected = [
            one for one in stored if one.row["verdict"] == StoredVerdict.REJECTED and one.is_placed
        ]
        newest, state = placed[-1], dict(self._pen.state_after(room, placed[-1]))
        draft = self._pen.anything(room)
        if not rejected:
            bad = self._pen.on(room, newest, self._pen.grab(room))
            return [pdu_of(bad), pdu_of(self._pen.on_parent(room, bad, draft, state))]
        bad = self._rng.choice(rejected).event
        if bad.is_state and self._rng.random() < 0.5:
            state[bad.key] = bad.event_id
            return [pdu_of(self._pen.on_parent(room, newest.event, draft, state))]
        return [pdu_of(self._pen.on_parent(room, bad, draft, state))]

    def _forged_authoriser(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """A join that the room's creator is said to vouch for."""
        user = self._rng.choice(self._world.users_of(self._server))
        content = {"membership": "join", "join_authorised_via_users_server": room.creator}
        return [
            pdu_of(self._pen.on(room, placed[-1], EventDraft("m.room.member", user, content, user)))
        ]

    def _reset_fork(self, room: PlayedRoom, placed: list[Stored]) -> Pdus:
        """A fork from an old event with state of its own, then an event that merges it with now:
        older state beside newer, which resolution must not take for news."""
        fork = self._pen.fork(room, self._rng.choice(placed), self._rng.randint(1, 4))
        newest = placed[-1]
        merge = self._pen.on_parent(
            room,
            fork[-1],
            self._pen.message("merged"),
            self._pen.state_after(room, newest),
            more=[newest.event],
        )
        return [pdu_of(one) for one in (*fork, merge)]

    # Sending

    async def _send(self, room: PlayedRoom, kind: str, pdus: Pdus) -> None:
        """To all others, or to one of them."""
        for pdu in pdus:
            event = parse_pdu(pdu, room.version)
            self._world.attacks.setdefault(event.event_id, kind)
            self._world.note(f"{kind}: {event.type} {event.event_id} on {event.prev_events}")
        self._world.met[f"attack: {kind}"] += len(pdus)
        others = self._world.servers[:-1]
        if self._rng.random() < 0.3:
            others = [self._rng.choice(others)]
        for other in others if pdus else []:
            await self._put(other, pdus)

    async def _put(self, other: SimulatedServer, pdus: Pdus) -> None:
        self._sent += 1
        server = self._server
        body = {"origin": server.name, "origin_server_ts": server.clock.now_ms(), "pdus": pdus}
        target = build_target("/_matrix/federation/v1/send", f"lie-{self._sent}")
        request = ServerRequest(other.name, "PUT", target, body, despite_backoff=True)
        for _ in range(3):
            try:
                await self._world.call(server, server.client.request(request))
            except (FederationError, Crashed) as error:
                self._world.note(f"a lie is lost: {error}")
                await asyncio.sleep(5)
            else:
                return
