"""The postmaster as a process: started so that it can't outlive us, watched, ended, and old ones
found.

Rules:
1. It is a direct child with PR_SET_PDEATHSIG = SIGINT ("fast shutdown"), so that even `kill -9` of
   this process ends it cleanly. The signal follows the *thread* that forks: start it from one that
   stays.
2. It has a session of its own: Ctrl-C in a terminal reaches us, not it; we decide the order.
3. A number in `postmaster.pid` is believed only if that process runs a `postgres`: numbers are
   reused, and PostgreSQL itself would refuse to start for ever.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from local_postgres.accounts import SystemAccount
from local_postgres.limits import POLL_S, PROCESS_LIST_S_MAX, PROGRAM_POLL_S

PR_SET_PDEATHSIG = 1
_STATUS_LINE = 7  # of postmaster.pid
LINUX: bool = sys.platform.startswith("linux")


def environment() -> dict[str, str]:
    """Returns the whole environment of PostgreSQL's programs: nothing of ours (PG*, LC_*) leaks
    in."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def identity(account: SystemAccount) -> Mapping[str, object]:
    """Returns the arguments of `subprocess` that change to an account, if it is another than
    ours."""
    if not account.is_other:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def death_signal() -> Callable[[], None]:
    """Returns what the child runs between fork and exec, so that rule 1 holds; nothing is imported
    there.

    Linux forgets the setting when the account changes, which `subprocess` does before calling this.
    """
    parent = os.getpid()
    if not LINUX:
        return lambda: None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return in_child


def run_program(command: list[str], account: SystemAccount, timeout_s: float) -> str:
    """Runs one of PostgreSQL's programs to its end as an account, and returns what it said.

    Raises subprocess.CalledProcessError, whose `output` is what it said.
    """
    done = subprocess.run(
        command,
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=True,
        **identity(account),  # type: ignore[call-overload]
    )
    return str(done.stdout)


def launch(
    command: list[str], account: SystemAccount, log_file: BinaryIO
) -> "subprocess.Popen[bytes]":
    """Starts a postmaster as an account, its output appended to `log_file`; rules 1 and 2."""
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command,
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=death_signal(),
        **identity(account),  # type: ignore[call-overload]
    )
    return process


async def wait_for_exit(process: "subprocess.Popen[bytes]") -> int:
    """Returns a child's status once it has ended, and reaps it. Bound the wait from outside."""
    if LINUX:
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return process.wait()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    else:
        while process.poll() is None:
            await asyncio.sleep(PROGRAM_POLL_S)
    return process.wait()


@dataclass(frozen=True, slots=True)
class PidFile:
    """The contents of `postmaster.pid`: the number (None if the file is damaged) and the last state
    word."""

    pid: int | None
    state: str


def read_pid_file(cluster: Path) -> PidFile | None:
    """Returns the contents of a cluster's `postmaster.pid`, or None if there is none."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    pid = int(lines[0]) if lines and lines[0].strip().isdigit() else None
    status = lines[_STATUS_LINE : _STATUS_LINE + 1]
    return PidFile(pid, status[0].strip() if status else "")


def runs_postgres(pid: int) -> bool:
    """Returns whether a process exists and its program is a `postgres`; a zombie's program is
    unknown."""
    if LINUX:
        try:
            program = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return False
        # A replaced or deleted program still runs: "… (deleted)".
        return os.path.basename(program).split(" ")[0] == "postgres"
    answer = subprocess.run(
        ["ps", "-p", str(pid), "-o", "comm="],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS_LIST_S_MAX,
    )
    return os.path.basename(answer.stdout.strip()) == "postgres"


def belongs_to(pid: int, cluster: Path) -> bool:
    """Returns whether a postgres process serves this cluster: its working folder is the
    cluster's."""
    if not LINUX:
        return True
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", cluster)
    except OSError:
        return False


async def clear_stale(cluster: Path, timeout_s: float) -> str | None:
    """Makes the cluster free to start: ends a postmaster left over, drops a pid file that lies
    (rule 3).

    The caller holds the cluster's lock, so that a postmaster found here is nobody's: its supervisor
    was killed. It is given half of the time to end by itself, then told to. Returns what was done,
    for the log, or None. Raises TimeoutError if it stays.
    """
    found = read_pid_file(cluster)
    if found is None:
        return None
    pid = found.pid
    if pid is None or not (runs_postgres(pid) and belongs_to(pid, cluster)):
        (cluster / "postmaster.pid").unlink(missing_ok=True)
        return f"dropped a stale postmaster.pid (process {pid} is not a postmaster of this cluster)"
    for order in (None, signal.SIGINT, signal.SIGQUIT):
        if order is not None:
            os.kill(pid, order)
        if await ended_within(pid, timeout_s / 3):
            return f"waited for postmaster {pid} of a killed predecessor to end"
    raise TimeoutError(f"postmaster {pid} of an earlier run does not end; end it by hand")


async def ended_within(pid: int, timeout_s: float) -> bool:
    """Returns whether a process that isn't our child stopped running postgres within a time."""
    try:
        async with asyncio.timeout(timeout_s):
            while runs_postgres(pid):
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return False
    return True
