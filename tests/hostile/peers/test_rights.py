"""What a peer may ask: no more than its membership and its name allow.

Spec: server-server API, "Retrieving events", "Querying for information", "End-to-End Encryption".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import quote

import pytest
import pytest_asyncio

from federation.limits import EVENT_IDS_PER_REQUEST_MAX
from tests.hostile.clients.running_server import User
from tests.hostile.peers.conftest import World
from tests.hostile.peers.scripted_peer import V1, V2

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Secrets(NamedTuple):
    """A user and a room that share nothing with any peer."""

    user: User
    room_id: str
    event_id: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secrets(world: World) -> AsyncIterator[Secrets]:
    """Made once."""
    carol = await world.server.register("carol")
    room_id = await world.server.create_room(carol, preset="private_chat")
    yield Secrets(carol, room_id, await world.server.send(carol, room_id, "secret"))


async def test_rooms_that_it_is_not_in_give_nothing(world: World, secrets: Secrets) -> None:
    room, event = quote(secrets.room_id), quote(secrets.event_id)
    for path in (
        f"{V1}/state/{room}?event_id={event}",
        f"{V1}/state_ids/{room}?event_id={event}",
        f"{V1}/event/{event}",
        f"{V1}/event_auth/{room}/{event}",
        f"{V1}/backfill/{room}?v={event}&limit=10",
        f"{V1}/make_join/{room}/{quote(world.evil.user())}?ver=12",
        f"{V1}/make_knock/{room}/{quote(world.evil.user())}?ver=12",
        f"{V1}/make_leave/{room}/{quote(world.evil.user())}",
    ):
        reply = await world.evil.request("GET", path)
        assert reply.status in (403, 404), (path, reply)
        assert reply.errcode in ("M_FORBIDDEN", "M_NOT_FOUND"), (path, reply)
    body = {"earliest_events": [], "latest_events": [secrets.event_id], "limit": 10}
    reply = await world.evil.request("POST", f"{V1}/get_missing_events/{room}", body)
    assert reply.status in (403, 404)


async def test_events_of_its_room_do_not_open_others(world: World, secrets: Secrets) -> None:
    """A foreign event ID in a path of a room that the peer is in."""
    mine = await world.shared()
    room, event = quote(mine.room_id), quote(secrets.event_id)
    for path in (
        f"{V1}/state/{room}?event_id={event}",
        f"{V1}/state_ids/{room}?event_id={event}",
        f"{V1}/event_auth/{room}/{event}",
        f"{V1}/backfill/{room}?v={event}&limit=10",
    ):
        reply = await world.evil.request("GET", path)
        told = str(reply.body)
        assert secrets.user.user_id not in told, path
        assert reply.status in (200, 403, 404), (path, reply)
    body = {"earliest_events": [], "latest_events": [secrets.event_id], "limit": 10}
    reply = await world.evil.request("POST", f"{V1}/get_missing_events/{room}", body)
    assert secrets.user.user_id not in str(reply.body)


async def test_templates_for_users_of_others_are_refused(world: World) -> None:
    room = quote(await world.room())
    for user in (world.alice.user_id, "@x:other.example", "nonsense", "@\0:evil.example"):
        for kind in ("make_join", "make_leave", "make_knock"):
            path = f"{V1}/{kind}/{room}/{quote(user, safe='')}?ver=12"
            reply = await world.evil.request("GET", path)
            assert reply.status in (400, 403), (path, reply)


async def test_events_that_redaction_leaves_whole_are_as_private_as_messages(
    world: World,
) -> None:
    """Create event, power levels, join rules, members: what a redaction doesn't touch."""
    mine = await world.shared()
    secret = await world.room()
    events = await world.server.ok("GET", f"/rooms/{quote(secret)}/state", by=world.alice)
    assert len(events) > 4
    for event in events:
        reply = await world.evil.request("GET", f"{V1}/event/{quote(event['event_id'])}")
        assert reply.status == 404, (event["type"], reply)
    own = await world.evil.request("GET", f"{V1}/event/{quote(mine.head)}")
    assert own.status == 200


