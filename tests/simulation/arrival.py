"""The state at an event is the same in whatever order the events came.

The final graph is handed to a fresh engine, which has but the room's beginning, in random orders:
what can't be decided yet comes again later, some of it is known as an outlier before it gets its
place. Then the verdicts and states are compared with the oracle's.
"""

from __future__ import annotations

import random

from federation.events.event import Event
from federation.events.ids import ServerName
from federation.events.signatures import signed_parts
from federation.graph.admission import Dropped
from federation.ports import StoredServerKey
from federation.transport.inbound.gap_filler import NotAtHand
from tests.simulation.checks import GraphCheck
from tests.simulation.disks import RoomDisks, read_room
from tests.simulation.network import Network
from tests.simulation.server import EPOCH_MS, SimulatedServer
from tests.simulation.world import World

_YEAR_MS = 365 * 24 * 3_600_000


async def check_arrival(world: World, disks: RoomDisks) -> None:
    """Checks one random order of the events of the world's first room."""
    rng = random.Random(world.rng.random())
    server = await _fresh(world, rng)
    known = read_room(server.disk.tables, disks.room)
    left = [
        event
        for event in disks.oracle.order
        if event.event_id in disks.oracle.before and event.event_id not in known
    ]
    rng.shuffle(left)
    while left:
        later = [event for event in left if not await _hand_in(server, event, rng, world)]
        if len(later) == len(left):
            world.found(f"in another order {len(left)} events can't be decided")
            break
        left = later
    await server.crash()
    name = ServerName("fresh")
    disks.of[name] = read_room(server.disk.tables, disks.room)
    GraphCheck(name, server.disk.tables, disks, world.found).check()
    del disks.of[name]
    world.met["graphs handed in in another order"] += 1


async def _fresh(world: World, rng: random.Random) -> SimulatedServer:
    """The first server as it was when only its own events were in the room, by itself, with all
    keys."""
    first = world.servers[0]
    network = Network(random.Random(rng.random()))
    server = SimulatedServer(first.name, network, random.Random(rng.random()), world.found)
    server.key = first.key
    assert world.beginning is not None, "the world has begun"
    server.disk.tables = world.beginning.copy()
    for other in world.servers:
        place = other.name, other.key.key_id
        key = other.key.verify_key.encoded
        server.disk.keys.keys[place] = StoredServerKey(*place, key, EPOCH_MS + _YEAR_MS)
    await server.start_up()
    return server


async def _hand_in(server: SimulatedServer, event: Event, rng: random.Random, world: World) -> bool:
    """Has it a verdict now?"""
    try:
        verdict = await server.filler.accept_at_hand(signed_parts(event))
    except NotAtHand:
        if rng.random() < 0.1:
            await server.fetcher.keep_outliers([event])
        return False
    if isinstance(verdict, Dropped):
        world.found(f"in another order {event.event_id} is dropped: {verdict.reason}")
    return True
