"""Reads with hostile parameters: tokens, limits, filters, and rooms that are no business of theirs.

A hostile reader gets the spec's error or an ordinary answer, and never more than is theirs.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import orjson
import pytest

from homeserver import limits
from tests.hostile.clients.conftest import Scene
from tests.hostile.clients.running_server import Reply, User

pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD_TOKENS = (
    "s",
    "s-1",
    "s1",
    "0",
    "null",
    "s9999999999999999999999",
    "t1-1",
    "\u0663",
    "s1_1_1_1_1_1_1_1_1",
    "%",
    "x" * 5000,
    "../../etc/passwd",
)


async def get(scene: Scene, path: str, by: User | None = None) -> Reply:
    """One GET."""
    return await scene.server.call("GET", path, by=by or scene.alice)


async def test_false_sync_tokens(scene: Scene) -> None:
    for token in BAD_TOKENS:
        reply = await get(scene, f"/sync?since={quote(token, safe='')}")
        assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), token


async def test_tampered_sync_tokens_never_spin_or_fail(scene: Scene) -> None:
    """Any character of a real token changed: an error, or an answer that can be gone on from."""
    token = (await scene.server.sync(scene.alice))["next_batch"]
    for index in range(len(token)):
        for character in "09aZ_~.-":
            changed = token[:index] + character + token[index + 1 :]
            reply = await get(scene, f"/sync?since={quote(changed, safe='')}")
            assert reply.status in (200, 400), (changed, reply)
            if reply.status == 400:
                assert reply.errcode in ("M_INVALID_PARAM", "M_UNKNOWN_POS"), changed
            else:
                following = quote(reply.body["next_batch"])
                assert (await get(scene, f"/sync?since={following}")).status == 200


async def test_false_tokens_of_messages_members_and_changes(scene: Scene) -> None:
    room = f"/rooms/{quote(scene.room_id)}"
    for token in BAD_TOKENS:
        bad = quote(token, safe="")
        for path in (
            f"{room}/messages?dir=b&from={bad}",
            f"{room}/messages?dir=f&to={bad}",
            f"{room}/members?at={bad}",
            f"/keys/changes?from={bad}&to={bad}",
        ):
            reply = await get(scene, path)
            assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), path


async def test_tampered_page_tokens_never_fail(scene: Scene) -> None:
    room = f"/rooms/{quote(scene.room_id)}"
    page = (await get(scene, f"{room}/messages?dir=b&limit=2")).body
    token = page["end"]
    for index in range(len(token)):
        for character in "09aZ_~.-":
            changed = quote(token[:index] + character + token[index + 1 :], safe="")
            for direction in "bf":
                reply = await get(scene, f"{room}/messages?dir={direction}&from={changed}")
                assert reply.status in (200, 400), (changed, reply)


@pytest.mark.parametrize("limit", ["-1", "0", "1.5", "x", "", "9" * 25, "0x1", "1e3", "+1"])
async def test_limits_that_are_none(scene: Scene, limit: str) -> None:
    path = f"/rooms/{quote(scene.room_id)}/messages?dir=b&limit={quote(limit)}"
    reply = await get(scene, path)
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM"), reply


async def test_huge_limits_are_brought_down(scene: Scene) -> None:
    room = f"/rooms/{quote(scene.room_id)}"
    event = quote(scene.event_id)
    for path in (
        f"{room}/messages?dir=b&limit=99999999999999",
        f"{room}/context/{event}?limit=99999999999999",
    ):
        assert (await get(scene, path)).status == 200


async def test_a_page_has_so_many_events(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/rooms/{quote(scene.room_id)}/messages?dir=b&limit=5"
    for most, count in ((5, 5), (4, 4)):
        monkeypatch.setattr(limits, "PAGE_EVENTS", most)
        assert len((await get(scene, path)).body["chunk"]) == count


@pytest.mark.parametrize("timeout", ["-1", "x", "1.5", "9" * 25])
async def test_time_outs_that_are_none(scene: Scene, timeout: str) -> None:
    reply = await get(scene, f"/sync?timeout={timeout}")
    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


async def test_a_huge_time_out_is_brought_down_and_ends_with_the_client(scene: Scene) -> None:
    token = quote((await scene.server.sync(scene.alice))["next_batch"])
    waiting = [
        asyncio.create_task(get(scene, f"/sync?since={token}&timeout=99999999999999999"))
        for _ in range(20)
    ]
    done, _ = await asyncio.wait(waiting, timeout=0.3)
    assert not done
    await scene.server.send(scene.alice, scene.room_id, "wake")
    async with asyncio.timeout(40):
        replies = await asyncio.gather(*waiting)
    assert {reply.status for reply in replies} == {200}


@pytest.mark.parametrize(
    "filter_json",
    [
        {"room": {"timeline": {"limit": -1}}},
        {"room": {"timeline": {"limit": "many"}}},
        {"room": {"timeline": {"types": "m.room.message"}}},
        {"room": {"timeline": {"types": [1]}}},
        {"room": {"rooms": ["x" * 10_000]}},
        {"room": []},
        {"event_fields": [{}]},
        {"event_fields": ["x"] * (limits.FILTER_LIST_ITEMS + 1)},
        {"event_format": "nonsense"},
        {"room": {"timeline": {"types": ["x"] * (limits.FILTER_LIST_ITEMS + 1)}}},
        {"room": {"timeline": {"types": ["*a" * (limits.FILTER_WILDCARDS + 1)]}}},
        {"room": {"timeline": {"types": [f"{n}*" for n in range(limits.FILTER_PATTERNS + 1)]}}},
    ],
)
async def test_filters_that_are_none(scene: Scene, filter_json: object) -> None:
    text = quote(orjson.dumps(filter_json))
    reply = await get(scene, f"/sync?filter={text}")
    assert reply.status == 400, reply
    assert reply.errcode in ("M_BAD_JSON", "M_INVALID_PARAM")
    before = await scene.server.rows()
    path = f"/user/{quote(scene.alice.user_id)}/filter"
    stored = await scene.server.call("POST", path, filter_json, by=scene.alice)
    assert (stored.status, stored.errcode) == (reply.status, reply.errcode)
    assert await scene.server.rows() == before


@pytest.mark.off_spec("the filter drops required fields")
@pytest.mark.parametrize(
    "filter_json",
    [
        {"room": {"timeline": {"limit": 2**53 - 1}}},
        {"room": {"timeline": {"limit": 0}}},
        {"room": {"timeline": {"types": ["*" * limits.FILTER_WILDCARDS]}}},
        {
            "room": {
                "timeline": {"types": ["*a" * limits.FILTER_WILDCARDS] * limits.FILTER_PATTERNS}
            }
        },
        {"room": {"rooms": ["!x:y"] * limits.FILTER_LIST_ITEMS}},
        {"event_fields": ["content." + "a" * 250, "content.a\\.b", "..", "\\"]},
        {"presence": {"limit": 5}, "unknown": {"a": [1]}},
    ],
)
async def test_odd_filters_are_served_quickly(scene: Scene, filter_json: object) -> None:
    await scene.server.create_room(scene.alice, name="a" * 250)
    text = quote(orjson.dumps(filter_json))
    async with asyncio.timeout(40):
        reply = await get(scene, f"/sync?filter={text}")
    assert reply.status == 200, reply


async def test_unknown_rooms_and_rooms_of_others_look_the_same(scene: Scene) -> None:
    secret = await scene.server.create_room(scene.alice, preset="private_chat")
    event = await scene.server.send(scene.alice, secret, "secret")
    for tail in (
        "/state",
        "/state/m.room.create/",
        "/members",
        "/joined_members",
        "/messages?dir=b",
        f"/event/{quote(event)}",
        f"/context/{quote(event)}",
        "/aliases",
    ):
        answers = []
        for room in (secret, "!unknown:here.example", "!" + "A" * 43):
            reply = await get(scene, f"/rooms/{quote(room)}{tail}", by=scene.bob)
            answers.append((reply.status, reply.errcode, reply.body.get("error")))
        assert answers[0] == answers[1] == answers[2], tail
        assert answers[0][0] in (403, 404), tail


async def test_events_are_read_through_their_own_room_only(scene: Scene) -> None:
    secret = await scene.server.create_room(scene.alice, preset="private_chat")
    event = quote(await scene.server.send(scene.alice, secret, "hidden"))
    own = quote(await scene.server.create_room(scene.bob))
    for path in (f"/rooms/{own}/event/{event}", f"/rooms/{own}/context/{event}"):
        reply = await get(scene, path, by=scene.bob)
        assert (reply.status, reply.errcode) == (404, "M_NOT_FOUND")


async def test_what_belongs_to_others_is_refused(scene: Scene) -> None:
    server, bob = scene.server, scene.bob
    alice = quote(scene.alice.user_id)
    room = quote(scene.room_id)
    for method, path, body in (
        ("GET", f"/user/{alice}/filter/0", None),
        ("POST", f"/user/{alice}/filter", {}),
        ("GET", f"/user/{alice}/account_data/m.direct", None),
        ("PUT", f"/user/{alice}/account_data/m.direct", {}),
        ("GET", f"/user/{alice}/rooms/{room}/tags", None),
        ("PUT", f"/user/{alice}/rooms/{room}/tags/u.x", {}),
        ("PUT", f"/rooms/{room}/typing/{alice}", {"typing": True}),
        ("PUT", f"/profile/{alice}/displayname", {"displayname": "Bob"}),
        ("PUT", f"/rooms/{room}/state/m.room.name/", {"name": "Mine"}),
        ("PUT", f"/rooms/{room}/send/m.room.message/1", {"body": "x"}),
        ("POST", f"/rooms/{room}/receipt/m.read/{quote(scene.event_id)}", {}),
        ("POST", f"/rooms/{room}/ban", {"user_id": scene.alice.user_id}),
    ):
        before = await server.rows()
        reply = await server.call(method, path, body, by=bob)
        assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN"), (path, reply)
        assert await server.rows() == before
    device = await server.call("GET", f"/devices/{scene.alice.device_id}", by=bob)
    assert (device.status, device.errcode) == (404, "M_NOT_FOUND")
