"""What a text costs the event loop before its sender has shown who they are, and after.

The attacker runs in a thread of its own, so the loop's CPU time is the server's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import pytest

from federation.events.ids import ServerName
from federation.limits import NOTARY_REQUEST_BYTES_MAX, TRANSACTION_BYTES_MAX
from federation.transport.requests.x_matrix import SignedRequest, build_authorization
from tests.hostile.clients.running_server import SERVER
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, Http
from tests.hostile.peers.scripted_room import ScriptedRoom

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLACK = 3
"""Other work runs on the same loop, and the machine's speed varies."""

UNAUTHENTICATED_S = 0.020 * SLACK
PEER_ANSWER_S = 0.050 * SLACK
SEND = f"{V1}/send/t"
NESTED = b'{"pdus":[' + b"[" * (TRANSACTION_BYTES_MAX - 20)


async def loop_cost(work: Callable[[], Awaitable[object]]) -> float:
    """CPU seconds that the loop's thread spends while something goes on."""
    before = time.thread_time()
    await work()
    return time.thread_time() - before


def exchange(address: str, request: bytes) -> bytes:
    """Sends bytes over TLS and reads until the server closes; what it refuses to read isn't sent.
    For a thread."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=SERVER) as connection,
    ):
        answer = b""
        try:
            connection.sendall(request)
        except OSError:
            pass  # closed before all was sent, as it should be: the answer was sent first
        try:
            while part := connection.recv(65_536):
                answer += part
        except OSError:
            return answer
        return answer


def request(method: str, target: str, authorization: str, body: bytes) -> bytes:
    """The bytes of a request after which the connection is closed."""
    head = f"{method} {target} HTTP/1.1\r\nHost: {SERVER}\r\nConnection: close\r\n"
    if authorization:
        head += f"Authorization: {authorization}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def header(world: World, body: bytes, **other: str) -> str:
    """The header that the evil peer would send, with lies."""
    return build_authorization(
        SignedRequest("PUT", SEND, body),
        origin=ServerName(other.get("origin", world.evil.name)),
        destination=ServerName(other.get("destination", SERVER)),
        key=world.evil.key,
    )


@pytest.mark.parametrize("lie", ["none", "garbled", "destination", "ourselves", "unknown"])
async def test_a_request_that_shows_no_key_costs_next_to_nothing_whatever_its_body(
    world: World, lie: str
) -> None:
    authorization = {
        "none": "",
        "garbled": "X-Matrix " + "a" * 3_000,
        "destination": header(world, b"", destination="elsewhere.example"),
        "ourselves": header(world, b"", origin=SERVER),
        "unknown": header(world, b"", origin="nowhere.invalid"),
    }[lie]
    sent = request("PUT", SEND, authorization, NESTED)
    answers: list[bytes] = []

    async def attack() -> None:
        answers.append(await asyncio.to_thread(exchange, world.server.tls_address, sent))

    cost_s = await loop_cost(attack)
    assert answers[0].split(b" ")[1] == b"401"
    assert cost_s < UNAUTHENTICATED_S


def entries(entry: bytes, size: int) -> bytes:
    """A body of many equal entries of an unknown list."""
    count = (size - 20) // (len(entry) + 1)
    return b'{"x":{"y":[' + b",".join([entry] * count) + b"]}}"


FORGED = {
    "nested": NESTED,
    "deep": b'{"pdus":[' + b",".join([b"[" * 9_999 + b"]" * 9_999] * 490) + b"]}",
    "flat": entries(b"[]", TRANSACTION_BYTES_MAX),
    "members": b'{"x":{' + b",".join(b'"%d":0' % n for n in range(900_000)) + b"}}",
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_signature_costs_the_loop_little_whatever_it_covers(
    world: World, kind: str
) -> None:
    """The origin and its key are known, so the body has to be read."""
    body = FORGED[kind]
    assert len(body) <= TRANSACTION_BYTES_MAX
    assert (await world.evil.send()).status == 200, "its key is known from now on"
    sent = request("PUT", SEND, header(world, b"{}"), body)
    answers: list[bytes] = []

    async def attack() -> None:
        answers.append(await asyncio.to_thread(exchange, world.server.tls_address, sent))

    cost_s = await loop_cost(attack)
    assert answers[0].split(b" ")[1] in (b"400", b"401")
    assert cost_s < UNAUTHENTICATED_S


async def test_a_question_for_keys_is_small_and_flat(world: World) -> None:
    deep = b'{"server_keys":' + b"[" * (NOTARY_REQUEST_BYTES_MAX - 15)
    for body, status in ((deep, b"400"), (deep + b"[", b"413")):
        sent = request("POST", "/_matrix/key/v2/query", "", body)
        answers: list[bytes] = []

        async def attack(sent: bytes = sent, answers: list[bytes] = answers) -> None:
            answers.append(await asyncio.to_thread(exchange, world.server.tls_address, sent))

        cost_s = await loop_cost(attack)
        assert answers[0].split(b" ")[1] == status
        assert cost_s < UNAUTHENTICATED_S


ANSWERS = {
    "nested": b'{"state":' + b"[" * 10_000_000,
    "deep": b'{"state":[' + b",".join([b"[" * 30_000 + b"]" * 30_000] * 150) + b"]}",
    "flat": b'{"state":[' + b",".join([b"{}"] * 3_000_000) + b"]}",
    "members": b'{"x":1' + b',"x":1' * 1_500_000 + b"}",
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_lured_join_does_not_hold_the_loop(world: World, kind: str) -> None:
    """The peer sends from this loop, too: that is in the cost, and cheap beside parsing."""
    room = ScriptedRoom(world.evil)
    room.script(sent=lambda _event: Http(200, ANSWERS[kind]))
    replies: list[int] = []

    async def lure() -> None:
        path = f"/join/{quote(room.room_id)}?via={room.peer.name}"
        replies.append((await world.server.call("POST", path, {}, by=world.alice)).status)

    cost_s = await loop_cost(lure)
    assert replies == [502]
    assert cost_s < 0.5
    await world.is_up()


async def test_a_nested_profile_is_no_profile(world: World) -> None:
    world.evil.answers["/query/profile"] = lambda _path, _body: Http(200, b"[" * 1_000_000)
    statuses: list[int] = []

    async def look_up() -> None:
        path = f"/profile/{quote(world.evil.user('deep'))}"
        statuses.append((await world.server.call("GET", path, by=world.alice)).status)

    try:
        cost_s = await loop_cost(look_up)
    finally:
        del world.evil.answers["/query/profile"]
    assert statuses[0] in (404, 502)
    assert cost_s < PEER_ANSWER_S
