"""Hostile events in transactions: nothing that isn't authorised reaches a client.

Spec: server-server API, "Transactions", "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation.events.signing import SigningKey
from federation.limits import EVENT_BYTES_MAX, PREV_EVENTS_MAX
from homeserver.limits import HEADS_KEPT, HEADS_PER_EVENT
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, V2, PeerRoom, now_ms

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refused(world: World, room: PeerRoom, event: object, *, told: bool = True) -> None:
    """Sends an event that must not be seen by a client; with `told`, the peer hears so."""
    assert isinstance(event, dict)
    before = await world.seen_ids(room.room_id)
    reply = await world.evil.send([event])
    assert reply.status == 200, reply
    result = next(iter(reply.body["pdus"].values()), {"error": "no name to answer under"})
    assert ("error" in result) == told, reply
    assert await world.seen_ids(room.room_id) == before
    await world.is_up()


async def test_an_ordinary_event_is_seen(world: World) -> None:
    room = await world.shared()
    event = room.event(advance=True)
    reply = await world.evil.send([event])
    assert reply.body == {"pdus": {room.id(event): {}}}
    assert room.id(event) in await world.seen_ids(room.room_id)


async def test_events_of_users_of_other_servers(world: World) -> None:
    room = await world.shared()
    for sender in (world.alice.user_id, "@x:other.example", "@nobody:here.example"):
        await refused(world, room, room.event(sender=sender))


async def test_a_false_signature(world: World) -> None:
    room = await world.shared()
    false = SigningKey.generate(b"\x99" * 32, "p1")
    event = room.event()
    await refused(world, room, room.peer.sign(event, room.version, key=false))
    unsigned = {name: value for name, value in event.items() if name != "signatures"}
    await refused(world, room, unsigned)
    await refused(world, room, {**event, "signatures": {}})
    await refused(world, room, {**event, "signatures": {"evil.example": {"ed25519:p1": "AA"}}})


async def test_content_changed_after_signing_is_redacted(world: World) -> None:
    """The hash covers the content, the signature only what redaction keeps."""
    room = await world.shared()
    event = {**room.event(), "content": {"body": "forged", "msgtype": "m.text"}}
    reply = await world.evil.send([event])
    assert reply.status == 200
    seen = {one["event_id"]: one for one in await world.seen(room.room_id)}
    assert seen[room.id(event)]["content"] == {}


async def test_events_of_unknown_rooms(world: World) -> None:
    room = await world.shared()
    named = ["!no:here.example", "!" + "A" * 43, "nonsense"]
    for unknown in (*named, 5, None, "!\0:x"):
        reply = await world.evil.send([{**room.event(), "room_id": unknown}])
        assert reply.status == 200
        assert all("error" in result for result in reply.body["pdus"].values())
    for table in ("rooms", "inbox"):
        query = f"SELECT room_id FROM {table} WHERE room_id = ANY($1)"
        assert await world.server.database.fetch(query, named) == []


async def test_events_of_rooms_that_the_peer_is_not_in(world: World) -> None:
    room = await world.shared()
    private = await world.server.create_room(world.alice, preset="private_chat")
    before = await world.seen_ids(private)
    await world.evil.send(
        [room.event(room_id=private), room.event(room_id=private, prev_events=[])]
    )
    assert await world.seen_ids(private) == before


async def test_transactions_have_limits(world: World) -> None:
    room = await world.shared()
    events = [room.event(content={"n": n}) for n in range(51)]
    assert (await world.evil.send(events[:50])).status == 200
    refused_pdus = await world.evil.send(events)
    assert (refused_pdus.status, refused_pdus.errcode) == (400, "M_BAD_JSON")
    edus = [{"edu_type": "m.presence", "content": {"push": []}}] * 101
    assert (await world.evil.send(edus=edus[:100])).status == 200
    assert (await world.evil.send(edus=edus)).status == 400
    taken = {room.id(event) for event in events} & await world.seen_ids(room.room_id)
    assert taken == {room.id(event) for event in events[:50]}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"pdus":1}', b"[" * 100_000, b'{"pdus":[NaN]}', b"\xff"],
)
async def test_transactions_that_are_none(world: World, content: bytes) -> None:
    reply = await world.evil.request("PUT", f"{V1}/send/none{len(content)}", content)
    assert reply.status in (400, 401), reply
    assert reply.errcode.startswith("M_")


async def test_pdus_that_are_none(world: World) -> None:
    room = await world.shared()
    sound = room.event()
    before = await world.kept(room.room_id)
    odd: list[object] = [None, 1, "x", [], {}, {"room_id": room.room_id}]
    wrongs: tuple[object, ...] = (None, 1.5, [1], "", 2**60)
    for name in ("type", "sender", "content", "hashes", "prev_events", "auth_events", "depth"):
        odd.append({key: value for key, value in sound.items() if key != name})
        odd += [{**sound, name: wrong} for wrong in wrongs]
    for start in range(0, len(odd), 50):
        reply = await world.evil.send(odd[start : start + 50])
        assert reply.status == 200, reply
    assert await world.kept(room.room_id) == before
    await world.is_up()


async def test_requests_of_false_origin_or_destination(world: World) -> None:
    path = f"{V1}/send/false"
    content = {"origin": "evil.example", "origin_server_ts": 1, "pdus": [], "edus": []}
    for origin, destination in (
        ("other.example", "here.example"),
        ("here.example", "here.example"),
        ("unreachable.invalid", "here.example"),
        ("evil.example", "other.example"),
    ):
        reply = await world.evil.request(
            "PUT", path, content, origin=origin, destination=destination
        )
        assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED"), (origin, destination)
    false = SigningKey.generate(b"\x99" * 32, "p1")
    assert (await world.evil.request("PUT", path, content, key=false)).status == 401
    for header in ("", "X-Matrix", "X-Matrix origin=evil.example", "Bearer x", "X-Matrix " * 900):
        reply = await world.evil.request("PUT", path, content, headers={"Authorization": header})
        assert (reply.status, reply.errcode) == (401, "M_UNAUTHORIZED")


async def test_missing_auth_events(world: World) -> None:
    room = await world.shared()
    unknown = "$" + "B" * 43
    before = await world.seen_ids(room.room_id)
    for auth in ([], [unknown], [*room.auth_events(room.peer.user()), unknown]):
        await world.evil.send([room.event(auth_events=auth)])
    assert await world.seen_ids(room.room_id) == before
    await world.is_up()


async def test_events_with_false_claims_of_rights(world: World) -> None:
    """Signed rightly by the peer, refused by the auth rules."""
    room = await world.shared()
    me = room.peer.user()
    member = {"type": "m.room.member"}
    before = await world.state(room.room_id)
    wishes: tuple[dict[str, Any], ...] = (
        {"type": "m.room.name", "state_key": "", "content": {"name": "Mine"}},
        {"type": "m.room.power_levels", "state_key": "", "content": {"users": {me: 100}}},
        {"type": "m.room.create", "state_key": "", "content": {}, "prev_events": []},
        {**member, "state_key": world.alice.user_id, "content": {"membership": "ban"}},
        {**member, "state_key": world.alice.user_id, "content": {"membership": "leave"}},
        {**member, "state_key": "@x:other.example", "content": {"membership": "join"}},
        {"type": "org.example", "state_key": "@someone:else", "content": {}},
    )
    for fields in wishes:
        await refused(world, room, room.event(**fields), told=fields["type"] == "m.room.create")
    assert await world.state(room.room_id) == before


async def test_a_backdated_event_after_a_ban_is_never_visible(world: World) -> None:
    """Its parents are older than the ban, so its own rules allow it: soft failure."""
    room = await world.shared()
    ban = {"user_id": room.peer.user()}
    path = f"/rooms/{quote(room.room_id)}/ban"
    await world.server.ok("POST", path, ban, by=world.alice)
    token = (await world.server.sync(world.alice))["next_batch"]
    late = room.event(origin_server_ts=now_ms() - 3_600_000, content={"body": "too late"})
    await refused(world, room, late, told=False)
    state = room.event(
        type="m.room.member",
        state_key=room.peer.user(),
        content={"membership": "join", "displayname": "still here"},
    )
    await refused(world, room, state, told=False)
    synced = await world.server.sync(world.alice, since=token)
    assert room.room_id not in synced["rooms"].get("join", {})
    read = f"/rooms/{quote(room.room_id)}/event/{quote(room.id(late))}"
    assert (await world.server.call("GET", read, by=world.alice)).status == 404
    found = (await world.state(room.room_id))["m.room.member", room.peer.user()]
    assert found["content"]["membership"] == "ban"


async def test_a_flood_of_extremities_is_merged(world: World) -> None:
    room = await world.shared()
    flood = [room.event(content={"n": n}) for n in range(300)]
    for start in range(0, len(flood), 50):
        assert (await world.evil.send(flood[start : start + 50])).status == 200
    count = (
        "SELECT cardinality(heads) FROM room_heads JOIN rooms"
        " USING (room_row_id) WHERE room_id = $1"
    )
    database = world.server.database
    heads = [await database.fetchval(count, room.room_id)]
    assert HEADS_PER_EVENT <= heads[0] <= HEADS_KEPT + 1
    for n in range(20):
        event_id = await world.server.send(world.alice, room.room_id, f"merge{n}")
        raw = await database.fetchval("SELECT json FROM events WHERE event_id = $1", event_id)
        assert len(orjson.loads(raw)["prev_events"]) <= HEADS_PER_EVENT
        heads.append(await database.fetchval(count, room.room_id))
    assert heads[1] < heads[0]
    assert heads[-1] == 1
    seen = await world.seen_ids(room.room_id)
    assert {room.id(event) for event in flood} <= seen


async def test_extremities_that_differ_in_state_all_count(world: World) -> None:
    """A flood beside a fork of state doesn't make the room forget one side of it."""
    room = await world.shared()
    me = room.peer.user()
    fork = room.event(
        type="m.room.member",
        state_key=me,
        content={"membership": "join", "displayname": "forked"},
    )
    flood = [room.event(content={"n": n}) for n in range(250)]
    for start in range(0, len(flood), 50):
        await world.evil.send([fork, *flood[start : start + 49]])
    member = (await world.state(room.room_id))["m.room.member", me]
    assert member["content"]["displayname"] == "forked"
    for n in range(20):
        await world.server.send(world.alice, room.room_id, f"fork{n}")
    member = (await world.state(room.room_id))["m.room.member", me]
    assert member["content"]["displayname"] == "forked"


