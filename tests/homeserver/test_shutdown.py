"""The steps of a stop share one time; what hangs or fails doesn't keep the later ones."""

from __future__ import annotations

import asyncio

import pytest

from homeserver import limits
from homeserver.shutdown import Shutdown
from homeserver.storage.database import DatabaseUnavailable


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all steps together short, and the least of each a little longer than nothing."""
    monkeypatch.setattr(limits, "STOP_S", 0.2)
    monkeypatch.setattr(limits, "STOP_STEP_S_MIN", 0.1)


async def hang() -> None:
    """Never ends."""
    await asyncio.Event().wait()


async def lose() -> None:
    """Finds no database."""
    raise DatabaseUnavailable("it is away")


@pytest.mark.usefixtures("short")
async def test_a_step_that_hangs_is_given_up_and_the_next_one_still_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    async def last() -> None:
        await asyncio.sleep(0)
        done.append("last")

    shutdown = Shutdown()
    await shutdown.step(hang)
    await shutdown.step(last)
    assert done == ["last"]
    assert "hang was given up" in caplog.text


@pytest.mark.usefixtures("short")
async def test_all_steps_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a hanging step took it, each further one is given the least."""
    deadlines: list[float] = []
    real = asyncio.timeout_at

    def noted(when: float) -> asyncio.Timeout:
        deadlines.append(when)
        return real(when)

    async def nothing() -> None:
        """Ends at once."""

    monkeypatch.setattr(asyncio, "timeout_at", noted)
    shutdown, loop = Shutdown(), asyncio.get_running_loop()
    started = loop.time()
    for step in (nothing, hang):
        await shutdown.step(step)
    hung = loop.time()
    await shutdown.step(nothing)
    assert deadlines[0] == deadlines[1] >= started + limits.STOP_S
    assert deadlines[2] >= hung + limits.STOP_STEP_S_MIN > deadlines[1]


async def test_a_lost_database_ends_its_step_alone(caplog: pytest.LogCaptureFixture) -> None:
    await Shutdown().step(lose)
    assert "lose was given up: it is away" in caplog.text


async def test_a_fault_of_ours_is_not_hidden() -> None:
    async def fail() -> None:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        await Shutdown().step(fail)
