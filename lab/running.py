"""A lab that runs: its database, its servers, in the right order, up and down.

Rules:
1. One lab process for one data folder, held by a file lock that names it (`freehold-lab down`).
2. Servers start together and are ready when they answer a client; one that ends instead is reported
   with the end of its log.
3. Servers end before their database. What was started is ended, also when a start fails half-way.
"""

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import BinaryIO, Self

import aiohttp

from lab.certificates import ensure_certificates
from lab.database import LabDatabase
from lab.processes import Child, start_child, stop_child, tail
from lab.server_files import ensure_signing_key, write_configuration
from lab.topology import ServerPlan, Topology, make_home, plan
from local_postgres import EmbeddedError
from local_postgres.limits import PID_BYTES_MAX

READY_TIMEOUT_S = 60.0
READY_POLL_S = 0.03
DOWN_TIMEOUT_S = 30.0
WATCH_POLL_S = 0.5

Progress = Callable[[str], None]


class LabError(Exception):
    """The lab can't go on; the text says why and what to do."""


def server_command(server: ServerPlan) -> list[str]:
    """Returns the command that runs a server of the lab."""
    script = Path(sys.executable).with_name("freehold")
    return [str(script), "serve", "--config", str(server.config_path)]


class Lab:
    """Several servers and their database. Use as an async context manager."""

    def __init__(
        self,
        home: Path,
        names: Sequence[str],
        database: LabDatabase,
        *,
        progress: Progress = lambda text: None,
        command: Callable[[ServerPlan], list[str]] = server_command,
    ) -> None:
        """Prepares; nothing is touched before the start."""
        self._home = home.absolute()
        self._names = list(names)
        self._progress = progress
        self._command = command
        self._stack = AsyncExitStack()
        self._children: dict[str, Child] = {}
        self._topology: Topology | None = None
        self._authority_path: Path | None = None
        self.database = database
        self._is_up = False
        self.start_seconds = 0.0

    @property
    def topology(self) -> Topology:
        """Returns the plan. Precondition: started."""
        assert self._topology is not None, "the lab is not started"
        return self._topology

    @property
    def authority_path(self) -> Path:
        """Returns the certificate authority's file. Precondition: started."""
        assert self._authority_path is not None, "the lab is not started"
        return self._authority_path

    async def __aenter__(self) -> Self:
        """Starts everything; what was started is ended again if something fails."""
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(hold_lock(self._home))
            self._topology = plan(self._home, self._names)
            self._authority_path = ensure_certificates(self._topology)
            self._progress("database")
            stack.push_async_callback(self.database.stop)
            await self._start_database()
            stack.push_async_callback(self._stop_servers)
            self._progress(f"servers {', '.join(self._names)}")
            await asyncio.gather(*(self.start_server(name) for name in self._names))
            self._stack = stack.pop_all()
        self._is_up = True
        self.start_seconds = time.monotonic() - started
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends everything: servers first."""
        await self._stack.aclose()

    async def start_server(self, name: str) -> None:
        """Starts one server and returns when it answers. Raises LabError."""
        server = self.topology.server(name)
        child = start_child(name, self._command(server), server.log_path)
        self._children[name] = child
        await until_ready(server, child)

    async def stop_server(self, name: str) -> bool:
        """Ends one server as an operator would; returns whether it ended well by itself."""
        return await stop_child(self._children.pop(name))

    async def kill_server(self, name: str) -> None:
        """Kills one server without a warning (kill -9)."""
        child = self._children.pop(name)
        child.process.kill()
        await asyncio.to_thread(child.process.wait)

    async def watch(self) -> None:
        """Never returns; refuses with LabError when a server ends that should run."""
        while True:
            for name, child in list(self._children.items()):
                if child.has_ended:
                    raise LabError(
                        f"{name} ended with status {child.process.returncode}. The end of "
                        f"{child.log_path}:\n{tail(child.log_path)}"
                    )
            await asyncio.sleep(WATCH_POLL_S)

    async def _start_database(self) -> None:
        try:
            await self.database.start()
            for server in self.topology.servers:
                address = await self.database.address_of(server.database_name)
                write_configuration(
                    server,
                    self.topology,
                    database_url=address,
                    authority_path=self.authority_path,
                )
                ensure_signing_key(server)
        except (EmbeddedError, ConnectionError) as problem:
            raise LabError(f"The database can't be started: {problem}") from problem

    async def _stop_servers(self) -> None:
        children = list(self._children.values())
        self._children.clear()
        ended_well = await asyncio.gather(*(stop_child(child) for child in children))
        for child, well in zip(children, ended_well, strict=True):
            if not well and self._is_up:
                self._progress(f"{child.name} did not end well; see {child.log_path}")


async def until_ready(server: ServerPlan, child: Child) -> None:
    """Waits until a server answers a client. Raises LabError if it ends, or takes too
    long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            if child.has_ended:
                raise LabError(
                    f"{server.name} did not start (status {child.process.returncode}). The end of "
                    f"{server.log_path}:\n{tail(server.log_path)}"
                )
            if await answers(session, server):
                return
            await asyncio.sleep(READY_POLL_S)
    raise LabError(
        f"{server.name} does not answer at {server.http_url} after {READY_TIMEOUT_S:.0f} s. The "
        f"end of {server.log_path}:\n{tail(server.log_path)}"
    )


async def answers(session: aiohttp.ClientSession, server: ServerPlan) -> bool:
    """Returns whether a server answers a client's first question."""
    try:
        async with session.get(f"{server.http_url}/_matrix/client/versions") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


def lock_path(home: Path) -> Path:
    """Returns the file that a running lab of a folder holds."""
    return home / "lab.lock"


def hold_lock(home: Path) -> BinaryIO:
    """Returns the folder's lock, held until closed. Raises LabError if a lab runs there."""
    try:
        make_home(home)
    except OSError as problem:
        text = f"The folder {home} can't be made: {problem}. Choose one by --data."
        raise LabError(text) from problem
    lock = lock_path(home).open("a+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        pid = read_holder(lock)
        lock.close()
        raise LabError(
            f"A lab runs in {home} already (process {pid}). End it with: "
            f"freehold-lab down --data {home}"
        ) from problem
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n".encode())
    lock.flush()
    return lock


def read_holder(lock: BinaryIO) -> int | None:
    """Returns the process number that a lock file names."""
    lock.seek(0)
    text = lock.read(PID_BYTES_MAX).decode(errors="replace").strip()
    return int(text) if text.isdigit() else None


def end_running_lab(home: Path) -> bool:
    """Ends the lab that runs in a folder, and waits until it has. Returns False if none runs.

    Raises LabError if it does not end in time.
    """
    path = lock_path(home)
    if not path.exists():
        return False
    with path.open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = read_holder(lock)
        else:
            return False
        if pid is None:
            raise LabError(f"{path} names no process; end the lab by hand")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(READY_POLL_S)
            else:
                return True
    raise LabError(f"The lab (process {pid}) does not end; kill -9 it: nothing will stay")