async def test_numbers_of_parents_have_limits(world: World) -> None:
    room = await world.shared()
    parents = [room.event(content={"n": n}) for n in range(PREV_EVENTS_MAX + 1)]
    await world.evil.send(parents)
    ids = [room.id(event) for event in parents]
    fits = room.event(prev_events=ids[:PREV_EVENTS_MAX])
    reply = await world.evil.send([fits])
    assert reply.body["pdus"] == {room.id(fits): {}}
    assert room.id(fits) in await world.seen_ids(room.room_id)
    await refused(world, room, room.event(prev_events=ids))


async def test_deep_json_that_the_spec_allows_is_taken(world: World) -> None:
    room = await world.shared()
    text = b'{"a":' * 3000 + b"1" + b"}" * 3000
    deep: object = 1
    for _ in range(3000):
        deep = {"a": deep}
    event = room.event(content={"deep": deep})
    reply = await world.evil.send([event])
    assert reply.body == {"pdus": {room.id(event): {}}}, reply
    path = f"/rooms/{quote(room.room_id)}/event/{quote(room.id(event))}"
    async with world.server.session.get(
        world.server.url + "/_matrix/client/v3" + path,
        headers={"Authorization": f"Bearer {world.alice.token}"},
    ) as response:
        assert response.status == 200
        assert text in await response.read()
    await world.server.sync(world.alice)
    answered = room.event(prev_events=[room.id(event)])
    assert (await world.evil.send([answered])).body == {"pdus": {room.id(answered): {}}}
    await world.server.send(world.alice, room.room_id, "after-deep")


