"""The supervisor of long-lived tasks."""

from __future__ import annotations

import asyncio

import pytest

from federation.causes import OWN_WORK, Cause, CauseKind, caused_by, current_cause
from homeserver import limits
from homeserver.metrics import ServerMetrics
from homeserver.supervisor import Supervisor
from tests.homeserver.counted import counted


class JumpingClock:
    """Sleeps take no time, and are written down."""

    def __init__(self) -> None:
        self.time_s, self.slept = 0.0, list[float]()

    def now_ms(self) -> int:
        return int(self.time_s * 1000)

    def monotonic_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


@pytest.fixture
def metrics() -> ServerMetrics:
    return ServerMetrics()


@pytest.fixture
def supervisor(clock: JumpingClock, metrics: ServerMetrics) -> Supervisor:
    return Supervisor(clock, metrics)


async def test_a_failed_task_is_started_again_with_growing_waits(
    supervisor: Supervisor,
    clock: JumpingClock,
    metrics: ServerMetrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise RuntimeError("no luck")
        done.set()

    supervisor.spawn("worker", work)
    await asyncio.wait_for(done.wait(), 30)
    assert clock.slept == [0.5, 1.0, 2.0]
    assert counted(metrics, "task_failures", task="worker") == 3
    assert "task worker failed" in caplog.text
    assert "no luck" in caplog.text
    await supervisor.stop()


async def test_a_task_that_fails_again_and_again_leaves_a_line_each_time(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    runs, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs > 10:
            done.set()
            return
        raise RuntimeError("no luck")

    supervisor.spawn("worker", work)
    await asyncio.wait_for(done.wait(), 30)
    failed = [one for one in caplog.records if "task worker failed" in one.getMessage()]
    assert len(failed) == 10
    assert [bool(one.exc_info) for one in failed] == [n < limits.RESTART_TRACES for n in range(10)]
    await supervisor.stop()


async def test_the_wait_has_an_end_and_starts_over_after_a_long_run(
    supervisor: Supervisor, clock: JumpingClock
) -> None:
    runs, done = 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 10:
            clock.time_s += limits.RESTART_WAIT_S_MOST + 1
        if runs == 12:
            done.set()
            return
        raise RuntimeError

    supervisor.spawn("worker", work)
    await asyncio.wait_for(done.wait(), 30)
    assert max(clock.slept) == limits.RESTART_WAIT_S_MOST
    least_s = limits.RESTART_WAIT_S_LEAST
    assert clock.slept[9:] == [least_s, 2 * least_s]


async def test_a_sibling_goes_on_and_a_stop_ends_all(supervisor: Supervisor) -> None:
    started, ended = asyncio.Event(), list[str]()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("endless")

    async def broken() -> None:
        raise RuntimeError

    supervisor.run_once("broken", broken())
    supervisor.spawn("endless", endless)
    await asyncio.wait_for(started.wait(), 30)
    assert ended == []
    await supervisor.stop()
    assert ended == ["endless"]


async def test_after_a_stop_nothing_starts(supervisor: Supervisor) -> None:
    await supervisor.stop()
    runs = list[int]()

    async def work() -> None:
        runs.append(1)

    supervisor.run_once("late", work())
    await asyncio.sleep(0)
    assert runs == []


async def test_a_task_works_for_itself_not_for_who_started_it(
    clock: JumpingClock, metrics: ServerMetrics
) -> None:
    supervisor, seen = Supervisor(clock, metrics), list[Cause]()

    async def look() -> None:
        seen.append(current_cause())

    with caused_by(Cause(CauseKind.USER, "@alice:a.test")):
        supervisor.spawn("look", look)
        supervisor.run_once("look once", look())
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert seen == [OWN_WORK, OWN_WORK]
    await supervisor.stop()