async def test_history_from_before_it_came_is_hidden(world: World) -> None:
    """With history visibility "joined", older events come without their content."""
    room_id = await world.room(
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ]
    )
    event_id = await world.server.send(world.alice, room_id, "before", "hidden words")
    room = await world.evil.join(room_id)
    path = f"{V1}/backfill/{quote(room_id)}?v={quote(room.head)}&limit=50"
    for reply in (
        await world.evil.request("GET", path),
        await world.evil.request("GET", f"{V1}/event/{quote(event_id)}"),
        await world.evil.request(
            "POST",
            f"{V1}/get_missing_events/{quote(room_id)}",
            {"earliest_events": [], "latest_events": [room.head], "limit": 20},
        ),
    ):
        assert reply.status in (200, 403, 404), reply
        assert "hidden words" not in str(reply.body)


async def test_keys_and_devices_of_users_that_share_no_room(world: World, secrets: Secrets) -> None:
    carol = secrets.user
    keys = {"one_time_keys": {"curve25519:AAAA": "VGhpcyBpcyAzMiBieXRlcyBvZiBhIGtleSEhISEhISE"}}
    await world.server.ok("POST", "/keys/upload", keys, by=carol)
    devices = await world.evil.request("GET", f"{V1}/user/devices/{quote(carol.user_id)}")
    assert (devices.status, devices.errcode) == (403, "M_FORBIDDEN")
    query: dict[str, object] = {"device_keys": {carol.user_id: []}}
    found = await world.evil.request("POST", f"{V1}/user/keys/query", query)
    assert (found.status, found.errcode) == (403, "M_FORBIDDEN")
    claim = {"one_time_keys": {carol.user_id: {carol.device_id: "curve25519"}}}
    claimed = await world.evil.request("POST", f"{V1}/user/keys/claim", claim)
    assert (claimed.status, claimed.errcode) == (403, "M_FORBIDDEN")
    left = await world.server.sync(carol)
    assert left["device_one_time_keys_count"]["curve25519"] == 1


async def test_profiles_and_aliases_of_this_server_alone(world: World) -> None:
    query = f"{V1}/query/profile?user_id="
    alice = await world.evil.request("GET", query + quote(world.alice.user_id))
    assert alice.body == {"displayname": "alice"}
    for user in ("@x:other.example", "@nobody:here.example", "nonsense", "@\0:here.example", ""):
        reply = await world.evil.request("GET", query + quote(user, safe=""))
        assert reply.status in (400, 404), (user, reply)
    for alias in ("#x:other.example", "#nothing:here.example", "nonsense", "\0", ""):
        path = f"{V1}/query/directory?room_alias={quote(alias, safe='')}"
        reply = await world.evil.request("GET", path)
        assert reply.status in (400, 404), (alias, reply)


async def test_a_server_that_the_room_denies_is_shut_out(world: World) -> None:
    room = await world.shared()
    acl = {"allow": ["*"], "deny": ["evil.example"], "allow_ip_literals": True}
    path = f"/rooms/{quote(room.room_id)}/state/m.room.server_acl/"
    await world.server.ok("PUT", path, acl, by=world.alice)
    here, head = quote(room.room_id), quote(room.head)
    for denied in (
        f"{V1}/state/{here}?event_id={head}",
        f"{V1}/backfill/{here}?v={head}&limit=1",
        f"{V1}/make_join/{here}/{quote(room.peer.user('again'))}?ver=12",
    ):
        assert (await world.evil.request("GET", denied)).status == 403
    event = room.event()
    reply = await world.evil.send([event])
    assert "error" in reply.body["pdus"][room.id(event)]
    typing = {"room_id": room.room_id, "user_id": room.peer.user(), "typing": True}
    await world.evil.send_edu("m.typing", typing)
    synced = await world.server.sync(world.alice)
    ephemeral = synced["rooms"]["join"][room.room_id]["ephemeral"]["events"]
    assert [one for one in ephemeral if one["type"] == "m.typing"] == []


