"""Two servers in a room that a policy server guards, over TLS, from client to client.

The third server of the lab only lends its name and its user to the policy server: once the user has
joined, a small program of the test answers at its address.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web

from tests.faults.conftest import NewPerson
from tests.faults.person import Answer, Person
from tests.faults.servers import Cluster, running_cluster, until
from tests.federation.transport.policy_app import PolicyApp

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(module_folder: Path) -> AsyncIterator[Cluster]:
    """Yield three servers."""
    async with running_cluster(module_folder, 3) as cluster:
        yield cluster


@asynccontextmanager
async def policy_server(cluster: Cluster) -> AsyncIterator[PolicyApp]:
    """Answer in the place of `hs3`."""
    plan = cluster.plan("hs3")
    app = PolicyApp("hs3", "12")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(plan.certificate_path, plan.private_key_path)
    runner = web.ServerRunner(web.Server(app.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", plan.ports.tls, ssl_context=tls).start()
    try:
        yield app
    finally:
        await runner.cleanup()


async def set_policy(person: Person, room_id: str, content: dict[str, object]) -> None:
    """Say which policy server the room uses."""
    await person.must("PUT", f"/rooms/{quote(room_id)}/state/m.room.policy/", content)


async def invite(person: Person, room_id: str, other: Person, reason: str) -> Answer:
    """Invite somebody."""
    body = {"user_id": other.user_id, "reason": reason}
    return await person.call("POST", f"/rooms/{quote(room_id)}/invite", body)


async def invited(person: Person) -> set[str]:
    """Return the rooms that somebody is invited to."""
    return set((await person.sync())["rooms"].get("invite", {}))


async def test_a_policy_server_guards_a_room_of_two_servers(
    cluster: Cluster, new_person: NewPerson
) -> None:
    """What it recommends arrives everywhere, what it refuses nowhere; without it nothing is sent,
    until the room lets it go. Seen to fail without the request before a send."""
    alice, bob, guard = [await new_person("g", name) for name in ("hs1", "hs2", "hs3")]
    for path in ("/_matrix/policy/v1/sign", "/.well-known/matrix/policy_server"):
        async with alice.session.get(alice.url + path) as answer:
            assert answer.status == 404  # we are no policy server
    room_id = await alice.create_room([bob, guard])
    alone = await alice.create_room([guard])
    await cluster.kill("hs3")
    async with policy_server(cluster) as app:
        for one in (room_id, alone):
            await set_policy(alice, one, app.content)
        assert not app.asked
        assert (await alice.send(room_id, "hello")).status == 200
        await bob.until_has(room_id, ["hello"])
        assert app.origins == ["hs1"]  # bob's server saw the signature, and asked nobody
        spam = await alice.send(room_id, "spam")
        assert (spam.status, spam.body["errcode"]) == (403, "M_FORBIDDEN")
        assert spam.body["error"] == "It looks like spam"
        assert (await bob.send(room_id, "answer")).status == 200
        assert await alice.until_has(room_id, ["answer"]) == await bob.history(room_id)
        await a_join_and_invites(app, alice, bob, alone)
    down = await alice.send(room_id, "later")
    assert down.status == 503
    assert down.retry_after
    await set_policy(alice, room_id, {})
    assert (await alice.send(room_id, "later")).status == 200
    history = await bob.until_has(room_id, ["later"])
    assert [body for _, body in history] == ["hello", "answer", "later"]


async def a_join_and_invites(app: PolicyApp, alice: Person, bob: Person, room_id: str) -> None:
    """Somebody comes from a server that isn't in the room yet."""
    refused = await invite(alice, room_id, bob, "spam")
    assert (refused.status, refused.body["errcode"]) == (403, "M_FORBIDDEN")
    assert room_id not in await invited(bob)
    assert (await invite(alice, room_id, bob, "welcome")).status == 200

    async def is_invited() -> bool:
        return room_id in await invited(bob)

    await until(is_invited, "bob sees the invite")
    app.asked.clear()
    await bob.join(room_id, "hs1")
    assert [pdu["content"]["membership"] for pdu in app.asked] == ["join"]
    assert (await bob.send(room_id, "here")).status == 200
    await alice.until_has(room_id, ["here"])
