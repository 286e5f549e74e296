"""What a process of the sandbox gives up by the kernel's means, beyond limits of resources.

Rules:
1. No program that it starts has more rights than it has itself, and no process of the same account
   may look into its memory (Linux).
2. A process that reads hostile bytes may make the few system calls that computing and talking over
   its socket take; each other one fails with EPERM. Limits of resources don't keep it from deleting
   files, signalling other processes of the account, or reading their memory: that takes no file of
   its own. A call of another architecture ends the process. (Linux on x86-64; elsewhere the limits
   are all there is.)

See prctl(2), seccomp(2) and the kernel's `seccomp_filter` document.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2

_RET_KILL_PROCESS: Final = 0x8000_0000
_RET_ERRNO: Final = 0x0005_0000
_RET_ALLOW: Final = 0x7FFF_0000
_STEP: Final = struct.Struct("=HBBI")  # struct sock_filter
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4  # in struct seccomp_data
_SECOND_ARGUMENT_OFFSET = 24  # its lower half
_X86_64: Final = 0xC000_003E  # AUDIT_ARCH_X86_64

_CALLS: Final = {
    # its socket, and what it has open already
    "read": 0,
    "write": 1,
    "close": 3,
    "fstat": 5,
    "poll": 7,
    "lseek": 8,
    "readv": 19,
    "writev": 20,
    "sendto": 44,
    "recvfrom": 45,
    "shutdown": 48,
    "getsockname": 51,
    "getpeername": 52,
    "getsockopt": 55,
    "ppoll": 271,
    # memory
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "mremap": 25,
    "madvise": 28,
    # signals that it gets, time, its end
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "pause": 34,
    "nanosleep": 35,
    "exit": 60,
    "gettimeofday": 96,
    "sigaltstack": 131,
    "time": 201,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_getres": 229,
    "clock_nanosleep": 230,
    "exit_group": 231,
    # what it is, and locks of its own
    "sched_yield": 24,
    "getpid": 39,
    "getrusage": 98,
    "sysinfo": 99,
    "getuid": 102,
    "getgid": 104,
    "geteuid": 107,
    "getegid": 108,
    "getppid": 110,
    "gettid": 186,
    "futex": 202,
    "sched_getaffinity": 204,
    "getcpu": 309,
    "getrandom": 318,
    "membarrier": 324,
    "rseq": 334,
}
"""The permitted calls with their numbers on x86-64. Threads aren't among them: no process of the
sandbox may have any."""


_FCNTL: Final = 72
_F_SETFL: Final = 4
"""The last of fcntl's harmless commands, which begin at 0: duplicates and flags of a descriptor. A
later one, F_SETOWN, has the kernel send a signal of one's choice to another process."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seal_process() -> None:
    """Gives up new rights, and hides this process's memory, for itself and what it forks. Raises
    OSError."""
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_DUMPABLE, 0)


def refuse_system_calls() -> None:
    """Gives up all system calls but the few, for good; none on other systems, and of a kernel that
    was built without filters. *Precondition:* `seal_process`. Raises OSError."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return
    code = _assemble(_CALLS.values())
    program = _Program(len(code) // _STEP.size, code)
    try:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _assemble(permitted: Iterable[int]) -> bytes:
    """Returns the filter as struct sock_filter[]."""
    numbers = sorted(permitted)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, 4, _FCNTL),
        (_LOAD, 0, 0, _SECOND_ARGUMENT_OFFSET),
        (_JUMP_IF_GREATER, 1, 0, _F_SETFL),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM),
        *((_JUMP_IF_EQUAL, len(numbers) - i, 0, one) for i, one in enumerate(numbers)),
        (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _RET_ALLOW),
    ]
    return b"".join(_STEP.pack(*step) for step in steps)


def _prctl(option: int, second: int, third: int = 0) -> None:
    if _LIBC.prctl(option, *map(ctypes.c_ulong, (second, third, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