async def test_events_have_limits(world: World) -> None:
    room = await world.shared()
    spare = EVENT_BYTES_MAX - len(str(room.event(content={"body": ""}))) - 40
    fits = room.event(content={"body": "x" * spare})
    assert (await world.evil.send([fits])).body == {"pdus": {room.id(fits): {}}}
    await refused(world, room, room.event(content={"body": "x" * EVENT_BYTES_MAX}))
    await refused(world, room, room.event(type="x" * 256))
    await refused(world, room, room.event(type="x" * 255 + "é"))


@pytest.mark.parametrize("version", ["11", "12"])
async def test_nul_does_not_split_the_room(world: World, version: str) -> None:
    """Other servers take such events, so we must; PostgreSQL's text type can't hold NUL."""
    room = await world.shared(version)
    me = room.peer.user()
    events = [
        room.event(advance=True, type="a\0b", content={"c\0": "\0"}),
        room.event(advance=True, content={"body": "\0"}),
    ]
    assert (await world.evil.send(events)).body == {"pdus": {room.id(one): {} for one in events}}
    seen = {event["event_id"]: event for event in await world.seen(room.room_id)}
    assert seen[room.id(events[0])]["type"] == "a\0b"
    assert seen[room.id(events[0])]["content"] == {"c\0": "\0"}
    path = f"/rooms/{quote(room.room_id)}/state/m.room.power_levels/"
    levels = await world.server.ok("GET", path, by=world.alice)
    levels = {**levels, "state_default": 0, "users": {**levels.get("users", {}), me: 50}}
    put = await world.server.call("PUT", path, levels, by=world.alice)
    assert put.status == 200, put
    room = await world.evil.join(room.room_id)
    state = room.event(advance=True, type="t\0", state_key="k\0", content={"v": "\0"})
    assert (await world.evil.send([state])).body == {"pdus": {room.id(state): {}}}
    assert (await world.state(room.room_id))["t\0", "k\0"]["content"] == {"v": "\0"}
    event_id = await world.server.send(world.alice, room.room_id, f"nul{version}")
    assert event_id in await world.seen_ids(room.room_id)
    answer = await world.evil.request(
        "GET", f"{V1}/state/{quote(room.room_id)}?event_id={quote(event_id)}"
    )
    assert any(event.get("state_key") == "k\0" for event in answer.body["pdus"])


