"""Jobs that do what a picture that took over its process would; the sandbox under test loads
them."""

from __future__ import annotations

import ctypes
import os
import resource
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
    ctypes.string_at(0)
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


def break_out(parameters: msgspec.Raw, _given: bytes) -> tuple[Said, bytes]:
    """Tries everything that it must not do, with a folder for it; says what worked, and what it
    has."""
    folder = msgspec.json.decode(parameters, type=Said).text
    attempts = {**ATTEMPTS, **_attempts_with(folder)}
    worked = [name for name, attempt in attempts.items() if _works(attempt)]
    files = sum(_works(partial(os.fstat, number)) for number in range(3, 256))
    return Said(" ".join([*worked, *sorted(os.environ)]), files), b""


def _attempts_with(folder: str) -> dict[str, Callable[[], object]]:
    """What takes no file of its own: with names of files, or IDs of processes."""
    return {
        "empty": lambda: os.truncate(f"{folder}/a", 0),
        "delete": lambda: os.unlink(f"{folder}/b"),
        "rename": lambda: os.rename(f"{folder}/c", f"{folder}/d"),
        "permit": lambda: os.chmod(f"{folder}/e", 0o777),
        "folder": lambda: os.mkdir(f"{folder}/f"),
        "look": lambda: os.stat(folder),
        "signal": lambda: os.kill(os.getppid(), 0),
        "limit": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
        "memory": lambda: _call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
        "trace": lambda: _call("ptrace", _PTRACE_SEIZE, os.getppid(), 0, 0),
        "shared": lambda: _call("shmget", 0, 4_096, 0o1600),
    }


def _call(name: str, *values: int) -> None:
    if getattr(_LIBC, name)(*map(ctypes.c_long, values)) == -1:
        raise OSError(ctypes.get_errno(), name)


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
_LIBC = ctypes.CDLL(None, use_errno=True)
_PTRACE_SEIZE = 0x4206
UNPRIVILEGED = frozenset({"thread", "fork"})
"""What is refused to all accounts but root, without a filter of system calls."""
FILTERED = frozenset(_attempts_with(""))
"""What that filter alone refuses."""


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
