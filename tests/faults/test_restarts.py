"""A server ends and comes back: in order, by another process, or without its key; and syncs go on.

One server, restarted by each test.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from lab.processes import start_child, stop_child
from lab.running import LabError
from tests.faults.conftest import NewPerson
from tests.faults.person import Person, everyone_has_all_once, send_until_it_fails
from tests.faults.servers import Cluster, impatient_command, running_cluster, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("all_up_again"),
]

STOP_S = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield one server."""
    async with running_cluster(module_folder, 1) as cluster:
        yield cluster


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_ends_the_server_soon_and_well(
    cluster: Cluster, new_person: NewPerson, order: signal.Signals
) -> None:
    """Status 0 in under 5 s, with 100 sends and long polls under way; what was acknowledged is
    there afterwards.

    Seen to fail when signals had no handlers, and when long polls were waited for (8 s).
    """
    alice, bob = await new_person("p", "hs1"), await new_person("p", "hs1")
    room_id = await alice.create_room()
    since = (await bob.sync())["next_batch"]  # there will be nothing new for him
    query = {"since": since, "timeout": "20000"}
    polls = [asyncio.ensure_future(bob.call("GET", "/sync", None, **query)) for _ in range(3)]
    ended: list[tuple[int, float]] = []

    async def end() -> None:
        assert not any(poll.done() for poll in polls)
        ended.append(await cluster.end("hs1", order))
        await asyncio.gather(*polls)

    bodies, failures = await send_until_it_fails(alice, room_id, 100, end)
    assert {answer.status for answer in failures} <= {0, 503}
    [(status, seconds)] = ended
    assert status == 0
    assert seconds < STOP_S
    acknowledged = dict(alice.acknowledged)
    await cluster.start("hs1")
    history = await alice.history(room_id)
    assert acknowledged.items() <= {body: event_id for event_id, body in history}.items()
    await asyncio.gather(*(alice.send_until_answered(room_id, body) for body in bodies))
    await everyone_has_all_once([alice], room_id, bodies)


async def test_a_server_with_history_refuses_to_start_without_its_signing_key(
    cluster: Cluster,
) -> None:
    """It says which file is missing and makes no new one; with the key put back it starts.

    Seen to fail when the log's row wasn't looked for.
    """
    await cluster.end("hs1", signal.SIGTERM)
    key = cluster.plan("hs1").signing_key_path
    kept = key.rename(key.with_name("kept.key"))
    with pytest.raises(LabError) as refused:
        await cluster.start("hs1")
    assert "status 1" in str(refused.value)
    assert f"the signing key {key} is missing" in str(refused.value)
    assert not key.exists()
    kept.rename(key)
    await cluster.start("hs1")


