"""Real servers over a real database that a test breaks: processes, kill -9, a proxy in between.

1. The servers are `freehold serve` processes as the lab runs them: TLS, names by overrides, each
   with its own database in one embedded PostgreSQL. It runs with `fsync = off`: killed processes
   lose nothing by it, only a machine without power would.
2. Between the servers named in `behind_proxy` and PostgreSQL stands a `DatabaseProxy`.
3. Limits that a test would have to wait for are shortened in the servers' processes (`SHORTER`).
4. A server's time of day is off by the seconds that the file `clock` in its folder says: the
   launcher here adds them; no server has such an option.
5. With links, each server is reached by the others over a `Link`, which can be cut or stalled.
6. Every wait is for a condition and has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from lab.certificates import write_private
from lab.processes import Child, start_child
from lab.running import Lab, until_ready
from lab.topology import Ports, SavedPlan, ServerPlan, free_ports, save, server_names
from local_postgres import EmbeddedCluster
from tests.conftest import FAST
from tests.faults.database_proxy import DatabaseProxy
from tests.faults.link import Link

WAIT_S = 90.0
POLL_S = 0.02

Limits = Mapping[str, Mapping[str, float]]
SHORTER: Limits = {
    "homeserver.limits": {
        "COMMIT_ANSWER_S": 1.5,
        "DATABASE_COMMAND_S": 3,
        "DATABASE_WAIT_S": 2,
        "LOG_OWNER_CHECK_S": 0.5,
        "RESTART_WAIT_S_MOST": 2.0,
        "PUSH_RETRY_S_MIN": 0.1,
        "PUSH_RETRY_S_MAX": 1.0,
        "PUSH_BADGE_PAUSE_S": 0.1,
    },
    "federation.limits": {"BACKOFF_S_MAX": 1.5},
}
LAUNCHER = """
import importlib, json, os, sys
for module, values in json.loads(sys.argv.pop(1)).items():
    loaded = importlib.import_module(module)
    for name, value in values.items():
        assert hasattr(loaded, name), name
        setattr(loaded, name, value)
from homeserver.clock import SystemClock
clock, now_ms = sys.argv.pop(1), SystemClock.now_ms
def set_now_ms(self):
    if not os.path.exists(clock):
        return now_ms(self)
    with open(clock) as file:
        return now_ms(self) + 1000 * int(file.read() or 0)
SystemClock.now_ms = set_now_ms
from homeserver.cli import main
main(prog_name="freehold")
"""


def clock_path(server: ServerPlan) -> Path:
    """Return the file that says by how many seconds a server's time of day is off."""
    return server.folder / "clock"


def impatient_command(server: ServerPlan, *, shorter: Limits = SHORTER) -> list[str]:
    """Return the command that runs a server with shorter limits."""
    launcher = [sys.executable, "-c", LAUNCHER, json.dumps(shorter), str(clock_path(server))]
    return [*launcher, "serve", "--config", str(server.config_path)]


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float = WAIT_S
) -> None:
    """Wait for a condition; the test fails with `what` when it doesn't come true in time."""
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"in {within_s} s: {what}"
        await asyncio.sleep(POLL_S)


class BreakableDatabase:
    """The lab's database (`lab.database.LabDatabase`), which can be killed, with its proxies."""

    def __init__(self, folder: Path, behind_proxy: Collection[str]) -> None:
        """Prepare; nothing is touched before `start`."""
        quiet = logging.getLogger("freehold.tests.faults")
        quiet.setLevel(logging.CRITICAL)
        self.cluster = EmbeddedCluster(folder, settings=FAST, log=quiet)
        self._folder = folder
        self._behind_proxy = behind_proxy
        self.proxies: dict[str, DatabaseProxy] = {}
        self.is_up = True

    async def start(self) -> None:
        """Start PostgreSQL."""
        await self.cluster.start()

    async def stop(self) -> None:
        """End PostgreSQL and the proxies."""
        for proxy in self.proxies.values():
            await proxy.close()
        await self.cluster.stop()

    async def kill(self) -> None:
        """Kill the postmaster (kill -9); it stays down until `restart`."""
        os.kill(self.cluster.pid, signal.SIGKILL)
        await self.cluster.stop()  # its supervisor would start it again at once
        self.is_up = False

    async def kill_under_supervisor(self) -> None:
        """Kill the postmaster; its supervisor starts it again. Returns when it was replaced."""
        pid = self.cluster.pid
        os.kill(pid, signal.SIGKILL)

        async def is_another() -> bool:
            return self.cluster.pid != pid

        await until(is_another, "the supervisor starts PostgreSQL again")

    async def restart(self) -> None:
        """Start PostgreSQL again: it recovers from its log."""
        await self.cluster.start()
        self.is_up = True

    async def address_of(self, name: str) -> str:
        """Return a server's database address; of the proxy's socket for those behind one."""
        address = await self.cluster.ensure_database(name)
        server = name.rpartition("_")[2]
        if server not in self._behind_proxy:
            return address
        if server not in self.proxies:
            proxy = self.proxies[server] = DatabaseProxy(self.cluster.socket_dir)
            await proxy.start()
        return address.replace(str(self.cluster.socket_dir), str(self.proxies[server].folder))

    def operator_address(self, name: str) -> str:
        """Return the superuser's address of a database."""
        return self.cluster.superuser_dsn(name)

    def raw_folder(self) -> Path | None:
        """Return PostgreSQL's data folder."""
        return self.cluster.cluster_dir

    def log_path(self) -> Path | None:
        """Return PostgreSQL's log."""
        return self.cluster.log_path


