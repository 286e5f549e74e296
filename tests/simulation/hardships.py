"""What happens to servers and links, as the plan of a world has it: partitions, crashes, clocks."""

from __future__ import annotations

import asyncio

from federation.events.ids import ServerName
from tests.simulation.world import Action, World


class Hardships:
    """The blows of fate."""

    def __init__(self, world: World) -> None:
        self._world, self._rng = world, world.rng

    def actions(self) -> list[Action]:
        """What may strike."""
        plan = self._world.plan
        actions: list[Action] = []
        if plan.partitions:
            actions += [self._partition, self._cut_one_way, self._reconnect]
        if plan.crashes:
            actions += [self._crash]
        if plan.clock_jump_ms:
            actions += [self._jump]
        return actions

    def _two(self) -> tuple[ServerName, ServerName]:
        one, other = self._rng.sample([server.name for server in self._world.servers], 2)
        return one, other

    async def _partition(self) -> None:
        one, other = self._two()
        self._world.note(f"cut {one} - {other}")
        self._world.network.cut |= {(one, other), (other, one)}

    async def _cut_one_way(self) -> None:
        one, other = self._two()
        self._world.note(f"cut {one} -> {other}")
        self._world.network.cut.add((one, other))

    async def _reconnect(self) -> None:
        self._world.note("all links up")
        self._world.network.cut.clear()

    async def _crash(self) -> None:
        world, server = self._world, self._rng.choice(self._world.servers)
        for _ in range(self._rng.choice([0, 200])):  # in the middle of a write, if there is one
            if not server.is_up or server.has_staged():
                break
            await asyncio.sleep(0.005)
        if not server.is_up:
            return
        world.note(f"{server.name} crashes")
        world.met["crashes"] += 1
        world.met["crashes that forget what was staged"] += server.has_staged()
        await server.crash()
        await asyncio.sleep(self._rng.random() * self._rng.choice([1, 60]))
        await server.start_up()
        world.note(f"{server.name} is up again")

    async def _jump(self) -> None:
        """A clock is set, forward or back."""
        most = self._world.plan.clock_jump_ms
        server, step = self._rng.choice(self._world.servers), self._rng.randint(-most, most)
        server.clock.skew_ms += step
        self._world.met["clock jumps"] += 1
        self._world.note(f"the clock of {server.name} jumps by {step} ms")
