"""The sandbox's own process: loads the libraries once, and forks a process for each job.

Rules:
1. This process reads nothing but one byte and a socket for each job, so hostile bytes never reach
   what later jobs start from. A forked process does one job and ends, so nothing of one picture is
   left for the next.
2. Before it reads its input, a forked process gives up: memory and CPU time beyond the bounds, new
   files, sockets and processes, writing to files, and most system calls (`process_rights`). It
   holds the socket of its job, and has no environment but what the sandbox was started with.
3. This process kills those that live too long, and all of them when the server is gone.

Started by `homeserver.media.sandbox` as `python -m homeserver.media.sandbox_process BOUNDS`, with
the control socket as its standard input.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from typing import NoReturn

import msgspec

from homeserver import limits
from homeserver.media.process_rights import refuse_system_calls, seal_process
from homeserver.media.sandbox_orders import (
    Job,
    JobOutcome,
    JobRefusal,
    JobRefused,
    Order,
    SandboxBounds,
)

READY = b"r"
_ENCODER = msgspec.json.Encoder()


class _Template:
    """Forks and watches; `children` are the processes with the times when they are killed."""

    def __init__(self, control: socket.socket, bounds: SandboxBounds) -> None:
        self._control, self._bounds = control, bounds
        self._jobs: dict[str, Job] = {}
        for name in bounds.modules:
            self._jobs.update(importlib.import_module(name).JOBS)
        self._children: dict[int, float] = {}
        self._ended, wakeup = socket.socketpair()
        self._ended.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, _note)
        signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Serves until the server closes the control socket."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            gc.freeze()  # what the forked processes don't touch isn't copied
            gc.disable()
            self._control.sendall(READY)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._wait_s())}
                self._reap()
                if self._control in ready and not self._serve():
                    break
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _wait_s(self) -> float | None:
        if not self._children:
            return None
        return max(0.0, min(self._children.values()) - time.monotonic())

    def _serve(self) -> bool:
        """Starts the next job; returns False when there is no server any more."""
        data, files, _, _ = socket.recv_fds(self._control, 1, 1)
        if not data or not files:
            return False
        pid = os.fork()
        if pid == 0:
            self._become_worker(files[0])
        os.close(files[0])
        self._children[pid] = time.monotonic() + self._bounds.wall_s
        return True

    def _reap(self) -> None:
        """Forgets ended processes, and kills those whose time is over."""
        try:
            while self._ended.recv(limits.SANDBOX_ORDER_BYTES):
                pass
        except BlockingIOError:
            pass  # all read
        for pid, until_s in list(self._children.items()):
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                del self._children[pid]
            elif until_s <= time.monotonic():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                del self._children[pid]

    def _become_worker(self, channel: int) -> NoReturn:
        """Does one job and ends. Of this process's files only the job's socket stays open, as the
        standard input; output and errors lead nowhere already."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(channel, sys.stdin.fileno())
            files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.closerange(sys.stderr.fileno() + 1, files_max)
            _give_up_rights(self._bounds)
            work(socket.socket(fileno=sys.stdin.fileno()), self._jobs)
            status = 0
        finally:
            os._exit(status)


def _note(_number: int, _frame: object) -> None:
    """Lets the signal wake the selector, which an ignored one wouldn't."""


def _give_up_rights(bounds: SandboxBounds) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (bounds.memory_bytes, bounds.memory_bytes))
    for kind in (
        resource.RLIMIT_CORE,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_NPROC,
        resource.RLIMIT_NOFILE,
    ):
        resource.setrlimit(kind, (0, 0))


def work(channel: socket.socket, jobs: dict[str, Job]) -> None:
    """Does the one job that comes through `channel`, and answers there."""
    with channel, channel.makefile("rwb") as stream:
        order = msgspec.json.decode(stream.readline(limits.SANDBOX_ORDER_BYTES), type=Order)
        resource.setrlimit(resource.RLIMIT_CPU, (order.cpu_s, order.cpu_s))
        refuse_system_calls()
        given = stream.read(order.input_bytes)
        if len(given) < order.input_bytes:
            return  # the server gave up
        result = b""
        try:
            facts, result = jobs[order.job](order.parameters, given)
            outcome = JobOutcome(msgspec.Raw(_ENCODER.encode(facts)))
        except JobRefused as refused:
            outcome = JobOutcome(refusal=refused.refusal)
        except MemoryError:
            outcome = JobOutcome(refusal=JobRefusal.TOO_LARGE)
        stream.write(_ENCODER.encode(outcome) + b"\n")
        stream.write(result)


def main() -> None:
    """Runs the sandbox."""
    os.nice(limits.SANDBOX_NICENESS)
    seal_process()
    bounds = msgspec.json.decode(sys.argv[1], type=SandboxBounds)
    _Template(socket.socket(fileno=sys.stdin.fileno()), bounds).run()


if __name__ == "__main__":
    main()
