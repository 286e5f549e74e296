"""A server is killed (kill -9) at any moment: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from federation.events.canonical_json import JsonObject
from federation.events.signing import SigningKey, sign_json
from tests.faults.conftest import NewPerson
from tests.faults.person import Person, everyone_has_all_once, send_until_it_fails
from tests.faults.servers import Cluster, running_cluster, until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("all_up_again"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield three servers."""
    async with running_cluster(module_folder, 3) as cluster:
        yield cluster


async def test_what_a_killed_server_acknowledged_is_on_all_servers_once(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """The server dies with 200 concurrent sends under way. Those that were answered are there; the
    others, repeated under their transaction IDs, become one event each.

    Seen to fail when messages were published 0.2 s before they were written, and when transaction
    IDs weren't stored with their events.
    """
    alice, bob, carol = [await new_person("p", name) for name in ("hs1", "hs2", "hs3")]
    room_id = await alice.create_room([bob, carol])
    bodies, failures = await send_until_it_fails(alice, room_id, 200, lambda: cluster.kill("hs1"))
    assert {answer.status for answer in failures} == {0}
    acknowledged = dict(alice.acknowledged)
    await cluster.start("hs1")
    history = await alice.history(room_id)
    assert acknowledged.items() <= {body: event_id for event_id, body in history}.items()
    # `send` checks that a repeat of an acknowledged one gets the first one's event
    await asyncio.gather(*(alice.send_until_answered(room_id, body) for body in bodies))
    await everyone_has_all_once([alice, bob, carol], room_id, bodies)


class Letters:
    """Messages to one device from another server, and who collects them by syncs."""

    def __init__(self, sender: Person, receiver: Person) -> None:
        """Nothing is sent yet."""
        self._sender, self._receiver = sender, receiver
        self.arrived: list[int] = []
        self.changed: set[str] = set()  # whose devices the receiver heard of
        self.since = ""

    async def send(self, number: int) -> None:
        """Send a message of a number."""
        receiver = self._receiver
        messages = {receiver.user_id: {receiver.device_id: {"number": number}}}
        path = f"/sendToDevice/org.example.letter/{receiver.user_id}-{number}"
        await self._sender.must("PUT", path, {"messages": messages})

    async def collect(self) -> JsonObject:
        """Sync once; note what came."""
        said = await self._receiver.sync(self.since)
        self.since = said["next_batch"]
        events = said.get("to_device", {}).get("events", [])
        self.arrived += [event["content"]["number"] for event in events]
        self.changed |= set(said.get("device_lists", {}).get("changed", []))
        return said

    async def until_arrived(self, number: int) -> None:
        """Sync until the message of a number is there."""

        async def is_there() -> bool:
            await self.collect()
            return number in self.arrived

        await until(is_there, f"letter {number} arrives")


def device_keys(person: Person) -> JsonObject:
    """Return signed device keys to upload."""
    key = SigningKey.generate(bytes(32), person.device_id)
    keys: JsonObject = {
        "user_id": person.user_id,
        "device_id": person.device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {
            f"curve25519:{person.device_id}": "C" * 43,
            f"ed25519:{person.device_id}": key.verify_key.encoded,
        },
    }
    return sign_json(keys, person.user_id, key)


@pytest.mark.parametrize("is_sender_killed", [False, True])
async def test_a_stopped_server_gets_all_that_it_missed_once_and_in_order(
    cluster: Cluster, new_person: NewPerson, is_sender_killed: bool
) -> None:
    """hs2 is down for 100 messages in three rooms, messages to a device and a change of a device
    list; the sending server may be killed meanwhile. When both are up, nobody sends anything.

    Seen to fail when the outbox moved its cursor although the other side was away; with the sender
    killed, when destinations that lag weren't looked for at a start, and when what is owed was
    taken from memory alone.
    """
    alice, bob = await new_person("p", "hs1"), await new_person("p", "hs2")
    rooms = [await alice.create_room([bob]) for _ in range(3)]
    letters = Letters(alice, bob)
    await letters.send(0)
    await letters.until_arrived(0)
    await letters.collect()
    letters.changed.clear()
    status, _ = await cluster.end("hs2", signal.SIGTERM)
    assert status == 0
    for i in range(100):
        assert (await alice.send(rooms[i % 3], f"m{i}")).status == 200
        if i % 20 == 19:
            await letters.send(1 + i // 20)
    await alice.must("POST", "/keys/upload", {"device_keys": device_keys(alice)})
    if is_sender_killed:
        await cluster.kill("hs1")
        await cluster.start("hs1")
    await cluster.start("hs2")
    for i, room_id in enumerate(rooms):
        history = await bob.until_has(room_id, [f"m{j}" for j in range(i, 100, 3)])
        assert [body for _, body in history] == [f"m{j}" for j in range(i, 100, 3)]
        assert history == await alice.history(room_id)
    await letters.until_arrived(5)

    async def has_heard() -> bool:
        await letters.collect()
        return alice.user_id in letters.changed

    await until(has_heard, "the change of the device list arrives")
    found = await bob.must("POST", "/keys/query", {"device_keys": {alice.user_id: []}})
    assert alice.device_id in found["device_keys"][alice.user_id]
    await letters.send(6)  # comes behind whatever might have been sent twice
    await letters.until_arrived(6)
    assert letters.arrived == list(range(7))


async def test_a_server_killed_while_it_receives_gets_everything_once(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """hs2 is killed in the middle of a stream of 200 messages, with letters to a device between
    them, and started again while it goes on.

    Seen to fail when the outbox moved its cursor although the other side was away.
    """
    alice, bob = await new_person("p", "hs1"), await new_person("p", "hs2")
    room_id = await alice.create_room([bob])
    letters = Letters(alice, bob)
    await letters.collect()

    async def stream() -> None:
        for i in range(200):
            assert (await alice.send(room_id, f"m{i}")).status == 200
            if i % 10 == 0:
                await letters.send(i // 10)

    async def kill_and_start() -> None:
        await bob.until_has(room_id, ["m20"])
        await cluster.kill("hs2")
        await cluster.start("hs2")

    await asyncio.gather(stream(), kill_and_start())
    history = await bob.until_has(room_id, [f"m{i}" for i in range(200)])
    assert [body for _, body in history] == [f"m{i}" for i in range(200)]
    assert history == await alice.history(room_id)
    await letters.send(20)
    await letters.until_arrived(20)
    assert letters.arrived == list(range(21))


async def test_a_deactivated_user_leaves_everything_though_the_server_is_killed(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """hs1 is killed right after its answer; in one room it is alone, in one hs2 is, too, and to one
    the user was invited.

    Seen to fail when what was still to do was in memory alone.
    """
    alice, bob, anna = [await new_person("p", name) for name in ("hs1", "hs2", "hs1")]
    invited = await bob.create_room()
    invite = {"user_id": alice.user_id}
    await bob.must("POST", f"/rooms/{quote(invited)}/invite", invite)
    rooms = {await alice.create_room([anna]): anna, await alice.create_room([bob]): bob}
    auth = {"type": "m.login.password", "user": alice.user_id, "password": "p4ss-" + alice.name}
    said = await alice.must("POST", "/account/deactivate", {"auth": auth})
    assert said == {"id_server_unbind_result": "success"}
    await cluster.kill("hs1")
    assert (await alice.call("GET", "/account/whoami")).status == 0
    await cluster.start("hs1")
    assert (await alice.call("GET", "/account/whoami")).status == 401
    for room_id, reader in {**rooms, invited: bob}.items():
        path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(alice.user_id)}"

        async def has_left(reader: Person = reader, path: str = path) -> bool:
            return (await reader.must("GET", path)).get("membership") == "leave"

        await until(has_left, f"{reader.user_id} sees that the user left")
