"""After healing: each server sends one event that all receive, and then all have the same room.

Where an event was soft-failed somewhere, or more heads are open than one event names, it takes
another round. Before that, what is missing is fetched from those who have it, back to the room's
creation: then nothing rests on another server's word alone.
"""

from __future__ import annotations

from federation.events.ids import EventId, ServerName, UserId
from federation.graph.building import EventDraft
from tests.simulation.checks import members
from tests.simulation.disks import RoomDisks, current_state, difference, room_row_id
from tests.simulation.memory_tables import Tables
from tests.simulation.oracle import StateIds
from tests.simulation.server import SimulatedServer
from tests.simulation.workload import Workload
from tests.simulation.world import PlayedRoom, World

_BACKFILLS_MAX = 60


class Convergence:
    """Brings a world's servers together, and compares them."""

    def __init__(self, world: World, workload: Workload) -> None:
        self._world, self._workload = world, workload

    async def fill_gaps(self) -> None:
        """Every server asks for the history that it lacks, as long as that brings anything."""
        for room in self._world.rooms:
            for server in self._world.servers:
                for _ in range(_BACKFILLS_MAX):
                    if not await self._workload.backfill(server, room, 100):
                        break
        await self._world.settle()

    async def check(self) -> None:
        """Compares all rooms; what is wrong goes to `world.found`."""
        for room in self._world.rooms:
            heads = max(_heads_count(server.disk.tables, room) for server in self._world.servers)
            self._world.most_heads[room.room_id] = heads
            differences: list[str] = []
            for _ in range(3 + heads // 9):
                for server in self._world.servers:
                    await self._speak(room, server)
                differences = await self._differences(room)
                if not differences:
                    break
            for one in differences:
                self._world.found(one)

    async def _differences(self, room: PlayedRoom) -> list[str]:
        disks = RoomDisks(self._world, room)
        inside = members(disks)
        views: list[tuple[ServerName, list[EventId], StateIds]] = []
        for server in self._world.servers:
            speaker = await self._speaker(room, server)
            if server.name not in inside or speaker is None:
                continue
            if self._is_heard(room, speaker, inside):
                heads, state = await self._view(room, server)
                if disks.complete(server.name).issuperset(heads):
                    views.append((server.name, heads, state))
                else:
                    self._world.met["servers that never had the whole graph"] += 1
        found = []
        for name, heads, state in views[1:]:
            first, first_heads, first_state = views[0]
            if state != first_state:
                found.append(
                    f"{name} and {first} have different states: {difference(state, first_state)}"
                )
            if heads != first_heads:
                found.append(f"{name} has heads {heads}, {first} has {first_heads}")
        return found

    def _is_heard(self, room: PlayedRoom, user: UserId, inside: set[ServerName]) -> bool:
        """Do all servers in the room see the user as joined? If not, what it says is soft-failed
        somewhere for ever, and its branch never merged there."""
        disks = [one.disk.tables for one in self._world.servers if one.name in inside]
        if all(_is_joined(tables, room, user) for tables in disks):
            return True
        self._world.met["servers that others don't hear"] += 1
        return False

    async def _speaker(self, room: PlayedRoom, server: SimulatedServer) -> UserId | None:
        """A joined user of the server; one whom the other servers see as joined too, if any."""
        hot = await self._world.room(server, room)
        joined: list[UserId] = []
        for user in self._world.users_of(server):
            ref = hot.view.state.get(("m.room.member", user)) if hot else None
            if ref is not None and ref.membership == "join":
                joined.append(user)
        tables = [one.disk.tables for one in self._world.servers]
        return max(
            joined,
            key=lambda user: sum(_is_joined(one, room, user) for one in tables),
            default=None,
        )

    async def _speak(self, room: PlayedRoom, server: SimulatedServer) -> None:
        user = await self._speaker(room, server)
        if user is not None:
            content = {"msgtype": "m.text", "body": "the end"}
            await self._world.send(room, EventDraft("m.room.message", user, content))
            await self._world.settle()

    async def _view(
        self, room: PlayedRoom, server: SimulatedServer
    ) -> tuple[list[EventId], StateIds]:
        hot = await self._world.room(server, room)
        assert hot is not None, "it has a joined user"
        state = {key: ref.event_id for key, ref in hot.view.state.items()}
        return sorted(head.event_id for head in hot.view.heads), state


def _heads_count(tables: Tables, room: PlayedRoom) -> int:
    row_id = room_row_id(tables, room.room_id)
    row = None if row_id is None else tables.heads.get(row_id)
    return 1 if row is None else len(row["heads"])


def _is_joined(tables: Tables, room: PlayedRoom, user: UserId) -> bool:
    event_id = current_state(tables, room.room_id).get(("m.room.member", user))
    return event_id is not None and bool(tables.events[event_id]["membership"] == "join")
