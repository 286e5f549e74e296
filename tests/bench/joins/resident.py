"""The server through which the other joins, as a process of its own, so that figures don't mix.

    python -m tests.bench.joins.resident DATABASE_URL MEMBERS FOLDER POSTMASTER

It writes a line of JSON when it listens, waits for a line, measures what follows until the next
line, and writes what that cost.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from federation.events.ids import ServerName, UserId
from federation.graph.building import Edges, EventDraft, build_event
from federation.ports import JoinedRoom
from tests.bench.joins.measuring import measured, settle_memory
from tests.bench.joins.real_server import Net, RealServer, listening, real_server
from tests.bench.joins.signed_room import (
    MEMBERS_PER_SERVER,
    RESIDENT,
    VERSION,
    SignedRoom,
    key_of,
    member_server,
    stored_keys,
)


async def import_room(server: RealServer, room: SignedRoom, now_ms: int) -> None:
    """Makes a room the server's, with the join of one more user of its own."""
    user = UserId(f"@another:{RESIDENT}")
    cited = [("m.room.power_levels", ""), ("m.room.join_rules", "")]
    join = build_event(
        EventDraft("m.room.member", user, {"membership": "join"}, user),
        version=VERSION,
        room_id=room.room_id,
        edges=Edges(
            [room.events[-1].event_id],
            [room.state[key].event_id for key in cited],
            len(room.events) + 1,
        ),
        now_ms=now_ms + len(room.events),
        server_name=RESIDENT,
        key=key_of(RESIDENT),
    )
    state = list(room.state.values())
    joined = JoinedRoom(room.room_id, VERSION, join, state, room.events)
    await server.engine.remote_event_writer.import_join(joined)


def leave_alone(server: RealServer, members: int) -> None:
    """The members' servers don't exist: that nobody delivers the join to them costs nothing."""
    for number in range(0, members, MEMBERS_PER_SERVER):
        server.outbound.requests.backoffs.failed(
            member_server(number), "not there", retry_after_s=3_600
        )


async def serve(url: str, members: int, folder: Path, postmaster: int) -> None:
    """The process's work."""
    now_ms = int((folder / "now").read_text())
    net = Net({}, str(folder / "authority.pem"))
    async with real_server(ServerName(RESIDENT), url, net, stored_keys(members, now_ms)) as server:
        room_id = await _with_room(server, members, now_ms)
        settle_memory()
        async with listening(server, str(folder / "resident.pem")) as port:
            _tell({"port": port, "room_id": room_id})
            leave_alone(server, members)
            await asyncio.to_thread(sys.stdin.readline)
            async with measured(postmaster) as cost:
                _tell({})
                await asyncio.to_thread(sys.stdin.readline)
            _tell(asdict(cost))


async def _with_room(server: RealServer, members: int, now_ms: int) -> str:
    room = SignedRoom(members, now_ms)
    await import_room(server, room, now_ms)
    return room.room_id


def _tell(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    url, members, folder, postmaster = sys.argv[1:]
    uvloop.run(serve(url, int(members), Path(folder), int(postmaster)))
