"""Bridges of others as processes, from `.venv-bridges`, which is made on first use; and a person on
IRC."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.servers import until

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-bridges" / "bin" / "python"
WAIT_S = 90.0


class BridgesUnavailable(Exception):
    """The registry can't be reached, or has no bridges for this Python."""


def ensure_bridges() -> None:
    """Make `.venv-bridges` where it is missing or old."""
    command = [sys.executable, str(ROOT / ".ci" / "environment"), "bridges"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == os.EX_UNAVAILABLE:
        raise BridgesUnavailable(done.stderr)
    assert done.returncode == 0, done.stderr


@asynccontextmanager
async def process(
    folder: Path, *arguments: str, python: str | Path = PYTHON
) -> AsyncIterator[Path]:
    """Runs a module as long as the block lasts; yields its log."""
    log = folder / f"{arguments[0]}.log"
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            str(python),
            "-m",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )
        try:
            yield log
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


async def until_said(log: Path, text: str) -> None:
    """Waits until a process has logged something."""

    async def is_there() -> bool:
        return text in log.read_text()

    await until(is_there, f"{log.name} says {text!r}", within_s=WAIT_S)


class IrcPerson:
    """A person on IRC: what came, line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.lines: list[str] = []

    def send(self, line: str) -> None:
        """Sends a line."""
        self._writer.write(f"{line}\r\n".encode())

    async def until(self, condition: Callable[[str], bool], what: str) -> str:
        """Waits for a line, and answers pings meanwhile."""
        for line in self.lines:
            if condition(line):
                return line
        async with asyncio.timeout(WAIT_S):
            while True:
                received = await self._reader.readline()
                assert received, f"the IRC server hung up before: {what}\n{self.lines}"
                line = received.decode().strip()
                if line.startswith("PING"):
                    self.send(line.replace("PING", "PONG", 1))
                self.lines.append(line)
                if condition(line):
                    return line


@asynccontextmanager
async def irc_person(port: int, nick: str, channel: str) -> AsyncIterator[IrcPerson]:
    """Somebody in a channel."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def is_up() -> bool:
        try:
            opened.append(await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            return False
        return True

    await until(is_up, "the IRC server listens", within_s=WAIT_S)
    person = IrcPerson(*opened[-1])
    person.send(f"NICK {nick}")
    person.send(f"USER {nick} 0 * :{nick}")
    await person.until(lambda line: " 001 " in line, "the welcome")
    person.send(f"JOIN {channel}")
    await person.until(lambda line: "JOIN" in line, "the channel")
    try:
        yield person
    finally:
        opened[-1][1].close()