BAD_PARTS = ("", "%00", "%FF", "%ED%A0%80", "!", "$", "@", "x" * 300, "%2F", "!x:y", "$" + "Z" * 43)


@pytest.mark.parametrize(
    ("method", "template"),
    [
        ("GET", f"{V1}/state/{{}}?event_id={{}}"),
        ("GET", f"{V1}/state_ids/{{}}?event_id={{}}"),
        ("GET", f"{V1}/event/{{}}"),
        ("GET", f"{V1}/event_auth/{{}}/{{}}"),
        ("GET", f"{V1}/backfill/{{}}?v={{}}&limit={{}}"),
        ("POST", f"{V1}/get_missing_events/{{}}"),
        ("GET", f"{V1}/make_join/{{}}/{{}}?ver={{}}"),
        ("GET", f"{V1}/make_leave/{{}}/{{}}"),
        ("GET", f"{V1}/make_knock/{{}}/{{}}?ver={{}}"),
        ("PUT", f"{V2}/send_join/{{}}/{{}}"),
        ("PUT", f"{V2}/send_leave/{{}}/{{}}"),
        ("PUT", f"{V1}/send_knock/{{}}/{{}}"),
        ("PUT", f"{V2}/invite/{{}}/{{}}"),
        ("PUT", f"{V1}/invite/{{}}/{{}}"),
        ("GET", f"{V1}/user/devices/{{}}"),
        ("POST", f"{V1}/user/keys/query"),
        ("POST", f"{V1}/user/keys/claim"),
        ("GET", f"{V1}/query/profile?user_id={{}}&field={{}}"),
        ("GET", f"{V1}/query/directory?room_alias={{}}"),
        ("GET", f"{V1}/media/download/{{}}?timeout_ms={{}}"),
        ("GET", f"{V1}/media/thumbnail/{{}}?width={{}}&height={{}}"),
        ("PUT", f"{V1}/send/{{}}"),
        ("GET", "/_matrix/key/v2/query/{}?minimum_valid_until_ts={}"),
        ("POST", "/_matrix/key/v2/query"),
    ],
)
async def test_bad_parts_of_requests(world: World, method: str, template: str) -> None:
    room = await world.shared()
    bodies: tuple[object, ...] = (None,)
    if method != "GET":
        wrong: tuple[object, ...] = (
            None,
            [],
            1,
            "\0",
            {"\0": {"\0": "\0"}},
            {"@x:here.example": 1},
        )
        names = ("event", "room_version", "device_keys", "one_time_keys", "latest_events", "pdus")
        bodies = (
            {},
            b"",
            b"[]",
            b"{",
            room.event(),
            *({name: value} for name in (*names, "server_keys") for value in wrong),
        )
    before = await world.kept(room.room_id)
    count = template.count("{}")
    for part in BAD_PARTS:
        for place in range(max(count, 1)):
            sound = [quote(room.room_id), quote(room.head), "1"]
            if count:
                sound[place] = part
            for body in bodies if part in ("!x:y", "") else bodies[:1]:
                path = template.format(*sound[:count])
                reply = await world.evil.request(method, path, body)
                told = (method, path, body, reply)
                assert reply.status < 500, told
                assert isinstance(reply.body, dict), told
                if reply.status >= 400:
                    assert reply.errcode.startswith("M_"), told
    assert await world.kept(room.room_id) == before
    await world.is_up()


async def test_many_ids_in_one_request(world: World) -> None:
    room = await world.shared()
    here = quote(room.room_id)
    ids = [quote("$" + f"{n:043d}") for n in range(EVENT_IDS_PER_REQUEST_MAX + 1)]
    query = "&".join(f"v={one}" for one in ids)
    reply = await world.evil.request("GET", f"{V1}/backfill/{here}?limit=99999999&{query}")
    assert reply.status == 400
    for limit in ("-1", "x", "1.5", "9" * 30):
        path = f"{V1}/backfill/{here}?limit={limit}&v={quote(room.head)}"
        reply = await world.evil.request("GET", path)
        assert reply.status in (200, 400), (limit, reply)
