"""The sandbox's process, spoken to without the server's side: what it does when that is wrong."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from homeserver import limits
from homeserver.media.sandbox_orders import JobOutcome, JobRefusal, Order, SandboxBounds
from homeserver.media.sandbox_process import READY
from tests.homeserver.media.hostile_jobs import Said

BOUNDS = SandboxBounds(("tests.homeserver.media.hostile_jobs",))
ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def started(bounds: SandboxBounds = BOUNDS) -> Iterator[socket.socket]:
    """The control socket of a process that is ready; it ends with the block."""
    control, theirs = socket.socketpair()
    with control:
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "homeserver.media.sandbox_process",
                    msgspec.json.encode(bounds).decode(),
                ],
                stdin=theirs.fileno(),
                cwd=ROOT,
            )
        assert control.recv(1) == READY
        yield control
    assert process.wait() == 0


def job(control: socket.socket) -> socket.socket:
    """The socket of a new job."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(control, [b"j"], [theirs.fileno()])
    return ours


def said(channel: socket.socket, *data: bytes) -> bytes:
    """What a job says to these bytes, after which there are none."""
    with channel:
        with suppress(BrokenPipeError):
            for part in data:
                channel.sendall(part)
            channel.shutdown(socket.SHUT_WR)
        parts = []
        with suppress(ConnectionResetError):  # it has ended without reading all
            while part := channel.recv(65_536):
                parts.append(part)
        return b"".join(parts)


def order(name: str = "echo", size: int = 0, text: str = "x") -> bytes:
    parameters = msgspec.Raw(msgspec.json.encode(Said(text)))
    return msgspec.json.encode(Order(name, 20, parameters, size)) + b"\n"


def test_a_job_is_one_line_and_its_input() -> None:
    with started() as control:
        line, result = said(job(control), order(size=5), b"input").split(b"\n", 1)
        outcome = msgspec.json.decode(line, type=JobOutcome)
        assert msgspec.json.decode(outcome.facts, type=Said).text == "x"
        assert (outcome.refusal, result) == (None, b"input")
        refused = msgspec.json.decode(said(job(control), order("refuse")), type=JobOutcome)
        assert refused.refusal is JobRefusal.UNREADABLE


def test_a_job_that_is_not_one_ends_alone() -> None:
    with started() as control:
        waiting = job(control)
        for wrong in (b"", b"\n", b"{}\n", b"x" * 100_000, order("unknown"), order(size=3) + b"in"):
            assert said(job(control), wrong) == b""
        assert said(waiting, order()).startswith(b"{")


def test_the_line_of_an_order_is_bounded() -> None:
    spare = limits.SANDBOX_ORDER_BYTES - len(order(text=""))
    with started() as control:
        assert said(job(control), order(text="x" * spare)).startswith(b"{")
        assert said(job(control), order(text="x" * (spare + 2))) == b""


def test_it_ends_when_the_control_socket_says_something_else() -> None:
    with started() as control:
        control.sendall(b"j")
        assert control.recv(1) == b""


@pytest.mark.parametrize("bounds", ["", "{}", '{"modules":["no.such.module"]}'])
def test_it_does_not_start_without_its_jobs(bounds: str) -> None:
    control, theirs = socket.socketpair()
    with control, theirs:
        ended = subprocess.run(
            [sys.executable, "-m", "homeserver.media.sandbox_process", bounds],
            stdin=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            check=False,
        )
        assert ended.returncode != 0
