"""Exchanges that break off: the real server is stopped while a peer has its signed event, or the
peer falls silent. In the end both sides say the same.

Spec: server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room".
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
import trustme

from federation import limits
from federation.events.canonical_json import JsonObject
from homeserver.engine.remote.outside_memberships import OutsideMemberships
from homeserver.engine.remote.remote_event_writer import RemoteEventWriter
from tests.faults.servers import until
from tests.hostile.clients.running_server import Server, running
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, Http, ScriptedPeer, scripted_peer
from tests.hostile.peers.scripted_room import ScriptedRoom
from tests.hostile.peers.test_joining import build_invite, send_invite
from tests.hostile.peers.test_withdrawn_invites import cosigned, pdus


class Lasting(NamedTuple):
    """What outlives one run of the server."""

    authority: trustme.CA
    signing_key_path: str


@asynccontextmanager
async def peer_and_authority() -> AsyncIterator[tuple[ScriptedPeer, Lasting]]:
    """A peer that outlives the server."""
    authority = trustme.CA()
    async with scripted_peer("evil.example", authority, 7) as peer:
        with tempfile.TemporaryDirectory(prefix="freehold-test-") as name:
            yield peer, Lasting(authority, str(Path(name) / "signing.key"))


@asynccontextmanager
async def served(url: str, peer: ScriptedPeer, lasting: Lasting) -> AsyncIterator[Server]:
    """One run of the server."""
    federation = {"address_overrides": {peer.name: peer.address}}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            running(
                url,
                lasting.authority,
                federation=federation,
                signing_key_path=lasting.signing_key_path,
            )
        )
        peer.target = server.tls_address
        yield server


def sent(peer: ScriptedPeer, kind: str) -> int:
    """How many signed events of a kind the peer got."""
    return sum(f"/send_{kind}/" in path for _, path, _ in peer.asked)


@pytest.mark.parametrize("kind", ["join", "knock"])
async def test_what_a_stop_left_half_done_is_finished_by_the_next_run(
    postgres_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async with peer_and_authority() as (peer, lasting):
        room = ScriptedRoom(peer, join_rule="public" if kind == "join" else "knock")
        room.script()
        path = f"/{kind}/{quote(room.room_id)}?via={peer.name}"
        with monkeypatch.context() as patch:
            patch.setattr(RemoteEventWriter, "import_join", hang)
            patch.setattr(OutsideMemberships, "keep", hang)
            async with served(postgres_url, peer, lasting) as server:
                alice = await server.register("alice")
                asking = asyncio.ensure_future(server.call("POST", path, {}, by=alice))

                async def is_sent() -> bool:
                    return sent(peer, kind) == 1

                await until(is_sent, "the peer has the event")
                asking.cancel()
        async with served(postgres_url, peer, lasting) as server:

            async def is_done() -> bool:
                rooms = (await server.sync(alice)).get("rooms", {})
                return room.room_id in rooms.get(kind, {})

            await until(is_done, "the next run finishes it")
            assert sent(peer, kind) == 2

            async def is_forgotten() -> bool:
                return (await server.rows())["joining_intents"] == 0

            await until(is_forgotten, "nothing is left to do")


async def test_a_join_that_can_not_be_used_is_undone_at_the_peer(postgres_url: str) -> None:
    async with peer_and_authority() as (peer, lasting):
        room = ScriptedRoom(peer)
        room.script(sent=lambda event: Http(200, b"{}"))
        async with served(postgres_url, peer, lasting) as server:
            alice = await server.register("alice")
            path = f"/join/{quote(room.room_id)}?via={peer.name}"
            assert (await server.call("POST", path, {}, by=alice)).status == 502

            async def has_left() -> bool:
                return sent(peer, "leave") == 1

            await until(has_left, "the peer is told that alice left")
            (leave,) = [body for _, path, body in peer.asked if "/send_leave/" in path]
            assert leave["state_key"] == alice.user_id


@pytest.mark.parametrize("lost", [Http(500), Http(200, b"{"), Http(200, b"{}")])
async def test_an_invite_whose_answer_is_of_no_use_is_finished_as_the_same_event(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, lost: Http
) -> None:
    """The peer may have shown it to its user: one that the room doesn't know can't be accepted."""
    monkeypatch.setattr(limits, "JOINING_RETRY_S_MIN", 0.05)
    async with (
        peer_and_authority() as (peer, lasting),
        served(postgres_url, peer, lasting) as server,
    ):
        alice = await server.register("alice")
        room_id = await server.create_room(alice)
        peer.answers = {"/invite/": lambda path, body: lost}
        path, target = f"/rooms/{quote(room_id)}", {"user_id": peer.user()}
        assert (await server.call("POST", f"{path}/invite", target, by=alice)).status == 502
        member = f"{path}/state/m.room.member/{quote(peer.user())}"
        assert (await server.call("GET", member, by=alice)).status == 404
        cosigned(World(server, alice, peer, peer))

        async def is_invited() -> bool:
            return (await server.call("GET", member, by=alice)).status == 200

        await until(is_invited, "the room knows of the invite")
        sent_ids = {path for _, path, _ in peer.asked if "/v2/invite/" in path}
        assert len(sent_ids) == 1, "the same event each time"
        await server.rows()  # waits until nothing is left to do


async def test_refusing_an_invite_of_a_silent_server_is_quick_and_reaches_it_later(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOINING_RETRY_S_MIN", 0.05)
    async with peer_and_authority() as (peer, lasting):
        async with served(postgres_url, peer, lasting) as server:
            alice = await server.register("alice")
            room = ScriptedRoom(peer, join_rule="invite")
            world = World(server, alice, peer, peer)
            invite = build_invite(room, world)
            assert (await send_invite(room, invite, room.state)).status == 200
            room.state.append(invite)
            peer.answers = {"/make_leave/": lambda path, body: Http(500)}
            path = f"/rooms/{quote(room.room_id)}/leave"
            await server.ok("POST", path, {"reason": "no"}, by=alice)
            rooms: JsonObject = (await server.sync(alice)).get("rooms", {})
            assert room.room_id not in rooms.get("invite", {})
            assert sent(peer, "leave") == 0
        async with served(postgres_url, peer, lasting) as server:
            room.script()

            async def is_listed() -> bool:
                return sent(peer, "leave") == 1

            await until(is_listed, "the peer learns of it, after a restart too")
            (leave,) = [body for _, path, body in peer.asked if "/send_leave/" in path]
            assert leave["content"] == {"membership": "leave", "reason": "no"}


async def test_a_withdrawn_invite_reaches_a_server_that_was_down_over_a_restart(
    postgres_url: str,
) -> None:
    async with peer_and_authority() as (peer, lasting):
        async with served(postgres_url, peer, lasting) as server:
            alice = await server.register("alice")
            cosigned(World(server, alice, peer, peer))
            room_id = await server.create_room(alice)
            path, target = f"/rooms/{quote(room_id)}", {"user_id": peer.user()}
            await server.ok("POST", f"{path}/invite", target, by=alice)
            peer.answers["/send/"] = lambda path, body: Http(500)
            await server.ok("POST", f"{path}/kick", target, by=alice)
        del peer.answers["/send/"]
        peer.asked.clear()
        async with served(postgres_url, peer, lasting) as server:
            peer.target = server.tls_address
            world = World(server, alice, peer, peer)

            async def is_listed() -> bool:
                heard = await peer.request("GET", f"{V1}/version")  # it is up again
                assert heard.status == 200
                return any(pdu["room_id"] == room_id for pdu in pdus(world))

            await until(is_listed, "the peer learns that the invite is no more")
            (got,) = [pdu for pdu in pdus(world) if pdu["room_id"] == room_id]
            assert (got["state_key"], got["content"]["membership"]) == (peer.user(), "leave")
