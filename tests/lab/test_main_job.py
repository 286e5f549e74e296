"""The main job, end to end, as a person runs it: real servers, a real database, real TLS."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

COMMAND = Path(sys.executable).with_name("freehold-lab")
START_TIMEOUT_S = 90
LINUX = sys.platform.startswith("linux")


async def start(*arguments: str) -> Process:
    """Starts the lab's command in a terminal of its own width."""
    environment = {**os.environ, "COLUMNS": "160"}
    return await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdout=PIPE, stderr=STDOUT, env=environment
    )


async def run(*arguments: str) -> tuple[int | None, str]:
    """Runs the lab's command to its end; returns status and output."""
    process = await start(*arguments)
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def read_until(process: Process, words: str) -> str:
    """Returns the output up to a line that has certain words."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(START_TIMEOUT_S):
        while words not in seen:
            line = await process.stdout.readline()
            assert line, f"the lab ended early:\n{seen}"
            seen += line.decode()
    return seen


def processes_of(folder: Path) -> list[str]:
    """Returns the commands of living processes that name a folder: servers, database, lab."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


async def until_none_stays(folder: Path) -> None:
    """Returns when no process of a lab lives any more."""
    async with asyncio.timeout(40):
        while processes_of(folder):
            await asyncio.sleep(0.05)


async def test_the_story_comes_true_and_again_on_kept_data(reachable_folder: Path) -> None:
    """Three servers, one room, all steps; operators find nothing but the control; twice."""
    for _ in range(2):
        status, output = await run("story", "--once", "--data", str(reachable_folder / "lab"))
        assert status == 0, output
        assert "everyone read what was for them" in output
        assert "7 messages in 4 Megolm sessions" in output
        assert "answer after" in output
    if LINUX:
        assert processes_of(reachable_folder) == []


@pytest.mark.skipif(not LINUX, reason="processes are found by /proc")
@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_no_process_stays_whatever_ends_the_lab(
    reachable_folder: Path, order: signal.Signals
) -> None:
    """Killed, interrupted or told to end: servers and database go with the lab."""
    folder = reachable_folder / "lab"
    lab = await start("up", "3", "--data", str(folder))
    await read_until(lab, "Ctrl-C ends it")
    assert len([one for one in processes_of(folder) if "serve" in one]) == 3
    assert any("postgres" in one for one in processes_of(folder))
    lab.send_signal(order)
    output, _ = await lab.communicate()
    if order is not signal.SIGKILL:
        assert lab.returncode == 0, output.decode()
        assert processes_of(folder) == []
        assert "did not end well" not in output.decode()
    await until_none_stays(folder)


async def test_down_ends_the_lab_of_a_folder(reachable_folder: Path) -> None:
    """From another terminal; the lab's own status is 0."""
    folder = reachable_folder / "lab"
    lab = await start("up", "1", "--data", str(folder))
    await read_until(lab, "Ctrl-C ends it")
    status, output = await run("down", "--data", str(folder))
    assert status == 0
    assert "has ended" in output
    await lab.communicate()
    assert lab.returncode == 0


async def test_a_database_that_is_not_there_is_told_with_status_1(tmp_path: Path) -> None:
    """The error says what could not be reached; nothing stays."""
    status, output = await run(
        "up", "1", "--data", str(tmp_path / "lab"), "--database", "postgresql://x@127.0.0.1:1/x"
    )
    assert status == 1
    assert "does not answer" in output
