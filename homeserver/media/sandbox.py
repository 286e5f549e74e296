"""Runs jobs on hostile bytes in processes that hold nothing of the server's.

Rules:
1. The sandbox is one process of ours, started at the first job and kept; it forks one process for
   each job (`homeserver.media.sandbox_process` says what that may not do).
2. A job that ends without an answer, is ended by a limit, or says what it mustn't, costs that job
   only. A sandbox that ends, or doesn't end its jobs in time, is started again at the next job.
3. Jobs wait for their turn (`Turns`). The input is streamed to the process.
4. Each job is told to `on_job`: the seconds that it took, without its wait for a turn, its name,
   and what came of it.
5. The sandbox gets an environment of its own, and no file or socket of the server but its control
   socket. It ends with the server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import msgspec

from homeserver import limits
from homeserver.media.sandbox_orders import (
    JobKind,
    JobOutcome,
    JobRefusal,
    JobRefused,
    Order,
    SandboxBounds,
)
from homeserver.media.turns import QueueFull, Turns

_log = logging.getLogger(__name__)
_ROOT = str(Path(__file__).resolve().parents[2])

_MEMORY: Final = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": ":".join(
        (
            "glibc.malloc.hugetlb=1",
            "glibc.malloc.mmap_max=0",
            f"glibc.malloc.trim_threshold={limits.SANDBOX_MEMORY_BYTES}",
        )
    ),
}
"""A process for each picture touches all its memory for the first time, which takes a fifth of its
time. So it has large pages where the system has them, all buffers in one stretch, which large pages
fill but for its ends, and what it frees it uses again: with its end it is gone anyway."""

T = TypeVar("T")
OnJob: TypeAlias = Callable[[float, str, str], None]
"""Takes seconds, name and result of a job: `done`, a `JobRefusal`, `busy` (too many waited),
`unavailable`, or `abandoned` (the request ended, or the input couldn't be read)."""


def _unheard(_seconds: float, _job: str, _result: str) -> None:
    """Nobody wants to know."""


class SandboxUnavailable(Exception):
    """The sandbox can't be started."""


@dataclass(frozen=True, slots=True)
class Given:
    """The input of a job: its length in bytes, and its parts."""

    size: int
    parts: AsyncIterable[bytes]


class Sandbox:
    """Runs the jobs of `bounds.modules`. `close` it."""

    def __init__(self, bounds: SandboxBounds, turns: Turns, *, on_job: OnJob = _unheard) -> None:
        self._bounds, self._turns, self._on_job = bounds, turns, on_job
        self._starting = asyncio.Lock()
        self._process: Process | None = None
        self._control: socket.socket | None = None

    @property
    def process_id(self) -> int | None:
        """The ID of the sandbox's process, if it was started."""
        return None if self._process is None else self._process.pid

    async def run(
        self, job: JobKind, parameters: msgspec.Struct, given: Given, facts: type[T]
    ) -> tuple[T, bytes]:
        """Returns the facts and the result of a job. Raises JobRefused, QueueFull,
        SandboxUnavailable, and what reading the input does."""
        raw = msgspec.Raw(msgspec.json.encode(parameters))
        order = Order(job.name, job.cpu_s, raw, given.size)
        now, result = asyncio.get_running_loop().time, "abandoned"
        began = now()
        try:
            async with self._turns.turn():
                began = now()
                found = await self._work(order, given, facts)
            result = "done"
            return found
        except QueueFull:
            result = "busy"
            raise
        except SandboxUnavailable:
            result = "unavailable"
            raise
        except JobRefused as refused:
            result = refused.refusal.value
            raise
        finally:
            self._on_job(now() - began, job.name, result)

    async def _work(self, order: Order, given: Given, facts: type[T]) -> tuple[T, bytes]:
        channel = await self._open_channel()
        process = self._process
        reader, writer = await asyncio.open_unix_connection(
            sock=channel, limit=limits.SANDBOX_OUTCOME_BYTES
        )
        try:
            async with asyncio.timeout(self._bounds.wall_s + limits.SANDBOX_END_S):
                await _tell(writer, order, given)
                return await _hear(reader, facts)
        except TimeoutError:
            _log.error("the sandbox doesn't end its jobs; it is started again")
            if self._process is process:
                await self.close()
            raise JobRefused(JobRefusal.FAILED) from None
        finally:
            writer.close()

    async def close(self) -> None:
        """Ends the sandbox with all its processes."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended
            await process.wait()

    async def _open_channel(self) -> socket.socket:
        """Returns a socket at whose other end a new process waits for its order."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            if not await self._hand_over(theirs):
                await self.close()
                if not await self._hand_over(theirs):
                    raise SandboxUnavailable("the sandbox ends at once")
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def _hand_over(self, channel: socket.socket) -> bool:
        """Returns whether the sandbox took a new job's socket."""
        async with self._starting:
            if self._control is None:
                await self._start()
            assert self._control is not None, "the sandbox was started"
            try:
                socket.send_fds(self._control, [b"j"], [channel.fileno()])
            except OSError as error:
                _log.warning("the sandbox ended (%s); it is started again", error)
                return False
            return True

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._control = ours
        try:
            try:
                self._process = await self._spawn(theirs)
            finally:
                theirs.close()  # the sandbox alone has it, so its end is noticed
            async with asyncio.timeout(limits.SANDBOX_START_S):
                is_ready = await asyncio.get_running_loop().sock_recv(ours, 1)
            if not is_ready:
                raise SandboxUnavailable("the sandbox ended at its start")
        except (OSError, TimeoutError) as error:
            await self.close()
            raise SandboxUnavailable(f"the sandbox doesn't start: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def _spawn(self, control: socket.socket) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-s",
            "-P",
            "-m",
            "homeserver.media.sandbox_process",
            msgspec.json.encode(self._bounds).decode(),
            stdin=control.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": _ROOT, "LANG": "C.UTF-8", **_MEMORY},
            start_new_session=True,
        )


async def _tell(writer: asyncio.StreamWriter, order: Order, given: Given) -> None:
    """Writes the order and its input; a process that has ended reads no more."""
    sent = 0
    try:
        writer.write(msgspec.json.encode(order) + b"\n")
        async for part in given.parts:
            sent += len(part)
            if sent > order.input_bytes:
                raise JobRefused(JobRefusal.FAILED)
            writer.write(part)
            await writer.drain()
        if sent < order.input_bytes:
            raise JobRefused(JobRefusal.FAILED)
    except ConnectionError as error:
        raise JobRefused(JobRefusal.FAILED) from error


async def _hear(reader: asyncio.StreamReader, facts: type[T]) -> tuple[T, bytes]:
    """Reads the outcome and the result."""
    try:
        outcome = msgspec.json.decode(await reader.readuntil(b"\n"), type=JobOutcome)
        if outcome.refusal is not None:
            raise JobRefused(outcome.refusal)
        found = msgspec.json.decode(outcome.facts, type=facts)
        parts, size = [], 0
        while part := await reader.read(limits.SANDBOX_PART_BYTES):
            size += len(part)
            if size > limits.SANDBOX_RESULT_BYTES:
                raise JobRefused(JobRefusal.FAILED)
            parts.append(part)
    except (
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
        ConnectionError,
        msgspec.MsgspecError,
    ) as error:
        raise JobRefused(JobRefusal.FAILED) from error
    return found, b"".join(parts)
