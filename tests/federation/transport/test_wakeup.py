"""Waiting for a sign, but not for ever."""

import asyncio

from federation.transport.wakeup import Wakeup
from tests.federation.transport.memory_ports import JumpingClock


async def test_a_sign_given_before_is_not_lost() -> None:
    wakeup = Wakeup(JumpingClock())
    wakeup.set()
    assert await wakeup.wait(100)
    assert not await wakeup.wait(0)


async def test_a_sign_ends_the_wait() -> None:
    wakeup = Wakeup(JumpingClock())
    waiting = asyncio.ensure_future(wakeup.wait(100))
    await asyncio.sleep(0)
    wakeup.set()
    assert await waiting


async def test_time_ends_the_wait() -> None:
    clock = JumpingClock()
    wakeup = Wakeup(clock)
    waiting = asyncio.ensure_future(wakeup.wait(100))
    for _ in range(3):
        await asyncio.sleep(0)
    clock.jump(99)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.jump(1)
    assert await waiting is False
