"""Jobs that do what a picture that took over its process would; the sandbox under test loads
them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from homeserver.media.sandbox_orders import Job, JobRefusal, JobRefused


class Said(msgspec.Struct, frozen=True):
    """What a job says."""

    text: str = ""
    number: int = 0


def echo(parameters: msgspec.Raw, given: bytes) -> tuple[Said, bytes]:
    """Gives back what came."""
    said = msgspec.json.decode(parameters, type=Said)
    return Said(said.text, os.getpid()), given


def spin(_parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Never ends, and uses the processor."""
    while True:
        pass


def sleep(_parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Never ends, and does nothing; ignores what can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def swallow(parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Takes so many MiB."""
    taken = bytearray(msgspec.json.decode(parameters, type=Said).number * 1024 * 1024)
    return Said(number=len(taken)), b""


def crash(_parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Ends as a library with a fault does."""
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("still there")


def fail(_parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Has a bug."""
    raise ZeroDivisionError


def refuse(_parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Finds nothing that it can read."""
    raise JobRefused(JobRefusal.UNREADABLE)


def talk(parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Says so many bytes, first in a text and then as its result."""
    count = msgspec.json.decode(parameters, type=Said)
    return Said("x" * int(count.text or 0)), b"x" * count.number


def break_out(_parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Tries everything that it must not do; says what worked, and what it has."""
    worked = [name for name, attempt in ATTEMPTS.items() if _works(attempt)]
    files = sum(_works(partial(os.fstat, number)) for number in range(3, 256))
    return Said(" ".join([*worked, *sorted(os.environ)]), files), b""


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "socket": socket.socket,
    "read": lambda: Path("/etc/passwd").read_bytes(),
    "write": lambda: Path("/tmp/freehold-broke-out").write_bytes(b"x"),
    "thread": lambda: threading.Thread(target=print).start(),
    "fork": _fork,
    "program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "pipe": os.pipe,
}
UNPRIVILEGED = frozenset({"thread", "fork"})
"""What is refused to all accounts but root."""


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return False
    return True


JOBS: dict[str, Job] = {
    "echo": echo,
    "spin": spin,
    "sleep": sleep,
    "swallow": swallow,
    "crash": crash,
    "fail": fail,
    "refuse": refuse,
    "talk": talk,
    "break_out": break_out,
}
