"""The size limits of events, on both sides, and content that canonical JSON can't hold.

Spec: client-server API, "Size limits"; appendices, "Canonical JSON".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation.limits import EVENT_BYTES_MAX
from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.running_server import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = count()


async def send(scene: Scene, content: Any, *, event_type: str = "m.room.message") -> Reply:
    """Sends a message event; `content` as JSON or bytes."""
    room, kind = quote(scene.room_id), quote(event_type, safe="")
    path = f"/rooms/{room}/send/{kind}/limits{next(_numbers)}"
    return await scene.server.call("PUT", path, content, by=scene.alice)


async def put_state(scene: Scene, event_type: str, state_key: str) -> Reply:
    """Sets state."""
    room, kind, key = (quote(part, safe="") for part in (scene.room_id, event_type, state_key))
    path = f"/rooms/{room}/state/{kind}/{key}"
    return await scene.server.call("PUT", path, {"a": 1}, by=scene.alice)


async def refused(scene: Scene, attempt: Callable[[], Awaitable[Reply]], errcode: str) -> None:
    """An attempt is refused and stores nothing."""
    before = await scene.server.rows()
    reply = await attempt()
    assert reply.status in (400, 413)
    assert reply.errcode == errcode
    assert await scene.server.rows() == before


async def largest_body(scene: Scene) -> int:
    """The longest body that fits an event of this room, found by bisection of answers."""
    least, most = 60_000, EVENT_BYTES_MAX
    while most - least > 1:
        middle = (least + most) // 2
        reply = await send(scene, {"body": "x" * middle})
        least, most = (middle, most) if reply.status == 200 else (least, middle)
    return least


async def test_an_event_has_at_most_65536_bytes(scene: Scene) -> None:
    longest = await largest_body(scene)
    sent = await send(scene, {"body": "x" * longest})
    assert sent.status == 200
    room, event = quote(scene.room_id), quote(sent.body["event_id"])
    await scene.server.ok("GET", f"/rooms/{room}/event/{event}", by=scene.alice)
    row = await scene.server.database.fetchval(
        "SELECT length(json) FROM events WHERE event_id = $1", sent.body["event_id"]
    )
    assert EVENT_BYTES_MAX - 400 < row <= EVENT_BYTES_MAX

    async def too_long() -> Reply:
        return await send(scene, {"body": "x" * (longest + 1)})

    await refused(scene, too_long, "M_TOO_LARGE")


@pytest.mark.parametrize("character", ["x", "é", "💩"])
async def test_types_and_state_keys_have_at_most_255_bytes(scene: Scene, character: str) -> None:
    most = 255 // len(character.encode())
    fits, beyond = character * most, character * (most + 1)
    if len(character) == 1 and character != "x":
        fits += "x" * (255 - len(fits.encode()))
    assert (await send(scene, {"a": 1}, event_type=fits)).status == 200
    assert (await put_state(scene, fits, "k")).status == 200
    assert (await put_state(scene, "t", fits)).status == 200
    for attempt in (
        lambda: send(scene, {"a": 1}, event_type=beyond),
        lambda: put_state(scene, beyond, "k"),
        lambda: put_state(scene, "t", beyond),
    ):
        await refused(scene, attempt, "M_TOO_LARGE")


@pytest.mark.parametrize(
    "text",
    ["1.5", "1e3", "-0.0", "9007199254740992", "-9007199254740992", "1" * 30, "1e400"],
)
async def test_numbers_outside_of_canonical_json_are_refused(scene: Scene, text: str) -> None:
    for body in (f'{{"n":{text}}}', f'{{"n":[{{"n":{text}}}]}}'):
        before = await scene.server.rows()
        reply = await send(scene, body.encode())
        assert reply.status == 400
        assert reply.errcode in ("M_BAD_JSON", "M_NOT_JSON")
        assert await scene.server.rows() == before


async def test_the_largest_integers_are_kept(scene: Scene) -> None:
    content = {"most": 2**53 - 1, "least": -(2**53) + 1}
    sent = await send(scene, content)
    path = f"/rooms/{quote(scene.room_id)}/event/{quote(sent.body['event_id'])}"
    assert (await scene.server.ok("GET", path, by=scene.alice))["content"] == content


async def test_nesting_has_a_limit(scene: Scene) -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert (await send(scene, nested(100))).status == 200
    for depth in (101, 300, 20_000):
        reply = await send(scene, nested(depth))
        assert (reply.status, reply.errcode) == (400, "M_BAD_JSON")


async def test_nul_in_content_comes_back_as_it_was(scene: Scene) -> None:
    """JSON can hold it, so the room can; PostgreSQL's text type could not."""
    content = {"body": "a\0b", "\0": ["\0"]}
    sent = await send(scene, content)
    assert sent.status == 200
    path = f"/rooms/{quote(scene.room_id)}/event/{quote(sent.body['event_id'])}"
    assert (await scene.server.ok("GET", path, by=scene.alice))["content"] == content


