"""What a process gives up: tried in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's means are Linux's")
ROOT = Path(__file__).resolve().parents[3]
HEAD = """
import ctypes, os, platform, sys
from pathlib import Path
from homeserver.media.process_rights import refuse_system_calls, seal_process
asks = ctypes.CDLL(None, use_errno=True).prctl
DUMPABLE, NO_NEW_PRIVILEGES = 3, 39
seal_process()
"""


def output(script: str) -> tuple[int, str]:
    """The status and the output of a script, whose process is sealed."""
    ended = subprocess.run(
        [sys.executable, "-c", HEAD + script], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_a_sealed_process_has_no_new_rights_and_is_not_looked_into() -> None:
    """Nor are those that it forks."""
    script = """
if (child := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(asks(DUMPABLE), asks(NO_NEW_PRIVILEGES, 0, 0, 0, 0))
print("NoNewPrivs:\\t1" in Path("/proc/self/status").read_text())
"""
    assert output(script) == (0, "0 1\nTrue\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is for x86-64")
def test_a_call_beyond_the_few_is_refused_and_the_others_go_on() -> None:
    script = """
before = Path("/proc/self/status")
os.stat("/")
refuse_system_calls()
for attempt in (lambda: os.stat("/"), os.fork, lambda: open("/"), lambda: os.kill(1, 0)):
    try:
        attempt()
        print("worked")
    except PermissionError:
        print("refused")
print(len(bytearray(10_000_000)), len(os.urandom(3)), os.getpid() > 0)
"""
    assert output(script) == (0, "refused\n" * 4 + "10000000 3 True\n")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is for x86-64")
def test_a_descriptor_gets_no_owner_whom_the_kernel_would_signal() -> None:
    """Else the process could have its server killed by bytes that it sends to itself."""
    script = """
import fcntl, socket
mine, _other = socket.socketpair()
refuse_system_calls()
fcntl.fcntl(mine, fcntl.F_SETFL, os.O_NONBLOCK)
print(fcntl.fcntl(mine, fcntl.F_GETFL) & os.O_NONBLOCK == os.O_NONBLOCK)
for command, value in ((fcntl.F_SETOWN, os.getppid()), (10, 9), (15, b"\\0" * 8)):
    try:
        fcntl.fcntl(mine, command, value)
        print("worked")
    except PermissionError:
        print("refused")
"""
    assert output(script) == (0, "True\n" + "refused\n" * 3)
