"""A server is killed (kill -9) at any moment: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.conftest import NewPerson
from tests.faults.person import send_all
from tests.faults.servers import Cluster, running_cluster, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield three servers."""
    async with running_cluster(module_folder, 3) as cluster:
        yield cluster


async def test_what_a_killed_server_acknowledged_is_on_all_servers_once(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """Of 200 concurrent sends some are answered when the server dies. Those are there; the others,
    repeated under their transaction IDs, become one event each."""
    alice, bob, carol = [await new_person("p", name) for name in ("hs1", "hs2", "hs3")]
    room_id = await alice.create_room([bob, carol])
    bodies = [f"m{i}" for i in range(200)]

    async def kill_in_the_middle() -> None:
        async def is_in_the_middle() -> bool:
            return len(alice.acknowledged) >= 20

        await until(is_in_the_middle, "some sends are acknowledged")
        await cluster.kill("hs1")

    _, answers = await asyncio.gather(kill_in_the_middle(), send_all(alice, [room_id], bodies))
    unanswered = [body for body, answer in answers.items() if answer.status == 0]
    assert unanswered, "the server died in the middle"
    acknowledged = dict(alice.acknowledged)
    await cluster.start("hs1")
    history = await alice.history(room_id)
    assert set(acknowledged.items()) <= {(body, event_id) for event_id, body in history}
    # `send` checks that a repeat of an acknowledged one gets the first one's event
    await asyncio.gather(*(alice.send_until_answered(room_id, body) for body in bodies))
    expected = {(event_id, body) for body, event_id in alice.acknowledged.items()}
    for person in (alice, bob, carol):
        history = await person.until_has(room_id, bodies)
        assert len(history) == 200, f"{person.user_id}: each once"
        assert set(history) == expected
