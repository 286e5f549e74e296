"""A server's database is put back to an older copy: nobody misses anything in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGTERM
from urllib.parse import quote

import asyncpg
import pytest
import pytest_asyncio

from tests.faults.actors import OK, Owner, persist
from tests.faults.conftest import NewPerson
from tests.faults.person import JsonObject, Person
from tests.faults.servers import Cluster, running_cluster, until
from tests.faults.test_killed_server import Letters

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("all_up_again"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield two servers."""
    async with running_cluster(module_folder, 2) as cluster:
        yield cluster


async def copy(cluster: Cluster, name: str) -> None:
    """Keep a copy of a server's database, as a backup does."""
    database = cluster.plan(name).database_name
    made = f'CREATE DATABASE "{database}_copy" TEMPLATE "{database}" OWNER "{database}"'
    await _as_operator(cluster, made)


async def put_back(cluster: Cluster, name: str) -> None:
    """Replace a server's database by the copy. Precondition: the server is down."""
    database = cluster.plan(name).database_name
    await _as_operator(cluster, f'DROP DATABASE "{database}" WITH (FORCE)')
    await _as_operator(cluster, f'ALTER DATABASE "{database}_copy" RENAME TO "{database}"')


async def _as_operator(cluster: Cluster, statement: str) -> None:
    connection = await asyncpg.connect(cluster.database.operator_address("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Reader:
    """A client that keeps what its syncs told of one room."""

    def __init__(self, person: Person, room_id: str) -> None:
        """Nothing is read yet."""
        self.person, self.room_id = person, room_id
        self.since = self.prev_batch = ""
        self.bodies: list[str] = []
        self.said: JsonObject = {}

    async def sync(self) -> None:
        """Sync once."""
        self.said = await self.person.sync(self.since)
        self.since = self.said["next_batch"]
        room = self.said.get("rooms", {}).get("join", {}).get(self.room_id, {})
        timeline = room.get("timeline", {"events": []})
        self.prev_batch = timeline.get("prev_batch", self.prev_batch)
        events = [one for one in timeline["events"] if one["type"] == "m.room.message"]
        self.bodies += [one["content"]["body"] for one in events]


async def test_a_client_that_is_further_along_begins_anew_and_others_go_on(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """The copy grows past the client's position before the client comes back.

    Seen to fail when the log's history was the same text before and after: the client missed 10 of
    25 messages.
    """
    alice, bob = await new_person("r", "hs1"), await new_person("r", "hs2")
    room_id = await alice.create_room([bob])
    reader, letters = Reader(alice, room_id), Letters(alice, bob)
    for i in range(5):
        await alice.send(room_id, f"kept {i}")
    await reader.sync()
    kept_since = reader.since
    await letters.send(0)
    await letters.until_arrived(0)
    await cluster.end("hs1", SIGTERM)
    await copy(cluster, "hs1")
    await cluster.start("hs1")
    for i in range(10):
        await alice.send(room_id, f"lost {i}")
    await reader.sync()
    await letters.send(1)
    await letters.until_arrived(1)
    await bob.until_has(room_id, [f"lost {i}" for i in range(10)])
    await cluster.kill("hs1")
    await put_back(cluster, "hs1")
    await cluster.start("hs1")
    for i in range(15):
        assert (await alice.send(room_id, f"new {i}")).status == 200
    # what is known from before the copy counts
    assert "rooms" in await alice.sync(kept_since)
    query = {"dir": "b", "from": reader.prev_batch}
    page = await alice.call("GET", f"/rooms/{quote(room_id)}/messages", None, **query)
    assert (page.status, page.body["errcode"]) == (400, "M_UNKNOWN_POS")
    await reader.sync()
    state = reader.said["rooms"]["join"][room_id]["state"]["events"]
    timeline = reader.said["rooms"]["join"][room_id]["timeline"]["events"]
    assert "m.room.create" in {event["type"] for event in [*state, *timeline]}
    assert {f"new {i}" for i in range(15)} <= set(reader.bodies)
    assert set(reader.said["device_lists"]["changed"]) >= {alice.user_id, bob.user_id}
    # what the copy lacked comes back from others, and what is said here reaches them
    await bob.send(room_id, "so it goes on")
    everything = [f"kept {i}" for i in range(5)] + [f"lost {i}" for i in range(10)]
    everything += [f"new {i}" for i in range(15)] + ["so it goes on"]
    for person in (alice, bob):
        history = await person.until_has(room_id, everything)
        assert len(history) == len(everything)
    await letters.send(2)
    await letters.until_arrived(2)
    assert letters.arrived == [0, 1, 2]


async def test_changes_of_devices_after_it_reach_servers_that_saw_the_lost_ones(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """As many changes as there were before: others must not take them for the ones they know."""
    alice, bob = await new_person("r", "hs1"), await new_person("r", "hs2")
    await alice.create_room([bob])
    owner = Owner(alice, alice.user_id[1:].partition(":")[0])
    query: JsonObject = {"device_keys": {alice.user_id: []}}
    await persist(bob, "POST", "/keys/query", query, done=OK)  # hs2 keeps the list from now on

    async def seen_by_bob() -> None:
        async def is_seen() -> bool:
            answer = await persist(bob, "POST", "/keys/query", query, done=OK)
            return set(answer.body["device_keys"].get(alice.user_id, {})) == set(owner.devices)

        await until(is_seen, f"bob sees {set(owner.devices)}")

    await cluster.end("hs1", SIGTERM)
    await copy(cluster, "hs1")
    await cluster.start("hs1")
    for _ in range(2):
        await owner.add()
    await seen_by_bob()
    await cluster.kill("hs1")
    await put_back(cluster, "hs1")
    await cluster.start("hs1")
    owner.devices.clear()
    for _ in range(2):
        await owner.add()
    await seen_by_bob()
