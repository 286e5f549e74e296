"""Figures: joining a large room through another server, over TLS, both with PostgreSQL.

The resident is a process of its own. What it gives is checked in full by the server that joins:
formats, hashes, IDs, signatures, authorisation; kept as outliers; made current by one unit.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from federation.events.ids import RoomId, UserId
from federation.transport.joining.joining import MembershipRequest
from local_postgres import EmbeddedCluster
from tests.bench.joins.measuring import Cost, Phases, Stalls, measured, settle_memory
from tests.bench.joins.real_server import Net, RealServer, real_server
from tests.bench.joins.signed_room import JOINER, RESIDENT, stored_keys
from tests.conftest import BackgroundLoop, drop_database

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
SIZES = [int(size) for size in os.environ.get("BENCH_MEMBERS", "1000 10000 25000").split()]
LINE_BYTES_MAX = 2**20


def report(line: str) -> None:
    sys.stdout.write(line + "\n")


@dataclass(frozen=True)
class Figures:
    """What a join cost, on both sides."""

    members: int
    events: int
    joiner: Cost
    resident: Cost
    phases: Phases


@asynccontextmanager
async def resident_process(
    url: str, members: int, folder: Path, postmaster: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The other server."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.joins.resident"),
        *(url, str(members), str(folder), str(postmaster)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(process: asyncio.subprocess.Process) -> Any:
    """What the other process writes next."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "the resident server ended early"
    return json.loads(line)


def tell(process: asyncio.subprocess.Process) -> None:
    """Lets the other process go on."""
    assert process.stdin is not None
    process.stdin.write(b"\n")


def timed_phases(server: RealServer, patch: pytest.MonkeyPatch) -> Phases:
    """Counts the parts of a join of a server."""
    phases = Phases()
    outbound, engine = server.outbound, server.engine
    imports = engine.remote_event_writer._imports
    for name, owner, method in [
        ("template, request, answer", outbound.requests.client, "send"),
        ("parsing, hashes, IDs", outbound.fetcher, "parse"),
        ("signatures", outbound.signatures, "check_many"),
        ("authorisation", outbound.fetcher, "check"),
        ("outliers into PostgreSQL", imports, "store_outliers"),
        ("the unit that makes it current", engine.remote_event_writer, "import_join"),
        ("the rest", outbound.joining, "join"),
    ]:
        patch.setattr(owner, method, phases.of(name, getattr(owner, method)))
    return phases


async def join_of(urls: list[str], members: int, folder: Path, postmaster: int) -> Figures:
    """One join of a room with so many members."""
    now_ms = time.time_ns() // 1_000_000 - 3_600_000
    (folder / "now").write_text(str(now_ms))
    async with resident_process(urls[0], members, folder, postmaster) as resident:
        listens = await told(resident)
        net = Net({RESIDENT: f"127.0.0.1:{listens['port']}"}, str(folder / "authority.pem"))
        keys = stored_keys(members, now_ms)
        with pytest.MonkeyPatch.context() as patch:
            async with real_server(JOINER, urls[1], net, keys) as joiner:
                phases = timed_phases(joiner, patch)
                settle_memory()
                tell(resident)
                await told(resident)
                room_id = RoomId(listens["room_id"])
                async with measured(postmaster) as cost:
                    wish = MembershipRequest(
                        room_id, UserId(f"@new:{JOINER}"), {"displayname": "New"}
                    )
                    await joiner.outbound.joining.join(wish, [RESIDENT])
                tell(resident)
                other = await told(resident)
                other["stalls"] = Stalls(**other["stalls"])
                async with joiner.database.connection() as connection:
                    events = await connection.fetchval("SELECT count(*) FROM events")
                room = await joiner.engine.rooms.get(room_id)
                assert room is not None
                assert room.view.joined == members + 3
    return Figures(members, events, cost, Cost(**other), phases)


def certificates(folder: Path) -> None:
    """An authority, and the resident's certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    issued = authority.issue_cert(RESIDENT)
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "resident.pem")


def test_join_of_a_large_room(
    background_loop: BackgroundLoop, postgres_cluster: EmbeddedCluster, tmp_path: Path
) -> None:
    certificates(tmp_path)
    report(f"\njoins; load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    done = []
    for members in SIZES:
        names = [f"b_{secrets.token_hex(8)}" for _ in range(2)]
        urls = [background_loop.run(postgres_cluster.ensure_database(name)) for name in names]
        done.append(uvloop.run(join_of(urls, members, tmp_path, postgres_cluster.pid)))
        for name in names:
            background_loop.run(drop_database(postgres_cluster, name))
        report_sides(done[-1])
    report_phases(done)


def report_sides(one: Figures) -> None:
    """What each side paid."""
    for side, cost in (("joining ", one.joiner), ("resident", one.resident)):
        report(
            f"{one.members:>6} members, {one.events} events, {side}: {cost.cpu_s:.2f} s of CPU"
            f" ({1e6 * cost.cpu_s / one.events:.0f} us an event), {cost.wall_s:.2f} s,"
            f" PostgreSQL (both) {cost.postgres_s:.2f} s; the loop was held up for at most"
            f" {cost.stalls.late_ms:.0f} ms ({cost.stalls.busy_ms:.0f} of its own CPU);"
            f" memory +{cost.memory_mb:.0f} MB"
        )


def report_phases(done: list[Figures]) -> None:
    """Microseconds of CPU an event, by phase and size."""
    report("CPU of the joining server by phase, us an event (wall clock behind):")
    for name in done[-1].phases.cpu_s:
        figures = [
            f"{1e6 * one.phases.cpu_s.get(name, 0) / one.events:6.1f}"
            f" ({1e6 * one.phases.wall_s.get(name, 0) / one.events:6.1f})"
            for one in done
        ]
        report(f"  {name:<34}" + "  ".join(figures))