async def test_a_second_process_takes_over_and_the_first_stops_serving(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """Under load the first one acknowledges nothing that isn't kept; it ends with status 1.

    Seen to fail when both wrote under the same epoch.
    """
    alice = await new_person("p", "hs1")
    room_id = await alice.create_room()
    seconds: list[Any] = []

    async def take_over() -> None:
        seconds.append(await cluster.start_second("hs1"))

    bodies, failures = await send_until_it_fails(alice, room_id, 50, take_over)
    [(child, url)] = seconds
    try:
        assert {answer.status for answer in failures} <= {0, 503}
        assert 503 in {answer.status for answer in failures}
        assert await cluster.ended_by_itself("hs1") == 1
        alice.url = url
        history = await alice.history(room_id)
        found = {body: event_id for event_id, body in history}
        assert alice.acknowledged.items() <= found.items()
        await asyncio.gather(*(alice.send_until_answered(room_id, body) for body in bodies))
        await everyone_has_all_once([alice], room_id, bodies)
    finally:
        await stop_child(child)
        await cluster.start("hs1")


async def test_a_second_start_by_mistake_changes_nothing(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """The same configuration, so the same addresses: the second one says so and ends.

    Seen to fail when addresses were tried last, after the log was taken over.
    """
    alice = await new_person("p", "hs1")
    room_id = await alice.create_room()
    plan = cluster.plan("hs1")
    child = start_child("hs1 again", impatient_command(plan), plan.log_path)
    assert await asyncio.to_thread(child.process.wait, 20) == 1
    assert "Does the server run already?" in cluster.log_of("hs1")
    assert (await alice.send(room_id, "undisturbed")).status == 200


async def test_a_process_that_writes_nothing_notices_that_it_was_replaced(
    cluster: Cluster,
) -> None:
    """Else it would go on to serve what is out of date.

    Seen to fail when the log's owner was looked at in commits only.
    """
    child, _ = await cluster.start_second("hs1")
    try:
        assert await cluster.ended_by_itself("hs1") == 1
    finally:
        await stop_child(child)
        await cluster.start("hs1")


def messages_of(said: dict[str, Any], room_id: str) -> list[str]:
    """Return the messages in a sync answer's timeline of a room."""
    room = said["rooms"].get("join", {}).get(room_id, {})
    events = room.get("timeline", {}).get("events", [])
    return [one["content"]["body"] for one in events if one["type"] == "m.room.message"]


def typing_in(said: dict[str, Any], room_id: str) -> list[list[str]]:
    """Return what a sync answer says of typing in a room: lists of users."""
    room = said.get("rooms", {}).get("join", {}).get(room_id, {})
    events = room.get("ephemeral", {}).get("events", [])
    return [one["content"]["user_ids"] for one in events if one["type"] == "m.typing"]


async def set_typing(person: Person, room_id: str) -> None:
    """Type, for a while."""
    path = f"/rooms/{quote(room_id)}/typing/{quote(person.user_id)}"
    await person.must("PUT", path, {"typing": True, "timeout": 60_000})


async def waits(person: Person, since: str, timeout_ms: int = 300) -> dict[str, Any]:
    """Check that a sync has nothing to tell and takes its whole time; return its answer."""
    began = time.monotonic()
    said = await person.sync(since, timeout_ms)
    assert not said.get("rooms", {}).get("join"), said
    assert time.monotonic() - began >= timeout_ms / 1000 - 0.05, "a sync without news waits"
    return said


async def test_a_since_from_before_a_kill_gives_what_came_after_it_once(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """Events, whatever typing did to the tokens before and after the restart.

    Seen to fail when the boot number in a token wasn't looked at.
    """
    alice, bob = await new_person("p", "hs1"), await new_person("p", "hs1")
    room_id = await alice.create_room([bob])
    await alice.send(room_id, "before")
    first = (await bob.sync())["next_batch"]
    tokens = [first]
    for _ in range(5):  # typing gives the token a count that is ahead of a new server's
        await set_typing(alice, room_id)
        said = await bob.sync(tokens[-1])
        tokens.append(said["next_batch"])
        path = f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}"
        await alice.must("PUT", path, {"typing": False})
    await alice.send(room_id, "between")
    await cluster.kill("hs1")
    await cluster.start("hs1")
    await alice.send(room_id, "after")
    for token in tokens:
        said = await bob.sync(token)
        assert messages_of(said, room_id) == ["between", "after"]
        assert not said["rooms"]["join"][room_id]["timeline"].get("limited")
    said = await waits(bob, said["next_batch"])
    await set_typing(alice, room_id)
    for token in tokens:  # their counts are ahead of what this server has counted so far
        assert typing_in(await bob.sync(token), room_id) == [[alice.user_id]]
    said = await bob.sync(said["next_batch"], 5_000)
    assert typing_in(said, room_id) == [[alice.user_id]]
    assert messages_of(said, room_id) == []
    await waits(bob, said["next_batch"])


async def test_typing_neither_loops_a_sync_nor_takes_a_position_of_an_event(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """Who syncs on hears of it once, also while others type elsewhere; an event sent later is
    behind each token given before.

    Seen to fail when a room's typing was told whether it changed or not, and when a token's
    position was moved by typing.
    """
    alice, bob, eve = [await new_person("p", "hs1") for _ in range(3)]
    room_id, elsewhere = await alice.create_room([bob]), await eve.create_room()
    token = (await bob.sync())["next_batch"]
    await set_typing(alice, room_id)
    said = await bob.sync(token, 5_000)
    assert typing_in(said, room_id) == [[alice.user_id]]
    tokens = [token, said["next_batch"]]
    said = await waits(bob, tokens[-1])
    await set_typing(eve, elsewhere)
    said = await waits(bob, said["next_batch"])
    tokens.append(said["next_batch"])
    await alice.send(room_id, "an event")
    for token in tokens:
        assert messages_of(await bob.sync(token), room_id) == ["an event"]
    await cluster.kill("hs1")
    await cluster.start("hs1")

    async def is_quiet() -> bool:
        said = await bob.sync(tokens[-1])
        return messages_of(said, room_id) == ["an event"] and typing_in(said, room_id) == []

    await until(is_quiet, "nobody types after the restart")
    said = await bob.sync(tokens[-1])
    await waits(bob, said["next_batch"])
