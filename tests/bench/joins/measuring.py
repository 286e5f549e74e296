"""What a piece of work costs: CPU of this process and of PostgreSQL, memory, the loop's stalls.

The event loop's stalls are seen by a task that wants to run every few milliseconds: how late it is,
and how much CPU the loop's own thread took meanwhile. The first is what others wait; on a busy
machine it holds the scheduler's delays too, the second doesn't.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICK_S = 0.002
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def settle_memory() -> None:
    """As a server does once it is up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@dataclass
class Stalls:
    """The longest times, in milliseconds, that the loop was held up."""

    late_ms: float = 0.0
    busy_ms: float = 0.0

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        while True:
            start, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_TICK_S)
            self.late_ms = max(self.late_ms, 1000 * (time.perf_counter() - start - _TICK_S))
            self.busy_ms = max(self.busy_ms, 1000 * (time.thread_time() - cpu))


@dataclass
class Cost:
    """Of one piece of work."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    postgres_s: float = 0.0
    stalls: Stalls = field(default_factory=Stalls)
    memory_mb: float = 0.0
    """How much the process's peak rose."""


@asynccontextmanager
async def measured(postmaster: int) -> AsyncIterator[Cost]:
    """Yields what the block cost, complete at its end. One at a time in a process."""
    cost = Cost()
    watching = asyncio.ensure_future(cost.stalls.watch())
    resident = _memory_mb("VmRSS")
    _forget_peak()
    wall, cpu, postgres = time.perf_counter(), time.process_time(), postgres_cpu_s(postmaster)
    try:
        yield cost
    finally:
        cost.wall_s = time.perf_counter() - wall
        cost.cpu_s = time.process_time() - cpu
        cost.postgres_s = postgres_cpu_s(postmaster) - postgres
        cost.memory_mb = _memory_mb("VmHWM") - resident
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def postgres_cpu_s(postmaster: int) -> float:
    """The CPU time of a PostgreSQL server, its processes' that ended included."""
    ticks = 0
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = stat.rpartition(")")[2].split()
        if int(entry.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += sum(map(int, fields[11:13]))
    return ticks / _TICKS_PER_S


def _memory_mb(name: str) -> float:
    """A line of this process's memory, such as VmHWM, the peak."""
    try:
        text = (_PROC / "self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if name in line)


def _forget_peak() -> None:
    """The peak starts again from now."""
    clear = _PROC / "self/clear_refs"
    if clear.exists():
        clear.write_text("5")


class Phases:
    """CPU and wall seconds of named parts of a work; a part within another counts for itself."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wall_s: dict[str, float] = {}
        self._open: list[tuple[str, float, float]] = []

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self._count()
        self._open.append((name, 0.0, 0.0))
        self._start()
        try:
            yield
        finally:
            self._count()
            self._open.pop()
            self._start()

    def _start(self) -> None:
        if self._open:
            self._open[-1] = (self._open[-1][0], time.process_time(), time.perf_counter())

    def _count(self) -> None:
        if self._open:
            name, cpu, wall = self._open[-1]
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.process_time() - cpu
            self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - wall

    def of(self, name: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The same coroutine function, whose time is counted as `name`."""

        async def timed(*args: Any, **options: Any) -> Any:
            with self._phase(name):
                return await work(*args, **options)

        return timed
