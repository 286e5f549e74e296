"""The machine's clock."""

from __future__ import annotations

from homeserver.clock import SystemClock


async def test_it_tells_the_time_and_goes_forward() -> None:
    clock = SystemClock()
    before = clock.monotonic_s()
    await clock.sleep(0)
    assert clock.monotonic_s() >= before
    assert clock.now_ms() > 1_700_000_000_000