async def test_a_busy_peer_does_not_use_up_what_others_have(world: World) -> None:
    """Budgets are per origin: junk of one peer leaves the other peer's events their place."""
    room = await world.shared()
    good = await world.other.join(room.room_id)
    unknown = ["$" + "C" * 43]
    statuses = set()
    for start in range(0, 3000, 50):
        junk = [room.event(prev_events=unknown, content={"n": start + n}) for n in range(50)]
        reply = await world.evil.send(junk)
        statuses.add(reply.status)
        if reply.status == 429:
            break
    assert statuses <= {200, 429}
    event = good.event()
    async with asyncio.timeout(40):
        assert (await world.other.send([event])).body == {"pdus": {good.id(event): {}}}
    assert good.id(event) in await world.seen_ids(room.room_id)
    waiting = good.event(prev_events=[good.id(event), "$" + "D" * 43])
    reply = await world.other.send([waiting])
    assert reply.status == 200, "the other peer's events may still wait"
    await world.is_up()


async def test_send_join_of_false_events(world: World) -> None:
    room_id = await world.room()
    room = await world.shared()
    path = f"{V2}/send_join/{quote(room_id)}/"
    join = {"type": "m.room.member", "room_id": room_id, "content": {"membership": "join"}}
    before = await world.state(room_id)
    wishes: tuple[dict[str, Any], ...] = (
        {"sender": world.alice.user_id, "state_key": world.alice.user_id},
        {"sender": "@x:other.example", "state_key": "@x:other.example"},
        {"sender": room.peer.user(), "state_key": world.alice.user_id},
        {"sender": room.peer.user(), "state_key": room.peer.user(), "auth_events": []},
        {"sender": room.peer.user(), "state_key": room.peer.user(), "room_id": room.room_id},
    )
    for fields in wishes:
        event = room.event(**{**join, **fields})
        reply = await world.evil.request("PUT", path + quote(room.id(event)), event)
        assert 400 <= reply.status < 500, (fields, reply)
        assert reply.errcode.startswith("M_")
    assert await world.state(room_id) == before
