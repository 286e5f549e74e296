"""A client that applies `state` and then `timeline` has the room's state, whatever happened.

Random histories of a room (visibility, leaves and rejoins, kicks, bans and invites, forks by
another server), read from random earlier positions with random filters, by a client that knows
nothing but the answers. What it has is compared with what the engine says the reader may know.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from federation.events.ids import EventId
from federation.graph.building import EventDraft
from homeserver import limits
from tests.homeserver.peer import PETER, message
from tests.homeserver.room_world import ALICE, BOB, CAROL
from tests.homeserver.sync_world import SyncWorld, sync_world

Key = tuple[str, str]
OWN: Key = ("m.room.member", BOB)
VISIBILITIES = ("joined", "invited", "shared", "world_readable")
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"types": ["m.room.message"]},
    {"not_types": ["m.room.topic"]},
    {"not_senders": [ALICE]},
    {"not_senders": [PETER]},
)


@pytest.fixture
async def syncs(postgres_url: str) -> AsyncIterator[SyncWorld]:
    async with sync_world(postgres_url) as world:
        yield world


@dataclass(frozen=True)
class Known:
    """What a client has at a token. `is_listed`: its state is the one that it is entitled to."""

    since: str | None
    state: dict[Key, str] = field(default_factory=dict)
    is_listed: bool = False


@dataclass
class Play:
    """One room's history, and the answers of its reader BOB."""

    syncs: SyncWorld
    room_id: str
    rng: random.Random
    is_lazy: bool
    known: list[Known] = field(default_factory=lambda: [Known(None)])
    stay_ended: str | None = None
    parents: list[tuple[EventId, ...]] = field(default_factory=list)
    count: int = 0

    async def member(self) -> Any:
        """BOB's place in the room's state."""
        return (await self.syncs.peer.room(self.room_id)).view.state.get(OWN)

    async def step(self) -> None:
        """Something happens. What isn't allowed now is refused, and nothing happens."""
        self.count += 1
        before = await self.member()
        await self._happen(self.rng.randrange(14))
        after = await self.member()
        is_left = before is not None and before.membership == "join" != after.membership
        if is_left:
            self.stay_ended = after.event_id
        room = await self.syncs.peer.room(self.room_id)
        self.parents.append(tuple(head.event_id for head in room.view.heads))

    async def _happen(self, what: int) -> None:
        world, room_id, rng = self.syncs.world, self.room_id, self.rng
        text = f"{room_id}-{self.count}"
        if what < 2:
            await world.put_state(ALICE, room_id, "m.room.topic", {"topic": text})
        elif what == 2:
            content = {"history_visibility": rng.choice(VISIBILITIES)}
            await world.put_state(ALICE, room_id, "m.room.history_visibility", content)
        elif what < 5:
            rest = rng.choice(["join", "leave"])
            await world.in_room(rng.choice([BOB, CAROL]), "POST", room_id, rest)
        elif what == 5:
            rest = rng.choice(["kick", "ban", "unban", "unban", "invite", "invite"])
            await world.in_room(ALICE, "POST", room_id, rest, {"user_id": BOB, "reason": text})
        elif what == 6:
            await world.in_room(BOB, "POST", room_id, "knock")
        elif what < 9:
            await self.syncs.say(rng.choice([ALICE, ALICE]), room_id, text)
        elif what < 11:
            draft = EventDraft("m.room.topic", PETER, {"topic": text}, "")
            await self.syncs.peer.send(room_id, draft)
        elif what < 13:  # on an older branch
            draft = EventDraft("m.room.topic", PETER, {"topic": text}, "")
            parents = rng.choice(self.parents[-4:]) if self.parents else ()
            await self.syncs.peer.send(room_id, draft, parents=parents)
        else:
            parents = rng.choice(self.parents[-4:]) if self.parents else ()
            await self.syncs.peer.send(room_id, message(text), parents=parents)

    async def read(self) -> None:
        """A sync from one of the client's last positions."""
        rng = self.rng
        known = self.known[-1] if rng.random() < 0.6 else rng.choice(self.known)
        timeline = {**rng.choice(FILTERS), "limit": rng.choice([0, 1, 3, 10, 50])}
        room = {
            "rooms": [self.room_id],
            "timeline": timeline,
            "state": {"lazy_load_members": self.is_lazy},
            "include_leave": True,
        }
        query: dict[str, Any] = {"filter": {"room": room}}
        if rng.random() < 0.2:
            query["full_state"] = True
        if rng.random() < 0.2:
            query["use_state_after"] = True
        answer = await self.syncs.get(BOB, since=known.since, **query)
        state, is_listed = dict(known.state), known.is_listed
        rooms = answer.get("rooms", {})
        if self.room_id in rooms.get("invite", {}) or self.room_id in rooms.get("knock", {}):
            is_listed = False
        for section in ("join", "leave"):
            if self.room_id in rooms.get(section, {}):
                apply(state, rooms[section][self.room_id])
                is_listed = is_listed or section == "join"
        self.known.append(Known(answer["next_batch"], state, is_listed))
        await self.check(state, is_listed=is_listed, query=query)

    async def check(self, state: dict[Key, str], *, is_listed: bool, query: object) -> None:
        """Compares with what the engine has."""
        own = await self.member()
        if own is None or own.membership in ("invite", "knock") or not is_listed:
            return
        room = await self.syncs.peer.room(self.room_id)
        true: Any = room.view.state
        if own.membership != "join":
            assert self.stay_ended is not None, "who was told of the room was in it"
            rooms = self.syncs.world.engine.rooms
            true = await rooms.state_after(room, EventId(self.stay_ended))
        expected = {key: ref.event_id for key, ref in true.items()}
        expected[OWN] = own.event_id
        for key, event_id in expected.items():
            if self.is_lazy and key[0] == "m.room.member" and key != OWN:
                continue
            assert state.get(key) == event_id, (key, query)


def apply(state: dict[Key, str], room: dict[str, Any]) -> None:
    """What a client does with a room of an answer."""
    if "state_after" in room:
        events = room["state_after"]["events"]
    else:
        events = [*room["state"]["events"], *room["timeline"]["events"]]
    for event in events:
        if "state_key" in event:
            state[event["type"], event["state_key"]] = event["event_id"]


@pytest.mark.parametrize("is_far_behind", [False, True])
async def test_state_and_timeline_lead_to_what_the_reader_may_know(
    syncs: SyncWorld, monkeypatch: pytest.MonkeyPatch, is_far_behind: bool
) -> None:
    if is_far_behind:
        monkeypatch.setattr(limits, "SYNC_TAIL_SCAN_ENTRIES", 0)
    compared = 0
    for seed in range(8):
        rng = random.Random(seed)
        levels = {"users": {ALICE: 100, PETER: 50}}
        room_id = await syncs.world.room(
            preset="public_chat", power_level_content_override=levels, room_version="11"
        )
        await syncs.peer.join(room_id)
        await syncs.join(room_id, BOB)
        play = Play(syncs, room_id, rng, is_lazy=rng.random() < 0.3)
        for _ in range(60):
            await play.step()
            if rng.random() < 0.5:
                await play.read()
        compared += sum(one.is_listed for one in play.known)
    assert compared > 100
