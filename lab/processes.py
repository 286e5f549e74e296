"""Processes that the lab starts: bound to its life, watched while they start, ended in order.

Rules:
1. A child gets SIGKILL when the lab dies, whatever way (PR_SET_PDEATHSIG), so that `kill -9` of the
   lab leaves none. It follows the *thread* that forks: start children from the main thread.
2. Ctrl-C in a terminal goes to the lab alone (children have sessions of their own); the lab ends
   them, servers before their database.
3. All that a child says goes into its log, whose tail is shown when it fails.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
LINUX: bool = sys.platform.startswith("linux")
STOP_TIMEOUT_S = 8.0
POLL_S = 0.02
TAIL_LINES = 15
OWN_PREFIX = "FREEHOLD_"


@dataclass(frozen=True, slots=True)
class Child:
    """A running child: its name for people, process and log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_path: Path

    @property
    def has_ended(self) -> bool:
        """Returns whether it is gone."""
        return self.process.poll() is not None


def die_with_parent() -> Callable[[], None]:
    """Returns what a child runs between fork and exec, for rule 1; nothing is imported there."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if LINUX else None

    def in_child() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return in_child


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment without settings of Freehold, which would override a server's file."""
    kept = {key: value for key, value in environment.items() if not key.startswith(OWN_PREFIX)}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def start_child(name: str, command: Sequence[str], log_path: Path) -> Child:
    """Starts a child with its output appended to a log file of mode 0600."""
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as log_file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env=clean_environment(os.environ),
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    return Child(name, process, log_path)


async def stop_child(child: Child) -> bool:
    """Ends a child: asked first, then killed. Returns whether it ended by itself with status 0."""
    if child.has_ended:
        return child.process.returncode == 0
    child.process.send_signal(signal.SIGTERM)
    try:
        status = await asyncio.wait_for(exit_status(child), STOP_TIMEOUT_S)
    except TimeoutError:
        child.process.kill()
        await exit_status(child)
        return False
    return status == 0


async def exit_status(child: Child) -> int:
    """Returns a child's status once it has ended."""
    while True:
        status = child.process.poll()
        if status is not None:
            return status
        await asyncio.sleep(POLL_S)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Returns the last lines of a log, for an error text."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
