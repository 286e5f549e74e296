"""A lab that runs: started whole or not at all, ended whole, nothing left behind."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from lab.database import LabDatabase
from lab.processes import clean_environment, tail
from lab.running import Lab, LabError, end_running_lab, lock_path
from lab.topology import ServerPlan

# A server that only answers what the lab asks to see whether it is ready.
STUB = textwrap.dedent(
    """
    import http.server, signal, sys
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")
        def log_message(self, *args): ...
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(0))
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
    """
)
# A lab in a process of its own, which prints its children's numbers and then waits.
OUTER = textwrap.dedent(
    """
    import asyncio, json, sys
    from pathlib import Path
    from lab.database import EmbeddedDatabase
    from lab.running import Lab

    async def main():
        home = Path(sys.argv[1])
        stub = Path(sys.argv[2]).read_text()
        command = lambda server: [sys.executable, "-c", stub, str(server.ports.http)]
        database = EmbeddedDatabase(home / "postgres")
        async with Lab(home, ["hs1", "hs2"], database, command=command) as lab:
            pids = [child.process.pid for child in lab._children.values()]
            print(json.dumps([*pids, database._cluster.pid]), flush=True)
            await lab.watch()

    asyncio.run(main())
    """
)


class NoDatabase:
    """A database for labs whose servers need none; it counts what is asked of it."""

    def __init__(self, problem: str = "") -> None:
        """Fail at the start with a problem, if one is given."""
        self.problem = problem
        self.stopped = 0

    async def start(self) -> None:
        """Start, or fail."""
        if self.problem:
            raise ConnectionError(self.problem)

    async def stop(self) -> None:
        """Count."""
        self.stopped += 1

    async def address_of(self, name: str) -> str:
        """Returns some address."""
        return f"postgresql:///{name}"

    def operator_address(self, name: str) -> str:
        """Returns some address."""
        return f"postgresql:///{name}"

    def raw_folder(self) -> Path | None:
        """Returns nothing."""
        return None

    def log_path(self) -> Path | None:
        """Returns nothing."""
        return None


def stub_command(server: ServerPlan) -> list[str]:
    """Returns the command of a stub server."""
    return [sys.executable, "-c", STUB, str(server.ports.http)]


def make_lab(
    home: Path,
    database: LabDatabase | None = None,
    command: Callable[[ServerPlan], list[str]] = stub_command,
) -> Lab:
    """Returns a lab of two stub servers."""
    return Lab(home, ["hs1", "hs2"], database or NoDatabase(), command=command)


def is_alive(pid: int) -> bool:
    """Returns whether a process runs (a zombie does not)."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_servers_answer_when_the_lab_is_up_and_are_gone_after(tmp_path: Path) -> None:
    """Up means that every server answers; down, that no process stays."""
    lab = make_lab(tmp_path / "lab")
    async with lab:
        pids = [child.process.pid for child in lab._children.values()]
        async with aiohttp.ClientSession() as session:
            for server in lab.topology.servers:
                async with session.get(f"{server.http_url}/_matrix/client/versions") as answer:
                    assert answer.status == 200
        assert lab.authority_path.exists()
    assert not any(is_alive(pid) for pid in pids)


async def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    """The end of its log is in the error; the other server and the database are ended."""
    database = NoDatabase()

    def command(server: ServerPlan) -> list[str]:
        broken = [sys.executable, "-c", "raise SystemExit('no such colour: mauve')"]
        return broken if server.name == "hs2" else stub_command(server)

    lab = make_lab(tmp_path / "lab", database, command)
    with pytest.raises(LabError, match=r"hs2 did not start[\s\S]*mauve") as failure:
        async with lab:
            pass
    assert "status 1" in str(failure.value)
    assert database.stopped == 1
    assert not any(not child.has_ended for child in lab._children.values())


async def test_a_database_that_fails_ends_the_start(tmp_path: Path) -> None:
    """Its own words are passed on."""
    lab = make_lab(tmp_path / "lab", NoDatabase("the disk is full"))
    with pytest.raises(LabError, match="the disk is full"):
        async with lab:
            pass


async def test_two_labs_of_one_folder_are_refused(tmp_path: Path) -> None:
    """The second one says how to end the first."""
    home = tmp_path / "lab"
    async with make_lab(home):
        with pytest.raises(LabError, match=rf"process {os.getpid()}.*freehold-lab down"):
            async with make_lab(home):
                pass


async def test_a_server_that_ends_is_noticed(tmp_path: Path) -> None:
    """The watch says who ended, how, and what the log says."""
    async with make_lab(tmp_path / "lab") as lab:
        lab._children["hs2"].process.kill()
        with pytest.raises(LabError, match="hs2 ended with status -9"):
            await asyncio.wait_for(lab.watch(), 30)


async def test_a_server_can_be_killed_and_started_again(tmp_path: Path) -> None:
    """After kill -9 of one server the others go on, as fault tests need."""
    async with make_lab(tmp_path / "lab") as lab:
        await lab.kill_server("hs1")
        await lab.start_server("hs1")
        assert await lab.stop_server("hs1")


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the death signal is Linux's")
@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_stays_when_the_lab_is_ended_or_killed(
    reachable_folder: Path, order: signal.Signals
) -> None:
    """Servers and database die with the lab, whatever ends it."""
    stub_path = reachable_folder / "stub.py"
    stub_path.write_text(STUB)
    outer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OUTER,
        str(reachable_folder / "lab"),
        str(stub_path),
        stdout=asyncio.subprocess.PIPE,
    )
    assert outer.stdout is not None
    pids = json.loads(await asyncio.wait_for(outer.stdout.readline(), 60))
    assert all(is_alive(pid) for pid in pids)
    outer.send_signal(order)
    await outer.wait()
    async with asyncio.timeout(40):
        while any(is_alive(pid) for pid in pids):
            await asyncio.sleep(0.02)


async def test_down_without_a_lab_says_so(tmp_path: Path) -> None:
    """Ending without a running lab is not an error, whether there was one before or not."""
    assert not end_running_lab(tmp_path)
    lock_path(tmp_path).write_text("999999999\n")
    assert not end_running_lab(tmp_path)


def test_settings_of_the_environment_do_not_reach_the_servers() -> None:
    """A variable of somebody's shell must not override a server's file."""
    cleaned = clean_environment({"FREEHOLD_SERVER_NAME": "x", "HOME": "/root"})
    assert "FREEHOLD_SERVER_NAME" not in cleaned
    assert cleaned["HOME"] == "/root"


def test_the_tail_of_a_log_is_its_end(tmp_path: Path) -> None:
    """Only the last lines, and words for a log that is missing or empty."""
    path = tmp_path / "log"
    assert tail(path) == "(no log)"
    path.write_text("")
    assert tail(path) == "(the log is empty)"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    assert tail(path, 2) == "line 98\nline 99"
