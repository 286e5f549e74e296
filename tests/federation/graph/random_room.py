"""Rooms that grow at random, for properties of resolution."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from federation.events.event import Event
from federation.events.ids import EventId, StateKey
from federation.graph.auth.auth_rules import AuthState, check_auth
from federation.graph.resolution.auth_chains import AuthChains
from federation.graph.resolution.state_resolution import resolve
from tests.federation.graph.room_builder import ALICE, BOB, CAROL, DAVE, Room, ids_of

StateIds = Mapping[StateKey, EventId]
USERS = (ALICE, BOB, CAROL, DAVE)


class RandomRoom:
    """A room that grows at random: forks, merges, and now and then a stale state, as another
    server might have claimed it."""

    def __init__(self, name: str, seed: int, steps: int) -> None:
        self.random = random.Random(seed)
        self.room = Room(name).open_to(BOB, CAROL, levels={BOB: 60, CAROL: 50})
        self.nodes: list[tuple[Event, StateIds]] = [(self.room.last, ids_of(self.room.state))]
        self.rejected: set[EventId] = set()
        self.chains = AuthChains()
        """Kept for as long as the room lives."""
        for _ in range(steps):
            self.step()

    def resolve(self, states: Sequence[StateIds], *, chains: AuthChains | None = None) -> StateIds:
        return resolve(
            self.room.version,
            states,
            event=self.room.loader(),
            is_rejected=self.rejected.__contains__,
            chains=chains,
        )

    def step(self) -> None:
        count = self.random.choice((1, 1, 1, 2))
        recent = self.nodes[-6:]
        parents = self.random.sample(recent, min(count, len(recent)))
        state = dict(self.resolve([state for _, state in parents], chains=self.chains))
        if self.random.random() < 0.15:
            self.make_stale(state)
        loaded = {key: self.room.events[event_id] for key, event_id in state.items()}
        event = self.act(loaded, [event for event, _ in parents])
        failure = check_auth(event, AuthState(self.room.version, loaded.get))
        if failure is None:
            state[event.key] = event.event_id
        elif self.random.random() < 0.8:
            return
        else:
            self.rejected.add(event.event_id)
        self.nodes.append((event, state))

    def make_stale(self, state: dict[StateKey, EventId]) -> None:
        _, older = self.random.choice(self.nodes)
        key = self.random.choice(sorted(older))
        state[key] = older[key]

    def act(self, state: Mapping[StateKey, Event], prev: Sequence[Event]) -> Event:
        sender, target = self.random.choice(USERS), self.random.choice(USERS)
        options: dict[str, Any] = {
            "state": state,
            "prev": prev,
            "ts": self.random.randint(1, 8),
            "depth": self.random.randint(1, 8),
            "keep": False,
        }
        choice = self.random.randrange(7)
        if choice == 0:
            users: dict[str, int] = {
                u: self.random.choice((0, 50, 60, 100)) for u in self.random.sample(USERS, 2)
            }
            if self.room.version.creators_are_privileged:
                users.pop(ALICE, None)
            elif self.random.random() < 0.8:
                users[ALICE] = 100
            extra = {"events": {"m.room.power_levels": self.random.choice((50, 60))}}
            return self.room.levels(sender, users, extra=extra, **options)
        if choice == 1:
            rule = self.random.choice(("public", "invite", "knock"))
            return self.room.join_rule(sender, rule, **options)
        if choice in (2, 3):
            return self.room.member(sender, self.random.choice(("join", "leave")), **options)
        if choice == 4:
            membership = self.random.choice(("ban", "leave", "invite"))
            return self.room.member(sender, membership, target, **options)
        content = {"n": self.random.randrange(3)}
        return self.room.send("m.room.topic", sender, content, "", **options)

    def pick(self, count: int) -> list[StateIds]:
        return [self.random.choice(self.nodes)[1] for _ in range(count)]
