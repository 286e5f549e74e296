"""The server is killed (kill -9) after another server took an event and before it has stored it.

Once it is up again, both sides say the same: it is finished, or it is undone.

Spec: server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room", "Inviting to a
room"; client-server API, "Account deactivation".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from federation.events.canonical_json import JsonObject
from federation.events.hashes import event_id_of
from federation.events.room_versions import ROOM_VERSIONS
from local_postgres import EmbeddedCluster
from tests.conftest import BackgroundLoop
from tests.faults.killable_server import KillableServer, killable_server
from tests.faults.person import Person
from tests.faults.servers import until
from tests.hostile.peers.scripted_peer import Http
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.hostile.peers.test_joining import send_invite

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]
_names = count()
V12 = ROOM_VERSIONS["12"]


def refuse(_path: str, _body: object) -> Http:
    """Say no, as the peer."""
    return Http(403, b'{"errcode":"M_FORBIDDEN","error":"no"}')


@pytest.fixture(scope="module")
def database_url(postgres_cluster: EmbeddedCluster, background_loop: BackgroundLoop) -> str:
    """Return the address of the module's database; it goes with the cluster."""
    return background_loop.run(postgres_cluster.ensure_database("t_killed_joining"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(module_folder: Path, database_url: str) -> AsyncIterator[KillableServer]:
    """Yield the server beside its peer."""
    async with killable_server(module_folder, database_url) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def alice(server: KillableServer) -> AsyncIterator[Person]:
    """Yield a new user at the running server; the peer has heard nothing yet."""
    await server.kill()
    await server.start()
    server.peer.answers, server.peer.asked = {}, []
    async with aiohttp.ClientSession() as session:
        person = Person(session, server.url)
        await person.register(f"alice{next(_names)}")
        yield person


def sent(server: KillableServer, part: str) -> list[JsonObject]:
    """Return the bodies of the requests that the peer got at paths with `part`."""
    return [body for _, path, body in server.peer.asked if part in path]


async def shown(person: Person, section: str) -> dict[str, Any]:
    """Return a section of the rooms in the person's sync."""
    found: dict[str, Any] = (await person.sync()).get("rooms", {}).get(section, {})
    return found


async def invited(server: KillableServer, alice: Person) -> ScriptedRoom:
    """Return a room of the peer's to which it has invited alice."""
    room = ScriptedRoom(server.peer, join_rule="invite")
    invite = room.event(
        type="m.room.member", state_key=alice.user_id, content={"membership": "invite"}
    )
    assert (await send_invite(room, invite, room.state)).status == 200
    room.state.append(invite)
    room.script()
    return room


@pytest.mark.parametrize("kind", ["join", "knock"])
async def test_a_join_or_knock_that_the_peer_took_is_finished(
    server: KillableServer, alice: Person, kind: str
) -> None:
    """Seen to fail when the intent wasn't stored before the peer could sign."""
    room = ScriptedRoom(server.peer, join_rule="public" if kind == "join" else "knock")
    room.script()
    path = f"/{kind}/{quote(room.room_id)}"
    asking = alice.call("POST", path, {}, via=server.peer.name)
    taken, answer = await server.killed_at(f"/send_{kind}/", asking)
    assert answer.status == 0
    assert (taken["state_key"], taken["content"]["membership"]) == (alice.user_id, kind)
    assert await server.memberships(room.room_id) == {}
    await server.start()

    async def is_done() -> bool:
        return room.room_id in await shown(alice, kind)

    await until(is_done, f"the {kind} is finished")
    await server.until_settled()
    assert len(sent(server, f"/send_{kind}/")) == 2
    assert (await server.memberships(room.room_id))[alice.user_id] == kind


@pytest.mark.parametrize("kind", ["join", "knock"])
async def test_one_that_is_refused_by_then_is_undone(
    server: KillableServer, alice: Person, kind: str
) -> None:
    room = ScriptedRoom(server.peer, join_rule="public" if kind == "join" else "knock")
    room.script()
    path = f"/{kind}/{quote(room.room_id)}"
    asking = alice.call("POST", path, {}, via=server.peer.name)
    await server.killed_at(f"/send_{kind}/", asking)
    server.peer.answers[f"/make_{kind}/"] = refuse
    await server.start()
    await server.until_settled()
    (leave,) = sent(server, "/send_leave/")
    assert (leave["state_key"], leave["content"]["membership"]) == (alice.user_id, "leave")
    assert await server.memberships(room.room_id) == {}
    sections = (await alice.sync()).get("rooms", {})
    assert not [section for section, rooms in sections.items() if room.room_id in rooms]


@pytest.mark.parametrize("is_refused_then", [False, True])
async def test_a_refusal_of_an_invite_that_the_peer_took_is_finished(
    server: KillableServer, alice: Person, is_refused_then: bool
) -> None:
    """The peer may say that alice isn't invited any more: that was the point.

    Seen to fail when a leave that is refused later left the invite here.
    """
    room = await invited(server, alice)
    assert room.room_id in await shown(alice, "invite")
    asking = alice.call("POST", f"/rooms/{quote(room.room_id)}/leave", {})
    _, answer = await server.killed_at("/send_leave/", asking)
    assert answer.status == 0
    assert await server.memberships(room.room_id) == {alice.user_id: "invite"}
    if is_refused_then:
        server.peer.answers["/make_leave/"] = refuse
    await server.start()
    await server.until_settled()
    assert await server.memberships(room.room_id) == {alice.user_id: "leave"}
    assert room.room_id not in await shown(alice, "invite")
    assert len(sent(server, "/send_leave/")) == (1 if is_refused_then else 2)


def sign_invites(server: KillableServer) -> None:
    """Let the peer sign invites of its users."""

    def answer(path: str, body: JsonObject) -> JsonObject:
        event = body["event"]
        made = server.peer.sign(event, V12)["signatures"]
        return {"event": {**event, "signatures": {**event["signatures"], **made}}}

    server.peer.answers = {"/invite/": answer}


@pytest.mark.parametrize("is_refused_then", [False, True])
async def test_an_invite_that_the_peer_signed_is_finished_as_the_same_event(
    server: KillableServer, alice: Person, is_refused_then: bool
) -> None:
    """Or there is none, where the peer refuses by then.

    Seen to fail when invites had no intent: the peer's user had one that nobody else knew of.
    """
    sign_invites(server)
    created = await alice.must("POST", "/createRoom", {"preset": "private_chat"})
    room_id, mallory = created["room_id"], server.peer.user()
    path = f"/rooms/{quote(room_id)}"
    asking = alice.call("POST", f"{path}/invite", {"user_id": mallory, "reason": "come"})
    taken, answer = await server.killed_at("/invite/", asking)
    assert answer.status == 0
    assert mallory not in await server.memberships(room_id)
    if is_refused_then:
        server.peer.answers["/invite/"] = refuse
    await server.start()
    await server.until_settled()
    event_ids = {str(event_id_of(one["event"], V12)) for one in sent(server, "/invite/")}
    assert event_ids == {str(event_id_of(taken["event"], V12))}
    assert len(sent(server, "/invite/")) == 2
    if is_refused_then:
        assert mallory not in await server.memberships(room_id)
        return
    state = await alice.must("GET", f"{path}/state")
    (found,) = [one for one in state if one["state_key"] == mallory]  # type: ignore[index]
    assert found["event_id"] in event_ids  # type: ignore[index]
    assert found["content"] == taken["event"]["content"]  # type: ignore[index]


@pytest.mark.parametrize("is_refused_then", [False, True])
async def test_a_deactivated_user_is_out_of_what_the_peer_let_them_go_from(
    server: KillableServer, alice: Person, is_refused_then: bool
) -> None:
    """The account is ended by one answer; the rest is done in the background, over a kill too. A
    client that repeats its request is told that it is done."""
    room = await invited(server, alice)
    auth = {"type": "m.login.password", "user": alice.user_id, "password": "p4ss-" + alice.name}
    asking = alice.call("POST", "/account/deactivate", {"auth": auth})
    _, answer = await server.killed_at("/send_leave/", asking)
    assert answer.status == 200
    assert await server.memberships(room.room_id) == {alice.user_id: "invite"}
    if is_refused_then:
        server.peer.answers["/make_leave/"] = refuse
    await server.start()
    assert (await alice.call("GET", "/account/whoami")).status == 401
    again = await alice.must("POST", "/account/deactivate", {"auth": auth})
    assert again == {"id_server_unbind_result": "success"}

    async def has_left() -> bool:
        return await server.memberships(room.room_id) == {alice.user_id: "leave"}

    await until(has_left, "the invite is refused")
    await server.until_settled()
