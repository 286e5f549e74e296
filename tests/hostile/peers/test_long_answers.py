"""A join whose answer has tens of megabytes: the loop does other things all the while.

Spec: server-server API, "Joining Rooms".
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.conftest import BackgroundLoop
from tests.hostile.loop_steps import counted_steps
from tests.hostile.peers.long_answers import STATES, Lure, lure

pytestmark = pytest.mark.asyncio(loop_scope="module")

BYTES = 12_000_000
STEP_S = 0.050
"""An order more than it takes; reading a tenth of such an answer in one go takes longer."""

JOINED = frozenset({"sound", "small", "numbers", "long texts"})
"""Of these a user can join: what is forged is left out. The others are refused."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lured(module_database: str, background_loop: BackgroundLoop) -> AsyncIterator[Lure]:
    """A running server, its user, and the peer."""
    async with lure(module_database, background_loop) as found:
        yield found


@pytest.mark.parametrize("kind", STATES)
async def test_no_step_of_a_long_join_holds_the_loop(lured: Lure, kind: str) -> None:
    room_id = lured.prepare(kind, BYTES)
    with counted_steps() as steps:
        reply = await lured.join(room_id)
    assert reply.status == (200 if kind in JOINED else 502), reply
    assert steps.longest_s < STEP_S, steps.longest
