"""What clients learn of users whose server shares no room with ours, or doesn't answer.

Spec: client-server API, "/keys/query".
"""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, Answer, Http

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORBIDDEN = b'{"errcode":"M_FORBIDDEN","error":"no"}'


@pytest.mark.parametrize(
    "answer",
    [
        lambda path, body: Http(403, FORBIDDEN),
        lambda path, body: Http(404, b"nothing here"),
        lambda path, body: Http(200, b"["),
        lambda path, body: Http(503),
    ],
)
async def test_a_query_that_fails_names_the_server(world: World, answer: Answer) -> None:
    world.evil.answers["/user/keys/query"] = answer
    user = world.evil.user("nobody")
    asked: dict[str, object] = {"device_keys": {user: []}}
    found = await world.server.ok("POST", "/keys/query", asked, by=world.alice)
    assert set(found["failures"]) == {"evil.example"}
    assert user not in found["device_keys"]
    world.evil.answers.clear()


async def test_a_stranger_is_refused_our_users_keys(world: World) -> None:
    """So that its client is told of the failure; an empty answer would mean no devices."""
    user = world.alice.user_id
    for path, content in (
        ("query", {"device_keys": {user: []}}),
        ("claim", {"one_time_keys": {user: {"D": "signed_curve25519"}}}),
    ):
        reply = await world.other.request("POST", f"{V1}/user/keys/{path}", content)
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    reply = await world.other.request("GET", f"{V1}/user/devices/{quote(user)}")
    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