async def test_lone_surrogates_are_no_json(scene: Scene) -> None:
    for body in (b'{"body":"\\ud800"}', b'{"body":"\xed\xa0\x80"}', b'{"\\udfff":1}'):
        before = await scene.server.rows()
        reply = await send(scene, body)
        assert (reply.status, reply.errcode) == (400, "M_NOT_JSON")
        assert await scene.server.rows() == before


async def test_of_duplicate_keys_one_counts(scene: Scene) -> None:
    """What is stored is what clients see: one of the two, everywhere the same."""
    sent = await send(scene, b'{"body":"first","body":"second"}')
    assert sent.status == 200
    path = f"/rooms/{quote(scene.room_id)}/event/{quote(sent.body['event_id'])}"
    read = await scene.server.call("GET", path, by=scene.alice)
    assert read.body["content"] == {"body": "second"}


async def test_a_message_event_can_not_pose_as_state(scene: Scene) -> None:
    """Fields beside the content are the server's to set."""
    sent = await send(scene, {"state_key": "", "sender": "@x:y", "unsigned": {"age": 1}})
    path = f"/rooms/{quote(scene.room_id)}/event/{quote(sent.body['event_id'])}"
    event = await scene.server.ok("GET", path, by=scene.alice)
    assert "state_key" not in event
    assert event["sender"] == scene.alice.user_id


async def test_a_repeated_transaction_gives_the_first_event(scene: Scene) -> None:
    path = f"/rooms/{quote(scene.room_id)}/send/m.room.message/same"
    first = await scene.server.call("PUT", path, {"body": "1"}, by=scene.alice)
    before = await scene.server.rows()
    again = await scene.server.call("PUT", path, orjson.dumps({"body": "2"}), by=scene.alice)
    assert again.body == first.body
    assert await scene.server.rows() == before


@pytest.mark.parametrize("preset", ["private_chat", "public_chat"])
async def test_a_room_that_can_not_be_made_leaves_nothing(scene: Scene, preset: str) -> None:
    for wrong in (
        {"initial_state": [{"type": "t", "content": {"body": "x" * 70_000}}]},
        {"initial_state": [{"type": "t", "state_key": "x" * 256, "content": {}}]},
        {"name": "x" * 70_000},
        {"power_level_content_override": {"users": {"@x:y.example": "100"}}},
        {"power_level_content_override": {"ban": [1]}},
        {"creation_content": {"a": "x" * 70_000}},
        {"room_version": "nonsense"},
        {"invite": ["nobody"]},
        {"room_alias_name": "a:b"},
    ):
        before = await scene.server.rows()
        reply = await scene.server.call(
            "POST", "/createRoom", {"preset": preset, **wrong}, by=scene.alice
        )
        assert 400 <= reply.status < 500, (wrong, reply)
        assert await scene.server.rows() == before