class Cluster:
    """Servers that run, and how to break them."""

    def __init__(
        self, lab: Lab, database: BreakableDatabase, links: Mapping[str, Link] | None = None
    ) -> None:
        """Take a lab that is up; `links` lead to the servers that they are named by."""
        self.lab = lab
        self.database = database
        self.links = links or {}

    def url(self, name: str) -> str:
        """Return where clients reach a server."""
        return self.lab.topology.server(name).http_url

    def plan(self, name: str) -> ServerPlan:
        """Return a server's files and ports."""
        return self.lab.topology.server(name)

    def interrupt(self, name: str, order: signal.Signals) -> None:
        """Send a signal to a server that doesn't end it."""
        self.lab._children[name].process.send_signal(order)

    def set_clock(self, name: str, off_s: int) -> None:
        """Set a server's time of day, off by some seconds from the real one."""
        path = clock_path(self.plan(name))
        path.with_suffix(".new").write_text(str(off_s))
        path.with_suffix(".new").rename(path)

    async def kill(self, name: str) -> None:
        """Kill a server (kill -9)."""
        await self.lab.kill_server(name)

    async def start(self, name: str) -> None:
        """Start a server again."""
        await self.lab.start_server(name)

    async def start_missing(self) -> None:
        """Start whatever is down."""
        if not self.database.is_up:
            await self.database.restart()
        for proxy in self.database.proxies.values():
            proxy.resume()
        for server in self.lab.topology.servers:
            child = self.lab._children.get(server.name)
            if child is None or child.has_ended:
                await self.start(server.name)

    async def end(self, name: str, order: signal.Signals) -> tuple[int, float]:
        """Send a signal to a server; return its status, and the seconds it took to end."""
        child = self.lab._children.pop(name)
        began = time.monotonic()
        child.process.send_signal(order)
        status = await asyncio.to_thread(child.process.wait, 20)
        return status, time.monotonic() - began

    async def ended_by_itself(self, name: str) -> int:
        """Wait until a server's process has ended without our order; return its status."""
        child = self.lab._children.pop(name)
        return await asyncio.to_thread(child.process.wait, 20)

    async def start_second(self, name: str) -> tuple[Child, str]:
        """Start a second process on a server's database and files, at a port of its own; return
        it, and where clients reach it, once it answers."""
        plan = self.plan(name)
        port = next(free_ports(1, {1, plan.ports.tls, plan.ports.http}))
        config = plan.folder / "second.toml"
        text = plan.config_path.read_text()
        listener = f'[[listeners]]\naddress = "127.0.0.1:{port}"\n'
        before, after = text.index("[[listeners]]"), text.index("[registration]")
        write_private(config, (text[:before] + listener + text[after:]).encode())
        second = replace(plan, ports=Ports(port, port))
        command = impatient_command(plan)
        child = start_child(f"{name} again", [*command[:-1], str(config)], plan.log_path)
        await until_ready(second, child)
        return child, second.http_url

    def log_of(self, name: str) -> str:
        """Return all that a server has said so far."""
        return self.plan(name).log_path.read_text(errors="replace")


@asynccontextmanager
async def running_cluster(
    folder: Path,
    count: int,
    *,
    behind_proxy: Sequence[str] = (),
    linked: bool = False,
    shorter: Limits = SHORTER,
) -> AsyncIterator[Cluster]:
    """Start `count` servers `hs1`, `hs2`, ... with a database below a folder; end them after."""
    home = folder / "lab"
    names = server_names(count)
    home.mkdir(mode=0o711)
    home.chmod(0o711)  # whatever the umask: PostgreSQL's account must pass
    ports = _unusual_ports(names)
    save(home, SavedPlan("faults", ports))
    database = BreakableDatabase(home / "postgres", behind_proxy)
    async with AsyncExitStack() as stack:
        links: dict[str, Link] = {}
        for name in names if linked else ():
            links[name] = await stack.enter_async_context(Link(ports[name].tls))

        def command(server: ServerPlan) -> list[str]:
            _lead_over_links(server, {ports[name].tls: link for name, link in links.items()})
            return impatient_command(server, shorter=shorter)

        lab = await stack.enter_async_context(Lab(home, names, database, command=command))
        yield Cluster(lab, database, links)


def _lead_over_links(server: ServerPlan, links: Mapping[int, Link]) -> None:
    """Put the links' addresses into a server's configuration, in place of other servers' ports."""
    text = server.config_path.read_text()
    for port, link in links.items():
        if port != server.ports.tls:
            text = text.replace(f'127.0.0.1:{port}"', f'127.0.0.1:{link.port}"')
    write_private(server.config_path, text.encode())


def _unusual_ports(names: Sequence[str]) -> dict[str, Ports]:
    """Return ports that the system gives: other tests' labs begin at the usual ones."""
    taken: set[int] = set()
    ports: list[int] = []
    for _ in range(2 * len(names)):
        ports.append(next(free_ports(1, {1, *taken})))
        taken.add(ports[-1])
    return {name: Ports(ports[2 * i], ports[2 * i + 1]) for i, name in enumerate(names)}
